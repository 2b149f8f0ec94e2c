"""Beam search: against the likelihoods of all items, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import CODES, ToyDecoder, some_sids

from lgsid.generate.beam import beam_search, exact_scores
from lgsid.generate.trie import Trie

CPU = torch.device("cpu")


def ranking(decoder: ToyDecoder, request: int, codes_NL: np.ndarray, rows: list[int]) -> dict[int, float]:
    """Likelihood of each of some items."""
    return {row: decoder.of_item(request, tuple(map(int, codes_NL[row]))) for row in rows}


@settings(deadline=None, max_examples=30)
@given(some_sids, st.integers(0, 5))
def test_wide_search_finds_every_item_by_its_likelihood(codes_NL: np.ndarray, seed: int) -> None:
    decoder = ToyDecoder(2, CODES, seed)
    found = beam_search(decoder, Trie(codes_NL).all(2), CODES**3, CPU)
    for request in range(2):
        expected = ranking(decoder, request, codes_NL, list(range(len(codes_NL))))
        alive = found.row_BW[request] >= 0
        assert dict(
            zip(found.row_BW[request][alive].tolist(), found.score_BW[request][alive].tolist(), strict=True)
        ) == (pytest.approx(expected, abs=1e-4))
        assert found.score_BW[request].diff().nan_to_num(0).le(0).all()


@settings(deadline=None, max_examples=30)
@given(some_sids, st.data())
def test_users_of_different_reach_in_one_batch(codes_NL: np.ndarray, data: st.DataObject) -> None:
    subset = st.lists(st.integers(0, len(codes_NL) - 1), unique=True, max_size=len(codes_NL))
    rows = data.draw(st.lists(subset, min_size=3, max_size=3))
    trie = Trie(codes_NL).only([np.array(chosen, dtype=np.int64) for chosen in rows])
    beams = data.draw(st.integers(1, 8))
    found = beam_search(ToyDecoder(3, CODES), trie, beams, CPU)
    for request, chosen in enumerate(rows):
        named = [row for row in found.row_BW[request].tolist() if row >= 0]
        assert set(named) <= set(chosen)
        assert len(named) == len(set(named)) > 0 or not chosen
        assert torch.isneginf(found.score_BW[request][found.row_BW[request] < 0]).all()


def test_nothing_within_reach() -> None:
    codes_NL = np.array([[0, 1], [2, 3]], dtype=np.int32)
    nobody = np.empty(0, dtype=np.int64)
    found = beam_search(ToyDecoder(2, CODES), Trie(codes_NL).only([nobody, nobody]), 4, CPU)
    assert (found.row_BW == -1).all()
    mixed = beam_search(ToyDecoder(2, CODES), Trie(codes_NL).only([nobody, np.array([1])]), 4, CPU)
    assert (mixed.row_BW[0] == -1).all()
    assert mixed.row_BW[1][mixed.row_BW[1] >= 0].tolist() == [1]


def test_narrow_search_follows_the_best_prefixes() -> None:
    codes_NL = np.array([[a, b] for a in range(CODES) for b in range(CODES)], dtype=np.int32)
    decoder = ToyDecoder(1, CODES, seed=3)
    best = int(decoder.likelihoods(0, ()).argmax())
    found = beam_search(decoder, Trie(codes_NL).all(1), 1, CPU)
    assert found.row_BW.shape == (1, 1)
    assert codes_NL[int(found.row_BW[0, 0])].tolist() == [best, int(decoder.likelihoods(0, (best,)).argmax())]


def test_exact_scores_ask_for_each_prefix_once() -> None:
    codes_NL = np.array([[0, 0, 1], [0, 0, 2], [0, 1, 0], [3, 3, 3]], dtype=np.int32)
    decoder = ToyDecoder(1, CODES)
    (found,) = exact_scores(decoder, Trie(codes_NL).all(1), CPU)
    expected = ranking(decoder, 0, codes_NL, [0, 1, 2, 3])
    assert dict(zip(found.row_BW[0].tolist(), found.score_BW[0].tolist(), strict=True)) == pytest.approx(
        expected, abs=1e-4
    )


def test_a_request_without_items_has_no_exact_scores() -> None:
    codes_NL = np.array([[0, 0], [1, 1]], dtype=np.int32)
    first, second = exact_scores(ToyDecoder(2, CODES), Trie(codes_NL).only([np.array([1]), np.empty(0, np.int64)]), CPU)
    assert first.row_BW.tolist() == [[1]]
    assert second.row_BW.numel() == 0
