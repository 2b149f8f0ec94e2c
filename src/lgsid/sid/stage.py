"""Stage 3: embeddings to geographic semantic IDs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.artifact import RunFolder, atomic_path, write_json
from lgsid.config import RunConfig, SidConfig
from lgsid.errors import ArtifactError
from lgsid.sid.base import Tokenizer, release_pages
from lgsid.sid.methods import make_tokenizer
from lgsid.sid.quality import measure
from lgsid.sid.table import sid_table
from lgsid.sid.unique import UniqueCodes, make_unique


def tokenize_items(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Fit the tokeniser and give every item its SID.

    Writes ``tokenizer/``, ``sids.parquet`` and ``metrics.json``; returns the key figures.
    """
    items, emb_ND = load_inputs(run)
    events = training_visits(run, config.sid)
    tokenizer = make_tokenizer(config.sid, config.seed).fit(items, emb_ND, events)
    return write_stage(run, tokenizer, items, emb_ND, events)


def write_stage(
    run: RunFolder, tokenizer: Tokenizer, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
) -> Mapping[str, Any]:
    """Give every item its SID by a fitted tokeniser, write the stage's files, and return the key figures."""
    raw_NL = tokenizer.transform(items, emb_ND, events)
    unique = unique_codes(tokenizer, raw_NL, items, emb_ND, events)
    folder = run.path("3_sid")
    tokenizer.save_pretrained(folder / "tokenizer")
    with atomic_path(folder / "sids.parquet") as path:
        sid_table(items["item_id"], unique.codes, unique.collides, unique.levels).write_parquet(path)
    metrics = measure(items, emb_ND, raw_NL, unique.codes, tokenizer, float(unique.moved.mean()))
    write_json(folder / "metrics.json", metrics)
    return key_figures(metrics)


def load_inputs(run: RunFolder) -> tuple[pl.DataFrame, FloatArray]:
    """Items and their embeddings, row for row.

    Raises:
        ArtifactError: a file is missing, or they do not fit each other.
    """
    from safetensors.numpy import load_file

    items = pl.read_parquet(run.require("1_data", "items.parquet", f"lgsid data {run.root}"))
    path = run.require("2_align", "embeddings.safetensors", f"lgsid align {run.root}")
    emb_ND: FloatArray = load_file(path)["emb_ND"]
    if len(emb_ND) != len(items):
        raise ArtifactError(f"{path} has {len(emb_ND)} rows for {len(items)} items", f"lgsid align {run.root}")
    return items, emb_ND


def training_visits(run: RunFolder, config: SidConfig) -> pl.DataFrame | None:
    """The earliest visits of a run, as many as a tokeniser may learn from; None where there are no events."""
    path = run.path("1_data", "events.parquet")
    if not path.exists():
        return None
    events = pl.read_parquet(path, columns=["user_id", "item_id", "timestamp"])
    return events.filter(pl.col("timestamp") <= events["timestamp"].quantile(config.training_share, "lower"))


def unique_codes(
    tokenizer: Tokenizer,
    raw_NL: CodeArray,
    items: pl.DataFrame,
    emb_ND: FloatArray,
    events: pl.DataFrame | None = None,
    taken_TM: CodeArray | None = None,
) -> UniqueCodes:
    """Unique codes of the items, moved as little as possible; ``taken_TM``: SIDs that are given away and stay."""

    def cost(rows: IntArray) -> FloatArray:
        x_nC = tokenizer.project(items[rows], emb_ND[rows], events)
        release_pages(emb_ND)
        return tokenizer.last_level_distances(x_nC, raw_NL[rows])

    return make_unique(raw_NL, len(tokenizer.books[-1]), cost, tokenizer.config.unique, taken_TM)


def key_figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that a person wants to see first."""
    return {
        "items": metrics["items"],
        "collision_share": metrics["collision_share"],
        "moved_share": metrics["moved_share"],
        "extra_token": metrics["extra_token"],
        "least_utilisation": min(level["utilisation"] for level in metrics["levels"]),
        "least_entropy_bits": min(level["entropy_bits"] for level in metrics["levels"]),
        "relative_error": metrics["reconstruction"]["relative_by_level"][-1],
        "province_purity": metrics["first_token"]["province_purity"],
        "radius_km_median": metrics["first_token"]["radius_km_median"],
    }
