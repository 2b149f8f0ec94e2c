"""DIEN against its equations; padding, empty histories, and an auxiliary loss that teaches what comes next."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_histories import of_its_own

from lgsid.config import RankConfig
from lgsid.rank.base import GAPS, Batch, Scores
from lgsid.rank.dien import Dien, auxiliary_loss, masked_softmax, other_visits
from lgsid.rank.encoder import ItemEncoder, ItemFeatures

ITEMS, D, C = 20, 8, 3
CONFIG = RankConfig(dim=D, hidden=(12,), history=6)


def made(config: RankConfig = CONFIG, seed: int = 0) -> Dien:
    features = ItemFeatures(
        names=("id",),
        rows_NF=np.arange(ITEMS)[:, None],
        sizes=(ITEMS,),
        seen_N=np.ones(ITEMS, dtype=np.float32),
        categories_N=np.full(ITEMS, -1),
    )
    torch.manual_seed(seed)
    return Dien(ItemEncoder(features, config), config)


def batch_of(histories: list[list[int]], steps: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    requests = len(histories)
    mask_BT = torch.arange(steps) >= steps - torch.tensor([len(history) for history in histories])[:, None]
    return Batch(
        items_U=torch.arange(ITEMS),
        candidates_BC=torch.randint(ITEMS, (requests, C), generator=generator),
        history_BT=torch.tensor([[0] * (steps - len(history)) + history for history in histories]),
        mask_BT=mask_BT,
        gap_BT=torch.randint(GAPS, (requests, steps), generator=generator) * mask_BT,
        hour_B=torch.zeros(requests, dtype=torch.int64),
        day_B=torch.zeros(requests, dtype=torch.int64),
        label_BC=(torch.arange(C) == 0).float().expand(requests, C),
    )


HISTORIES = [[1, 2, 3], [], [4, 4, 5, 6, 7, 8], [9]]


def first_request(batch: Batch, one: int) -> Batch:
    names = ("candidates_BC", "history_BT", "mask_BT", "gap_BT", "hour_B", "day_B", "label_BC")
    return replace(batch, **{name: getattr(batch, name)[one : one + 1] for name in names})


def loss_of(scores: Scores) -> Tensor:
    return scores.logit_BC.sum() + sum(scores.losses.values())


class TestInterest:
    def test_equals_the_equations(self) -> None:
        model = made().double().eval()
        q_BCD, h_BTD = torch.randn(1, C, D).double(), torch.randn(1, 4, D).double()
        batch = batch_of([[1, 2, 3]], steps=4)
        got_CD = model.interest(*of_its_own(q_BCD, h_BTD, batch)).vector_BCI[0]
        x_TD = h_BTD[0, 1:] + model.gap.weight[batch.gap_BT[0, 1:]]
        s_TD = torch.stack(follow(model.extractor, x_TD, [1.0] * 3))
        for candidate in range(C):
            attention_T = torch.softmax(s_TD @ model.bilinear.weight @ q_BCD[0, candidate], dim=0)
            expected_D = follow(model.evolution, s_TD, attention_T.tolist())[-1]
            torch.testing.assert_close(got_CD[candidate], expected_D)

    def test_does_not_depend_on_padding(self) -> None:
        model = made().eval()
        short, long = batch_of(HISTORIES), batch_of(HISTORIES, steps=11)
        junk_BT = torch.randint(ITEMS, (len(HISTORIES), 11))
        gaps_BT = torch.cat([torch.full((len(HISTORIES), 5), GAPS - 1), short.gap_BT], dim=1)
        long = replace(
            long,
            candidates_BC=short.candidates_BC,
            history_BT=torch.where(long.mask_BT, long.history_BT, junk_BT),
            gap_BT=torch.where(long.mask_BT, gaps_BT, GAPS - 1),
        )
        torch.testing.assert_close(model(long).logit_BC, model(short).logit_BC)

    def test_depends_on_the_visits_their_order_and_the_candidate(self) -> None:
        model = made().eval()
        q_BCD = torch.randn(3, C, D)
        h_BTD = torch.randn(3, 6, D)
        batch = batch_of([[1] * 6] * 3)
        vector_BCI = model.interest(*of_its_own(q_BCD, h_BTD, batch)).vector_BCI
        turned_BCI = model.interest(*of_its_own(q_BCD, h_BTD.flip(1), batch)).vector_BCI
        assert (vector_BCI - turned_BCI).abs().amin(dim=(1, 2)).gt(0).all()
        assert not torch.equal(vector_BCI[:, 0], vector_BCI[:, 1])
        assert not torch.equal(vector_BCI[0], vector_BCI[1])

    def test_is_zero_without_visits(self) -> None:
        model = made()
        batch = batch_of([[], []])
        interest = model.interest(*of_its_own(torch.randn(2, C, D), torch.randn(2, 6, D), batch))
        assert not interest.vector_BCI.any()
        assert interest.losses["auxiliary"].item() == 0
        loss_of(model(batch)).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_one_request_is_the_same_alone_and_among_others(self) -> None:
        model, batch = made().eval(), batch_of(HISTORIES)
        together_BC = model(batch).logit_BC
        for one in range(len(HISTORIES)):
            torch.testing.assert_close(model(first_request(batch, one)).logit_BC[0], together_BC[one])

    def test_same_seed_gives_the_same_bits(self) -> None:
        gradients = []
        for _ in range(2):
            model = made()
            torch.manual_seed(5)
            loss_of(model(batch_of(HISTORIES))).backward()  # type: ignore[no-untyped-call]
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def follow(gru: torch.nn.Module, x_TD: Tensor, attention_T: list[float]) -> list[Tensor]:
    """States of one sequence, step by step."""
    state_D, states = torch.zeros_like(x_TD[0]), []
    for x_D, a in zip(x_TD, attention_T, strict=True):
        x_r, x_u, x_n = gru.of_input(x_D).chunk(3)
        s_r, s_u, s_n = gru.of_state(state_D).chunk(3)
        n_D = torch.tanh(x_n + torch.sigmoid(x_r + s_r) * s_n)
        state_D = torch.lerp(state_D, n_D, a * torch.sigmoid(x_u + s_u))
        states.append(state_D)
    return states


class TestMaskedSoftmax:
    def test_known_answer(self) -> None:
        score = torch.tensor([[[50.0, 0.0, math.log(3.0)], [-1e30, -1e30, -1e30]], [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]])
        mask = torch.tensor([[[False, True, True]], [[False, False, False]]])
        expected = torch.tensor([[[0, 0.25, 0.75], [0, 0.5, 0.5]], [[0, 0, 0], [0, 0, 0]]])
        torch.testing.assert_close(masked_softmax(score, mask), expected)


class TestOtherVisits:
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 2**31))
    def test_are_never_to_the_item_itself(self, visits: list[int], seed: int) -> None:
        torch.manual_seed(seed)
        visits_V, items_BS = torch.tensor(visits), torch.arange(6).repeat(2, 4)
        place_BS, found_BS = other_visits(items_BS, visits_V)
        assert (visits_V[place_BS] != items_BS)[found_BS].all()
        expected_BS = [[any(visit != item for visit in visits) for item in row] for row in items_BS.tolist()]
        assert found_BS.tolist() == expected_BS

    def test_every_other_visit_is_as_likely(self) -> None:
        torch.manual_seed(0)
        visits_V = torch.tensor([3, 1, 3, 2, 1, 5])
        place_BS, _ = other_visits(torch.full((1, 40_000), 3), visits_V)
        share_V = torch.bincount(place_BS[0], minlength=6) / 40_000
        torch.testing.assert_close(share_V, torch.tensor([0, 1, 0, 1, 1, 1]) / 4, atol=0.01, rtol=0)

    def test_follow_the_seed(self) -> None:
        def draw(seed: int) -> list[list[int]]:
            torch.manual_seed(seed)
            drawn: list[list[int]] = other_visits(torch.zeros(1, 30, dtype=torch.int64), torch.arange(50))[0].tolist()
            return drawn

        assert draw(0) == draw(0) != draw(1)


class TestAuxiliaryLoss:
    def test_known_answer(self) -> None:
        # one pair (visit to 1, then to 2) of which the negative can only be the visit to 1
        s_BTD, h_BTD = torch.zeros(1, 3, 2), torch.full((1, 3, 2), 100.0)
        s_BTD[0, 1], h_BTD[0, 1], h_BTD[0, 2] = torch.tensor([[1.0, 2.0], [0.5, -1.0], [1.0, 1.0]])
        mask_BT = torch.tensor([[False, True, True]])
        loss = auxiliary_loss(s_BTD, h_BTD, torch.tensor([[0, 1, 2]]), mask_BT)
        assert loss.item() == pytest.approx(math.log1p(math.exp(-3.0)) + math.log1p(math.exp(-1.5)))

    @pytest.mark.parametrize("histories", [[[], []], [[1], [2]], [[3, 3], [3]], [[], [3, 3, 3, 3, 3, 3]]])
    def test_is_zero_where_there_is_nothing_to_tell_apart(self, histories: list[list[int]]) -> None:
        model = made()
        scores = model(batch_of(histories))
        assert scores.losses["auxiliary"].item() == 0
        loss_of(scores).backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

    def test_is_there_in_training_alone_and_weighted(self) -> None:
        batch = batch_of(HISTORIES)
        assert made().eval()(batch).losses == {}
        assert made(CONFIG.model_copy(update={"auxiliary_weight": 0.0}))(batch).losses == {}
        losses = []
        for weight in (0.5, 1.0):
            model = made(CONFIG.model_copy(update={"auxiliary_weight": weight}))
            torch.manual_seed(7)
            losses.append(model(batch).losses["auxiliary"].item())
        assert losses[1] == pytest.approx(2 * losses[0])
        assert 0 < losses[1] < 4 * math.log(2)

    def test_does_not_see_padding(self) -> None:
        batch = batch_of([[1, 2, 3], [1, 2]])
        s_BTD, h_BTD = torch.randn(2, 6, D), torch.randn(2, 6, D)
        losses = []
        for junk in (0.0, 1e3):
            torch.manual_seed(0)
            losses.append(
                auxiliary_loss(
                    torch.where(batch.mask_BT[..., None], s_BTD, junk),
                    torch.where(batch.mask_BT[..., None], h_BTD, junk),
                    torch.where(batch.mask_BT, batch.history_BT, int(junk) % ITEMS),
                    batch.mask_BT,
                )
            )
        assert torch.equal(*losses)

    def test_reaches_embeddings_and_extractor(self) -> None:
        model = made()
        model(batch_of([[1, 2, 3], [4, 5]])).losses["auxiliary"].backward()
        table = model.items.tables[0].grad
        assert table is not None
        assert table[[1, 2, 3, 4, 5]].any(dim=1).all()
        assert not table[6:].any()
        assert all(p.grad is not None and p.grad.any() for p in model.extractor.parameters())
        assert all(p.grad is None for p in model.evolution.parameters())

    def test_learns_what_comes_next(self) -> None:
        """On a ring of items, whoever was at one goes to the next one."""
        model = made()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        losses = []
        torch.manual_seed(0)
        for step in range(60):
            starts = torch.randint(ITEMS, (32,), generator=torch.Generator().manual_seed(step)).tolist()
            batch = batch_of([[(start + later) % ITEMS for later in range(6)] for start in starts])
            loss = model(batch).losses["auxiliary"] / CONFIG.auxiliary_weight
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(2 * math.log(2), abs=0.1)
        assert np.mean(losses[-10:]) < 0.5 * losses[0]
