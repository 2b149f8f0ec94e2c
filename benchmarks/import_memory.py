"""Memory and speed of importing a big check-in log, beside reading the whole file with pandas.

Writes a synthetic Foursquare TSMC2014 log of the given size to a temporary folder, imports it in one process, reads it
with ``pandas.read_csv`` (then writes the same Parquet tables) in another, prints peak memory, speed and their ratios,
and writes ``results/bench/import_memory.json``. The log is deleted at the end.

    python benchmarks/import_memory.py --size-gib 1
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

import numpy as np

from lgsid.artifact import versions, write_json

REPOSITORY = Path(__file__).resolve().parents[1]
ROWS_PER_BLOCK = 200_000
VENUES, USERS, CATEGORIES = 500_000, 50_000, 250

LGSID = """
import sys
from pathlib import Path
from lgsid.data.importers import import_data
import_data("foursquare", [Path(sys.argv[1])], Path(sys.argv[2]))
"""

PANDAS = """
import sys
import pandas as pd
names = ["user_id", "item_id", "category_id", "category", "lat_deg", "lon_deg", "utc_offset_minutes", "timestamp"]
log = pd.read_csv(sys.argv[1], sep="\\t", header=None, names=names, encoding="latin-1")
log["timestamp"] = pd.to_datetime(log["timestamp"], format="%a %b %d %H:%M:%S %z %Y")
items = log.drop_duplicates("item_id")[["item_id", "lat_deg", "lon_deg", "category", "category_id"]]
items.to_parquet(sys.argv[2] + "/items.parquet")
log[["user_id", "item_id", "timestamp", "utc_offset_minutes"]].to_parquet(sys.argv[2] + "/events.parquet")
"""


def write_log(path: Path, size_bytes: int, seed: int = 0) -> int:
    """Write a synthetic log of about the given size; returns the number of lines."""
    rng = np.random.default_rng(seed)
    venue_place = [
        f"4b{i:022x}\t4bf58dd8d48988d1{i % CATEGORIES:08x}\tCategory No. {i % CATEGORIES}\t{lat!r}\t{lon!r}\t-240\t"
        for i, (lat, lon) in enumerate(
            zip(rng.normal(40.7, 0.1, VENUES).tolist(), rng.normal(-74, 0.1, VENUES).tolist(), strict=True)
        )
    ]
    rows, second = 0, 1_333_476_000
    with path.open("w", encoding="latin-1") as file:
        while file.tell() < size_bytes:
            users, venues = rng.integers(1, USERS, ROWS_PER_BLOCK), _popular(rng)
            when = time.strftime("%a %b %d %H:%M:%S +0000 %Y", time.gmtime(second))
            second += 600
            file.writelines(
                f"{user}\t{venue_place[venue]}{when}\n"
                for user, venue in zip(users.tolist(), venues.tolist(), strict=True)
            )
            rows += ROWS_PER_BLOCK
    return rows


def _popular(rng: np.random.Generator) -> np.ndarray:
    """Venues with the heavy-tailed popularity of real logs; all of them turn up in the long run."""
    return np.minimum(rng.pareto(0.8, ROWS_PER_BLOCK) * 2_000, VENUES - 1).astype(np.int64)


def measure(script: str, log: Path, out: Path) -> dict[str, Any]:
    """Wall time and peak resident memory of a script in a process of its own."""
    out.mkdir()
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", script, str(log), str(out)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the process ended with {process.returncode}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": round(usage.ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024), 1),
    }


def main() -> None:
    """Generate, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-gib", type=float, default=1.0, help="size of the log in GiB")
    parser.add_argument("--skip-pandas", action="store_true", help="measure lgsid alone (pandas needs a lot of memory)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "dataset_TSMC2014_synthetic.txt"
        rows = write_log(log, int(arguments.size_gib * 1024**3))
        result: dict[str, Any] = {"file_mib": round(log.stat().st_size / 1024**2, 1), "rows": rows}
        result["lgsid"] = measure(LGSID, log, Path(folder) / "lgsid")
        if not arguments.skip_pandas:
            result["pandas"] = measure(PANDAS, log, Path(folder) / "pandas")
    for name in ("lgsid", "pandas"):
        if name in result:
            result[name]["rows_per_second"] = round(rows / result[name]["seconds"])
            result[name]["peak_over_file_size"] = round(result[name]["peak_mib"] / result["file_mib"], 3)
    if "pandas" in result:
        result["memory_ratio"] = round(result["pandas"]["peak_mib"] / result["lgsid"]["peak_mib"], 2)
        result["speed_ratio"] = round(result["lgsid"]["rows_per_second"] / result["pandas"]["rows_per_second"], 2)
        print(f"pandas needs {result['memory_ratio']} × the memory; lgsid reads {result['speed_ratio']} × the rows/s")
    result |= {"machine": f"{os.cpu_count()} × {platform.machine()}", "versions": versions()}
    target = REPOSITORY / "results" / "bench" / "import_memory.json"
    write_json(target, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
