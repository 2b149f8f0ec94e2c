"""A toy city in which each user keeps to one cluster of items, its samples on disk, and rankers that learn in a second.

Its `main` is run by two processes in the tests of training.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from lgsid.arrays import IntArray
from lgsid.config import RankConfig, SampleConfig
from lgsid.rank.features import ItemFeatures, item_features, sid_rows
from lgsid.rank.loader import Requests, SampleFolder
from lgsid.rank.methods import make_ranker
from lgsid.rank.samples import write_samples
from lgsid.rank.training import RankTraining, train_ranker

CLUSTERS, PER_CLUSTER, WARM = 12, 20, 12
"""Clusters of items, items of each, and how many of these are visited in the training period."""
TRAINING_SHARE = 0.7
SIZES = (CLUSTERS, 8, 8)
"""Codes of each level; the first token of an item is its cluster, the others mean nothing."""
_START = datetime(2026, 1, 5, tzinfo=UTC)

COMBINATIONS: dict[str, dict[str, Any]] = {
    "id": {"features": ("id",), "sid": "none"},
    "id_ungated": {"features": ("id",), "sid": "none", "gate": False},
    "labels": {"features": ("category", "brand"), "sid": "none"},
    "sid": {"features": (), "sid": "levels"},
    "everything": {"features": ("id", "category", "brand"), "sid": "levels"},
    "prefixes": {"features": ("id", "category"), "sid": "prefixes"},
}
"""What rankers may know of an item."""


def toy_items(seed: int = 0) -> pl.DataFrame:
    """All within five kilometres; item k is of cluster k mod 12, which nothing but codes and visits tells."""
    rng = np.random.default_rng(seed)
    count = CLUSTERS * PER_CLUSTER
    return pl.DataFrame({
        "item_id": [f"i{k}" for k in range(count)],
        "lat_deg": 40.0 + rng.uniform(-0.02, 0.02, count),
        "lon_deg": -74.0 + rng.uniform(-0.02, 0.02, count),
        "category": [f"kind {k}" for k in rng.integers(0, 4, count)],
        "brand": [None if k else f"brand {k}" for k in rng.integers(0, 3, count)],
        "province": ["East"] * count,
        "city": ["Alba"] * count,
        "district": [f"district {k}" for k in rng.integers(0, 3, count)],
    })  # fmt: skip


def toy_codes(seed: int = 0) -> IntArray:
    """Codes (N, 3) of `toy_items`."""
    count = CLUSTERS * PER_CLUSTER
    tail = np.random.default_rng(seed).integers(0, 8, (count, 2))
    return np.column_stack([np.arange(count) % CLUSTERS, tail]).astype(np.int32)


def toy_events(count: int = 3_000, users: int = 36, seed: int = 0) -> pl.DataFrame:
    """A visit each seven minutes; user u visits items of cluster u mod 12, in the training period the warm ones."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, count)
    known = np.where(np.arange(count) < TRAINING_SHARE * count, WARM, PER_CLUSTER)
    item = user % CLUSTERS + CLUSTERS * (rng.random(count) * known).astype(np.int64)
    return pl.DataFrame({
        "user_id": [f"u{k}" for k in user],
        "item_id": [f"i{k}" for k in item],
        "timestamp": [_START + timedelta(minutes=7 * k) for k in range(count)],
    })  # fmt: skip


def write_toy(folder: Path, events: pl.DataFrame | None = None) -> SampleFolder:
    """The samples of the toy city."""
    items = toy_items()
    config = SampleConfig(validation_share=0.1)
    write_samples(items, toy_events() if events is None else events, config, TRAINING_SHARE, 0, folder)
    return SampleFolder(folder, items)


def rank_config(combination: str = "everything", **changes: Any) -> RankConfig:
    """Tiny sizes, quick learning."""
    tiny = {
        "dim": 8, "token_dim": 4, "history": 6, "attention_hidden": (8,), "hidden": (16,), "epochs": 1,
        "least_updates": 1, "learning_rate": 1e-2, "table_learning_rate": 2e-2, "validations": 2,
        "search": {"history": 20, "keep": 4, "heads": 2, "hash_bits": 16},
    }  # fmt: skip
    return RankConfig.model_validate({**tiny, **COMBINATIONS[combination], **changes})


def features_of(samples: SampleFolder, config: RankConfig) -> ItemFeatures:
    """The features that the configuration asks for."""
    sid = None if config.sid == "none" else sid_rows(toy_codes(), SIZES, config.sid)
    return item_features(samples.items, samples.seen(), sid, config)


def toy_ranking(name: str, samples: SampleFolder, config: RankConfig, seed: int = 0) -> RankTraining:
    """An untrained ranker and its samples."""
    ranker = make_ranker(name, features_of(samples, config), config, seed)
    batcher = samples.batcher(ranker.history_length, config.distance)
    return RankTraining(ranker, samples.file("train"), samples.file("validation"), batcher, config)


def state_of(training: RankTraining) -> dict[str, Tensor]:
    """Copies of all that a ranker is saved with."""
    return {name: tensor.detach().clone() for name, tensor in training.ranker.state_dict().items()}


def some_requests(samples: SampleFolder, name: str = "test", count: int = 12) -> Requests:
    """The first requests of a file; every second one has a short past."""
    requests = samples.file(name).read([0])[:count]
    row_B = np.arange(len(requests))
    short_B = np.maximum(requests.first, requests.stop - 1 - row_B % 5)
    return replace(requests, first=np.where(row_B % 2, short_B, requests.first))


def main(folder: Path) -> None:
    """Two processes train one ranker; each writes what it ends with."""
    from lgsid.trainer import distributed, rank

    torch.set_num_threads(1)
    with distributed():
        samples = SampleFolder(folder / "samples", toy_items())
        config = rank_config(distance=True, epochs=8, learning_rate=2e-2, table_learning_rate=5e-2)
        training = toy_ranking("din", samples, config, seed=rank())  # the main process's parameters must win
        history = train_ranker(training, training.config, seed=0, folder=folder / "checkpoint")
        save_file(state_of(training), folder / f"{rank()}.safetensors")
        print(f"score {history.best.score:.4f}")
