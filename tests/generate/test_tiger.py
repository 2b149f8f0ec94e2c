"""TIGER on packed rows: what each target may see, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from toy_rows import ITEMS, SIZES, Segment, ToyRows, codes, pack, places, select, small
from toy_t5 import segment, tiger

from lgsid.generate.base import Packed
from lgsid.generate.tiger import Tiger
from lgsid.generate.tokens import gap_bucket, hour_of_week

CONTEXT: dict[str, Any] = {"time": True, "distance": True, "users": 3}


def users(seed: int = 0) -> list[list[Segment]]:
    """Rows of several users, longer than a band's block and window."""
    rng = np.random.default_rng(seed)
    return [[segment(rng, n) for n in lengths] for lengths in ((30,), (5, 1, 17), (9, 14), (2,))]


def alone(rows: Packed, row: int, place: int) -> Packed:
    """The segment of one visit up to that visit, as a row of its own with one target."""
    number = rows.segment_RT[row, place]
    first = int((rows.segment_RT[row] == number).nonzero()[0, 0])
    cut = {
        name: getattr(rows, name)[row : row + 1, first : place + 1].clone()
        for name in ("item_RT", "time_RT", "band_RT", "user_RT", "here_RT3")
    }
    target_RT = torch.zeros(1, place + 1 - first, dtype=torch.bool)
    target_RT[0, -1] = True
    return Packed(
        **cut,
        segment_RT=torch.zeros_like(cut["item_RT"]),
        target_RT=target_RT,
        length_R=torch.tensor([place + 1 - first]),
        now_R=torch.zeros(1, dtype=torch.int64),
        here_R3=torch.zeros(1, 3),
    )


@pytest.mark.parametrize("history", [3, 5, 40])
def test_a_packed_target_is_what_it_is_alone(history: int) -> None:
    model, rows = tiger(history=history, **CONTEXT), pack(users(), length=35)
    with torch.no_grad():
        packed_QL = model.likelihoods(rows)
        targets = rows.target_RT.nonzero().tolist()
        alone_QL = torch.cat([model.likelihoods(alone(rows, row, place)) for row, place in targets])
    assert len(targets) == len(packed_QL) > 60
    torch.testing.assert_close(packed_QL, alone_QL, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("context", [{}, CONTEXT])
def test_nothing_at_or_after_a_target_and_no_other_user_tells_of_it(context: dict[str, Any]) -> None:
    model, rows = tiger(**context), pack(users(1))
    with torch.no_grad():
        before_QL = model.likelihoods(rows)
    targets = rows.target_RT.nonzero().tolist()
    for q in range(0, len(targets), 7):
        row, place = targets[q]
        unseen_RT = torch.ones_like(rows.target_RT)
        unseen_RT[row] = rows.segment_RT[row] != rows.segment_RT[row, place]
        unseen_RT[row, place + 1 :] = True
        changed = replace(
            rows,
            item_RT=torch.where(unseen_RT, (rows.item_RT + 7) % ITEMS, rows.item_RT),
            time_RT=torch.where(unseen_RT, rows.time_RT + 9_999_999, rows.time_RT),
            # the target's own distance from the visit before is not known when it is predicted
            band_RT=torch.where(unseen_RT, (rows.band_RT + 5) % 16, rows.band_RT),
        )
        changed.band_RT[row, place] = (changed.band_RT[row, place] + 5) % 16
        with torch.no_grad():
            assert torch.allclose(model.likelihoods(changed)[q], before_QL[q], atol=1e-6)
            other = changed.item_RT.clone()
            other[row, place] = (other[row, place] + 1) % ITEMS
            moved_QL = model.likelihoods(replace(changed, item_RT=other))
        differs = model.codes_NL[other[row, place]] != model.codes_NL[rows.item_RT[row, place]]
        if bool(differs[0]):  # what is asked for changes, the model's answer does not: other code, other likelihood
            assert moved_QL[q, 0] != before_QL[q, 0]


def test_visits_beyond_the_window_are_not_seen() -> None:
    rng = np.random.default_rng(3)
    model, rows = tiger(history=4, encoder_layers=1, pointer=False), pack([[segment(rng, 14)]])
    # with one layer a state knows of 4 visits, and the decoder sees 4 states: 7 visits reach the target
    with torch.no_grad():
        before_QL = model.likelihoods(rows)
        last = len(before_QL) - 1
        for ago in range(1, 12):
            item_RT = rows.item_RT.clone()
            item_RT[0, 13 - ago] = (item_RT[0, 13 - ago] + 5) % ITEMS
            moved = not torch.allclose(
                model.likelihoods(replace(rows, item_RT=item_RT))[last], before_QL[last], atol=1e-6
            )
            assert moved == (ago <= 7), ago


def test_context_is_used_where_it_is_asked_for() -> None:
    rows = pack(users(2))
    later = replace(rows, time_RT=rows.time_RT * 3)
    strangers = replace(rows, user_RT=(rows.user_RT + 1) % 3)
    further = replace(rows, band_RT=(rows.band_RT + 4) % 16)
    told, untold = tiger(**CONTEXT), tiger()
    with torch.no_grad():
        for changed in (later, strangers, further):
            assert not torch.allclose(told.likelihoods(changed), told.likelihoods(rows))
            assert torch.equal(untold.likelihoods(changed), untold.likelihoods(rows))


def test_full_rows_have_one_target() -> None:
    model = tiger(encoder="full")
    with pytest.raises(ValueError, match="one target"):
        model.loss(pack(users()))


def test_rows_without_a_target_have_no_loss() -> None:
    model, rows = tiger(), pack([[[(1, 0)]], [[(2, 0)]]])
    assert model.likelihoods(rows).shape == (0, 3)
    with pytest.raises(ValueError, match="no visit of these rows is a target"):
        model.loss(rows)


def test_gradients_reach_every_parameter_and_are_seeded() -> None:
    rows = pack(users(4), length=35)

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = Tiger(codes(), SIZES, small(dropout=0.2, label_smoothing=0.1, **CONTEXT), places()).train()
        loss, parts = model.loss(rows)
        loss.backward()
        assert loss.item() == pytest.approx(float(np.mean(list(parts.values()))), rel=1e-5)
        assert list(parts) == ["level_1", "level_2", "level_3"]
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    first, again = gradients(), gradients()
    for name, gradient in first.items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
        assert torch.equal(gradient, again[name]), name


def test_it_learns_where_users_go() -> None:
    torch.manual_seed(0)
    source = ToyRows()
    model = Tiger(codes(), SIZES, small(), places()).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(60):
        loss, _ = model.loss(source.rows(rng.choice(len(source), 8)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[:3]) > 1.0
    assert np.mean(losses[-5:]) < 0.35


def test_rows_of_a_batch_do_not_know_each_other() -> None:
    model, rows = tiger(), pack(users(5))
    with torch.no_grad():
        together = model.likelihoods(rows)
        apart = torch.cat([model.likelihoods(select(rows, slice(row, row + 1))) for row in range(len(rows))])
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_buckets_of_time() -> None:
    assert hour_of_week(torch.tensor([0, 3_599, 3_600, 604_800])).tolist() == [0, 0, 1, 0]
    minutes = torch.tensor([0, 1, 2, 3, 4, 7, 8, 2**22, 2**23, 2**40])
    found = gap_bucket(minutes * 60).tolist()
    assert found == [0, 0, 1, 1, 2, 2, 3, 22, 23, 23]
    assert all(a <= b for a, b in pairwise(found))
