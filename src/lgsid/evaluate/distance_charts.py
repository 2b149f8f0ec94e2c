"""The distance–conversion curve: how far people go, and what distance does to clicks and orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lgsid.data.describe.distance import Band, DistanceCurve
from lgsid.evaluate.plots import COLOURS, MARKERS, drawing, legend_below, percent_axis, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EVEN = "#c3c8d0"


def reach_chart(curve: DistanceCurve) -> bytes:
    """Share of visits, of first visits, and of random items in each distance band (PNG)."""
    bands = _shown(curve)
    series = (
        ("visits", COLOURS[0], [band.share for band in bands]),
        ("first visits to an item", COLOURS[4], [band.first_share for band in bands]),
        ("random items", _EVEN, [band.reference_share for band in bands]),
    )
    with drawing(3.7) as figure:
        axes = figure.add_subplot()
        for number, (label, colour, shares) in enumerate(series):
            axes.bar(np.arange(len(bands)) + (number - 1) * 0.27, shares, 0.25, color=colour, label=label)
        axes.set(ylabel="share", title="How far do visits go?")
        axes.grid(visible=False, axis="x")
        percent_axis(axes.yaxis)
        _band_axis(axes, bands)
        legend_below(figure, axes, 3)
        return png(figure)


def conversion_chart(curve: DistanceCurve) -> bytes:
    """Clicks and orders per impression in each distance band, with their 95 % intervals (PNG)."""
    bands = _shown(curve)
    series = (
        ("clicks per impression", COLOURS[0], [band.click_rate for band in bands]),
        ("orders per impression", COLOURS[1], [band.order_rate for band in bands]),
    )
    with drawing(3.7) as figure:
        axes = figure.add_subplot()
        for number, (label, colour, rates) in enumerate(series):
            # a rate of 0 has no place on a logarithmic axis
            known = [(place, rate) for place, rate in enumerate(rates) if rate is not None and rate.value > 0]
            if known:
                value, low, high = (np.array([getattr(r, name) for _, r in known]) for name in ("value", "low", "high"))
                error = np.maximum([value - low, high - value], 0.0)
                axes.errorbar([place for place, _ in known], value, yerr=error, color=colour, marker=MARKERS[number],
                              capsize=3, label=label)  # fmt: skip
        axes.set(yscale="log", ylabel="per impression (log scale)", title="What does distance do to conversion?")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        _band_axis(axes, bands)
        if axes.get_legend_handles_labels()[0]:
            legend_below(figure, axes, 2)
        return png(figure)


def _shown(curve: DistanceCurve) -> list[Band]:
    return [band for band in curve.bands if band.visits or band.impressions or band.reference_share]


def _band_axis(axes: Axes, bands: list[Band]) -> None:
    axes.set_xticks(range(len(bands)), [band.label.removesuffix(" km") for band in bands])
    axes.tick_params(axis="x", labelsize=9)
    axes.set_xlabel("distance between user and item in km")
