"""Training of sequence models: that it learns, repeats, survives a kill, stops in time, also in two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_rows import ITEMS, ToyRows, circle, pack, places, select, small, state_of, toy_requests, toy_training
from toy_tables import StoppedError

from lgsid.arrays import IntArray
from lgsid.generate.base import Packed
from lgsid.generate.sasrec import SasRec
from lgsid.generate.training import (
    HeldOut,
    SequenceTraining,
    answered,
    on_device,
    ranking_figures,
    some_of,
    train_generator,
)

TESTS = Path(__file__).resolve().parents[1]


def quick(**changes: Any) -> Any:
    return small(**{"dropout": 0.1, "epochs": 4, "least_updates": 1, "validations": 4, "learning_rate": 0.1, **changes})


def interrupted(training: SequenceTraining, calls: int) -> SequenceTraining:
    """It stops at the n-th call of the loss."""
    loss, done = training.loss, []

    def stopping(examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if len(done) == calls:
            raise StoppedError
        done.append(1)
        return loss(examples_B, generator)

    training.loss = stopping  # type: ignore[method-assign]
    return training


def test_the_loss_falls_and_the_score_rises() -> None:
    config = quick(epochs=15, dropout=0.0)
    training = toy_training(config)
    history = train_generator(training, config, seed=0)
    first, last = history.validations[0].metrics, history.validations[-1].metrics
    assert first["score"] < 0.3 < 0.9 < history.best.score
    assert last["loss"] < 0.7 * first["loss"]
    assert not training.model.training


def test_figures_are_ndcg_and_hit_rate() -> None:
    class Fixed:
        """Item 5 at places 1, 2, 11 and nowhere."""

        def top(self, requests: Packed, k: int, reach: Any = None) -> IntArray:
            rows = [[5, 1], [1, 5], [*range(10, 20), 5], [1, 2]]
            chosen = [rows[int(n) - 1] for n in requests.length_R]
            return np.array([(row + [-1] * k)[:k] for row in chosen])

    requests = pack([[circle(0, n)] for n in (1, 2, 3, 4)])
    held = HeldOut(requests, np.full(4, 5))
    ndcg, hit = ranking_figures(Fixed(), held)
    assert ndcg == pytest.approx((1 + 1 / np.log2(3)) / 4)
    assert hit == 0.5
    many = HeldOut(select(requests, np.tile(np.arange(4), 100)), np.full(400, 5))
    assert ranking_figures(Fixed(), many) == pytest.approx((ndcg, hit))
    assert ranking_figures(Fixed(), HeldOut(select(requests, slice(0, 0)), np.empty(0, np.int64))) == (0.0, 0.0)


def test_the_watched_loss_is_that_of_the_answers() -> None:
    training = toy_training(quick(time=True, distance=True))
    model = training.model.eval()
    assert isinstance(model, SasRec)
    metrics = training.validate()
    scores_RN = model.scores(training.held.requests).log_softmax(1)
    expected = -scores_RN[torch.arange(ITEMS), torch.from_numpy(training.held.item_R)].mean()
    assert metrics["loss"] == pytest.approx(float(expected.detach()), rel=1e-4)
    unwatched = SequenceTraining(model, model, ToyRows(), np.arange(3), training.held, watch_loss=False)
    assert unwatched.validate() == {name: metrics[name] for name in ("score", "hit")}


def test_answers_stand_behind_histories() -> None:
    requests = pack([[circle(0, 2)], [circle(4, 4)]], first_target=9)
    rows = answered(HeldOut(requests, np.array([7, 9])))
    assert rows.item_RT.tolist() == [[0, 1, 7, 0, 0], [4, 5, 6, 7, 9]]
    assert rows.target_RT.nonzero().tolist() == [[0, 2], [1, 4]]
    assert rows.segment_RT.tolist() == [[0, 0, 0, -1, -1], [0] * 5]
    assert rows.length_R.tolist() == [3, 5]
    assert rows.time_RT[[0, 1], [2, 4]].tolist() == requests.now_R.tolist()
    assert requests.item_RT.shape == (2, 4), "and requests stay as they are"


def test_everything_is_trained_once_and_norms_do_not_decay() -> None:
    training = toy_training(quick(time=True, distance=True, users=3))
    parameters = dict(training.model.named_parameters())
    assert dict(training.named()) == parameters
    decayed, others = training.parameters()
    grouped = [id(parameter) for group in (decayed, others) for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, parameters.values()))
    assert others["weight_decay"] == 0.0
    names = {name for name, parameter in parameters.items() if any(parameter is p for p in decayed["params"])}
    assert "layers.0.qkv.weight" in names
    assert {"nearness.bias", "nearness.by_state"} <= names  # tables of distances are matrices like others
    names -= {"nearness.bias"}
    assert not {name for name in names if "norm" in name or "bias" in name or name.startswith(("items", "context"))}


def test_rows_are_examples() -> None:
    config = quick(epochs=2, patience=9)
    training = toy_training(config, examples=np.array([1, 5, 7]))
    source = training.source
    assert isinstance(source, ToyRows)
    history = train_generator(training, config, seed=0)
    assert training.examples == 3
    assert sorted(source.asked) == [1, 1, 5, 5, 7, 7]
    assert history.examples == 6


def test_few_rows_are_gone_through_more_often() -> None:
    config = quick(least_updates=20, patience=99)
    assert train_generator(toy_training(config), config, seed=0).steps == 24, "four passes over 24 rows, four at once"
    config = quick(least_updates=30, patience=99)
    assert train_generator(toy_training(config), config, seed=0).steps == 30


def test_interrupted_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    config = quick()
    whole = toy_training(config)
    expected = train_generator(whole, config, seed=0)
    for calls in (0, 7, 20):
        with pytest.raises(StoppedError):
            train_generator(interrupted(toy_training(config), calls), config, 0, tmp_path / str(calls))
        resumed = toy_training(config, seed=9)
        assert train_generator(resumed, config, 0, tmp_path / str(calls)).to_json() == expected.to_json()
        assert all(torch.equal(a, b) for a, b in zip(state_of(whole), state_of(resumed), strict=True))


def test_other_data_is_not_continued(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = quick(epochs=1)
    train_generator(toy_training(config), config, 0, tmp_path, identity="one")
    train_generator(toy_training(config), config, 0, tmp_path, identity="other")
    assert "of another configuration, seed or model" in caplog.text


def test_early_stopping_keeps_the_best() -> None:
    config = quick(validations=8, patience=2)
    training = toy_training(config)
    scores = iter([0.5, 0.6, 0.7, 0.65, 0.64, 0.9])
    states: list[list[Tensor]] = []

    def validate() -> dict[str, float]:
        states.append(state_of(training))
        return {"score": next(scores)}

    training.validate = validate  # type: ignore[method-assign]
    history = train_generator(training, config, seed=0)
    assert history.stopped_early
    assert len(history.validations) == 5
    assert all(torch.equal(a, b) for a, b in zip(state_of(training), states[2], strict=True))


def test_some_of_the_events() -> None:
    event_E = np.array([9, 3, 5, 7, 1])
    assert some_of(event_E, seed=0, most=5).tolist() == [1, 3, 5, 7, 9]
    three = some_of(event_E, seed=0, most=3)
    assert len(set(three.tolist())) == 3
    assert set(three.tolist()) <= set(event_E.tolist())
    assert np.array_equal(three, np.sort(three))
    assert np.array_equal(some_of(event_E, seed=0, most=3), three)
    draws = {tuple(some_of(np.arange(50), seed, 3).tolist()) for seed in range(9)}
    assert len(draws) > 5


def test_rows_elsewhere() -> None:
    moved = on_device(pack([[circle(0, 3)]]), torch.device("meta"))
    assert moved.item_RT.device.type == moved.now_R.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bf16_on_a_gpu_learns_as_well() -> None:
    requests, answer_R = toy_requests()
    config = quick(epochs=15, dropout=0.0, precision="bf16")
    model = SasRec(ITEMS, config, xyz_N3=places()).cuda()
    held = HeldOut(on_device(requests, torch.device("cuda")), answer_R)
    history = train_generator(SequenceTraining(model, model, ToyRows(), np.arange(24), held), config, seed=0)
    assert history.best.score > 0.9
