"""Items from a generator: only such as exist and can be reached, and what happens without a trie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_decoder import some_sids
from toy_rows import ITEMS, SIZES, codes, pack, select
from toy_t5 import tiger, whole_history

from lgsid.generate.beam import exact_scores
from lgsid.generate.recommending import Generated, rows_of_sids
from lgsid.generate.trie import Trie


def generated(beams: int = 8, **changes: object) -> Generated:
    """From an untrained model."""
    return Generated(tiger(**changes), Trie(codes()), beams)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_every_item_exists_and_can_be_reached(data: st.DataObject) -> None:
    subset = st.lists(st.integers(0, ITEMS - 1), unique=True, max_size=12)
    reach = [np.array(data.draw(subset), dtype=np.int64) for _ in range(3)]
    k = data.draw(st.integers(1, 15))
    row_RK = generated(data.draw(st.integers(1, 20))).top(whole_history(0, [1, 4, 9]), k, reach)
    assert row_RK.shape == (3, k)
    for named_K, chosen in zip(row_RK, reach, strict=True):
        named = named_K[named_K >= 0].tolist()
        assert set(named) <= set(chosen.tolist())
        assert len(named) == len(set(named)) == min(k, len(chosen))
        assert (named_K[len(named) :] == -1).all()


def test_the_whole_catalogue_in_exact_order() -> None:
    recommender, requests = generated(ITEMS), whole_history(1, [2, 6])
    exact = exact_scores(recommender.generator.decoder(requests), recommender.trie.all(2), torch.device("cpu"))
    assert recommender.top(requests, ITEMS).tolist() == [of.row_BW[0].tolist() for of in exact]
    assert recommender.top(requests, 5).tolist() == [of.row_BW[0, :5].tolist() for of in exact]


def test_more_items_than_beams_and_more_than_there_are() -> None:
    row_RK = generated(1).top(whole_history(2, [3]), ITEMS + 4)
    assert sorted(row_RK[0, :ITEMS].tolist()) == list(range(ITEMS))
    assert row_RK[0, ITEMS:].tolist() == [-1] * 4


def test_many_requests_are_answered_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgsid.generate.recommending._AT_ONCE", 3)
    recommender, requests = generated(), whole_history(3, [1, 2, 3, 4, 5, 6, 7])
    reach = [np.arange(n, ITEMS) for n in range(7)]
    together = recommender.top(requests, 4, reach)
    for r in range(7):
        assert recommender.top(select(requests, slice(r, r + 1)), 4, [reach[r]]).tolist() == [together[r].tolist()]


def test_a_user_without_history_gets_an_answer_that_does_not_depend_on_the_others() -> None:
    recommender = generated(time=True)
    empty = pack([[[]]], length=1)
    mixed = pack([[[]], [[(3, 0), (4, 900), (5, 9_999)]]])
    assert recommender.top(mixed, 6)[0].tolist() == recommender.top(empty, 6)[0].tolist()
    assert (recommender.top(empty, 6) >= 0).all()


def test_dropout_is_off_and_training_goes_on() -> None:
    recommender = generated(dropout=0.5)
    recommender.generator.train()
    requests = whole_history(4, [5, 5])
    assert recommender.top(requests, 6).tolist() == recommender.top(requests, 6).tolist()
    assert recommender.generator.training


def test_without_a_trie_the_best_sids_of_all() -> None:
    recommender, requests = generated(), whole_history(5, [4, 7])
    every = np.stack(np.unravel_index(np.arange(np.prod(SIZES)), SIZES), axis=1).astype(np.int32)
    exact = exact_scores(recommender.generator.decoder(requests), Trie(every).all(2), torch.device("cpu"))
    known = {tuple(sid): row for row, sid in enumerate(codes().tolist())}
    expected = [[known.get(tuple(every[row]), -1) for row in of.row_BW[0].tolist()] for of in exact]
    row_RK, invalid = Generated(recommender.generator, recommender.trie, len(every)).unconstrained(requests, len(every))
    assert row_RK.tolist() == expected
    assert invalid == pytest.approx(1 - ITEMS / len(every))
    few_RK, share = recommender.unconstrained(requests, 3)
    assert few_RK.shape == (2, 3)
    assert share == pytest.approx(float((few_RK < 0).mean()))


@settings(deadline=None, max_examples=40)
@given(some_sids)
def test_sids_are_found(codes_NL: np.ndarray) -> None:
    every = np.stack(np.unravel_index(np.arange(6**3), (6, 6, 6)), axis=1)
    known = {tuple(sid): row for row, sid in enumerate(codes_NL.tolist())}
    assert rows_of_sids(Trie(codes_NL), every).tolist() == [known.get(tuple(sid), -1) for sid in every.tolist()]
