"""Gowalla check-ins from SNAP (E. Cho, S. Myers, J. Leskovec, KDD 2011; ``loc-gowalla_totalCheckins.txt.gz``).

Five tab-separated columns without a header: user, UTC time such as ``2010-10-19T23:55:27Z``, latitude, longitude,
location. The file says nothing about what a location is. (SNAP's Brightkite file has the same layout.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lgsid.data.importers.base import Sink
from lgsid.data.importers.checkins import CheckinFormat, import_checkins

_LAYOUT = CheckinFormat(
    name="SNAP Gowalla",
    columns=("user_id", "timestamp", "lat_deg", "lon_deg", "item_id"),
    time_pattern=None,
)


def import_gowalla(files: Sequence[Path], sink: Sink) -> None:
    """Import SNAP Gowalla check-ins: locations become items, check-ins become events."""
    locations = import_checkins(files, sink, _LAYOUT).frame()
    if locations is None:
        return
    sink.items(locations.with_columns(pl.format("Place {}", "item_id").alias("title")))
    sink.note("the source says nothing about its places: titles are 'Place <id>' and there is no other text")
