"""Does `lgsid explain` name the right place? Every first token of a run is asked for and checked against its items.

The place that `lgsid explain RUN TOKEN --json` names is compared with what this script counts itself, item by item:

    named right        share of first tokens whose named province, city, district is the commonest of their items
    items there        share of items that lie in the place that their first token is named by: how sure the names are
    held out           the same, where the names come from four fifths of the items and are checked on the other fifth
                       (an item whose token none of the four fifths has counts as not there)

Further it checks centre and radius, and times an explanation. Writes ``results/bench/explain.json``.

    python benchmarks/explain.py runs/yelp-3states
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.artifact import RunFolder, versions, write_json
from lgsid.config import load_run_config
from lgsid.geo import haversine_km
from lgsid.sid.describe import TokenMeaning, describe_level
from lgsid.sid.explain import Explanation
from lgsid.sid.lookup import explain_in_run

REPOSITORY = Path(__file__).resolve().parents[1]
LEVELS = ("province", "city", "district")


def paths_of(items: pl.DataFrame, level: str) -> list[tuple[str, ...] | None]:
    """The region of each item as a tuple of names, None where it is unknown; counted without lgsid's own code."""
    names = LEVELS[: LEVELS.index(level) + 1]
    rows = items.select(names).rows()
    return [tuple(name or "" for name in row) if row[-1] is not None else None for row in rows]


def counted(codes: list[int], paths: list[tuple[str, ...] | None]) -> dict[int, Counter[tuple[str, ...]]]:
    """Items of each token by region."""
    found: dict[int, Counter[tuple[str, ...]]] = defaultdict(Counter)
    for code, path in zip(codes, paths, strict=True):
        if path is not None:
            found[code][path] += 1
    return found


def judge(named: dict[int, TokenMeaning], codes: list[int], items: pl.DataFrame, level: str) -> dict[str, float]:
    """Share of tokens named right, and of items that lie in the place that their token is named by."""
    paths = paths_of(items, level)
    count = counted(codes, paths)
    place = {code: tuple(path.split(" > ")) if (path := token.named(level)) else None for code, token in named.items()}
    right = [
        place[code] is not None and count[code][place[code]] == max(count[code].values())
        for code in count
        if code in place
    ]
    there = [place.get(code) == path for code, path in zip(codes, paths, strict=True) if path is not None]
    return {"tokens_named_right": float(np.mean(right)), "items_there": float(np.mean(there)), "tokens": len(right)}


def explained(run: RunFolder, codes: list[int]) -> dict[int, TokenMeaning]:
    """What `explain` says of each first token."""
    found = {}
    for code in sorted(set(codes)):
        token = explain_in_run(run, str(code)).tokens[0]
        if token is None:
            raise SystemExit(f"first token {code} is not explained")
        found[code] = token
    return found


def centres(named: dict[int, TokenMeaning], codes: list[int], items: pl.DataFrame) -> dict[str, float]:
    """Largest distance of a told centre from the mean of its items' coordinates, and of the radius, in km."""
    away, radius = [], []
    codes_N = np.array(codes)
    for code, token in named.items():
        own = items.filter(pl.Series(codes_N == code))
        lat, lon = own["lat_deg"].to_numpy(), own["lon_deg"].to_numpy()
        away.append(float(haversine_km(*token.centre, lat.mean(), lon.mean())))
        radius.append(abs(token.radius_km - float(np.sqrt((haversine_km(lat, lon, *token.centre) ** 2).mean()))))
    return {"centre_off_km_most": max(away), "radius_off_km_most": max(radius)}


def timed(run: RunFolder, item_id: str) -> dict[str, Any]:
    """Seconds of one explanation of an item, in this process and as a command."""
    started = time.perf_counter()
    told: Explanation = explain_in_run(run, item_id)
    inside = time.perf_counter() - started
    started = time.perf_counter()
    command = [sys.executable, "-m", "lgsid", "explain", str(run.root), item_id, "--json"]
    answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if answer["sid"] != told.sid:
        raise SystemExit(f"the command explains {answer['sid']}, the function {told.sid}")
    return {"function_seconds": round(inside, 2), "command_seconds": round(time.perf_counter() - started, 2)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run of yelp_3states")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    codes = pl.read_parquet(run.path("3_sid", "sids.parquet"))["token_1"].to_list()
    named = explained(run, codes)
    held = np.random.default_rng(0).random(len(items)) < 0.2
    from_rest = describe_level(items.filter(~pl.Series(held)), np.array(codes, dtype=np.int32)[~held], place=True)
    checked = [code for code, out in zip(codes, held, strict=True) if out]
    spans = [token for token in named.values() if token.region_share.get("city", 1.0) < 0.9]
    result: dict[str, Any] = {
        "run": load_run_config(run.root / "config.yaml", ()).name, "items": len(items), "first_tokens": len(named),
        "named": {level: judge(named, codes, items, level) for level in LEVELS},
        "held_out": {level: judge(from_rest, checked, items.filter(pl.Series(held)), level) for level in LEVELS},
        "tokens_across_cities": len(spans),
        **centres(named, codes, items),
        **timed(run, items["item_id"][0]),
        "versions": versions(),
    }  # fmt: skip
    write_json(REPOSITORY / "results" / "bench" / "explain.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
