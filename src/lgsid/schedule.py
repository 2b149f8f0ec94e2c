"""What a training run does at which step: its examples, learning rate, random numbers, records and validations.

All of it is a function of (seed, step, process), so a run that continues needs no state of any generator. A *step* is
one update of the parameters; a *micro-batch* is what goes through the model at once.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lgsid.arrays import IntArray
from lgsid.config import TrainerConfig
from lgsid.errors import TrainingError

MOST_RECORDS = 500
"""Training figures are recorded, and a checkpoint may be written, at so many evenly spaced steps."""

_PURPOSES = {"order": 0, "loss": 1, "torch": 2, "validation": 3}


class Schedule:
    """The plan of one run.

    Every epoch is a permutation of all examples, cut into steps that differ in size by one at most; a step is cut into
    equal parts for the processes, and a part into micro-batches of at most ``config.batch``. So every example counts
    once an epoch, and the examples of a step depend only on ``batch · accumulate · processes``.

    Args:
        examples: N training examples.
        config: how to train.
        seed: of the run.
        processes: that train together.

    Attributes:
        steps_per_epoch: in a whole epoch.
        steps: in all.
        validations: steps after which the model is validated (step 0: before the first).
        records: steps after which training figures are recorded; holds ``validations`` except 0.

    Raises:
        TrainingError: there are no examples.
    """

    def __init__(self, examples: int, config: TrainerConfig, seed: int, processes: int = 1) -> None:
        if examples < 1:
            raise TrainingError(
                f"got {examples} training examples, expected at least 1",
                "give the stage more data, or lower the shares that are kept out of training",
            )
        self.examples = examples
        self.config = config
        self.seed = seed
        self.processes = processes
        self.steps_per_epoch = math.ceil(examples / (config.batch * config.accumulate * processes))
        self.steps = max(1, round(config.epochs * self.steps_per_epoch))
        self.validations = frozenset({0, *_spaced(self.steps, config.validations)})
        self.records = frozenset({*_spaced(self.steps, MOST_RECORDS), *self.validations}) - {0}
        self._epoch = -1
        self._order_N: IntArray = np.empty(0, dtype=np.int64)

    def size(self, step: int) -> int:
        """Examples of a step (from 0), over all processes."""
        return len(_part(self.examples, self.steps_per_epoch, step % self.steps_per_epoch))

    def batches(self, step: int, process: int) -> list[IntArray]:
        """One process's micro-batches of a step (from 0); none where a step has fewer examples than processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order_N = epoch, self.generator("order", epoch).permutation(self.examples)
        whole = _part(self.examples, self.steps_per_epoch, place)
        mine = _part(len(whole), self.processes, process)
        order = self._order_N[whole.start :][mine.start : mine.stop]
        count = math.ceil(len(order) / self.config.batch)
        return [order[part.start : part.stop] for part in (_part(len(order), count, k) for k in range(count))]

    def learning_rate(self, step: int) -> float:
        """Share of the highest learning rate at a step (from 0): rises linearly, then falls linearly to zero."""
        warmup = round(self.config.warmup_share * self.steps)
        if step < warmup:
            return (step + 1) / warmup
        return (self.steps - step) / (self.steps - warmup)

    def generator(
        self, purpose: Literal["order", "loss"], step: int, micro: int = 0, process: int = 0
    ) -> np.random.Generator:
        """The random numbers of one thing at one place of the run, independent of all others."""
        return np.random.default_rng(self._entropy(purpose, step, micro, process))

    def torch_seed(self, purpose: Literal["torch", "validation"], step: int, micro: int = 0, process: int = 0) -> int:
        """Seed of torch's own generators (dropout) at one place of the run."""
        return int(self._entropy(purpose, step, micro, process).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _entropy(self, purpose: str, *place: int) -> np.random.SeedSequence:
        return np.random.SeedSequence((self.seed, _PURPOSES[purpose], *place))


def _spaced(steps: int, count: int) -> set[int]:
    """At most ``count`` evenly spaced steps up to and including the last."""
    return {round((k + 1) * steps / min(count, steps)) for k in range(min(count, steps))}


def _part(length: int, parts: int, k: int) -> range:
    """The k-th of equal parts of a sequence; sizes differ by one at most."""
    return range(k * length // parts, (k + 1) * length // parts)
