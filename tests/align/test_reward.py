"""The reward model: labels, pair order, what generalises to anchors it has not seen, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from geo_fakes import FakeEncoder, toy_items, toy_material
from hypothesis import given
from hypothesis import strategies as st

from lgsid.align.lists import Lists, draw_lists, soft_labels
from lgsid.align.negatives import density_aware, multiscale, uniform
from lgsid.align.ordering import calibration, pair_order, region_score
from lgsid.align.probe import SCALES_KM, fit_probe
from lgsid.align.reward import RewardModel, fit_reward
from lgsid.config import RewardConfig
from lgsid.errors import ArtifactError, DataError

SMALL = RewardConfig(anchors=120, negatives=7, hidden=32, epochs=12, true_lists=100)
distances = st.lists(st.sampled_from([0.1, 0.5, 1.0, 1.0, 7.0, 90.0, 9000.0]), min_size=2, max_size=9)


@pytest.mark.parametrize("kind", ["kernel", "rank"])
@given(km=distances)
def test_labels_are_one_at_the_true_place_fall_with_distance_and_tie_where_it_ties(kind: str, km: list[float]) -> None:
    label = soft_labels([[0.0, *km]], kind)[0]  # type: ignore[arg-type]
    assert label[0] == 1
    assert (label >= 0).all()
    full = np.array([0.0, *km])
    for first in range(len(full)):
        for second in range(len(full)):
            if full[first] == full[second]:
                assert label[first] == label[second]
            elif full[first] < full[second]:
                assert label[first] >= label[second]


def test_known_labels() -> None:
    km = [[0.0, 1.0, 2.0, 2.0, 8.0]]
    np.testing.assert_allclose(soft_labels(km, "rank"), [[1, 0.75, 0.5, 0.5, 0]])
    np.testing.assert_allclose(soft_labels(km, "kernel"), [np.exp([0, -0.5, -1, -1, -4])], rtol=1e-6)
    assert (soft_labels([[0.0, 0.0, 0.0]], "kernel") == 1).all()


def test_lists_begin_with_their_anchor_and_stay_in_their_pool() -> None:
    items = toy_items(60)
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    pool, anchors = np.arange(0, 60, 2), np.array([4, 10, 58])
    lists = draw_lists(lat, lon, anchors, pool, SMALL, seed=1)
    assert lists.anchors.tolist() == [4, 10, 58]
    assert set(lists.item_AJ.ravel()) <= set(pool)
    assert (lists.km_AJ[:, 0] == 0).all()
    assert (lists.km_AJ[:, 1:] > 0).all()


def test_each_sampling_law_draws_its_own_lists() -> None:
    items = toy_items(400)
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    rows = np.arange(400)
    laws = {"density": density_aware, "multiscale": multiscale, "uniform": uniform}
    for name, law in laws.items():
        config = SMALL.model_copy(update={"sampling": name})
        lists = draw_lists(lat, lon, rows, rows, config, seed=1)
        np.testing.assert_array_equal(lists.item_AJ[:, 1:], law(lat, lon, rows, negatives=7, seed=1)[0])


def test_pair_order_counts_known_pairs() -> None:
    km, score = np.array([[0.0, 1.0, 3.0, 3.0]], np.float32), np.array([[4.0, 2.0, 3.0, 2.0]], np.float32)
    order = pair_order(score, km, np.array([[0, 1, 2, 1]]))
    # (0,1) right (0,2) right (0,3) right (1,2) wrong (1,3) tied; (2,3) is no pair: both are 3 km away
    assert (order.pairs, order.accuracy) == (5, 0.7)
    assert (order.told_pairs, order.told_accuracy) == (4, 0.75)  # (1,3) say the same place
    by_band = {band["from_km"]: (band["pairs"], band["accuracy"]) for band in order.bands}
    assert by_band == {0.0: (0, None), 0.5: (1, 1.0), 2.0: (3, round(2 / 3, 6)), 10.0: (0, None), 50.0: (0, None)}


def test_a_constant_score_is_worth_one_half() -> None:
    km = np.abs(np.random.default_rng(0).standard_normal((50, 6))).astype(np.float32)
    order = pair_order(np.zeros_like(km), km, np.tile(np.arange(6), (50, 1)))
    assert order.accuracy == 0.5


def test_calibration_known_answer() -> None:
    found = calibration(np.array([[0.05, 0.15, 0.12, 1.0]], np.float32), np.array([[0.0, 0.2, 0.4, 1.0]], np.float32))
    assert [(b["count"], b["predicted"], b["label"]) for b in found] == [
        (1, pytest.approx(0.05, abs=1e-6), 0.0),
        (2, pytest.approx(0.135, abs=1e-6), pytest.approx(0.3, abs=1e-6)),
        (1, 1.0, 1.0),
    ]


def test_the_region_oracle_knows_regions_and_nothing_within() -> None:
    items = pl.DataFrame({
        "lat_deg": [0.0, 0.2, 1.0, 1.2],
        "lon_deg": [0.0] * 4,
        "province": ["A", "A", "A", "A"],
        "city": ["a", "a", "b", None],
        "district": [None, None, None, None],
    }, schema_overrides={"district": pl.String})  # fmt: skip
    lists = Lists(np.array([[0, 1, 2, 3]]), np.array([[0, 22, 111, 133]], np.float32))
    score = region_score(items, lists)
    assert score is not None
    assert score[0, 0] == score[0, 1] == 0
    assert score[0, 2] == pytest.approx(-0.9 * 111.195, rel=1e-4)
    assert (
        region_score(items.with_columns(province=pl.lit(None, pl.String), city=pl.lit(None, pl.String)), lists) is None
    )


def test_the_probe_reads_the_place_and_not_the_content() -> None:
    items, rng = toy_items(300), np.random.default_rng(0)
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    place = np.stack([np.sin(9 * lat), np.cos(9 * lat), np.sin(5 * lon), np.cos(5 * lon)], axis=1)
    emb = np.concatenate([place, rng.standard_normal((300, 4))], axis=1).astype(np.float32)
    probe, mean = fit_probe(emb, lat, lon, seed=0)
    assert probe.shape == (8, 96 * len(SCALES_KM))
    np.testing.assert_allclose(mean, emb.mean(axis=0), rtol=1e-5)
    read = (emb - mean) @ probe
    np.testing.assert_allclose(read.reshape(300, len(SCALES_KM), 96).std(axis=(0, 2)), 1, rtol=1e-4)
    assert np.square(probe[4:]).sum() < 0.05 * np.square(probe[:4]).sum()


@pytest.mark.parametrize("labels", ["kernel", "rank"])
def test_the_pairwise_reward_orders_places_of_anchors_it_has_not_seen(labels: str) -> None:
    _, report = fit_reward(toy_material(), SMALL.model_copy(update={"labels": labels}), seed=0)
    assert report.held_out.accuracy is not None
    assert report.held_out.accuracy > 0.85
    assert report.held_out_true.accuracy is not None
    assert report.held_out_true.accuracy > 0.7
    assert report.anchors == {"train": 96, "held_out": 24}
    assert report.prompts == 120 * 7
    assert len(report.train_loss) == len(report.held_out_loss) == 12
    assert report.held_out_loss[report.best_epoch - 1] == min(report.held_out_loss)
    assert sum(b["count"] for b in report.calibration) == 24 * 8
    json.dumps(report.as_dict(), allow_nan=False)


def test_the_pointwise_reward_is_at_chance_on_anchors_it_has_not_seen() -> None:
    """Content does not say where an item really is: the score of a candidate has to be seen beside its anchor."""
    config = SMALL.model_copy(update={"form": "pointwise", "far_share": 0.0})
    _, report = fit_reward(toy_material(toy_items(400)), config, seed=0)
    negatives_only = report.held_out.accuracy
    assert negatives_only is not None
    assert 0.4 < negatives_only < 0.62


def test_an_encoder_that_hears_no_place_gives_a_reward_at_chance() -> None:
    _, report = fit_reward(toy_material(encoder=FakeEncoder(place=0.0)), SMALL, seed=0)
    assert report.held_out.accuracy == 0.5  # all members of a list are the same vector
    assert report.held_out_true.accuracy is not None
    assert report.held_out_true.accuracy < 0.75


def test_no_location_of_a_held_out_anchor_is_learnt() -> None:
    encoder = FakeEncoder()
    material = toy_material(encoder=encoder)
    seen: list[int] = []
    encode = material.encode

    def record(texts: list[str]) -> np.ndarray:
        seen.append(len(texts))
        return encode(texts)

    fit_reward(type(material)(**{**vars(material), "encode": record}), SMALL, seed=3)
    assert seen == [96 * 7, 24 * 7]
    trained = {text.split("|")[1] for text in encoder.asked[: 96 * 7]}
    held = {material.location[int(text.split("|")[0])] for text in encoder.asked[96 * 7 :]}
    assert len(held) == 24
    assert not trained & held


def test_same_seed_same_bits_another_seed_another_model() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    config = SMALL.model_copy(update={"epochs": 3})
    first, report = fit_reward(toy_material(), config, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    second, again = fit_reward(toy_material(), config, seed=1)
    other, _ = fit_reward(toy_material(), config, seed=2)
    assert report == again
    state = first.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in second.state_dict().items())
    assert any(not torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())


@pytest.mark.parametrize(
    "change", [{}, {"form": "pointwise"}, {"features": "plain", "true_lists": 0, "order_weight": 0.0}]
)
def test_a_saved_reward_gives_the_same_scores(tmp_path: Path, change: dict[str, object]) -> None:
    material = toy_material()
    model, _ = fit_reward(material, SMALL.model_copy(update={**change, "epochs": 2}), seed=0)
    model.save(tmp_path / "reward")
    loaded = RewardModel.load(tmp_path / "reward")
    emb = torch.from_numpy(material.reference)
    assert torch.equal(loaded.score(emb, emb.flip(0)), model.score(emb, emb.flip(0)))
    assert sorted(path.name for path in (tmp_path / "reward").iterdir()) == ["config.json", "reward.safetensors"]


def test_a_damaged_reward_is_refused(tmp_path: Path) -> None:
    model, _ = fit_reward(toy_material(), SMALL.model_copy(update={"epochs": 1}), seed=0)
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "dim": 15}))
    with pytest.raises(ArtifactError, match="not a saved reward model"):
        RewardModel.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "reward.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="run the align stage again"):
        RewardModel.load(tmp_path)


def test_scores_are_differentiable_in_both_embeddings_even_where_they_are_equal() -> None:
    material = toy_material()
    model, _ = fit_reward(material, SMALL.model_copy(update={"epochs": 1}), seed=0)
    anchor = torch.from_numpy(material.reference[:5]).requires_grad_()
    candidate = torch.from_numpy(material.reference[:5].copy()).requires_grad_()
    model.score(anchor, candidate).sum().backward()
    assert anchor.grad is not None
    assert candidate.grad is not None
    assert torch.isfinite(anchor.grad).all()
    assert torch.isfinite(candidate.grad).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_too_few_items_are_refused_with_a_way_out() -> None:
    with pytest.raises(DataError, match=r"expected at least .*\n.*reward\.negatives"):
        fit_reward(toy_material(toy_items(9)), SMALL, seed=0)
