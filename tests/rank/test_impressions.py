"""Impressions that were not chosen, as negatives."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_visits import CONFIG, SHARE, START, events_of, history, request_at, samples, with_impressions

from lgsid.rank.impressions import PAGE_GAP_S
from lgsid.rank.samples import PERIODS, write_samples
from tests.toy import toy_city


@pytest.fixture
def items() -> pl.DataFrame:
    return toy_city(40)[0]


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
