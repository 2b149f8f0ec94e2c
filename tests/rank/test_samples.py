"""Samples: what is past, where the user is, the periods, cold items; nothing leaks from what is still to come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from lgsid.artifact import RunFolder
from lgsid.config import SampleConfig, SidConfig
from lgsid.errors import ArtifactError, DataError
from lgsid.geo import haversine_km
from lgsid.rank.impressions import PAGE_GAP_S
from lgsid.rank.samples import GROUP, PERIODS, VISITS, period_ends, write_samples
from lgsid.rank.visits import map_visits
from lgsid.sid.stage import training_visits
from tests.toy import toy_city

START = datetime(2024, 5, 1, tzinfo=UTC)
SHARE = 0.6
CONFIG = SampleConfig(negatives=4, reach_km=8.0, validation_share=0.2)


@pytest.fixture
def items() -> pl.DataFrame:
    return toy_city(40)[0]


def events_of(rows: list[tuple[str, str, float]], **columns: Any) -> pl.DataFrame:
    """Events by user, item and seconds since `START`."""
    users, names, seconds = zip(*rows, strict=True)
    times = pl.Series([START + timedelta(seconds=second) for second in seconds], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"user_id": users, "item_id": names, "timestamp": times, **columns})


def history(items: int, events: int, seed: int = 0, users: int = 9) -> pl.DataFrame:
    """Events of people who each stay in one city of `toy_city`, in the order of time, a minute apart."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{k % users}", f"i{k}", 60.0 * k) for k in range(items)]  # first, everything is visited once
    for k in range(items, events):
        user = int(rng.integers(users))
        rows.append((f"u{user}", f"i{4 * int(rng.integers(items // 4)) + user % 4}", 60.0 * k))
    return events_of(rows)


def samples(
    items: pl.DataFrame, events: pl.DataFrame, folder: Path, config: SampleConfig = CONFIG, seed: int = 0
) -> dict[str, pl.DataFrame]:
    write_samples(items, events, config, SHARE, seed, folder)
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in PERIODS}


def seconds_of(when: int) -> float:
    return when - START.timestamp()


def past_of(row: dict[str, Any], folder: Path) -> list[tuple[int, int]]:
    item_E, time_E = map_visits(folder / VISITS, "")
    return list(
        zip(item_E[row["first"] : row["stop"]].tolist(), time_E[row["first"] : row["stop"]].tolist(), strict=True)
    )


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


# --- Nothing leaks ----------------------------------------------------------------------------------------------------
def changed(events: pl.DataFrame, later: np.ndarray, how: str, seed: int) -> pl.DataFrame:
    """The events with some of them changed; times stay, since they say where the periods end."""
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(later)
    columns = {name: events[name].to_numpy().copy() for name in ("user_id", "item_id", "kind")}
    if how == "deleted":  # no visits any more, but in the later periods, which must not be empty, those of a stranger
        columns["kind"][rows] = "other"
        rows = rows[rows > 0.6 * len(events)]
        for name, value in (("user_id", "stranger"), ("item_id", "i0"), ("kind", "visit")):
            columns[name][rows] = value
    else:
        mixed = rng.permutation(rows)
        for name in ("user_id", "item_id"):
            everything = rng.permutation(columns[name])[: len(rows)]
            columns[name][rows] = columns[name][mixed] if how == "permuted" else everything
    return events.with_columns(pl.Series(name, column, dtype=pl.String) for name, column in columns.items())


