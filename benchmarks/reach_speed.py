"""How long it takes to find what lies within 5 km among a million items, beside brute force and two trees.

The items are simulated: 200 towns between 64° south and north, 5,000 shops each, spread so that most of them lie within
reach of the others. People ask from where shops are. Every method gives rows and distances; they take turns on the same
requests, in one thread, so none finds its memory warm, and have to give the same rows. Wall time and the thread's own
time are both written: on a machine that does other work the second one says more.

    python benchmarks/reach_speed.py
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lgsid.arrays import DoubleArray, IntArray
from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.geo import EARTH_RADIUS_KM, chord_to_km, haversine_km, km_to_chord, unit_sphere
from lgsid.serve.reach import Circle, Place, ReachIndex

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
ITEMS, TOWNS, RADIUS_KM, CANDIDATES = 1_000_000, 200, 5.0, 200
SPREAD_KM = 1.8
SLOW = 20  # requests that brute force is asked; the others get all
Method = Callable[[float, float], tuple[IntArray, DoubleArray]]


def catalogue(items: int) -> tuple[DoubleArray, DoubleArray]:
    """Latitudes and longitudes of shops in towns."""
    rng = np.random.default_rng(0)
    centre_lat, centre_lon = np.degrees(np.arcsin(rng.uniform(-0.9, 0.9, TOWNS))), rng.uniform(-180, 180, TOWNS)
    town = rng.integers(0, TOWNS, items)
    step_deg = np.degrees(SPREAD_KM / EARTH_RADIUS_KM)
    lat = centre_lat[town] + step_deg * rng.standard_normal(items)
    lon = centre_lon[town] + step_deg * rng.standard_normal(items) / np.cos(np.radians(lat))
    return lat, (lon + 180) % 360 - 180


def ours(index: ReachIndex, most: int | None) -> Method:
    """The index of this package; all items, or the nearest ones in order."""

    def ask(lat: float, lon: float) -> tuple[IntArray, DoubleArray]:
        found = index.within(Place(lat, lon), Circle(RADIUS_KM))
        found = found if most is None else found.nearest(most)
        return found.rows_M, found.distance_km_M

    return ask


def haversine(lat_N: DoubleArray, lon_N: DoubleArray) -> Method:
    """The distance of every item."""

    def ask(lat: float, lon: float) -> tuple[IntArray, DoubleArray]:
        distance = haversine_km(lat, lon, lat_N, lon_N)
        rows = np.flatnonzero(distance <= RADIUS_KM)
        return rows, distance[rows]

    return ask


def chords(lat_N: DoubleArray, lon_N: DoubleArray) -> Method:
    """The same without sines: straight lines between points of the sphere that are kept."""
    xyz_3N, most = np.ascontiguousarray(unit_sphere(lat_N, lon_N).T), float(km_to_chord(RADIUS_KM)) ** 2

    def ask(lat: float, lon: float) -> tuple[IntArray, DoubleArray]:
        squared = ((xyz_3N - unit_sphere(lat, lon)[:, None]) ** 2).sum(axis=0)
        rows = np.flatnonzero(squared <= most)
        return rows, chord_to_km(np.sqrt(squared[rows]))

    return ask


def ball_tree(lat_N: DoubleArray, lon_N: DoubleArray) -> Method:
    """scikit-learn's BallTree with its haversine metric."""
    from sklearn.neighbors import BallTree

    tree = BallTree(np.radians(np.stack([lat_N, lon_N], axis=1)), metric="haversine")

    def ask(lat: float, lon: float) -> tuple[IntArray, DoubleArray]:
        rows, angle = tree.query_radius(np.radians([[lat, lon]]), RADIUS_KM / EARTH_RADIUS_KM, return_distance=True)
        return rows[0], angle[0] * EARTH_RADIUS_KM

    return ask


