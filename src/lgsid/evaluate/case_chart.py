"""The picture of the case study: shares of one category's items by token, beside those of the city."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lgsid.evaluate.case_study import CaseStudy, Spread
from lgsid.evaluate.plots import COLOURS, INK, drawable, drawing, legend_below, percent_axis, png, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ORDINALS = {1: "First", 2: "Second"}
_SHOWN, _SHOWN_BESIDE = 24, 12
_HEADROOM = 1.45
"""Height of the axis in tallest bars: the note stands above them."""


def case_chart(case: CaseStudy) -> bytes:
    """One row of bars per level, and one column before and one after alignment where there are both (PNG)."""
    columns = [("", case.spreads)] if case.before is None else [("before: ", case.before), ("after: ", case.spreads)]
    shown = _SHOWN if len(columns) == 1 else _SHOWN_BESIDE
    rows = len(case.spreads)
    with drawing(0.9 + 2.3 * rows) as figure:
        grid = figure.subplots(rows, len(columns), squeeze=False, sharey="row")
        for column, (when, spreads) in enumerate(columns):
            for row, spread in enumerate(spreads):
                _bars(grid[row][column], spread, case.items, shown, when)
        figure.suptitle(_title(case), x=0.02, ha="left", fontweight="bold", fontsize=12.5)
        legend_below(figure, grid[0][0], 2)
        return png(figure)


def _title(case: CaseStudy) -> str:
    where = case.city or "the whole catalogue"
    names = [
        short(name, 28) if drawable(name) else other
        for name, other in ((case.category, "One category"), (where, "one city"))
    ]
    return f"{names[0]} in {names[1]}: where do its {case.items:,} items go?"


def _bars(axes: Axes, spread: Spread, items: int, shown: int, when: str) -> None:
    places = np.arange(min(len(spread.tokens), shown))
    share = spread.items[: len(places)] / items
    axes.bar(places, share, 0.8, color=COLOURS[0], label="items of the category")
    axes.plot(
        places, spread.city_share[: len(places)], linestyle="none", marker="_", markersize=9 if shown == _SHOWN else 11,
        markeredgewidth=2, color=COLOURS[6], label="all items of the city",
    )  # fmt: skip
    axes.set_xticks(places, [str(token) for token in spread.tokens[: len(places)]], rotation=90, fontsize=8)
    axes.set_xlim(-0.7, shown - 0.3)
    axes.set_title(f"{_ORDINALS[spread.level]} tokens", fontsize=11, pad=6)
    if when:
        axes.set_title(f"{when}{_ORDINALS[spread.level].lower()} tokens", fontsize=11, pad=6)
    axes.grid(visible=False, axis="x")
    tallest = max(float(share.max(initial=0.0)), float(spread.city_share[: len(places)].max(initial=0.0)))
    axes.set_ylim(0, max(_HEADROOM * tallest, axes.get_ylim()[1]))  # the row shares it
    axes.text(0.99, 0.95, _note(spread, shown), transform=axes.transAxes, ha="right", va="top", fontsize=9, color=INK)
    percent_axis(axes.yaxis)


def _note(spread: Spread, shown: int) -> str:
    hidden = len(spread.tokens) - shown
    lines = [f"nine in ten in {spread.needed} tokens", f"(as many random items: {spread.needed_at_random:.0f})"]
    return "\n".join([*lines, *([f"{hidden} further tokens not shown"] if hidden > 0 else [])])


def spoken(spreads: Sequence[Spread]) -> str:
    """The figures of the chart in words."""
    return "; ".join(
        f"{_ORDINALS[spread.level].lower()} tokens: nine in ten items in {spread.needed}, "
        f"at random {spread.needed_at_random:.0f}"
        for spread in spreads
    )
