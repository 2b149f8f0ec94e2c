"""Distillation of the teacher: the loss at its target, the closed-form start, the last fit, and the dial."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from toy import toy_city
from toy_alignment import material, neighbours_in_district

from lgsid.align import distil
from lgsid.align.base import Losses, Trained
from lgsid.align.distil import Distil, starting_head
from lgsid.align.teacher import fit_teacher
from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AlignmentConfig, TeacherConfig
from lgsid.data.labels import identities

DIM = 48


def prepared(items: pl.DataFrame, emb_ND: FloatArray, seed: int = 0, **changes: object) -> Distil:
    objective = Distil(AlignmentConfig.model_validate({"objective": "distil", **changes}), seed)
    objective.prepare(material(items, emb_ND))
    return objective


def unit(emb_ND: FloatArray) -> FloatArray:
    result: FloatArray = (emb_ND / np.linalg.norm(emb_ND, axis=1, keepdims=True)).astype(np.float32)
    return result


def targets(items: pl.DataFrame, emb_ND: FloatArray, objective: Distil) -> FloatArray:
    """The unit vectors that the objective should lead to, in the encoder's coordinates."""
    teacher = fit_teacher(items, emb_ND, objective.config.teacher, objective.seed)
    return unit(teacher.targets @ teacher.axes.T)


def loss_at(objective: Distil, emb_ND: FloatArray, rows_B: IntArray) -> Losses:
    return objective.loss(torch.from_numpy(emb_ND[rows_B]), rows_B, rows_B)


def halves(items: pl.DataFrame, emb_ND: FloatArray) -> tuple[Trained, Trained]:
    """Every fifth item held out, of all cities, and vectors as `align` hands them over: still without the head."""
    held = np.arange(len(items)) % 5 == 4
    head_DD = starting_head(emb_ND[~held], fit_teacher(items.filter(~held), emb_ND[~held], TeacherConfig(), 0))
    return tuple(Trained(items.filter(chosen), emb_ND[chosen], emb_ND[chosen], head_DD) for chosen in (~held, held))


def test_key_figures() -> None:
    items, emb = toy_city(16, DIM)
    objective = Distil(AlignmentConfig(objective="distil"), 0)
    assert objective.prepare(material(items, emb)) == {
        "cities": 4, "districts": 8, "meaning_dimensions": 29, "dimensions": DIM,
    }  # fmt: skip
    assert objective.items_per_anchor(objective.config) == 1
    anchors = np.array([3, 1, 2])
    assert objective.batch(anchors, np.random.default_rng(0)) is anchors


def test_the_loss_is_zero_at_the_targets_and_nowhere_else() -> None:
    items, emb = toy_city(16, DIM)
    objective = prepared(items, emb, teacher={"name_weight": 0})
    rows, wanted = np.arange(20), targets(items, emb, objective)
    at_target = loss_at(objective, wanted, rows)
    assert float(at_target.total) < 1e-10
    assert set(at_target.parts) == {"meaning", "place", "name"}
    assert loss_at(objective, emb, rows).total > 0.05
    teacher = fit_teacher(items, emb, TeacherConfig(name_weight=0), 0)
    swapped = teacher.targets.copy()
    place = slice(teacher.coarse.start, None)
    swapped[:, place] = np.roll(swapped[:, place], 1, axis=0)
    elsewhere = loss_at(objective, unit(swapped @ teacher.axes.T), rows).parts
    assert elsewhere["place"] > 100 * elsewhere["meaning"]


def test_the_naming_loss_wants_the_own_district() -> None:
    items, emb = toy_city(16, DIM)
    objective = prepared(items, emb)
    wanted, rows = targets(items, emb, objective), np.arange(64)
    right = loss_at(objective, wanted, rows).parts["name"]
    other = np.roll(wanted, 1, axis=0)  # the next item is in the next city
    assert right < 0.1
    assert loss_at(objective, other, rows).parts["name"] > 3


def test_the_weights_are_those_of_the_formula() -> None:
    items, emb = toy_city(8, DIM)
    rows = np.arange(16)
    parts = loss_at(prepared(items, emb), emb, rows).parts
    heavy = loss_at(prepared(items, emb, similarity_weight=3.0, teacher={"name_weight": 0.5}), emb, rows)
    assert heavy.parts == pytest.approx(parts)
    assert float(heavy.total) == pytest.approx(3 * parts["meaning"] + parts["place"] + 0.5 * parts["name"], rel=1e-5)


