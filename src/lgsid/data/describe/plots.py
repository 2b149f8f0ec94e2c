"""A description as pictures: item map, regions, distance–conversion curve, activity, events over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lgsid.artifact import atomic_path
from lgsid.data.describe.description import Description
from lgsid.data.describe.distance import Band, DistanceCurve, Rate
from lgsid.data.describe.maps import item_map
from lgsid.data.describe.measures import LEVELS, Activity, Geography
from lgsid.data.describe.style import (
    INK,
    NUMBERED,
    PALETTE,
    REST,
    caption,
    drawable,
    new_figure,
    readable,
    styled,
    tidy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REGIONS = 12
"""Regions shown for each level."""


def save_plots(description: Description, items: pl.DataFrame, folder: Path, seed: int = 0) -> list[Path]:
    """Draw what there is to draw into PNG files.

    Args:
        description: what was measured.
        items: the items table that was described.
        folder: where to write.
        seed: of the sample of items on the map.

    Returns:
        the files written, in the order in which one would look at them.
    """
    figures: dict[str, Callable[[], Figure]] = {}
    place, active, curve = description.geography, description.activity, description.distance
    if place is not None:
        figures["map"] = lambda: item_map(items, place, _titled("Items", description.source), seed)
    if place is not None and place.levels:
        figures["regions"] = lambda: regions(place, description.source)
    if curve is not None:
        figures["distance"] = lambda: distance(curve, description.source)
    if active is not None:
        figures["activity"] = lambda: activity(active, description.source)
        figures["time"] = lambda: over_time(active, description.source)
    return [_save(draw, folder / f"{name}.png") for name, draw in figures.items()]


def _save(draw: Callable[[], Figure], path: Path) -> Path:
    with styled(), atomic_path(path) as temporary:
        draw().savefig(temporary, dpi=144, format="png", facecolor="white")
    return path


def _titled(what: str, source: str) -> str:
    return f"{what}: {source}" if source else what


def regions(place: Geography, source: str) -> Figure:
    """Items per region, one panel for each level."""
    figure, axes = new_figure(4.9 * len(place.levels), 4.6, _titled("Items per region", source), 1, len(place.levels))
    longest = max(len(level.top[:_REGIONS]) for level in place.levels)
    for panel, level in zip(axes[0], place.levels, strict=True):
        names, counts = zip(*level.top[:_REGIONS][::-1], strict=True)
        labels = readable(names[::-1], level.name)[::-1]
        positions = np.arange(len(counts))
        panel.barh(positions, counts, color=PALETTE[LEVELS.index(level.name)], height=0.72)
        panel.set_yticks(positions, labels, fontsize=8)
        panel.bar_label(panel.containers[0], fmt="{:,.0f}", padding=2, fontsize=8, color=INK)
        panel.margins(x=0.16)
        panel.set_ylim(len(counts) - 0.5 - longest, len(counts) - 0.5)
        shown = (
            f"the {len(counts)} largest of {level.distinct:,}" if level.distinct > len(counts) else f"{level.distinct}"
        )
        panel.set_title(f"{level.name} ({shown})", loc="left", color=INK)
        panel.set_xlabel("items")
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.locator_params(axis="x", nbins=4)
        tidy(panel, grid="x")
    if not all(drawable(name) for level in place.levels for name, _ in level.top):
        caption(figure, NUMBERED)
    return figure


def distance(curve: DistanceCurve, source: str) -> Figure:
    """Left: visits by distance beside random items. Right: conversion by distance, or how much more than random."""
    figure, axes = new_figure(12, 4.8, _titled("Distance between user and item", source), 1, 2)
    bands = curve.bands_in_use
    positions = np.arange(len(bands))
    _share_panel(axes[0, 0], bands, positions)
    if curve.has_conversion:
        _conversion_panel(axes[0, 1], bands, positions)
    else:
        _ratio_panel(axes[0, 1], bands, positions)
    for panel in axes[0]:
        panel.set_xticks(positions, [band.label for band in bands])
        panel.set_xlabel("distance between user and item (km)")
        panel.legend(frameon=False, fontsize=9)
        tidy(panel)
    caption(figure, f"{curve.location[0].upper()}{curve.location[1:]}.")
    return figure


def _share_panel(axes: Axes, bands: Sequence[Band], positions: Any) -> None:
    width = 0.28
    series = (
        ("all visits", PALETTE[0], [band.share for band in bands]),
        ("first visits to an item", PALETTE[4], [band.first_share for band in bands]),
        ("random item of the catalogue", REST, [band.reference_share for band in bands]),
    )
    for offset, (label, colour, shares) in zip((-width, 0, width), series, strict=True):
        axes.bar(positions + offset, shares, width, color=colour, label=label)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.set_ylabel("share")
    axes.set_title("How far visits go", loc="left", color=INK)


def _ratio_panel(axes: Axes, bands: Sequence[Band], positions: Any) -> None:
    for label, colour, marker, name in (
        ("all visits", PALETTE[0], "o", "share"),
        ("first visits to an item", PALETTE[4], "s", "first_share"),
    ):
        ratios = [getattr(b, name) / b.reference_share if b.reference_share else np.nan for b in bands]
        axes.plot(positions, [r or np.nan for r in ratios], color=colour, marker=marker, label=label)
    axes.axhline(1, color=REST, linestyle="--", linewidth=1, label="as likely as a random item")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.set_ylabel("visits ÷ random item")
    axes.set_title("Distance decay beyond the density of items", loc="left", color=INK)


def _conversion_panel(axes: Axes, bands: Sequence[Band], positions: Any) -> None:
    for label, colour, marker, rates in (
        ("clicks per impression", PALETTE[0], "o", [band.click_rate for band in bands]),
        ("orders per impression", PALETTE[5], "s", [band.order_rate for band in bands]),
    ):
        known = [
            (x, rate) for x, rate in zip(positions, rates, strict=True) if isinstance(rate, Rate) and rate.value > 0
        ]
        if not known:
            continue
        x = [x for x, _ in known]
        value, low, high = (np.array([getattr(rate, name) for _, rate in known]) for name in ("value", "low", "high"))
        axes.errorbar(x, value, yerr=[value - low, high - value], color=colour, marker=marker, capsize=3, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.2g} %")
    axes.set_ylabel("rate, with 95 % interval")
    axes.set_title("Conversion by distance", loc="left", color=INK)


def activity(active: Activity, source: str) -> Figure:
    """Quantiles of visits per user and per item."""
    figure, axes = new_figure(12, 4.3, _titled("Activity", source), 1, 2)
    for panel, per, quantiles, colour in (
        (axes[0, 0], "user", active.per_user_counts, PALETTE[0]),
        (axes[0, 1], "item", active.per_item_counts, PALETTE[2]),
    ):
        edges, counts = zip(*quantiles, strict=True)
        positions = np.arange(len(edges))
        panel.bar(positions, counts, 0.85, color=colour)
        panel.set_xticks(positions, edges, fontsize=8, rotation=30, ha="right")
        panel.set(xlabel=f"visits of a{'n' * (per == 'item')} {per}", ylabel=f"{per}s")
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.bar_label(panel.containers[0], fmt="{:,.0f}", padding=2, fontsize=8, color=INK)
        panel.margins(y=0.1)
        tidy(panel)
    users, items = axes[0]
    users.set_title(f"Visits per user (median {active.per_user['50%']:,.0f})", loc="left", color=INK)
    items.set_title(f"Visits per item (Gini {active.gini:.2f})", loc="left", color=INK)
    return figure


def over_time(active: Activity, source: str) -> Figure:
    """Events per day, week or month."""
    figure, axes = new_figure(12, 3.6, _titled(f"Events per {active.period}", source))
    panel = axes[0, 0]
    days, counts = zip(*active.by_period, strict=True)
    last = {"day": 1, "week": 7, "month": 30}[active.period]
    widths = np.diff([day.toordinal() for day in days], append=days[-1].toordinal() + last)
    panel.bar(days, counts, widths * 0.88, align="edge", color=PALETTE[0])
    panel.set_ylabel(f"events per {active.period}")
    panel.yaxis.set_major_formatter("{x:,.0f}")
    panel.set_title(
        f"{active.first:%Y-%m-%d} to {active.last:%Y-%m-%d}; first and last may be cut", loc="left", color=INK
    )
    panel.margins(x=0.01)
    tidy(panel)
    return figure
