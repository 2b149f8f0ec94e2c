"""The list-wise contrast: companions near on the map and in meaning, and a loss that wants both."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from toy import toy_city
from toy_alignment import material

from lgsid.align.contrast import Contrast
from lgsid.align.similarity import similarity_loss
from lgsid.arrays import DoubleArray, FloatArray
from lgsid.config import AlignmentConfig
from lgsid.geo import haversine_km


def prepared(items: pl.DataFrame, emb_ND: FloatArray, **changes: object) -> Contrast:
    objective = Contrast(AlignmentConfig.model_validate({"objective": "contrast", **changes}), 0)
    figures = objective.prepare(material(items, emb_ND))
    assert figures == {"companions": min(16, len(items) - 1)}
    return objective


def softmax(values_NN: DoubleArray) -> DoubleArray:
    powers = np.exp(values_NN - values_NN.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def apart_km(items: pl.DataFrame) -> DoubleArray:
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    return haversine_km(lat[:, None], lon[:, None], lat, lon)


def test_a_batch_is_distinct_and_holds_the_anchors_and_their_companions() -> None:
    items, emb = toy_city(32)
    objective = prepared(items, emb)
    anchors = np.array([100, 3, 50])
    rows = objective.batch(anchors, np.random.default_rng(0))
    assert len(np.unique(rows)) == len(rows)
    assert set(anchors) <= set(rows)
    assert 3 < len(rows) <= 9
    assert np.array_equal(rows, objective.batch(anchors, np.random.default_rng(0)))
    assert not np.array_equal(rows, objective.batch(anchors, np.random.default_rng(1)))
    assert objective.items_per_anchor(objective.config) == 3


def test_companions_are_the_nearest_on_the_map_and_in_meaning() -> None:
    items, emb = toy_city(32)
    objective = prepared(items, emb)
    apart_NN, alike_NN = apart_km(items), emb @ emb.T
    for anchor in (0, 17, 90):
        others = {
            int(row)
            for draw in range(150)
            for row in objective.batch(np.array([anchor]), np.random.default_rng(draw))
        } - {anchor}  # fmt: skip
        near = set(np.argsort(apart_NN[anchor])[1:17].tolist())
        alike = set(np.argsort(-alike_NN[anchor])[1:17].tolist())
        assert others <= near | alike
        assert near <= others
        assert len(others & alike) > 14


def test_co_located_items() -> None:
    """All shops of a mall stand at one point; fewer items than companions are wanted."""
    items, emb = toy_city(3)
    mall = items.with_columns(lat_deg=pl.lit(10.0), lon_deg=pl.lit(20.0))
    objective = prepared(mall, emb)
    for draw in range(20):
        rows = objective.batch(np.arange(6), np.random.default_rng(draw))
        assert len(np.unique(rows)) == len(rows)
        assert set(range(6)) <= set(rows)
    policy = torch.from_numpy(emb).requires_grad_()
    losses = objective.loss(policy, np.arange(12), np.arange(12))
    losses.total.backward()
    assert policy.grad is not None
    assert torch.isfinite(policy.grad).all()


def test_the_loss_is_the_formula() -> None:
    items, emb = toy_city(8)
    objective = prepared(items, emb, similarity_weight=0.7, contrast={"near_km": 4.0, "meaning_temperature": 0.1})
    policy = np.random.default_rng(1).standard_normal((len(items), 16)).astype(np.float32)
    policy /= np.linalg.norm(policy, axis=1, keepdims=True)
    rows = np.array([1, 4, 5, 9, 16, 20, 21, 29])
    losses = objective.loss(torch.from_numpy(policy[rows]), rows, rows[:3])

    alike = (emb[rows] @ emb[rows].T).astype(np.float64)
    wanted = -apart_km(items[rows]) / 4.0 + alike / 0.1
    given = (policy[rows] @ policy[rows].T).astype(np.float64) / 0.05
    np.fill_diagonal(wanted, -1e9)
    np.fill_diagonal(given, -1e9)
    align = -(softmax(wanted) * np.log(softmax(given) + 1e-300)).sum(axis=1).mean()
    similar = float(similarity_loss(torch.from_numpy(policy[rows]), torch.from_numpy(emb[rows])))
    assert losses.parts == pytest.approx({"align": align, "similarity": similar}, rel=1e-3)
    assert float(losses.total) == pytest.approx(align + 0.7 * similar, rel=1e-3)


def test_the_loss_falls_when_near_items_come_near() -> None:
    items, emb = toy_city(16)
    objective = prepared(items, emb, contrast={"meaning_temperature": 1e6})
    rows = np.arange(len(items))
    district = np.random.default_rng(0).standard_normal((8, 16))
    code = items["district"].rank("dense").to_numpy().astype(int) - 1
    pulls = [emb + strength * district[code] for strength in (0.0, 0.1, 0.3, 1.0)]
    vectors = [(pull / np.linalg.norm(pull, axis=1, keepdims=True)).astype(np.float32) for pull in pulls]
    align = [objective.loss(torch.from_numpy(vector), rows, rows).parts["align"] for vector in vectors]
    assert align == sorted(align, reverse=True)
    assert align[-1] < align[0] - 1


def test_meaning_chooses_among_equally_near_items() -> None:
    """At one spot, the target is meaning alone: the reference itself is better than vectors that mix all kinds."""
    items, emb = toy_city(16)
    mall = items.with_columns(lat_deg=pl.lit(10.0), lon_deg=pl.lit(20.0))
    objective = prepared(mall, emb)
    rows = np.arange(len(items))
    shuffled = emb[np.random.default_rng(0).permutation(len(emb))]
    own, other = (objective.loss(torch.from_numpy(vector), rows, rows).parts["align"] for vector in (emb, shuffled))
    assert own < other - 1


def test_gradients_reach_every_item_of_the_batch() -> None:
    items, emb = toy_city(16)
    objective = prepared(items, emb)
    rows = objective.batch(np.arange(10), np.random.default_rng(0))
    policy = torch.from_numpy(emb[rows]).requires_grad_()
    objective.loss(policy, rows, np.arange(10)).total.backward()
    assert policy.grad is not None
    assert (policy.grad.abs().sum(dim=1) > 0).all()
