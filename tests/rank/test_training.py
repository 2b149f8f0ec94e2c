"""Training of rankers: that it learns, repeats, survives a kill, stops in time, and is the same in two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_rank import rank_config, state_of, toy_ranking
from toy_tables import StoppedError

from lgsid.arrays import IntArray
from lgsid.config import RankConfig, TrainerConfig
from lgsid.rank import encoder as encoder_module
from lgsid.rank.auc import auc
from lgsid.rank.loader import SampleFolder
from lgsid.rank.methods import RANKERS
from lgsid.rank.optimizer import rank_optimizer
from lgsid.rank.samples import GROUP
from lgsid.rank.training import RankTraining, predict, train_ranker
from lgsid.trainer import fit

TESTS = Path(__file__).resolve().parents[1]


def quick(**changes: Any) -> RankConfig:
    return rank_config("everything", **{"distance": True, "dropout": 0.1, "epochs": 2, **changes})


def interrupted(training: RankTraining, calls: int) -> RankTraining:
    """It stops at the n-th call of the loss."""
    loss, done = training.loss, []

    def stopping(examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if len(done) == calls:
            raise StoppedError
        done.append(1)
        return loss(examples_B, generator)

    training.loss = stopping  # type: ignore[method-assign]
    return training


def test_the_loss_falls_and_the_score_rises(toy: SampleFolder) -> None:
    training = toy_ranking("din", toy, rank_config(epochs=8, learning_rate=2e-2, table_learning_rate=5e-2))
    history = train_ranker(training, training.config, seed=0)
    losses = [record.loss for record in history.records]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert history.best.score > 0.8 > 0.6 > history.validations[0].score


def test_the_score_is_the_auc_of_the_validation_file(toy: SampleFolder) -> None:
    training = toy_ranking("din", toy, quick())
    logit_SC = predict(training.ranker, toy.file("validation"), training.batcher)
    assert logit_SC.shape == (len(toy.file("validation")), 5)
    label_SC = np.zeros(logit_SC.shape, dtype=bool)
    label_SC[:, 0] = True
    assert training.validate() == {"score": auc(logit_SC.ravel(), label_SC.ravel())}
    training.ranker.head.layers[-1].weight.data.zero_()  # all alike
    assert training.validate()["score"] == 0.5
    perfect = np.where(label_SC, -1.0, 1.0)
    rows = iter(np.split(perfect, range(4 * GROUP, len(perfect), 4 * GROUP)))

    def wrong(module: torch.nn.Module, args: Any, output: Any) -> Any:
        return type(output)(torch.from_numpy(next(rows)), {})

    training.ranker.register_forward_hook(wrong)
    assert training.validate()["score"] == 0.0, "as bad as can be is not the same as unknown"


def test_the_loss_is_cross_entropy_and_the_model_s_own(toy: SampleFolder) -> None:
    training = toy_ranking("sim", toy, quick(dropout=0))
    training.ranker.eval()
    loss, parts = training.loss(np.array([1]), np.random.default_rng(0))
    batch = training.batcher(toy.file("train").read([1]))
    p_BC = training.ranker(batch).logit_BC.double().sigmoid()
    expected = -(torch.log(p_BC[:, 0]).sum() + torch.log(1 - p_BC[:, 1:]).sum()) / p_BC.numel()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts == {}
    training.ranker.train()
    with torch.random.fork_rng(devices=[]):
        loss, parts = training.loss(np.array([1]), np.random.default_rng(0))
    assert parts["search"] > 0.1
    assert loss.item() > parts["search"]


@pytest.mark.parametrize("name", sorted(RANKERS))
def test_everything_that_is_saved_is_trained_and_named_once(name: str, toy: SampleFolder) -> None:
    training = toy_ranking(name, toy, quick(most_requests=2 * GROUP))
    named = training.named()
    parameters = dict(training.ranker.named_parameters())
    assert {key for key, tensor in named.items() if isinstance(tensor, torch.nn.Parameter)} == set(parameters)
    assert all(named[key] is parameter for key, parameter in parameters.items())
    assert set(named) == set(training.ranker.state_dict())
    grouped = [id(parameter) for group in training.parameters() for parameter in group["params"]]
    assert sorted(grouped) == sorted(map(id, parameters.values()))
    before = state_of(training)
    scores = iter([0.5, 0.6, 0.7])  # the last is the best
    training.validate = lambda: {"score": next(scores)}  # type: ignore[method-assign]
    train_ranker(training, training.config, seed=0)
    constant = {key for key, tensor in state_of(training).items() if torch.equal(tensor, before[key])}
    assert constant <= {"directions_DG"}
    assert any("running_mean" in key for key in named)


def test_rates_of_networks_and_tables(toy: SampleFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    config = quick(learning_rate=0.1, table_learning_rate=0.2, sparse_learning_rate=0.3)
    rows = len(toy.items)
    monkeypatch.setattr(encoder_module, "SPARSE_ROWS", rows)
    training = toy_ranking("din", toy, config)
    net, small, large = training.parameters()
    tables = list(training.ranker.items.tables)
    assert [table.shape[0] for table in large["params"]] == [rows]
    assert {id(table) for table in (*small["params"], *large["params"])} == {id(table) for table in tables}
    assert (net["lr"], small["lr"], large["lr"]) == (0.1, 0.2, 0.3)
    assert large["rowwise"]
    assert large["sparse"]
    history = train_ranker(training, training.config, seed=0)
    assert history.best.step > 0, "and it learns"
    monkeypatch.undo()
    assert len(toy_ranking("din", toy, config).parameters()) == 2


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("name", ["dien", "sim"])
def test_interrupted_training_ends_with_the_same_bits(
    name: str, sparse: bool, toy: SampleFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sparse:
        monkeypatch.setattr(encoder_module, "SPARSE_ROWS", 200)
    config = quick(most_requests=4 * GROUP, validations=4)
    whole = toy_ranking(name, toy, config)
    expected = train_ranker(whole, config, seed=0)
    assert expected.steps == 8
    for calls in (0, 3, 5):
        with pytest.raises(StoppedError):
            train_ranker(
                interrupted(toy_ranking(name, toy, config), calls), config, seed=0, folder=tmp_path / str(calls)
            )
        resumed = toy_ranking(name, toy, config, seed=9)
        assert train_ranker(resumed, config, seed=0, folder=tmp_path / str(calls)).to_json() == expected.to_json()
        found = state_of(resumed)
        assert all(torch.equal(tensor, found[key]) for key, tensor in state_of(whole).items())


def test_other_data_is_not_continued(toy: SampleFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = quick(most_requests=GROUP)
    train_ranker(toy_ranking("din", toy, config), config, 0, tmp_path, identity="one")
    train_ranker(toy_ranking("din", toy, config), config, 0, tmp_path, identity="other")
    assert "of another configuration, seed or model" in caplog.text


def test_a_part_of_the_requests(toy: SampleFolder) -> None:
    groups = toy.file("train").groups
    for wanted, expected in ((None, groups), (1, 1), (GROUP, 1), (GROUP + 1, 2), (10**9, groups)):
        assert toy_ranking("din", toy, quick(most_requests=wanted)).examples == expected
    training = toy_ranking("din", toy, quick(most_requests=2 * GROUP))
    read: list[int] = []
    inner = training.train.read

    class Spy:
        groups = training.train.groups

        def read(self, groups: IntArray) -> Any:
            read.extend(groups.tolist())
            return inner(groups)

    training.train = Spy()  # type: ignore[assignment]
    history = train_ranker(training, training.config, seed=0)
    assert sorted(read) == [0, 0, 1, 1]
    assert history.examples == 4


def test_batches_are_of_whole_groups(toy: SampleFolder) -> None:
    steps = {
        batch: train_ranker(toy_ranking("din", toy, config), config, seed=0).steps
        for batch in (1, GROUP, 4 * GROUP)
        if (config := quick(epochs=1, batch=batch))
    }
    groups = toy.file("train").groups
    assert steps == {1: groups, GROUP: groups, 4 * GROUP: -(-groups // 4)}


def test_early_stopping_keeps_the_best(toy: SampleFolder) -> None:
    config = quick(validations=8, patience=2, epochs=1)
    training = toy_ranking("din", toy, config)
    scores = iter([0.5, 0.6, 0.7, 0.65, 0.64, 0.9, 0.9, 0.9, 0.9])
    states: list[dict[str, Tensor]] = []

    def validate() -> dict[str, float]:
        states.append(state_of(training))
        return {"score": next(scores)}

    training.validate = validate  # type: ignore[method-assign]
    history = train_ranker(training, config, seed=0)
    assert history.stopped_early
    assert [validation.score for validation in history.validations] == [0.5, 0.6, 0.7, 0.65, 0.64]
    found = state_of(training)
    assert all(torch.equal(tensor, found[key]) for key, tensor in states[2].items())
    assert not all(torch.equal(tensor, found[key]) for key, tensor in states[4].items())
    assert not training.ranker.training


def test_scores_do_not_depend_on_the_mode_it_was_left_in(toy: SampleFolder) -> None:
    training = toy_ranking("din", toy, quick(dropout=0.5))
    training.ranker.train()
    one, two = (predict(training.ranker, toy.file("test"), training.batcher) for _ in range(2))
    assert np.array_equal(one, two)


def test_the_trainer_s_examples_are_groups(toy: SampleFolder) -> None:
    """One pass reads each request once."""
    training = toy_ranking("din", toy, quick())
    read: list[int] = []
    loss = training.loss

    def counting(examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        read.extend(examples_B.tolist())
        return loss(examples_B, generator)

    training.loss = counting  # type: ignore[method-assign]
    fit(training, TrainerConfig(epochs=1, batch=2), seed=0, optimizer=rank_optimizer)
    assert sorted(read) == list(range(toy.file("train").groups))


def test_few_samples_are_gone_through_more_often(toy: SampleFolder) -> None:
    config = quick(most_requests=2 * GROUP, epochs=1, validations=2, least_updates=7)
    assert train_ranker(toy_ranking("din", toy, config), config, seed=0).steps == 7
    enough = config.model_copy(update={"least_updates": 1})
    assert train_ranker(toy_ranking("din", toy, enough), enough, seed=0).steps == 2
