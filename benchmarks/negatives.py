"""Negatives by rank of distance for a whole catalogue: time and memory, beside brute force and scikit-learn's BallTree.

2,300,000 synthetic items in towns of Zipf sizes with commercial centres, 15 negatives each, from the nearest places
(density) and from every scale (multiscale). Brute force (all distances of an anchor, sorted) and BallTree (haversine)
find the same nearest places for a sample of anchors in the same process; their times are scaled to all anchors and
compared with the whole density sampler, by wall time and by CPU time (all threads), which says more on a busy machine.
Only brute force knows the ranks that multiscale draws from. The sample also checks the samplers: the near negatives of
density must be among brute force's nearest, and the true ranks of multiscale's must follow its law.

    python benchmarks/negatives.py --items 2300000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from lgsid.align.negatives import NEIGHBOURHOOD, density_aware, multiscale
from lgsid.artifact import peak_memory_mib, sha256_json, versions, write_json
from lgsid.geo import geohash_cells, haversine_km

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
NEGATIVES, FAR_SHARE = 15, 0.2


def towns(items: int, seed: int = 0) -> tuple[Any, Any]:
    """Coordinates: 400 towns of Zipf sizes, half of a town's items in 40 centres, a fifth in shared buildings."""
    rng = np.random.default_rng(seed)
    weight = 1 / np.arange(1, 401) ** 0.9
    town = rng.choice(400, items, p=weight / weight.sum())
    town_lat, town_lon = rng.uniform(22, 45, 400), rng.uniform(100, 122, 400)
    centre = rng.integers(0, 40, items)
    offset = rng.normal(0, 0.08, (400, 40, 2))
    in_centre = rng.random(items) < 0.5
    spread = np.where(in_centre[:, None], offset[town, centre], 0) + rng.standard_t(3, (items, 2)) * np.where(
        in_centre, 0.004, 0.05
    ).reshape(-1, 1)
    lat, lon = town_lat[town] + spread[:, 0], town_lon[town] + spread[:, 1]
    shared = np.flatnonzero(rng.random(items) < 0.2)
    host = shared // 10 * 10
    lat[shared], lon[shared] = lat[host], lon[host]
    return np.clip(lat, -89, 89), lon


class Clock:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Any:
        return np.array([time.perf_counter() - self._wall, time.process_time() - self._cpu])


def brute_force(lat: Any, lon: Any, anchors: Any) -> tuple[Any, Any]:
    """Seconds per anchor (wall, CPU), and for each the distance of the last place of its neighbourhood."""
    clock, edges = Clock(), []
    for anchor in anchors:
        km = haversine_km(lat[anchor], lon[anchor], lat, lon)
        nearest = np.argpartition(km, 40 * NEIGHBOURHOOD)[: 40 * NEIGHBOURHOOD]
        order = nearest[np.argsort(km[nearest])]
        spots = np.unique(np.stack([lat[order], lon[order]]), axis=1, return_index=True)[1]
        edges.append(km[order[np.sort(spots)[NEIGHBOURHOOD]]])  # the first spot is the anchor's own
    return clock.read() / len(anchors), np.array(edges)


def rank_law(lat: Any, lon: Any, anchors: Any, index_AK: Any) -> dict[str, float]:
    """Share of negatives up to some ranks of distance among all other spots, and what the law says."""
    _, first_P, place_N = np.unique(geohash_cells(lat, lon, 12), return_inverse=True, return_index=True)
    ranks = []
    for anchor, index_K in zip(anchors, index_AK, strict=True):
        km_P = haversine_km(lat[anchor], lon[anchor], lat[first_P], lon[first_P])
        ranks += [int((km_P < km_P[place]).sum()) for place in place_N[index_K]]
    found, span = np.array(ranks), len(first_P) - 1
    at = [rank for rank in (10, 100, 1_000, 10_000, 100_000, 1_000_000) if rank < span]
    return {f"share_up_to_rank_{rank}": round(float((found <= rank).mean()), 4) for rank in at} | {
        f"law_up_to_rank_{rank}": round(float(np.log1p(rank / 8) / np.log1p(span / 8)), 4) for rank in at
    }


def ball_tree(lat: Any, lon: Any, anchors: Any) -> tuple[Any, Any]:
    """Seconds (wall, CPU) to build scikit-learn's BallTree, and per anchor to query its neighbourhood."""
    from sklearn.neighbors import BallTree

    radians = np.radians(np.stack([lat, lon], axis=1))
    clock = Clock()
    tree = BallTree(radians, metric="haversine")
    built, clock = clock.read(), Clock()
    tree.query(radians[anchors], k=NEIGHBOURHOOD + 1)
    return built, clock.read() / len(anchors)


