"""Assignment of N items to 3 × 256 codes beside the bare matrix products it needs, in one process, alternating.

python benchmarks/assign_speed.py --items 1000000
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.sid.kmeans import CHUNK
from lgsid.sid.residual import encode

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
LEVELS, CODES = 3, 256


def bare_products(x_ND: torch.Tensor, books: list[torch.Tensor]) -> None:
    """Nothing but x times the codebooks, chunk by chunk, into one buffer: the work that no method can avoid."""
    stacked = torch.cat(books)
    buffer = torch.empty(CHUNK, len(stacked))
    for start in range(0, len(x_ND), CHUNK):
        chunk = x_ND[start : start + CHUNK]
        torch.mm(chunk, stacked.T, out=buffer[: len(chunk)])


def main() -> None:
    """Time both in turn and print the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.items, args.dim, generator=generator)
    books = [torch.randn(CODES, args.dim, generator=generator) / (level + 1) for level in range(LEVELS)]
    input_mib = peak_memory_mib()
    seconds: dict[str, list[float]] = {"assign": [], "bare": []}
    for _ in range(args.rounds):
        for name, work in (("bare", bare_products), ("assign", encode)):
            started = time.perf_counter()
            work(x, books)
            seconds[name].append(time.perf_counter() - started)
    assign, bare = (statistics.median(seconds[name]) for name in ("assign", "bare"))
    pairs = [a / b for a, b in zip(seconds["assign"], seconds["bare"], strict=True)]
    figures = {
        "items": args.items,
        "dim": args.dim,
        "assign_seconds": assign,
        "bare_products_seconds": bare,
        "ratio": assign / bare,
        "ratio_of_pairs_median": statistics.median(pairs),
        "peak_mib": peak_memory_mib(),
        "peak_mib_of_input": input_mib,
    }
    print(f"assign {assign:.2f} s, bare {bare:.2f} s, ratio {assign / bare:.2f}, peak {peak_memory_mib():.0f} MiB")
    cell = {
        "experiment": "bench",
        "dataset": f"random_{args.items}x{args.dim}",
        "method": "lgsid",
        "model": "assign",
        "seed": 0,
        "metrics": figures,
        "seconds": assign,
        "peak_mib": peak_memory_mib(),
        "device": "cpu",
        "config_sha256": sha256_json([args.items, args.dim, LEVELS, CODES]),
        "versions": versions(),
    }
    write_json(RESULTS / "assign_speed.json", cell)


if __name__ == "__main__":
    main()
