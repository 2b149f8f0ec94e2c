"""Interpretation: raw cells become typed columns beside them, null where they are blank or not understood.

Nothing is judged here; `checks` does that on the frames made here.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from lgsid.arrays import DoubleArray
from lgsid.config import DataConfig
from lgsid.data.checks import FIRST_ROW, ITEM_STATE, ITEM_TEXTS, NON_UTC, SWAP_EVIDENCE, raw, spreadsheet_error
from lgsid.data.reading import MALFORMED, ROW
from lgsid.data.regions import SwapFinder
from lgsid.data.timestamps import parse_timestamps
from lgsid.errors import DataError
from lgsid.geo import bd09_to_wgs84, gcj02_to_wgs84

ITEM_REQUIRED = ("item_id", "title", "lat_deg", "lon_deg")
EVENT_REQUIRED = ("user_id", "item_id", "timestamp")
EVENT_COLUMNS = (*EVENT_REQUIRED, "kind", "amount", "user_lat_deg", "user_lon_deg")
NAMED = "__named"
ABSENT = "not in the items table"


def interpret_items(cells: pl.DataFrame, path: Path, config: DataConfig) -> pl.DataFrame:
    """Typed and raw columns of a whole items table, with the evidence that needs all its rows."""
    schema = cells.schema
    numbers = [name for name in ("lat_deg", "lon_deg", "price") if name in schema]
    frame = _side_by_side(cells, {"item_id", *ITEM_TEXTS, *numbers}).with_columns(
        _identifier("item_id", schema),
        *(_text(name, cells) for name in ITEM_TEXTS),
        *(_number(name, schema) for name in numbers),
        *(_vector(name, schema, path) for name in schema if name.startswith("vector_")),
    )
    frame = frame.with_columns(pl.col("title").is_not_null().alias(NAMED))
    if config.empty_title == "category":
        leaf = pl.col("category").str.split(">").list.last().str.strip_chars()
        frame = frame.with_columns(title=pl.coalesce("title", pl.when(leaf != "").then(leaf)))
    frame = _with_first_row(frame)
    swaps = SwapFinder(*_in_range(frame, "lat_deg", "lon_deg")[1:]) if config.find_swapped else None
    return _with_swaps(frame, "lat_deg", "lon_deg", swaps)


def interpret_events(cells: pl.DataFrame, known_items: pl.DataFrame, swaps: SwapFinder | None) -> pl.DataFrame:
    """Typed and raw columns of an events batch; ``known_items`` gives the `ITEM_STATE` of every item id."""
    schema = cells.schema
    instant, non_utc = parse_timestamps(cells["timestamp"])
    numbers = [name for name in ("amount", "user_lat_deg", "user_lon_deg") if name in schema]
    kind = [_text("kind", cells).str.to_lowercase()] if "kind" in schema else []
    frame = _side_by_side(cells, set(EVENT_COLUMNS)).with_columns(
        _identifier("user_id", schema),
        _identifier("item_id", schema),
        instant.alias("timestamp"),
        non_utc.alias(NON_UTC),
        *kind,
        *(_number(name, schema) for name in numbers),
    )
    frame = frame.join(known_items, on="item_id", how="left", maintain_order="left")
    frame = frame.with_columns(pl.col(ITEM_STATE).fill_null(ABSENT))
    return _with_swaps(frame, "user_lat_deg", "user_lon_deg", swaps)


def _side_by_side(cells: pl.DataFrame, known: set[str]) -> pl.DataFrame:
    """Raw columns under their raw names, and beside them the columns that lgsid does not know, as they are."""
    names = [name for name in cells.columns if name not in (ROW, MALFORMED)]
    others = [_blank_to_null(cells[name]) for name in names if name not in known]
    return cells.select(ROW, MALFORMED, *(pl.col(name).alias(raw(name)) for name in names), *others)


def _blank_to_null(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String or not (column == "").any():
        return column
    return column.to_frame().select(pl.when(pl.first() != "").then(pl.first())).to_series()


def _expect(name: str, dtype: pl.DataType, expected: str) -> DataError:
    join = ", e.g. joined by ' > '" if name == "category" else ""
    return DataError(f"column {name!r} holds {dtype}, expected {expected}", f"write {name} as {expected}{join}")


def _identifier(name: str, schema: pl.Schema) -> pl.Expr:
    dtype, column = schema[name], pl.col(raw(name))
    if dtype == pl.String:
        return pl.when(column.str.strip_chars() != "").then(column).alias(name)
    if dtype.is_integer() or dtype == pl.Null:
        return column.cast(pl.String).alias(name)
    if dtype.is_float() or dtype.is_decimal():
        number = column.cast(pl.Float64)
        exact = number.is_finite() & (number == number.floor()) & (number.abs() < 2**53)
        return pl.when(exact).then(number).cast(pl.Int64).cast(pl.String).alias(name)
    raise _expect(name, dtype, "text or whole numbers")


def _text(name: str, cells: pl.DataFrame) -> pl.Series:
    """Text without surrounding white space; blank is null. A column that is tidy already is not copied."""
    if name not in cells.columns:
        return pl.Series(name, [None], dtype=pl.String).new_from_index(0, cells.height)
    if cells.schema[name].is_nested() or cells.schema[name] == pl.Binary:
        raise _expect(name, cells.schema[name], "text")
    column = cells[name].cast(pl.String)
    untidy = column.str.contains(r"^\s|\s$|^$").any()
    return _blank_to_null(column.str.strip_chars()) if untidy else column


def _number(name: str, schema: pl.Schema) -> pl.Expr:
    dtype, column = schema[name], pl.col(raw(name))
    if dtype == pl.String:
        return column.str.strip_chars().cast(pl.Float64, strict=False).alias(name)
    if dtype.is_numeric() or dtype == pl.Null:
        return column.cast(pl.Float64).alias(name)
    raise _expect(name, dtype, "numbers")


def _vector(name: str, schema: pl.Schema, path: Path) -> pl.Expr:
    dtype = schema[name]
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else None
    if isinstance(inner, pl.DataType) and inner.is_numeric():
        return pl.col(raw(name)).cast(pl.List(pl.Float32)).alias(name)
    raise DataError(f"{path}: column {name!r} holds {dtype}, expected lists of numbers", "write vectors as Parquet")


def _with_first_row(frame: pl.DataFrame) -> pl.DataFrame:
    """Add the first row with the same id to every later one; null on the first."""
    usable = pl.col(MALFORMED).is_null() & pl.col("item_id").is_not_null() & ~spreadsheet_error(pl.col("item_id"))
    ids = frame.filter(usable).select(ROW, "item_id")
    again = ids.filter(~ids["item_id"].is_first_distinct())
    if not again.height:
        return frame.with_columns(pl.lit(None, dtype=pl.Int64).alias(FIRST_ROW))
    first = ids.filter(ids["item_id"].is_in(again["item_id"].implode())).unique("item_id", keep="first")
    pairs = again.join(first.rename({ROW: FIRST_ROW}), on="item_id").select(ROW, FIRST_ROW)
    return frame.join(pairs, on=ROW, how="left", maintain_order="left")


def _in_range(frame: pl.DataFrame, lat: str, lon: str) -> tuple[pl.Series, DoubleArray, DoubleArray]:
    """Rows with usable coordinates, and those coordinates."""
    inside = frame.select(
        (pl.col(MALFORMED).is_null() & (pl.col(lat).abs() <= 90) & (pl.col(lon).abs() <= 180)).fill_null(False)
    ).to_series()
    return inside, frame[lat].filter(inside).to_numpy(), frame[lon].filter(inside).to_numpy()


def _with_swaps(frame: pl.DataFrame, lat: str, lon: str, swaps: SwapFinder | None) -> pl.DataFrame:
    evidence = pl.Series(SWAP_EVIDENCE, [None], dtype=pl.String).new_from_index(0, frame.height)
    if swaps is not None and lat in frame.columns:
        inside, lat_deg, lon_deg = _in_range(frame, lat, lon)
        swapped, texts = swaps.find(lat_deg, lon_deg)
        if swapped.any():
            evidence = evidence.scatter(inside.arg_true().to_list(), texts)
    return frame.with_columns(evidence)


def to_wgs84(frame: pl.DataFrame, lat: str, lon: str, config: DataConfig) -> pl.DataFrame:
    """The frame with its coordinates converted from the datum of the configuration; null stays null."""
    if config.datum == "wgs84" or lat not in frame.columns:
        return frame
    convert = gcj02_to_wgs84 if config.datum == "gcj02" else bd09_to_wgs84
    lat_deg, lon_deg = convert(frame[lat].to_numpy(), frame[lon].to_numpy())
    return frame.with_columns(pl.Series(lat, lat_deg).fill_nan(None), pl.Series(lon, lon_deg).fill_nan(None))
