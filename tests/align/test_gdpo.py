"""G-DPO: what its loss says of known vectors, which pairs it takes, and the similarity regulariser."""

from __future__ import annotations

import copy
import json
import math
from functools import cache

import numpy as np
import pytest
import torch
from geo_fakes import FakeEncoder, rows, toy_items, toy_material
from torch.nn.functional import normalize

from lgsid.align.gdpo import GDpo, Preferences, order_pairs
from lgsid.align.pairs import Pairs
from lgsid.align.similarity import similarity_loss
from lgsid.arrays import IntArray
from lgsid.config import AlignmentConfig, PairConfig, RewardConfig
from lgsid.errors import DataError

REWARD = RewardConfig(anchors=120, negatives=7, hidden=32, epochs=8, true_lists=100)
CONFIG = AlignmentConfig(objective="gdpo", similarity_weight=0.0, reward=REWARD, pairs=PairConfig(bands_km=(2, 10, 50)))


@cache
def _prepared() -> GDpo:
    objective = GDpo(CONFIG, seed=0)
    objective.prepare(toy_material())
    return objective


def prepared(beta: float = 1.0, similarity_weight: float = 0.0) -> GDpo:
    objective = copy.copy(_prepared())
    objective.config = CONFIG.model_copy(update={"beta": beta, "similarity_weight": similarity_weight})
    return objective


def reference(which: IntArray) -> torch.Tensor:
    return torch.from_numpy(toy_material().reference[which])


def test_prepare_says_what_it_learnt() -> None:
    objective = GDpo(CONFIG, seed=0)
    figures = objective.prepare(toy_material())
    assert figures["kept_pairs"] <= figures["pairs"]["pairs"]
    assert figures["kept_pairs"] == len(objective.preferences.anchor_P)
    assert figures["preferred_is_nearer"] > 0.75
    assert figures["median_margin"] > 0.1
    assert figures["reward"]["held_out"]["accuracy"] > 0.85
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_the_loss_of_the_reference_itself_is_log_two(beta: float) -> None:
    objective = prepared(beta=beta)
    anchors = np.arange(40)
    batch = objective.batch(anchors, np.random.default_rng(0))
    losses = objective.loss(reference(batch), batch, anchors)
    assert float(losses.total) == pytest.approx(math.log(2), abs=1e-5)
    assert losses.parts["ordered"] == 1.0  # under the reference every pair is in its own order
    assert losses.parts["gained_margin"] == pytest.approx(0, abs=1e-5)


def test_a_candidate_moved_towards_the_anchor_lowers_the_loss_if_it_is_preferred_and_raises_it_if_not() -> None:
    objective = prepared()
    known = objective.preferences
    numbers = np.argsort(known.margin_P)[-1:]  # the clearest pair
    anchor, preferred, other = (int(x[numbers[0]]) for x in (known.anchor_P, known.preferred_P, known.other_P))
    batch = np.unique(rows(anchor, preferred, other))
    place = {row: number for number, row in enumerate(batch.tolist())}

    def loss_with(moved: int) -> float:
        emb = reference(batch).clone()
        emb[place[moved]] = normalize(0.7 * emb[place[moved]] + 0.3 * emb[place[anchor]], dim=0)
        return float(objective.loss(emb, batch, rows(anchor)).total)

    assert loss_with(preferred) < math.log(2) < loss_with(other)


def test_a_few_steps_down_the_gradient_raise_the_margin() -> None:
    objective = prepared()
    anchors = np.arange(30)
    batch = objective.batch(anchors, np.random.default_rng(1))
    emb = reference(batch).clone().requires_grad_()
    before = objective.loss(normalize(emb, dim=1), batch, anchors)
    for _ in range(5):
        (gradient,) = torch.autograd.grad(objective.loss(normalize(emb, dim=1), batch, anchors).total, emb)
        emb = (emb - 0.3 * gradient).detach().requires_grad_()
    after = objective.loss(normalize(emb, dim=1), batch, anchors)
    assert after.parts["align"] < before.parts["align"]
    assert after.parts["margin"] > before.parts["margin"]


def test_a_batch_holds_the_anchors_and_a_pair_of_each_once() -> None:
    objective = prepared()
    anchors = np.array([7, 3, 120])
    batch = objective.batch(anchors, np.random.default_rng(0))
    assert (np.diff(batch) > 0).all()
    assert set(anchors) <= set(batch.tolist())
    assert len(batch) <= len(anchors) * GDpo.items_per_anchor(CONFIG)
    known = objective.preferences
    for anchor in anchors:
        mine = known.anchor_P == anchor
        pairs = zip(known.preferred_P[mine], known.other_P[mine], strict=True)
        assert any({int(a), int(b)} <= set(batch.tolist()) for a, b in pairs)
    again = objective.batch(anchors, np.random.default_rng(0))
    others = [objective.batch(anchors, np.random.default_rng(seed)).tolist() for seed in range(1, 6)]
    assert again.tolist() == batch.tolist()
    assert any(other != batch.tolist() for other in others)


def test_the_order_of_rows_does_not_matter() -> None:
    objective = prepared(similarity_weight=0.5)
    anchors = np.arange(10)
    batch = objective.batch(anchors, np.random.default_rng(0))
    shuffled = np.random.default_rng(3).permutation(batch)
    emb = normalize(torch.arange(240 * 16).reshape(240, 16).float().sin(), dim=1)
    first = objective.loss(emb[torch.from_numpy(batch)], batch, anchors)
    second = objective.loss(emb[torch.from_numpy(shuffled)], shuffled, anchors)
    assert float(first.total) == pytest.approx(float(second.total), rel=1e-5)


