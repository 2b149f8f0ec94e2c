"""Turning columns of text into the contract's types, whole columns at a time; what does not parse becomes null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import polars as pl

from lgsid.data.importers.base import Check

UTC = pl.Datetime("us", "UTC")
_ISO_AWARE = ("%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M%#z")
_ISO_NAIVE = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_UNIX_SECOND_US = {"unix_s": 1_000_000, "unix_ms": 1_000}


@dataclass(frozen=True)
class Timestamps:
    """A parsed column of points in time.

    Attributes:
        utc: the values in UTC; null where the text is empty or wrong.
        zoneless: true where the value names no time zone and none was given.
        skipped: true where the local time does not exist (the hour that daylight saving skips).
        ambiguous: number of local times that exist twice; the earlier was taken.
    """

    utc: pl.Series
    zoneless: pl.Series
    skipped: pl.Series
    ambiguous: int


def text(column: str) -> pl.Expr:
    """Text without surrounding white space; empty text is null."""
    stripped = pl.col(column).cast(pl.String).str.strip_chars()
    return pl.when(stripped != "").then(stripped)


def number(column: str) -> pl.Expr:
    """Numbers as Float64; null where the text is no number."""
    return pl.col(column).cast(pl.Float64, strict=False)


def coordinate_checks(column: str, source: str, kind: Literal["latitude", "longitude"], required: bool) -> list[Check]:
    """Checks of a parsed coordinate column: a finite number of degrees in range.

    Args:
        column: the text column.
        source: its name in the file.
        kind: latitude (±90°) or longitude (±180°).
        required: whether an empty value is wrong.
    """
    limit, value = 90.0 if kind == "latitude" else 180.0, number(column)
    broken = value.is_null() if required else value.is_null() & text(column).is_not_null()
    return [
        Check(source, pl.col(column), broken | value.is_nan(), f"{kind} is not a number"),
        Check(source, pl.col(column), value.abs() > limit, f"{kind} is outside ±{limit:g}°"),
    ]


def timestamps(column: pl.Series, pattern: str | None = None, timezone: str | None = None) -> Timestamps:
    """Parse a column of points in time.

    Args:
        column: text, whole numbers (Unix time), dates or datetimes.
        pattern: None for ISO 8601, ``unix_s`` or ``unix_ms`` for seconds or milliseconds since 1970, else a strftime
            pattern such as ``%d/%m/%Y %H:%M``.
        timezone: IANA name of the zone of values that carry no offset of their own.
    """
    if pattern in _UNIX_SECOND_US:
        micros = column.cast(pl.Float64, strict=False) * _UNIX_SECOND_US[pattern]
        utc = micros.round().cast(pl.Int64, strict=False).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        never = pl.Series([False]).new_from_index(0, len(column))
        return Timestamps(utc, never, never, 0)
    aware, naive = _parse(column, pattern)
    return _in_utc(aware, naive, timezone)


def _parse(column: pl.Series, pattern: str | None) -> tuple[pl.Series, pl.Series]:
    """Values with their own offset, in UTC, and values without one."""
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
        return column.cast(pl.Datetime("us", column.dtype.time_zone)).dt.convert_time_zone("UTC"), _none(column)
    if isinstance(column.dtype, (pl.Datetime, pl.Date)):
        return _none(column).dt.replace_time_zone("UTC"), column.cast(pl.Datetime("us"))
    values = column.cast(pl.String).str.strip_chars()
    if pattern is not None and "%z" in pattern.replace("%#z", "%z").replace("%:z", "%z"):
        return values.str.to_datetime(pattern, strict=False, time_unit="us"), _none(column)
    if pattern is not None:
        return _none(column).dt.replace_time_zone("UTC"), _strptime(values, (pattern,))
    iso = (
        values.str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T")
        .str.replace("[zZ]$", "+0000")
        .str.replace(" UTC$", "+0000")
    )
    return _strptime(iso, _ISO_AWARE).cast(UTC), _strptime(iso, _ISO_NAIVE)


def _strptime(values: pl.Series, patterns: tuple[str, ...]) -> pl.Series:
    parsed = _none(values)
    for i, pattern in enumerate(patterns):
        todo = values if i == 0 else values.zip_with(parsed.is_null(), pl.Series([None], dtype=pl.String))
        found = todo.str.to_datetime(pattern, strict=False, time_unit="us")
        parsed = found if i == 0 else parsed.zip_with(parsed.is_not_null(), found)
        if parsed.null_count() == values.null_count():
            break
    return parsed


def _none(column: pl.Series) -> pl.Series:
    return pl.Series([None], dtype=pl.Datetime("us")).new_from_index(0, len(column))


def _in_utc(aware: pl.Series, naive: pl.Series, timezone: str | None) -> Timestamps:
    never = pl.Series([False]).new_from_index(0, len(aware))
    if timezone is None or naive.null_count() == len(naive):
        return Timestamps(aware, naive.is_not_null(), never, 0)
    local = naive.dt.replace_time_zone(timezone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
    later = naive.dt.replace_time_zone(timezone, ambiguous="latest", non_existent="null").dt.convert_time_zone("UTC")
    return Timestamps(
        utc=aware.zip_with(aware.is_not_null(), local),
        zoneless=never,
        skipped=naive.is_not_null() & local.is_null(),
        ambiguous=int((local != later).sum()),
    )
