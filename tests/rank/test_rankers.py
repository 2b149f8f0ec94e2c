"""Conformance suite: what every ranker does; it runs every name in `lgsid.rank.methods.RANKERS`.

Each with and without distance, and with every kind of item features.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from toy_rank import (
    COMBINATIONS,
    TRAINING_SHARE,
    features_of,
    rank_config,
    some_requests,
    state_of,
    toy_events,
    toy_ranking,
    write_toy,
)

from lgsid.arrays import FloatArray, IntArray
from lgsid.errors import ArtifactError, ConfigError
from lgsid.rank import ranking
from lgsid.rank.auc import auc
from lgsid.rank.base import BANDS, GAPS, REGIONS, Batch, Ranker
from lgsid.rank.features import ItemFeatures
from lgsid.rank.loader import Batcher, Requests, SampleFolder
from lgsid.rank.methods import RANKERS, make_ranker, ranker_class
from lgsid.rank.pretrained import load_ranker, save_ranker
from lgsid.rank.training import predict, train_ranker


@dataclass(frozen=True)
class Case:
    """A ranker in double precision and evaluation mode, with parameters large enough for its scores to differ."""

    ranker: Ranker
    batcher: Batcher
    requests: Requests

    def scores(self, requests: Requests | None = None) -> Tensor:
        return self.of(self.batcher(self.requests if requests is None else requests))

    def of(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.ranker(batch).logit_BC


@pytest.fixture(params=sorted(RANKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["", "distance"])
def distance(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=sorted(COMBINATIONS))
def case(request: pytest.FixtureRequest, name: str, distance: bool, toy: SampleFolder) -> Case:
    return made(toy, name, request.param, distance)


@cache
def made(samples: SampleFolder, name: str, combination: str, distance: bool) -> Case:
    """A case; nothing in the tests changes it."""
    training = toy_ranking(name, samples, rank_config(combination, distance=distance))
    ranker = training.ranker.double()
    generator = torch.Generator().manual_seed(1)
    for parameter in ranker.parameters():
        spread = 1.0 if parameter.dim() == 2 and len(parameter) > 64 else 0.4
        parameter.detach().copy_(torch.randn(parameter.shape, generator=generator) * spread)
    for key, buffer in ranker.named_buffers():
        if "running_" in key:  # of Dice
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.3)
    return Case(ranker.eval(), training.batcher, some_requests(samples))


def close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-3, "scores that hardly differ show nothing"
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


# --- Scores -----------------------------------------------------------------------------------------------------------
def test_alone_equals_in_a_batch(case: Case) -> None:
    together = case.scores()
    for row in (0, 7, 11):
        close(case.scores(case.requests[row : row + 1]), together[row : row + 1])


def test_permuted_requests_have_permuted_scores(case: Case) -> None:
    order = np.random.default_rng(0).permutation(len(case.requests))
    close(case.scores(case.requests[order]), case.scores()[torch.from_numpy(order)])  # type: ignore[index]


def test_permuted_candidates_have_permuted_scores(case: Case) -> None:
    order = [3, 0, 4, 1, 2]
    close(case.scores(replace(case.requests, candidates=case.requests.candidates[:, order])), case.scores()[:, order])


def test_scores_do_not_depend_on_labels(case: Case) -> None:
    batch = case.batcher(case.requests)
    assert torch.equal(case.of(replace(batch, label_BC=1 - batch.label_BC)), case.of(batch))


def test_what_stands_at_padding_means_nothing(case: Case) -> None:
    batch = case.batcher(case.requests)
    pad_BT = ~batch.mask_BT
    assert pad_BT.any()
    generator = torch.Generator().manual_seed(0)

    def spoilt(tensor: Tensor | None, below: int) -> Tensor | None:
        return (
            None
            if tensor is None
            else torch.where(pad_BT, torch.randint(below, pad_BT.shape, generator=generator), tensor)
        )

    other = replace(
        batch,
        history_BT=spoilt(batch.history_BT, len(batch.items_U)),
        gap_BT=spoilt(batch.gap_BT, GAPS),
        band_BT=spoilt(batch.band_BT, BANDS),
        region_BT=spoilt(batch.region_BT, REGIONS),
    )
    close(case.of(other), case.of(batch))


def test_more_padding_changes_nothing(case: Case) -> None:
    batch = case.batcher(case.requests)

    def longer(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else torch.nn.functional.pad(tensor, (5, 0))

    names = ("history_BT", "mask_BT", "gap_BT", "band_BT", "region_BT")
    close(case.of(replace(batch, **{name: longer(getattr(batch, name)) for name in names})), case.of(batch))


def test_the_history_counts_and_what_is_beyond_its_length_does_not(case: Case) -> None:
    length = case.ranker.history_length
    requests, before = case.requests, case.scores()
    long = requests.stop - requests.first > length
    assert long.any()
    item_E = case.batcher.item_E

    def with_other_visits(first: IntArray, stop: IntArray) -> Tensor:
        changed = np.array(item_E)
        for a, b in zip(first, stop, strict=True):
            changed[a:b] = (changed[a:b] + 5) % len(case.batcher._place_N)
        case.batcher.item_E = changed
        try:
            return case.scores()
        finally:
            case.batcher.item_E = item_E

    one = np.flatnonzero(long)[:1]
    edge = requests.stop[one] - length
    close(with_other_visits(requests.first[one], edge)[one], before[one])
    assert not torch.allclose(with_other_visits(edge, requests.stop[one] - 1)[one], before[one])


@pytest.mark.parametrize("name", sorted(name for name in RANKERS if ranker_class(name).long))
def test_long_histories_have_a_short_term_part(name: str, toy: SampleFolder) -> None:
    """It is the second half of the interest, and looks at `RankConfig.history` visits."""
    case = made(toy, name, "everything", True)
    batch = case.batcher(case.requests)
    recent = case.ranker.config.history
    assert batch.mask_BT.shape[1] > recent

    def short_term(change: slice) -> Tensor:
        other = batch.history_BT.clone()
        other[:, change] = (other[:, change] + 1) % len(batch.items_U)
        e_UD = case.ranker.items(batch.items_U)
        looked = case.ranker.interest(e_UD[batch.candidates_BC], e_UD, replace(batch, history_BT=other))
        return looked.vector_BCI[..., case.ranker.items.dim :].detach()

    expected = short_term(slice(0, 0))
    assert torch.equal(short_term(slice(0, -recent)), expected)
    assert not torch.allclose(short_term(slice(-recent, -recent + 1)), expected)


def test_users_without_a_past(case: Case) -> None:
    """Alone, all at once, and among others: finite, and nobody else's scores change."""
    requests = case.requests
    none = replace(requests, first=requests.stop)
    scores = case.scores(none)
    assert torch.isfinite(scores).all()
    some = replace(requests, first=np.where(np.arange(len(requests)) % 2, requests.first, requests.stop))
    mixed = case.scores(some)
    close(mixed[::2], scores[::2])
    close(mixed[1::2], case.scores()[1::2])


