"""What an unaligned encoder knows of geography: P/C/T@5 of `yelp_3states` by prompt and precision.

    LGSID_DATA=... python benchmarks/unaligned_geography.py [--data FOLDER] [--items N]

For each prompt and precision: the share of the five nearest neighbours (cosine, all items as candidates) in the same
province, city and district, and their mean distance in km. Writes ``results/bench/unaligned_geography.json``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.cache import EmbeddingCache
from lgsid.align.embed import embed
from lgsid.align.encoder import Encoder
from lgsid.align.prompts import prompts
from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.config import EncoderConfig, PromptConfig
from lgsid.geo import haversine_km

REPOSITORY = Path(__file__).resolve().parents[1]
VARIANTS: dict[str, tuple[PromptConfig, EncoderConfig]] = {
    "full, no description, fp32": (PromptConfig(max_description_chars=0), EncoderConfig(precision="fp32")),
    "full, no description, bf16": (PromptConfig(max_description_chars=0), EncoderConfig(precision="bf16")),
    "full with description, bf16": (PromptConfig(max_description_chars=300), EncoderConfig(precision="bf16")),
    "location, fp32": (PromptConfig(kind="location"), EncoderConfig(precision="fp32")),
    "location, bf16": (PromptConfig(kind="location"), EncoderConfig(precision="bf16")),
    "content, bf16": (PromptConfig(kind="content", max_description_chars=0), EncoderConfig(precision="bf16")),
    "content with description, bf16": (PromptConfig(kind="content"), EncoderConfig(precision="bf16")),
}


def nearest(emb_ND: FloatArray, k: int, block: int = 1_024) -> IntArray:
    """The k most similar other items of each item, shape (N, k)."""
    found = []
    for start in range(0, len(emb_ND), block):
        sim = emb_ND[start : start + block] @ emb_ND.T
        sim[np.arange(len(sim)), np.arange(start, start + len(sim))] = -np.inf
        found.append(np.argpartition(-sim, k, axis=1)[:, :k])
    return np.concatenate(found).astype(np.int64)


def geography(emb_ND: FloatArray, items: pl.DataFrame, k: int = 5) -> dict[str, float]:
    """P/C/T@k and the mean distance of the neighbours."""
    index = nearest(emb_ND, k)
    figures = {}
    for name, column in (("P", "province"), ("C", "city"), ("T", "district")):
        label = items[column].to_numpy()
        figures[f"{name}@{k}"] = round(float((label[index] == label[:, None]).mean()), 4)
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    figures["mean_km"] = round(float(haversine_km(lat[:, None], lon[:, None], lat[index], lon[index]).mean()), 1)
    return figures


def main() -> None:
    """Measure every variant and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LGSID_DATA", "data")))
    parser.add_argument("--items", type=int, default=0, help="only the first N items (0: all)")
    arguments = parser.parse_args()
    items = pl.read_parquet(arguments.data / "yelp_3states" / "items.parquet")
    items = items.drop_nulls(["title", "category", "district"])
    items = items.head(arguments.items) if arguments.items else items
    started = time.perf_counter()
    metrics: dict[str, Any] = {"items": len(items)}
    for name, (prompt, config) in VARIANTS.items():
        encoder = Encoder.load(config)
        texts = prompts(items, prompt).to_list()
        figures = geography(embed(encoder, texts, EmbeddingCache(encoder.fingerprint, encoder.dim)).emb, items)
        metrics[name] = {**figures, "example": texts[1]}
        print(f"{name:32}", "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    variants = {name: [part.model_dump(mode="json") for part in parts] for name, parts in VARIANTS.items()}
    cell = {
        "experiment": "bench",
        "dataset": "yelp_3states",
        "method": "unaligned",
        "model": "minilm",
        "seed": 0,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(peak_memory_mib(), 1),
        "device": "cpu",
        "config_sha256": sha256_json([variants, len(items)]),
        "versions": versions(),
    }
    write_json(REPOSITORY / "results" / "bench" / "unaligned_geography.json", cell)


if __name__ == "__main__":
    main()
