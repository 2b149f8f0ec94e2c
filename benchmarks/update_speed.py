"""What an update costs: of a large embedding table, beside torch's optimizers, and of the loop around a small model.

The table has the rows of the largest catalogue. Each step touches some of them, in ascending order, as the rankers'
loader asks for them, or in random order. Ours is everything that the training loop does with a gradient (coalesce, the
finite check, row-wise Adagrad), the peers' is their ``step``; they take turns on the same gradients. The loop is timed
on least squares with three parameters, beside the same passes forward and backward in a bare loop; the fastest of
several rounds counts.

    python benchmarks/update_speed.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lgsid.arrays import IntArray
from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.config import TrainerConfig
from lgsid.gradients import Gradients
from lgsid.rank.optimizer import rank_optimizer
from lgsid.trainer import adamw, fit

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
ROWS, DIM, TOUCHED = 2_300_000, 32, 20_000
STEPS = 2_000


def ours(table: torch.nn.Parameter) -> Callable[[], None]:
    """The training loop's part, and row-wise Adagrad."""
    groups = [{"params": [table], "lr": 0.05, "rowwise": True, "sparse": True}]
    gradients = Gradients(groups)
    optimizer = rank_optimizer(groups, TrainerConfig())

    def step() -> None:
        gradients.sum(0.0)
        assert math.isfinite(gradients.clip(math.inf))
        optimizer.step()

    return step


def optimizers(table: torch.nn.Parameter) -> dict[str, tuple[Callable[[], Any], bool]]:
    """Step of each, and whether it takes sparse gradients."""
    return {
        "ours": (ours(table), True),
        "torch Adagrad": (torch.optim.Adagrad([table], lr=0.05).step, True),
        "torch SparseAdam": (torch.optim.SparseAdam([table], lr=1e-3).step, True),
        "torch Adam, fused": (torch.optim.Adam([table], lr=1e-3, fused=True).step, False),
    }


def table_steps(rounds: int, *, ascending: bool) -> dict[str, float]:
    """Median milliseconds of a step of each; two steps warm up."""
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(ROWS, DIM, generator=generator))
    steps = optimizers(table)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 2):
        rows = torch.randperm(ROWS, generator=generator)[:TOUCHED]
        rows = rows.sort().values if ascending else rows
        for name, (step, sparse) in steps.items():
            table.grad = None
            functional.embedding(rows, table, sparse=sparse).square().sum().backward()  # type: ignore[no-untyped-call]
            started = time.perf_counter()
            step()
            taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: round(statistics.median(times[2:]), 3) for name, times in taken.items()}


class Line:
    """Least squares, as small as a model can be."""

    examples = 4 * STEPS

    def __init__(self) -> None:
        self.x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        self.model = torch.nn.Linear(2, 1)

    def parameters(self) -> list[dict[str, Any]]:
        """One group."""
        return [{"params": list(self.model.parameters()), "lr": 1e-3}]

    def named(self) -> dict[str, Tensor]:
        """Weight and bias."""
        return dict(self.model.named_parameters())

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of the same four examples."""
        return self.model(self.x).square().mean(), {}

    def validate(self) -> dict[str, float]:
        """Nothing."""
        return {"score": 0.0}

    def train_mode(self, training: bool) -> None:
        """Nothing."""


def bare() -> float:
    """Microseconds of a forward and a backward pass."""
    line, generator, examples = Line(), np.random.default_rng(0), np.arange(4)
    started = time.perf_counter()
    for _ in range(STEPS):
        loss, _ = line.loss(examples, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        line.model.zero_grad()
    return 1e6 * (time.perf_counter() - started) / STEPS


def looped(make: Any, max_grad_norm: float) -> float:
    """Microseconds of a step of the training loop."""
    config = TrainerConfig(epochs=1, batch=4, validations=1, max_grad_norm=max_grad_norm)
    return 1e6 * fit(Line(), config, seed=0, optimizer=make).seconds / STEPS


def overhead(rounds: int) -> dict[str, float]:
    """Microseconds a step, fastest of the rounds; they take turns."""
    kinds = {"adamw": adamw, "rank_optimizer": rank_optimizer}
    jobs: dict[str, Callable[[], float]] = {"model alone": bare}
    for name, make in kinds.items():
        jobs[f"fit, {name}"] = lambda make=make: looped(make, 1.0)  # type: ignore[misc]
        jobs[f"fit, {name}, no clipping"] = lambda make=make: looped(make, math.inf)  # type: ignore[misc]
    taken = [{name: job() for name, job in jobs.items()} for _ in range(rounds)]
    return {name: round(min(one[name] for one in taken), 1) for name in jobs}


def main() -> None:
    """Measure and write the cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    metrics: dict[str, Any] = {"rows": ROWS, "dim": DIM, "touched": TOUCHED, "threads": torch.get_num_threads()}
    for order in ("ascending", "random"):
        found = table_steps(args.rounds, ascending=order == "ascending")
        ratios = {f"{name} / ours": round(ms / found["ours"], 1) for name, ms in found.items() if name != "ours"}
        metrics[f"{order} rows, ms"] = found | ratios
        print(order, found, ratios, flush=True)
    metrics["loop, us a step"] = overhead(max(3, args.rounds // 3))
    print(metrics["loop, us a step"])
    write_json(RESULTS / "update_speed.json", {
        "experiment": "bench", "dataset": "synthetic", "method": "lgsid", "model": "table", "seed": 0,
        "metrics": metrics, "seconds": None, "peak_mib": round(peak_memory_mib()), "device": "cpu",
        "config_sha256": sha256_json([ROWS, DIM, TOUCHED, STEPS, args.rounds]), "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