def test_gradients_lead_to_the_targets() -> None:
    items, emb = toy_city(16, DIM)
    objective = prepared(items, emb)
    wanted = targets(items, emb, objective)
    free = torch.from_numpy(emb.copy()).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.02)
    rows = np.arange(len(items))
    before = float(loss_at(objective, emb, rows).total.detach())
    for _ in range(60):
        optimizer.zero_grad()
        losses = objective.loss(torch.nn.functional.normalize(free, dim=1), rows, rows)
        losses.total.backward()
        optimizer.step()
    assert float(losses.total.detach()) < 0.1 * before
    reached = unit(free.detach().numpy())
    assert (reached * wanted).sum(axis=1).min() > 0.95


def test_the_starting_head_knows_more_of_held_out_districts_and_as_much_of_the_meaning() -> None:
    items, _ = toy_city(64)
    rng = np.random.default_rng(5)
    items = items.with_columns(brand=pl.Series([f"brand {k}" for k in rng.integers(0, 20, len(items))]))
    said = {"category": 1.0, "brand": 0.7, "city": 0.15, "district": 0.15}  # an encoder that speaks of places softly
    emb = unit(sum(weight * identities(items[name], name, 128) for name, weight in said.items()))
    train, held = halves(items, unit(emb + 0.02 * rng.standard_normal(emb.shape)))
    assert train.head is not None
    aligned = unit(held.reference @ train.head.T)
    before, after = (neighbours_in_district(held.items, vectors) for vectors in (held.reference, aligned))
    assert after > 1.4 * before
    teacher = fit_teacher(train.items, train.reference, TeacherConfig(), 0)
    meaning = teacher.axes[:, teacher.meaning]  # exact there
    assert np.allclose(held.reference @ train.head.T @ meaning, held.reference @ meaning, atol=1e-5)


def sizes(objective: Distil, emb_ND: FloatArray) -> list[float]:
    """Root-mean-square lengths of coarse and fine geography beside that of meaning."""
    teacher = objective._teacher
    given = emb_ND @ teacher.axes
    meaning, *places = (
        np.sqrt((given[:, block] ** 2).sum(axis=1).mean()) for block in (teacher.meaning, teacher.coarse, teacher.fine)
    )
    return [place / meaning for place in places]


def directions(objective: Distil, emb_ND: FloatArray) -> list[FloatArray]:
    """The three blocks of some vectors, each scaled to one root-mean-square length."""
    teacher = objective._teacher
    given = emb_ND @ teacher.axes
    blocks = [given[:, block] for block in (teacher.meaning, teacher.coarse, teacher.fine)]
    return [block / np.sqrt((block**2).sum(axis=1).mean()) for block in blocks]


def error(objective: Distil, head_DD: FloatArray, held: Trained) -> float:
    """Held-out error of a head, at its own best scale."""
    wanted = objective._teacher.of(held.items, held.reference)
    given = held.pooled @ head_DD.T @ objective._teacher.axes
    scale = (given * wanted).sum() / (given * given).sum()
    return float(((scale * given - wanted) ** 2).sum(axis=1).mean())


def test_finish_takes_the_head_with_the_least_held_out_error() -> None:
    items, emb = toy_city(64, DIM)
    train, held = halves(items, emb)
    objective = prepared(train.items, train.reference)
    noise = np.random.default_rng(0).standard_normal((DIM, DIM)).astype(np.float32)
    found = objective.finish(Trained(train.items, train.reference, train.pooled, noise), held)
    aim = objective._teacher.of(train.items, train.reference)
    ridges = [objective._ridge_head(train.pooled, aim, strength) for strength in distil._RIDGES]
    best = min(ridges, key=lambda head_DD: error(objective, head_DD, held))
    assert error(objective, best, held) < 0.6 * error(objective, noise, held)
    for given, wanted in zip(
        directions(objective, held.pooled @ found.T), directions(objective, held.pooled @ best.T), strict=True
    ):
        assert np.allclose(given, wanted, atol=1e-4)

    # a trained head that no ridge can beat is kept: here, one fitted on the held-out items themselves
    wanted_ND = objective._teacher.of(held.items, held.reference) @ objective._teacher.axes.T
    solution, *_ = np.linalg.lstsq(held.pooled, wanted_ND, rcond=None)
    trained = np.ascontiguousarray(solution.T, dtype=np.float32)
    assert error(objective, trained, held) < error(objective, best, held)
    kept = objective.finish(Trained(train.items, train.reference, train.pooled, trained), held)
    for given, wanted in zip(
        directions(objective, held.pooled @ kept.T), directions(objective, held.pooled @ trained.T), strict=True
    ):
        assert np.allclose(given, wanted, atol=1e-4)


