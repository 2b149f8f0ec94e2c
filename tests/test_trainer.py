"""The training loop on a problem with a known answer: what it learns, that it repeats, and that it survives a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toy_training import TRUTH, Interrupted, Line, StoppedError, noisy, options

from lgsid.arrays import IntArray
from lgsid.config import TrainerConfig
from lgsid.errors import TrainingError
from lgsid.history import History
from lgsid.schedule import MOST_RECORDS, Schedule
from lgsid.trainer import CHECKPOINT, barrier, distributed, fit, is_main, rank, world_size

TESTS = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TestLearning:
    def test_least_squares_reach_the_exact_solution(self) -> None:
        line = Line()
        history = fit(line, options(epochs=60, accumulate=1, patience=99), seed=0)
        assert torch.allclose(line.flat(), torch.tensor(TRUTH), atol=1e-2)
        assert history.records[-1].loss < 1e-3 < history.records[0].loss
        assert history.best is history.validations[-1]

    def test_same_seed_same_bits_and_another_seed_others(self) -> None:
        lines = [noisy() for _ in range(3)]
        histories = [fit(line, options(), seed=seed) for line, seed in zip(lines, (5, 5, 6), strict=True)]
        assert torch.equal(lines[0].flat(), lines[1].flat())
        assert histories[0].to_json() == histories[1].to_json()
        assert not torch.equal(lines[0].flat(), lines[2].flat())

    def test_dropout_differs_between_micro_batches(self) -> None:
        class Drawing(Line):
            drawn: tuple[tuple[float, float], ...] = ()

            def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
                self.drawn = (*self.drawn, (float(torch.rand(1)), float(generator.random())))
                return super().loss(examples_B, generator)

        line = Drawing()
        fit(line, options(), seed=0)
        assert len(set(line.drawn)) == len({a for a, _ in line.drawn}) == len({b for _, b in line.drawn}) == 30

    def test_torchs_own_generator_is_left_alone(self) -> None:
        line = noisy()
        before = torch.get_rng_state()
        fit(line, options(), seed=0)
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("examples", [40, 41, 7])
    def test_accumulation_equals_a_larger_batch(self, examples: int) -> None:
        small, large = Line(examples), Line(examples)
        pieces = fit(small, options(batch=4, accumulate=3), seed=0)
        whole = fit(large, options(batch=12, accumulate=1), seed=0)
        assert len(small.seen) > len(large.seen)
        assert torch.allclose(small.flat(), large.flat(), atol=1e-5)
        assert [r.loss for r in pieces.records] == pytest.approx([r.loss for r in whole.records], rel=1e-4)

    def test_gradients_are_clipped(self) -> None:
        class Watched(Line):
            norms: tuple[float, ...] = ()

            def validate(self) -> dict[str, float]:
                gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
                self.norms = (*self.norms, *(float(g.norm()) for g in gradients))
                return super().validate()

        free, clipped = Watched(), Watched()
        fit(free, options(max_grad_norm=math.inf), seed=0)
        fit(clipped, options(max_grad_norm=0.01), seed=0)
        assert max(clipped.norms) <= 0.01 < max(free.norms)

    def test_a_parameter_without_part_in_the_loss_stays(self) -> None:
        class Spare(Line):
            spare = torch.nn.Parameter(torch.ones(2))

            def parameters(self) -> list[dict[str, Any]]:
                return [*super().parameters(), {"params": [self.spare], "lr": 1.0, "weight_decay": 0.0}]

            def named(self) -> dict[str, torch.nn.Parameter]:
                return {**super().named(), "spare": self.spare}

        line = Spare()
        fit(line, options(), seed=0)
        assert line.spare.tolist() == [1.0, 1.0]

    def test_another_optimizer_can_be_put_in(self) -> None:
        line = Line()
        fit(line, options(epochs=60), seed=0, optimizer=lambda groups, config: torch.optim.SGD(groups, momentum=0.5))
        assert torch.allclose(line.flat(), torch.tensor(TRUTH), atol=0.05)


class TestSchedule:
    @given(
        examples=st.integers(1, 300),
        batch=st.integers(1, 40),
        accumulate=st.integers(1, 4),
        processes=st.integers(1, 5),
    )
    def test_every_example_counts_once_an_epoch(
        self, examples: int, batch: int, accumulate: int, processes: int
    ) -> None:
        config = options(epochs=2, batch=batch, accumulate=accumulate)
        schedule = Schedule(examples, config, seed=3, processes=processes)
        for epoch in range(2):
            steps = range(epoch * schedule.steps_per_epoch, (epoch + 1) * schedule.steps_per_epoch)
            parts = [[schedule.batches(step, process) for process in range(processes)] for step in steps]
            assert sorted(np.concatenate([b for step in parts for mine in step for b in mine])) == list(range(examples))
            for step, split in zip(steps, parts, strict=True):
                shares = [sum(map(len, mine)) for mine in split]
                assert sum(shares) == schedule.size(step)
                assert max(shares) - min(shares) <= 1
                assert all(1 <= len(b) <= batch for mine in split for b in mine)
                assert max(map(len, split)) <= accumulate
        assert schedule.steps == 2 * schedule.steps_per_epoch

    def test_training_sees_every_example_once_an_epoch(self) -> None:
        line = Line(examples=41)
        fit(line, options(), seed=0)
        seen = [row for batch in line.seen for row in batch]
        assert [sorted(seen[epoch * 41 : (epoch + 1) * 41]) for epoch in range(3)] == 3 * [list(range(41))]

    def test_epochs_have_different_orders(self) -> None:
        schedule = Schedule(50, options(batch=50, accumulate=1), seed=0)
        first, second = (schedule.batches(step, 0)[0].tolist() for step in range(2))
        assert first != second
        assert schedule.batches(0, 0)[0].tolist() == first

    def test_steps_do_not_depend_on_how_a_batch_is_cut(self) -> None:
        alone = Schedule(101, options(batch=12, accumulate=1), seed=0)
        shared = Schedule(101, options(batch=3, accumulate=2), seed=0, processes=2)
        assert alone.steps == shared.steps
        for step in range(alone.steps):
            pieces = [b for process in range(2) for b in shared.batches(step, process)]
            assert np.concatenate(pieces).tolist() == np.concatenate(alone.batches(step, 0)).tolist()

    @pytest.mark.parametrize(("epochs", "steps"), [(0.5, 5), (1.0, 10), (2.25, 22), (0.001, 1)])
    def test_epochs_may_be_fractional(self, epochs: float, steps: int) -> None:
        line = Line(examples=40)
        history = fit(line, options(epochs=epochs, batch=4, accumulate=1, validations=1), seed=0)
        assert history.steps == len(line.seen) == history.records[-1].step == steps
        assert history.records[-1].epoch == history.validations[-1].epoch == steps / 10
        assert history.examples == 4 * steps

    def test_learning_rate_rises_then_falls_to_zero(self) -> None:
        schedule = Schedule(100, options(epochs=1, batch=1, accumulate=1, warmup_share=0.1), seed=0)
        rates = [schedule.learning_rate(step) for step in range(101)]
        assert rates[0] == pytest.approx(0.1)
        assert max(rates) == rates[9] == rates[10] == 1.0
        assert rates[55] == pytest.approx(0.5)
        assert rates[99] == pytest.approx(1 / 90)
        assert rates[100] == 0.0

    def test_each_group_keeps_its_own_rate(self) -> None:
        moved = {}
        for lr in (0.0, 0.1):
            line = Line(lr=lr)
            history = fit(line, options(), seed=0)
            moved[lr] = float(line.flat().abs().sum())
        assert moved[0.0] == 0.0 < moved[0.1]
        assert max(record.learning_rate for record in history.records) == pytest.approx(0.1)

    def test_validations_are_evenly_spaced_with_one_before_and_one_at_the_end(self) -> None:
        schedule = Schedule(100, options(epochs=1, batch=1, accumulate=1, validations=4), seed=0)
        assert sorted(schedule.validations) == [0, 25, 50, 75, 100]
        assert sorted(Schedule(3, options(epochs=1, batch=1, accumulate=1, validations=9), 0).validations) == [
            0,
            1,
            2,
            3,
        ]

    def test_a_long_run_records_a_bounded_number_of_times(self) -> None:
        schedule = Schedule(10**6, options(epochs=1, batch=1, accumulate=1), seed=0)
        assert MOST_RECORDS <= len(schedule.records) <= MOST_RECORDS + 4
        assert schedule.validations - {0} <= schedule.records

    def test_no_examples_is_an_error(self) -> None:
        with pytest.raises(TrainingError, match="got 0 training examples"):
            fit(Line(examples=0), options(), seed=0)


class TestHistory:
    def test_records_are_means_over_examples(self) -> None:
        class Counting(Line):
            def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
                error, _ = super().loss(examples_B, generator)
                first = {"first": 1.0} if len(self.seen) == 1 else {}
                return error * 0 + float(examples_B.mean()), {"row": float(examples_B.mean()), **first}

        record = fit(Counting(7), options(epochs=1, batch=4), seed=0).records[0]
        assert (record.loss, record.parts["row"]) == pytest.approx((3.0, 3.0))
        assert record.parts["first"] == 1.0

    def test_json_round_trip_without_wall_time(self) -> None:
        history = fit(noisy(), options(), seed=0)
        content = json.loads(json.dumps(history.to_json()))
        assert "seconds" not in content
        back = History.from_json(content, history.seconds)
        assert back == history
        assert back.examples_per_second == history.examples / history.seconds > 0

    def test_validations_hold_all_figures(self) -> None:
        history = fit(Line(), options(), seed=0)
        assert [validation.step for validation in history.validations] == [0, 4, 8, 11, 15]
        assert history.validations[0].metrics == {"score": -13.25, "bias": 0.0}


class TestStopping:
    def test_patience_stops_and_the_best_parameters_come_back(self) -> None:
        kept: dict[int, Tensor] = {}
        line = Line()
        line.scores = [0.0, 3.0, 5.0, 4.0, 5.0, 4.9, 9.0]
        history = fit(
            line, options(epochs=8, validations=8, patience=3), seed=0,
            watch=[lambda history: kept.update({history.validations[-1].step: line.flat()})],
        )  # fmt: skip
        assert history.stopped_early
        assert [validation.score for validation in history.validations] == [0.0, 3.0, 5.0, 4.0, 5.0, 4.9]
        assert history.best.step == 10  # the earliest of equals
        assert torch.equal(line.flat(), kept[10])
        assert not torch.equal(line.flat(), kept[25])
        assert history.records[-1].step == 25
        assert not line.model.training

    def test_training_that_never_helps_returns_the_start(self) -> None:
        line = Line(start=0.25)
        line.scores = [1.0, 0.5, 0.4, 0.3]
        assert fit(line, options(patience=2), seed=0).best.step == 0
        assert line.flat().tolist() == [0.25] * 3

    def test_a_guard_stops_the_run_also_when_it_continues(self, tmp_path: Path) -> None:
        def guard(history: History) -> None:
            if history.validations[-1].step >= 8:
                raise TrainingError("the embeddings collapsed", "raise similarity_weight")

        for _ in range(2):
            with pytest.raises(TrainingError, match="collapsed"):
                fit(Line(), options(), seed=0, folder=tmp_path, watch=[guard])

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite_names_step_and_parts(self, value: float) -> None:
        class Broken(Line):
            def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
                error, parts = super().loss(examples_B, generator)
                return error * (value if len(self.seen) == 4 else 1.0), {**parts, "similarity": 0.5}

        with pytest.raises(TrainingError, match=rf"step 2 of 15: the loss is {value}, .*similarity 0.5") as caught:
            fit(Broken(), options(), seed=0)
        assert caught.value.fix is not None

    def test_a_gradient_that_is_not_finite_is_an_error(self) -> None:
        class Kink(Line):
            def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
                return (self.model[1].weight * 0).sum().sqrt(), {}

        with pytest.raises(TrainingError, match="step 1 of 15: the gradient's length is nan"):
            fit(Kink(), options(), seed=0)

    def test_a_score_that_is_not_finite_is_an_error(self) -> None:
        line = Line()
        line.scores = [0.0, math.nan]
        with pytest.raises(TrainingError, match="validation score after step 4 is nan"):
            fit(line, options(), seed=0)


class TestContract:
    def test_validate_must_give_a_score(self) -> None:
        class Scoreless(Line):
            def validate(self) -> dict[str, float]:
                return {"auc": 0.5}

        with pytest.raises(ValueError, match=r"gave \['auc'\], expected 'score'"):
            fit(Scoreless(), options(), seed=0)

    def test_every_parameter_needs_a_name(self) -> None:
        class Nameless(Line):
            def named(self) -> dict[str, torch.nn.Parameter]:
                return {"weight": self.model[1].weight}

        with pytest.raises(ValueError, match="1 of the parameters"):
            fit(Nameless(), options(), seed=0)

    def test_every_group_needs_a_rate(self) -> None:
        class Rateless(Line):
            def parameters(self) -> list[dict[str, Any]]:
                return [{"params": self.model.parameters()}]

        with pytest.raises(ValueError, match="without 'lr'"):
            fit(Rateless(), options(), seed=0)

    def test_a_name_belongs_to_one_tensor(self) -> None:
        class Twice(Line):
            def named(self) -> dict[str, torch.nn.Parameter]:
                return {**super().named(), "again": self.model[1].weight}

        with pytest.raises(ValueError, match="two names"):
            fit(Twice(), options(), seed=0)


class TestResume:
    def test_wherever_it_is_interrupted_it_ends_with_the_same_bits(self, tmp_path: Path) -> None:
        whole = noisy()
        history = fit(whole, options(), seed=0)
        for calls in range(30):  # 15 steps of two micro-batches: also between the two
            folder = tmp_path / str(calls)
            with pytest.raises(StoppedError):
                fit(Interrupted(calls, dropout=0.2, noise=0.5), options(), seed=0, folder=folder)
            resumed = Line(dropout=0.2, noise=0.5, start=99.0)
            assert fit(resumed, options(), seed=0, folder=folder).to_json() == history.to_json()
            assert torch.equal(resumed.flat(), whole.flat())
            assert len(resumed.seen) == 30 - calls // 2 * 2  # nothing done before the checkpoint is done again

    @pytest.mark.parametrize("validation", range(5))
    def test_interrupted_while_validating(self, tmp_path: Path, validation: int) -> None:
        class Fragile(Line):
            left = validation

            def validate(self) -> dict[str, float]:
                torch.rand(3)
                if self.left == 0:
                    raise StoppedError
                self.left -= 1
                return super().validate()

        whole = noisy()
        history = fit(whole, options(), seed=0)
        with pytest.raises(StoppedError):
            fit(Fragile(dropout=0.2, noise=0.5), options(), seed=0, folder=tmp_path)
        resumed = noisy()
        assert fit(resumed, options(), seed=0, folder=tmp_path).to_json() == history.to_json()
        assert torch.equal(resumed.flat(), whole.flat())

    def test_patience_and_best_survive(self, tmp_path: Path) -> None:
        scores = [0.0, 3.0, 5.0, 4.0, 4.9]
        whole, cut, resumed = Line(), Interrupted(33), Line()
        whole.scores, cut.scores, resumed.scores = scores[:], scores[:], scores[4:]
        config = options(epochs=8, validations=8, patience=2)
        expected = fit(whole, config, seed=0)
        with pytest.raises(StoppedError):
            fit(cut, config, seed=0, folder=tmp_path)
        assert fit(resumed, config, seed=0, folder=tmp_path).to_json() == expected.to_json()
        assert torch.equal(resumed.flat(), whole.flat())
        assert expected.stopped_early

    def test_a_finished_run_is_not_run_again(self, tmp_path: Path) -> None:
        first, again = noisy(), noisy()
        history = fit(first, options(), seed=0, folder=tmp_path)
        assert fit(again, options(), seed=0, folder=tmp_path) == history
        assert torch.equal(first.flat(), again.flat())
        assert again.seen == []

    def test_the_interval_of_checkpoints_is_no_reason_to_start_anew(self, tmp_path: Path) -> None:
        with pytest.raises(StoppedError):
            fit(Interrupted(20), options(checkpoint_seconds=3600), seed=0, folder=tmp_path)
        line = Line()
        fit(line, options(checkpoint_seconds=0), seed=0, folder=tmp_path)
        assert len(line.seen) == 30 - 16  # between validations (steps 4, 8, 11, 15) there was no time for one

    @pytest.mark.parametrize("change", ["seed", "epochs", "lr", "examples", "identity"])
    def test_a_checkpoint_of_another_run_is_not_used(
        self, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        fit(Line(), options(), seed=0, folder=tmp_path)
        line = Line(examples=41 if change == "examples" else 40, lr=0.2 if change == "lr" else 0.1)
        fit(
            line, options(epochs=4 if change == "epochs" else 3), seed=int(change == "seed"), folder=tmp_path,
            identity="other data" if change == "identity" else "",
        )  # fmt: skip
        assert line.seen
        assert "of another configuration, seed or model" in caplog.text

    def test_a_torn_checkpoint_is_not_used(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        fit(Line(), options(), seed=0, folder=tmp_path)
        path = tmp_path / CHECKPOINT
        path.write_bytes(path.read_bytes()[:-40])
        line = Line()
        fit(line, options(), seed=0, folder=tmp_path)
        assert len(line.seen) == 30
        assert "cannot be read" in caplog.text

    def test_the_optimizers_memory_survives_for_others_than_adamw(self, tmp_path: Path) -> None:
        def momentum(groups: list[dict[str, Any]], config: TrainerConfig) -> torch.optim.Optimizer:
            return torch.optim.SGD(groups, momentum=0.9)

        whole, resumed = Line(), Line()
        fit(whole, options(), seed=0, optimizer=momentum)
        with pytest.raises(StoppedError):
            fit(Interrupted(21), options(), seed=0, folder=tmp_path, optimizer=momentum)
        fit(resumed, options(), seed=0, folder=tmp_path, optimizer=momentum)
        assert torch.equal(resumed.flat(), whole.flat())

    def test_buffers_are_kept_too(self, tmp_path: Path) -> None:
        class Counter(Interrupted):
            count = torch.zeros(1, dtype=torch.int64)

            def named(self) -> dict[str, Any]:
                return {**super().named(), "count": self.count}

            def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
                result = super().loss(examples_B, generator)
                self.count += 1
                return result

        with pytest.raises(StoppedError):
            fit(Counter(20), options(), seed=0, folder=tmp_path)
        counter = Counter(99)
        counter.count = torch.zeros(1, dtype=torch.int64)
        fit(counter, options(), seed=0, folder=tmp_path)
        assert counter.count.item() == 30

    def test_kill_minus_nine(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from pathlib import Path; from toy_training import *; torch.set_num_threads(1)\n"
            "fit(noisy(), options(), seed=0, folder=Path(sys.argv[1]),"
            " watch=[lambda history: time.sleep(60 if len(history.validations) == 3 else 0)])"
        )
        command = [sys.executable, "-c", script, str(tmp_path)]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(TESTS)})
        while _checkpoint_step(tmp_path) < 7 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        whole, resumed = noisy(), noisy()
        history = fit(whole, options(), seed=0)
        assert fit(resumed, options(), seed=0, folder=tmp_path).to_json() == history.to_json()
        assert torch.equal(resumed.flat(), whole.flat())
        assert len(resumed.seen) == 16


def _checkpoint_step(folder: Path) -> int:
    from safetensors import safe_open

    if not (folder / CHECKPOINT).exists():
        return -1
    with safe_open(folder / CHECKPOINT, framework="pt") as file:
        return int(json.loads(file.metadata()["state"])["step"])


class TestDistributed:
    def test_one_process_needs_no_group(self) -> None:
        with distributed():
            assert (rank(), world_size(), is_main()) == (0, 1, True)
            barrier()
