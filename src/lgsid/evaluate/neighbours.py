"""Nearest-neighbour geography: do the items that an embedding holds for alike lie near each other?

P@K, C@K and T@K are the shares of an item's K nearest neighbours (cosine) that lie in its own province, city and
district ("town" in the paper's table of raw and aligned embeddings, arXiv 2511.14221). Neighbours are searched among
all items, exactly; only the queries are sampled.

- Regions are compared by their whole path: the same district means the same (province, city, district), so that
  namesakes in other cities do not count.
- A query whose own region is unknown is left out of that level's share, and counted; a neighbour whose region is
  unknown counts as different.
- Items share a top category when one of their root categories is the same ("Food > Bar" has one, the flat list
  "Bars | Food" has two).
- Every figure stands beside that of a random other item: exact for regions and categories, from 100,000 random pairs
  for top categories and the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, IntArray
from lgsid.data.labels import REGIONS, root_categories, same_value_codes
from lgsid.geo import haversine_km

SHARES = (*REGIONS, "category_root", "category")
"""Every share that is measured; `category_root` means a root category in common, `category` the whole one."""

_RANDOM_PAIRS = 100_000


def neighbour_geography(
    items: pl.DataFrame, queries_Q: IntArray, index_QK: IntArray, ks: Sequence[int], seed: int
) -> dict[str, Any]:
    """P/C/T@K, category agreement and distance of the neighbours, beside those of random pairs.

    Args:
        items: the N items (province, city, district, category, lat_deg, lon_deg).
        queries_Q: rows of the queries.
        index_QK: rows of their neighbours, the most similar first (`nearest_neighbours`).
        ks: the K to report; those above N - 1 are cut to it.
        seed: for the sample of random pairs.

    Returns:
        ``{"queries", "items", "unknown_queries": {level: count}, "at": {K: figures}, "random": figures}``; figures are
        the `SHARES` (None where no query knows its own value) and ``distance_km``, the mean great-circle distance.
    """
    codes = same_value_codes(items)
    roots = _RootCategories(items)
    known = {**{name: code >= 0 for name, code in codes.items()}, "category_root": roots.known}

    def measured(other_QK: IntArray) -> dict[str, AnyArray]:
        same = {name: code[other_QK] == code[queries_Q, None] for name, code in codes.items()}
        same["category_root"] = roots.shared(queries_Q, other_QK)
        return {**same, "distance_km": _distance_km(items, queries_Q, other_QK)}

    def means(values: dict[str, AnyArray], k: int) -> dict[str, float | None]:
        shares = {name: _mean(values[name][known[name][queries_Q], :k]) for name in SHARES}
        return {**shares, "distance_km": float(values["distance_km"][:, :k].mean())}

    near, random = measured(index_QK), measured(_random_others(len(items), queries_Q, seed))
    expected = {name: _random_share(code, queries_Q) for name, code in codes.items()}
    return {
        "queries": len(queries_Q),
        "items": len(items),
        "unknown_queries": {name: int((~known[name][queries_Q]).sum()) for name in SHARES},
        "at": {str(k): means(near, k) for k in sorted({min(k, index_QK.shape[1]) for k in ks})},
        "random": {**means(random, random["distance_km"].shape[1]), **expected},
    }


class _RootCategories:
    """Top-level categories of the items, which may have several ("Doctors | Health")."""

    def __init__(self, items: pl.DataFrame) -> None:
        from scipy.sparse import csr_array

        rows = (
            pl.DataFrame({"root": root_categories(items)}).with_row_index("row").explode("root").drop_nulls().unique()
        )
        label = (rows["root"].rank("dense").cast(pl.Int64) - 1).to_numpy()
        shape = (len(items), int(label.max(initial=-1)) + 1)
        self._has_NR = csr_array((np.ones(len(rows), dtype=np.int32), (rows["row"].to_numpy(), label)), shape=shape)
        self.known: BoolArray = np.diff(self._has_NR.indptr) > 0

    def shared(self, queries_Q: IntArray, other_QK: IntArray) -> BoolArray:
        """Whether query and other item have a top-level category in common."""
        query = self._has_NR[np.repeat(queries_Q, other_QK.shape[1])]
        common: BoolArray = query.multiply(self._has_NR[other_QK.ravel()]).sum(axis=1) > 0
        return common.reshape(other_QK.shape)


def _distance_km(items: pl.DataFrame, queries_Q: IntArray, other_QK: IntArray) -> DoubleArray:
    lat, lon = (items[name].to_numpy() for name in ("lat_deg", "lon_deg"))
    return haversine_km(lat[queries_Q, None], lon[queries_Q, None], lat[other_QK], lon[other_QK])


def _mean(same_QK: AnyArray) -> float | None:
    return float(same_QK.mean()) if same_QK.size else None


def _random_share(code_N: IntArray, queries_Q: IntArray) -> float | None:
    """Probability that a uniformly random other item has the query's code, averaged over the queries that have one."""
    known = queries_Q[code_N[queries_Q] >= 0]
    if not len(known):
        return None
    count = np.bincount(code_N[code_N >= 0])
    return float(((count[code_N[known]] - 1) / (len(code_N) - 1)).mean())


def _random_others(items: int, queries_Q: IntArray, seed: int) -> IntArray:
    """Random items other than the query, about 100,000 in all, shape (Q, R)."""
    per_query = -(-_RANDOM_PAIRS // len(queries_Q))
    other_QR = np.random.default_rng(seed).integers(0, items - 1, size=(len(queries_Q), per_query))
    return other_QR + (other_QR >= queries_Q[:, None])
