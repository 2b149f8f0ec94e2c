"""A whole alignment of a tiny encoder: geography rises on held-out items, and a seed is a result, killed or not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from toy_alignment import align_config, catalogue, reference_of, visits, write_encoder

from lgsid.align import align as align_module
from lgsid.align.align import Aligned, align, objective_class
from lgsid.align.base import Losses
from lgsid.align.contrast import Contrast
from lgsid.align.distil import Distil
from lgsid.align.encoder import Encoder
from lgsid.align.gdpo import GDpo
from lgsid.align.prompts import prompts
from lgsid.align.split import rows_of
from lgsid.align.training import Validator
from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AlignmentConfig, PromptConfig
from lgsid.errors import AlignmentError, ConfigError, DataError

ITEMS = catalogue()
EVENTS = visits(ITEMS)
SMALL_REWARD = {"reward": {"anchors": 40, "epochs": 3, "hidden": 16}, "pairs": {"per_anchor": 2}, "epochs": 1}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(align_config(write_encoder(tmp_path_factory.mktemp("toy"))).encoder)


@pytest.fixture(scope="module")
def reference(encoder: Encoder) -> FloatArray:
    return reference_of(encoder, ITEMS)


def weights(aligned: Aligned) -> dict[str, FloatArray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in aligned.policy.named().items()}


def same(first: Aligned, second: Aligned) -> bool:
    """Whether two alignments have the same bits and the same course."""
    pairs = [(weights(first)[name], weights(second)[name]) for name in weights(first)]
    return all(np.array_equal(*pair) for pair in pairs) and first.history.to_json() == second.history.to_json()


def held_out(aligned: Aligned, reference: FloatArray) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the test items before and after."""
    rows = rows_of(aligned.part)
    world = Validator(ITEMS, reference, rows["test"], rows["train"], seed=0)
    texts = prompts(ITEMS, PromptConfig()).gather(world.rows).to_list()
    return world.metrics(reference[world.rows]), world.metrics(aligned.policy.encode(texts))


