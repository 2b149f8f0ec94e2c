"""The oracle against brute force over all candidates, and against every possible choice of neighbours."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid import nearest
from lgsid.data.labels import same_value_codes
from lgsid.errors import DataError
from lgsid.evaluate.oracle import OraclePoint, efficiency_at, frontier_efficiency, oracle_frontier
from lgsid.nearest import nearest_items, nearest_neighbours, same_and_other

LEVELS = ("province", "city", "district")


def catalogue(items: int, districts: int, seed: int, unknown: float = 0.0) -> tuple[pl.DataFrame, np.ndarray]:
    """Items of random districts (two to a city, two cities to a province) and random unit vectors."""
    rng = np.random.default_rng(seed)
    district = rng.integers(0, districts, items)
    names = [None if rng.random() < unknown else f"d{code}" for code in district]
    table = pl.DataFrame({
        "province": [f"p{code // 4}" for code in district],
        "city": [f"c{code // 2}" for code in district],
        "district": pl.Series(names, dtype=pl.String),
        "category": pl.Series([None] * items, dtype=pl.String),
    })  # fmt: skip
    emb = rng.standard_normal((items, 6)).astype(np.float32)
    return table, emb / np.linalg.norm(emb, axis=1, keepdims=True)


def rounded(emb: np.ndarray, query: int) -> np.ndarray:
    similarity = np.round(emb @ emb[query] * 2**20) / 2**20
    similarity[query] = -np.inf
    return similarity


def brute_force(items: pl.DataFrame, emb: np.ndarray, queries: np.ndarray, k: int, weight: float) -> OraclePoint:
    codes = same_value_codes(items)
    kept, best, shares = [], [], {level: [] for level in LEVELS}
    for query in queries:
        similarity = rounded(emb, query)
        same = (codes["district"] == codes["district"][query]) & (codes["district"] >= 0)
        chosen = np.argsort(-(similarity + weight * same), kind="stable")[:k]
        kept.append(similarity[chosen])
        best.append(np.sort(similarity)[::-1][:k])
        for level, found in shares.items():
            if codes[level][query] >= 0:
                found.append(codes[level][chosen] == codes[level][query])
    return OraclePoint(
        weight,
        float(np.mean(kept) / np.mean(best)),
        *(float(np.mean(found)) if found else None for found in shares.values()),
    )


@given(seed=st.integers(0, 50), items=st.integers(6, 60), k=st.integers(1, 5), districts=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_every_weight_equals_ranking_all_candidates(seed: int, items: int, k: int, districts: int) -> None:
    table, emb = catalogue(items, districts, seed, unknown=0.2)
    queries = np.arange(0, items, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_ITEMS_PER_BLOCK", 7)
        patch.setattr(nearest, "_QUERIES_PER_BLOCK", 5)
        points = oracle_frontier(table, emb, queries, k, (0.0, 0.1, 0.4, 2.0))
    for point in points:
        expected = brute_force(table, emb, queries, k, point.weight)
        for key, value in vars(expected).items():
            assert getattr(point, key) == (None if value is None else pytest.approx(value, abs=1e-5)), (key, point)


def test_no_choice_of_neighbours_passes_the_frontier() -> None:
    table, emb = catalogue(9, 3, seed=4)
    codes = same_value_codes(table)["district"]
    weights = tuple(np.round(np.arange(0, 2.01, 0.01), 2))
    for query in range(9):
        points = oracle_frontier(table, emb, np.array([query]), 3, weights)
        similarity = rounded(emb, query)
        others = [row for row in range(9) if row != query]
        best = np.sort(similarity)[::-1][:3].mean()
        for choice in combinations(others, 3):
            rows = list(choice)
            kept, district = similarity[rows].mean() / best, (codes[rows] == codes[query]).mean()
            # at every weight the oracle's own point has the highest weighted sum
            for point in points:
                assert point.district is not None
                own = point.kept * best + point.weight * point.district
                assert kept * best + point.weight * district <= own + 1e-5


def test_without_a_bonus_it_is_the_unaligned_encoder() -> None:
    table, emb = catalogue(300, 8, seed=1)
    queries = np.arange(0, 300, 3)
    point = oracle_frontier(table, emb, queries, 5)[0]
    index, _ = nearest_neighbours(emb, queries, 5)
    codes = same_value_codes(table)
    assert point.kept == 1.0
    assert point.district == pytest.approx((codes["district"][index] == codes["district"][queries, None]).mean())


def test_unknown_districts_are_never_the_same() -> None:
    table, emb = catalogue(40, 4, seed=2)
    nowhere = table.with_columns(district=pl.lit(None, dtype=pl.String))
    points = oracle_frontier(nowhere, emb, np.arange(40), 5)
    assert {(point.kept, point.district) for point in points} == {(1.0, None)}
    assert frontier_efficiency(points, 0.9, 0.5) is None
    assert efficiency_at([(0.9, 0.5)], points) == {0.025: None, 0.05: None, 0.1: None}


@pytest.mark.parametrize(("items", "queries", "k"), [(1, 1, 1), (10, 0, 1), (10, 1, 0)])
def test_nothing_to_rank_is_an_error(items: int, queries: int, k: int) -> None:
    table, emb = catalogue(items, 2, seed=0)
    with pytest.raises(DataError, match="oracle"):
        oracle_frontier(table, emb, np.arange(queries), k)


FRONTIER = [
    OraclePoint(0.0, 1.0, None, None, 0.2),
    OraclePoint(0.1, 0.95, None, None, 0.6),
    OraclePoint(0.2, 0.85, None, None, 0.8),
]


@pytest.mark.parametrize(
    ("kept", "district", "expected"),
    [
        (0.95, 0.6, 1.0),  # on the frontier
        (0.95, 0.4, 0.5),  # half of the gain of 0.4
        (0.975, 0.3, 0.5),  # between two points: 0.4 is possible
        (0.90, 0.2, 0.0),  # nothing gained
        (0.95, 0.1, -0.25),  # geography fell
        (0.70, 0.8, 1.0),  # beyond the last point there is nothing more to have
        (1.0, 0.2, None),  # no loss, nothing possible
        (1.01, 0.3, None),
    ],
)
def test_efficiency_is_the_share_of_the_possible_gain(kept: float, district: float, expected: float | None) -> None:
    found = frontier_efficiency(FRONTIER, kept, district)
    assert found == (None if expected is None else pytest.approx(expected))
    assert found == frontier_efficiency(FRONTIER[::-1], kept, district)


def test_a_methods_own_frontier_is_interpolated() -> None:
    found = efficiency_at([(0.90, 0.5), (0.95, 0.4), (0.93, 0.35)], FRONTIER, (0.025, 0.05, 0.075, 0.10, 0.15))
    assert found[0.05] == pytest.approx(0.5)
    assert found[0.025] == pytest.approx((0.3 - 0.2) / (0.4 - 0.2))  # half-way from the unaligned encoder
    assert found[0.075] == pytest.approx((0.45 - 0.2) / (0.65 - 0.2))  # the point at 0.93 is beaten and left out
    assert found[0.10] == pytest.approx((0.5 - 0.2) / (0.7 - 0.2))
    assert found[0.15] == pytest.approx((0.5 - 0.2) / (0.8 - 0.2))  # it never went so far


def test_the_oracles_own_points_are_fully_efficient() -> None:
    table, emb = catalogue(400, 10, seed=3)
    points = oracle_frontier(table, emb, np.arange(0, 400, 4), 5)
    curve = [(point.kept, point.district) for point in points if point.district is not None]
    assert efficiency_at(curve, points) == {loss: pytest.approx(1.0) for loss in (0.025, 0.05, 0.1)}


def test_free_queries_leave_their_own_item_out_and_break_ties_by_row() -> None:
    emb = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], dtype=np.float32)
    index = nearest_items(np.array([[2.0, 0.0], [0.0, 3.0]], dtype=np.float32), np.array([1, 2]), emb, 9)
    assert index.tolist() == [[0, 3, 2], [0, 1, 3]]


def test_queries_that_are_items_have_the_neighbours_of_the_items() -> None:
    _, emb = catalogue(200, 4, seed=5)
    queries = np.arange(0, 200, 3)
    assert np.array_equal(nearest_items(emb[queries], queries, emb, 7), nearest_neighbours(emb, queries, 7)[0])


def test_a_district_with_few_items_has_few_candidates() -> None:
    emb = np.eye(4, dtype=np.float32)
    codes = np.array([0, 0, 1, -1])
    same, other = same_and_other(emb, np.arange(4), emb, codes, codes, 2)
    assert np.isfinite(same.similarity_QK).sum(axis=1).tolist() == [1, 1, 0, 0]
    assert same.index_QK[0, 0] == 1
    assert np.isfinite(other.similarity_QK).all()
    assert not np.isin(other.index_QK[0], [0, 1]).any()


@pytest.mark.real
def test_real_places_with_vectors_that_know_only_the_category(real_data: Path) -> None:
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["category", "district", "city"])
    rng = np.random.default_rng(0)
    category = items["category"].rank("dense").to_numpy() - 1
    emb = rng.standard_normal((int(category.max()) + 1, 32))[category] + 0.5 * rng.standard_normal((len(items), 32))
    queries = np.sort(rng.choice(len(items), 300, replace=False))
    points = oracle_frontier(items, emb.astype(np.float32), queries, 5)
    kept, district = [point.kept for point in points], [point.district or 0.0 for point in points]
    assert kept == sorted(kept, reverse=True)
    assert district == sorted(district)
    assert district[0] < 0.05
    assert district[-1] > 0.95  # the smallest districts have fewer than six items
