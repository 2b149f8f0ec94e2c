"""What a report says, apart from how it looks: sections of paragraphs, tables, figures and verdicts.

`html` and `markdown` render it. Every string is plain text; the renderers escape it, so a title of the catalogue can
hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Status = Literal["good", "look", "note"]
"""A verdict is good, or worth a look, or a figure without a threshold."""


@dataclass(frozen=True)
class Code:
    """Text in a typewriter face: a command, a path, a key."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Text that stands out."""

    text: str


@dataclass(frozen=True)
class Link:
    """Text that leads to a file beside the report."""

    text: str
    file: str


_SPACE = "\u00a0"  # keeps a number and its unit on one line

Span: TypeAlias = str | Code | Strong | Link


@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    spans: tuple[Span, ...]


@dataclass(frozen=True)
class Listing:
    """Lines in a typewriter face."""

    text: str


@dataclass(frozen=True)
class KeyFigure:
    """One number to remember: the value, what it is, and what to compare it with."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class KeyFigures:
    """The numbers at the top."""

    figures: tuple[KeyFigure, ...]


@dataclass(frozen=True)
class Verdict:
    """One question about the result, its answer, and what was asked for."""

    status: Status
    question: str
    answer: str
    wanted: str


@dataclass(frozen=True)
class Verdicts:
    """The questions at the top."""

    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Table:
    """A table; ``numeric`` names the columns that are aligned to the right, ``unbroken`` those kept on one line."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()
    unbroken: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A picture. ``alt`` says in words what it shows, for those who cannot see it."""

    name: str
    png: bytes
    caption: str
    alt: str


@dataclass(frozen=True)
class Details:
    """Blocks that a reader unfolds."""

    summary: str
    blocks: tuple[Block, ...]


Block: TypeAlias = Paragraph | Listing | KeyFigures | Verdicts | Table | Figure | Details


@dataclass(frozen=True)
class Section:
    """A part of the report with a heading."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]

    def figures(self) -> Iterator[Figure]:
        """All figures, in the order they appear."""
        for section in self.sections:
            yield from _figures(section.blocks)


def _figures(blocks: Sequence[Block]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Details):
            yield from _figures(block.blocks)


def text(*spans: Span) -> Paragraph:
    """A paragraph."""
    return Paragraph(spans)


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[str] = (),
    unbroken: Sequence[str] = (),
) -> Table:
    """A table.

    Raises:
        ValueError: a row has not one cell per column, or a named column does not exist.
    """
    if any(len(row) != len(columns) for row in rows) or not {*numeric, *unbroken} <= set(columns):
        raise ValueError(f"table {caption!r}: every row needs {len(columns)} cells, and named columns must exist")
    return Table(caption, tuple(columns), tuple(map(tuple, rows)), frozenset(numeric), frozenset(unbroken))


def number(value: float | int | None, digits: int = 3) -> str:
    """A number for people: thousands separated, ``digits`` significant ones; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share in percent; never rounded up to 100 % or down to 0 % when it is not exactly that."""
    if share is None:
        return "–"
    if share in (0, 1):
        return f"{100 * share:.0f}{_SPACE}%"
    shown = f"{100 * share:.{decimals}f}"
    edge = 10.0**-decimals
    if share < 1 and float(shown) >= 100:
        return f"> {100 - edge:.{decimals}f}{_SPACE}%"
    if share > 0 and float(shown) == 0:
        return f"< {edge:.{decimals}f}{_SPACE}%"
    return f"{shown}{_SPACE}%"


def kilometres(value: float | None) -> str:
    """A distance: metres below one kilometre."""
    if value is None:
        return "–"
    return f"{value * 1000:.0f}{_SPACE}m" if value < 1 else f"{number(value)}{_SPACE}km"


def fractions(shares: Sequence[float | None]) -> str:
    """Shares side by side with two decimals, as papers print P/C/T@K."""
    return " / ".join("–" if share is None else f"{share:.2f}" for share in shares)


def percents(shares: Sequence[float | None]) -> str:
    """Shares side by side in whole percent."""
    return " / ".join("–" if share is None else f"{100 * share:.0f}" for share in shares) + f"{_SPACE}%"
