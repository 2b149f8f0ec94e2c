"""A run of a million simulated shops that `lgsid serve` opens, and requests of the people who live there.

The world, the SIDs and the ranker (DIN with distances) come from the stages of a run. The embeddings do not: encoding a
million prompts would take hours and change nothing here, so they are random vectors of category and brand with noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from lgsid.arrays import FloatArray
from lgsid.artifact import RunFolder, run_stage, write_text
from lgsid.config import RunConfig, load_run_config
from lgsid.pipeline import ALIGN, DATA, RANK, SID, config_yaml

ITEMS, USERS, EVENTS, CITIES, DIM = 1_000_000, 50_000, 3_000_000, 100, 128
RADIUS_KM, CANDIDATES, K, HISTORY = 5.0, 200, 20, 30


@dataclass(frozen=True)
class Request:
    """Somebody asks from where an item of their history is."""

    user_id: str
    lat_deg: float
    lon_deg: float
    history: tuple[str, ...]


def made_run(folder: Path, items: int) -> RunFolder:
    """The run in a folder; stages that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    share = items / ITEMS
    world = {
        "items": items, "users": max(200, round(USERS * share)), "events": max(10_000, round(EVENTS * share)),
        "cities": CITIES,
    }  # fmt: skip
    content: dict[str, Any] = {
        "name": "load",
        "data": {"world": world, "fill_regions": False},
        "align": {"alignment": {"objective": "none"}},
        "rank": {
            "models": ["din"],
            "distance": True,
            "epochs": 1,
            "least_updates": 1,
            "validations": 2,
            "most_requests": 100_000,
        },  # how good it is does not matter here
    }
    (folder / "load.yaml").write_text(yaml.safe_dump(content))
    config, run = load_run_config(folder / "load.yaml", ()), RunFolder(folder / "run")
    write_text(run.root / "config.yaml", config_yaml(config))
    for stage in (DATA, dataclasses.replace(ALIGN, function=_simulated_embeddings), SID, RANK):
        _, ran = run_stage(stage, config, run)
        print(stage.folder, "made" if ran else "kept", flush=True)
    return run


def _simulated_embeddings(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """In place of stage 2."""
    from lgsid.align.stage import EMBEDDINGS, write_embeddings

    items = pl.read_parquet(run.path("1_data", "items.parquet"), columns=["category", "brand"])
    rng = np.random.default_rng(config.seed)
    emb_ND: FloatArray = 0.4 * rng.standard_normal((len(items), DIM), dtype=np.float32)
    for name, weight in (("category", 1.0), ("brand", 0.7)):
        label_N = items[name].rank("dense").fill_null(0).to_numpy().astype(np.int64)
        table = weight * rng.standard_normal((int(label_N.max()) + 1, DIM), dtype=np.float32)
        emb_ND += table[label_N]
    emb_ND /= np.linalg.norm(emb_ND, axis=1, keepdims=True)
    write_embeddings(run.path("2_align", EMBEDDINGS), emb_ND, {"encoder": "simulated", "prompt": "none"})
    return {"items": len(items), "dim": DIM}


def requests_of(run: RunFolder, count: int, seed: int = 0) -> list[Request]:
    """Requests of random people of the world, each from the place of one of their latest visits."""
    events = pl.scan_parquet(run.path("1_data", "events.parquet")).filter(pl.col("kind") == "click")
    latest = events.sort("timestamp").group_by("user_id", maintain_order=True).agg(pl.col("item_id").tail(HISTORY))
    people = latest.sort("user_id").collect().sample(count, with_replacement=True, seed=seed)
    items = pl.read_parquet(run.path("1_data", "items.parquet"), columns=["item_id", "lat_deg", "lon_deg"])
    last = people.select(pl.col("item_id").list.last()).join(
        items, on="item_id", how="left", maintain_order="left"
    )  # fmt: skip
    rows = zip(people["user_id"], last["lat_deg"], last["lon_deg"], people["item_id"], strict=True)
    return [Request(user, lat, lon, tuple(history)) for user, lat, lon, history in rows]


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile, and the longest."""
    values = np.asarray(milliseconds)
    return {
        **{f"p{at}": round(float(np.percentile(values, at)), 2) for at in (50, 95, 99)},
        "most": round(float(values.max()), 2),
    }
