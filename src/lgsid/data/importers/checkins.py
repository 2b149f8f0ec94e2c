"""Check-in logs without a header, one line a check-in, the place repeated on every line (Foursquare, Gowalla)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lgsid.arrays import IntArray
from lgsid.data.importers.base import INTERNAL, RAW, ROW, Check, Sink
from lgsid.data.importers.columns import coordinate_checks, number, text, timestamps
from lgsid.data.importers.streams import LineBatch, line_batches, reading
from lgsid.errors import DataError
from lgsid.geo import haversine_km

_WIDTH = f"{INTERNAL}width"
_UTC = f"{INTERNAL}utc"
_FIELDS = f"{INTERNAL}fields"


@dataclass(frozen=True)
class CheckinFormat:
    """The layout of a tab-separated check-in log.

    Attributes:
        name: of the dataset, for messages.
        columns: names of the columns in file order; user_id, item_id, lat_deg, lon_deg and timestamp are among them.
        time_pattern: strftime pattern of the timestamps, None for ISO 8601.
        item_columns: columns that belong to the place and go to the items table.
        event_integers: further columns that belong to the check-in, whole numbers.
    """

    name: str
    columns: tuple[str, ...]
    time_pattern: str | None
    item_columns: tuple[str, ...] = ()
    event_integers: tuple[str, ...] = ()


class Places:
    """The places seen so far, in order of appearance; the first line of a place says where and what it is."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._first: list[pl.DataFrame] = []
        self._lat_deg, self._lon_deg = (np.empty(0, dtype=np.float64) for _ in range(2))
        self._moved: set[int] = set()
        self._farthest_km = 0.0

    def add(self, rows: pl.DataFrame) -> None:
        """Take in the places of a batch (columns item_id, lat_deg, lon_deg and whatever else describes a place)."""
        known, place = len(self._number), self._numbers(rows["item_id"])
        seen_before = np.maximum.accumulate(np.concatenate([[known - 1], place]))[:-1]
        new = _compact(rows.filter(pl.Series(place > seen_before)))
        self._first.append(new)
        self._lat_deg = np.concatenate([self._lat_deg, new["lat_deg"].to_numpy()])
        self._lon_deg = np.concatenate([self._lon_deg, new["lon_deg"].to_numpy()])
        lat, lon = rows["lat_deg"].to_numpy(), rows["lon_deg"].to_numpy()
        moved = (lat != self._lat_deg[place]) | (lon != self._lon_deg[place])
        if moved.any():
            at = place[moved]
            km = haversine_km(lat[moved], lon[moved], self._lat_deg[at], self._lon_deg[at])
            self._moved.update(at.tolist())
            self._farthest_km = max(self._farthest_km, float(km.max()))

    def _numbers(self, ids: pl.Series) -> IntArray:
        """Number of each row's place; new places get the next numbers."""
        number, names = self._number, ids.unique(maintain_order=True)
        numbers = pl.Series([number.setdefault(name, len(number)) for name in names.to_list()], dtype=pl.Int64)
        of_name = pl.DataFrame({"item_id": names, "number": numbers})
        found: IntArray = (
            ids.to_frame().join(of_name, on="item_id", how="left", maintain_order="left")["number"].to_numpy()
        )
        return found

    def frame(self) -> pl.DataFrame | None:
        """The first line of every place, or None where there is none."""
        return pl.concat(self._first) if self._first else None

    def note(self, sink: Sink) -> None:
        """Say how many places moved."""
        if self._moved:
            sink.note(
                f"places that appear with different coordinates: {len(self._moved):,} "
                f"(up to {self._farthest_km:.2f} km apart); the first coordinates stand in items"
            )


def _compact(frame: pl.DataFrame) -> pl.DataFrame:
    """A copy whose text does not keep the whole batch in memory, as a view into it would."""
    return pl.DataFrame(pl.from_arrow(frame.to_arrow(compat_level=pl.CompatLevel.oldest())))


