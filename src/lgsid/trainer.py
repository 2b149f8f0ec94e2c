"""The one training loop: seeds, warm-up, clipping, several processes, checkpoints, early stopping, progress.

It knows nothing of what it trains: alignment, rankers and generative recommenders are each a `Trainable`. A run is a
function of its seed, its configuration and the number of processes: a killed run continues from its last checkpoint and
ends with the same bits as one that was never killed (on a CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from lgsid.arrays import IntArray
from lgsid.artifact import sha256_json
from lgsid.checkpoint import Checkpoint, load_optimizer, optimizer_tensors, read_checkpoint, write_checkpoint
from lgsid.config import TrainerConfig
from lgsid.distributed import (
    barrier,
    distributed,
    gather,
    is_main,
    rank,
    share,
    share_in_place,
    share_tensors,
    world_size,
)
from lgsid.errors import TrainingError
from lgsid.gradients import Gradients
from lgsid.history import History, Means, Record, Validation
from lgsid.progress import LiveAdvance, progress, silent
from lgsid.schedule import Schedule

__all__ = ["CHECKPOINT", "History", "Record", "Trainable", "TrainerConfig", "Validation", "adamw", "barrier",
           "distributed", "fit", "is_main", "rank", "world_size"]  # fmt: skip

CHECKPOINT = "checkpoint.safetensors"

_LOSS = ""
"""The loss among its parts, under a name that none of them has."""

ParameterGroups = list[dict[str, Any]]


class Trainable(Protocol):
    """What can be trained."""

    @property
    def examples(self) -> int:
        """Number of training examples; `loss` gets their rows, 0 to examples - 1. An attribute will do."""

    def parameters(self) -> Sequence[dict[str, Any]]:
        """Optimizer groups: ``{"params": [...], "lr": highest learning rate, ...}``; other keys go to the optimizer.

        ``"sparse": True`` says that the gradients of a group are sparse; the optimizer must take them.
        """

    def named(self) -> Mapping[str, Tensor]:
        """Every trained parameter by a stable name, and any buffer that training changes; all on one device."""

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of these examples (scalar, differentiable), and figures to watch.

        Draws from ``generator`` or from torch's own generators, and from nothing else.
        """

    def validate(self) -> dict[str, float]:
        """Figures on held-out data; "score" is the one that training is for, higher is better."""

    def train_mode(self, training: bool) -> None:
        """Switch dropout and the like on or off."""


Watch = Callable[[History], None]
MakeOptimizer = Callable[[ParameterGroups, TrainerConfig], torch.optim.Optimizer]


def adamw(groups: ParameterGroups, config: TrainerConfig) -> torch.optim.Optimizer:
    """AdamW (arXiv 1711.05101) with the second decay of transformers, .98."""
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)


def fit(
    trainable: Trainable,
    config: TrainerConfig,
    *,
    seed: int,
    folder: Path | None = None,
    watch: Sequence[Watch] = (),
    description: str = "training",
    identity: str = "",
    optimizer: MakeOptimizer = adamw,
) -> History:
    """Train, and leave the trainable with the parameters of its best validation, in evaluation mode.

    Under `distributed`, every process calls this with the same arguments; ``config.batch`` is each process's, so two
    processes do what one would with twice the batch. Only the main process validates, watches and writes.

    Args:
        trainable: what to train.
        config: how.
        seed: for the order of the examples and everything the loss draws.
        folder: keeps a checkpoint here and continues from it; the caller removes it when the result is safe.
        watch: called with the history after each validation, of which it alone may judge; may raise to stop the run.
        description: in front of the progress bar.
        identity: what the result depends on that can't be seen here (a hash of the data): another one's checkpoint is
            not used.
        optimizer: makes the optimizer.

    Returns:
        the course of the run, the same on every process.

    Raises:
        TrainingError: there are no examples; a loss, gradient or score is not finite.
        ValueError: the trainable breaks its contract.
    """
    run = _Run(trainable, config, seed, optimizer, watch)
    path = folder / CHECKPOINT if folder else None
    bar = progress(description, float(run.schedule.steps), "steps") if is_main() else nullcontext(silent)
    with _own_generators(run.device), bar as advance:
        run.start(path, identity)
        run.train(advance)
        run.finish()
    return run.history


