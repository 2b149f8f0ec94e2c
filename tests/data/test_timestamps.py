"""Timestamps: every form that is accepted, refused, or not UTC."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.data.timestamps import UTC, in_range, parse_timestamps
from lgsid.errors import DataError

NOON = dt.datetime(2026, 1, 5, 12, 30, 15, tzinfo=dt.UTC)
SECONDS = int(NOON.timestamp())


def parse(values: list[object], dtype: pl.DataType | None = None) -> tuple[list[object], list[bool]]:
    instants, non_utc = parse_timestamps(pl.Series("timestamp", values, dtype=dtype))
    assert instants.dtype == UTC
    assert len(instants) == len(non_utc) == len(values)
    return instants.to_list(), non_utc.to_list()


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-05 12:30:15", "2026-01-05T12:30:15", "2026-01-05T12:30:15Z", "2026-01-05t12:30:15z",
        "2026-01-05 12:30:15 UTC", "2026-01-05 12:30:15 GMT", "2026-01-05T12:30:15+00:00", "2026-01-05T12:30:15-0000",
        "2026-01-05T12:30:15.000000", "2026-01-05T12:30:15,000Z", "2026/01/05 12:30:15", "2026-1-5 12:30:15",
        "  2026-01-05 12:30:15\n", str(SECONDS), f"{SECONDS}.0", f"{SECONDS}000", f"{SECONDS}000000",
        f"{SECONDS}000000000",
    ],
)  # fmt: skip
def test_texts_of_one_instant(text: str) -> None:
    assert parse([text]) == ([NOON], [False])
    # the quick path must not change what the careful one says
    assert parse(["2026-01-05 00:00:00", text, None]) == (
        [NOON.replace(hour=0, minute=0, second=0), NOON, None],
        [False] * 3,
    )


def test_shorter_and_longer_forms() -> None:
    assert parse(["2026-01-05", "2026-01-05 12:30", "2026-01-05T12:30:15.123456789Z", f"{SECONDS}.25"])[0] == [
        NOON.replace(hour=0, minute=0, second=0),
        NOON.replace(second=0),
        NOON.replace(microsecond=123456),
        NOON.replace(microsecond=250000),
    ]


@pytest.mark.parametrize(
    "text",
    ["yesterday", "", " ", "05/01/2026 12:30", "2026-02-30 10:00:00", "2026-01-05T24:00:00", "2026-01-05 6:30:15 PM",
     "Mon Jan 05 12:30:15 +0000 2026", "NaN", "inf", "2026", "20260105T123015", "2026-01-05 12:30:15;", "1e9"],
)  # fmt: skip
def test_texts_not_understood(text: str) -> None:
    instants, non_utc = parse([text, "2026-01-05 12:30:15"])
    if text == "2026":  # Unix time, half an hour into 1970: out of range instead
        assert instants[0] == dt.datetime(1970, 1, 1, 0, 33, 46, tzinfo=dt.UTC)
    else:
        assert instants == [None, NOON]
    assert non_utc == [False, False]


@pytest.mark.parametrize(
    "zone", ["+08:00", "-0500", "+05", " +05:30", " PST", " Asia/Shanghai", " Etc/GMT+5", "-00:30", " CET"]
)
def test_texts_in_another_zone(zone: str) -> None:
    assert parse([f"2026-01-05 12:30:15{zone}", f"2026-01-05T12:30{zone}"])[1] == [True, True]


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_datetimes(unit: str) -> None:
    naive = pl.Series("timestamp", [NOON.replace(tzinfo=None), None]).cast(pl.Datetime(unit))
    assert parse_timestamps(naive)[0].to_list() == [NOON, None]
    for zone in ("UTC", "Etc/UTC", "GMT"):
        assert parse_timestamps(naive.dt.replace_time_zone(zone))[0].to_list() == [NOON, None]
    instants, non_utc = parse_timestamps(naive.dt.replace_time_zone("Asia/Shanghai"))
    assert instants.dtype == UTC
    assert non_utc.to_list() == [True, False]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([SECONDS, None], pl.Int64()), ([SECONDS * 1000, None], pl.Int64()), ([SECONDS * 10**6, None], pl.UInt64()),
        ([SECONDS * 10**9, None], pl.Int64()), ([float(SECONDS), None], pl.Float64()), ([SECONDS, None], pl.UInt32()),
    ],
)  # fmt: skip
def test_unix_times_in_any_unit(values: list[object], dtype: pl.DataType) -> None:
    assert parse(values, dtype)[0] == [NOON, None]


def test_other_types() -> None:
    assert parse([NOON.date()])[0] == [NOON.replace(hour=0, minute=0, second=0)]
    assert parse([None], pl.Null())[0] == [None]
    assert parse([float("nan"), float("inf"), -1e300])[0] == [None, None, None]
    assert parse([], pl.String())[0] == []
    for wrong in (pl.Series("timestamp", [True]), pl.Series("timestamp", [[1]]), pl.Series("timestamp", [dt.time(1)])):
        with pytest.raises(DataError, match=r"column 'timestamp' holds .*, expected timestamps"):
            parse_timestamps(wrong)


@settings(deadline=None)
@given(st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2100, 12, 31)), st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_every_meant_instant_survives(instant: dt.datetime, unit: int) -> None:
    exact = instant.replace(tzinfo=dt.UTC)
    assert parse([instant.isoformat(), f"{instant} UTC", exact.isoformat()])[0] == [exact] * 3
    second = exact.replace(microsecond=0)
    number = pl.Series("timestamp", [int(second.timestamp()) * unit])
    found = parse_timestamps(number)[0]
    assert abs(found.item() - second) < dt.timedelta(microseconds=2)
    assert found.to_frame("t").select(in_range(pl.col("t"))).item()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9/:TZ .+-]{0,25}", fullmatch=True)), max_size=6))
def test_any_text_is_read_or_refused(texts: list[str]) -> None:
    alone = [parse([text]) for text in texts]
    together = parse(list(texts), pl.String())
    assert together == ([found[0][0] for found in alone], [found[1][0] for found in alone])
