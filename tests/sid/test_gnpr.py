"""GNPR-SID: what is known of a place, from the given visits alone; codes for items that nobody has visited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import GnprConfig, SidConfig
from lgsid.data.labels import region_path
from lgsid.errors import DataError
from lgsid.sid.gnpr import GnprTokenizer
from lgsid.sid.gnpr_features import HOURS, Columns, Entries, PlaceFeatures, cells, hashes
from lgsid.sid.quality import purity, squared_errors, variance

SMALL = SidConfig(
    method="gnpr",
    levels=3,
    codes=8,
    gnpr=GnprConfig(
        hidden=(64,), latent=8, dropout=0.0, region_deg=0.9, steps=100, warm_steps=50, batch=64, learning_rate=1e-2
    ),
)
NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def visits_of(rows: list[tuple[str, str, datetime]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def some_visits(items: pl.DataFrame, users: int = 40, seed: int = 0) -> pl.DataFrame:
    """Visits of the first half of the items, each user in one city."""
    rng = np.random.default_rng(seed)
    visited = items["item_id"].to_list()[: len(items) // 2]
    chosen = [(f"u{user}", visited[(user % 4 + 4 * int(rng.integers(len(visited) // 4)))]) for user in range(users)] * 6
    return visits_of([(user, item, NOON + timedelta(hours=int(rng.integers(24)))) for user, item in chosen])


@pytest.fixture(scope="module")
def city() -> tuple[pl.DataFrame, FloatArray, pl.DataFrame]:
    items, emb = toy_city()
    return items, emb, some_visits(items)


@pytest.fixture(scope="module")
def fitted(city: tuple[pl.DataFrame, FloatArray, pl.DataFrame]) -> GnprTokenizer:
    return GnprTokenizer(config=SMALL).fit(*city)


def dense(items: pl.DataFrame, events: pl.DataFrame | None, config: GnprConfig = SMALL.gnpr) -> FloatArray:
    features = PlaceFeatures.fit(items, events, config)
    return features.transform(items, events).dense(np.arange(len(items)), features.width)


def test_blocks_have_unit_length_or_none() -> None:
    items, _ = toy_city(4)
    first, second = items["item_id"][:2]
    features = dense(items, visits_of([("ann", first, NOON), ("bob", first, NOON), ("ann", second, NOON)]))
    kinds, regions = items["category"].n_unique(), len(np.unique(cells(items, SMALL.gnpr.region_deg)))
    assert features.shape == (16, kinds + regions + HOURS + 2)
    blocks = np.split(features, [kinds, kinds + regions, kinds + regions + HOURS], axis=1)
    lengths = np.array([np.linalg.norm(block, axis=1) for block in blocks])
    assert np.allclose(lengths[:2], 1)
    assert np.allclose(lengths[2:, :2], 1)
    assert not lengths[2:, 2:].any()
    assert np.allclose(np.sort(blocks[3][:2], axis=1), [[2**-0.5, 2**-0.5], [0, 1]])


def test_hours_are_those_of_the_sun() -> None:
    items = pl.DataFrame(
        {"item_id": ["greenwich", "denver", "tokyo"], "lat_deg": [0.0] * 3, "lon_deg": [0.0, -105.0, 139.7]}
    )
    events = visits_of([("ann", item, NOON) for item in items["item_id"]])
    hours = dense(items, events)[:, -HOURS - 1 : -1]
    assert hours.argmax(1).tolist() == [12, 5, 21]


def test_a_returning_visitor_counts_once_as_a_visitor_and_twice_in_the_hours() -> None:
    items, _ = toy_city(4)
    item = items["item_id"][0]
    later = NOON + timedelta(hours=5)
    features = dense(items, visits_of([("ann", item, NOON), ("ann", item, NOON), ("bob", item, later)]))[0]
    assert np.allclose(features[-2:], 2**-0.5)
    assert np.allclose(np.sort(features[-2 - HOURS : -2])[-2:], np.array([1, 2]) ** 0.5 / 3**0.5 * 1, atol=0.2)


def test_several_categories_are_several_columns() -> None:
    items = pl.DataFrame({
        "item_id": ["a", "b", "c", "d"], "lat_deg": [0.0] * 4, "lon_deg": [0.0] * 4,
        "category": ["Bars | Food", "Food", None, "Shops > Food"],
    })  # fmt: skip
    block = dense(items, None)[:, :3]
    assert sorted(np.count_nonzero(block, axis=1).tolist()) == [0, 1, 1, 2]
    assert float(block[0] @ block[1]) == pytest.approx(2**-0.5)
    assert float(block[1] @ block[3]) == 0.0  # the path is the name


def test_columns_are_shared_when_there_are_too_many_names() -> None:
    names = hashes(pl.Series([f"u{number}" for number in range(1_000)]))
    exact = Columns.of(names, 1_000)
    assert sorted(exact(names).tolist()) == list(range(1_000))
    assert exact(hashes(pl.Series(["stranger"]))).tolist() == [-1]
    shared = Columns.of(names, 64)
    assert shared.width == 64
    assert np.bincount(shared(names), minlength=64).max() < 40
    assert shared(hashes(pl.Series(["stranger"])))[0] >= 0
    assert Columns.of(names[:0], 64)(names).max() == -1


def test_entries_of_chosen_rows() -> None:
    entries = Entries.of(3, np.array([0, 2, 2, 2]), np.array([1, 0, 0, -1]), np.array([2.0, 1.0, 1.0, 5.0]))
    assert entries.dense(np.array([2, 0, 1, 2]), 2).tolist() == [[1, 0], [0, 1], [0, 0], [1, 0]]


def test_items_without_visits_get_codes(
    fitted: GnprTokenizer, city: tuple[pl.DataFrame, FloatArray, pl.DataFrame]
) -> None:
    items, emb, events = city
    codes = fitted.transform(items, emb, events)
    assert codes.shape == (len(items), 3)
    assert all(len(np.unique(column)) == 8 for column in codes.T)
    unvisited = len(items) // 2
    # the same kind of shop in the same cell, never visited: nothing tells them apart
    key = items["category"] + pl.Series(cells(items, SMALL.gnpr.region_deg).astype(str))
    for group in key[unvisited:].unique():
        rows = unvisited + np.flatnonzero((key[unvisited:] == group).to_numpy())
        assert len(np.unique(codes[rows], axis=0)) == 1


def test_codes_say_place_and_kind(fitted: GnprTokenizer, city: tuple[pl.DataFrame, FloatArray, pl.DataFrame]) -> None:
    items, emb, events = city
    codes = fitted.transform(items, emb, events)
    key = codes[:, 0] * 8 + codes[:, 1]
    assert purity(key, region_path(items, 2)) > 0.9
    assert purity(key, items["category"]) > 0.8


def test_decode_is_an_embedding_of_fair_error(
    fitted: GnprTokenizer, city: tuple[pl.DataFrame, FloatArray, pl.DataFrame]
) -> None:
    items, emb, events = city
    errors = squared_errors(emb, fitted.transform(items, emb, events), fitted.decode) / variance(emb)
    assert errors[2] < errors[0]
    assert errors[2] < 0.25


def test_without_visits_in_fitting_later_ones_change_nothing(
    city: tuple[pl.DataFrame, FloatArray, pl.DataFrame],
) -> None:
    items, emb, events = city
    tokenizer = GnprTokenizer(config=SMALL).fit(items, emb)
    assert np.array_equal(tokenizer.transform(items, emb, events), tokenizer.transform(items, emb))


def test_visits_after_fitting_are_not_seen(
    fitted: GnprTokenizer, city: tuple[pl.DataFrame, FloatArray, pl.DataFrame]
) -> None:
    items, emb, events = city
    again = GnprTokenizer(config=SMALL).fit(items, emb, events)
    assert all(np.array_equal(a, b) for a, b in zip(again.books, fitted.books, strict=True))
    fewer = GnprTokenizer(config=SMALL).fit(items, emb, events[: len(events) // 2])
    assert not np.array_equal(fewer.books[0], fitted.books[0])


def test_the_folder_holds_no_user_ids_and_gives_the_same_codes(
    fitted: GnprTokenizer, city: tuple[pl.DataFrame, FloatArray, pl.DataFrame], tmp_path: Path
) -> None:
    items, emb, events = city
    fitted.save_pretrained(tmp_path)
    loaded = GnprTokenizer.from_pretrained(tmp_path)
    codes = fitted.transform(items, emb, events)
    assert np.array_equal(loaded.transform(items, emb, events), codes)
    assert np.array_equal(loaded.decode(codes), fitted.decode(codes))
    assert '"u1"' not in (tmp_path / "state.json").read_text()
    one = fitted.transform(items[3:4], emb[3:4], events)
    assert np.array_equal(one, codes[3:4])


def test_missing_columns_are_named(city: tuple[pl.DataFrame, FloatArray, pl.DataFrame]) -> None:
    items, emb, events = city
    with pytest.raises(DataError, match="no column 'lon_deg'"):
        GnprTokenizer(config=SMALL).fit(items.drop("lon_deg"), emb)
    with pytest.raises(DataError, match="no column 'user_id'"):
        GnprTokenizer(config=SMALL).fit(items, emb, events.drop("user_id"))