def facts(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """All that a model can learn from a request."""
    return {**{name: row[name] for name in row if name not in ("first", "stop")}, "past": past_of(row, folder)}


def request_at(folder: Path, user: int, time: int, item: int) -> dict[str, Any]:
    """Facts of one request."""
    table = pl.concat(pl.read_parquet(folder / f"{name}.parquet") for name in PERIODS)
    asked = (pl.col("user") == user) & (pl.col("time") == time) & (pl.col("candidates").arr.first() == item)
    (row,) = table.filter(asked).iter_rows(named=True)
    return facts(row, folder)


def with_impressions(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Six impressions before each visit, among them the visited item."""
    rng = np.random.default_rng(seed)
    shown = []
    for user, item, time in events.select("user_id", "item_id", "timestamp").iter_rows():
        city = int(item[1:]) % 4
        slate = [item, *(f"i{4 * k + city}" for k in rng.choice(40, 5, replace=False))]
        shown += [(user, name, time - timedelta(seconds=5 + 0.1 * k)) for k, name in enumerate(slate)]
    columns = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC")}
    table = pl.DataFrame(shown, schema=columns, orient="row").with_columns(kind=pl.lit("impression"))
    return pl.concat([table, events]).sort("timestamp", maintain_order=True)


@pytest.mark.parametrize("impressions", [False, True])
@pytest.mark.parametrize("how", ["changed", "permuted", "deleted"])
def test_a_request_knows_nothing_of_its_own_moment_and_later(
    items: pl.DataFrame, tmp_path: Path, how: str, impressions: bool
) -> None:
    events = history(160, 1_200, seed=4).with_columns(kind=pl.lit("visit"))
    same_moment = [("u3", "i7", 60.0 * 700), ("u3", "i11", 60.0 * 700), ("u4", "i12", 60.0 * 700)]
    events = pl.concat([events, events_of(same_moment, kind="visit")]).sort("timestamp", maintain_order=True)
    if impressions:
        events = with_impressions(events, 5)
    found = samples(items, events, tmp_path / "before")
    rng = np.random.default_rng(6)
    warmed_up = int((START + timedelta(minutes=170)).timestamp())  # by then all items are warm
    rows = found["train"].filter(pl.col("time") > warmed_up).sort("time", "user", "candidates")
    picked = [rows.row(int(k), named=True) for k in rng.choice(len(rows), 8, replace=False)]
    picked += found["train"].filter(pl.col("time") == int(START.timestamp()) + 42_000).rows(named=True)
    assert len(picked) >= 11
    time_E = events["timestamp"].dt.epoch("s").to_numpy()
    moved = 0
    for number, row in enumerate(picked):
        own = (
            (time_E == row["time"])
            & (events["item_id"] == f"i{row['candidates'][0]}").to_numpy()
            & (events["kind"] == "visit").to_numpy()
        )
        after = changed(events, (time_E >= row["time"]) & ~own, how, number)
        assert not after.equals(events)
        later = samples(items, after, tmp_path / "after")
        assert request_at(tmp_path / "after", row["user"], row["time"], row["candidates"][0]) == facts(
            row, tmp_path / "before"
        )
        moved += not later["test"].equals(found["test"])
    assert moved == len(picked), "what came later must show somewhere, or this shows nothing"


def test_the_past_does_matter(items: pl.DataFrame, tmp_path: Path) -> None:
    events = history(160, 1_200, seed=4).with_columns(kind=pl.lit("visit"))
    found = samples(items, events, tmp_path / "before")["train"].sort("time").row(-1, named=True)
    time_E = events["timestamp"].dt.epoch("s").to_numpy()
    samples(
        items,
        changed(events, (time_E < found["time"]) & (time_E > START.timestamp() + 60 * 170), "deleted", 0),
        tmp_path / "after",
    )
    assert request_at(tmp_path / "after", found["user"], found["time"], found["candidates"][0]) != facts(
        found, tmp_path / "before"
    )


@pytest.mark.parametrize("impressions", [False, True])
@pytest.mark.parametrize("how", ["changed", "permuted", "deleted"])
def test_training_knows_nothing_of_later_periods(
    items: pl.DataFrame, tmp_path: Path, how: str, impressions: bool
) -> None:
    events = history(160, 1_500, seed=7).with_columns(kind=pl.lit("visit"))
    events = with_impressions(events, 8) if impressions else events
    end_us, _ = period_ends(events.lazy(), SHARE, CONFIG.validation_share)
    after = changed(events, (events["timestamp"].dt.epoch("us") > end_us).to_numpy(), how, 0)
    before, then = samples(items, events, tmp_path / "before"), samples(items, after, tmp_path / "after")
    assert not before["test"].equals(then["test"])
    one, other = (
        [facts(row, tmp_path / name) for row in table["train"].iter_rows(named=True)]
        for name, table in (("before", before), ("after", then))
    )
    assert one == other


# --- Impressions ------------------------------------------------------------------------------------------------------
def test_what_was_shown_and_not_chosen(items: pl.DataFrame, tmp_path: Path) -> None:
    """One user, by hand: the page first, then the page before; chosen, repeated and cold items are passed over."""
    page, before = 10_000.0, 9_000.0
    shown = [("u0", item, before + 0.1 * k) for k, item in enumerate(["i20", "i24", "i28", "i32", "i36"])]
    shown += [
        ("u0", "i40", page - PAGE_GAP_S - 1),
        *(("u0", item, page + 0.1 * k) for k, item in enumerate(["i4", "i8", "i20", "i2"])),
    ]
    shown += [("u1", "i44", page + 1), ("u0", "i48", page + 21)]  # somebody else's; too late
    visits = [("u0", "i24", before + 60), ("u0", "i8", page + 20)]
    filler = history(160, 1_200).filter(pl.col("item_id") != "i2").with_columns(pl.col("timestamp") - timedelta(days=1))
    rest = history(160, 900).filter(pl.col("item_id") != "i2").with_columns(pl.col("timestamp") + timedelta(days=1))
    events = pl.concat([
        filler.with_columns(kind=pl.lit("order")), events_of(shown, kind="impression"), events_of(visits, kind="click"),
        rest.with_columns(kind=pl.lit("order")),
    ])  # fmt: skip
    found = samples(items, events.sample(fraction=1.0, shuffle=True, seed=0), tmp_path)
    request = request_at(tmp_path, 0, int(START.timestamp() + page + 20), 8)
    assert set(request["candidates"][1:3]) == {4, 20}, "the page, without the positive and what is cold"
    assert request["candidates"][3] == 40, "the page before"
    assert request["candidates"][4] in {28, 32, 36}, "the one before that, without what was chosen or is there already"
    earlier = request_at(tmp_path, 0, int(START.timestamp() + before + 60), 24)
    assert set(earlier["candidates"][1:]) == {20, 28, 32, 36}
    assert len(found["train"]) > 1_000, "requests without impressions draw"


def test_the_order_of_a_page_says_nothing(items: pl.DataFrame, tmp_path: Path) -> None:
    """Each place of a page is as likely as any other."""
    rows, kinds = [], []
    rng = np.random.default_rng(0)
    for k in range(1_500):
        slate = rng.choice(40, 8, replace=False) * 4
        rows += [("u0", f"i{item}", 100.0 * k + 0.15 * place) for place, item in enumerate(slate)]
        rows.append(("u0", f"i{slate[0]}", 100.0 * k + 20))
        kinds += ["impression"] * 8 + ["click"]
    found = samples(items, events_of(rows, kind=kinds), tmp_path)["train"].sort("time")
    places = np.zeros(8)
    at = {
        (int(START.timestamp() + second) // 100, int(item[1:])): k % 9
        for k, (_, item, second) in enumerate(rows)
        if k % 9 < 8
    }
    for row in found.iter_rows(named=True):
        for item in row["candidates"][1:]:
            places[at[row["time"] // 100, item]] += 1
    assert places[0] == 0
    assert places[1:] / places[1:].sum() == pytest.approx(np.full(7, 1 / 7), abs=0.02)


def test_a_page_that_goes_on_after_the_choice(items: pl.DataFrame, tmp_path: Path) -> None:
    """What is shown a moment after it is not known yet."""
    scroll = [("u0", f"i{4 * (k if k < 10 else 10 + k % 9)}", 20_000.0 + k) for k in range(400)]
    events = [
        history(160, 300).with_columns(kind=pl.lit("click")),
        events_of(scroll, kind="impression"),
        events_of([("u0", "i12", 20_009.5)], kind="click"),
        history(160, 900).with_columns(pl.col("timestamp") + timedelta(days=1), kind=pl.lit("click")),
    ]
    samples(items, pl.concat(events), tmp_path)
    request = request_at(tmp_path, 0, int(START.timestamp()) + 20_009, 12)
    assert set(request["candidates"]) <= {4 * k for k in range(10)}


def test_one_user_is_not_shown_what_another_was(items: pl.DataFrame, tmp_path: Path) -> None:
    people = history(160, 1_000).with_columns(kind=pl.lit("click"))
    first = people.filter(pl.col("user_id") == "u0")
    far = pl.int_range(pl.len()) % 40 * 4 + 2  # in a city where nobody but u0 looks
    shown = first.with_columns(
        ("i" + far.cast(pl.String)).alias("item_id"),
        pl.col("timestamp") - timedelta(seconds=5),
        kind=pl.lit("impression"),
    )
    lone = people.filter(pl.col("user_id") == "u1").with_columns(
        pl.lit("i5").alias("item_id"), kind=pl.lit("impression")
    )
    found = samples(items, pl.concat([people, shown, lone.head(3)]), tmp_path)["train"].sort("time")
    after_warming_up = found.filter(pl.col("time") > START.timestamp() + 60 * 170)
    seen, other = (
        after_warming_up.filter(pl.col("user") == user)["candidates"].to_numpy()[:, 1:] % 4 for user in (0, 1)
    )
    assert len(seen) > 10
    assert len(other) > 10
    assert (seen == 2).all()
    assert (other == 1).all()


def test_impressions_are_read_in_groups_of_users(
    items: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = with_impressions(history(160, 1_000).with_columns(kind=pl.lit("visit")), 0)
    whole = samples(items, events, tmp_path / "whole")
    monkeypatch.setattr("lgsid.rank.impressions._AT_ONCE", 1_000)
    parts = samples(items, events, tmp_path / "parts")
    assert all(whole[name].equals(parts[name]) for name in PERIODS)
    figures = write_samples(items, events, CONFIG, SHARE, 0, tmp_path / "whole")
    assert figures["impression_share"] > 0.9
    only = events.filter(pl.col("kind") != "impression")
    assert write_samples(items, only, CONFIG, SHARE, 0, tmp_path / "whole")["impression_share"] == 0


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
