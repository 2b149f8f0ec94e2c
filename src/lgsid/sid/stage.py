"""Stage 3: embeddings to geographic semantic IDs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.artifact import RunFolder, atomic_path, write_json
from lgsid.config import RunConfig, SidConfig
from lgsid.errors import ArtifactError
from lgsid.sid.base import Tokenizer
from lgsid.sid.hierarchical import HierarchicalTokenizer
from lgsid.sid.quality import measure
from lgsid.sid.unique import UniqueCodes, make_unique


def tokenize_items(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Fit the tokeniser and give every item its SID.

    Writes ``tokenizer/``, ``sids.parquet`` and ``metrics.json``; returns the key figures.
    """
    items, emb_ND = load_inputs(run)
    tokenizer = HierarchicalTokenizer(seed=config.seed, config=config.sid).fit(items, emb_ND)
    raw_NL = tokenizer.transform(items, emb_ND)
    unique = unique_codes(tokenizer, raw_NL, emb_ND, config.sid)
    folder = run.path("3_sid")
    tokenizer.save_pretrained(folder / "tokenizer")
    with atomic_path(folder / "sids.parquet") as path:
        sid_table(items["item_id"], unique).write_parquet(path)
    metrics = measure(items, emb_ND, raw_NL, unique.codes, tokenizer.books, float(unique.moved.mean()))
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


def unique_codes(tokenizer: Tokenizer, raw_NL: CodeArray, emb_ND: FloatArray, config: SidConfig) -> UniqueCodes:
    """Unique codes of the items, moved as little as possible."""
    book = tokenizer.books[-1]
    norms = (book * book).sum(axis=1)

    def cost(rows: IntArray) -> FloatArray:
        last = tokenizer.decode(raw_NL[rows]) - book[raw_NL[rows, -1]]
        residual = emb_ND[rows] - last
        distance: FloatArray = (residual * residual).sum(axis=1, keepdims=True) - 2 * residual @ book.T + norms
        return distance

    return make_unique(raw_NL, len(book), cost, config.unique)


def sid_table(item_ids: pl.Series, unique: UniqueCodes) -> pl.DataFrame:
    """The table of ``sids.parquet``: item_id, token_1 …, sid, collides (before disambiguation)."""
    names = [f"token_{level}" for level in range(1, unique.codes.shape[1] + 1)]
    tokens = pl.DataFrame(np.ascontiguousarray(unique.codes), schema=dict.fromkeys(names, pl.Int32))
    text = pl.concat_str([pl.col(name).cast(pl.String) for name in names], separator="-")
    return tokens.select(item_ids.alias("item_id"), *names, text.alias("sid"), pl.Series("collides", unique.collides))


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