def test_the_regulariser_is_added_with_its_weight() -> None:
    anchors = np.arange(10)
    batch = prepared().batch(anchors, np.random.default_rng(0))
    plain, regular = (prepared(similarity_weight=w).loss(reference(batch), batch, anchors) for w in (0.0, 2.0))
    assert plain.parts["similarity"] == regular.parts["similarity"] > 0
    assert float(regular.total) == pytest.approx(float(plain.total) + 2 * plain.parts["similarity"], rel=1e-5)


def test_anchors_without_a_pair_leave_only_the_regulariser() -> None:
    objective = prepared(similarity_weight=1.0)
    empty = np.empty(0, dtype=np.int64)
    objective.preferences = Preferences(empty, empty, empty, np.empty(0, dtype=np.float32))
    batch = objective.batch(rows(1, 2, 3), np.random.default_rng(0))
    assert batch.tolist() == [1, 2, 3]
    losses = objective.loss(reference(batch).requires_grad_(), batch, batch)
    assert float(losses.total.detach()) == pytest.approx(losses.parts["similarity"])
    losses.total.backward()


def test_pairs_are_put_in_the_reward_s_order_and_unclear_ones_dropped() -> None:
    reward, emb = prepared().reward, toy_material().reference
    nearest, far, same = (int(x) for x in _near_far_of(0))
    km = np.zeros(3)
    pairs = Pairs(rows(0, 0, 0), rows(nearest, far, same), rows(far, nearest, same), np.zeros(3, np.int32), km, km, ())
    preferences, kept = order_pairs(reward, emb, pairs)
    assert kept.tolist() == [True, True, False]
    assert preferences.preferred_P.tolist() == [nearest, nearest]
    assert preferences.other_P.tolist() == [far, far]
    assert (preferences.margin_P > 0).all()


def _near_far_of(anchor: int) -> IntArray:
    items = toy_items()
    apart = np.hypot(items["lat_deg"] - items["lat_deg"][anchor], items["lon_deg"] - items["lon_deg"][anchor])
    order = np.argsort(apart.to_numpy())
    return order[[1, -1, 5]]


def test_a_reward_that_tells_nothing_apart_is_refused() -> None:
    encoder = FakeEncoder(place=0.0)
    material = toy_material(encoder=encoder)
    material = type(material)(**{**vars(material), "reference": np.ones_like(material.reference) / 4})
    with pytest.raises(DataError, match="tells none of"):
        GDpo(CONFIG, seed=0).prepare(material)


def test_the_pointwise_form_scores_candidates_alone() -> None:
    config = CONFIG.model_copy(update={"reward": REWARD.model_copy(update={"form": "pointwise"})})
    objective = GDpo(config, seed=0)
    objective.prepare(toy_material())
    anchors = np.arange(20)
    batch = objective.batch(anchors, np.random.default_rng(0))
    emb = reference(batch).clone()
    assert float(objective.loss(emb, batch, anchors).total) == pytest.approx(math.log(2), abs=1e-5)
    known = objective.preferences
    only_anchors = np.setdiff1d(anchors, np.concatenate([known.preferred_P, known.other_P]))
    for row in only_anchors:  # moving an anchor that is nobody's candidate changes nothing
        emb[int(np.searchsorted(batch, row))] *= -1
    assert float(objective.loss(emb, batch, anchors).total) == pytest.approx(math.log(2), abs=1e-5)


def test_the_watched_reward_is_higher_for_vectors_that_know_more_of_the_place() -> None:
    objective = prepared()
    knowing, ignorant = (toy_material(encoder=FakeEncoder(content=content)).reference for content in (0.3, 3.0))
    assert objective.watch(knowing)["reward"] > objective.watch(ignorant)["reward"]


def test_same_seed_same_preferences() -> None:
    first, second = GDpo(CONFIG, seed=4), GDpo(CONFIG, seed=4)
    assert first.prepare(toy_material()) == second.prepare(toy_material())
    for name in ("anchor_P", "preferred_P", "other_P", "margin_P"):
        assert np.array_equal(getattr(first.preferences, name), getattr(second.preferences, name))


def test_similarity_loss_known_answers() -> None:
    eye = torch.eye(8)
    assert float(similarity_loss(eye, eye, temperature=1.0)) == pytest.approx(math.log(math.e + 7) - 1)
    same = eye[:1].expand(8, 8)
    assert float(similarity_loss(same, same)) == pytest.approx(math.log(8))
    swapped = eye.roll(1, dims=0)
    assert float(similarity_loss(swapped, eye)) > 10 > 0.01 > float(similarity_loss(eye, eye))


def test_similarity_loss_pulls_a_vector_back_to_its_reference() -> None:
    torch.manual_seed(0)
    target = normalize(torch.randn(6, 5), dim=1)
    emb = normalize(target + 0.8 * torch.randn(6, 5), dim=1).requires_grad_()
    (gradient,) = torch.autograd.grad(similarity_loss(emb, target), emb)
    assert float(((target - emb.detach()) * gradient).sum()) < 0  # towards the references the loss falls
