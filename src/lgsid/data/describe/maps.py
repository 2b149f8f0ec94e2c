"""Items on the map, coloured by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, DoubleArray
from lgsid.data.describe.measures import Geography, region_names
from lgsid.data.describe.style import INK, NUMBERED, PALETTE, REST, caption, drawable, new_figure, readable, tidy
from lgsid.geo import EARTH_RADIUS_KM

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_POINTS = 20_000
_FAR_APART_KM = 150.0
"""Catalogues that spread wider than this get one map for each province."""
_MOST_PROVINCES = 5
_UNKNOWN = "unknown"

Labels = Mapping[str, str]
"""Full name of a region ("Boston, MA"): what the map calls it; the largest region first."""


def item_map(items: pl.DataFrame, place: Geography, title: str, seed: int) -> Figure:
    """A map of the items (a sample of 20,000 at most); one panel for each province where they are far apart."""
    located = items.filter(pl.col("lat_deg").is_finite(), pl.col("lon_deg").is_finite())
    located = located.with_columns(pl.Series("lon_deg", _unwrapped(located["lon_deg"].to_numpy(), place)))
    sample = located.sample(min(_MOST_POINTS, located.height), seed=seed, shuffle=True)
    known = [level.name for level in place.levels if level.share > 0.5]
    labels = {level: _labels(items, level) for level in known}
    drawn = set(region_names(sample, "province")) if "province" in known else set()
    provinces = [name for name in labels.get("province", {}) if name in drawn][:_MOST_PROVINCES]
    if place.spread_km > _FAR_APART_KM and len(provinces) > 1:
        figure = _panel_for_each(sample, provinces, labels, title)
    else:
        figure, axes = new_figure(9.6, 7.2, title)
        level = next((level for level in ("city", "province", "district") if level in known), None)
        _panel(axes[0, 0], sample, _names(sample, level), labels.get(level or "", {}), f"{sample.height:,} items")
    if not all(drawable(name) for level in labels.values() for name in list(level)[: len(PALETTE)]):
        caption(figure, NUMBERED)
    return figure


def _unwrapped(lon_deg: DoubleArray, place: Geography) -> DoubleArray:
    """Longitudes on one side of the date line where the catalogue lies across it."""
    return np.where(lon_deg < place.west_deg, lon_deg + 360, lon_deg) if place.west_deg > place.east_deg else lon_deg


def _names(items: pl.DataFrame, level: str | None) -> pl.Series | None:
    return None if level is None else region_names(items, level).fill_null(_UNKNOWN)


def _labels(items: pl.DataFrame, level: str) -> Labels:
    counts = region_names(items, level).drop_nulls().value_counts(name="count")
    names = counts.sort(["count", level], descending=[True, False])[level].to_list()
    return dict(zip(names, readable(names, level), strict=True)) | {_UNKNOWN: _UNKNOWN}


def _panel_for_each(items: pl.DataFrame, provinces: Sequence[str], labels: Mapping[str, Labels], title: str) -> Figure:
    columns = 2 if len(provinces) <= 3 else 3
    rows = -(-(len(provinces) + 1) // columns)
    figure, axes = new_figure(6.6 * columns, 4.9 * rows, title, rows, columns)
    panels = axes.ravel()
    province = _names(items, "province")
    assert province is not None
    _panel(panels[0], items, province, labels["province"], f"all {items.height:,} items")
    level = "city" if "city" in labels else "province"
    for panel, name in zip(panels[1:], provinces, strict=False):
        part = items.filter(province == name)
        short = {full: label.removesuffix(f", {name}") for full, label in labels[level].items()}
        _panel(panel, part, _names(part, level), short, f"{labels['province'][name]}: {part.height:,} items")
    for panel in panels[len(provinces) + 1 :]:
        panel.set_visible(False)
    return figure


def _panel(axes: Axes, items: pl.DataFrame, names: pl.Series | None, labels: Labels, title: str) -> None:
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    size = float(np.clip(9000 / max(len(lat), 1), 1.2, 14))
    for label, colour, rows in _groups(names, labels):
        axes.scatter(lon[rows], lat[rows], s=size, c=colour, alpha=0.75, linewidths=0, label=label, rasterized=True)
    outside = _frame(axes, lat, lon)
    axes.set_aspect(1 / max(np.cos(np.radians(np.median(lat))), 0.05), adjustable="box")
    tidy(axes, grid="both")
    axes.set(xlabel="longitude (°)", ylabel="latitude (°)")
    axes.set_title(f"{title}{f' ({outside:,} outside the frame)' if outside else ''}", loc="left", color=INK)
    axes.ticklabel_format(useOffset=False)
    tall = np.ptp(axes.get_ylim()) > 1.3 * np.ptp(axes.get_xlim())
    axes.locator_params(axis="x", nbins=2 if tall else 5)
    axes.locator_params(axis="y", nbins=5)
    _scale_bar(axes)
    if names is not None:
        _legend_beside(axes)


def _groups(names: pl.Series | None, labels: Labels) -> list[tuple[str, str, BoolArray | slice]]:
    """Label, colour and rows of the largest regions, and of the rest, the rest first so that it lies below."""
    if names is None:
        return [("items", PALETTE[0], slice(None))]
    here = set(names)
    order = [name for name in labels if name in here]
    shown = order if len(order) <= len(PALETTE) else order[: len(PALETTE) - 1]
    rest = ~names.is_in(shown).to_numpy()
    groups: list[tuple[str, str, BoolArray | slice]] = []
    if rest.any():
        groups.append((f"{len(order) - len(shown)} others", REST, rest))
    colours = zip(shown, PALETTE, strict=False)
    return groups + [(labels[name], colour, (names == name).to_numpy()) for name, colour in colours]


def _legend_beside(axes: Axes) -> None:
    """The legend right of the panel, largest region first and the rest, which is drawn first, last."""
    handles, labels = axes.get_legend_handles_labels()
    if labels[0].endswith("others"):
        handles, labels = [*handles[1:], handles[0]], [*labels[1:], labels[0]]
    legend = axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        handle.set_sizes([28])  # type: ignore[union-attr]


def _frame(axes: Axes, lat_deg: DoubleArray, lon_deg: DoubleArray) -> int:
    """Frame the panel on nearly all points, so that one stray point does not shrink the rest; counts the strays."""
    (south, north), (west, east) = (np.percentile(values, (0.3, 99.7)) for values in (lat_deg, lon_deg))
    pad = 0.06 * max(north - south, east - west, 1e-3)
    axes.set(xlim=(west - pad, east + pad), ylim=(south - pad, north + pad))
    inside = (lat_deg >= south - pad) & (lat_deg <= north + pad) & (lon_deg >= west - pad) & (lon_deg <= east + pad)
    return int((~inside).sum())


def _scale_bar(axes: Axes) -> None:
    """A bar of a round number of km in the lower right corner."""
    (west, east), (south, north) = axes.get_xlim(), axes.get_ylim()
    km_per_degree = np.radians(1) * EARTH_RADIUS_KM * max(np.cos(np.radians((south + north) / 2)), 0.05)
    room_km = (east - west) * km_per_degree / 4
    power = 10 ** np.floor(np.log10(max(room_km, 1e-3)))
    length_km = next(step for step in (5 * power, 2 * power, power) if step <= room_km)
    right, y = east - 0.03 * (east - west), south + 0.04 * (north - south)
    axes.plot([right - length_km / km_per_degree, right], [y, y], color=INK, linewidth=2, zorder=5)
    middle = right - length_km / km_per_degree / 2
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
    text = f"{length_km:g} km"
    axes.annotate(text, (middle, y), (0, 4), textcoords="offset points", ha="center", fontsize=8, bbox=paper, zorder=5)
