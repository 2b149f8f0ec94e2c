"""The importer that follows a mapping file: reads batches, converts columns, checks rows, writes tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from lgsid import geo
from lgsid.data.importers.base import EVENT_TYPES, INTERNAL, ITEM_TYPES, KINDS, Check, Sink
from lgsid.data.importers.columns import UTC, Timestamps, coordinate_checks, number, text, timestamps
from lgsid.data.importers.mapping import (
    VECTOR_PREFIX,
    EventsMapping,
    ItemsMapping,
    Mapping,
    TableMapping,
    assign_files,
    require_columns,
)
from lgsid.data.importers.readers import column_names, read_batches
from lgsid.data.importers.streams import reading

_TO_WGS84 = {"gcj02": geo.gcj02_to_wgs84, "bd09": geo.bd09_to_wgs84}
_PAIRS = (("lat_deg", "lon_deg"), ("user_lat_deg", "user_lon_deg"))
_REQUIRED = ("item_id", "user_id", "lat_deg", "lon_deg", "timestamp")


@dataclass
class _Counts:
    """What happened over all batches of a table and has to be said at the end."""

    ambiguous: int = 0
    repeated: int = 0
    seen: set[str] = field(default_factory=set)


def import_mapped(files: Sequence[Path], sink: Sink, mapping: Mapping) -> None:
    """Import files by a mapping.

    Raises:
        ConfigError: the mapping names columns that a file does not have, or does not fit the files.
        DataError: a file is damaged or not of its format.
        TableError: rows are wrong and the import is strict.
    """
    tables = assign_files(files, mapping)
    plans = [(table, file, _columns_to_read(table, file)) for table, own in tables for file in own]
    counts = {id(table): _Counts() for table, _ in tables}
    with reading([file for _, file, _ in plans]) as advance:
        for table, file, columns in plans:
            for batch in read_batches(table.table_source(file), columns, sink, advance):
                _take_in(batch, table, file, sink, counts[id(table)])
    for table, _ in tables:
        _notes(table, counts[id(table)], sink)


def _columns_to_read(table: TableMapping, file: Path) -> list[str]:
    available = column_names(table.table_source(file))
    require_columns(file, table.sources(), available)
    return available if table.extra == "keep" else [name for name in available if name in table.sources()]


def _take_in(batch: pl.DataFrame, table: TableMapping, file: Path, sink: Sink, counts: _Counts) -> None:
    if batch.is_empty():
        return
    mapped_text = [name for name in table.sources() if batch.schema[name] == pl.String]
    batch = batch.with_columns(pl.col(mapped_text).str.strip_chars())
    times = {
        name: timestamps(batch[source], table.timestamp_format, table.timezone)
        for name, source in table.columns.items()
        if isinstance(source, str) and _types(table).get(name) == UTC
    }
    counts.ambiguous += sum(found.ambiguous for found in times.values())
    marked = batch.with_columns(
        column
        for name, found in times.items()
        for column in (
            found.utc.alias(f"{INTERNAL}utc_{name}"),
            found.zoneless.alias(f"{INTERNAL}zoneless_{name}"),
            found.skipped.alias(f"{INTERNAL}skipped_{name}"),
        )
    )
    good = sink.keep_good(marked, _checks(table, times), file)
    frame = _converted(good, table, sink)
    if isinstance(table, EventsMapping):
        sink.events(frame)
    else:
        sink.items(_first_of_each(frame, counts) if getattr(table, "repeated_ids", "keep") == "first" else frame)


def _types(table: TableMapping) -> dict[str, pl.DataType]:
    return EVENT_TYPES if isinstance(table, EventsMapping) else ITEM_TYPES


def _checks(table: TableMapping, times: dict[str, Timestamps]) -> list[Check]:
    checks: list[Check] = []
    for name, source in table.columns.items():
        if not isinstance(source, str) or name.startswith(VECTOR_PREFIX):
            continue
        shown, dtype = pl.col(source), _types(table)[name]
        empty = text(source).is_null()
        if name in ("item_id", "user_id"):
            checks.append(Check(source, shown, empty, f"{name} is empty"))
        elif name.endswith("_deg"):
            kind = "latitude" if "lat" in name else "longitude"
            checks += coordinate_checks(source, source, kind, required=name in _REQUIRED)  # type: ignore[arg-type]
        elif dtype == pl.Float64:
            checks.append(Check(source, shown, ~empty & ~_finite(source), f"{name} is not a number"))
        elif name in times:
            checks += _time_checks(name, source, empty)
        elif name == "kind":
            allowed = list(KINDS) if not isinstance(table, EventsMapping) else list(table.kind_values or KINDS)
            reason = f"kind is not one of {', '.join(allowed)}"
            checks.append(Check(source, shown, ~empty & ~text(source).is_in(allowed), reason))
    return checks


def _finite(source: str) -> pl.Expr:
    return number(source).is_finite().fill_null(False)


def _time_checks(name: str, source: str, empty: pl.Expr) -> list[Check]:
    null, zoneless, skipped = (pl.col(f"{INTERNAL}{part}_{name}") for part in ("utc", "zoneless", "skipped"))
    unread = null.is_null() & (pl.lit(True) if name in _REQUIRED else ~empty)
    return [
        Check(source, pl.col(source), zoneless, f"{name} has no time zone: set timezone in the mapping"),
        Check(source, pl.col(source), skipped, f"{name} does not exist: daylight saving skips this hour"),
        Check(source, pl.col(source), unread, f"{name} does not parse"),
    ]


def _converted(batch: pl.DataFrame, table: TableMapping, sink: Sink) -> pl.DataFrame:
    """Good rows in contract columns, then the other source columns if they are kept."""
    columns = [_column(name, source, table).alias(name) for name, source in table.columns.items()]
    constants = [pl.lit(value).alias(name) for name, value in table.constants.items()]
    extra = _extra(batch, table, sink) if table.extra == "keep" else []
    return _in_wgs84(batch.select(*columns, *constants, *extra), table.datum)


def _extra(batch: pl.DataFrame, table: TableMapping, sink: Sink) -> list[pl.Expr]:
    """Source columns that are not mapped; one with the name of a contract column gets another name."""
    names = [name for name in batch.columns if name not in table.sources() and not name.startswith(INTERNAL)]
    taken = {*_types(table), *table.columns}
    for name in names:
        if name in taken:
            sink.note(f"the column {name!r} of the source is not mapped; it was kept as 'source_{name}'")
    return [pl.col(name).alias(f"source_{name}" if name in taken else name) for name in names]


def _column(name: str, source: str | tuple[str, ...], table: TableMapping) -> pl.Expr:
    if not isinstance(source, str):
        return pl.concat_str([text(part) for part in source], separator=_between(name), ignore_nulls=True).replace(
            "", None
        )
    if name.startswith(VECTOR_PREFIX):
        return pl.col(source)
    if name == "kind" and isinstance(table, EventsMapping) and table.kind_values is not None:
        return text(source).replace(table.kind_values)
    if name == "category" and isinstance(table, ItemsMapping) and table.category_separator is not None:
        levels = text(source).str.split(table.category_separator).list.eval(pl.element().str.strip_chars())
        return levels.list.eval(pl.element().filter(pl.element() != "")).list.join(_between(name)).replace("", None)
    dtype = _types(table)[name]
    if dtype == UTC:
        return pl.col(f"{INTERNAL}utc_{name}")
    return number(source) if dtype == pl.Float64 else text(source)


def _between(name: str) -> str:
    return " > " if name == "category" else " "


def _in_wgs84(frame: pl.DataFrame, datum: str) -> pl.DataFrame:
    if datum not in _TO_WGS84:
        return frame
    for lat, lon in _PAIRS:
        if lat in frame.columns and lon in frame.columns:
            points = (frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in (lat, lon))
            moved = _TO_WGS84[datum](*points)
            frame = frame.with_columns(
                pl.Series(name, values).fill_nan(None) for name, values in zip((lat, lon), moved, strict=True)
            )
    return frame


def _first_of_each(frame: pl.DataFrame, counts: _Counts) -> pl.DataFrame:
    """Rows whose item has not been seen before."""
    first = frame.unique("item_id", keep="first", maintain_order=True)
    new = first.filter(pl.Series([item not in counts.seen for item in first["item_id"]], dtype=pl.Boolean))
    counts.seen.update(new["item_id"])
    counts.repeated += frame.height - new.height
    return new


def _notes(table: TableMapping, counts: _Counts, sink: Sink) -> None:
    if table.datum != "wgs84":
        sink.note(f"coordinates were converted from {table.datum.upper()} to WGS-84")
    if table.timezone is not None:
        sink.note(f"timestamps without an offset were read as {table.timezone} and converted to UTC")
    if counts.ambiguous:
        sink.note(f"{counts.ambiguous:,} local times exist twice (end of daylight saving); the earlier was taken")
    if counts.repeated:
        sink.note(f"{counts.repeated:,} further lines of items already seen gave no item (repeated_ids: first)")
