"""The limit of alignment: the most district neighbours that any vectors can hold at a given loss of meaning.

For each query the oracle ranks all candidates by ``original similarity + w · [same district path]`` and keeps the best
K. At every w this maximises ``similarity kept + w · share in the same district`` over all possible neighbour lists, so
that sweeping w traces the upper frontier of the trade between meaning and geography. Among the K best for some w, those
of the query's own district are the most similar of their kind, and so are the others; K of either kind are therefore
enough for every w, and one pass over the similarities finds them.

A query whose district is unknown has no neighbour to prefer: it keeps all of its meaning and is left out of the share.

Axes: Q queries, K neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.data.labels import REGIONS, same_value_codes
from lgsid.errors import DataError
from lgsid.nearest import Nearest, same_and_other

WEIGHTS = tuple([round(0.01 * step, 2) for step in range(41)] + [0.45, 0.5, 0.6, 0.8, 1.0, 2.0])
"""Weights w of the sweep: 0 is the unaligned encoder, and 2 puts every item of the district before every other."""
LOSSES = (0.025, 0.05, 0.10)
"""Losses of meaning at which efficiency is asked for."""
_LEAST_LIFT = 1e-9

KeptDistrict = tuple[float, float]
"""A point of the trade: meaning kept (1: all) and the share of neighbours in the same district, T@K."""


@dataclass(frozen=True)
class OraclePoint:
    """One weight of the sweep.

    Attributes:
        weight: the bonus w of the same district.
        kept: mean original similarity of the chosen neighbours as a share of the most similar ones'.
        province, city, district: shares of the chosen neighbours in the query's own; None where no query knows its own.
    """

    weight: float
    kept: float
    province: float | None
    city: float | None
    district: float | None


def oracle_frontier(
    items: pl.DataFrame, reference_ND: FloatArray, queries_Q: IntArray, k: int, weights: Sequence[float] = WEIGHTS
) -> list[OraclePoint]:
    """The best trade between meaning and district neighbours that any vectors could make.

    Args:
        items: the N items (province, city, district).
        reference_ND: their vectors by the unaligned encoder, which define meaning.
        queries_Q: rows of the queries; candidates are all N items.
        k: neighbours per query; at most N - 1 are looked at.
        weights: the w to sweep.

    Returns:
        one point for each weight, in their order; the one of w = 0 is the unaligned encoder.

    Raises:
        DataError: there are no queries, or fewer than two items.
    """
    if len(items) < 2 or not len(queries_Q) or k < 1:
        raise DataError(
            f"the oracle got {len(items)} items, {len(queries_Q)} queries and k = {k}, expected at least 2, 1 and 1"
        )
    codes = same_value_codes(items)
    district_N, k = codes["district"], min(k, len(items) - 1)
    same, other = same_and_other(reference_ND[queries_Q], queries_Q, reference_ND, district_N[queries_Q], district_N, k)
    candidates = _Candidates(same, other, {level: codes[level] for level in REGIONS}, queries_Q)
    best, _ = candidates.chosen(0.0)
    return [OraclePoint(w, mean / best, **shares) for w in weights for mean, shares in [candidates.chosen(w)]]


class _Candidates:
    """The 2 K candidates of each query, those of its district first, and the choice of K of them for any weight."""

    def __init__(self, same: Nearest, other: Nearest, codes: Mapping[str, IntArray], queries_Q: IntArray) -> None:
        self._row = np.concatenate([same.index_QK, other.index_QK], axis=1)
        self._similarity = np.concatenate([same.similarity_QK, other.similarity_QK], axis=1).astype(np.float64)
        self._is_same = np.arange(self._row.shape[1]) < same.index_QK.shape[1]
        self._agrees = {level: code[self._row] == code[queries_Q, None] for level, code in codes.items()}
        self._known = {level: code[queries_Q] >= 0 for level, code in codes.items()}

    def chosen(self, weight: float) -> tuple[float, dict[str, float | None]]:
        """Mean similarity of the K best under a weight, and their shares in the query's own regions."""
        score = self._similarity + weight * self._is_same
        # equals go to the lower row, as in the search for neighbours: the two lists meet here
        order_QK = np.lexsort((self._row, -score), axis=1)[:, : self._row.shape[1] // 2]
        shares: dict[str, float | None] = {}
        for level, agrees in self._agrees.items():
            same = np.take_along_axis(agrees, order_QK, axis=1)[self._known[level]]
            shares[level] = float(same.mean()) if same.size else None
        return float(np.take_along_axis(self._similarity, order_QK, axis=1).mean()), shares


def frontier_efficiency(points: Sequence[OraclePoint], kept: float, district: float) -> float | None:
    """Share of the possible lift that is reached: ``(T - T_unaligned) / (T_oracle at the same kept - T_unaligned)``.

    The oracle's T is interpolated between its points. 1 cannot be passed on the same queries; below 0 geography fell.

    Args:
        points: the oracle's frontier.
        kept: meaning that the vectors keep, as a share of the best possible.
        district: their T@K.

    Returns:
        the efficiency; None where the oracle itself gains nothing at this loss, or no district is known.
    """
    frontier = _frontier(points)
    if not len(frontier):
        return None
    unaligned = float(frontier[frontier[:, 0].argmax(), 1])
    possible = _at(frontier, kept) - unaligned
    return (district - unaligned) / possible if possible > _LEAST_LIFT else None


def efficiency_at(
    curve: Sequence[KeptDistrict], points: Sequence[OraclePoint], losses: Sequence[float] = LOSSES
) -> dict[float, float | None]:
    """Frontier efficiency of a method at given losses of meaning, read off its own frontier.

    The method's frontier starts at the unaligned encoder, which it always has, leaves out points that another one beats
    in both figures, and is interpolated between the rest. Beyond its last point it stays level: who loses less meaning
    than allowed is judged by what the whole allowance would have bought.

    Args:
        curve: (kept, T@K) of the method's points, in any order.
        points: the oracle's frontier, on the same queries.
        losses: shares of meaning lost.
    """
    frontier = _frontier(points)
    if not len(frontier):
        return dict.fromkeys(losses)
    start = frontier[frontier[:, 0].argmax()]
    own = _undominated(np.array([start, *curve], dtype=np.float64))
    return {loss: frontier_efficiency(points, 1 - loss, _at(own, 1 - loss)) for loss in losses}


def _frontier(points: Sequence[OraclePoint]) -> DoubleArray:
    """The points as (kept, T), shape (P, 2); without those of unknown T."""
    known = [(point.kept, point.district) for point in points if point.district is not None]
    return np.array(known, dtype=np.float64).reshape(-1, 2)


def _at(curve_P2: DoubleArray, kept: float) -> float:
    """T at a kept share, interpolated; level beyond the ends."""
    order = np.lexsort((-curve_P2[:, 1], curve_P2[:, 0]))
    return float(np.interp(kept, curve_P2[order, 0], curve_P2[order, 1]))


def _undominated(curve_P2: DoubleArray) -> DoubleArray:
    """Points that no other one beats: from the most kept downwards, each with a higher T than all before."""
    falling = curve_P2[np.lexsort((-curve_P2[:, 1], -curve_P2[:, 0]))]
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(falling[:, 1])[:-1]])
    return falling[falling[:, 1] > best_before]
