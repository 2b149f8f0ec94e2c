"""Encoding speed beside `SentenceTransformer.encode`: same machine, model, texts and precision, in one process.

    LGSID_DATA=... python benchmarks/encode_throughput.py [--data FOLDER] [--texts N] [--rounds R]

The two take turns, who begins alternates, and the ratio is the median over rounds of (their time / our time), so that
other work on the machine hits both alike. Above 1 we are faster. Times are wall time; the ratio of processor time is
printed beside it. Caching is off: every text is encoded by both, every time. Without the data folder the texts come
from the shops of a built-in list. Writes ``results/bench/encode_throughput.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from lgsid.align.encoder import Encoder, padded_length
from lgsid.align.models import find_model
from lgsid.align.prompts import prompts
from lgsid.arrays import FloatArray
from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.config import EncoderConfig, PromptConfig

REPOSITORY = Path(__file__).resolve().parents[1]
Encode = Callable[[Sequence[str]], FloatArray]


def catalogue(data: Path) -> tuple[str, pl.DataFrame]:
    """Real items where they are, else as many made-up ones of like length."""
    path = data / "yelp_3states" / "items.parquet"
    if path.is_file():
        return "yelp_3states", pl.read_parquet(path).drop_nulls(["title", "category", "district"])
    kinds = ("Diner | Restaurants", "Hair Salons | Beauty & Spas", "Auto Repair", "Yoga | Fitness & Instruction")
    rows = [
        {
            "title": f"{'Grand ' * (n % 5)}Shop {n}",
            "category": " | ".join([kinds[n % 4]] * (1 + n % 7 // 3)),
            "street": f"{n} N Main St" + (", Suite 100" if n % 3 else ""),
            "city": ("Reno", "Phoenix", "Madison")[n % 3],
            "province": ("NV", "AZ", "WI")[n % 3],
            "district": str(10_000 + n),
        }
        for n in range(8_000)
    ]
    return "made up", pl.DataFrame(rows)


def workloads(items: pl.DataFrame, texts: int) -> dict[str, list[str]]:
    """Distinct texts in random order: full prompts, short names, and a handful of prompts."""
    config = PromptConfig(max_description_chars=0)
    full = prompts(items, config).unique(maintain_order=True).sample(fraction=1, shuffle=True, seed=0)
    short = items["title"].unique(maintain_order=True).sample(fraction=1, shuffle=True, seed=0)
    by_length = full.head(texts).to_frame("text").sort(pl.col("text").str.len_chars())["text"]
    return {
        "full prompts, random order": full.head(texts).to_list(),
        "full prompts, sorted by length": by_length.to_list(),
        "short names": short.head(texts).to_list(),
        "64 full prompts": full.tail(64).to_list(),
    }


def timed(encode: Encode, texts: Sequence[str]) -> tuple[float, float, FloatArray]:
    """Wall seconds, processor seconds and result of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    result = encode(texts)
    return time.perf_counter() - wall, time.process_time() - processor, result


def padding(encoder: Encoder, texts: list[str], batch: int = 32) -> dict[str, float]:
    """Tokens multiplied per real token, ours and theirs: they sort by characters and pad to the longest of a batch."""
    lengths = encoder.tokenize(texts).lengths
    order = np.argsort([-len(text) for text in texts], kind="stable")
    batches = [lengths[order[start : start + batch]] for start in range(0, len(texts), batch)]
    return {
        "ours_tokens_per_token": round(float(padded_length(lengths).sum() / lengths.sum()), 3),
        "theirs_tokens_per_token": round(float(sum(len(b) * b.max() for b in batches) / lengths.sum()), 3),
    }


def compare(ours: Encode, theirs: Encode, texts: list[str], rounds: int) -> dict[str, Any]:
    """Alternate the two and summarise."""
    mine: list[tuple[float, float]] = []
    peer: list[tuple[float, float]] = []
    ours(texts[:64])
    theirs(texts[:64])
    for turn in range(rounds):
        for who in (0, 1) if turn % 2 == 0 else (1, 0):
            wall, processor, emb = timed((ours, theirs)[who], texts)
            (mine, peer)[who].append((wall, processor))
            if who == 0:
                emb_ours = emb
            else:
                emb_theirs = emb
    wall_ratio = [b[0] / a[0] for a, b in zip(mine, peer, strict=True)]
    processor_ratio = [b[1] / a[1] for a, b in zip(mine, peer, strict=True)]
    return {
        "texts": len(texts),
        "ours_per_second": round(len(texts) / statistics.median(a[0] for a in mine), 1),
        "theirs_per_second": round(len(texts) / statistics.median(b[0] for b in peer), 1),
        "ratio": round(statistics.median(wall_ratio), 3),
        "ratio_by_round": [round(value, 3) for value in wall_ratio],
        "processor_ratio": round(statistics.median(processor_ratio), 3),
        "min_cosine": round(float((emb_ours * emb_theirs).sum(axis=1).min()), 6),
    }


def main() -> None:
    """Compare every workload in fp32 and bf16."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LGSID_DATA", "data")))
    parser.add_argument("--texts", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes by itself")
    arguments = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    source, items = catalogue(arguments.data)
    texts_of = workloads(items, arguments.texts)
    started = time.perf_counter()
    metrics: dict[str, Any] = {}
    setting = {"texts": arguments.texts, "rounds": arguments.rounds, "threads": torch.get_num_threads()}
    dtypes: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in dtypes.items():
        encoder = Encoder.load(EncoderConfig.model_validate({"precision": precision, "device": "cpu"}))
        peer = SentenceTransformer(str(find_model("minilm")), device="cpu", model_kwargs={"dtype": dtype})

        def theirs(texts: Sequence[str], peer: Any = peer) -> FloatArray:
            emb = peer.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
            emb = np.asarray(emb, dtype=np.float32)  # in bf16 theirs have unit length to two digits only
            unit: FloatArray = emb / np.linalg.norm(emb, axis=1, keepdims=True)
            return unit

        for name, texts in texts_of.items():
            figures = compare(encoder.encode, theirs, texts, arguments.rounds) | padding(encoder, texts)
            metrics[f"{name}, {precision}"] = figures
            print(
                f"{name:32} {precision}  ours {figures['ours_per_second']:7}/s  sentence-transformers "
                f"{figures['theirs_per_second']:7}/s  ratio {figures['ratio']:5}  "
                f"processor {figures['processor_ratio']:5}  padding {figures['ours_tokens_per_token']} against "
                f"{figures['theirs_tokens_per_token']}  cosine {figures['min_cosine']}",
                flush=True,
            )
    cell = {
        "experiment": "bench",
        "dataset": source,
        "method": "lgsid",
        "model": "minilm",
        "seed": 0,
        "metrics": metrics,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": round(peak_memory_mib(), 1),
        "device": "cpu",
        "config_sha256": sha256_json(setting),
        "setting": setting,
        "versions": versions() | {"sentence-transformers": metadata.version("sentence-transformers")},
    }
    write_json(REPOSITORY / "results" / "bench" / "encode_throughput.json", cell)


if __name__ == "__main__":
    main()