def kd_tree(lat_N: DoubleArray, lon_N: DoubleArray) -> Method:
    """scipy's k-d tree on the sphere; distances afterwards, for it gives none."""
    from scipy.spatial import cKDTree

    xyz_N3 = unit_sphere(lat_N, lon_N)
    tree, chord = cKDTree(xyz_N3), float(km_to_chord(RADIUS_KM))

    def ask(lat: float, lon: float) -> tuple[IntArray, DoubleArray]:
        centre = unit_sphere(lat, lon)
        rows = np.asarray(tree.query_ball_point(centre, chord), dtype=np.int64)
        return rows, chord_to_km(np.sqrt(np.square(xyz_N3[rows] - centre).sum(axis=1)))

    return ask


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What was made, and the seconds it took."""
    started = time.perf_counter()
    made = make()
    return made, round(time.perf_counter() - started, 2)


def percentiles(milliseconds: list[tuple[float, float]]) -> dict[str, float]:
    """Median and 99th percentile of wall and thread time."""
    wall, thread = np.array(milliseconds).T
    return {
        f"{kind} {name}": round(float(np.percentile(values, at)), 3)
        for kind, values in (("wall", wall), ("thread", thread))
        for name, at in (("p50", 50), ("p99", 99))
    }


def measure(methods: dict[str, Method], lat_Q: DoubleArray, lon_Q: DoubleArray) -> dict[str, Any]:
    """Milliseconds of each method; the first request warms up and is not counted."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    inside = []
    for request, (lat, lon) in enumerate(zip(lat_Q.tolist(), lon_Q.tolist(), strict=True)):
        found = {}
        for name, ask in methods.items():
            if name.startswith("brute") and request > SLOW:
                continue
            started = time.perf_counter(), time.thread_time()
            rows, _ = ask(lat, lon)
            ended = time.perf_counter(), time.thread_time()
            taken[name].append((1e3 * (ended[0] - started[0]), 1e3 * (ended[1] - started[1])))
            found[name] = set(rows.tolist()) if "nearest" not in name else found["ours"]
        assert all(rows == found["ours"] for rows in found.values()), f"request {request}: methods differ"
        inside.append(len(found["ours"]))
    counts = {"median": int(np.median(inside)), "least": min(inside), "most": max(inside)}
    return {"inside": counts, "ms": {name: percentiles(times[1:]) for name, times in taken.items()}}


def main() -> None:
    """Measure and write the cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    args = parser.parse_args()
    lat_N, lon_N = catalogue(ITEMS)
    index, build = timed(lambda: ReachIndex(lat_N, lon_N))
    tree, tree_build = timed(lambda: ball_tree(lat_N, lon_N))
    flat, flat_build = timed(lambda: kd_tree(lat_N, lon_N))
    methods = {
        "ours": ours(index, None),
        "scikit-learn BallTree": tree,
        f"ours, {CANDIDATES} nearest in order": ours(index, CANDIDATES),
        "scipy cKDTree": flat,
        "brute force, haversine": haversine(lat_N, lon_N),
        "brute force, chords kept": chords(lat_N, lon_N),
    }
    rows = np.random.default_rng(1).integers(0, ITEMS, args.requests + 1)
    found = measure(methods, lat_N[rows], lon_N[rows])
    grown, addition = timed(lambda: index.plus(lat_N[:4_096], lon_N[:4_096]))
    _, merge = timed(lambda: grown.plus(lat_N[:1], lon_N[:1]))
    first = found["ms"]["ours"]["thread p50"]
    ratios = {
        f"{name} / ours": round(ms["thread p50"] / first, 1) for name, ms in found["ms"].items() if name != "ours"
    }
    builds = {"ours": build, "scikit-learn BallTree": tree_build, "scipy cKDTree": flat_build}
    metrics = {
        "items": ITEMS, "radius_km": RADIUS_KM, "requests": args.requests, **found, **ratios, "build, s": builds,
        "add 4,096 items, s": addition, "merge them in, s": merge, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    for name, value in metrics.items():
        print(name, value)
    write_json(RESULTS / "reach_speed.json", {
        "experiment": "bench", "dataset": "synthetic", "method": "lgsid", "model": "reach", "seed": 0,
        "metrics": metrics, "seconds": None, "peak_mib": round(peak_memory_mib()), "device": "cpu",
        "config_sha256": sha256_json([ITEMS, TOWNS, SPREAD_KM, RADIUS_KM, args.requests]), "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
