"""Beam search for lists: against the likelihoods of all lists, one by one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_decoder import CODES, Prefixes, ToyDecoder, sids

from lgsid.generate.beam import beam_search
from lgsid.generate.lists import FoundLists, list_beam_search
from lgsid.generate.trie import Trie

CPU = torch.device("cpu")
LEVELS = 3
some_sids = st.lists(st.integers(0, CODES**LEVELS - 1), min_size=1, max_size=7).map(sids)


@dataclass
class ToyListDecoder(ToyDecoder):
    """Likelihoods of a token that depend on all tokens of the list before it."""

    def step(self, cache: Prefixes, parent_BW: Tensor, token_BW: Tensor, level: int) -> tuple[Tensor, Prefixes]:
        """See `lgsid.generate.beam.CodeDecoder`."""
        logp, prefixes = self._on(cache, parent_BW, token_BW)
        assert all(len(prefix) % LEVELS == level for of in prefixes for prefix in of)
        return logp, prefixes

    def next_item(self, cache: Prefixes, parent_BW: Tensor, token_BW: Tensor) -> tuple[Tensor, Prefixes]:
        """See `lgsid.generate.lists.ListDecoder`."""
        logp, prefixes = self._on(cache, parent_BW, token_BW)
        assert all(len(prefix) % LEVELS == 0 for of in prefixes for prefix in of)
        return logp, prefixes

    def _on(self, cache: Prefixes, parent_BW: Tensor, token_BW: Tensor) -> tuple[Tensor, Prefixes]:
        return self._answer([
            [(*cache[b][int(p)], int(t)) for p, t in zip(parent_BW[b], token_BW[b], strict=True)]
            for b in range(self.requests)
        ])  # fmt: skip


Scores = dict[tuple[int, ...], float]


def expected(decoder: ToyDecoder, request: int, codes_NL: np.ndarray, rows: list[int], items: int) -> Scores:
    """Likelihood of every list of some items, none twice."""

    def likelihood(chosen: tuple[int, ...]) -> float:
        return decoder.of_item(request, tuple(int(t) for row in chosen for t in codes_NL[row]))

    return {chosen: likelihood(chosen) for chosen in itertools.permutations(rows, min(items, len(rows)))}


def named(found: FoundLists, request: int) -> Scores:
    """Lists that were found, and their scores; checked to be in order."""
    scores = found.score_BW[request]
    assert (scores[1:] <= scores[:-1]).all() or torch.isneginf(scores).any()
    lists = {}
    for row_M, score in zip(found.row_BWM[request].tolist(), scores.tolist(), strict=True):
        if score == -np.inf:
            assert set(row_M) == {-1}
            continue
        chosen = tuple(row for row in row_M if row >= 0)
        assert row_M[: len(chosen)] == list(chosen), "what is missing is at the end"
        assert chosen not in lists
        lists[chosen] = score
    return lists


@settings(deadline=None, max_examples=25)
@given(some_sids, st.integers(1, 3), st.data())
def test_wide_search_finds_every_list_by_its_likelihood(codes_NL: np.ndarray, items: int, data: st.DataObject) -> None:
    subset = st.lists(st.integers(0, len(codes_NL) - 1), unique=True, max_size=4)
    rows = data.draw(st.lists(subset, min_size=2, max_size=2))
    trie = Trie(codes_NL).only([np.array(chosen, dtype=np.int64) for chosen in rows])
    decoder = ToyListDecoder(2, CODES, seed=items)
    found = list_beam_search(decoder, trie, items, 64, CPU)
    for request, chosen in enumerate(rows):
        wanted = expected(decoder, request, codes_NL, chosen, items) if chosen else {}
        assert named(found, request) == pytest.approx(wanted, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(some_sids, st.integers(1, 4), st.integers(1, 5), st.data())
def test_narrow_search_names_items_once_and_within_reach(
    codes_NL: np.ndarray, items: int, beams: int, data: st.DataObject
) -> None:
    subset = st.lists(st.integers(0, len(codes_NL) - 1), unique=True)
    rows = data.draw(st.lists(subset, min_size=3, max_size=3))
    trie = Trie(codes_NL).only([np.array(chosen, dtype=np.int64) for chosen in rows])
    decoder = ToyListDecoder(3, CODES)
    found = list_beam_search(decoder, trie, items, beams, CPU)
    assert found.row_BWM.shape == (3, beams, items)
    for request, chosen in enumerate(rows):
        lists = named(found, request)
        assert bool(lists) == bool(chosen)
        for one, score in lists.items():
            assert set(one) <= set(chosen)
            assert len(one) == len(set(one)) == min(items, len(chosen)), "no list comes to nothing"
            likelihood = decoder.of_item(request, tuple(int(t) for row in one for t in codes_NL[row]))
            assert score == pytest.approx(likelihood, abs=1e-4)


def test_lists_of_one_item_are_those_of_the_beam_search() -> None:
    codes_NL = sids(list(range(0, CODES**LEVELS, 3)))
    trie = Trie(codes_NL).all(2)
    one = beam_search(ToyListDecoder(2, CODES), trie, 5, CPU)
    other = list_beam_search(ToyListDecoder(2, CODES), trie, 1, 5, CPU)
    assert torch.equal(one.row_BW, other.row_BWM[:, :, 0])
    assert torch.equal(one.score_BW, other.score_BW)


def test_the_whole_catalogue_for_requests_that_share_nodes() -> None:
    codes_NL = sids([0, 1, 5, 63])
    decoder = ToyListDecoder(2, CODES)
    found = list_beam_search(decoder, Trie(codes_NL).all(2), 2, 50, CPU)
    for request in range(2):
        wanted = expected(decoder, request, codes_NL, [0, 1, 2, 3], 2)
        assert named(found, request) == pytest.approx(wanted, abs=1e-4)


def test_nothing_within_reach() -> None:
    nobody = np.empty(0, dtype=np.int64)
    found = list_beam_search(ToyListDecoder(2, CODES), Trie(sids([0, 1])).only([nobody, nobody]), 3, 4, CPU)
    assert (found.row_BWM == -1).all()
    assert torch.isneginf(found.score_BW).all()
