"""Two processes under torchrun train together: what each of them ends with, for the trainer and what is built on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_rank import SampleFolder, rank_config, toy_ranking, write_toy
from toy_rank import state_of as ranker_state
from toy_rows import small, toy_training
from toy_tables import Table
from toy_training import Line

from lgsid.config import TrainerConfig
from lgsid.history import History
from lgsid.rank.optimizer import rank_optimizer
from lgsid.trainer import fit

TESTS = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Trained:
    """Folder of what two processes wrote, the samples that their ranker learned from, and what they printed."""

    folder: Path
    samples: SampleFolder
    said: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All that is trained in several processes, one after the other in one group: it takes long to start."""
    folder = tmp_path_factory.mktemp("torchrun")
    samples = write_toy(folder / "ranker" / "samples")
    command = [sys.executable, "-W", "error", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(TESTS / "toy_torchrun.py"), str(folder)],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Trained(folder, samples, done.stdout)


def test_the_trainer_s_processes_do_what_one_would(trained: Trained) -> None:
    folder = trained.folder / "trainer"
    flats = [load_file(folder / f"rank{number}.safetensors") for number in range(2)]
    results = [json.loads((folder / f"rank{number}.json").read_text()) for number in range(2)]

    assert all(torch.equal(flats[0][name], flats[1][name]) for name in flats[0])
    assert all(results[0][name] == results[1][name] for name in ("plain", "whole", "resumed"))

    alone = Line()
    history = fit(alone, TrainerConfig(epochs=5, batch=6), seed=0)
    assert torch.allclose(flats[0]["plain"], alone.flat(), atol=1e-5)
    together = History.from_json(results[0]["plain"])
    assert [r.loss for r in together.records] == pytest.approx([r.loss for r in history.records], rel=1e-4)
    assert together.examples == history.examples == 200
    assert sorted(row for result in results for batch in result["seen"] for row in batch) == sorted(5 * list(range(40)))

    assert results[0]["interrupted"]
    assert results[1]["interrupted"]
    assert results[0]["resumed"] == results[0]["whole"]
    assert torch.equal(flats[0]["resumed"], flats[0]["whole"])
    assert results[0]["resumed_steps"] == results[1]["resumed_steps"] == 35 - 20

    few = Line(examples=1)
    fit(few, TrainerConfig(epochs=5, batch=3), seed=0)
    assert torch.allclose(flats[0]["few"], few.flat(), atol=1e-5)
    assert "the loss of another process is nan" in results[0]["not_finite"]
    assert "step 4 of 35: the loss is nan" in results[1]["not_finite"]
    assert results[0]["no_score"] == "RuntimeError: no map of the city"
    assert "the main process stopped training after step 9: RuntimeError: no map" in results[1]["no_score"]


def test_tables_with_sparse_gradients_are_trained_together_as_by_one(trained: Trained) -> None:
    folder = trained.folder / "trainer"
    flats = load_file(folder / "rank0.safetensors")
    results = json.loads((folder / "rank0.json").read_text())
    alone, few = Table(dropout=0.0), Table(examples=1, dropout=0.0)
    config = TrainerConfig(epochs=5, batch=6, max_grad_norm=0.5)
    history = fit(alone, config, seed=0, optimizer=rank_optimizer)
    fit(few, config, seed=0, optimizer=rank_optimizer)
    together = History.from_json(results["table"])
    assert [r.loss for r in together.records] == pytest.approx([r.loss for r in history.records], rel=1e-4)
    assert torch.allclose(flats["table"], alone.flat(), atol=1e-5)
    assert torch.allclose(flats["table"], flats["table_dense"], atol=1e-6)
    assert torch.equal(flats["table_whole"], flats["table_resumed"])
    assert results["table_whole"] == results["table_resumed"]
    assert torch.allclose(flats["table_few"], few.flat(), atol=1e-6)
    assert results["table_steps"] == 35 - 20


def test_the_ranker_of_both_processes_is_one_and_better_than_at_the_start(trained: Trained) -> None:
    folder = trained.folder / "ranker"
    one, two = (load_file(folder / f"{number}.safetensors") for number in range(2))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    training = toy_ranking("din", trained.samples, rank_config(distance=True), seed=0)
    before = training.validate()["score"]
    assert any(not torch.equal(tensor, one[key]) for key, tensor in ranker_state(training).items())
    training.ranker.load_state_dict(one)
    after = training.validate()["score"]
    assert f"score {after:.4f}" in trained.said, "that of the main process"
    assert after > before + 0.05


def test_the_generator_of_both_processes_is_one_and_better_than_at_the_start(trained: Trained) -> None:
    folder = trained.folder / "generator"
    one, two = (load_file(folder / f"{number}.safetensors") for number in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    training = toy_training(small())
    before = training.validate()["score"]
    training.model.load_state_dict(one)
    assert training.validate()["score"] > before + 0.2
