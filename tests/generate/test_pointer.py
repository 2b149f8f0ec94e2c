"""The pointer: known answers, and that what was visited is found without having been learned."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_rows import ITEMS, SIZES, codes, pack
from toy_t5 import segment, tiger

from lgsid.generate.beam import beam_search, exact_scores
from lgsid.generate.pointer import Offers, Pointer
from lgsid.generate.trie import Trie

CPU = torch.device("cpu")


def offers_of(code_RTL: list[list[list[int]]], may_RPT: list[list[list[bool]]]) -> Offers:
    """Offers of visits that are all as good as each other."""
    code = torch.tensor(code_RTL)
    return Offers(torch.zeros(*code.shape[:2], 4), code, torch.tensor(may_RPT), torch.zeros(1, 1, code.shape[1]).long())


def test_visits_that_offer_a_token_add_up() -> None:
    pointer = Pointer(4, 2)
    offers = offers_of([[[0, 1], [0, 2], [2, 1]]], [[[True, True, True]]])
    logits = pointer(torch.zeros(1, 1, 3), torch.randn(1, 1, 4), offers, 0)
    # every token has weight 1 of its own; token 0 two visits, token 2 one
    torch.testing.assert_close(logits.exp(), torch.tensor([[[3.0, 1.0, 2.0]]]))


def test_only_visits_that_begin_as_what_was_written_offer_their_next_token() -> None:
    pointer = Pointer(4, 2)
    offers = offers_of([[[0, 1], [0, 2], [2, 1]]], [[[True, True, True]]]).narrowed(torch.tensor([[0, 2, 1]]), 0)
    logits = pointer(torch.zeros(1, 3, 3), torch.randn(1, 3, 4), offers, 1)
    expected = torch.tensor([[[1.0, 2.0, 2.0], [1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]])
    torch.testing.assert_close(logits.exp(), expected)


def test_without_an_offer_logits_stay_and_gradients_are_finite() -> None:
    pointer = Pointer(4, 1)
    logits, states = torch.randn(1, 2, 3, requires_grad=True), torch.randn(1, 2, 4, requires_grad=True)
    offers = offers_of([[[1], [2]]], [[[False, False], [False, False]]])
    found = pointer(logits, states, offers, 0)
    torch.testing.assert_close(found, logits)
    found.sum().backward()
    assert logits.grad is not None
    assert states.grad is not None
    assert torch.allclose(logits.grad, torch.ones_like(logits))
    assert not states.grad.any()


def test_beams_follow_their_parents() -> None:
    offers = offers_of([[[0, 1], [1, 2]]], [[[True, True]]]).narrowed(torch.tensor([[0, 1]]), 0)
    swapped = offers.of_parents(torch.tensor([[1, 0, 1]]))
    assert swapped.may_RPT.tolist() == [[[False, True], [True, False], [False, True]]]


def test_an_untrained_pointer_names_where_the_user_has_been() -> None:
    model = tiger(0)
    assert model.network.pointer is not None
    with torch.no_grad():  # visits alone decide, the later ones a little more
        for parameter in model.network.pointer.parameters():
            parameter.zero_()
        model.network.pointer.ago += 12 - 0.1 * torch.arange(model.network.pointer.ago.shape[1])
    rows = pack([[segment(np.random.default_rng(1), 9)]])
    found = beam_search(model.decoder(rows), Trie(codes()).all(1), ITEMS, CPU)
    been = set(rows.item_RT[0].tolist())
    assert set(found.row_BW[0, : len(been)].tolist()) == been


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1_000), st.integers(1, 12))
def test_likelihoods_of_all_items_add_up_to_one(seed: int, length: int) -> None:
    model = tiger(seed % 3)
    rows = pack([[segment(np.random.default_rng(seed), length)]])
    every = np.stack(np.meshgrid(*(np.arange(size) for size in SIZES), indexing="ij"), -1).reshape(-1, len(SIZES))
    (found,) = exact_scores(model.decoder(rows), Trie(every.astype(np.int32)).all(1), CPU)
    assert float(found.score_BW.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_an_older_visit_than_the_window_can_be_copied() -> None:
    model, rows = tiger(history=3, encoder_layers=1), pack([[segment(np.random.default_rng(2), 12)]])
    changed = rows.item_RT.clone()
    changed[0, 0] = (changed[0, 0] + 5) % ITEMS
    with torch.no_grad():
        before, after = (model.decoder(type(rows)(**{**vars(rows), "item_RT": item})).start()[0] for item in
                         (rows.item_RT, changed))  # fmt: skip
    assert not torch.allclose(before, after, atol=1e-6)
