"""The trie of all SIDs, and of those within reach: against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import sids, some_sids

from lgsid.errors import DataError
from lgsid.generate.trie import BatchTrie, Trie


def walk(trie: BatchTrie, request: int) -> dict[tuple[int, ...], int]:
    """Every SID of a request and its row, by following the arrays."""
    found: dict[tuple[int, ...], int] = {}

    def below(level: int, start: int, stop: int, prefix: tuple[int, ...]) -> None:
        for node in range(start, stop):
            if level == len(trie.levels):
                assert prefix not in found
                found[prefix] = int(trie.row_M[node])
                continue
            here = trie.levels[level]
            assert here.child_M1[node] < here.child_M1[node + 1], "a node without anything below it"
            below(level + 1, here.child_M1[node], here.child_M1[node + 1], (*prefix, int(here.token_M[node])))

    below(0, *trie.root_B2[request], ())
    return found


@given(some_sids)
def test_whole_catalogue(codes_NL: np.ndarray) -> None:
    expected = {tuple(map(int, code)): row for row, code in enumerate(codes_NL)}
    trie = Trie(codes_NL).all(2)
    assert len(trie) == 2
    assert walk(trie, 0) == walk(trie, 1) == expected


@settings(deadline=None)
@given(some_sids, st.data())
def test_only_what_is_within_reach(codes_NL: np.ndarray, data: st.DataObject) -> None:
    subset = st.lists(st.integers(0, len(codes_NL) - 1), unique=True, max_size=len(codes_NL))
    rows = [np.array(chosen, dtype=np.int64) for chosen in data.draw(st.lists(subset, min_size=1, max_size=4))]
    trie = Trie(codes_NL).only(rows)
    for request, of_request in enumerate(rows):
        assert walk(trie, request) == {tuple(map(int, codes_NL[row])): row for row in of_request}


def test_children_of_a_node_are_in_the_order_of_their_tokens() -> None:
    trie = Trie(sids([5, 1, 63, 0, 17, 20])).all(1)
    for level in trie.levels[1:]:
        assert len(level.token_M) > 1
    first = trie.levels[0].token_M
    assert list(first) == sorted(set(first))


def test_memory_stays_in_proportion() -> None:
    rng = np.random.default_rng(0)
    number = rng.choice(256**3, 50_000, replace=False)
    codes_NL = np.stack([number // 65_536, number // 256 % 256, number % 256], axis=1).astype(np.int32)
    assert Trie(codes_NL).nbytes < 50_000 * 40


def test_two_items_of_one_sid() -> None:
    with pytest.raises(DataError, match=r"items 0 and 2 have one SID, 1-2") as error:
        Trie(np.array([[1, 2], [0, 0], [1, 2]], dtype=np.int32))
    assert error.value.fix is not None
    assert "lgsid tokenize" in error.value.fix


@pytest.mark.parametrize("codes", [np.empty((0, 3), np.int32), np.array([[0, -1]], np.int32), np.zeros(3, np.int32)])
def test_bad_sids(codes: np.ndarray) -> None:
    with pytest.raises(DataError):
        Trie(codes)
