"""AUC, exact and tie-aware, over all samples, within groups, and by user.

An AUC is the share of pairs of one positive and one negative in which the positive has the higher score; equal scores
count half. Pairs are counted in whole numbers, so that the order of the samples does not matter; the work is a sort.

Axes: S samples, G groups, P positives, M negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, IntArray
from lgsid.errors import DataError


@dataclass(frozen=True)
class GroupedAuc:
    """AUC within each of G groups.

    Attributes:
        auc_G: NaN where a group has no positives or no negatives.
        positives_G, negatives_G: samples of each group.
    """

    auc_G: DoubleArray
    positives_G: IntArray
    negatives_G: IntArray

    def defined(self) -> BoolArray:
        """Whether a group has both classes, of each of the G."""
        both_G: BoolArray = (self.positives_G > 0) & (self.negatives_G > 0)
        return both_G

    def of(self, group: int) -> dict[str, Any]:
        """AUC and counts of one group; the AUC is None where it is not defined."""
        return {
            "auc": float(self.auc_G[group]) if self.defined()[group] else None,
            "positives": int(self.positives_G[group]),
            "negatives": int(self.negatives_G[group]),
        }


def auc(score_S: AnyArray, label_S: AnyArray) -> float | None:
    """Area under the ROC curve; None where a class is absent.

    Args:
        score_S: finite scores of any kind: only their order counts.
        label_S: 1 or True for a positive.

    Raises:
        DataError: a score is not finite, a label is neither 0 nor 1, or the lengths differ.
    """
    value: float | None = grouped_auc(score_S, label_S).of(0)["auc"]
    return value


def grouped_auc(score_S: AnyArray, label_S: AnyArray, group_S: AnyArray | None = None, groups: int = 1) -> GroupedAuc:
    """AUC within groups of samples: pairs of samples of different groups do not count.

    Args:
        score_S, label_S: see `auc`.
        group_S: group of each sample, at least 0 and below 2³¹; None where all are of one.
        groups: G, at least; more where ``group_S`` says so.

    Raises:
        DataError: see `auc`.
    """
    label_S = checked_labels(label_S, len(score_S))
    key_S = order_keys(score_S)
    if group_S is not None:
        key_S = (group_S.astype(np.int64) << 32) + (key_S.astype(np.int64) + (1 << 31))
        groups = max(groups, int(group_S.max(initial=-1)) + 1)
    positive_P, negative_M = np.sort(key_S[label_S]), np.sort(key_S[~label_S])
    del key_S
    group_P, positives_G = _groups_of(positive_P, groups, group_S is None)
    _, negatives_G = _groups_of(negative_M, groups, group_S is None)
    before_G = np.cumsum(negatives_G) - negatives_G
    won_P = np.searchsorted(negative_M, positive_P, "left") + np.searchsorted(negative_M, positive_P, "right")
    won_G = np.bincount(group_P, weights=won_P - 2 * before_G[group_P], minlength=groups)
    pairs_G = positives_G.astype(np.float64) * negatives_G
    auc_G = np.divide(won_G, 2 * pairs_G, out=np.full(groups, np.nan), where=pairs_G > 0)
    return GroupedAuc(auc_G, positives_G, negatives_G)


def _groups_of(key_P: IntArray, groups: int, one: bool) -> tuple[IntArray, IntArray]:
    """Group of each key, and how many keys each group has."""
    group_P: IntArray = np.zeros(len(key_P), dtype=np.int64) if one else key_P >> 32
    return group_P, np.bincount(group_P, minlength=groups)


def order_keys(score_S: AnyArray) -> AnyArray:
    """Integers of 32 bits in the order of the scores, equal where these are.

    Raises:
        DataError: a score is not finite.
    """
    require_finite(score_S)
    if score_S.dtype not in (np.float16, np.float32):
        return np.unique(score_S, return_inverse=True)[1].astype(np.int32)
    # the bits of floats order like integers where they are positive, and the other way round where they are not
    bits_S = (score_S.astype(np.float32) + np.float32(0)).view(np.int32)  # adding 0 makes one zero of the two
    return bits_S ^ ((bits_S >> 31) & np.int32(0x7FFFFFFF))


def require_finite(score_S: AnyArray) -> None:
    """Refuse scores that are not finite.

    Raises:
        DataError: one is not.
    """
    wrong_S = np.flatnonzero(~np.isfinite(score_S))
    if len(wrong_S):
        raise DataError(f"the score of sample {wrong_S[0]} is {score_S[wrong_S[0]]}, expected a finite number")


def checked_labels(label_S: AnyArray, samples: int) -> BoolArray:
    """Labels as booleans.

    Raises:
        DataError: one is neither 0 nor 1, or there are not as many as scores.
    """
    if label_S.shape != (samples,):
        raise DataError(f"{samples} scores got labels of shape {label_S.shape}, expected one label for each score")
    if label_S.dtype != np.bool_:
        wrong_S = np.flatnonzero((label_S != 0) & (label_S != 1))
        if len(wrong_S):
            raise DataError(f"the label of sample {wrong_S[0]} is {label_S[wrong_S[0]]}, expected 0 or 1")
    return label_S.astype(np.bool_)


def gauc(score_S: AnyArray, label_S: AnyArray, user_S: AnyArray) -> dict[str, Any]:
    """AUC of each user, averaged with the user's number of samples as weight, as DIN's paper has it (arXiv 1706.06978).

    Users with samples of one class alone have no AUC: they are left out, and counted.

    Returns:
        gauc (None where no user is left), users, users_left_out, samples_left_out.
    """
    found = grouped_auc(score_S, label_S, _small_numbers(user_S))
    samples_G = found.positives_G + found.negatives_G
    used_G = found.defined()
    weight = int(samples_G[used_G].sum())
    return {
        "gauc": float(found.auc_G[used_G] @ samples_G[used_G]) / weight if weight else None,
        "users": int(np.count_nonzero(used_G)),
        "users_left_out": int(np.count_nonzero(~used_G & (samples_G > 0))),
        "samples_left_out": len(user_S) - weight,
    }


def _small_numbers(user_S: AnyArray) -> AnyArray:
    """Numbers of users that can be counted in an array of moderate length."""
    if len(user_S) and user_S.min() >= 0 and user_S.max() < 4 * len(user_S) + 1_000:
        return user_S
    return np.unique(user_S, return_inverse=True)[1]
