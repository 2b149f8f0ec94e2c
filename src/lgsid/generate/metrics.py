"""What lists of recommended items are worth: hit rate and NDCG, counted per item and never per code; reachability.

A request has one target, so NDCG@k is 1 / log₂(1 + rank) where the target is among the first k, else 0, and the hit
rate is recall. A figure over no requests is None, never NaN.

Axes: R requests, K ranked items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import haversine_km

_EDGE_KM = 1e-6
"""A millimetre beyond the reach is rounding."""


def ranks(ranked_RK: AnyArray, target_R: AnyArray) -> IntArray:
    """Rank of each target in its list, from 1; 0 where it is not in it.

    Args:
        ranked_RK: catalogue rows, best first, each once in a row; -1 is no item.
        target_R: catalogue rows.

    Raises:
        DataError: shapes differ, a target is negative, or an item is in a list twice.
    """
    if ranked_RK.ndim != 2 or target_R.shape != ranked_RK.shape[:1]:
        raise DataError(f"got lists {ranked_RK.shape} and targets {target_R.shape}, expected (R, K) and (R,)")
    if len(target_R) and target_R.min() < 0:
        raise DataError(f"a target is {target_R.min()}, expected rows of the catalogue, from 0")
    sorted_RK = np.sort(ranked_RK, axis=1)
    twice_R = ((sorted_RK[:, 1:] == sorted_RK[:, :-1]) & (sorted_RK[:, 1:] >= 0)).any(axis=1)
    if twice_R.any():
        raise DataError(
            f"the lists of {int(twice_R.sum())} requests, {int(twice_R.argmax())} the first, name an item twice, "
            "expected each item once"
        )
    hit_RK = ranked_RK == target_R[:, None]
    found_R: IntArray = np.where(hit_RK.any(axis=1), hit_RK.argmax(axis=1) + 1, 0) if hit_RK.size else 0 * target_R
    return found_R


def hits_and_ndcg(rank_R: IntArray, ks: Sequence[int]) -> dict[str, float | None]:
    """``hit@k`` and ``ndcg@k`` for each k, means over the requests; None of no requests.

    Args:
        rank_R: from 1; 0 where the target was not found. See `ranks`.
        ks: how far down the lists.
    """
    gain_R = np.where(rank_R > 0, 1 / np.log2(1 + np.maximum(rank_R, 1)), 0.0)
    figures: dict[str, float | None] = {}
    for k in ks:
        within_R = (rank_R > 0) & (rank_R <= k)
        figures[f"hit@{k}"] = float(within_R.mean()) if len(rank_R) else None
        figures[f"ndcg@{k}"] = float((gain_R * within_R).mean()) if len(rank_R) else None
    return figures


def measure(ranked_RK: AnyArray, target_R: AnyArray, new_R: BoolArray, ks: Sequence[int] = (5, 10)) -> dict[str, Any]:
    """Hit rates and NDCG of all requests, of revisits and of first visits.

    Args:
        ranked_RK, target_R: see `ranks`.
        new_R: whether the user had never visited the target.
        ks: how far down the lists, at most K.

    Returns:
        all, revisits, first_visits: of each ``requests`` (their number), ``hit@k`` and ``ndcg@k``.

    Raises:
        DataError: see `ranks`; the lists are too short, or ``new_R`` is not of all requests.
    """
    if max(ks) > ranked_RK.shape[1]:
        raise DataError(f"lists of {ranked_RK.shape[1]} items cannot tell hit@{max(ks)}", "ask for longer lists")
    if new_R.shape != target_R.shape:
        raise DataError(f"got {new_R.shape} marks of first visits for {target_R.shape} targets, expected one each")
    rank_R = ranks(ranked_RK, target_R)
    parts = {"all": np.ones(len(rank_R), dtype=np.bool_), "revisits": ~new_R, "first_visits": new_R}
    return {name: {"requests": int(of_R.sum()), **hits_and_ndcg(rank_R[of_R], ks)} for name, of_R in parts.items()}


def unreachable_share(
    ranked_RK: AnyArray,
    here_R: tuple[DoubleArray, DoubleArray],
    lat_N: DoubleArray,
    lon_N: DoubleArray,
    reach_km: float,
) -> float | None:
    """Share of the named items that lie more than ``reach_km`` from where the user is.

    Args:
        ranked_RK: catalogue rows; -1 is no item.
        here_R: latitude and longitude of the users, degrees.
        lat_N, lon_N: places of the items, degrees.
        reach_km: how far a user goes.

    Returns:
        None where no item is named.
    """
    named_RK = ranked_RK >= 0
    if not named_RK.any():
        return None
    item_RK = np.where(named_RK, ranked_RK, 0)
    km_RK = haversine_km(here_R[0][:, None], here_R[1][:, None], lat_N[item_RK], lon_N[item_RK])
    return float((km_RK > reach_km + _EDGE_KM)[named_RK].mean())


def unnamed_share(ranked_RK: AnyArray) -> float | None:
    """Share of the places of the lists that hold no item; None without places."""
    return float((ranked_RK < 0).mean()) if ranked_RK.size else None
