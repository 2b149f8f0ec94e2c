"""Timestamps of users' tables as UTC instants: what is accepted, and what counts as not UTC.

Accepted are Parquet dates and datetimes, numbers (Unix time in s, ms, µs or ns, told apart by their size) and text in
year-first form (``2026-01-31 18:00:09.5``, ``2026-01-31T18:00Z``, ``2026/1/31``) or Unix time. A time without a zone is
UTC by contract; a zone other than UTC is never converted here: it is the importer that knows what a table means.
"""

from __future__ import annotations

import polars as pl

from lgsid.errors import DataError

FIRST_YEAR, LAST_YEAR = 1990, 2100
"""Timestamps outside these years are mistakes (dates read as Unix time, milliseconds read as seconds …)."""

UTC = pl.Datetime("us", "UTC")
_UTC_NAMES = ("UTC", "Etc/UTC", "GMT", "Etc/GMT", "Zulu", "Etc/Zulu", "Universal", "Etc/Universal", "+00:00", "Z")
_ZONE = r"(?i):\d{2}(?:[.,]\d+)?\s*([a-z][a-z/_+-]*\d*|[+-]\d{2}(?::?\d{2})?)\s*$"
_USUAL = ("%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f UTC")
_UTC_ZONE = r"(?i)^(?:z|utc|gmt|[+-]00:?(?:00)?)$"


def parse_timestamps(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Read a column of timestamps.

    Returns:
        the instants (Datetime[us, UTC], null where missing or not understood), and whether a value has a zone that is
        not UTC; its instant is not to be used.

    Raises:
        DataError: no timestamps can be made of a column of such a type.
    """
    dtype = column.dtype
    utc = pl.repeat(False, len(column), eager=True)
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is None or dtype.time_zone in _UTC_NAMES:
            return column.dt.replace_time_zone(None).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), utc
        return column.dt.convert_time_zone("UTC").cast(UTC), column.is_not_null()
    if dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), utc
    if dtype.is_numeric() or dtype == pl.Null:
        return column.to_frame("t").select(_from_unix(pl.col("t").cast(pl.Float64))).to_series(), utc
    if dtype == pl.String:
        return _from_texts(column)
    raise DataError(f"column {column.name!r} holds {dtype}, expected timestamps", f"write {column.name} as UTC times")


def in_range(instant: pl.Expr) -> pl.Expr:
    """Whether an instant lies in the years that can be meant; null stays null."""
    return instant.dt.year().is_between(FIRST_YEAR, LAST_YEAR)


def _from_unix(number: pl.Expr) -> pl.Expr:
    """Instants of Unix times; between 1990 and 2100 the four units cannot be confused."""
    size = number.abs()
    scale = pl.when(size < 1e11).then(1_000_000.0).when(size < 1e14).then(1_000.0).when(size < 1e17).then(1.0)
    micros = (number * scale.otherwise(0.001)).round()
    sane = micros.is_finite() & (micros.abs() < 9e18)
    return pl.when(sane).then(micros).cast(pl.Int64, strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _from_texts(column: pl.Series) -> tuple[pl.Series, pl.Series]:
    """One format covers nearly every column and is quick; only what it leaves is looked at form by form."""
    first = column.drop_nulls().head(1)
    tried = (first.str.to_datetime(form, strict=False) for form in _USUAL)
    usual = next((form for form, found in zip(_USUAL, tried, strict=True) if found.count()), None)
    if usual is None:
        instant = pl.Series(column.name, [None], dtype=UTC).new_from_index(0, len(column))
    else:
        instant = column.str.to_datetime(usual, time_unit="us", strict=False).dt.replace_time_zone("UTC")
    left = (instant.is_null() & column.is_not_null()).arg_true()
    non_utc = pl.repeat(False, len(column), eager=True)
    if len(left):
        found = column[left].to_frame("t").select(zone=pl.col("t").str.extract(_ZONE), text="t")
        found = found.select(instant=_from_text(pl.col("text"), pl.col("zone")), local=_is_local(pl.col("zone")))
        instant = instant.scatter(left, found["instant"])
        non_utc = non_utc.scatter(left, found["local"])
    return instant, non_utc


def _is_local(zone: pl.Expr) -> pl.Expr:
    return (~zone.str.contains(_UTC_ZONE) & ~zone.str.contains(r"(?i)^[ap]\.?m\.?$")).fill_null(False)


def _from_text(text: pl.Expr, zone: pl.Expr) -> pl.Expr:
    without_zone = text.str.replace(r"(?i)\s*(?:z|utc|gmt|[+-]\d{2}:?\d*)\s*$", "")
    plain = pl.when(zone.str.contains(_UTC_ZONE)).then(without_zone).otherwise(text).str.strip_chars()
    plain = plain.str.replace(r"^(\d{4})/(\d{1,2})/", "${1}-${2}-")
    plain = plain.str.replace(r"[Tt]", " ").str.replace(",", ".", literal=True)
    dated = pl.when(plain.str.contains(r"^\d{4}-\d{1,2}-\d{1,2}(?: +\d|$)")).then(plain)
    forms = [
        dated.str.to_datetime(form, time_unit="us", strict=False) for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    ]
    day = dated.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
    unix = pl.when(plain.str.contains(r"^-?\d+(?:\.\d*)?$")).then(plain).cast(pl.Float64, strict=False)
    return pl.coalesce(pl.coalesce(*forms, day).dt.replace_time_zone("UTC"), _from_unix(unix))