def test_every_parameter_learns_and_users_without_a_past_do_no_harm(
    name: str, distance: bool, toy: SampleFolder
) -> None:
    training = toy_ranking(name, toy, rank_config("everything", distance=distance))
    requests = some_requests(toy, count=64)
    some = replace(requests, first=np.where(np.arange(64) % 3 == 0, requests.stop, requests.first))
    for asked in (replace(requests, first=requests.stop), some):
        ranker = training.ranker.train()
        ranker.zero_grad(set_to_none=True)
        scores = ranker(training.batcher(asked))
        loss = scores.logit_BC.square().sum() + sum(scores.losses.values())
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in ranker.named_parameters()}
        assert all(grad is None or torch.isfinite(grad).all() for grad in gradients.values())
    still = [name for name, grad in gradients.items() if grad is None or not grad.abs().max() > 0]
    assert not still


# --- Training ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("combination", ["everything", "sid"])
def test_same_seed_same_bits(name: str, distance: bool, combination: str, toy: SampleFolder) -> None:
    config = rank_config(combination, distance=distance, dropout=0.2, most_requests=512)
    one, two = (toy_ranking(name, toy, config, seed=0) for _ in range(2))
    histories = [train_ranker(training, config, seed=3) for training in (one, two)]
    assert histories[0].to_json() == histories[1].to_json()
    assert all(torch.equal(tensor, state_of(two)[key]) for key, tensor in state_of(one).items())


def test_another_seed_gives_another_ranker(name: str, toy: SampleFolder) -> None:
    one, other = (state_of(toy_ranking(name, toy, rank_config(), seed)) for seed in (0, 1))
    assert not any(torch.equal(one[key], other[key]) for key in one if key.startswith("items.tables"))


def learnt(samples: SampleFolder, name: str, sid: str) -> dict[str, float]:
    """AUC on the test and cold files after some epochs."""
    config = rank_config(
        "everything", sid=sid, dim=16, token_dim=16, hidden=(32,), attention_hidden=(16,), history=10,
        epochs=6 if sid == "levels" else 3, patience=9, learning_rate=2e-2, table_learning_rate=5e-2,
    )  # fmt: skip
    training = toy_ranking(name, samples, config)
    train_ranker(training, config, seed=0)
    return {file: auc_of(predict(training.ranker, samples.file(file), training.batcher)) for file in ("test", "cold")}


def auc_of(logit_SC: FloatArray) -> float:
    label_SC = np.zeros(logit_SC.shape, dtype=bool)
    label_SC[:, 0] = True
    found = auc(logit_SC.ravel(), label_SC.ravel())
    assert found is not None
    return found


def test_codes_tell_of_items_that_nobody_has_visited(name: str, toy: SampleFolder) -> None:
    """Users keep to their cluster, which is an item's first token; the best possible AUC is about .96."""
    found = learnt(toy, name, "levels")
    assert found["cold"] > 0.9
    assert found["test"] > 0.9


def test_without_codes_they_are_all_alike(name: str, toy: SampleFolder) -> None:
    """Their labels mean nothing here, and they have no ID of their own."""
    found = learnt(toy, name, "none")
    assert abs(found["cold"] - 0.5) < 0.1


