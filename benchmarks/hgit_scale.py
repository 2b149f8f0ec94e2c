"""The whole tokeniser on big simulated catalogues: fit, assignment, unique SIDs; time and memory by size.

    python benchmarks/hgit_scale.py --items 100000 1000000

Items are the simulated world's; embeddings are the synthetic ``attributes`` (encoding a million texts is another
benchmark). Each size runs in a process of its own; cells go to ``results/bench/``. There is no peer with a geographic
first token; `quantisers.py` measures the residual part beside faiss.
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

from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"


def measure_cell(size: int, folder: Path) -> dict[str, Any]:
    """Fit, assign and make unique, in this process."""
    import numpy as np
    import polars as pl

    from lgsid.config import SidConfig
    from lgsid.sid.hierarchical import HierarchicalTokenizer
    from lgsid.sid.quality import measure
    from lgsid.sid.stage import unique_codes

    items = pl.read_parquet(folder / "items.parquet")
    emb = np.load(folder / "emb.npy")
    before_mib, seconds, config = peak_memory_mib(), {}, SidConfig()
    started = time.perf_counter()
    tokenizer = HierarchicalTokenizer(config=config).fit(items, emb)
    seconds["fit"] = time.perf_counter() - started
    started = time.perf_counter()
    raw = tokenizer.transform(items, emb)
    seconds["transform"] = time.perf_counter() - started
    started = time.perf_counter()
    unique = unique_codes(tokenizer, raw, items, emb)
    seconds["unique"] = time.perf_counter() - started
    peak_mib = peak_memory_mib()
    figures = measure(items, emb, raw, unique.codes, tokenizer, float(unique.moved.mean()))
    figures.update(fit_seconds=seconds["fit"], transform_seconds=seconds["transform"], unique_seconds=seconds["unique"])
    figures.update(peak_mib=peak_mib, before_mib=before_mib, embeddings_mib=emb.nbytes / 2**20)
    return {
        "experiment": "bench",
        "dataset": f"world_{size}",
        "method": "hgit",
        "model": "attributes",
        "seed": 0,
        "metrics": figures,
        "seconds": sum(seconds.values()),
        "peak_mib": peak_mib,
        "device": "cpu",
        "config_sha256": sha256_json([size, config.model_dump()]),
        "versions": versions(),
    }


def prepare(size: int, folder: Path) -> None:
    """Write the catalogue and its vectors."""
    import numpy as np
    from synthetic import attributes

    from lgsid.config import WorldConfig
    from lgsid.data.world import simulate

    simulate(WorldConfig(items=size, events=0), 0, folder)
    np.save(folder / "emb.npy", attributes(size))


def main() -> None:
    """Run every size in processes of their own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--step", nargs=3, metavar=("WHAT", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        what, size, folder = args.step
        if what == "prepare":
            prepare(int(size), Path(folder))
        else:
            print(json.dumps(measure_cell(int(size), Path(folder))))
        return
    for size in args.items:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--step"]
            subprocess.run([*command, "prepare", str(size), folder], check=True)
            result = subprocess.run(
                [*command, "measure", str(size), folder], check=True, capture_output=True, text=True
            )
        cell = json.loads(result.stdout.splitlines()[-1])
        write_json(RESULTS / f"hgit-world_{size}.json", cell)
        m = cell["metrics"]
        print(
            f"{size:>9,} items: fit {m['fit_seconds']:.1f} s, transform {m['transform_seconds']:.1f} s, unique "
            f"{m['unique_seconds']:.1f} s, peak {m['peak_mib']:.0f} MiB (embeddings {m['embeddings_mib']:.0f}), raw "
            f"collisions {m['collision_share']:.3f}, extra token {m['extra_token']}"
        )


if __name__ == "__main__":
    main()
