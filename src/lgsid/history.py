"""The course of a training run: training figures, validations, and which of them was the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """Training figures since the record before, means over examples of all processes.

    Attributes:
        step: updates done.
        epoch: passes over the examples done.
        learning_rate: of the last update, first parameter group.
        loss: mean loss.
        parts: means of the figures that `Trainable.loss` gave.
    """

    step: int
    epoch: float
    learning_rate: float
    loss: float
    parts: dict[str, float]


@dataclass(frozen=True)
class Validation:
    """One validation: updates and epochs done by then, and what `Trainable.validate` gave."""

    step: int
    epoch: float
    metrics: dict[str, float]

    @property
    def score(self) -> float:
        """The figure that training is for."""
        return self.metrics["score"]


@dataclass
class History:
    """The course of one training run.

    Attributes:
        steps: updates planned.
        records: training figures.
        validations: the first one is before the first step.
        stopped_early: patience ran out before the last step.
        examples: examples seen.
        seconds: wall time of the training steps, not in `to_json`: two runs of one seed must give the same file.
    """

    steps: int
    records: list[Record] = field(default_factory=list)
    validations: list[Validation] = field(default_factory=list)
    stopped_early: bool = False
    examples: int = 0
    seconds: float = 0.0

    @property
    def best(self) -> Validation:
        """The validation with the highest score, the earliest of equals: the parameters that training ends with."""
        return max(self.validations, key=lambda validation: validation.score)

    @property
    def since_best(self) -> int:
        """Validations since the best one."""
        return len(self.validations) - 1 - self.validations.index(self.best)

    @property
    def examples_per_second(self) -> float:
        """Speed of the training steps, over all processes; 0 before the first."""
        return self.examples / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything but the wall time."""
        return {key: value for key, value in asdict(self).items() if key != "seconds"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], seconds: float = 0.0) -> History:
        """What `to_json` gave, and the wall time."""
        lists = {
            "records": [Record(**record) for record in content["records"]],
            "validations": [Validation(**validation) for validation in content["validations"]],
        }
        return cls(**{**content, **lists}, seconds=seconds)


class Means:
    """Running means of named figures over examples.

    Attributes:
        sums: sum and number of examples of each figure.
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}

    def add(self, figures: Mapping[str, float], examples: int) -> None:
        """Take in the figures of some examples, each the mean over them."""
        for name, value in figures.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + float(value) * examples, count + examples)

    @staticmethod
    def merged(parts: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, float]:
        """Means over several processes."""
        names = dict.fromkeys(name for part in parts for name in part)
        found = {name: [part[name] for part in parts if name in part] for name in names}
        return {name: sum(total for total, _ in pairs) / sum(n for _, n in pairs) for name, pairs in found.items()}
