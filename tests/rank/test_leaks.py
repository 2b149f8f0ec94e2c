"""Nothing of a request or of training comes from what was still to come."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_visits import CONFIG, SHARE, START, events_of, facts, history, request_at, samples, with_impressions

from lgsid.rank.samples import period_ends
from tests.toy import toy_city


@pytest.fixture
def items() -> pl.DataFrame:
    return toy_city(40)[0]


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
