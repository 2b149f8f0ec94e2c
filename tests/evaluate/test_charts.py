"""Charts: every one draws at its extremes without a warning, and twice the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lgsid.data.describe.distance import Band, DistanceCurve, wilson
from lgsid.evaluate.charts import coverage_radar, neighbour_chart, radius_chart, reconstruction_chart, usage_chart
from lgsid.evaluate.distance_charts import conversion_chart, reach_chart
from lgsid.evaluate.plots import drawing, percent_axis

LEVELS = (("province", "province"), ("city", "city"), ("district", "district"))


def geography(ks: tuple[int, ...], district: float | None) -> dict[str, object]:
    figures = {"province": 0.99, "city": 0.98, "district": district}
    return {"at": {str(k): figures for k in ks}, "random": {**figures, "province": 0.1}}


def curve(impressions: int, clicks: int) -> DistanceCurve:
    bands = tuple(
        Band(
            low, high, 10, 0.5, 5, 0.5, 0.3, impressions, clicks, 0, wilson(clicks, impressions), wilson(0, impressions)
        )
        for low, high in ((0.0, 1.0), (1.0, None))
    )
    quantiles = dict.fromkeys(("10%", "25%", "50%", "75%", "90%"), 1.0)
    return DistanceCurve("somewhere", 20, 0, 0, quantiles, quantiles, bands)


CHARTS: dict[str, Callable[[], bytes]] = {
    "neighbours": lambda: neighbour_chart(geography((5, 10, 50), 0.5), LEVELS),
    "neighbours of one K, a level unknown": lambda: neighbour_chart(geography((1,), None), LEVELS),
    "usage": lambda: usage_chart([np.array([5, 3, 0, 1]), np.array([9, 0, 0, 0])]),
    "usage of many levels": lambda: usage_chart([np.arange(300)] * 10),
    "coverage": lambda: coverage_radar({0.5: [3, 1], 0.75: [5, 1], 0.99: [8, 2]}, [8, 4]),
    "coverage of many levels": lambda: coverage_radar({0.5: [3] * 9, 0.9: [8] * 9, 0.99: [8] * 9}, [8] * 9),
    "radius": lambda: radius_chart(np.array([0.0, 0.4, 3.0, 900.0])),
    "one radius": lambda: radius_chart(np.array([2.0])),
    "reconstruction": lambda: reconstruction_chart([0.8, 0.4], 0.41),
    "reconstruction above one": lambda: reconstruction_chart([1.3], None),
    "reach": lambda: reach_chart(curve(0, 0)),
    "conversion": lambda: conversion_chart(curve(100, 10)),
    "conversion without clicks": lambda: conversion_chart(curve(100, 0)),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_draw_the_same_picture_twice(name: str) -> None:
    first = CHARTS[name]()
    assert first.startswith(b"\x89PNG")
    assert first == CHARTS[name]()


def test_charts_show_their_numbers() -> None:
    assert reconstruction_chart([0.8, 0.4], None) != reconstruction_chart([0.8, 0.5], None)
    assert usage_chart([np.array([5, 3])]) != usage_chart([np.array([4, 4])])
    assert coverage_radar({0.5: [3], 0.9: [8]}, [8]) != coverage_radar({0.5: [2], 0.9: [8]}, [8])
    assert coverage_radar({0.5: [3], 0.9: [8]}, [8]) != coverage_radar({0.5: [3], 0.9: [8]}, [9])
    assert reach_chart(curve(0, 0)) != conversion_chart(curve(100, 10))


@pytest.mark.parametrize(
    ("ticks", "labels"),
    [
        ((0.0, 0.5, 1.0), ["0%", "50%", "100%"]),
        ((0.0, 0.025, 0.05), ["0.0%", "2.5%", "5.0%"]),
        ((0.97, 0.975, 0.98), ["97.0%", "97.5%", "98.0%"]),
        ((0.0, 0.0025), ["0.00%", "0.25%"]),
    ],
)
def test_percent_axes_have_the_decimals_that_their_ticks_need(ticks: tuple[float, ...], labels: list[str]) -> None:
    with drawing(2.0) as figure:
        axes = figure.add_subplot()
        axes.set_yticks(ticks)
        percent_axis(axes.yaxis)
        figure.canvas.draw()
        assert [label.get_text() for label in axes.get_yticklabels()] == labels
