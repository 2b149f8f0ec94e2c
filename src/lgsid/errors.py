"""The errors lgsid raises. Every one says what was got, what was expected, and the command that fixes it.

LgsidError
├── ConfigError              a YAML file or --set value is wrong
├── DataError                a table is wrong
│   └── TableError           rows are wrong: file, row, column and value of each
├── ArtifactError            a run folder or saved model is missing, stale or corrupt
├── EncoderError             a text encoder cannot be found, loaded or used
├── TrainingError            training cannot go on: a loss that is not finite, no examples
│   └── AlignmentError       an alignment was stopped: collapse, lost meaning, or a hacked reward
├── NotFittedError           transform or explain before fit
└── MissingDependencyError   an optional package is not installed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class LgsidError(Exception):
    """Base of every error a user can cause and mend; the command line prints it without a traceback.

    Args:
        message: what was got and what was expected.
        fix: the command or edit that mends it.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        self.message = message
        self.fix = fix
        super().__init__(message if fix is None else f"{message}\n  fix: {fix}")


class ConfigError(LgsidError):
    """A configuration file or ``--set`` value does not fit its strict class."""


class DataError(LgsidError):
    """A table, file or catalogue cannot be used."""


@dataclass(frozen=True)
class BadRow:
    """One wrong row: where it stands, what it holds and why that is wrong.

    ``row`` counts data rows from 1; in a CSV file with a header and no multi-line fields it stands on line row + 1.
    """

    file: str
    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        value = self.value if len(self.value) <= 80 else f"{self.value[:77]}..."
        return f"{self.file}, row {self.row}, column {self.column!r}: {self.reason} (got {value!r})"


class TableError(DataError):
    """Rows of a table are wrong.

    Attributes:
        counts: number of wrong rows by reason, over the whole table.
        examples: the first wrong rows of each reason.
    """

    def __init__(
        self, message: str, counts: dict[str, int], examples: Sequence[BadRow], fix: str | None = None
    ) -> None:
        self.counts = counts
        self.examples = tuple(examples)
        super().__init__("\n".join([message, *(f"  {row}" for row in examples)]), fix)


class ArtifactError(LgsidError):
    """A run folder, manifest or saved model is missing, stale or corrupt."""


class EncoderError(LgsidError):
    """A text encoder cannot be found, loaded or used."""


class TrainingError(LgsidError):
    """Training cannot start or go on: a loss that is not finite, no examples, a score that is no number."""


class AlignmentError(TrainingError):
    """An alignment was stopped by one of its guards: collapse, loss of meaning, or a hacked reward."""


class NotFittedError(LgsidError):
    """A tokeniser was asked to transform, decode or explain before ``fit`` or ``from_pretrained``."""


class MissingDependencyError(LgsidError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, purpose: str, extra: str | None = None) -> None:
        command = f"pip install 'lgsid[{extra}]'" if extra else f"pip install {package}"
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed", command)
