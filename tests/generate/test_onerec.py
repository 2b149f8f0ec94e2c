"""OneRec: its loss against lists one by one, its likelihoods against those of the search, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toy_rows import HOUR, ITEMS, Segment, ToyRows, after, circle, codes, make_generator, pack, small, toy_requests

from lgsid.config import ExpertConfig, SessionConfig
from lgsid.generate.base import Packed
from lgsid.generate.beam import exact_scores
from lgsid.generate.lists import list_beam_search
from lgsid.generate.moe import SparseExperts
from lgsid.generate.onerec import OneRec
from lgsid.generate.sessions import session_lists
from lgsid.generate.trie import Trie

CPU = torch.device("cpu")


def model(seed: int = 0, **changes: Any) -> OneRec:
    """In evaluation mode, with no parameter at 0."""
    made = make_generator("onerec", small(**changes), seed)
    assert isinstance(made, OneRec)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made.eval()


def asked(visits: Segment, now: int) -> Packed:
    rows = pack([[visits]], first_target=len(visits))
    rows.now_R[:] = rows.time_RT[0, 0] - visits[0][1] + now
    return rows


@pytest.mark.parametrize("encoder", ["causal", "full"])
@pytest.mark.parametrize("items", [1, 2, 3])
def test_loss_is_that_of_the_lists_one_by_one(encoder: str, items: int) -> None:
    sessions = SessionConfig(items=items, gap_hours=1.5)
    onerec = model(encoder=encoder, sessions=sessions, time=True, experts=ExpertConfig(balance_weight=0.0))
    visits = [(1, 0), (2, HOUR), (3, 2 * HOUR), (3, 3 * HOUR), (9, 9 * HOUR), (5, 10 * HOUR)]
    if encoder == "causal":
        rows = pack([[visits, circle(0, 3)], [circle(4, 4)]], length=10)
        segments = [[visits, circle(0, 3)], [circle(4, 4)]]
    else:
        rows = pack([[visits[:3]], [circle(4, 5)]])
        rows.target_RT[0, 1] = False
        rows.target_RT[1, 1:4] = False
        segments = [[visits[:3]], [circle(4, 5)]]
    lists = session_lists(rows, 1.5, items)
    total, tokens = 0.0, 0
    for r, t, item_M in zip(lists.row_P.tolist(), lists.place_P.tolist(), lists.item_PM, strict=True):
        segment = int(rows.segment_RT[r, t])
        at = t - int((rows.segment_RT[r, :t] < segment).sum())
        past = segments[r][segment]
        request = asked(past[:at], past[at][1])
        total -= float(onerec.list_log_likelihood(request, item_M[None, None]).detach())
        tokens += 3 * int((item_M >= 0).sum())
    loss, figures = onerec.loss(rows)
    assert float(loss.detach()) == pytest.approx(total / tokens, rel=1e-4)
    assert ("later" in figures) == (items > 1 and bool((lists.item_PM[:, 1:] >= 0).any()))


def test_balance_is_part_of_the_loss() -> None:
    rows = pack([[circle(0, 5)]])
    without, _ = model(experts=ExpertConfig(balance_weight=0.0)).loss(rows)
    loss, figures = model(experts=ExpertConfig(balance_weight=0.5)).loss(rows)
    assert figures["balance"] >= 0.5, "one layer, and 1 is the least"
    assert float((loss - without).detach()) == pytest.approx(figures["balance"], rel=1e-4)


def test_experts_stand_in_the_decoder_alone() -> None:
    network = model(encoder_layers=2, decoder_layers=2).network
    assert [len([m for m in part.modules() if isinstance(m, SparseExperts)])
            for part in (network.encoder, network.decoder)] == [0, 2]  # fmt: skip


def test_first_items_are_scored_as_lists_of_one() -> None:
    onerec = model()
    requests, _ = toy_requests(3)
    trie = Trie(codes()).all(3)
    rows_RW1 = torch.arange(ITEMS).expand(3, -1)[..., None]
    logp_RW = onerec.list_log_likelihood(requests, rows_RW1)
    for request, found in enumerate(exact_scores(onerec.decoder(requests), trie, CPU)):
        torch.testing.assert_close(logp_RW[request].detach()[found.row_BW[0]], found.score_BW[0])


@pytest.mark.parametrize("users", [0, 3])
def test_search_finds_the_lists_of_the_highest_likelihood(users: int) -> None:
    onerec = model(users=users, time=True, distance=True)
    requests, _ = toy_requests(2)
    reach = [np.array([0, 3, 5, 8]), np.array([1, 2])]
    found = list_beam_search(onerec.list_decoder(requests), Trie(codes()).only(reach), 3, 30, CPU)
    alive_RW = found.score_BW > -torch.inf
    assert alive_RW.sum(1).tolist() == [24, 2]
    logp_RW = onerec.list_log_likelihood(requests, found.row_BWM).detach()
    torch.testing.assert_close(logp_RW[alive_RW], found.score_BW[alive_RW], atol=1e-4, rtol=1e-4)


def test_likelihood_of_given_lists_can_be_learned_from() -> None:
    onerec = model()
    requests, _ = toy_requests(2)
    lists_RWM = torch.tensor([[[1, 2, 3], [4, -1, -1]], [[5, 6, -1], [-1, -1, -1]]])
    logp_RW = onerec.list_log_likelihood(requests, lists_RWM)
    assert logp_RW.shape == (2, 2)
    assert float(logp_RW[1, 1].detach()) == 0.0
    gradients = torch.autograd.grad(logp_RW[0, 0], list(onerec.parameters()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None)
    assert sum(g is not None and bool(g.any()) for g in gradients) > 10
    alone = onerec.list_log_likelihood(requests, lists_RWM[:, :1, :2])
    torch.testing.assert_close(alone[1, 0], logp_RW[1, 0])


def test_learns_what_comes_next_and_what_comes_after() -> None:
    onerec = make_generator("onerec", small(), seed=0)
    assert isinstance(onerec, OneRec)
    source = ToyRows()
    optimizer = torch.optim.AdamW(onerec.parameters(), lr=1e-2)
    for step in range(130):
        loss, _ = onerec.loss(source.rows(np.arange(4) + step % 6 * 4))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    onerec.eval()
    requests, answer_R = toy_requests()
    found = list_beam_search(onerec.list_decoder(requests), Trie(codes()).all(ITEMS), 2, 5, CPU)
    assert np.mean(found.row_BWM[:, 0, 0].numpy() == answer_R) > 0.8
    assert np.mean(found.row_BWM[:, 0, 1].numpy() == [after(item) for item in answer_R]) > 0.8


def test_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match="no visit of these rows is a target"):
        model().loss(pack([[[(1, 0)]]]))
