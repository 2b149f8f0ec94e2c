"""Residual codebooks of 3 × 256 beside their peers, on the same vectors: time, memory, error, use and collisions.

Each method runs in a process of its own on vectors read from one file; every cell is written to ``results/bench/``.

    python benchmarks/quantisers.py --sizes 20000
    python benchmarks/quantisers.py --sets attributes --sizes 10000 100000 1000000 --methods lgsid faiss-kmeans faiss-rq

Methods: `lgsid` (k-means start, joint balanced training), `lgsid-kmeans` (its k-means start alone), `faiss-kmeans`
(faiss.Kmeans on the residuals, level by level), `faiss-rq` (faiss.ResidualQuantizer, progressive training, beam 1),
`vq-pytorch` (vector-quantize-pytorch's ResidualVQ with k-means initialisation and dead-code expiry, 10 epochs) and
`cornac` (the residual k-means of cornac's TIGER). The last two: `pip install -c constraints.txt -e '.[peers]'`.

Codes of every method are then made unique by our reassignment of the last level: what that costs is part of the cell.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.sid.quality import collision_rates, level_use, squared_errors, variance

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
LEVELS, CODES, ITERATIONS = 3, 256, 25
Outcome = tuple[float, float, Any, list[Any]]
"""Seconds to fit, seconds to assign all vectors, codes (N, L), codebooks."""


def lgsid(x: Any, seed: int, epochs: int = 20) -> Outcome:
    import torch

    from lgsid.config import SidConfig
    from lgsid.sid.residual import Training, encode, fit_residual

    config = SidConfig()
    training = Training(epochs, config.batch, config.learning_rate, config.entropy_weight)
    vectors = torch.from_numpy(x)
    started = time.perf_counter()
    books = fit_residual(vectors, LEVELS, CODES, training, torch.Generator().manual_seed(seed))
    fitted = time.perf_counter()
    codes = encode(vectors, books)
    return fitted - started, time.perf_counter() - fitted, codes.numpy().astype(np.int32), [b.numpy() for b in books]


def lgsid_kmeans(x: Any, seed: int) -> Outcome:
    return lgsid(x, seed, epochs=0)


def faiss_kmeans(x: Any, seed: int) -> Outcome:
    import faiss

    residual, books = x.copy(), []
    started = time.perf_counter()
    for level in range(LEVELS):
        kmeans = faiss.Kmeans(x.shape[1], CODES, niter=ITERATIONS, seed=seed + level)
        kmeans.train(residual)
        residual -= kmeans.centroids[kmeans.index.search(residual, 1)[1][:, 0]]
        books.append(kmeans.centroids)
    fitted = time.perf_counter()
    codes, residual = np.empty((len(x), LEVELS), dtype=np.int32), x.copy()
    for level, book in enumerate(books):
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(book)
        codes[:, level] = index.search(residual, 1)[1][:, 0]
        residual -= book[codes[:, level]]
    return fitted - started, time.perf_counter() - fitted, codes, books


def faiss_rq(x: Any, seed: int) -> Outcome:
    import faiss

    quantiser = faiss.ResidualQuantizer(x.shape[1], LEVELS, 8)
    quantiser.max_beam_size = 1
    quantiser.train_type = faiss.ResidualQuantizer.Train_progressive_dim
    quantiser.cp.seed = seed
    started = time.perf_counter()
    # faiss trains on whatever it is given; 256 points per code is the sample its own Kmeans takes
    sample = np.random.default_rng(seed).permutation(len(x))[: 256 * CODES]
    quantiser.train(x[np.sort(sample)])
    fitted = time.perf_counter()
    codes = quantiser.compute_codes(x)[:, :LEVELS].astype(np.int32)
    assigned = time.perf_counter()
    books = faiss.vector_to_array(quantiser.codebooks).reshape(LEVELS, CODES, x.shape[1])
    return fitted - started, assigned - fitted, codes, list(books)


def vq_pytorch(x: Any, seed: int) -> Outcome:
    import torch
    from vector_quantize_pytorch import ResidualVQ

    torch.manual_seed(seed)
    vectors = torch.from_numpy(x)
    quantiser = ResidualVQ(
        dim=x.shape[1], num_quantizers=LEVELS, codebook_size=CODES,
        kmeans_init=True, kmeans_iters=10, threshold_ema_dead_code=2,
    )  # fmt: skip
    started = time.perf_counter()
    quantiser.train()
    for _ in range(10):
        order = torch.randperm(len(vectors))
        for begin in range(0, len(order), 2_048):
            quantiser(vectors[order[begin : begin + 2_048]][None])
    quantiser.eval()
    fitted = time.perf_counter()
    with torch.no_grad():
        parts = [quantiser(vectors[begin : begin + 8_192][None])[1][0] for begin in range(0, len(x), 8_192)]
    assigned = time.perf_counter()
    books = [book.reshape(CODES, -1).numpy() for book in quantiser.codebooks]
    return fitted - started, assigned - fitted, torch.cat(parts).numpy().astype(np.int32), books


def cornac(x: Any, seed: int) -> Outcome:
    import torch
    from cornac.models import TIGER

    torch.manual_seed(seed)
    model = TIGER(tokenizer="rkmeans", rqvae_num_levels=LEVELS, rqvae_codebook_size=CODES, verbose=False)
    started = time.perf_counter()
    codes = model._fit_rkmeans(torch, torch.from_numpy(x))
    # fitting and assigning are one call there
    return time.perf_counter() - started, 0.0, codes.astype(np.int32), model.rkmeans_centroids


METHODS: dict[str, Callable[[Any, int], Outcome]] = {
    "lgsid": lgsid, "lgsid-kmeans": lgsid_kmeans, "faiss-kmeans": faiss_kmeans, "faiss-rq": faiss_rq,
    "vq-pytorch": vq_pytorch, "cornac": cornac,
}  # fmt: skip


def reassigned(x: Any, codes: Any, books: list[Any]) -> tuple[float, float, bool]:
    """Error and 1 - distinct of three tokens after reassignment, and whether a fourth token was needed."""
    from lgsid.sid.unique import make_unique

    def cost(rows: Any) -> Any:
        residual = x[rows] - books[0][codes[rows, 0]] - books[1][codes[rows, 1]]
        return (residual**2).sum(1, keepdims=True) - 2 * residual @ books[2].T + (books[2] ** 2).sum(1)

    unique = make_unique(codes, CODES, cost, "reassign").codes
    error = float(squared_errors(x, unique[:, :LEVELS], summed(books))[-1] / variance(x))
    return error, collision_rates(unique[:, :LEVELS])[1], unique.shape[1] > LEVELS


def summed(books: list[Any]) -> Callable[[Any], Any]:
    """Sum of the centroids of codes, or of the first tokens of codes."""
    return lambda codes: sum(book[column] for book, column in zip(books, codes.T, strict=False))


def measure_cell(method: str, path: Path, dataset: str, seed: int) -> dict[str, Any]:
    """Run one method on the vectors of one file, in this process."""
    x = np.load(path, mmap_mode=None)
    before_mib, before_cpu = peak_memory_mib(), time.process_time()
    fit_seconds, assign_seconds, codes, books = METHODS[method](x, seed)
    cpu_seconds, peak_mib = time.process_time() - before_cpu, peak_memory_mib()
    share, distinct = collision_rates(codes)
    error = float(squared_errors(x, codes, summed(books))[-1] / variance(x))
    error_unique, distinct_unique, extra = reassigned(x, codes, books)
    use = [level_use(codes[:, level], CODES) for level in range(LEVELS)]
    return {
        "experiment": "bench", "dataset": dataset, "method": method, "model": "quantiser", "seed": seed,
        "metrics": {
            "items": len(x), "fit_seconds": fit_seconds, "assign_seconds": assign_seconds, "cpu_seconds": cpu_seconds,
            "peak_mib": peak_mib, "input_mib": x.nbytes / 2**20, "before_mib": before_mib,
            "relative_error": error, "relative_error_unique": error_unique,
            "collision_unique_after": distinct_unique, "extra_token": extra,
            "utilisation": min(level["utilisation"] for level in use),
            "entropy_bits": [round(level["entropy_bits"], 3) for level in use],
            "collision_share": share, "collision_unique": distinct,
        },
        "seconds": fit_seconds + assign_seconds, "peak_mib": peak_mib, "device": "cpu",
        "config_sha256": sha256_json([method, dataset, LEVELS, CODES, ITERATIONS]), "versions": versions(),
    }  # fmt: skip


def main() -> None:
    """Run every cell that is not there yet, each in its own process, and print the table."""
    from synthetic import SETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000])
    parser.add_argument("--sets", nargs="+", default=["attributes", "hourglass"], choices=sorted(SETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=sorted(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="run cells that exist")
    parser.add_argument("--cell", nargs=3, metavar=("METHOD", "FILE", "DATASET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.cell:
        method, file, dataset = args.cell
        print(json.dumps(measure_cell(method, Path(file), dataset, args.seed)))
        return
    cells = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.sets:
            for size in args.sizes:
                cells += _run_size(SETS[name], name, size, args, Path(folder))
    _print(cells)


def _run_size(make: Callable[..., Any], name: str, size: int, args: Any, folder: Path) -> list[dict[str, Any]]:
    dataset, cells = f"{name}_{size}", []
    vectors = folder / f"{dataset}.npy"
    for method in args.methods:
        target = RESULTS / f"quantisers-{dataset}-{method}-{args.seed}.json"
        if not target.exists() or args.again:
            if not vectors.exists():
                np.save(vectors, make(size))
            command = [sys.executable, __file__, "--seed", str(args.seed), "--cell", method, str(vectors), dataset]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            write_json(target, json.loads(result.stdout.splitlines()[-1]))
        cells.append(json.loads(target.read_text()))
    vectors.unlink(missing_ok=True)
    return cells


def _print(cells: list[dict[str, Any]]) -> None:
    print("| vectors | method | fit s | assign s | cpu s | peak MiB | error | use | bits | collide | 1 - distinct |")
    print("|---|---|--:|--:|--:|--:|--:|--:|---|--:|--:|")
    for cell in cells:
        m = cell["metrics"]
        bits = " / ".join(f"{value:.2f}" for value in m["entropy_bits"])
        print(
            f"| {cell['dataset']} | {cell['method']} | {m['fit_seconds']:.1f} | {m['assign_seconds']:.2f} "
            f"| {m['cpu_seconds']:.0f} | {m['peak_mib']:.0f} | {m['relative_error']:.4f} | {m['utilisation']:.2f} "
            f"| {bits} | {m['collision_share']:.3f} | {m['collision_unique']:.3f} |"
        )


if __name__ == "__main__":
    main()
