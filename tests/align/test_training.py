"""The validator's known answers, and that no held-out item ever reaches an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toy_alignment import align_config, catalogue, reference_of, visits, write_encoder

from lgsid.align import align as align_module
from lgsid.align.align import align, training_events
from lgsid.align.base import Losses, Material, Objective, Trained
from lgsid.align.encoder import Encoder
from lgsid.align.split import rows_of
from lgsid.align.training import Validator, trainer_config
from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AlignmentConfig

GROUP = 6
"""A query and its five neighbours."""
ONE_DEGREE_KM = 111.195


def quarter_world() -> pl.DataFrame:
    """Two kinds of shop in two districts, six of each: rows are kind 0 district 0, kind 0 district 1, kind 1 …"""
    district = np.repeat([0, 1, 0, 1], GROUP)
    return pl.DataFrame({
        "item_id": [str(row) for row in range(4 * GROUP)],
        "lat_deg": district.astype(float),  # a district is one point, a degree from the other
        "lon_deg": [0.0] * 4 * GROUP,
        "province": ["p"] * 4 * GROUP,
        "city": ["c"] * 4 * GROUP,
        "district": [f"d{d}" for d in district],
        "category": ["x"] * 4 * GROUP,
    })  # fmt: skip


KIND = np.repeat([0, 0, 1, 1], GROUP)
DISTRICT = np.repeat([0, 1, 0, 1], GROUP)
REFERENCE = np.eye(8, dtype=np.float32)[KIND]


def in_groups(*keys: IntArray) -> FloatArray:
    """One axis for each combination of the keys, which must come six times."""
    distinct, code = np.unique(np.stack(keys), axis=1, return_inverse=True)
    assert (np.bincount(code) == GROUP).all()
    return np.eye(8, dtype=np.float32)[: distinct.shape[1]][code]


def validator(items: pl.DataFrame | None = None) -> Validator:
    rows = np.arange(4 * GROUP)
    world = Validator(quarter_world() if items is None else items, REFERENCE, rows, rows, seed=0)
    assert np.array_equal(world.rows, rows)
    return world


HALF = np.tile([0, 0, 0, 1, 1, 1], 4)
"""Splits each quarter in two threes."""


@pytest.mark.parametrize(
    ("emb", "kept", "district"),
    [
        (in_groups(KIND, DISTRICT), 1.0, 1.0),
        (in_groups(KIND, HALF), 1.0, 0.4),  # three of each district: two of five neighbours are of the own
        (in_groups(DISTRICT, HALF), 0.4, 1.0),  # three of each kind, whose vectors are at right angles
    ],
)
def test_known_answers(emb: FloatArray, kept: float, district: float) -> None:
    metrics = validator().metrics(emb)
    assert metrics["kept"] == pytest.approx(kept)
    assert metrics["district"] == pytest.approx(district)
    assert metrics["province"] == metrics["city"] == 1
    assert metrics["distance_km"] == pytest.approx((1 - district) * ONE_DEGREE_KM, rel=1e-3)
    assert metrics["score"] == pytest.approx(kept**2 * (2 + district) / 3)
    assert metrics["effective_rank"] == pytest.approx(4, rel=1e-3)
    assert metrics["random_cosine"] == pytest.approx(0.25, abs=0.03)
    assert all(type(value) is float for value in metrics.values())


def test_collapsed_vectors_show() -> None:
    metrics = validator().metrics(np.repeat(np.eye(1, 8, dtype=np.float32), 4 * GROUP, axis=0))
    assert metrics["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert metrics["random_cosine"] == pytest.approx(1)


def test_regions_that_are_not_known_are_left_out() -> None:
    items = quarter_world().with_columns(district=pl.lit(None, dtype=pl.String))
    metrics = validator(items).metrics(in_groups(KIND, HALF))
    assert "district" not in metrics
    assert metrics["score"] == pytest.approx(1.0)
    half_known = quarter_world().with_columns(district=pl.when(pl.int_range(pl.len()) >= GROUP).then("district"))
    assert validator(half_known).metrics(in_groups(KIND, DISTRICT))["district"] == 1  # queries that know theirs
    nowhere = items.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ("province", "city"))
    near, far = (validator(nowhere).metrics(in_groups(KIND, key)) for key in (DISTRICT, HALF))
    assert near["score"] == pytest.approx(1.0)
    assert far["score"] == pytest.approx(1 / (1 + 0.6 * ONE_DEGREE_KM), rel=1e-3)


def test_queries_are_held_out_items_and_candidates_training_items_too() -> None:
    items = catalogue(1_000)
    reference = np.random.default_rng(0).standard_normal((len(items), 8)).astype(np.float32)
    part = np.arange(len(items)) % 4
    held, training, forbidden = (np.flatnonzero(part == k) for k in (0, 1, 2))
    world = Validator(items, reference, held, training, seed=0)
    assert len(world.rows) == len(set(world.rows)) == 1_200
    assert np.isin(world.rows, held).sum() == np.isin(world.rows[:400], held).sum() == 400
    assert np.isin(world.rows[400:], training).all()
    assert not np.isin(world.rows, forbidden).any()
    few = Validator(items, reference, held[:50], training, seed=0)
    assert np.isin(few.rows, held).sum() == 50
    assert len(few.rows) == 1_050
    again, other = (Validator(items, reference, held, training, seed=seed) for seed in (0, 1))
    assert np.array_equal(again.rows, world.rows)
    assert not np.array_equal(other.rows, world.rows)


def test_only_held_out_queries_count() -> None:
    items = quarter_world()
    quarter = np.arange(GROUP)
    world = Validator(items, REFERENCE, quarter, np.arange(4 * GROUP), seed=0)
    emb = in_groups(KIND, DISTRICT)[world.rows]
    assert world.metrics(emb)["district"] == 1
    emb[GROUP:] = np.roll(emb[GROUP:], 1, axis=0)  # spoils the others
    assert world.metrics(emb)["district"] == pytest.approx(1, abs=0.21)
    training_only = Validator(items, REFERENCE, np.arange(0), np.arange(4 * GROUP), seed=0)
    assert training_only.metrics(in_groups(KIND, DISTRICT)[training_only.rows])["district"] == 1


def test_events_are_cut_by_time_and_restricted_to_training_items() -> None:
    items = catalogue(8)
    events = visits(items, 200)
    some = items["item_id"][::2]
    found = training_events(events, some, 0.25)
    assert found is not None
    until = events["timestamp"].sort()[49]
    wanted = events.filter((pl.col("timestamp") <= until) & pl.col("item_id").is_in(some.to_list()))
    assert found.rows() == wanted.rows()
    assert 5 < len(found) < 50
    everything = training_events(events, items["item_id"], 1.0)
    assert everything is not None
    assert len(everything) == 200
    assert training_events(None, some, 0.5) is None
    assert training_events(events[:0], some, 0.5) is None


def test_the_cut_follows_from_all_events_and_not_from_the_training_items_own() -> None:
    """Else the parts of two items would be cut at two times, and the later one would leak into the earlier one."""
    items = catalogue(8)
    events = visits(items, 200).sort("timestamp")
    late = events["item_id"][-60:].unique()
    found = training_events(events, late, 0.5)
    assert found is not None
    assert len(found) == 0 or found["timestamp"].max() <= events["timestamp"][99]


def test_the_training_loop_gets_alignment_s_options() -> None:
    config = AlignmentConfig(epochs=2.5, batch=7, accumulate=3, warmup_share=0.2, validations=9, patience=5)
    found = trainer_config(config)
    for name in ("epochs", "batch", "accumulate", "warmup_share", "validations", "patience"):
        assert getattr(found, name) == getattr(config, name)
    assert found.weight_decay == 0


class Spy(Objective):
    """Records all it is given."""

    name = "spy"
    made: list[Spy]

    def prepare(self, material: Material) -> Mapping[str, Any]:
        Spy.made = [self]
        self.material = material
        self.ids: set[str] = set()
        self.watched: list[int] = []
        self.pooled: tuple[Trained, Trained] | None = None
        return {}

    def head(self) -> FloatArray:
        return np.eye(32, dtype=np.float32)

    def watch(self, emb_BD: FloatArray) -> dict[str, float]:
        self.watched.append(len(emb_BD))
        return {"watched": 1.0}

    def batch(self, anchors_A: IntArray, generator: np.random.Generator) -> IntArray:
        self.ids |= set(self.material.items["item_id"].gather(anchors_A))
        return np.unique(np.append(anchors_A, generator.integers(0, len(self.material.items), 3)))

    def loss(self, policy_BD: torch.Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
        """Teaches nothing, so the vectors stay the reference's: a figure says whether they are those of the rows."""
        assert set(anchors_A) <= set(rows_B)
        assert len(policy_BD) == len(rows_B)
        cosine = (policy_BD.detach().numpy() * self.material.reference[rows_B]).sum(axis=1)
        return Losses(policy_BD.sum() * 0.0, {"cosine": float(cosine.min())})

    def finish(self, trained: Trained, held: Trained) -> None:
        self.pooled = trained, held


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(align_config(write_encoder(tmp_path_factory.mktemp("toy"))).encoder)


