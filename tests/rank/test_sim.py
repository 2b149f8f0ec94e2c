"""SIM: hard and soft search, and the loss that trains the latter."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from toy_histories import toy_batch, toy_config, toy_ranker

from lgsid.rank.base import Batch
from lgsid.rank.encoder import SPREAD
from lgsid.rank.sim import SAMPLE, Sim


def test_hard_search_keeps_the_latest_visits_of_the_category() -> None:
    ranker = toy_ranker(Sim, toy_config(keep=2, hard=True))
    # categories are item % 4; items 9, 19, 29, 39 have none
    history = torch.tensor([[0, 4, 1, 8, 9, 12, 2, 19]])
    batch = replace(
        toy_batch((8,)),
        candidates_BC=torch.tensor([[16, 17, 29, 3]]),
        history_BT=history,
        mask_BT=torch.tensor([[False, True, True, True, True, True, True, True]]),
    )
    kept = ranker.same_category(batch)
    found = [set(place[mask].tolist()) for place, mask in zip(kept.place_BXK[0], kept.mask_BXK[0], strict=True)]
    assert found == [{3, 5}, {2}, set(), set()]  # 0 is padding, 4 is too old; no category meets no category


def test_hard_search_without_a_match_leaves_the_short_term_alone() -> None:
    ranker = toy_ranker(Sim, toy_config(hard=True)).eval()
    batch = replace(toy_batch((5,), candidates=2), candidates_BC=torch.tensor([[9, 19]]))
    e_UD = ranker.items(batch.items_U)
    vector_BCI = ranker.interest(e_UD[batch.candidates_BC], e_UD, batch).vector_BCI
    assert vector_BCI[..., :8].eq(0).all()
    assert vector_BCI[..., 8:].ne(0).all()


def test_soft_search_keeps_the_highest_inner_products() -> None:
    ranker = toy_ranker(Sim, toy_config(keep=4))
    batch = toy_batch((40, 9, 2), seed=3)
    e_UD = ranker.items(batch.items_U).detach()
    kept = ranker.most_similar(e_UD[batch.candidates_BC], e_UD, batch)
    a_BCD = ranker.of_candidate(e_UD[batch.candidates_BC])
    b_BTD = ranker.of_visit(e_UD[batch.history_BT])
    score_BCT = (a_BCD[:, :, None] * b_BTD[:, None]).sum(-1)
    for row, length in enumerate((40, 9, 2)):
        for candidate in range(3):
            chosen = kept.place_BXK[row, candidate][kept.mask_BXK[row, candidate]]
            best = score_BCT[row, candidate, 40 - length :].topk(min(4, length)).values
            torch.testing.assert_close(score_BCT[row, candidate, chosen].sort(descending=True).values, best)
            assert (chosen >= 40 - length).all()


def test_the_search_learns_from_its_own_loss_alone() -> None:
    ranker = toy_ranker(Sim, toy_config())
    batch = toy_batch()
    scores = ranker(batch)
    functional.binary_cross_entropy_with_logits(scores.logit_BC, batch.label_BC).backward()
    assert ranker.of_candidate.weight.grad is None
    ranker(batch).losses["search"].backward()
    for layer in (ranker.of_candidate, ranker.of_visit):
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().max() > 0


def test_the_loss_is_weighted_and_only_taken_in_training() -> None:
    batch = toy_batch()
    whole = toy_ranker(Sim, toy_config())(batch).losses["search"]
    tenth = toy_ranker(Sim, toy_config(search_weight=0.1))(batch).losses["search"]
    torch.testing.assert_close(tenth, whole / 10)
    assert toy_ranker(Sim, toy_config()).eval()(batch).losses == {}
    assert toy_ranker(Sim, toy_config(hard=True))(batch).losses == {}


def test_a_random_part_of_a_long_history_trains_the_search() -> None:
    ranker = toy_ranker(Sim, toy_config())
    long, short = 3 * SAMPLE, SAMPLE // 2
    batch = toy_batch((long, short), candidates=1)
    # every visit an item of its own, so that the gradient tells which were drawn
    e_UD = torch.randn(2 * long, 8, requires_grad=True)
    own = replace(batch, history_BT=torch.arange(2 * long).view(2, long) * batch.mask_BT)
    drawn = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        (gradient_UD,) = torch.autograd.grad(ranker.search_loss(torch.randn(2, 1, 8), e_UD, own), e_UD)
        touched_BT = gradient_UD.abs().sum(1).view(2, long) > 0
        assert touched_BT.sum(1).tolist() == [SAMPLE, short]
        assert not (touched_BT & ~batch.mask_BT).any()
        drawn.append(touched_BT[0])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_comes_to_find_the_visits_that_matter(seed: int) -> None:
    """Items 0 to 19 are visited by those who have been at their partners, 20 to 39."""
    ranker = toy_ranker(Sim, toy_config(keep=3, distance=False), seed)
    for table in ranker.items.tables:
        torch.nn.init.normal_(table, std=SPREAD)
    generator = torch.Generator().manual_seed(seed)
    blank = toy_batch((20,) * 128, candidates=2)

    def draw() -> Batch:
        history_BT = torch.rand(128, 40, generator=generator).argsort(1)[:, :20]
        candidates_BC = torch.rand(128, 20, generator=generator).argsort(1)[:, :2]
        label_BC = (history_BT[:, None] == candidates_BC[..., None] + 20).any(-1).float()
        return replace(blank, history_BT=history_BT, candidates_BC=candidates_BC, label_BC=label_BC)

    def recall() -> float:
        batch = draw()
        e_UD = ranker.items(batch.items_U)
        kept = ranker.most_similar(e_UD[batch.candidates_BC], e_UD, batch)
        found_BCK = kept.of(batch).history_BT.view_as(kept.place_BXK) == batch.candidates_BC[..., None] + 20
        return float(found_BCK.any(-1)[batch.label_BC > 0].float().mean())

    optimizer = torch.optim.Adam(ranker.parameters(), lr=0.03)
    before, losses = recall(), []
    for _ in range(250):
        batch = draw()
        e_UD = ranker.items(batch.items_U)
        loss = ranker.search_loss(e_UD[batch.candidates_BC], e_UD, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert before < 0.4
    assert losses[-1] < 0.4 * losses[0]
    assert recall() > 0.8
