"""Charts of the rankers: each takes numbers and returns PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lgsid.evaluate.plots import COLOURS, INK, MUTED, drawing, png


@dataclass(frozen=True)
class Gain:
    """What the codes add to a ranker: its name, the difference in AUC, and the ends of the interval."""

    name: str
    difference: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 where the whole interval is above zero, -1 where it is below, else 0."""
        return int(self.low > 0) - int(self.high < 0)


def gain_chart(gains: Sequence[Gain], confidence: float) -> bytes:
    """A dot and its interval for each ranker, against no difference; grey where no difference can be told (PNG)."""
    with drawing(1.5 + 0.42 * len(gains)) as figure:
        axes = figure.add_subplot()
        for place, gain in enumerate(gains):
            colour = {1: COLOURS[0], 0: MUTED, -1: COLOURS[1]}[gain.sign]
            reach = [[gain.difference - gain.low], [gain.high - gain.difference]]
            axes.errorbar([gain.difference], [place], xerr=reach, color=colour, marker="o", markersize=7, capsize=4)
            axes.annotate(signed(gain.difference), (gain.difference, place), (0, 8), textcoords="offset points",
                          ha="center", fontsize=9.5, color=colour)  # fmt: skip
        axes.axvline(0, color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
        axes.set_yticks(range(len(gains)), [gain.name for gain in gains])
        axes.set(ylim=(len(gains) - 0.5, -0.75), title="What do the codes add?")
        axes.set(xlabel=f"AUC with codes less AUC without ({100 * confidence:g} % interval over users)")
        axes.xaxis.set_major_formatter(lambda value, _: signed(value) if abs(value) > 1e-9 else "0")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        return png(figure)


def signed(value: float) -> str:
    """A difference with its sign and three decimals; four where three would not show it."""
    digits = 3 if abs(value) >= 5e-4 else 4
    return f"{value:+.{digits}f}".replace("-", "−")
