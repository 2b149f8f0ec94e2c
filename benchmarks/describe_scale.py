"""Time and memory of describing a big dataset: 1,000,000 items and 10,000,000 events by default.

Writes random tables to a temporary folder, describes them (pictures included) in a process of its own, prints time and
peak memory and writes ``results/bench/describe_scale.json``.

    python benchmarks/describe_scale.py --items 1000000 --events 10000000
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

import numpy as np
import polars as pl

from lgsid.artifact import versions, write_json

REPOSITORY = Path(__file__).resolve().parents[1]
START_US = 1_750_000_000_000_000

DESCRIBE = """
import sys
from pathlib import Path
from lgsid.data.describe import describe_path
describe_path(Path(sys.argv[1]), Path(sys.argv[1]) / "out")
"""


def write_tables(folder: Path, items: int, events: int, seed: int = 0) -> None:
    """Items in 300 cities of 30 provinces; events with impressions, without places of users."""
    rng = np.random.default_rng(seed)
    city, number = rng.integers(0, 300, items), pl.Series(np.arange(items)).cast(pl.String)
    pl.DataFrame(
        {
            "item_id": number,
            "title": "Shop " + number,
            "lat_deg": 25 + city // 30 + rng.normal(0, 0.1, items),
            "lon_deg": 105 + city % 30 / 2 + rng.normal(0, 0.1, items),
            "category": pl.Series(rng.integers(0, 300, items)).cast(pl.String),
            "province": pl.Series(city // 10).cast(pl.String),
            "city": pl.Series(city).cast(pl.String),
        }
    ).write_parquet(folder / "items.parquet")
    second = rng.integers(0, 90 * 86_400, events)
    pl.DataFrame(
        {
            "user_id": pl.Series(rng.integers(0, max(events // 30, 1), events)).cast(pl.String),
            "item_id": pl.Series(np.minimum(rng.pareto(1.2, events) * 1_000, items - 1).astype(np.int64)).cast(
                pl.String
            ),
            "timestamp": pl.Series(START_US + second * 1_000_000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "kind": rng.choice(["impression", "click", "order"], events, p=[0.9, 0.08, 0.02]),
        }
    ).write_parquet(folder / "events.parquet")


def main() -> None:
    """Generate, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_tables(Path(folder), arguments.items, arguments.events)
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", DESCRIBE, folder])
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the process ended with {process.returncode}")
    result = {
        "items": arguments.items,
        "events": arguments.events,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mib": round(usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024), 1),
        "machine": f"{os.cpu_count()} × {platform.machine()}",
        "versions": versions(),
    }
    write_json(REPOSITORY / "results" / "bench" / "describe_scale.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
