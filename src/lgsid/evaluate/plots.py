"""The look of every figure: colours, fonts, sizes, and PNG bytes that are the same for the same data.

Figures are drawn with matplotlib's object-oriented interface on the Agg canvas: no window opens, no state is left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

WIDTH_IN = 6.4
"""Width of every figure in inches: half a printed page, and still readable when a phone shrinks it."""
DPI = 180
"""Dots per inch of every figure."""
COLOURS = ("#4477AA", "#EE6677", "#228833", "#AA3377", "#66CCEE", "#CCBB44", "#EE8833", "#332288")
"""Told apart with the common colour blindnesses; after Paul Tol's bright and muted schemes."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""One per line of a chart, so that a chart also works without colour."""
INK, MUTED, GRID, PAPER = "#1f2430", "#6b7280", "#d9dde3", "#ffffff"
_CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "Heiti SC", "SimHei",
    "Droid Sans Fallback", "Arial Unicode MS",
)  # fmt: skip
_CJK_FILES = (
    "cjk",
    "notosanssc",
    "sourcehansans",
    "wqy",
    "msyh",
    "pingfang",
    "hiragino",
    "simhei",
    "droidsansfallback",
)


@contextmanager
def drawing(height_in: float, layout: Literal["constrained"] | None = "constrained") -> Iterator[Figure]:
    """A new figure of the usual width in the house style; draw and call `png` inside the block."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(_style()), _quiet_fonts():
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, facecolor=PAPER, layout=layout)
        FigureCanvasAgg(figure)
        yield figure


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Not every Chinese font has a bold face; matplotlib would say so on the terminal each time."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _style() -> dict[Any, Any]:
    return {
        "font.family": list(_families()),
        "font.size": 11,
        "figure.constrained_layout.w_pad": 0.1,
        "figure.constrained_layout.h_pad": 0.1,
        "axes.titlesize": 12.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 10,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.facecolor": PAPER,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "legend.fontsize": 10.5,
        "lines.linewidth": 2.0,
        "lines.markersize": 5.5,
    }


def png(figure: Figure) -> bytes:
    """The figure as PNG of 256 colours, a third of the full size; the same figure gives the same bytes."""
    from PIL import Image

    drawn, reduced = BytesIO(), BytesIO()
    figure.savefig(drawn, format="png", metadata={"Software": None})
    picture = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(reduced, format="PNG", optimize=True)
    return reduced.getvalue()


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend under the axes, where it never hides data."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns, borderaxespad=0.2)


def percent_axis(axis: Axis) -> None:
    """Label an axis of shares in percent, with as many decimals as its ticks need."""
    from matplotlib.ticker import PercentFormatter

    class AsNeeded(PercentFormatter):
        def set_locs(self, locs: list[float]) -> None:
            super().set_locs(locs)
            exact = (number for number in (0, 1) if np.allclose(np.round(locs, 2 + number), locs, atol=1e-6))
            self.decimals = next(exact, 2)

    axis.set_major_formatter(AsNeeded(xmax=1.0))


@lru_cache(maxsize=1)
def _families() -> tuple[str, ...]:
    """DejaVu Sans, which comes with matplotlib, and behind it the first font at hand that has Chinese."""
    from matplotlib import font_manager

    known = set(font_manager.fontManager.get_font_names())
    if not known & set(_CJK_FONTS):  # matplotlib's list of fonts may be older than the font
        for path in sorted(font_manager.findSystemFonts()):
            if any(part in PurePath(path).name.lower() for part in _CJK_FILES):
                font_manager.fontManager.addfont(path)
        known = set(font_manager.fontManager.get_font_names())
    return ("DejaVu Sans", *[name for name in _CJK_FONTS if name in known][:1])


@lru_cache(maxsize=1)
def _characters() -> frozenset[int]:
    from matplotlib import font_manager

    found: set[int] = set()
    for family in _families():
        found |= set(font_manager.get_font(font_manager.findfont(family)).get_charmap())
    return frozenset(found)


def drawable(text: str) -> bool:
    """Whether the fonts on this machine have every character of the text."""
    return all(ord(character) in _characters() for character in text)


def short(text: str, width: int) -> str:
    """The text on one line, cut to a width in columns (a Chinese character takes two)."""
    text = " ".join(text.split())
    if text.isascii():
        return text if len(text) <= width else text[:width].rstrip() + "…"
    kept, used = "", 0
    for character in text:
        used += display_width(character)
        if used > width:
            return kept.rstrip() + "…"
        kept += character
    return kept


def display_width(text: str) -> int:
    """Columns a text takes: two for each wide (Chinese, Japanese, Korean) character."""
    from unicodedata import east_asian_width

    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)