class _Run:
    """The state of one run in one process."""

    def __init__(
        self,
        trainable: Trainable,
        config: TrainerConfig,
        seed: int,
        make_optimizer: MakeOptimizer,
        watch: Sequence[Watch],
    ) -> None:
        self.trainable = trainable
        self.config = config
        self.watch = watch
        self.named = dict(trainable.named())
        groups = [{**group, "params": list(group["params"])} for group in trainable.parameters()]
        self.names = _names(self.named, groups)
        self.device = next(parameter.device for group in groups for parameter in group["params"])
        self.schedule = Schedule(trainable.examples, config, seed, world_size())
        self.optimizer = make_optimizer(groups, config)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.gradients = Gradients(groups)
        self.history = History(self.schedule.steps)
        self.best: dict[str, Tensor] = {}
        self.means = Means()
        self.step = 0
        self.path: Path | None = None
        self.fingerprint = ""
        self.saved = time.monotonic()

    def start(self, path: Path | None, identity: str) -> None:
        """Continue from a checkpoint, or take the baseline; then all processes hold the same parameters."""
        self.path = path
        self.fingerprint = self._fingerprint(identity)
        found = read_checkpoint(path, self.fingerprint) if path and is_main() else None
        if found is not None:
            self.best = dict(found.best)
            _copy(found.parameters, self.named)
        share_in_place(self.named)
        state = share(found.state if found else None)
        if state is None:
            self._validate()
            self._save()
            return
        self.step = state["step"]
        self.history = History.from_json(state["history"], state["seconds"])
        load_optimizer(self.optimizer, self.names, share_tensors(found.optimizer if found else {}))

    def train(self, advance: LiveAdvance) -> None:
        """All steps up to the last, or until patience runs out."""
        advance(self.step)
        self.trainable.train_mode(True)
        while self.step < self.schedule.steps and not self.history.stopped_early:
            loss = self._update()
            recorded = self.step in self.schedule.records
            validated = self.step in self.schedule.validations
            if recorded:
                self._record()
            if validated:
                self._validate()
                self.trainable.train_mode(True)
            # only where the running means have just been emptied, so that they need not be kept
            if validated or (recorded and time.monotonic() - self.saved >= self.config.checkpoint_seconds):
                self._save()
            advance(1, loss=loss, score=self.history.validations[-1].score)

    def finish(self) -> None:
        """Load the best parameters, on every process."""
        if is_main():
            _copy(self.best, self.named)
        share_in_place(self.named)
        self.gradients.clear()
        self.trainable.train_mode(False)

    def _update(self) -> float:
        """One update; returns this process's part of the loss."""
        started = time.perf_counter()
        self.gradients.clear()
        loss, parts = self._backward()
        total = self.gradients.sum(loss)
        if not math.isfinite(total):
            raise self._not_finite(
                "the loss" if not math.isfinite(loss) else "the loss of another process", total, parts
            )
        norm = self.gradients.clip(self.config.max_grad_norm)
        if not math.isfinite(norm):
            raise self._not_finite("the gradient's length", norm, parts)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.schedule.learning_rate(self.step)
        self.optimizer.step()
        self.history.examples += self.schedule.size(self.step)
        self.history.seconds += time.perf_counter() - started
        self.step += 1
        return loss

    def _backward(self) -> tuple[float, dict[str, float]]:
        """Add up this process's gradients of one step; returns its part of the mean loss, and the last parts.

        Each micro-batch counts by its share of the step's examples, so the sum over micro-batches and processes is the
        gradient of the mean over all of them, however they were cut. Stops at a loss that is not finite.
        """
        schedule, step = self.schedule, self.step
        total = 0.0
        parts: dict[str, float] = {}
        for micro, examples_B in enumerate(schedule.batches(step, rank())):
            self._seed_torch(schedule.torch_seed("torch", step, micro, rank()))
            with self._autocast():
                loss, parts = self.trainable.loss(examples_B, schedule.generator("loss", step, micro, rank()))
            share_of_step = len(examples_B) / schedule.size(step)
            value = loss.item()
            total += value * share_of_step
            if not math.isfinite(value):
                break
            (loss.to(torch.promote_types(loss.dtype, torch.float32)) * share_of_step).backward()  # type: ignore[no-untyped-call]
            self.means.add({**parts, _LOSS: value}, len(examples_B))
        return total, parts

    def _seed_torch(self, seed: int) -> None:
        # torch.manual_seed also visits devices that are not used, which costs more than a small step does
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _autocast(self) -> torch.autocast:
        enabled = self.config.precision == "bf16" and self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _not_finite(self, what: str, value: float, parts: Mapping[str, float]) -> TrainingError:
        listed = ", ".join(f"{name} {part:g}" for name, part in parts.items()) or "none"
        return TrainingError(
            f"step {self.step + 1} of {self.schedule.steps}: {what} is {value:g}, expected a finite number "
            f"(parts of the loss here: {listed})",
            "lower learning_rate or raise warmup_share; under bf16, try precision fp32",
        )

    def _record(self) -> None:
        parts = Means.merged(gather(self.means.sums))
        self.means = Means()
        loss = parts.pop(_LOSS, math.nan)
        rate = float(self.optimizer.param_groups[0]["lr"])
        self.history.records.append(Record(self.step, self._epoch(), rate, loss, parts))

    def _validate(self) -> None:
        """Validate and watch on the main process; all processes get the outcome, or stop with it."""
        validation, problem = None, ""
        if is_main():
            try:
                validation = Validation(self.step, self._epoch(), self._metrics())
                self._keep(validation)
                for look in self.watch:
                    look(self.history)
            except Exception as error:
                share((None, f"{type(error).__name__}: {error}"))
                raise
        validation, problem = share((validation, problem))
        if validation is None:
            raise TrainingError(f"the main process stopped training after step {self.step}: {problem}")
        if not is_main():
            self.history.validations.append(validation)
        self.history.stopped_early = self.step < self.schedule.steps and (
            self.history.since_best >= self.config.patience
        )

    def _metrics(self) -> dict[str, float]:
        self.trainable.train_mode(False)
        self._seed_torch(self.schedule.torch_seed("validation", self.step))
        with torch.no_grad():
            metrics = {name: float(value) for name, value in self.trainable.validate().items()}
        if "score" not in metrics:
            raise ValueError(f"validate() gave {sorted(metrics)}, expected 'score' among them")
        if not math.isfinite(metrics["score"]):
            raise TrainingError(
                f"the validation score after step {self.step} is {metrics['score']}, expected a finite number",
                "give the stage more held-out data, or look at how validate() makes its score",
            )
        return metrics

    def _keep(self, validation: Validation) -> None:
        self.history.validations.append(validation)
        if self.history.best is validation:
            self.best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self.named.items()}

    def _epoch(self) -> float:
        return self.step / self.schedule.steps_per_epoch

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.path is None or not is_main():
            return
        state = {"step": self.step, "history": self.history.to_json(), "seconds": self.history.seconds}
        memory = optimizer_tensors(self.optimizer, self.names)
        write_checkpoint(self.path, Checkpoint(self.named, self.best, memory, state), self.fingerprint)

    def _fingerprint(self, identity: str) -> str:
        """Hash of everything the result depends on."""
        groups = [
            {**group, "params": [self.names[parameter] for parameter in group["params"]]}
            for group in self.optimizer.param_groups
        ]
        return sha256_json({
            "identity": identity,
            "config": self.config.model_dump(exclude={"checkpoint_seconds"}),
            "seed": self.schedule.seed,
            "processes": world_size(),
            "examples": self.schedule.examples,
            "tensors": {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in self.named.items()},
            "optimizer": [type(self.optimizer).__name__, groups],
            "device": self.device.type,
        })  # fmt: skip


def _names(named: Mapping[str, Tensor], groups: ParameterGroups) -> dict[Tensor, str]:
    """Name of each trained parameter.

    Raises:
        ValueError: a group has no learning rate, or a parameter no name or two.
    """
    if any("lr" not in group for group in groups):
        raise ValueError("parameters() gave a group without 'lr', expected the highest learning rate in each")
    names = {tensor: name for name, tensor in named.items()}
    if len(names) < len(named):
        raise ValueError("named() gives one tensor under two names, expected each once")
    missing = sum(parameter not in names for group in groups for parameter in group["params"])
    if missing or not any(group["params"] for group in groups):
        raise ValueError(f"{missing} of the parameters() are not in named(), expected all, and at least one")
    return names


def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.detach().copy_(source[name])


@contextmanager
def _own_generators(device: torch.device) -> Iterator[None]:
    """Torch's generators are seeded step by step in the block, and are afterwards as they were before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