def test_no_held_out_item_reaches_the_objective(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align_module, "objective_class", lambda config: Spy)
    items = catalogue(40)
    events = visits(items)
    reference = reference_of(encoder, items)
    config = align_config(encoder.name, unseen_share=0.3, epochs=1, lora={"dropout": 0.0})
    aligned = align(encoder, items, events, reference, config, seed=0)
    [spy] = Spy.made
    rows = rows_of(aligned.part)
    assert all(len(rows[part]) > 5 for part in ("train", "validation", "test", "unseen"))
    training = items["item_id"].gather(rows["train"])

    material = spy.material
    assert material.items["item_id"].to_list() == training.to_list()
    assert np.array_equal(material.reference, reference[rows["train"]])
    assert len(material.content) == len(material.location) == len(training)
    prompts = material.join(material.content, material.location)
    assert np.allclose(material.encode(prompts), material.reference, atol=1e-6)
    assert material.events is not None
    assert set(material.events["item_id"]) <= set(training)
    assert material.events["timestamp"].max() < events["timestamp"].max()

    assert spy.ids == set(training)  # every one of them in one epoch
    assert all(record.parts["cosine"] > 0.9999 for record in aligned.history.records)
    looks = len(aligned.history.validations) + 2  # the unaligned vectors before, the saved ones after
    assert spy.watched == [len(rows["validation"]) + len(rows["train"])] * looks
    assert all(validation.metrics["watched"] == 1 for validation in aligned.history.validations)
    assert spy.pooled is not None
    for found, part in zip(spy.pooled, ("train", "validation"), strict=True):
        assert found.items["item_id"].to_list() == items["item_id"].gather(rows[part]).to_list()
        assert np.array_equal(found.reference, reference[rows[part]])
        assert np.allclose(found.pooled, found.reference, atol=1e-3)
        assert found.head is not None
