"""The best renumbering of codes: against brute force, and what it must not do."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lgsid.arrays import CodeArray
from lgsid.errors import DataError
from lgsid.sid.matching import match_codes

K = 4
pairs = st.integers(0, 40).flatmap(
    lambda n: st.tuples(*(arrays(np.int32, n, elements=st.integers(0, K - 1)) for _ in range(2)))
)


@settings(deadline=None)
@given(pairs)
def test_no_permutation_agrees_on_more_items(both: tuple[CodeArray, CodeArray]) -> None:
    old, new = both
    found = match_codes(old, new, K)
    assert sorted(found) == list(range(K))
    best = max((np.array(p, dtype=np.int32)[new] == old).sum() for p in itertools.permutations(range(K)))
    assert (found[new] == old).sum() == best


@settings(deadline=None)
@given(arrays(np.int32, 60, elements=st.integers(0, 9)), st.permutations(range(10)))
def test_a_renumbering_is_undone(old: CodeArray, order: list[int]) -> None:
    assert np.array_equal(match_codes(old, np.array(order, dtype=np.int32)[old], 10)[np.array(order)][old], old)


def test_codes_that_nobody_has_stay() -> None:
    codes = np.array([1, 1, 2], dtype=np.int32)
    assert match_codes(codes, codes, 6).tolist() == [0, 1, 2, 3, 4, 5]
    assert match_codes(codes, np.array([2, 2, 1], dtype=np.int32), 6).tolist() == [0, 2, 1, 3, 4, 5]


def test_bad_codes_are_refused() -> None:
    with pytest.raises(DataError, match="one code per item"):
        match_codes(np.zeros(2, np.int32), np.zeros(3, np.int32), K)
    with pytest.raises(DataError, match="0 to 4, expected 0 to 3"):
        match_codes(np.zeros(2, np.int32), np.array([0, 4], np.int32), K)
