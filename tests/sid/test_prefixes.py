"""Pairs of items that share a prefix, against counting them one by one."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_city

from lgsid.arrays import IntArray
from lgsid.geo import haversine_km
from lgsid.sid.attributes import attributes, main_category_codes
from lgsid.sid.prefixes import agreement, pairs_within, prefix_pairs

groups = st.lists(st.integers(0, 4), min_size=1, max_size=30).map(lambda values: np.array(values, dtype=np.int64))


def listed(group_N: IntArray) -> set[tuple[int, int]]:
    return {(a, b) for a, b in itertools.combinations(range(len(group_N)), 2) if group_N[a] == group_N[b]}


@given(groups)
def test_every_pair_of_a_group_comes_once(group_N: IntArray) -> None:
    one, other = pairs_within(group_N, 1_000, np.random.default_rng(0))
    pairs = {(int(min(pair)), int(max(pair))) for pair in zip(one, other, strict=True)}
    assert len(one) == len(pairs)
    assert pairs == listed(group_N)


def test_a_sample_of_pairs_is_uniform_over_pairs_not_groups() -> None:
    group_N = np.repeat([0, 1, 2], [100, 10, 1])  # 4,950 and 45 pairs
    one, other = pairs_within(group_N, 2_000, np.random.default_rng(0))
    assert len(one) == 2_000
    assert (one != other).all()
    assert np.array_equal(group_N[one], group_N[other])
    assert (group_N[one] == 1).mean() == pytest.approx(45 / 4_995, abs=0.007)
    assert len(np.unique(np.concatenate([one, other]))) > 100  # few of the 110 items are never drawn


def test_pair_numbers_of_a_huge_group_do_not_overflow_or_round() -> None:
    one, other = pairs_within(np.zeros(3_000_000, dtype=np.int64), 50_000, np.random.default_rng(1))
    assert one.min() >= 0
    assert other.max() < 3_000_000
    assert (one < other).all()
    assert other.mean() == pytest.approx(2_000_000, rel=0.01)  # the later of two uniform rows


@given(groups, st.data())
@settings(max_examples=50)
def test_agreement_counts_pairs_that_know_both_labels(group_N: IntArray, data: st.DataObject) -> None:
    label_N = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=len(group_N), max_size=len(group_N))))
    known = [(a, b) for a, b in listed(group_N) if label_N[a] >= 0 and label_N[b] >= 0]
    found = agreement(group_N, label_N)
    if not known:
        assert found is None
    else:
        assert found == pytest.approx(np.mean([label_N[a] == label_N[b] for a, b in known]))


def test_prefixes_of_a_city_with_known_codes() -> None:
    items, _ = toy_city()
    names = attributes(items)
    codes = np.stack([names["province"], names["category"], np.arange(len(items))], axis=1).astype(np.int32)
    found = prefix_pairs(items, codes)
    assert list(found) == ["random", "1", "2", "3"]
    assert found["random"]["pairs"] == 256 * 255 // 2
    assert found["random"]["province"] == pytest.approx(127 / 255)
    assert (found["1"]["province"], found["1"]["items_share"]) == (1.0, 1.0)
    assert found["1"]["city"] == pytest.approx(63 / 127)
    assert found["1"]["category"] == pytest.approx(31 / 127)
    assert found["2"]["category"] == 1.0
    nothing = {"pairs": 0, "items_share": 0.0, "mean_km": None, "median_km": None, **dict.fromkeys(names)}
    assert found["3"] == nothing
    assert found["1"]["mean_km"] < 0.05 * found["random"]["mean_km"]  # type: ignore[operator]


def test_distances_are_those_of_the_pairs_and_a_sample_comes_near() -> None:
    items, _ = toy_city()
    codes = attributes(items)["city"].astype(np.int32)[:, None]
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    km = [haversine_km(lat[a], lon[a], lat[b], lon[b]) for a, b in listed(codes[:, 0].astype(np.int64))]
    whole = prefix_pairs(items, codes)["1"]
    assert whole["mean_km"] == pytest.approx(np.mean(km))
    assert whole["median_km"] == pytest.approx(np.median(km))
    sampled = [prefix_pairs(items, codes, most=2_000, seed=seed)["1"]["mean_km"] for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0] == pytest.approx(whole["mean_km"], rel=0.05)


def test_main_category_is_the_root_that_most_items_have() -> None:
    texts = ["Mexican | Restaurants", "Restaurants; Pizza", "Food > Bar", "Food > Café > Tea", None, "", "Bars | Pubs"]
    codes = main_category_codes(pl.DataFrame({"category": texts}, schema={"category": pl.String}))
    assert codes[0] == codes[1]
    assert codes[2] == codes[3]
    assert (codes[[4, 5]] == -1).all()
    assert len({int(code) for code in codes}) == 4
    alone = main_category_codes(pl.DataFrame({"category": ["Pubs | Bars"] * 2 + ["Bars | Pubs"] * 2}))
    assert len(set(alone.tolist())) == 1  # a tie does not depend on the order in the list


def test_a_catalogue_without_categories_has_unknown_ones() -> None:
    items = pl.DataFrame({"lat_deg": [0.0, 1.0], "lon_deg": [0.0, 1.0]})
    assert all((label_N == -1).all() for label_N in attributes(items).values())
    assert prefix_pairs(items, np.zeros((2, 1), dtype=np.int32))["1"]["category"] is None
