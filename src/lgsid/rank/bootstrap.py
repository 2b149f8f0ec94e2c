"""How sure a difference of AUC is: a paired bootstrap over users.

The samples of one user hang together, so whole users are drawn, with replacement, as many as there are. A replicate is
the same draw for every method that is compared: a user who is drawn three times counts three times in all of them. No
sample is copied: the AUC of a replicate is an AUC with whole-number weights, taken from an order of the samples that is
made once for each score vector.

What the interval covers is the choice of users. Several trainings of a method (seeds) are averaged inside a replicate,
and how far they differ is told beside it.

Axes: S samples, U users, M negatives, P positives, V score vectors of a method, Z replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, CodeArray, DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.rank.auc import checked_labels, order_keys

REPLICATES = 1_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """AUC of one method less that of another.

    Attributes:
        difference: on all users.
        mean: over the replicates.
        low, high: percentile interval of the replicates.
        confidence: of the interval.
        share_not_above: share of the replicates in which the first method is not above the second.
        p_value: two-sided: twice the smaller of the shares of replicates at or below, and at or above, zero, with one
            added to both counts, at most 1.
        replicates: that the figures are from; draws that lack visits or negatives are left out.
        users: that are drawn from.
    """

    difference: float
    mean: float
    low: float
    high: float
    confidence: float
    share_not_above: float
    p_value: float
    replicates: int
    users: int

    def to_json(self) -> dict[str, Any]:
        """All of it, for a results file."""
        return asdict(self)


@dataclass(frozen=True)
class Bootstrap:
    """AUCs of all methods in the same replicates.

    Attributes:
        seeds: AUC of every score vector of each method on all users.
        auc_Z: AUC of each method in each replicate, averaged over its score vectors.
        users: that are drawn from.
    """

    seeds: Mapping[str, tuple[float, ...]]
    auc_Z: Mapping[str, DoubleArray]
    users: int

    def interval(self, method: str, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Percentile interval of a method's own AUC."""
        low, high = np.quantile(self.auc_Z[method], _tails(confidence))
        return float(low), float(high)

    def difference(self, method: str, base: str, confidence: float = CONFIDENCE) -> Difference:
        """How far a method is above another one."""
        apart_Z = self.auc_Z[method] - self.auc_Z[base]
        low, high = np.quantile(apart_Z, _tails(confidence))
        not_above, not_below = (int(np.count_nonzero(side)) for side in (apart_Z <= 0, apart_Z >= 0))
        return Difference(
            difference=float(np.mean(self.seeds[method]) - np.mean(self.seeds[base])),
            mean=float(apart_Z.mean()),
            low=float(low),
            high=float(high),
            confidence=confidence,
            share_not_above=not_above / len(apart_Z),
            p_value=min(1.0, 2 * (min(not_above, not_below) + 1) / (len(apart_Z) + 1)),
            replicates=len(apart_Z),
            users=self.users,
        )


def paired_bootstrap(
    method: Sequence[AnyArray],
    base: Sequence[AnyArray],
    label_S: AnyArray,
    user_S: AnyArray,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Difference:
    """How far one method is above another one; see `bootstrap_auc`, which compares many at once."""
    scores = {"method": method, "base": base}
    return bootstrap_auc(scores, label_S, user_S, replicates, seed).difference("method", "base")


def bootstrap_auc(
    scores: Mapping[str, Sequence[AnyArray]],
    label_S: AnyArray,
    user_S: AnyArray,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Bootstrap:
    """AUCs of several methods when users are drawn anew.

    Args:
        scores: score vectors (S) of each method, one for each training of it.
        label_S: 1 or True for a visit.
        user_S: number of each sample's user.
        replicates: Z.
        seed: of the draws; they depend on it and on the number of users alone.

    Raises:
        DataError: a method has no score vector, lengths differ, a score is not finite, or no draw has both classes.
    """
    if not scores or not all(len(vectors) for vectors in scores.values()):
        raise DataError("the bootstrap got a method without scores, expected at least one score vector for each")
    label_S = checked_labels(label_S, len(user_S))
    users, at_S = np.unique(user_S, return_inverse=True)
    user_numbers_S: CodeArray = at_S.astype(np.int32)
    if label_S.all() or not label_S.any():
        raise DataError(f"the bootstrap got {len(label_S)} samples of one class, expected visits and negatives")
    orders = {name: [_order(vector, label_S, user_numbers_S) for vector in vectors] for name, vectors in scores.items()}
    auc_Z: dict[str, list[float]] = {name: [] for name in scores}
    rng = np.random.default_rng(seed)
    for _ in range(replicates):
        weight_U = np.bincount(rng.integers(len(users), size=len(users)), minlength=len(users))
        for name, vectors in orders.items():
            auc_Z[name].append(_mean_auc(vectors, weight_U))
    kept = {name: np.asarray(values)[np.isfinite(values)] for name, values in auc_Z.items()}
    if not all(len(values) for values in kept.values()):
        raise DataError(
            f"none of {replicates} draws of {len(users)} users has both visits and negatives",
            "give more users or more replicates",
        )
    every_U = np.ones(len(users), dtype=np.int64)
    seeds = {name: tuple(_weighted_auc(order, every_U) for order in vectors) for name, vectors in orders.items()}
    return Bootstrap(seeds, kept, len(users))


@dataclass(frozen=True)
class _Order:
    """Users of the negatives and of the positives by ascending score, and how many negatives are below each positive,
    and at most as high."""

    negative_M: CodeArray
    positive_P: CodeArray
    below_P: IntArray
    upto_P: IntArray


def _order(score_S: AnyArray, label_S: BoolArray, at_S: CodeArray) -> _Order:
    if score_S.shape != label_S.shape:
        raise DataError(f"{len(label_S)} labels got scores of shape {score_S.shape}, expected one score for each label")
    key_S = (order_keys(score_S).astype(np.int64) << 32) | at_S
    negative_M, positive_P = np.sort(key_S[~label_S]), np.sort(key_S[label_S])
    score_M, score_P = negative_M >> 32, positive_P >> 32
    return _Order(
        (negative_M & 0xFFFFFFFF).astype(np.int32),
        (positive_P & 0xFFFFFFFF).astype(np.int32),
        np.searchsorted(score_M, score_P, "left"),
        np.searchsorted(score_M, score_P, "right"),
    )


def _mean_auc(orders: Sequence[_Order], weight_U: IntArray) -> float:
    return float(np.mean([_weighted_auc(order, weight_U) for order in orders]))


def _weighted_auc(order: _Order, weight_U: IntArray) -> float:
    """AUC when every sample counts as often as its user; NaN where a class is absent."""
    weight_M = weight_U.astype(np.int32).take(order.negative_M)
    total = int(weight_M.sum(dtype=np.int64))
    below = np.zeros(
        len(weight_M) + 1, dtype=np.int32 if total < 1 << 30 else np.int64
    )  # half the width, half the time
    np.cumsum(weight_M, dtype=below.dtype, out=below[1:])
    weight_P = weight_U[order.positive_P].astype(np.float64)
    pairs = float(weight_P.sum()) * total
    twice_P: DoubleArray = np.add(below.take(order.below_P), below.take(order.upto_P), dtype=np.float64)
    won = float(weight_P @ twice_P)
    return won / (2 * pairs) if pairs else float("nan")


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
