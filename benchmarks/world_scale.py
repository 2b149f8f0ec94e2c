"""Time and peak memory of simulating worlds, from the embedded default to 1 million shops and 10 million events.

Each world is simulated in a process of its own (so that peaks do not mix) into a temporary folder that is deleted
afterwards; the figures are printed and written to ``results/bench/world_scale.json``. There is no peer to compare with:
the limits below are what the project promises on two cores.

    python benchmarks/world_scale.py --worlds default_en,scale_en
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from lgsid.artifact import sha256_json, versions, write_json
from lgsid.config import WorldConfig

REPOSITORY = Path(__file__).resolve().parents[1]
MILLION: dict[str, Any] = {"items": 1_000_000, "events": 10_000_000, "users": 100_000, "cities": 100, "days": 180}
WORLDS = {
    "default_en": WorldConfig(),
    "default_zh": WorldConfig(language="zh"),
    "scale_en": WorldConfig(**MILLION),
    "scale_zh": WorldConfig(**MILLION | {"language": "zh"}),
    "scale_en_one_day": WorldConfig(**MILLION | {"days": 1}),
}
LIMITS = {"default": {"seconds": 15, "peak_mib": 1024}, "scale": {"seconds": 360, "peak_mib": 4096}}

WORK = """
import json, sys, time
from pathlib import Path
started = time.perf_counter()
from lgsid.artifact import peak_memory_mib
from lgsid.config import WorldConfig
from lgsid.data.world import simulate
simulate(WorldConfig.model_validate_json(sys.argv[1]), 0, Path(sys.argv[2]))
print(json.dumps({"seconds": round(time.perf_counter() - started, 1), "cpu_seconds": round(time.process_time(), 1),
                  "peak_mib": round(peak_memory_mib(), 1)}))
"""


def measure(world: WorldConfig) -> dict[str, Any]:
    """Simulate one world and look at what came out."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", WORK, world.model_dump_json(), folder]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures: dict[str, Any] = json.loads(output)
        return figures | _contents(Path(folder))


def _contents(folder: Path) -> dict[str, Any]:
    items, events = pl.scan_parquet(folder / "items.parquet"), pl.scan_parquet(folder / "events.parquet")
    counts = items.select(
        items=pl.len(),
        distinct_titles=pl.col("title").n_unique() / pl.len(),
        distinct_titles_per_city=pl.struct("title", "province", "city").n_unique() / pl.len(),
        distinct_descriptions=pl.col("description").drop_nulls().n_unique() / pl.col("description").count(),
        brands=pl.col("brand").drop_nulls().n_unique(),
    ).collect()
    kinds = events.group_by("kind").len().collect().sort("kind")
    return {
        **{name: round(value, 4) for name, value in counts.row(0, named=True).items()},
        "events": int(kinds["len"].sum()),
        **dict(kinds.iter_rows()),
        "mib_on_disk": round(sum(path.stat().st_size for path in folder.rglob("*.parquet")) / 2**20, 1),
    }


def main() -> None:
    """Measure the worlds asked for, print a table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", default=",".join(WORLDS), help="comma-separated, of: " + ", ".join(WORLDS))
    args = parser.parse_args()
    metrics = {}
    started = time.perf_counter()
    for name in args.worlds.split(","):
        figures = measure(WORLDS[name])
        limit = LIMITS[name.partition("_")[0]]
        figures["within_limits"] = all(figures[key] <= value for key, value in limit.items())
        metrics[name] = figures
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    write_json(REPOSITORY / "results" / "bench" / "world_scale.json", {
        "experiment": "bench",
        "dataset": "simulated world",
        "method": "lgsid",
        "model": "world_scale",
        "seed": 0,
        "metrics": metrics,
        "limits": LIMITS,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_mib": max(figures["peak_mib"] for figures in metrics.values()),
        "device": f"cpu, {os.cpu_count()} × {platform.machine()}",
        "config_sha256": sha256_json({name: json.loads(WORLDS[name].model_dump_json()) for name in metrics}),
        "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
