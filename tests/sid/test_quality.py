"""Quality figures with known answers."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lgsid.arrays import DoubleArray, FloatArray
from lgsid.sid.base import Tokenizer
from lgsid.sid.quality import (
    collision_rates,
    coverage,
    gini,
    level_use,
    measure,
    purity,
    squared_errors,
    token_radius_km,
)


def test_both_readings_of_collision_rate() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [1, 0]], dtype=np.int32)
    assert collision_rates(codes) == (pytest.approx(3 / 5), pytest.approx(2 / 5))


def test_use_of_a_level() -> None:
    even = level_use(np.array([0, 1, 2, 3], dtype=np.int32), 4)
    assert (even["utilisation"], even["entropy_bits"], even["perplexity"], even["gini"]) == (1.0, 2.0, 4.0, 0.0)
    single = level_use(np.array([2, 2, 2], dtype=np.int32), 4)
    assert (single["utilisation"], single["entropy_bits"], single["largest_share"]) == (0.25, 0.0, 1.0)
    assert single["gini"] == pytest.approx(0.75)


@given(arrays(np.float64, st.integers(1, 20), elements=st.integers(0, 9)).filter(lambda a: a.sum() > 0))
def test_gini_is_half_the_relative_mean_difference(counts: DoubleArray) -> None:
    difference = np.abs(counts[:, None] - counts).mean()
    assert math.isclose(gini(counts), difference / (2 * counts.mean()), abs_tol=1e-9)


def test_coverage_counts_the_commonest_codes() -> None:
    codes = np.repeat([3, 1, 0, 2], [50, 30, 15, 5]).astype(np.int32)
    assert coverage(codes, 8, (0.5, 0.75, 0.9, 0.99)) == {"50%": 1, "75%": 2, "90%": 3, "99%": 4}


def test_purity_leaves_out_unknown_labels() -> None:
    codes = np.array([0, 0, 0, 1, 1], dtype=np.int32)
    assert purity(codes, pl.Series(["a", "a", "b", "c", None])) == pytest.approx(3 / 4)
    assert purity(codes, pl.Series([None] * 5, dtype=pl.String)) is None


def test_radius_of_two_points_is_half_their_distance() -> None:
    items = pl.DataFrame({"lat_deg": [0.0, 0.0, 50.0], "lon_deg": [179.5, -179.5, 10.0]})
    radius = token_radius_km(np.array([0, 0, 5], dtype=np.int32), items)
    assert radius.tolist() == [pytest.approx(55.6, abs=0.1), pytest.approx(0.0, abs=1e-6)]


def test_errors_fall_level_by_level_and_measure_agrees() -> None:
    rng = np.random.default_rng(0)
    emb = rng.standard_normal((50, 3)).astype(np.float32)
    first = emb[:5].copy()
    codes = np.stack([((emb[:, None] - first) ** 2).sum(-1).argmin(1), np.zeros(50, dtype=int)], axis=1).astype(
        np.int32
    )
    books = [first, np.zeros((1, 3), dtype=np.float32)]
    expected = ((emb - first[codes[:, 0]]) ** 2).sum(1).mean()
    tokenizer = _Books(books)
    assert squared_errors(emb, codes, tokenizer.decode) == pytest.approx([expected, expected], rel=1e-5)
    items = pl.DataFrame({"lat_deg": rng.uniform(0, 1, 50), "lon_deg": rng.uniform(0, 1, 50), "province": ["P"] * 50})
    figures = measure(items, emb, codes, codes, tokenizer, 0.0)
    spread = ((emb - emb.mean(0)) ** 2).sum(1).mean()
    assert figures["reconstruction"]["relative_by_level"][1] == pytest.approx(expected / spread, rel=1e-5)
    assert figures["first_token"]["province_purity"] == 1.0
    assert figures["extra_token"] is False
    assert list(figures["prefixes"]) == ["random", "1", "2"]
    assert figures["prefixes"]["1"] == {**figures["prefixes"]["2"], "mean_km": figures["prefixes"]["1"]["mean_km"]}
    json.dumps(figures, allow_nan=False)  # unknown cities and categories must not become NaN


class _Books(Tokenizer):
    """Known codebooks, nothing learned."""

    method = "random"

    def __init__(self, books: list[FloatArray]) -> None:
        super().__init__()
        self.books = books

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        return self.books
