"""One recommendation among a million items in this process, beside brute force and beside LanceDB's filtered search.

    python benchmarks/serve_speed.py --folder BIG

All are asked the same: a person with thirty visits, where they are, 5 km, 20 items.

- *lgsid*: the engine behind ``lgsid serve``: the 200 nearest items within reach, ranked by DIN, with reasons in words.
- *brute force*: the distance of every item, DIN for all that are within reach; and DIN for every item of the catalogue.
- *LanceDB* has no rankers; it is asked for the items within reach that are nearest to the mean of the visits'
  embeddings, the filter first: once by a box of degrees around the circle, as its users write it, and the exact circle
  on what comes back; flat, and with its IVF-PQ index beside B-trees on both coordinates. It gives ids alone.

Methods take turns on the same requests. Wall time, and processor time of the whole process, since LanceDB works in
threads of its own. Cell: ``results/bench/serve_speed.json``.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from served import CANDIDATES, HISTORY, ITEMS, RADIUS_KM, K, Request, made_run, percentiles, requests_of

from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import RunFolder, peak_memory_mib, sha256_json, versions, write_json
from lgsid.geo import EARTH_RADIUS_KM, haversine_km
from lgsid.serve.asked import Asked, History
from lgsid.serve.contract import Ask, Place, Reach
from lgsid.serve.engine import RunEngine
from lgsid.serve.reach import Place as Here

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench" / "serve_speed.json"
NOW_MS, CHUNK, SLOW = 1_780_000_000_000, 4_096, {"brute force, all ranked": 3, "brute force, within reach ranked": 40}
"""``SLOW``: requests that the slow ones are asked."""
Method = Callable[[Request], list[str]]


class Ours:
    """The engine, and the two ways to do without its first stage."""

    def __init__(self, run: RunFolder) -> None:
        self.engine = RunEngine.load(run.root)
        items = self.engine.state.catalogue.items
        self.lat_N, self.lon_N = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
        self.ids_N, self.rows_of = items["item_id"], self.engine.state.catalogue.ids.rows

    def recommend(self, request: Request) -> list[str]:
        """As `lgsid serve` does."""
        place = Place(request.lat_deg, request.lon_deg)
        ask = Ask(place=place, reach=Reach(radius_km=RADIUS_KM), now_ms=NOW_MS, k=K, history=request.history,
                  candidates=CANDIDATES)  # fmt: skip
        return [item.item_id for item in self.engine.recommend(ask, ()).items]

    def reach_then_all(self, request: Request) -> list[str]:
        """Distances of all items; all that are within reach are ranked."""
        distance_N = haversine_km(request.lat_deg, request.lon_deg, self.lat_N, self.lon_N)
        rows = np.flatnonzero(distance_N <= RADIUS_KM)
        return self._best(rows, self._scores(request, rows, distance_N))

    def everything(self, request: Request) -> list[str]:
        """All items are ranked; then those within reach are kept."""
        distance_N = haversine_km(request.lat_deg, request.lon_deg, self.lat_N, self.lon_N)
        score_N = self._scores(request, np.arange(len(distance_N)), distance_N)
        rows = np.flatnonzero(distance_N <= RADIUS_KM)
        return self._best(rows, score_N[rows])

    def _scores(self, request: Request, rows: IntArray, distance_N: FloatArray) -> FloatArray:
        rows_T = self.rows_of(list(request.history))
        history = History(rows_T, np.full(len(rows_T), NOW_MS // 1_000))
        here = Here(request.lat_deg, request.lon_deg)
        index, model = self.engine.state.catalogue.shelf.reach, self.engine.state.models.rankers["din"]
        parts = [
            model.scores(Asked(here, NOW_MS // 1_000, None, part, distance_N[part], history,
                               lambda: int(index.nearest(here).rows_M[0]), K))
            for part in np.split(rows, range(CHUNK, len(rows), CHUNK))
        ]  # fmt: skip
        return np.concatenate(parts)

    def _best(self, rows: IntArray, scores: FloatArray) -> list[str]:
        return self.ids_N[rows[np.argsort(-scores, kind="stable")[:K]]].to_list()


class Lance:
    """A table of ids, places and embeddings in LanceDB.

    Args:
        indexed: with an IVF-PQ index on the embedding and B-trees on latitude and longitude.
    """

    def __init__(self, run: RunFolder, folder: Path, indexed: bool) -> None:
        import lancedb
        import pyarrow as pa

        from lgsid.sid.catalogue import map_embeddings

        items = pl.read_parquet(run.path("1_data", "items.parquet"), columns=["item_id", "lat_deg", "lon_deg"])
        self.emb_ND = map_embeddings(run.path("2_align", "embeddings.safetensors"))
        self.row_of = dict(zip(items["item_id"].to_list(), range(len(items)), strict=True))
        vector = pa.FixedSizeListArray.from_arrays(pa.array(self.emb_ND.ravel()), self.emb_ND.shape[1])
        began = time.perf_counter()
        table = items.to_arrow().append_column("vector", vector)
        self.table = lancedb.connect(folder).create_table(f"items_{indexed}", table, mode="overwrite")
        if indexed:
            self.table.create_index("cosine", num_partitions=1_024, num_sub_vectors=16, vector_column_name="vector")
            for name in ("lat_deg", "lon_deg"):
                self.table.create_scalar_index(name)
        self.seconds = time.perf_counter() - began

    def search(self, request: Request) -> list[str]:
        """The box first, then the nearest vectors, then the circle."""
        rows = [self.row_of[item] for item in request.history]
        query_D = self.emb_ND[rows].mean(0)
        up = math.degrees(RADIUS_KM / EARTH_RADIUS_KM)
        aside = up / math.cos(math.radians(request.lat_deg))
        box = (
            f"lat_deg between {request.lat_deg - up} and {request.lat_deg + up} and "
            f"lon_deg between {request.lon_deg - aside} and {request.lon_deg + aside}"
        )
        wanted = self.table.search(query_D).distance_type("cosine").where(box, prefilter=True)
        found = (
            wanted.select(["item_id", "lat_deg", "lon_deg"]).limit(2 * K).to_arrow()
        )  # the circle is 79 % of the box
        away = haversine_km(request.lat_deg, request.lon_deg, found["lat_deg"].to_numpy(), found["lon_deg"].to_numpy())
        return [item for item, km in zip(found["item_id"].to_pylist(), away, strict=True) if km <= RADIUS_KM][:K]


def measure(methods: dict[str, Method], requests: list[Request]) -> dict[str, Any]:
    """Milliseconds of each method; the first request warms up and is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    given: dict[str, list[list[str]]] = {name: [] for name in methods}
    for number, request in enumerate(requests):
        for name, ask in methods.items():
            if number > SLOW.get(name, len(requests)):
                continue
            began = time.perf_counter(), time.process_time()
            given[name].append(ask(request))
            ended = time.perf_counter(), time.process_time()
            taken[name].append((1e3 * (ended[0] - began[0]), 1e3 * (ended[1] - began[1])))
    wall = {name: percentiles([ms for ms, _ in times[1:]]) for name, times in taken.items()}
    cpu = {name: percentiles([ms for _, ms in times[1:]]) for name, times in taken.items()}
    counts = {name: float(np.mean([len(items) for items in answers])) for name, answers in given.items()}
    exact = {tuple(one) == tuple(other) for one, other in zip(
        given["brute force, within reach ranked"], given["brute force, all ranked"], strict=False
    )}  # fmt: skip
    assert exact == {True}, "the two brute forces differ"
    return {"wall_ms": wall, "process_ms": cpu, "mean_items": counts}


