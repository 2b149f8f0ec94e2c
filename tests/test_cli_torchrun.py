"""The command line under torchrun: two processes train one run, one of them speaks, and an error ends both."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from toy_alignment import align_config, catalogue, visits, write_encoder
from toy_command import lgsid


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a toy catalogue and a tiny encoder that is aligned."""
    folder = tmp_path_factory.mktemp("toy")
    items = catalogue()
    items.write_parquet(folder / "items.parquet")
    visits(items).write_parquet(folder / "events.parquet")
    align = align_config(write_encoder(folder / "encoder"), epochs=2, batch=16)
    data = {"items": "items.parquet", "events": "events.parquet", "fill_regions": False, "find_swapped": False}
    sid = {"codes": 8, "epochs": 1}
    config = {"data": data, "align": align.model_dump(mode="json"), "sid": sid}
    (folder / "toy.yaml").write_text(yaml.safe_dump(config))
    return folder / "toy.yaml"


def torchrun(*arguments: str | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Two processes on the CPU; a deadlock ends at the timeout."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lgsid"]
    environment = {**os.environ, "LGSID_CACHE": str(cache), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300, check=False
    )


def test_two_processes_train_one_run(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = torchrun("run", toy, "--out", run, "--json", cache=toy.with_name("cache"))
    assert result.returncode == 0, result.stderr
    for stage in ("1_data", "2_align", "3_sid", "4_rank", "5_report"):
        assert (run / stage / "manifest.json").exists()
    plan = json.loads(lgsid("report", run, "--dry-run", "--json").stdout)["plan"]
    assert set(plan.values()) == {"kept"}  # every file as its manifest says

    trained = (pl.read_parquet(run / "2_align/split.parquet")["part"] == "train").sum()
    training = json.loads((run / "2_align/training.json").read_text())
    assert training["steps"][-1]["step"] == 2 * math.ceil(trained / (2 * 16))  # each took half of every step
    figures = json.loads((run / "2_align/manifest.json").read_text())["metrics"]
    assert figures["held_out_district"] > figures["unaligned_district"]

    assert json.loads(result.stdout)["stages"]["2_align"] == figures  # only the first process speaks


def test_an_error_ends_all_processes(toy: Path, tmp_path: Path) -> None:
    change = ("--set", "align.alignment.guards.most_random_cosine=0.5")
    result = torchrun("run", toy, "--out", tmp_path / "run", *change, cache=toy.with_name("cache"))
    assert result.returncode != 0
    assert "the embeddings collapse" in result.stderr
