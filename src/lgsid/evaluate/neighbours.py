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

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import haversine_km
from lgsid.sid.features import region_path, root_categories

if TYPE_CHECKING:
    import torch

REGIONS = ("province", "city", "district")
"""Administrative levels, coarse to fine."""
SHARES = (*REGIONS, "category_root", "category")
"""Every share that is measured; `category_root` means a root category in common, `category` the whole one."""

_QUERIES_PER_BLOCK, _ITEMS_PER_BLOCK = 1024, 16_384
_STEPS = 2**20  # similarities are compared in steps of 1/_STEPS: smaller differences are rounding, not meaning
_RANDOM_PAIRS = 100_000
_SELF = -4 * _STEPS  # below every cosine
_ROW_BITS = 32
_ROW_MASK = 2**_ROW_BITS - 1


def sample_queries(items: int, sample: int, seed: int) -> IntArray:
    """Rows of at most ``sample`` of the items, in ascending order; the same for the same seed."""
    if items <= sample:
        return np.arange(items, dtype=np.int64)
    rows = np.random.default_rng(seed).choice(items, size=sample, replace=False)
    return np.sort(rows).astype(np.int64)


def nearest_neighbours(emb_ND: FloatArray, queries_Q: IntArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k items of highest cosine similarity to each query item, exactly, the query itself left out.

    Similarities are rounded to 2⁻²⁰ (about 1e-6); items of equal rounded similarity come in the order of their rows.
    Memory beside the embeddings: some 200 MB, whatever N is.

    Args:
        emb_ND: embeddings of N items; of any length, they are normalised here (a zero vector is similar to nothing).
        queries_Q: rows of the query items.
        k: neighbours per query; at most N - 1 are returned.

    Returns:
        rows and similarities of the neighbours, both of shape (Q, min(k, N - 1)), the most similar first.

    Raises:
        DataError: there are fewer than two items, or ``k`` is below 1.
    """
    import torch

    items = len(emb_ND)
    if items < 2 or k < 1:
        raise DataError(f"neighbours got {items} items and k = {k}, expected at least 2 items and k of at least 1")
    k = min(k, items - 1)
    keys_QK = np.empty((len(queries_Q), k), dtype=np.int64)
    with torch.inference_mode():
        for rows in _slices(len(queries_Q), _QUERIES_PER_BLOCK):
            keys_QK[rows] = _best_keys(emb_ND, queries_Q[rows], k).numpy()
    similarity_QK = ((keys_QK >> _ROW_BITS) / _STEPS).astype(np.float32)
    return _ROW_MASK - (keys_QK & _ROW_MASK), similarity_QK


def _best_keys(emb_ND: FloatArray, queries_B: IntArray, k: int) -> torch.Tensor:
    """Keys of the k nearest items of one block of queries, best first."""
    import torch

    query_BD = _unit(emb_ND[queries_B])
    query_rows = torch.from_numpy(queries_B)
    best = torch.empty((len(queries_B), 0), dtype=torch.int64)
    for rows in _slices(len(emb_ND), _ITEMS_PER_BLOCK):
        score = (query_BD @ _unit(emb_ND[rows]).T).mul_(_STEPS).round_()
        inside = ((query_rows >= rows.start) & (query_rows < rows.stop)).nonzero().squeeze(1)
        score[inside, query_rows[inside] - rows.start] = _SELF
        best = torch.cat([best, _block_keys(score, rows.start, k)], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best


def _block_keys(score: torch.Tensor, first_row: int, k: int) -> torch.Tensor:
    """Keys of the k best scores of each row of a block; ties at the k-th place go to the lower item row."""
    import torch

    size = min(k + 1, score.shape[1])
    value, index = score.topk(size, dim=1)
    keys = _keys(value, index + first_row)
    if size <= k:
        return keys
    # topk chooses among equals as it likes: the rows where that matters are ranked again by unique keys
    tied = (value[:, k - 1] == value[:, k]).nonzero().squeeze(1)
    every_row = torch.arange(first_row, first_row + score.shape[1])
    keys[tied, :k] = _keys(score[tied], every_row).topk(k, dim=1).values
    return keys[:, :k]


def _keys(value: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """One integer per candidate, unique, that orders by score first and by lower item row second."""
    keys: torch.Tensor = value.long() * 2**_ROW_BITS + (_ROW_MASK - row)
    return keys


def _unit(emb_BD: FloatArray) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(torch.tensor(emb_BD, dtype=torch.float32), dim=1)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


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


def same_value_codes(items: pl.DataFrame) -> dict[str, IntArray]:
    """For each region level and for the category one integer per item, equal where path or category is; -1: unknown."""
    values = {level: region_path(items, depth + 1) for depth, level in enumerate(REGIONS)}
    values["category"] = items["category"]
    return {name: value.rank("dense").cast(pl.Int64).fill_null(-1).to_numpy() for name, value in values.items()}


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