def _distinct(index_AK: Any) -> bool:
    return bool((np.diff(np.sort(index_AK, axis=1), axis=1) > 0).all())


def compare(items: int, brute: int, balls: int) -> dict[str, Any]:
    """Run all three on the same points."""
    lat, lon = towns(items)
    everything, input_mib, load = np.arange(items), peak_memory_mib(), os.getloadavg()[0]
    clock = Clock()
    index, km = density_aware(lat, lon, everything, negatives=NEGATIVES, far_share=FAR_SHARE, seed=0)
    ours, peak, distinct = clock.read(), peak_memory_mib(), _distinct(index)
    near = NEGATIVES - round(FAR_SHARE * NEGATIVES)
    clock = Clock()
    index, scales_km = multiscale(lat, lon, everything, negatives=NEGATIVES, far_share=FAR_SHARE, seed=0)
    scales, scales_peak = clock.read(), peak_memory_mib()
    sample = np.random.default_rng(1).choice(items, brute, replace=False)
    brute_each, edge_km = brute_force(lat, lon, sample)
    order = np.argsort(geohash_cells(lat, lon, 12))  # near anchors one after another, as the sampler asks them
    built, ball_each = ball_tree(lat, lon, order[items // 2 :][:balls])
    drawn = multiscale(lat, lon, sample, negatives=near, far_share=0.0, seed=0)[0]
    inside = (km[sample] <= edge_km[:, None] + 1e-4).sum(axis=1)
    every_brute, every_ball = brute_each * items, built + ball_each * items
    return {
        "items": items, "negatives": NEGATIVES, "neighbourhood": NEIGHBOURHOOD,
        "seconds": ours[0], "cpu_seconds": ours[1], "load_average_before": load,
        "peak_mib": peak, "input_mib": input_mib,
        "multiscale": {
            "seconds": scales[0], "cpu_seconds": scales[1], "peak_mib": scales_peak,
            "ratio_to_density": scales[0] / ours[0], "cpu_ratio_to_density": scales[1] / ours[1],
            "km_by_decile": [round(float(km), 3) for km in np.quantile(scales_km, np.arange(1, 10) / 10)],
            "distinct_lists": _distinct(index), **rank_law(lat, lon, sample, drawn),
        },
        "median_near_km": float(np.median(km[:, :near])), "median_far_km": float(np.median(km[:, near:])),
        "distinct_lists": distinct,
        "lists_with_all_near_ones_exact": float((inside >= near).mean()),
        "brute_force_sample": brute, "brute_force_seconds_for_all": every_brute[0],
        "ball_tree_sample": balls, "ball_tree_seconds_for_all": every_ball[0],
        "brute_force_ratio": every_brute[0] / ours[0], "brute_force_cpu_ratio": every_brute[1] / ours[1],
        "ball_tree_ratio": every_ball[0] / ours[0], "ball_tree_cpu_ratio": every_ball[1] / ours[1],
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2_300_000)
    parser.add_argument("--brute", type=int, default=20, help="anchors of the brute-force sample")
    parser.add_argument("--balls", type=int, default=4_000, help="anchors of the BallTree sample")
    parser.add_argument("--out", type=Path, default=RESULTS / "negatives.json")
    args = parser.parse_args()
    figures = compare(args.items, args.brute, args.balls)
    cell = {
        "experiment": "bench",
        "dataset": f"towns_{args.items}",
        "method": "lgsid",
        "model": "negatives",
        "seed": 0,
        "metrics": figures,
        "seconds": figures["seconds"],
        "peak_mib": figures["peak_mib"],
        "device": "cpu",
        "machine": f"{os.cpu_count()} × {platform.machine()}",
        "config_sha256": sha256_json([args.items, NEGATIVES, FAR_SHARE, NEIGHBOURHOOD, args.brute, args.balls]),
        "versions": versions(),
    }
    write_json(args.out, cell)
    print(json.dumps(figures, indent=2))
    print(
        f"{args.items:,} × {NEGATIVES} negatives in {figures['seconds']:.1f} s, {figures['peak_mib']:.0f} MiB; "
        f"BallTree takes {figures['ball_tree_ratio']:.1f} × as long ({figures['ball_tree_cpu_ratio']:.1f} × the CPU), "
        f"brute force {figures['brute_force_ratio']:.0f} ×"
    )
    scales = figures["multiscale"]
    print(
        f"multiscale: {scales['seconds']:.1f} s ({scales['ratio_to_density']:.2f} × density), "
        f"{scales['cpu_seconds']:.1f} CPU s ({scales['cpu_ratio_to_density']:.2f} ×; "
        f"density {figures['cpu_seconds']:.1f}), {scales['peak_mib']:.0f} MiB"
    )


if __name__ == "__main__":
    main()
