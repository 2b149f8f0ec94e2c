"""What items have in common whose codes begin with the same tokens: place, kind, and how far they lie apart.

Two items that share a prefix should be near each other (prefix geography) and of a kind (prefix meaning); every figure
stands beside that of random pairs. Shares are of *all* pairs of different items with the prefix in common, by counting
within groups, without ever listing the pairs. Distances are of all pairs where those are few, and of a seeded uniform
sample of them otherwise. A pair counts for an attribute only if both its items know theirs.

A prefix that many items share weighs as the pairs that it makes: a token of a thousand items counts a hundred times as
much as one of a hundred. `pairs` and `items_share` say how much stands behind the figures.

Axes: N items, L levels, G groups of items with the same prefix, P pairs.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, IntArray
from lgsid.geo import haversine_km
from lgsid.sid.attributes import attributes
from lgsid.sid.unique import code_keys

SAMPLED_PAIRS = 200_000
"""Most pairs whose distance is computed, per length of the prefix."""
Figures: TypeAlias = dict[str, float | int | None]


def prefix_pairs(
    items: pl.DataFrame, codes_NL: CodeArray, most: int = SAMPLED_PAIRS, seed: int = 0
) -> dict[str, Figures]:
    """Prefix geography and prefix meaning, for random pairs and for prefixes of every length.

    Args:
        items: the catalogue.
        codes_NL: raw codes; unique ones have no pairs that share them all.
        most: pairs whose distance is computed, at most.
        seed: of the sample of pairs.

    Returns:
        ``{"random": figures, "1": figures, …, "L": figures}``. Figures are ``pairs``; ``items_share``, the share of the
        items that are in any of them; the share of the pairs that agree, for each of `attributes.ATTRIBUTES`; and
        ``mean_km`` and ``median_km``. None where there is no pair, or none whose items know the attribute.
    """
    labels = attributes(items)
    found = {}
    for length in range(codes_NL.shape[1] + 1):
        group_N = np.unique(code_keys(codes_NL[:, :length]), return_inverse=True)[1].astype(np.int64)
        size_G = np.bincount(group_N)
        found[str(length) if length else "random"] = {
            "pairs": _pairs(size_G),
            "items_share": float(size_G[size_G > 1].sum()) / len(items),
            **{name: agreement(group_N, label_N) for name, label_N in labels.items()},
            **_distances(items, group_N, most, np.random.default_rng([seed, length])),
        }
    return found


def agreement(group_N: IntArray, label_N: IntArray) -> float | None:
    """Share of the pairs within groups whose labels are equal, among the pairs that know both (labels ≥ 0)."""
    known = label_N >= 0
    group, label = group_N[known], label_N[known]
    pairs = _pairs(np.bincount(group))
    if pairs == 0:
        return None
    both = group * (int(label.max()) + 1) + label
    return _pairs(np.unique(both, return_counts=True)[1]) / pairs


def _pairs(size_G: IntArray) -> int:
    return int((size_G * (size_G - 1) // 2).sum())


def _distances(items: pl.DataFrame, group_N: IntArray, most: int, rng: np.random.Generator) -> Figures:
    one_P, other_P = pairs_within(group_N, most, rng)
    if len(one_P) == 0:
        return {"mean_km": None, "median_km": None}
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    km_P = haversine_km(lat[one_P], lon[one_P], lat[other_P], lon[other_P])
    return {"mean_km": float(km_P.mean()), "median_km": float(np.median(km_P))}


def pairs_within(group_N: IntArray, most: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Rows of the pairs of items of the same group, each once; a uniform sample where there are more than ``most``.

    Every pair has a number, so that drawing numbers draws pairs: those of group 0 first, in a group by the later item.
    """
    order_N = np.argsort(group_N, kind="stable")
    size_G = np.bincount(group_N)
    first_G, pairs_G = np.cumsum(size_G) - size_G, size_G * (size_G - 1) // 2
    end_G = np.cumsum(pairs_G)
    total = int(end_G[-1])
    number_P = np.arange(total) if total <= most else rng.integers(total, size=most)
    group_P = np.searchsorted(end_G, number_P, side="right")
    within_P = number_P - (end_G - pairs_G)[group_P]
    later_P = (1 + np.sqrt(1 + 8 * within_P.astype(np.float64))).astype(np.int64) // 2
    later_P -= later_P * (later_P - 1) // 2 > within_P  # the root of a big number may be rounded up
    earlier_P = within_P - later_P * (later_P - 1) // 2
    return order_N[first_G[group_P] + earlier_P], order_N[first_G[group_P] + later_P]
