"""Progress bars: on a terminal only, on standard error, so that output can be piped."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Advance = Callable[[float], None]


class LiveAdvance(Protocol):
    """Moves a bar on by some steps; figures given by name stand beside it until the next ones take their place."""

    def __call__(self, steps: float, **figures: float) -> None: ...


def silent(steps: float, **figures: float) -> None:
    """An advance that shows nothing."""


@contextmanager
def progress(description: str, total: float | None, unit: str = "") -> Iterator[LiveAdvance]:
    """A progress bar over ``total`` steps; the block calls the yielded function with the number of steps done.

    ``total=None`` shows a bar without an end. ``advance(1, loss=0.31)`` also shows live figures. Off a terminal nothing
    is printed and calling it costs nothing.
    """
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, figures="")
        shown: dict[str, float] = {}

        def advance(steps: float, **figures: float) -> None:
            shown.update(figures)
            bar.update(task, advance=steps, figures="  ".join(f"{name} {value:.4g}" for name, value in shown.items()))

        yield advance
