"""What the scripts that make tables and figures share: cells of results/, means over seeds, Markdown."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
Cell = dict[str, Any]


def cells(experiment: str, pattern: str = "*.json") -> list[Cell]:
    """All cells of an experiment, by file name."""
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((REPOSITORY / "results" / experiment).glob(pattern))
    ]


def mean_sd(values: list[float], digits: int) -> str:
    """Mean ± standard deviation over seeds; without the latter where all agree to the shown digits."""
    mean = statistics.fmean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    text = f"{mean:.{digits}f}"
    return text if round(spread, digits) == 0 else f"{text} ± {spread:.{digits}f}"


def table(header: str, rows: list[list[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    names = header.split(" | ")
    lines = ["| " + " | ".join(names) + " |", "|---|" + "--:|" * (len(names) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
