"""A toy catalogue that a tiny encoder can read, and what an alignment of it needs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from tiny_models import write_bert
from toy import toy_city

from lgsid.align.base import Material
from lgsid.align.encoder import Encoder
from lgsid.align.prompts import content_text, join, location_text, prompts
from lgsid.arrays import FloatArray
from lgsid.config import AlignConfig, PromptConfig

WORDS = ("Shop", "Location", "house", "Noodles", "Pizza", "Barber", "Gym", "Food", "Beauty", "Fitness", "blue", "red")
WORDS += ("green", "old", "new", "East", "West", "Alba", "Brio", "Cora", "Dune", "east", "west", ":", ".", ",", ">")
_COLOURS = ("blue", "red", "green", "old", "new")


def catalogue(items_per_city: int = 64, seed: int = 0) -> pl.DataFrame:
    """The toy city with names that the tiny encoder knows."""
    items, _ = toy_city(items_per_city, seed=seed)
    rng = np.random.default_rng(seed)
    named = [
        " ".join((*rng.choice(_COLOURS, 3), str(category).split(" > ")[1], "house")) for category in items["category"]
    ]
    return items.with_columns(title=pl.Series(named))


def visits(items: pl.DataFrame, count: int = 400, seed: int = 0) -> pl.DataFrame:
    """Events, one a minute in a random order of the table, of users who each stay in one city."""
    rng = np.random.default_rng(seed)
    city = rng.integers(0, 4, count)
    row = city + 4 * rng.integers(0, len(items) // 4, count)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return pl.DataFrame({
        "user_id": [f"u{c}" for c in city],
        "item_id": items["item_id"].gather(row),
        "timestamp": [start + timedelta(minutes=int(minute)) for minute in rng.permutation(count)],
    })  # fmt: skip


def write_encoder(folder: Path) -> Path:
    """A tiny BERT that knows the catalogue's words; its weights are random, its vectors say both kind and place."""
    return write_bert(folder, words=WORDS)


def align_config(folder: Path | str = "", prompt: dict[str, Any] | None = None, **alignment: Any) -> AlignConfig:
    """Options for the tiny encoder: fp32, one or two seconds of training."""
    quick = {"objective": "distil", "epochs": 3, "batch": 32, "learning_rate": 5e-3, "validations": 2}
    return AlignConfig.model_validate({
        "prompt": prompt or {},
        "encoder": {"model": str(folder), "precision": "fp32", "device": "cpu"},
        "alignment": {**quick, **alignment},
    })  # fmt: skip


def reference_of(encoder: Encoder, items: pl.DataFrame) -> FloatArray:
    return encoder.encode(prompts(items, PromptConfig()).to_list())


def material(items: pl.DataFrame, reference_ND: FloatArray, events: pl.DataFrame | None = None) -> Material:
    """What an objective may learn from, for objectives that encode nothing themselves."""
    config = PromptConfig()
    return Material(
        items=items,
        events=events,
        content=content_text(items, config).to_list(),
        location=location_text(items, config).to_list(),
        join=lambda content, location: join(pl.Series(content), pl.Series(location), config).to_list(),
        reference=reference_ND,
        encode=_refuse,
    )


def _refuse(texts: Sequence[str]) -> FloatArray:
    raise AssertionError(f"asked to encode {len(texts)} texts")


def neighbours_in_district(items: pl.DataFrame, emb_ND: FloatArray) -> float:
    """T@5: share of the five nearest neighbours in the query's own district."""
    from lgsid.nearest import nearest_neighbours

    index_NK, _ = nearest_neighbours(emb_ND, np.arange(len(items)), 5)
    district_N = items["district"].to_numpy()
    return float((district_N[index_NK] == district_N[:, None]).mean())
