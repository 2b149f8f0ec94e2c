"""Foursquare check-ins of New York and Tokyo (D. Yang et al., IEEE Trans. SMC 2015; ``dataset_TSMC2014_*.txt``).

Eight tab-separated columns without a header, Latin-1: user, venue, category id, category name, latitude, longitude,
offset from UTC in minutes, UTC time such as ``Tue Apr 03 18:00:09 +0000 2012``. The file has no venue names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lgsid.data.importers.base import Sink
from lgsid.data.importers.checkins import CheckinFormat, import_checkins

_LAYOUT = CheckinFormat(
    name="Foursquare TSMC2014",
    columns=(
        "user_id",
        "item_id",
        "category_id",
        "category",
        "lat_deg",
        "lon_deg",
        "utc_offset_minutes",
        "timestamp",
    ),
    time_pattern="%a %b %d %H:%M:%S %z %Y",
    item_columns=("category", "category_id"),
    event_integers=("utc_offset_minutes",),
)
_PRIVATE = "Home (private)"


def import_foursquare(files: Sequence[Path], sink: Sink) -> None:
    """Import Foursquare TSMC2014 check-ins: venues become items titled by their category, check-ins become events."""
    venues = import_checkins(files, sink, _LAYOUT).frame()
    if venues is None:
        return
    sink.items(venues.with_columns(pl.col("category").alias("title")))
    sink.note("the source has no venue names: the title of an item is its category")
    sink.note("timestamps are UTC; utc_offset_minutes of an event gives its local time")
    private = int((venues["category"] == _PRIVATE).sum())
    if private:
        sink.note(f"{private:,} venues are people's homes (category {_PRIVATE!r}): think before you publish them")