# --- Folders ----------------------------------------------------------------------------------------------------------
def test_saved_and_loaded_gives_the_same_scores(case: Case, tmp_path: Path) -> None:
    ranker = make_ranker(case.ranker.name, _features(case.ranker), case.ranker.config, seed=0)
    ranker.load_state_dict(case.ranker.float().state_dict())
    case.ranker.double()
    batch = case.batcher(case.requests)
    with torch.no_grad():
        before = ranker.eval()(batch).logit_BC
        save_ranker(ranker, tmp_path)
        loaded = load_ranker(tmp_path)
        assert torch.equal(loaded(batch).logit_BC, before)
    assert before.std() > 1e-3
    assert type(loaded) is type(ranker)
    assert loaded.config == ranker.config
    assert loaded.history_length == case.batcher.history
    assert not loaded.training
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "ranker.safetensors"}


def _features(ranker: Ranker) -> ItemFeatures:
    items = ranker.items
    return ItemFeatures(
        items.names,
        items.rows_NF.numpy(),
        tuple(len(table) for table in items.tables),
        items.seen_N.float().numpy(),
        items.categories_N.numpy(),
    )


def test_damaged_folders_are_refused(name: str, toy: SampleFolder, tmp_path: Path) -> None:
    ranker = toy_ranking(name, toy, rank_config()).ranker

    def refused(match: str) -> None:
        with pytest.raises(ArtifactError, match=match) as caught:
            load_ranker(tmp_path)
        assert str(tmp_path) in caught.value.message
        assert caught.value.fix

    refused("no file .*config.json")
    save_ranker(ranker, tmp_path)
    weights, config = (tmp_path / file for file in ("ranker.safetensors", "config.json"))
    whole, described = weights.read_bytes(), json.loads(config.read_text())
    for broken in (whole[:-40], b"", b"\xff" * 64):
        weights.write_bytes(broken)
        refused("cannot be read")
    weights.unlink()
    refused("cannot be read")
    weights.write_bytes(whole)
    for content, match in (
        ({**described, "format": 99}, "format 1"),
        ({**described, "model": "mf"}, "format 1"),
        ([], "format 1"),
        ({key: value for key, value in described.items() if key != "sizes"}, "cannot be read"),
        ({**described, "sizes": [size + 1 for size in described["sizes"]]}, "cannot be read"),
        ({**described, "features": described["features"][:-1]}, "cannot be read"),
        ({**described, "features": None}, "cannot be read"),
        ({**described, "config": {**described["config"], "dim": -1}}, "cannot be read"),
        ({**described, "config": {**described["config"], "width": 3}}, "cannot be read"),
    ):
        config.write_text(json.dumps(content))
        refused(match)
    config.write_text("{")
    refused("not JSON")
    config.write_text(json.dumps(described))
    other = sorted(set(RANKERS) - {name})[0]
    config.write_text(json.dumps({**described, "model": other}))
    refused("cannot be read")


def test_names_and_classes() -> None:
    assert all(ranker_class(name).name == name for name in RANKERS)
    with pytest.raises(ConfigError, match="no ranker 'mf'; known: din"):
        ranker_class("mf")


def test_torchs_own_generator_is_left_alone(name: str, toy: SampleFolder) -> None:
    before = torch.get_rng_state()
    toy_ranking(name, toy, rank_config())
    assert torch.equal(torch.get_rng_state(), before)


# --- What training must not know --------------------------------------------------------------------------------------
def test_training_knows_nothing_of_what_comes_after(
    toy: SampleFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later events are changed: features, training batches, counts and baselines stay, bit by bit."""
    events = toy_events()
    later = events["timestamp"] > events["timestamp"].quantile(TRAINING_SHARE, "lower")
    rng = np.random.default_rng(1)
    columns = {
        column: np.where(later, rng.permutation(events[column].to_numpy()), events[column].to_numpy())
        for column in ("user_id", "item_id")
    }
    changed = events.with_columns(pl.Series(name, values, dtype=pl.String) for name, values in columns.items())
    other = write_toy(tmp_path / "samples", changed)
    assert not pl.read_parquet(other.folder / "test.parquet").equals(pl.read_parquet(toy.folder / "test.parquet"))
    config = rank_config("everything", distance=True)
    for column in fields(features_of(toy, config)):
        found, expected = (getattr(features_of(samples, config), column.name) for samples in (other, toy))
        assert np.array_equal(found, expected), column.name
    assert np.array_equal(other.seen(), toy.seen())
    trainings = [toy_ranking("din", samples, config) for samples in (toy, other)]
    assert trainings[0].examples == trainings[1].examples
    for group in range(trainings[0].examples):
        one, two = (vars(training.batcher(training.train.read([group]))) for training in trainings)
        assert all(torch.equal(one[key], two[key]) for key in one), group
    monkeypatch.setattr(ranking, "MEASURED", ("train",))
    one, two = (ranking.baseline_scores(samples, reach_km=2.0) for samples in (toy, other))
    assert len(one) == 4
    for name, scores in one.items():
        assert np.array_equal(scores["train"], two[name]["train"]), name
