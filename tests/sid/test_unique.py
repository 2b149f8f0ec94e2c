"""Every item gets its own SID, at the least cost, whatever the raw codes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.errors import ConfigError
from lgsid.sid.quality import collision_rates
from lgsid.sid.unique import code_keys, make_unique

K = 4


def random_cost(codes: CodeArray, seed: int) -> FloatArray:
    """A cost table in which the raw code is the cheapest, as it is for nearest centroids."""
    table = np.random.default_rng(seed).uniform(1, 2, (len(codes), K)).astype(np.float32)
    table[np.arange(len(codes)), codes[:, -1]] -= 1
    return table


raw_codes = st.integers(1, 40).flatmap(lambda n: arrays(np.int32, (n, 3), elements=st.integers(0, K - 1)))


@settings(deadline=None)
@given(raw_codes, st.integers(0, 99), st.sampled_from(["reassign", "extra_token"]))
def test_always_unique_and_always_in_range(codes: CodeArray, seed: int, method: str) -> None:
    table = random_cost(codes, seed)
    groups = np.unique(code_keys(codes[:, :2]), return_counts=True)[1]
    if groups.max() > K * K:
        with pytest.raises(ConfigError, match="tells 16 apart"):
            make_unique(codes, K, table.__getitem__, method)  # type: ignore[arg-type]
        return
    unique = make_unique(codes, K, table.__getitem__, method)  # type: ignore[arg-type]
    assert len(np.unique(unique.codes, axis=0)) == len(codes)
    assert unique.codes.shape[1] <= 4
    assert unique.codes.min() >= 0
    assert unique.codes[:, :3].max() < K
    assert np.array_equal(unique.codes[:, :2], codes[:, :2])
    assert collision_rates(unique.codes) == (0.0, 0.0)
    if method == "reassign" and groups.max() <= K:
        assert unique.codes.shape[1] == 3


@settings(deadline=None)
@given(raw_codes, st.integers(0, 99))
def test_items_that_do_not_collide_stay(codes: CodeArray, seed: int) -> None:
    groups = np.unique(code_keys(codes[:, :2]), return_counts=True)[1]
    if groups.max() > K:
        return
    unique = make_unique(codes, K, random_cost(codes, seed).__getitem__, "reassign")
    assert np.array_equal(unique.codes[~unique.collides, :3], codes[~unique.collides])
    assert np.array_equal(unique.moved, unique.codes[:, 2] != codes[:, 2])
    for key in np.unique(code_keys(codes)):  # of those that share a code, exactly one keeps it
        rows = np.flatnonzero(code_keys(codes) == key)
        assert (~unique.moved[rows]).sum() == 1


def test_moves_are_the_cheapest_possible() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 1]], dtype=np.int32)
    table = np.array([[0, 9, 5, 6], [1, 9, 2, 7], [1.5, 9, 2.5, 3], [9, 0, 9, 9]], dtype=np.float32)
    unique = make_unique(codes, K, table.__getitem__, "reassign")
    movers = [1, 2]  # item 0 is nearest to the shared code and item 3 does not collide
    best = min(
        itertools.permutations([2, 3]), key=lambda seats: sum(table[i, s] for i, s in zip(movers, seats, strict=True))
    )
    assert unique.codes[:, 1].tolist() == [0, *best, 1]


def test_extra_token_counts_items_in_row_order() -> None:
    codes = np.array([[1, 2], [3, 3], [1, 2], [1, 2]], dtype=np.int32)

    def never(rows: IntArray) -> FloatArray:
        raise AssertionError("no item has to move")

    unique = make_unique(codes, K, never, "extra_token")
    assert unique.codes.tolist() == [[1, 2, 0], [3, 3, 0], [1, 2, 1], [1, 2, 2]]
    assert unique.collides.tolist() == [True, False, True, True]
    assert not unique.moved.any()


def test_more_items_than_codes_need_one_extra_token() -> None:
    codes = np.zeros((10, 2), dtype=np.int32)
    unique = make_unique(codes, K, np.zeros((10, K), dtype=np.float32).__getitem__, "reassign")
    assert unique.codes.shape == (10, 3)
    assert np.bincount(unique.codes[:, 1]).max() == 3  # ten items, spread evenly over four codes


@given(arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 12)), elements=st.integers(0, 9999)))
def test_keys_are_equal_exactly_where_rows_are(codes: CodeArray) -> None:
    keys = code_keys(codes)
    _, by_row = np.unique(codes, axis=0, return_inverse=True)
    _, by_key = np.unique(keys, return_inverse=True)
    assert np.array_equal(by_row.ravel(), by_key)
