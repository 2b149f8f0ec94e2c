"""Neighbour search against brute force, and P/C/T@K on toy cities whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid import nearest
from lgsid.data.labels import same_value_codes
from lgsid.errors import DataError
from lgsid.evaluate.neighbours import neighbour_geography
from lgsid.geo import haversine_km
from lgsid.nearest import nearest_neighbours, sample_queries


def brute_force(emb_ND: np.ndarray, queries_Q: Sequence[int], k: int) -> np.ndarray:
    unit = emb_ND.astype(np.float64)
    norm = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, norm, out=np.zeros_like(unit), where=norm > 0)
    rows = []
    for query in queries_Q:
        similarity = np.round(unit @ unit[query] * 2**20)
        order = np.lexsort((np.arange(len(unit)), -similarity))
        rows.append(order[order != query][:k])
    return np.array(rows)


def small_vectors() -> st.SearchStrategy[np.ndarray]:
    """Vectors of few directions, so that ties are the rule; similarities far apart or exactly equal."""
    cell = st.sampled_from([-1.0, 0.0, 1.0])
    return st.integers(2, 40).flatmap(
        lambda n: st.lists(st.tuples(cell, cell), min_size=n, max_size=n).map(lambda v: np.array(v, dtype=np.float32))
    )


@given(emb=small_vectors(), k=st.integers(1, 45), item_block=st.integers(1, 50), query_block=st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_neighbours_equal_brute_force_with_ties_whatever_the_blocks(
    emb: np.ndarray, k: int, item_block: int, query_block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_ITEMS_PER_BLOCK", item_block)
        patch.setattr(nearest, "_QUERIES_PER_BLOCK", query_block)
        index, _ = nearest_neighbours(emb, np.arange(len(emb)), k)
    assert np.array_equal(index, brute_force(emb, range(len(emb)), min(k, len(emb) - 1)))


def test_neighbours_equal_brute_force_on_random_vectors_and_are_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_ITEMS_PER_BLOCK", 300)
    emb = np.random.default_rng(0).standard_normal((1000, 24)).astype(np.float32) * 7
    queries = sample_queries(1000, 60, seed=1)
    index, similarity = nearest_neighbours(emb, queries, 12)
    assert np.array_equal(index, brute_force(emb, queries.tolist(), 12))
    unit = emb / np.linalg.norm(emb, axis=1, keepdims=True)
    assert np.allclose(similarity, np.einsum("qd,qkd->qk", unit[queries], unit[index]), atol=2e-6)


def test_the_query_is_never_its_own_neighbour_even_among_copies() -> None:
    emb = np.ones((50, 4), dtype=np.float32)
    index, similarity = nearest_neighbours(emb, np.array([0, 7]), 3)
    assert index.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert np.allclose(similarity, 1.0)


@pytest.mark.parametrize(("items", "k"), [(1, 1), (0, 1), (5, 0)])
def test_too_few_items_or_neighbours_are_an_error(items: int, k: int) -> None:
    with pytest.raises(DataError, match="at least 2 items"):
        nearest_neighbours(np.ones((items, 2), dtype=np.float32), np.zeros(min(items, 1), dtype=np.int64), k)


def test_read_only_embeddings_are_fine() -> None:
    emb = np.eye(4, dtype=np.float32)
    emb.setflags(write=False)
    assert nearest_neighbours(emb, np.array([2]), 2)[0].tolist() == [[0, 1]]


def test_sampled_queries_are_seeded_sorted_and_distinct() -> None:
    rows = sample_queries(1000, 50, seed=3)
    assert len(set(rows.tolist())) == 50
    assert np.array_equal(rows, np.sort(rows))
    assert np.array_equal(rows, sample_queries(1000, 50, seed=3))
    assert not np.array_equal(rows, sample_queries(1000, 50, seed=4))
    assert sample_queries(5, 50, seed=0).tolist() == [0, 1, 2, 3, 4]


def toy(rows: Sequence[tuple[str | None, str | None, str | None, str | None, float]]) -> pl.DataFrame:
    columns = ["province", "city", "district", "category", "lat_deg"]
    table = pl.DataFrame(rows, schema=dict(zip(columns, [pl.String] * 4 + [pl.Float64], strict=True)), orient="row")
    return table.with_columns(lon_deg=pl.lit(0.0))


TOY = toy([
    ("AZ", "Phoenix", "Centre", "Food > Pizza", 0.0),
    ("AZ", "Phoenix", "Centre", "Food > Sushi", 1.0),
    ("AZ", "Mesa", "Centre", "Food > Pizza", 2.0),  # a namesake district in another city
    ("NV", "Mesa", None, None, 3.0),  # a namesake city in another province, no district, no category
])  # fmt: skip


def test_known_answer_namesakes_and_unknown_regions() -> None:
    index = np.array([[1, 2, 3], [0, 2, 3], [3, 0, 1], [2, 0, 1]])
    result = neighbour_geography(TOY, np.arange(4), index, (1, 2, 9), seed=0)
    assert set(result["at"]) == {"1", "2", "3"}  # 9 is cut to N - 1
    first, second = result["at"]["1"], result["at"]["2"]
    assert first["province"] == pytest.approx(2 / 4)  # 0-1, 1-0 agree; 2-3 and 3-2 do not
    assert first["city"] == pytest.approx(2 / 4)  # AZ Mesa is not NV Mesa
    assert first["district"] == pytest.approx(2 / 3)  # item 3 has no district: left out as a query
    assert second["district"] == pytest.approx((1 + 1 + 0) / 6)  # the Centre of Mesa is not the Centre of Phoenix
    assert first["category_root"] == pytest.approx(2 / 3)  # as a neighbour, unknown counts as different
    assert first["category"] == pytest.approx(0 / 3)
    assert second["category"] == pytest.approx(2 / 6)
    assert first["distance_km"] == pytest.approx(float(haversine_km(0, 0, 1, 0)))
    assert result["unknown_queries"] == {"province": 0, "city": 0, "district": 1, "category_root": 1, "category": 1}


def test_random_baseline_is_the_mean_over_all_other_items() -> None:
    result = neighbour_geography(TOY, np.arange(4), np.array([[1], [0], [3], [2]]), (1,), seed=0)["random"]
    assert result["province"] == pytest.approx((2 + 2 + 2 + 0) / 12)
    assert result["city"] == pytest.approx((1 + 1 + 0 + 0) / 12)
    assert result["district"] == pytest.approx((1 + 1 + 0) / 9)
    assert result["category"] == pytest.approx((1 + 0 + 1) / 9)
    assert result["category_root"] == pytest.approx((2 + 2 + 2) / 9, abs=0.01)  # sampled
    pairs = [abs(a - b) for a in range(4) for b in range(4) if a != b]
    assert result["distance_km"] == pytest.approx(np.mean(pairs) * float(haversine_km(0, 0, 1, 0)), rel=0.01)


@given(data=st.data(), n=st.integers(2, 25))
@settings(max_examples=40, deadline=None)
def test_all_other_items_as_neighbours_give_the_random_baseline(data: st.DataObject, n: int) -> None:
    name = st.sampled_from(["a", "b", None])
    table = toy([(*(data.draw(name) for _ in range(4)), float(i)) for i in range(n)])
    index = np.array([[j for j in range(n) if j != i] for i in range(n)])
    result = neighbour_geography(table, np.arange(n), index, (n,), seed=0)
    everything, random = result["at"][str(n - 1)], result["random"]
    for share in ("province", "city", "district", "category"):
        assert everything[share] == (None if random[share] is None else pytest.approx(random[share]))


def test_flat_category_lists_share_a_top_category_when_they_overlap() -> None:
    names = ["Doctors | Health", "Health | Dentists", "Dentists", None]
    table = toy([("p", "c", "d", name, 0.0) for name in names])
    result = neighbour_geography(table, np.arange(4), np.array([[1, 2], [2, 0], [0, 1], [0, 1]]), (1, 2), seed=0)
    assert result["at"]["1"]["category_root"] == pytest.approx(2 / 3)  # 0-1 Health, 1-2 Dentists, 2-0 nothing
    assert result["at"]["2"]["category_root"] == pytest.approx((1 + 0 + 1 + 1 + 0 + 1) / 6)
    assert result["at"]["2"]["category"] == 0.0


def test_a_level_unknown_everywhere_is_none_not_zero() -> None:
    table = TOY.with_columns(district=pl.lit(None, dtype=pl.String))
    result = neighbour_geography(table, np.arange(4), np.array([[1], [0], [3], [2]]), (1,), seed=0)
    assert result["at"]["1"]["district"] is None
    assert result["random"]["district"] is None


def test_a_missing_coarse_level_is_a_value_of_its_own() -> None:
    codes = same_value_codes(toy([(None, None, "10001", None, 0.0), (None, None, "10001", None, 0.0),
                                  ("NY", None, "10001", None, 0.0)]))  # fmt: skip
    assert codes["district"][0] == codes["district"][1] != codes["district"][2]
    assert codes["city"].tolist() == [-1, -1, -1]


def test_random_vectors_show_no_geography() -> None:
    rng = np.random.default_rng(5)
    n = 3000
    table = toy([(f"p{p}", f"c{p}", f"d{p}", "x", float(p)) for p in rng.integers(0, 4, n)])
    emb = rng.standard_normal((n, 16)).astype(np.float32)
    queries = sample_queries(n, 1000, seed=0)
    result = neighbour_geography(table, queries, nearest_neighbours(emb, queries, 10)[0], (10,), seed=0)
    assert result["at"]["10"]["province"] == pytest.approx(result["random"]["province"], abs=0.02)
    assert result["at"]["10"]["distance_km"] == pytest.approx(result["random"]["distance_km"], rel=0.05)