def test_a_head_may_be_fitted_on_a_sample_of_the_training_items(
    encoder: Encoder, reference: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(align_module, "_ROWS_PER_DIMENSION", 2)
    aligned = align(encoder, ITEMS, None, reference, align_config(encoder.name), seed=0)
    assert int((aligned.part == "train").sum()) > 2 * encoder.dim
    before, after = held_out(aligned, reference)
    assert after["district"] > before["district"] + 0.2


def test_distillation_teaches_held_out_items_geography(encoder: Encoder, reference: FloatArray) -> None:
    aligned = align(encoder, ITEMS, EVENTS, reference, align_config(encoder.name), seed=0)
    before, after = held_out(aligned, reference)
    assert before["district"] < 0.7
    assert after["district"] > 0.9
    assert after["distance_km"] < 0.2 * before["distance_km"]
    assert after["kept"] > 0.95
    assert aligned.objective.name == "distil"
    assert aligned.figures == {"cities": 4, "districts": 8, "meaning_dimensions": 19, "dimensions": 32}
    steps = [validation.step for validation in aligned.history.validations]
    assert steps == [0, 10, 21]
    assert np.array_equal(reference_of(encoder, ITEMS), reference)  # the encoder itself stays as it is


@pytest.mark.parametrize("options", [{"objective": "contrast"}, {"objective": "gdpo", **SMALL_REWARD}])
def test_the_other_objectives_teach_geography_too(
    encoder: Encoder, reference: FloatArray, options: dict[str, Any]
) -> None:
    aligned = align(encoder, ITEMS, EVENTS, reference, align_config(encoder.name, **options), seed=0)
    before, after = held_out(aligned, reference)
    assert after["city"] >= before["city"]
    assert after["district"] > before["district"]
    assert after["distance_km"] < before["distance_km"]
    assert after["kept"] > 0.95
    assert (aligned.objective.name, aligned.policy.head) == (options["objective"], None)


@pytest.mark.parametrize(
    "options", [{"epochs": 1}, {"objective": "contrast", "epochs": 1}, {"objective": "gdpo", **SMALL_REWARD}]
)
def test_one_seed_one_result(encoder: Encoder, reference: FloatArray, options: dict[str, Any]) -> None:
    config = align_config(encoder.name, **options)
    first = align(encoder, ITEMS, EVENTS, reference, config, seed=0)
    torch.manual_seed(123)  # nobody else's random numbers matter
    assert same(first, align(encoder, ITEMS, EVENTS, reference, config, seed=0))
    assert not same(first, align(encoder, ITEMS, EVENTS, reference, config, seed=1))


class KilledError(Exception):
    """What an interrupted run ends with."""


@pytest.fixture
def deadly(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Distillation that counts its losses ("seen") and dies at the one numbered "dies"."""
    count = {"seen": 0, "dies": -1}

    class Mortal(Distil):
        def loss(self, policy_BD: torch.Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
            if count["seen"] == count["dies"]:
                raise KilledError
            count["seen"] += 1
            return super().loss(policy_BD, rows_B, anchors_A)

    monkeypatch.setattr(align_module, "objective_class", lambda config: Mortal)
    return count


def test_a_killed_run_continues_and_ends_with_the_same_bits(
    encoder: Encoder, reference: FloatArray, deadly: dict[str, int], tmp_path: Path
) -> None:
    config = align_config(encoder.name)
    whole = align(encoder, ITEMS, EVENTS, reference, config, seed=0)
    assert deadly["seen"] == 21
    deadly.update(seen=0, dies=15)
    with pytest.raises(KilledError):
        align(encoder, ITEMS, EVENTS, reference, config, seed=0, folder=tmp_path)
    deadly.update(seen=0, dies=-1)
    resumed = align(encoder, ITEMS, EVENTS, reference, config, seed=0, folder=tmp_path)
    assert deadly["seen"] == 11  # from the validation at step 10 on
    assert same(resumed, whole)


def test_work_on_other_data_is_not_continued(
    encoder: Encoder, reference: FloatArray, deadly: dict[str, int], tmp_path: Path
) -> None:
    """The prompts are the same, the places or the visits are not."""
    config = align_config(encoder.name, epochs=1)
    moved = ITEMS.with_columns(pl.col("lat_deg") + 1)
    deadly.update(seen=0, dies=5)
    with pytest.raises(KilledError):
        align(encoder, ITEMS, EVENTS, reference, config, seed=0, folder=tmp_path / "killed")
    others = {
        "moved": (moved, EVENTS),
        "visits": (ITEMS, EVENTS[:300]),
        "none": (ITEMS, None),
        "order": (ITEMS[::-1], EVENTS),
    }
    for name, (items, events) in others.items():
        shutil.copytree(tmp_path / "killed", tmp_path / name)
        deadly.update(seen=0, dies=-1)
        align(encoder, items, events, reference_of(encoder, items), config, seed=0, folder=tmp_path / name)
        assert deadly["seen"] == 7, name


def test_a_guard_stops_the_run(encoder: Encoder, reference: FloatArray) -> None:
    config = align_config(encoder.name, guards={"most_random_cosine": 0.5})
    with pytest.raises(AlignmentError, match="the embeddings collapse"):
        align(encoder, ITEMS, EVENTS, reference, config, seed=0)


def test_too_few_items(encoder: Encoder, reference: FloatArray) -> None:
    with pytest.raises(DataError, match="at least 32"):
        align(encoder, ITEMS[:36], None, reference[:36], align_config(encoder.name), seed=0)


def test_nothing_held_out(encoder: Encoder, reference: FloatArray) -> None:
    config = align_config(encoder.name, validation_share=0, test_share=0, epochs=1)
    aligned = align(encoder, ITEMS, None, reference, config, seed=0)
    assert set(aligned.part) == {"train"}
    assert aligned.history.examples == len(ITEMS)


@pytest.mark.parametrize("objective", ["distil", "contrast"])
def test_a_catalogue_without_regions_and_events(encoder: Encoder, objective: str) -> None:
    items = ITEMS.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ("province", "city", "district"))
    config = align_config(encoder.name, objective=objective, epochs=1, unseen_share=0.2)
    aligned = align(encoder, items, None, reference_of(encoder, items), config, seed=0)
    assert all(0 < validation.score < 1 for validation in aligned.history.validations)
    assert not (aligned.part == "unseen").any()


def test_a_sample_is_trained_on(encoder: Encoder, reference: FloatArray) -> None:
    config = align_config(encoder.name, most_items=64, epochs=1)
    aligned = align(encoder, ITEMS, None, reference, config, seed=0)
    assert aligned.history.examples == 64
    assert (aligned.part == "spare").sum() > 100


def test_objectives_by_name() -> None:
    kinds = {"distil": Distil, "contrast": Contrast, "gdpo": GDpo}
    for name, kind in kinds.items():
        assert objective_class(AlignmentConfig.model_validate({"objective": name})) is kind
        assert kind.name == name
    with pytest.raises(ConfigError, match="'none'"):
        objective_class(AlignmentConfig(objective="none"))
