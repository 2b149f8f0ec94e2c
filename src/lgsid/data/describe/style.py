"""How pictures of a description look: palette, fonts, axes.

Colours are those of Okabe and Ito, told apart by colour-blind readers. A label in a script that no installed font can
draw is replaced by a number, which the picture explains, where matplotlib would draw boxes and warn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe–Ito without black."""
REST, INK, GRID = "#9A9A9A", "#333333", "#E3E3E3"
"""Grey of what is not singled out, colour of text, colour of grid lines."""
NUMBERED = (
    "No installed font has the characters of the names: they are numbered by their number of items, as in "
    "description.json. Install a font that has them, such as Noto Sans CJK (fonts-noto-cjk)."
)
"""Caption of a picture with numbered labels."""
_LONGEST_LABEL = 34
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei",
    "Arial Unicode MS", "Droid Sans Fallback", "Noto Sans CJK TC", "Noto Sans CJK JP", "Noto Sans CJK KR",
)  # fmt: skip


@contextmanager
def styled() -> Iterator[None]:
    """Fonts and sizes for the figures drawn and saved inside the block."""
    import matplotlib as mpl

    with mpl.rc_context({"font.family": installed_fonts(), "font.size": 10, "axes.titlesize": 11}):
        yield


def installed_fonts() -> list[str]:
    """The known fonts that are installed, in order of preference."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [name for name in _FONTS if name in installed]


def drawable(text: str) -> bool:
    """Whether the installed fonts have all characters of a text between them."""
    from matplotlib import font_manager

    missing = {ord(char) for char in text}
    for name in installed_fonts():
        missing -= font_manager.get_font(font_manager.findfont(name)).get_charmap().keys()
    return not missing


def readable(labels: Sequence[str], prefix: str) -> list[str]:
    """Labels, shortened, or ``prefix`` and their number where no installed font can draw them."""
    shown = [label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…" for label in labels]
    return [label if drawable(label) else f"{prefix} {i}" for i, label in enumerate(shown, start=1)]


def new_figure(width: float, height: float, title: str, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of the given size in inches and its grid of axes (always two-dimensional)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title if drawable(title) else "", fontsize=12, color=INK, x=0.01, ha="left")
    return figure, figure.subplots(rows, columns, squeeze=False)


def caption(figure: Figure, text: str) -> None:
    """A small line under the figure."""
    figure.supxlabel(text, fontsize=8, color=INK, x=0.01, ha="left")


def tidy(axes: Axes, grid: str = "y") -> None:
    """Open axes with a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(REST)
    axes.tick_params(colors=INK, length=3)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