def main() -> None:
    """Measure and write the cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="as for serve_load.py")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    run = made_run(args.folder, args.items)
    ours = Ours(run)
    flat, indexed = (Lance(run, args.folder / "lance", name) for name in (False, True))
    methods: dict[str, Method] = {
        "lgsid": ours.recommend,
        "LanceDB, flat": flat.search,
        "LanceDB, IVF-PQ and B-trees": indexed.search,
        "brute force, within reach ranked": ours.reach_then_all,
        "brute force, all ranked": ours.everything,
    }
    found = measure(methods, requests_of(run, args.requests + 1, seed=1))
    first = found["wall_ms"]["lgsid"]["p50"]
    ratios = {f"{name} / lgsid": round(ms["p50"] / first, 1) for name, ms in found["wall_ms"].items()}
    metrics = {
        "items": args.items, "radius_km": RADIUS_KM, "candidates": CANDIDATES, "k": K, "history": HISTORY,
        "requests": args.requests, **found, **ratios, "load": round(os.getloadavg()[0], 1),
        "lance_seconds": {"flat": round(flat.seconds, 1), "indexed": round(indexed.seconds, 1)},
    }  # fmt: skip
    for name, value in metrics.items():
        print(name, value)
    write_json(args.out, {
        "experiment": "bench", "dataset": f"world_{args.items}", "method": "lgsid", "model": "serve", "seed": 0,
        "metrics": metrics, "seconds": None, "peak_mib": round(peak_memory_mib()), "device": "cpu",
        "config_sha256": sha256_json([args.items, args.requests]),
        "versions": {**versions(), "lancedb": __import__("lancedb").__version__},
    })  # fmt: skip


if __name__ == "__main__":
    main()