def import_checkins(files: Sequence[Path], sink: Sink, layout: CheckinFormat) -> Places:
    """Stream check-in logs: events go to the sink, places are collected and returned.

    Raises:
        DataError: a file does not look like the format.
        TableError: lines are wrong and the import is strict.
    """
    places, latin1 = Places(), 0
    with reading(files) as advance:
        for file in files:
            for batch in line_batches(file, advance):
                frame, decoded_latin1 = _split(batch, layout)
                latin1 += decoded_latin1
                if batch.first == 1:
                    _refuse_other_formats(frame, layout, file)
                _take_in(frame, layout, file, sink, places)
    if latin1:
        sink.note("the text is not UTF-8 and was read as Latin-1")
    places.note(sink)
    return places


def _split(batch: LineBatch, layout: CheckinFormat) -> tuple[pl.DataFrame, bool]:
    """A batch as text columns, without its empty lines; whether it had to be read as Latin-1."""
    latin1 = False
    try:
        lines = batch.column()
    except UnicodeDecodeError:
        lines, latin1 = LineBatch(batch.first, batch.text.decode("latin-1").encode()).column(), True
    frame = pl.DataFrame({RAW: lines}).with_row_index(ROW, offset=batch.first)
    frame = frame.filter(pl.col(RAW) != "").with_columns(pl.col(RAW).str.split("\t").alias(_FIELDS))
    fields = [pl.col(_FIELDS).list.get(i, null_on_oob=True).alias(name) for i, name in enumerate(layout.columns)]
    return frame.with_columns(*fields, pl.col(_FIELDS).list.len().alias(_WIDTH)).drop(_FIELDS), latin1


def _refuse_other_formats(frame: pl.DataFrame, layout: CheckinFormat, file: Path) -> None:
    head = frame.head(20)
    if head.height and not (head[_WIDTH] == len(layout.columns)).any():
        raise DataError(
            f"{file} is not a {layout.name} file: line {head[ROW][0]} has {head[_WIDTH][0]} tab-separated fields, "
            f"expected {len(layout.columns)} ({', '.join(layout.columns)})",
            "name the right source, or describe the columns: lgsid import table FILE --mapping MAP.yaml",
        )


def _take_in(frame: pl.DataFrame, layout: CheckinFormat, file: Path, sink: Sink, places: Places) -> None:
    frame = frame.with_columns(timestamps(frame["timestamp"], layout.time_pattern).utc.alias(_UTC))
    good = sink.keep_good(frame, _checks(layout), file)
    if good.is_empty():
        return
    integers = [pl.col(name).cast(pl.Int32) for name in layout.event_integers]
    parsed = good.select(
        text("user_id").alias("user_id"),
        text("item_id").alias("item_id"),
        pl.col(_UTC).alias("timestamp"),
        number("lat_deg").alias("lat_deg"),
        number("lon_deg").alias("lon_deg"),
        *(text(name).alias(name) for name in layout.item_columns),
        *integers,
    )
    places.add(parsed.select("item_id", "lat_deg", "lon_deg", *layout.item_columns))
    sink.events(parsed.select("user_id", "item_id", "timestamp", *layout.event_integers))


def _checks(layout: CheckinFormat) -> list[Check]:
    expected = f"expected {len(layout.columns)} tab-separated fields"
    whole = [
        Check(name, pl.col(name), pl.col(name).cast(pl.Int32, strict=False).is_null(), f"{name} is not a whole number")
        for name in layout.event_integers
    ]
    return [
        Check("line", pl.col(RAW), pl.col(_WIDTH) != len(layout.columns), expected),
        Check("user_id", pl.col("user_id"), text("user_id").is_null(), "user_id is empty"),
        Check("item_id", pl.col("item_id"), text("item_id").is_null(), "item_id is empty"),
        *coordinate_checks("lat_deg", "lat_deg", "latitude", required=True),
        *coordinate_checks("lon_deg", "lon_deg", "longitude", required=True),
        Check("timestamp", pl.col("timestamp"), pl.col(_UTC).is_null(), "timestamp does not parse"),
        *whole,
    ]
