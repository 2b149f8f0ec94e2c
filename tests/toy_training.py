"""A small problem for the training loop, and what two processes do with it in its tests."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from toy_tables import StoppedError, Table

from lgsid.arrays import IntArray
from lgsid.config import TrainerConfig
from lgsid.errors import LgsidError
from lgsid.rank.optimizer import rank_optimizer
from lgsid.trainer import distributed, fit, is_main, rank

TRUTH = (2.0, -3.0, 0.5)


class Line:
    """Least squares ``y = x · (2, -3) + 0.5``, exactly solvable; the score is minus the squared distance to that.

    Args:
        examples: training examples.
        dropout: on the inputs, from torch's generator.
        noise: on the targets, from the generator given to the loss.
        lr: learning rate.
        start: first value of every parameter.
    """

    def __init__(
        self, examples: int = 40, dropout: float = 0.0, noise: float = 0.0, lr: float = 0.1, start: float = 0.0
    ) -> None:
        self.examples = examples
        self.noise = noise
        self.lr = lr
        generator = np.random.default_rng(7)
        self.x = torch.tensor(generator.normal(size=(examples, 2)), dtype=torch.float32)
        self.y = self.x @ torch.tensor(TRUTH[:2]) + TRUTH[2]
        self.model = torch.nn.Sequential(torch.nn.Dropout(dropout), torch.nn.Linear(2, 1))
        for parameter in self.model.parameters():
            torch.nn.init.constant_(parameter, start)
        self.seen: list[list[int]] = []
        self.scores: list[float] = []
        """Scores to give instead of the true ones, first to last."""

    def parameters(self) -> list[dict[str, Any]]:
        return [
            {"params": [self.model[1].weight], "lr": self.lr},
            {"params": [self.model[1].bias], "lr": self.lr / 2, "weight_decay": 0.0},
        ]

    def named(self) -> dict[str, torch.nn.Parameter]:
        return dict(self.model.named_parameters())

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        self.seen.append(examples_B.tolist())
        noise = torch.tensor(generator.normal(size=len(examples_B)), dtype=torch.float32) * self.noise
        error = (self.model(self.x[examples_B])[:, 0] - self.y[examples_B] - noise).square().mean()
        return error, {"error": error.item()}

    def validate(self) -> dict[str, float]:
        assert not self.model.training
        assert not torch.is_grad_enabled()
        score = -float((self.flat() - torch.tensor(TRUTH)).square().sum())
        return {"score": self.scores.pop(0) if self.scores else score, "bias": float(self.model[1].bias)}

    def train_mode(self, training: bool) -> None:
        self.model.train(training)

    def flat(self) -> Tensor:
        """All parameters in one row."""
        return torch.cat([parameter.detach().flatten() for parameter in self.model.parameters()])


def options(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"epochs": 3, "batch": 4, "accumulate": 2, "checkpoint_seconds": 0, **changes})


def noisy() -> Line:
    """Dropout from torch's generator and noise from the loss's: both must repeat."""
    return Line(dropout=0.2, noise=0.5)


def main(out: Path) -> None:
    """Several runs in one process group; every process writes what it ended with."""
    torch.set_num_threads(1)
    with distributed():
        results: dict[str, Any] = {}
        config = TrainerConfig(epochs=5, batch=3, checkpoint_seconds=0)
        line = Line(start=float(rank()))  # the main process's parameters must win
        history = fit(line, config, seed=0)
        flats = {"plain": line.flat()}
        results["plain"] = history.to_json()
        results["seen"] = line.seen

        noisy = {"dropout": 0.2, "noise": 0.5}
        whole = Line(**noisy)
        results["whole"] = fit(whole, config, seed=1).to_json()
        broken = Interrupted(calls=20, **noisy)
        try:
            fit(broken, config, seed=1, folder=out / "checkpoint")
        except StoppedError:
            results["interrupted"] = True
        resumed = Line(**noisy)
        results["resumed"] = fit(resumed, config, seed=1, folder=out / "checkpoint").to_json()
        results["resumed_steps"] = len(resumed.seen)
        flats |= {"whole": whole.flat(), "resumed": resumed.flat()}

        few = Line(examples=1)  # one process has nothing to do
        fit(few, config, seed=0)
        flats["few"] = few.flat()
        results["not_finite"] = _error(_NotFiniteOnOne(), config)
        results["no_score"] = _error(_FailsOnMain(), config)
        tables(flats, results, out)
        save_file(flats, out / f"rank{rank()}.safetensors")
        (out / f"rank{rank()}.json").write_text(json.dumps(results))


def tables(flats: dict[str, Tensor], results: dict[str, Any], out: Path) -> None:
    """Sparse gradients, of rows that both processes have, and a run that continues."""
    config = TrainerConfig(epochs=5, batch=3, checkpoint_seconds=0, max_grad_norm=0.5)
    made = {
        "table": Table(dropout=0.0),
        "table_dense": Table(dropout=0.0, sparse=False),
        "table_few": Table(examples=1, dropout=0.0),  # one process has nothing to do, and no gradient
        "table_whole": Table(),
        "table_resumed": Table(),
    }
    with suppress(StoppedError):
        fit(Table(calls=20), config, seed=0, optimizer=rank_optimizer, folder=out / "table")
    for name, table in made.items():
        folder = out / "table" if name == "table_resumed" else None
        results[name] = fit(table, config, seed=0, optimizer=rank_optimizer, folder=folder).to_json()
        flats[name] = table.flat()
    flats["table_last"] = made["table"].last  # before the main process's parameters are shared at the end
    results["table_steps"] = made["table_resumed"].count


class Interrupted(Line):
    """Stops at the n-th call of the loss, on every process."""

    def __init__(self, calls: int, **options: float) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.calls = calls

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if len(self.seen) == self.calls:
            raise StoppedError
        return super().loss(examples_B, generator)


class _NotFiniteOnOne(Line):
    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        error, parts = super().loss(examples_B, generator)
        return (error if is_main() or len(self.seen) < 4 else error * torch.nan), parts


class _FailsOnMain(Line):
    def validate(self) -> dict[str, float]:
        if self.seen:
            raise RuntimeError("no map of the city")
        return super().validate()


def _error(line: Line, config: TrainerConfig) -> str:
    try:
        fit(line, config, seed=0)
    except (LgsidError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"
