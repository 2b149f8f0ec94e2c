"""A finished small run with a trained DIN, and what stands in for requests to it."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from tiny_models import write_bert
from toy_alignment import WORDS
from toy_rank import rank_config

from lgsid.artifact import RunFolder
from lgsid.config import load_run_config
from lgsid.pipeline import RANK, execute
from lgsid.serve.contract import Ask, Place, Reach
from lgsid.serve.engine import RunEngine

QUICK = rank_config("everything", distance=True).model_dump(mode="json", exclude={"features", "sid", "gate"})
NOW_MS = 1_800_000_000_000


@functools.cache
def served_run() -> RunFolder:
    """A world of 600 items in two cities with a DIN and one that knows no codes; not to be changed."""
    folder = Path(tempfile.mkdtemp(prefix="lgsid-serve-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return make_run(folder)


def make_run(folder: Path, **changes: Any) -> RunFolder:
    """A run as `served_run`, to be changed."""
    world = {"items": 600, "users": 50, "events": 4_000, "cities": 2, "days": 30}
    encoder = {"model": str(write_bert(folder / "encoder", words=WORDS)), "precision": "fp32", "device": "cpu"}
    config = {
        "data": {"world": world, "fill_regions": False},
        "align": {"encoder": encoder, "alignment": {"objective": "none"}},
        "sid": {"codes": 8, "epochs": 1},
        "rank": {**QUICK, "models": ["din"]},
        **changes,
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(config))
    run = RunFolder(folder / "run")
    execute(load_run_config(folder / "toy.yaml", ()), run, last=RANK)
    return run


def copy_of(run: RunFolder, folder: Path) -> RunFolder:
    """A copy of a run's folder, to be changed."""
    shutil.copytree(run.root, folder)
    return RunFolder(folder)


@functools.cache
def served_engine() -> RunEngine:
    """The engine of `served_run`; not to be given new items."""
    return RunEngine.load(served_run().root)


def items_of(run: RunFolder) -> pl.DataFrame:
    """The run's catalogue."""
    return pl.read_parquet(run.path("1_data", "items.parquet"))


def ask_at(items: pl.DataFrame, row: int = 0, radius_km: float = 5.0, **changes: Any) -> Ask:
    """A request from where an item is."""
    place = Place(items["lat_deg"][row], items["lon_deg"][row])
    return Ask(**{"place": place, "reach": Reach(radius_km=radius_km), "now_ms": NOW_MS, **changes})


def new_items(items: pl.DataFrame, count: int = 3, seed: int = 0) -> pl.DataFrame:
    """Items that are like some of the catalogue, a few metres away, under ids of their own."""
    rows = np.random.default_rng(seed).choice(len(items), count, replace=False)
    return items[rows].with_columns(
        pl.format("new-{}-{}", pl.lit(seed), pl.int_range(pl.len())).alias("item_id"),
        pl.col("lat_deg") + 1e-4,
    )
