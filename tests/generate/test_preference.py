"""Preference alignment: what a round learns from, what it learns, what it must not lose, and that it can be resumed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from toy_city import city, options, state_of
from toy_rows import ITEMS
from toy_tables import StoppedError

from lgsid.artifact import RunFolder, read_json
from lgsid.config import GenerateConfig, RunConfig
from lgsid.errors import ConfigError
from lgsid.generate import generating, preference
from lgsid.generate.generating import Data, validation_requests
from lgsid.generate.methods import make_generator
from lgsid.generate.onerec import OneRec
from lgsid.generate.preference import Pairs, PreferenceTraining, Writer, align, make_pairs, margin
from lgsid.generate.pretrained import load_generator
from lgsid.generate.protocol import requests
from lgsid.generate.rewards import Rewards
from lgsid.generate.stage import generate_items, run_data
from lgsid.rank.visits import TRAINING

AMOUNT_N = np.random.default_rng(3).permutation(ITEMS) * 10.0 + 5.0
REACH = {"interest": 0.0}
FEW = {**REACH, "share": 0.1}
"""A round of some ten updates."""


@pytest.fixture(scope="module")
def trained() -> tuple[dict[str, Tensor], float]:
    """Parameters of a OneRec that has learnt the city, and its NDCG@10 on the validation requests."""
    model, history = generating.train("onerec", city(), options(), seed=0)
    assert isinstance(model, OneRec)
    return state_of(model), history.best.score


def model_of(trained: tuple[dict[str, Tensor], float], config: GenerateConfig) -> OneRec:
    data = city()
    places = data.packer(config).xyz_N3
    model = make_generator("onerec", data.codes_NL, data.sizes, config, seed=0, xyz_N3=places)
    model.load_state_dict(trained[0])
    assert isinstance(model, OneRec)
    return model.eval()


def writer_of(
    trained: tuple[dict[str, Tensor], float], config: GenerateConfig, data: Data | None = None, reach_km: float = 5.0
) -> Writer:
    data = city() if data is None else data
    rewards = Rewards(config.preference, (data.lat_N, data.lon_N), reach_km, None, data.amount_N)
    return Writer(model_of(trained, config), data.packer(config), rewards)


def aligned(
    trained: tuple[dict[str, Tensor], float], config: GenerateConfig, folder: Path | None = None, **changes: Any
) -> tuple[OneRec, dict[str, Any]]:
    writer = writer_of(trained, config, **changes)
    course = align(writer, validation_requests(city()), trained[1], 0, folder)
    return writer.model, course


def some_requests(count: int = 40) -> Any:
    return requests(city().visits, TRAINING)[:count]


def same(model: OneRec, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(parameter, state[name]) for name, parameter in model.named_parameters())


def test_pairs_are_the_best_and_the_worst_of_the_models_own_lists(trained: tuple[dict[str, Tensor], float]) -> None:
    writer, event_R = writer_of(trained, options(REACH)), some_requests()
    pairs = make_pairs(writer, event_R)
    parts = writer.lists(event_R, 8)
    rows_RWM, reach_RW = parts["rows"], parts["reach"]
    best_R, worst_R = reach_RW.max(1).values, reach_RW.min(1).values
    assert pairs.event_Q.tolist() == event_R[(best_R > worst_R).numpy()].tolist()
    assert 10 < len(pairs) <= 40
    place_R = {int(event): number for number, event in enumerate(event_R)}
    for event, list_2M in zip(pairs.event_Q.tolist(), pairs.list_Q2M, strict=True):
        request = place_R[event]
        of_list = [(rows_RWM[request] == row_M).all(1).nonzero()[0, 0] for row_M in list_2M]
        assert reach_RW[request, of_list].tolist() == [best_R[request], worst_R[request]]
    assert pairs.about["requests"] == 40
    assert pairs.about["lists"]["reach"] == pytest.approx(float(reach_RW.mean()))


def test_lists_of_equal_worth_make_no_pair(trained: tuple[dict[str, Tensor], float]) -> None:
    writer = writer_of(trained, options(REACH), reach_km=500.0)
    assert len(make_pairs(writer, some_requests())) == 0
    model, course = aligned(trained, options(FEW), reach_km=500.0)
    assert same(model, trained[0])
    assert [(done["pairs"], done["kept"]) for done in course["rounds"]] == [(0, False)]


def training_of(
    trained: tuple[dict[str, Tensor], float], config: GenerateConfig, asked: int = 40
) -> tuple[PreferenceTraining, Pairs]:
    writer = writer_of(trained, config)
    pairs = make_pairs(writer, some_requests(asked))
    return PreferenceTraining(writer, pairs, validation_requests(city()), 0.0), pairs


def margins(training: PreferenceTraining, pairs: Pairs) -> Tensor:
    model = training.model.eval()
    assert isinstance(model, OneRec)
    return margin(model, city().packer(model.config).requests(pairs.event_Q.numpy()), pairs.list_Q2M).detach()


def test_the_best_rises_against_the_worst(trained: tuple[dict[str, Tensor], float]) -> None:
    training, pairs = training_of(trained, options({**REACH, "likelihood_weight": 0.0}))
    before_Q, reference_Q = margins(training, pairs), pairs.reference_Q.clone()
    torch.testing.assert_close(before_Q, reference_Q, atol=1e-4, rtol=1e-4)
    loss, parts = training.loss(np.arange(len(pairs)), np.random.default_rng(0))
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-4), "of a model that is its own reference"
    assert parts["gain"] == pytest.approx(0, abs=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in training.model.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.02 * parameter.grad)
    gain_Q = margins(training, pairs) - before_Q
    assert float(gain_Q.mean()) > 0
    assert float((gain_Q > 0).float().mean()) > 0.6
    lower, parts = training.loss(np.arange(len(pairs)), np.random.default_rng(0))
    expected = -functional.logsigmoid(training.model.config.preference.beta * gain_Q).mean()
    assert float(lower.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert parts["gain"] == pytest.approx(float(gain_Q.mean()), rel=1e-3)
    assert torch.equal(pairs.reference_Q, reference_Q)


def test_the_models_own_loss_is_added(trained: tuple[dict[str, Tensor], float]) -> None:
    training, pairs = training_of(trained, options({**REACH, "likelihood_weight": 0.5}))
    training.train_mode(True)
    loss, parts = training.loss(np.arange(len(pairs)), np.random.default_rng(0))
    assert float(loss.detach()) == pytest.approx(parts["preference"] + 0.5 * parts["likelihood"], rel=1e-5)
    assert parts["likelihood"] > 0.1
    assert training.model.training, "and dropout is as it was"
    draws = {training.loss(np.arange(4), np.random.default_rng(seed))[1]["likelihood"] for seed in range(4)}
    assert len(draws) > 1, "of rows that are drawn"
    few, pairs = training_of(trained, options(REACH), asked=2)
    assert len(pairs) < len(few._rows), "of which there may be more than pairs"
    draws = {few.loss(np.arange(len(pairs)), np.random.default_rng(seed))[1]["likelihood"] for seed in range(8)}
    assert len(draws) > len(pairs)


def test_lists_come_within_reach_and_ranking_stays(trained: tuple[dict[str, Tensor], float]) -> None:
    config = options({**REACH, "share": 0.7})
    model, course = aligned(trained, config)
    (done,) = course["rounds"]
    before, after = done["before"], done["after"]
    assert done["kept"]
    assert done["pairs"] > 250
    assert after["reward"] > before["reward"] + 0.2
    assert 1 - after["reach"] < 0.85 * (1 - before["reach"])
    assert after["ndcg"] >= course["least_ndcg"] == pytest.approx(0.95 * trained[1])
    assert before["ndcg"] == trained[1]
    writer = writer_of((state_of(model), 0.0), config)
    scales = done["scales"]
    assert writer.figures(validation_requests(city()), scales)["reach"] == pytest.approx(after["reach"])
    seen, unseen = some_requests(150), writer_of(trained, config)
    assert float(writer.lists(seen, 8)["reach"].mean()) > float(unseen.lists(seen, 8)["reach"].mean()) + 0.02


def test_lists_go_to_higher_order_values(trained: tuple[dict[str, Tensor], float]) -> None:
    config = options({"interest": 0.0, "reach": 0.0, "value": 1.0, "share": 0.3})
    _, course = aligned(trained, config, data=city(amount_N=AMOUNT_N))
    (done,) = course["rounds"]
    assert done["kept"]
    assert done["after"]["value"] > done["before"]["value"] + 0.2
    assert done["after"]["reward"] == done["after"]["value"], "as it has its scale from the catalogue"


def test_what_costs_too_much_is_not_kept(trained: tuple[dict[str, Tensor], float]) -> None:
    writer = writer_of(trained, options(FEW))
    course = align(writer, validation_requests(city()), 2.0, seed=0)
    (done,) = course["rounds"]
    assert course["least_ndcg"] == pytest.approx(1.9)
    assert not done["kept"]
    scores = [validation["metrics"]["score"] for validation in done["course"]["validations"]]
    assert max(scores) < -9e5
    assert same(writer.model, trained[0])


def test_a_worse_ranking_never_beats_an_admissible_one(trained: tuple[dict[str, Tensor], float]) -> None:
    training, _ = training_of(trained, options(REACH))
    good = training.validate()
    assert good["score"] == good["reward"]
    training._least_ndcg = good["ndcg"] + 1e-6
    assert training.validate()["score"] < -9e5


def interrupting(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """The n-th call of the loss stops the run."""
    loss = PreferenceTraining.loss
    done: list[int] = []

    def stopping(self: PreferenceTraining, *arguments: Any) -> Any:
        if len(done) == calls:
            raise StoppedError
        done.append(1)
        return loss(self, *arguments)

    monkeypatch.setattr(PreferenceTraining, "loss", stopping)


def test_seeds_and_interruptions(
    trained: tuple[dict[str, Tensor], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options({**FEW, "rounds": 2, "share": 0.05})
    whole, expected = aligned(trained, config)
    assert len(expected["rounds"]) == 2
    assert expected["rounds"][0]["scales"] == expected["rounds"][1]["scales"]
    assert expected["rounds"][1]["before"] == expected["rounds"][0]["after"]
    steps = expected["rounds"][0]["course"]["steps"]
    with monkeypatch.context() as patched:
        interrupting(patched, steps + 2)  # in the second round
        with pytest.raises(StoppedError):
            aligned(trained, config, tmp_path)

    def never(*_: Any) -> None:
        raise AssertionError("lists are not written again")

    monkeypatch.setattr(preference, "make_pairs", never)
    resumed, course = aligned(trained, config, tmp_path)
    assert course == expected
    assert same(resumed, state_of(whole))
    with pytest.raises(AssertionError, match="not written again"):  # another configuration is another run
        aligned(trained, options({**FEW, "rounds": 2, "share": 0.05, "beta": 0.2}), tmp_path)


def test_interest_is_told_by_a_sasrec_that_is_trained_once(
    trained: tuple[dict[str, Tensor], float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = options({"share": 0.05, "epochs": 0.5}, least_updates=20)
    data = city(users=12)
    sasrec, _ = generating.train("sasrec", data, config, 0, tmp_path / "sasrec", "id")
    kept = []
    real = Rewards.__init__

    def watching(self: Rewards, *arguments: Any) -> None:
        kept.append(arguments[3])
        real(self, *arguments)

    monkeypatch.setattr(Rewards, "__init__", watching)
    course = generating.align(model_of(trained, config), trained[1], data, config, 0, tmp_path / "onerec", "id")
    assert set(course["rounds"][0]["scales"]) == {"interest", "reach"}
    found = dict(kept[0].named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in sasrec.named_parameters())
    assert (tmp_path / "onerec" / "round_1" / preference.PAIRS).exists()


def test_each_row_of_a_full_encoder_is_one_target(trained: tuple[dict[str, Tensor], float]) -> None:
    training, pairs = training_of(trained, options(REACH))
    rng = np.random.default_rng(0)
    assert [len(training._drawn(number, rng)) for number in (1, 4, 12)] == [1, 1, 3]
    writer = writer_of(trained, options(REACH, encoder="full"))
    other = PreferenceTraining(writer, pairs, validation_requests(city()), 0.0)
    assert [len(other._drawn(number, rng)) for number in (1, 12)] == [1, 12]


def test_processes_share_the_writing_of_lists(
    trained: tuple[dict[str, Tensor], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, event_R = writer_of(trained, options(REACH)), some_requests(20)
    alone = make_pairs(writer, event_R)
    asked: list[int] = []

    def in_two(work: Any, count: int) -> dict[str, Tensor]:
        parts: list[dict[str, Tensor]] = []
        for number in range(2):
            monkeypatch.setattr(preference, "rank", lambda number=number: number)
            monkeypatch.setattr(preference, "gather", lambda part: [*parts, part, {}][:2])
            together = real(work, count)
            parts.append({name: tensor[np.arange(number, count, 2)] for name, tensor in together.items()})
        asked.append(count)
        return together

    real = preference._together
    monkeypatch.setattr(preference, "world_size", lambda: 2)
    monkeypatch.setattr(preference, "_together", in_two)
    pairs = make_pairs(writer, event_R)
    assert asked == [20, len(alone)]
    for name, tensor in pairs.tensors().items():
        torch.testing.assert_close(tensor, alone.tensors()[name], atol=1e-4, rtol=1e-4)


def finished_run(root: Path, amounts: bool) -> RunFolder:
    """The files of a run of the city that the stage reads."""
    data, run = city(users=16), RunFolder(root)
    visits, names = data.visits, [f"i{n}" for n in range(ITEMS)]
    items = pl.DataFrame({"item_id": names, "lat_deg": data.lat_N, "lon_deg": data.lon_N})
    events = pl.DataFrame({
        "user_id": visits.user_E.astype(str), "item_id": [names[n] for n in visits.item_E],
        "timestamp": visits.time_E * 1_000_000, "amount": AMOUNT_N[visits.item_E],
    }).with_columns(pl.col("timestamp").cast(pl.Datetime("us", "UTC")))  # fmt: skip
    for stage in ("1_data", "3_sid"):
        run.path(stage).mkdir(parents=True)
    items.write_parquet(run.path("1_data", "items.parquet"))
    (events if amounts else events.drop("amount")).write_parquet(run.path("1_data", "events.parquet"))
    sids = pl.DataFrame({f"token_{level + 1}": codes_N for level, codes_N in enumerate(data.codes_NL.T)})
    sids.write_parquet(run.path("3_sid", "sids.parquet"))
    return run


def run_config(**preference: float) -> RunConfig:
    few = options({**FEW, **preference}, least_updates=8, models=("onerec",), beams=10)
    return RunConfig(generate=few)


def test_the_stage_keeps_the_course_and_figures_of_both_models(tmp_path: Path) -> None:
    config, run = run_config(value=1.0, reach=0.0, learning_rate=1e-2), finished_run(tmp_path, amounts=True)
    key = generate_items(config, run)
    metrics = read_json(run.path("4_generate", "metrics.json"))
    alignment = metrics["training"]["onerec"]["alignment"]
    assert "value" in alignment["rounds"][0]["after"]
    before, after = alignment["figures_before"], metrics["recommenders"]["onerec"]
    assert before.keys() == after.keys()
    assert key["onerec_hit@5"] == after["catalogue"]["all"]["hit@5"]
    model, data = load_generator(run.path("4_generate", "onerec")), run_data(config, run)
    assert data.amount_N is not None
    np.testing.assert_allclose(data.amount_N[np.isfinite(data.amount_N)], AMOUNT_N[np.isfinite(data.amount_N)])
    event_R = generating.requests_to_answer(data)
    found = generating.measured(generating.recommender_of(model, data, config.generate), data, config.generate, event_R)
    assert found.figures["catalogue"]["all"] == after["catalogue"]["all"]
    for figures in (before, after):
        del figures["catalogue"]["seconds_per_1000"]
    assert (before["catalogue"] != after["catalogue"]) == alignment["rounds"][0]["kept"]


def test_values_without_amounts_are_an_error_before_anything_is_trained(tmp_path: Path) -> None:
    run = finished_run(tmp_path, amounts=False)
    with pytest.raises(ConfigError, match="rewards the order value"):
        generate_items(run_config(value=1.0), run)
    assert not run.path("4_generate").exists()
