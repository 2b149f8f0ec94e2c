"""Every item gets its own SID, at the least cost, whatever the raw codes and whatever came before."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.sid import unique as module
from lgsid.sid.quality import collision_rates
from lgsid.sid.table import codes_of, sid_table, sid_texts, without_idle_extra
from lgsid.sid.unique import Method, code_keys, make_unique, split_extra

K = 4


def random_cost(codes: CodeArray, seed: int) -> FloatArray:
    """A cost table in which the raw code is the cheapest, as it is for nearest centroids."""
    table = np.random.default_rng(seed).uniform(1, 2, (len(codes), K)).astype(np.float32)
    table[np.arange(len(codes)), codes[:, -1]] -= 1
    return table


raw_codes = st.integers(1, 40).flatmap(lambda n: arrays(np.int32, (n, 3), elements=st.integers(0, K - 1)))
batches = st.lists(
    st.integers(1, 30).flatmap(lambda n: arrays(np.int32, (n, 3), elements=st.sampled_from([0, 0, 0, 1, 2, 3]))),
    min_size=1,
    max_size=5,
)
methods: st.SearchStrategy[Method] = st.sampled_from(["reassign", "extra_token"])


def largest_prefix(codes: CodeArray) -> int:
    return int(np.unique(code_keys(codes[:, :2]), return_counts=True)[1].max())


@settings(deadline=None)
@given(raw_codes, st.integers(0, 99), methods)
def test_always_unique_and_always_in_range(codes: CodeArray, seed: int, method: Method) -> None:
    unique = make_unique(codes, K, random_cost(codes, seed).__getitem__, method)
    assert len(np.unique(unique.codes, axis=0)) == len(codes)
    assert unique.levels == 3
    assert unique.codes.shape[1] <= 4
    assert unique.codes.min() >= 0
    assert unique.codes[:, :3].max() < K
    assert np.array_equal(unique.codes[:, :2], codes[:, :2])
    assert collision_rates(unique.codes) == (0.0, 0.0)
    if method == "reassign" and largest_prefix(codes) <= K:
        assert unique.codes.shape[1] == 3
    if unique.codes.shape[1] == 4 and largest_prefix(codes) <= K * K:
        assert unique.codes[:, 3].max() < K


@settings(deadline=None)
@given(raw_codes, st.integers(0, 99))
def test_items_that_do_not_collide_stay(codes: CodeArray, seed: int) -> None:
    if largest_prefix(codes) > K:
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


def never(rows: IntArray) -> FloatArray:
    raise AssertionError("no item has to move")


def test_extra_token_counts_items_in_row_order() -> None:
    codes = np.array([[1, 2], [3, 3], [1, 2], [1, 2]], dtype=np.int32)
    unique = make_unique(codes, K, never, "extra_token")
    assert unique.codes.tolist() == [[1, 2, 0], [3, 3, 0], [1, 2, 1], [1, 2, 2]]
    assert unique.collides.tolist() == [True, False, True, True]
    assert not unique.moved.any()


def test_more_items_than_codes_need_one_extra_token() -> None:
    codes = np.zeros((10, 2), dtype=np.int32)
    unique = make_unique(codes, K, np.zeros((10, K), dtype=np.float32).__getitem__, "reassign")
    assert unique.codes.shape == (10, 3)
    assert np.bincount(unique.codes[:, 1]).max() == 3  # ten items, spread evenly over four codes


@pytest.mark.parametrize("method", ["reassign", "extra_token"])
def test_any_number_of_items_needs_one_extra_token_only(method: Method) -> None:
    count = 3 * K * K + 1  # more than an extra token of K values tells apart
    unique = make_unique(np.zeros((count, 2), np.int32), K, np.zeros((count, K), np.float32).__getitem__, method)
    assert unique.codes.shape == (count, 3)
    assert len(np.unique(unique.codes, axis=0)) == count
    assert unique.codes[:, 2].max() == -(-count // K) - 1  # spread evenly: as few values as can be


@pytest.mark.parametrize("method", ["reassign", "extra_token"])
def test_a_huge_prefix_is_seated_greedily(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(0).integers(0, 2, (200, 2), dtype=np.int32) * [[0, 1]]
    codes = codes.astype(np.int32)
    table = random_cost(codes, 0)
    exact = make_unique(codes, K, table.__getitem__, method)
    monkeypatch.setattr(module, "EXACT_CELLS", 0)
    greedy = make_unique(codes, K, table.__getitem__, method)
    rows = np.arange(200)
    assert np.bincount(greedy.codes[:, 1]).tolist() == np.bincount(exact.codes[:, 1]).tolist() == [50] * 4
    assert len(np.unique(greedy.codes, axis=0)) == 200
    best, found = (table[rows, made.codes[:, 1]].sum() for made in (exact, greedy))
    assert best <= found < 1.1 * best


# --- Items that come later --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(batches, st.integers(0, 99), methods)
def test_sids_stay_unique_after_any_sequence_of_batches(sequence: list[CodeArray], seed: int, method: Method) -> None:
    taken = np.empty((0, 4), dtype=np.int32)
    for number, codes in enumerate(sequence):
        unique = make_unique(codes, K, random_cost(codes, seed + number).__getitem__, method, taken)
        extra = split_extra(unique.codes, 3)[1]
        assert np.array_equal(unique.codes[:, :2], codes[:, :2])
        assert unique.codes[:, :3].max() < K
        taken = np.concatenate([taken, np.column_stack([unique.codes[:, :3], extra])])
        texts = sid_texts(taken, 3)
        assert texts.n_unique() == len(taken)
    keys, count = np.unique(code_keys(taken[:, :2]), return_counts=True)
    if method == "reassign":  # an extra token only where the prefix is full
        full = np.isin(code_keys(taken[:, :2]), keys[count > K])
        assert not taken[~full, 3].any()
    for key in np.unique(code_keys(taken[:, :3])):  # it counts on without gaps
        numbers = taken[code_keys(taken[:, :3]) == key, 3]
        assert sorted(numbers) == list(range(len(numbers)))


def test_a_free_code_is_taken_and_a_taken_one_moves_to_the_cheapest_free_one() -> None:
    taken = np.array([[0, 0], [0, 1], [1, 2]], dtype=np.int32)
    codes = np.array([[0, 2], [0, 0], [1, 0]], dtype=np.int32)
    table = np.array([[9, 9, 0, 9], [0, 1, 0.5, 2], [0, 9, 9, 9]], dtype=np.float32)
    unique = make_unique(codes, K, table.__getitem__, "reassign", taken)
    assert unique.codes.tolist() == [[0, 2], [0, 3], [1, 0]]  # 1 and 2 would be cheaper than 3, but are taken
    assert unique.collides.tolist() == [False, True, False]
    assert unique.moved.tolist() == [False, True, False]


def test_a_full_prefix_counts_on() -> None:
    taken = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 2, 0]], dtype=np.int32)
    codes = np.array([[0, 1], [0, 1], [0, 0]], dtype=np.int32)
    table = np.array([[5, 0, 6, 7], [5, 0, 6, 9], [0, 5, 6, 8]], dtype=np.float32)
    unique = make_unique(codes, K, table.__getitem__, "reassign", taken)
    # one free code, for the item to which it costs least beside staying; then two items a code, so code 1 is full
    assert sorted(map(tuple, unique.codes)) == [(0, 0, 1), (0, 2, 1), (0, 3, 0)]
    assert make_unique(codes, K, never, "extra_token", taken).codes.tolist() == [[0, 1, 2], [0, 1, 3], [0, 0, 1]]


def test_a_number_that_became_free_is_given_again() -> None:
    taken = np.array([[0, 0, 1], [0, 0, 3]], dtype=np.int32)  # 0 and 2 are free
    codes = np.zeros((2, 2), dtype=np.int32)
    assert make_unique(codes, K, never, "extra_token", taken).codes[:, 2].tolist() == [0, 2]


# --- Tables and texts -------------------------------------------------------------------------------------------------


def test_an_extra_token_of_zero_is_not_written() -> None:
    codes = np.array([[12, 7, 255, 0], [12, 7, 255, 1], [3, 0, 0, 0]], dtype=np.int32)
    table = sid_table(pl.Series(["a", "b", "c"]), codes, np.array([True, True, False]), 3)
    assert table.columns == ["item_id", "token_1", "token_2", "token_3", "token_4", "sid", "collides"]
    assert table["sid"].to_list() == ["12-7-255", "12-7-255-1", "3-0-0"]
    assert table["token_4"].to_list() == [0, 1, 0]
    assert np.array_equal(codes_of(table, 3), codes)
    assert sid_texts(codes[:, :3], 3).to_list() == ["12-7-255", "12-7-255", "3-0-0"]


def test_a_table_without_extra_token_has_no_column_for_it() -> None:
    codes = np.array([[1, 2, 0], [1, 3, 0]], dtype=np.int32)
    short = without_idle_extra(codes, 2)
    assert short.shape == (2, 2)
    assert np.array_equal(codes_of(sid_table(pl.Series(["a", "b"]), short, np.zeros(2, bool), 2), 2), codes)


@given(arrays(np.int32, st.tuples(st.integers(1, 30), st.integers(1, 12)), elements=st.integers(0, 9999)))
def test_keys_are_equal_exactly_where_rows_are(codes: CodeArray) -> None:
    keys = code_keys(codes)
    _, by_row = np.unique(codes, axis=0, return_inverse=True)
    _, by_key = np.unique(keys, return_inverse=True)
    assert np.array_equal(by_row.ravel(), by_key)
