"""Samples: what is past, where the user is, the periods, cold items."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy_visits import CONFIG, SHARE, START, events_of, history, past_of, samples, seconds_of

from lgsid.artifact import RunFolder
from lgsid.config import SampleConfig, SidConfig
from lgsid.errors import ArtifactError, DataError
from lgsid.geo import haversine_km
from lgsid.rank.samples import GROUP, PERIODS, VISITS, write_samples
from lgsid.rank.visits import map_visits
from lgsid.sid.stage import training_visits
from tests.toy import toy_city


@pytest.fixture
def items() -> pl.DataFrame:
    return toy_city(40)[0]


# --- Requests ---------------------------------------------------------------------------------------------------------
def test_a_small_diary(items: pl.DataFrame, tmp_path: Path) -> None:
    """Ann and Bob, by hand."""
    ann = [("i3", 10.5), ("i7", 20.0), ("i7", 20.9), ("i3", 20.2), ("i3", 40.0), ("i11", 50.0)]
    rows = [("bob", "i5", 1.0), ("bob", "i9", 2.0), *(("ann", item, second) for item, second in ann)]
    rows += [("bob", f"i{1 + 4 * k}", 1_000.0 + k) for k in range(40)]  # the training period ends in here
    rows += [("ann", "i7", 3_000.0), *(("bob", f"i{1 + 4 * k}", 4_000.0 + k) for k in range(20))]
    rows += [("ann", "i3", 5_000.0), ("ann", "i2", 5_001.0)]
    found = samples(items, events_of(rows), tmp_path)
    at = {
        (name, seconds_of(row["time"]), row["candidates"][0]): row
        for name, table in found.items()
        for row in table.iter_rows(named=True)
        if row["user"] == 1  # bob came first
    }
    start = int(START.timestamp())
    moment = {second: start + second for second in (10, 20, 40, 50, 3_000, 5_000)}
    expected = {
        ("train", 20, 7): ([(3, 10)], True),  # twice, at half a second's distance: neither is the other's past
        ("train", 20, 3): ([(3, 10)], False),
        ("train", 40, 3): ([(3, 10), (7, 20), (3, 20), (7, 20)], False),
        ("train", 50, 11): ([(3, 10), (7, 20), (3, 20), (7, 20), (3, 40)], True),
        ("validation", 3_000, 7): ([(3, 10), (7, 20), (3, 20), (7, 20), (3, 40), (11, 50)], False),
        ("test", 5_000, 3): ([(3, 10), (7, 20), (3, 20), (7, 20), (3, 40), (11, 50), (7, 3_000)], False),
        ("cold", 5_001, 2): ([(3, 10), (7, 20), (3, 20), (7, 20), (3, 40), (11, 50), (7, 3_000), (3, 5_000)], True),
    }
    assert set(at) == set(expected)
    for key, (past, first_visit) in expected.items():
        row = at[key]
        assert past_of(row, tmp_path) == [(item, moment[second]) for item, second in past]
        assert row["first_visit"] is first_visit
        last = items.row(past[-1][0], named=True)
        assert (row["here_lat_deg"], row["here_lon_deg"]) == (last["lat_deg"], last["lon_deg"])
    assert found["train"].filter(pl.col("user") == 1).height == 5, "both visits of second 20 are requests"


def test_files_are_as_the_contract_says(items: pl.DataFrame, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    events = history(160, 3_000)
    found = samples(items, events, tmp_path)
    integers = dict.fromkeys(("user", "first", "stop", "time"), pl.Int64)
    expected = {**integers, "here_lat_deg": pl.Float64, "here_lon_deg": pl.Float64,
                "candidates": pl.Array(pl.Int32, 5), "first_visit": pl.Boolean}  # fmt: skip
    for name, table in found.items():
        assert dict(table.schema) == expected, name
    file = pq.ParquetFile(tmp_path / "train.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups - 1)] == [GROUP] * (
        file.num_row_groups - 1
    )
    item_E, time_E = map_visits(tmp_path / VISITS, "")
    assert (item_E.dtype, time_E.dtype, len(item_E)) == (np.int32, np.int64, 3_000)
    # a group is a random part of the period
    first = file.read_row_group(0).column("time").to_numpy()
    assert first.min() < np.quantile(found["train"]["time"], 0.05)
    assert first.max() > np.quantile(found["train"]["time"], 0.95)
    assert not (np.diff(first) > 0).all()
    users = file.read_row_group(0).column("user").to_numpy()
    assert len(np.unique(users)) == 9, "requests are not shuffled"


def test_periods_follow_the_tokenisers_cut(items: pl.DataFrame, tmp_path: Path) -> None:
    events = history(160, 2_000, seed=1).sample(fraction=1.0, shuffle=True, seed=3)  # the file's order does not matter
    run = RunFolder(tmp_path / "run")
    (tmp_path / "run" / "1_data").mkdir(parents=True)
    events.write_parquet(run.path("1_data", "events.parquet"))
    learnt = training_visits(run, SidConfig(training_share=SHARE))
    assert learnt is not None
    found = samples(items, events, tmp_path)
    ends = {
        name: (seconds_of(table["time"].min()), seconds_of(table["time"].max()))
        for name, table in found.items()
        if len(table)
    }
    assert ends["train"][1] == (learnt["timestamp"].max() - START).total_seconds()
    assert ends["train"][1] < ends["validation"][0] <= ends["validation"][1] < ends["test"][0]
    assert len(learnt) == found["train"].height + 9, "each user's first visit has no past"
    assert found["validation"].height == pytest.approx(0.2 * 2_000, abs=1)


def test_warm_and_cold_items_keep_apart(items: pl.DataFrame, tmp_path: Path) -> None:
    late = [f"i{k}" for k in range(120, 160)]
    events = history(160, 4_000, seed=2)
    training = pl.col("timestamp") <= events["timestamp"].quantile(SHARE, "lower")
    events = events.with_columns(
        pl.when(training & pl.col("item_id").is_in(late)).then(pl.lit("i0")).otherwise("item_id").alias("item_id")
    )
    found = samples(items, events, tmp_path)
    for name, table in found.items():
        assert len(table) > 100
        assert ((table["candidates"].to_numpy() >= 120) == (name == "cold")).all()
    assert found["cold"]["time"].min() > found["train"]["time"].max()
    figures = write_samples(items, events, CONFIG, SHARE, 0, tmp_path)
    assert figures["requests"] == {name: len(table) for name, table in found.items()}
    assert figures["warm_items"] == 120
    later = sum(len(found[name]) for name in ("validation", "test", "cold"))
    assert figures["cold_share"] == pytest.approx(len(found["cold"]) / later)
    assert figures["first_visit_share"] == pytest.approx(
        {name: table["first_visit"].mean() for name, table in found.items()}
    )


def test_requests_need_their_minimum_of_past(items: pl.DataFrame, tmp_path: Path) -> None:
    found = samples(items, history(160, 2_000), tmp_path, CONFIG.model_copy(update={"min_past": 30}))
    lengths = pl.concat(found.values()).select(pl.col("stop") - pl.col("first")).to_series()
    assert lengths.min() == 30
    assert found["train"].height == 1_200 - 9 * 30


def test_negatives_are_near_and_in_the_city(items: pl.DataFrame, tmp_path: Path) -> None:
    found = samples(items, history(160, 3_000), tmp_path)
    lat, lon, city = (items[name].to_numpy() for name in ("lat_deg", "lon_deg", "city"))
    for table in found.values():
        rows = table["candidates"].to_numpy()
        assert all(len(set(row)) == 5 for row in rows.tolist())
        km = haversine_km(
            table["here_lat_deg"].to_numpy()[:, None], table["here_lon_deg"].to_numpy()[:, None], lat[rows], lon[rows]
        )
        assert (km[:, 1:3] <= CONFIG.reach_km).all()
        item_E, _ = map_visits(tmp_path / VISITS, "")
        assert (city[rows[:, 3:]] == city[item_E[table["stop"].to_numpy() - 1]][:, None]).all()
    far = pl.concat(found.values())["candidates"].to_numpy()[:, 3:]
    assert len(np.unique(far)) == 160


def test_the_event_says_where_the_user_is(items: pl.DataFrame, tmp_path: Path) -> None:
    events = history(160, 2_000)
    place = items.row(2, named=True)  # of another city than most users'
    known = np.arange(2_000) % 3 == 0
    lat = [place["lat_deg"] + 0.01 if yes else None for yes in known]
    lon = [place["lon_deg"] if yes and k % 2 else None for k, yes in enumerate(known)]
    events = events.with_columns(pl.Series("user_lat_deg", lat), pl.Series("user_lon_deg", lon))
    found = pl.concat(samples(items, events, tmp_path).values())
    told = pl.Series((found["time"].to_numpy() - int(START.timestamp())) // 60 % 6 == 3)
    assert 0 < told.sum() < len(found)
    assert (found.filter(told)["here_lat_deg"] == place["lat_deg"] + 0.01).all()
    assert (found.filter(~told)["here_lat_deg"] != place["lat_deg"] + 0.01).all()
    cities = items["city"].to_numpy()[found.filter(told)["candidates"].to_numpy()[:, 1:]]
    assert (cities == place["city"]).all()


def test_without_cities_the_whole_catalogue_is_the_city(items: pl.DataFrame, tmp_path: Path) -> None:
    nowhere = items.with_columns(pl.lit(None, dtype=pl.String).alias("city"))
    found = samples(nowhere, history(160, 3_000), tmp_path)["train"]
    item_E, _ = map_visits(tmp_path / VISITS, "")
    here = item_E[found["stop"].to_numpy() - 1] % 4
    elsewhere = found["candidates"].to_numpy()[:, 3:] % 4 != here[:, None]
    assert 0.65 < elsewhere.mean() < 0.85  # three of four cities


# --- Same seed, same bytes --------------------------------------------------------------------------------------------
def test_same_seed_same_bytes(items: pl.DataFrame, tmp_path: Path) -> None:
    events = history(160, 2_000)
    events.write_parquet(tmp_path / "events.parquet", row_group_size=100)
    for name, source, seed in (
        ("a", events, 0), ("b", pl.scan_parquet(tmp_path / "events.parquet"), 0), ("c", events, 1),
    ):  # fmt: skip
        write_samples(items, source, CONFIG, SHARE, seed, tmp_path / name)
    for name in (VISITS, *(f"{name}.parquet" for name in PERIODS)):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    other = (pl.read_parquet(tmp_path / name / "train.parquet").sort("user", "time") for name in "ac")
    first, second = (table["candidates"].to_numpy() for table in other)
    assert (first[:, 0] == second[:, 0]).all()
    assert (first[:, 1:] != second[:, 1:]).mean() > 0.5


def test_blocks_do_not_show(items: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = history(160, 3_000)
    write_samples(items, events, CONFIG, SHARE, 0, tmp_path / "one")
    monkeypatch.setattr("lgsid.rank.samples.BLOCK", 2 * GROUP)
    write_samples(items, events, CONFIG, SHARE, 0, tmp_path / "many")
    assert (tmp_path / "one" / "train.parquet").read_bytes() == (tmp_path / "many" / "train.parquet").read_bytes()


# --- Errors -----------------------------------------------------------------------------------------------------------
def test_what_cannot_be_ranked_is_said(items: pl.DataFrame, tmp_path: Path) -> None:
    events = history(160, 1_000).with_columns(kind=pl.lit("visit"))

    def fails(
        match: str, events: pl.DataFrame = events, items: pl.DataFrame = items, share: float = SHARE, **changes: Any
    ) -> None:
        with pytest.raises(DataError, match=match):
            write_samples(items, events, CONFIG.model_copy(update=changes), share, 0, tmp_path)

    fails(r"there are no events[\s\S]*fix: set data.events", events.clear())
    fails(r"no event is of the kinds buy[\s\S]*fix: .*rank.samples.kinds", kinds=("buy",))
    fails(r"training_share 1.0 .* nothing to test on[\s\S]*fix", share=1.0)
    fails(r"\d+ events are of items that are not in the catalogue, the first of item_id 'i159'", items=items.head(-1))
    fails(r"200 negatives need at least 201 items to draw from, got 160[\s\S]*negatives=159", negatives=200)
    fails(r"no request for train.parquet", min_past=900)
    once = events_of([(f"u{k}", f"i{k}", 60.0 * k) for k in range(160)])
    fails(r"no request for train.parquet: none .* has 1 earlier", once)
    fails(
        r"no request for test.parquet",
        pl.concat([events.head(700), events_of([("new", f"i{k % 160}", 1e6) for k in range(300)], kind="visit")]),
    )
    with pytest.raises(ArtifactError, match=r"cannot be read[\s\S]*fix: lgsid rank RUN"):
        map_visits(tmp_path / "nowhere", "lgsid rank RUN")


def test_too_few_cold_items_are_left_out_and_counted(items: pl.DataFrame, tmp_path: Path) -> None:
    events = history(160, 1_000).filter(
        (pl.col("item_id") != "i8") | (pl.col("timestamp") > START + timedelta(minutes=900))
    )
    extra = events_of([("u0", "i8", 60.0 * 2_000), ("u1", "i8", 60.0 * 2_001)])
    figures = write_samples(items, pl.concat([events, extra]), CONFIG, SHARE, 0, tmp_path)
    assert figures["requests"]["cold"] == 0 < 2 <= figures["cold_left_out"]
    assert pl.read_parquet(tmp_path / "cold.parquet").height == 0


# --- Real data --------------------------------------------------------------------------------------------------------
@pytest.mark.real
@pytest.mark.parametrize("name", ["fsq_nyc", "gowalla_nyc"])
def test_real_check_ins(real_data: Path, tmp_path: Path, name: str) -> None:
    items = pl.read_parquet(real_data / name / "items.parquet")
    events = pl.scan_parquet(real_data / name / "events.parquet")
    figures = write_samples(items, events, SampleConfig(), 0.8, 0, tmp_path)
    assert figures["beyond_reach_share"] < 0.01
    assert figures["requests"]["train"] > 80_000
    table = pl.read_parquet(tmp_path / "test.parquet")
    rows = table["candidates"].to_numpy()
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    km = haversine_km(
        table["here_lat_deg"].to_numpy()[:, None], table["here_lon_deg"].to_numpy()[:, None], lat[rows], lon[rows]
    )
    assert (km[:, 1:3] <= 5).mean() > 0.99
    assert all(len(set(row)) == 5 for row in rows.tolist())
    item_E, time_E = map_visits(tmp_path / VISITS, "")
    assert (time_E[table["stop"].to_numpy() - 1] < table["time"].to_numpy()).all()
    assert len(item_E) == figures["visits"]
