"""The paper's catalogue size: 2,325,266 items × 1,024 dimensions, half precision, on disk.

    python benchmarks/paper_scale.py [--items 2325266] [--sample 200000] [--folder BIG]

A tokeniser is fitted on a sample and saved; another process opens it and tokenises the whole catalogue: raw codes,
unique SIDs, ``sids.parquet``. Items are the simulated world's, vectors the synthetic ``attributes``, memory-mapped
float16. Cell: ``results/bench/paper_scale.json``; ``--steps`` makes some of its figures anew. No peer tokenises by
place; the time is to be held against the bare matrix products of the vectors with the codebooks, from the same file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lgsid.artifact import atomic_path, peak_memory_mib, sha256_json, versions, write_json

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
DIM = 1024


def prepare(folder: Path, size: int) -> None:
    """Write the catalogue and its vectors, block by block."""
    import numpy as np

    from lgsid.config import WorldConfig
    from lgsid.data.world import simulate

    simulate(WorldConfig(items=size, events=0), 0, folder)
    rng = np.random.default_rng(0)
    tables = [weight * rng.standard_normal((200, DIM)).astype(np.float32) for weight in (1.0, 0.7, 0.5)]
    share = 1 / np.arange(1, 201) ** 0.7
    emb = np.lib.format.open_memmap(folder / "emb.npy", mode="w+", dtype=np.float16, shape=(size, DIM))
    for begin in range(0, size, 65_536):
        rows = min(65_536, size - begin)
        x = 0.4 * rng.standard_normal((rows, DIM), dtype=np.float32)
        for table in tables:
            x += table[rng.choice(200, rows, p=share / share.sum())]
        emb[begin : begin + rows] = x / np.linalg.norm(x, axis=1, keepdims=True)


def fit(folder: Path, sample: int) -> dict[str, Any]:
    """Fit on a sample and save."""
    import numpy as np
    import polars as pl

    from lgsid import HierarchicalTokenizer

    items = pl.read_parquet(folder / "items.parquet")
    rows = np.sort(np.random.default_rng(0).permutation(len(items))[:sample])
    emb = np.load(folder / "emb.npy", mmap_mode="r")[rows]
    started = time.perf_counter()
    tokenizer = HierarchicalTokenizer().fit(items[rows], emb)
    seconds = time.perf_counter() - started
    tokenizer.save_pretrained(folder / "tokenizer")
    return {"fit_items": len(rows), "fit_seconds": seconds, "fit_peak_mib": peak_memory_mib()}


def tokenize(folder: Path) -> dict[str, Any]:
    """Tokenise the catalogue with the fitted tokeniser."""
    import numpy as np
    import polars as pl

    from lgsid import load_tokenizer
    from lgsid.sid.quality import collision_rates, level_use
    from lgsid.sid.stage import unique_codes
    from lgsid.sid.table import sid_table

    started = time.perf_counter()
    tokenizer = load_tokenizer(folder / "tokenizer")
    items = pl.read_parquet(folder / "items.parquet")
    emb = np.load(folder / "emb.npy", mmap_mode="r")
    opened = time.perf_counter()
    raw = tokenizer.transform(items, emb)
    coded = time.perf_counter()
    unique = unique_codes(tokenizer, raw, items, emb)
    with atomic_path(folder / "sids.parquet") as path:
        sid_table(items["item_id"], unique.codes, unique.collides, raw.shape[1]).write_parquet(path)
    ended = time.perf_counter()
    return {
        "items": len(items), "dim": DIM, "open_seconds": opened - started, "transform_seconds": coded - opened,
        "unique_seconds": ended - coded, "seconds": ended - started, "peak_mib": peak_memory_mib(),
        "collision_share": collision_rates(raw)[0], "final_collisions": collision_rates(unique.codes)[0],
        "extra_token": unique.codes.shape[1] > raw.shape[1], "moved_share": float(unique.moved.mean()),
        "entropy_bits": [level_use(raw[:, level], 256)["entropy_bits"] for level in range(raw.shape[1])],
    }  # fmt: skip


def products(folder: Path) -> dict[str, Any]:
    """The bare matrix products with 3 × 256 centroids, from the same file."""
    import numpy as np
    import torch

    emb = np.load(folder / "emb.npy", mmap_mode="r")
    books = torch.randn(DIM, 768)
    started = time.perf_counter()
    for begin in range(0, len(emb), 65_536):
        torch.from_numpy(emb[begin : begin + 65_536].astype(np.float32)) @ books
    return {"bare_products_seconds": time.perf_counter() - started}


def main() -> None:
    """Each step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_325_266)
    parser.add_argument("--sample", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="keep the catalogue here and use it again")
    parser.add_argument("--steps", nargs="+", default=["fit", "tokenize", "products"], help="with --folder: only these")
    parser.add_argument("--step", choices=("prepare", "fit", "tokenize", "products"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        steps = {"fit": lambda: fit(args.folder, args.sample), "tokenize": lambda: tokenize(args.folder)}
        steps |= {"prepare": lambda: prepare(args.folder, args.items), "products": lambda: products(args.folder)}
        print(json.dumps(steps[args.step]()))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        digest, target = sha256_json([args.items, args.sample, DIM]), RESULTS / "paper_scale.json"
        known = json.loads(target.read_text()) if target.exists() else {}
        metrics: dict[str, Any] = known["metrics"] if known.get("config_sha256") == digest else {}
        ready = (folder / "emb.npy").exists() and (folder / "items.parquet").exists()
        for step in args.steps if ready else ["prepare", *args.steps]:
            command = [sys.executable, __file__, "--step", step, "--items", str(args.items)]
            command += ["--sample", str(args.sample), "--folder", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            metrics |= json.loads(done.stdout.splitlines()[-1]) or {}
            print(step, metrics, flush=True)
    write_json(target, {
        "experiment": "bench", "dataset": f"world_{args.items}", "method": "hgit", "model": "attributes", "seed": 0,
        "metrics": metrics, "seconds": metrics["seconds"], "peak_mib": metrics["peak_mib"], "device": "cpu",
        "config_sha256": digest, "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
