"""Hit rate and NDCG by hand and against the plainest computation; reachability."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.errors import DataError
from lgsid.generate.metrics import hits_and_ndcg, measure, ranks, unnamed_share, unreachable_share


def test_known_answers() -> None:
    ranked = np.array([[7, 3, 5], [1, 2, 9], [4, -1, -1], [-1, -1, -1]])
    target, new = np.array([7, 9, 8, 0]), np.array([False, True, True, False])
    assert ranks(ranked, target).tolist() == [1, 3, 0, 0]
    figures = measure(ranked, target, new, ks=(1, 3))
    assert figures["all"] == {"requests": 4, "hit@1": 0.25, "ndcg@1": 0.25, "hit@3": 0.5, "ndcg@3": 0.375}
    assert figures["revisits"] == {"requests": 2, "hit@1": 0.5, "ndcg@1": 0.5, "hit@3": 0.5, "ndcg@3": 0.5}
    assert figures["first_visits"] == {"requests": 2, "hit@1": 0.0, "ndcg@1": 0.0, "hit@3": 0.5, "ndcg@3": 0.25}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.permutations(range(9)), min_size=1, max_size=8), st.data())
def test_against_the_plainest_computation(lists: list[list[int]], data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 9))
    ranked = np.array(lists)[:, :width]
    ended = data.draw(st.lists(st.integers(0, width), min_size=len(lists), max_size=len(lists)))
    for row, length in zip(ranked, ended, strict=True):
        row[length:] = -1
    target = np.array(data.draw(st.lists(st.integers(0, 8), min_size=len(lists), max_size=len(lists))))
    k = data.draw(st.integers(1, width))
    hits, gains = [], []
    for row, wanted in zip(ranked.tolist(), target.tolist(), strict=True):
        hits.append(wanted in row[:k])
        gains.append(1 / math.log2(row.index(wanted) + 2) if wanted in row[:k] else 0.0)
    found = measure(ranked, target, np.ones(len(target), dtype=np.bool_), (k,))
    assert found["all"] == found["first_visits"]
    assert found["all"][f"hit@{k}"] == pytest.approx(np.mean(hits))
    assert found["all"][f"ndcg@{k}"] == pytest.approx(np.mean(gains))
    assert found["revisits"] == {"requests": 0, f"hit@{k}": None, f"ndcg@{k}": None}


def test_no_requests_and_no_lists() -> None:
    assert hits_and_ndcg(np.empty(0, dtype=np.int64), (5,)) == {"hit@5": None, "ndcg@5": None}
    empty = np.empty((0, 5), dtype=np.int32)
    assert measure(empty, np.empty(0, dtype=np.int32), np.empty(0, dtype=np.bool_), (5,))["all"]["requests"] == 0
    assert unnamed_share(empty) is None
    assert unreachable_share(np.full((2, 3), -1), (np.zeros(2), np.zeros(2)), np.zeros(1), np.zeros(1), 5.0) is None


def test_reachability() -> None:
    lat, lon = np.array([0.0, 0.0, 0.0, 0.0]), np.array([0.0, 0.04, 0.05, 179.99])
    ranked = np.array([[0, 1, 2, -1], [3, 2, 1, 0]])
    here = np.array([0.0, 0.0]), np.array([0.0, -179.99])  # 0.045° are 5 km; the second is beyond the date line
    assert unreachable_share(ranked, here, lat, lon, 5.0) == pytest.approx(4 / 7)
    assert unnamed_share(ranked) == pytest.approx(1 / 8)


def test_bad_input() -> None:
    one = np.array([1])
    with pytest.raises(DataError, match=r"lists \(1, 2\) and targets \(2,\)"):
        ranks(np.array([[1, 2]]), np.array([1, 2]))
    with pytest.raises(DataError, match="a target is -1"):
        ranks(np.array([[-1, 2]]), np.array([-1]))
    with pytest.raises(DataError, match="1 requests, 1 the first, name an item twice"):
        ranks(np.array([[1, -1, -1], [2, 3, 2]]), np.array([1, 2]))
    with pytest.raises(DataError, match="lists of 2 items cannot tell hit@5"):
        measure(np.array([[1, 2]]), one, np.array([True]), (1, 5))
    with pytest.raises(DataError, match="marks of first visits"):
        measure(np.array([[1, 2]]), one, np.array([True, False]), (1,))
