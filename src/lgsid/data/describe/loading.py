"""Finding and reading the tables that are to be described, as they are: nothing is checked or dropped."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from lgsid.data.importers.columns import timestamps
from lgsid.data.reading import MALFORMED, ROW, open_table
from lgsid.errors import DataError

_BATCH_ROWS = 400_000


def load(path: Path) -> tuple[pl.DataFrame, pl.LazyFrame | None]:
    """The tables of a folder with items and events files, of a run folder, or of an items file alone.

    Rows are taken as they are: nothing is checked or dropped, what does not parse becomes null.

    Raises:
        DataError: there is no items table, or it lacks item_id, lat_deg or lon_deg.
    """
    items_path, events_path = _find(path)
    items = _read(items_path).collect()
    missing = [name for name in ("item_id", "lat_deg", "lon_deg") if name not in items.columns]
    if missing:
        raise DataError(
            f"{items_path} has no column {', '.join(missing)}; it has {', '.join(items.columns)}",
            "lgsid import table FILE --mapping MAP.yaml --out DIR",
        )
    return _typed(items), None if events_path is None else _read_events(events_path)


def _find(path: Path) -> tuple[Path, Path | None]:
    if path.is_file():
        return path, None
    if not path.is_dir():
        raise DataError(f"no file or folder {path}")
    for folder in (path / "1_data", path):
        items = _table(folder, "items")
        if items is not None:
            return items, _table(folder, "events")
    raise DataError(
        f"no items table in {path}, expected items.parquet or items.csv there or in its folder 1_data",
        "give the folder of the tables, a run folder, or an items file",
    )


def _table(folder: Path, name: str) -> Path | None:
    for ending in (".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz"):
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    return None


def _read(path: Path) -> pl.LazyFrame:
    table = open_table(path)
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    batches = [batch.filter(pl.col(MALFORMED).is_null()) for batch in table.batches(_BATCH_ROWS)]
    if not batches:
        raise DataError(f"{path} has no rows")
    return pl.concat(batches).drop(ROW, MALFORMED).lazy()


def _typed(items: pl.DataFrame) -> pl.DataFrame:
    numbers = ("lat_deg", "lon_deg")
    others = [name for name, dtype in items.schema.items() if dtype == pl.String and name not in ("item_id", *numbers)]
    stripped = [pl.col(name).str.strip_chars() for name in others]
    return items.with_columns(
        pl.col("item_id").cast(pl.String),
        pl.col(numbers).cast(pl.Float64, strict=False),
        *(pl.when(text != "").then(text).alias(name) for name, text in zip(others, stripped, strict=True)),
    )


def _read_events(path: Path) -> pl.LazyFrame:
    events = _read(path)
    schema = events.collect_schema()
    missing = [name for name in ("user_id", "item_id", "timestamp") if name not in schema]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names())}")
    numbers = [name for name in ("amount", "user_lat_deg", "user_lon_deg") if name in schema]
    events = events.with_columns(
        pl.col("user_id", "item_id").cast(pl.String), pl.col(numbers).cast(pl.Float64, strict=False)
    )
    if schema["timestamp"] == pl.Datetime("us", "UTC"):
        return events
    frame = events.collect()
    return frame.with_columns(timestamps(frame["timestamp"], timezone="UTC").utc.alias("timestamp")).lazy()