def test_finish_gives_geography_the_teacher_s_size() -> None:
    items, emb = toy_city(64, DIM)
    train, held = halves(items, emb)
    assert train.head is not None
    objective = prepared(train.items, train.reference)
    teacher = objective._teacher
    timid = ((teacher.axes * teacher.scales(0.5, 0.1)) @ teacher.axes.T @ train.head).astype(np.float32)
    head = objective.finish(Trained(train.items, train.reference, train.pooled, timid), held)
    wanted = teacher.of(held.items, held.reference) @ teacher.axes.T
    assert sizes(objective, held.pooled @ head.T) == pytest.approx(sizes(objective, wanted), rel=1e-3)


def test_finish_without_held_out_items_keeps_the_trained_head() -> None:
    items, emb = toy_city(16, DIM)
    train, _ = halves(items, emb)
    assert train.head is not None
    nothing = Trained(items[:0], emb[:0], emb[:0], train.head)
    objective = prepared(train.items, train.reference)
    found = objective.finish(train, nothing)
    for given, wanted in zip(
        directions(objective, emb @ found.T), directions(objective, emb @ train.head.T), strict=True
    ):
        assert np.allclose(given, wanted, atol=1e-4)


def test_the_dials_at_zero_leave_meaning_alone() -> None:
    items, emb = toy_city(16, DIM)
    train, held = halves(items, emb)
    for dials, empty in (
        ({"coarse_dial": 0}, [0]),
        ({"fine_dial": 0}, [1]),
        ({"coarse_dial": 0, "fine_dial": 0}, [0, 1]),
    ):
        objective = prepared(train.items, train.reference, teacher=dials)
        size = sizes(objective, held.pooled @ objective.finish(train, held).T)
        assert [place for place in (0, 1) if size[place] < 1e-5] == empty


@pytest.mark.parametrize(("coarse", "fine"), [(0.0, 0.0), (0.5, 2.0), (1.0, 1.0), (2.0, 0.0)])
def test_turning_the_dials_afterwards_is_encoding_with_the_dialled_head(coarse: float, fine: float) -> None:
    items, emb = toy_city(16, DIM)
    train, held = halves(items, emb)
    full = prepared(train.items, train.reference)
    dialled = prepared(train.items, train.reference, teacher={"coarse_dial": coarse, "fine_dial": fine})
    turned = full.turned(unit(held.pooled @ full.finish(train, held).T), coarse, fine)
    assert np.allclose(turned, unit(held.pooled @ dialled.finish(train, held).T), atol=1e-5)
    assert np.allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-5)


def test_a_catalogue_without_any_known_region() -> None:
    items, emb = toy_city(16, DIM)
    nowhere = items.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ("province", "city", "district"))
    objective = prepared(nowhere, emb)
    policy = torch.from_numpy(emb[:16]).requires_grad_()
    losses = objective.loss(policy, np.arange(16), np.arange(16))
    losses.total.backward()
    assert losses.parts["name"] == 0
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()
    one = nowhere.with_columns(city=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("Alba")))
    assert loss_at(prepared(one, emb), emb, np.arange(16)).parts["name"] == 0  # there is no other to tell it from
    some = nowhere.with_columns(city=pl.when(pl.int_range(pl.len()) < 8).then("title"))
    assert loss_at(prepared(some, emb), emb, np.arange(16)).parts["name"] > 0
    assert loss_at(prepared(some, emb), emb, np.arange(8, 16)).parts["name"] == 0


def test_more_regions_than_are_compared_in_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    items, emb = toy_city(64, DIM)
    rows = np.arange(12)  # one district each of several cities
    whole = prepared(items, emb)
    monkeypatch.setattr(distil, "_MOST_NAMES", 3)
    sampled = prepared(items, emb)
    wanted = targets(items, emb, sampled)
    torch.manual_seed(0)
    first = loss_at(sampled, wanted, rows).parts["name"]
    assert 0 < first <= loss_at(whole, wanted, rows).parts["name"] + 1e-6  # fewer names to be told from
    wrong = loss_at(sampled, np.roll(wanted, 1, axis=0), rows).parts["name"]
    assert wrong > 3  # the own name is always among them
    torch.manual_seed(0)
    assert loss_at(sampled, wanted, rows).parts["name"] == first


def test_one_seed_one_result() -> None:
    items, emb = toy_city(16, DIM)
    first, second, other = (prepared(items, emb, seed) for seed in (0, 0, 1))
    rows = np.arange(32)
    assert np.array_equal(first.head(), second.head())
    assert not np.array_equal(first.head(), other.head())
    assert float(loss_at(first, emb, rows).total) == float(loss_at(second, emb, rows).total)
    train, held = halves(items, emb)
    again = (prepared(train.items, train.reference).finish(train, held) for _ in range(2))
    assert np.array_equal(*again)
