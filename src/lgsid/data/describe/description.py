"""The description of a dataset: all measures together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from lgsid.data.describe.distance import DistanceCurve, distance_curve
from lgsid.data.describe.events import as_numbers
from lgsid.data.describe.measures import (
    Activity,
    Geography,
    Level,
    TextColumn,
    activity,
    categories,
    geography,
    text_columns,
)
from lgsid.errors import DataError


@dataclass(frozen=True)
class Description:
    """What the data is; `to_dict` makes it JSON."""

    source: str
    items: int
    columns: tuple[str, ...]
    text: tuple[TextColumn, ...]
    categories: Level | None
    geography: Geography | None
    activity: Activity | None
    distance: DistanceCurve | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form (dates as ISO text)."""
        return _plain(asdict(self))  # type: ignore[no-any-return]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def describe(
    items: pl.DataFrame, events: pl.DataFrame | pl.LazyFrame | None = None, source: str = "", seed: int = 0
) -> Description:
    """Measure a catalogue and, if there are any, its events.

    Args:
        items: items table: item_id, lat_deg, lon_deg and whatever else is known.
        events: events table: user_id, item_id, timestamp and whatever else is known; lazy frames are read once.
        source: where the data comes from, for headings.
        seed: of the random items that the distance curve is compared with.

    Raises:
        DataError: there are no items.
    """
    if items.is_empty():
        raise DataError("there are no items to describe")
    notes: list[str] = []
    active = distance = None
    if events is not None:
        lazy = events.lazy()
        numbers = as_numbers(items, lazy)
        active = activity(items.height, numbers, _rows(lazy), notes)
        distance = distance_curve(items, numbers, seed) if active is not None else None
        if distance is not None and any(band.clicks > band.impressions > 0 for band in distance.bands):
            notes.append("more clicks than impressions in a distance band: conversion is not shown there")
    return Description(
        source=source,
        items=items.height,
        columns=tuple(items.columns),
        text=text_columns(items),
        categories=categories(items),
        geography=geography(items, notes),
        activity=active,
        distance=distance,
        notes=tuple(notes),
    )


def _rows(events: pl.LazyFrame) -> int:
    return int(events.select(pl.len()).collect().item())
