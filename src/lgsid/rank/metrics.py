"""What the scores of a ranker are worth: AUC over all samples, by user, distance, popularity and novelty; log loss and
calibration.

Every AUC here is the share of pairs of one visit and one negative in which the visit has the higher score; equal scores
count half. It is counted exactly, in integers, so that the order of the samples does not matter; the work is a sort.

Negatives are drawn, so many for each visit, and nothing here undoes that: log loss and calibration are about the
samples as they are drawn, in which one of 1 + negatives is a visit, and not about all a user could have chosen.

A figure that is not defined (an AUC without negatives, the log loss of what is not a logit) is None, never NaN.

Axes: S samples (one candidate of one request), G groups, P positives, R requests, C candidates of a request, N items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import haversine_km
from lgsid.rank.loader import Requests

DISTANCE_EDGES_KM = (1.0, 2.0, 5.0, 10.0)
"""Between the distance bands; a sample on an edge is in the band above."""
POPULARITY_BANDS = 5
"""Bands of popularity, of equally many samples as far as samples of equally popular items stay together."""
CALIBRATION_BINS = 20
"""Bins of the calibration error, of equally many samples as far as samples of equal scores stay together."""
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Samples:
    """What is known of S samples besides their scores.

    Attributes:
        label_S: True for a visit.
        user_S: number of the user, integers.
        request_S: number of the request, integers.
        distance_km_S: from where the user is to the candidate; NaN where that is unknown.
        seen_S: visits of the candidate in the training period, integers.
        first_visit_S: whether the sample's *request* is one whose positive its user had never visited.

    Raises:
        DataError: lengths differ.
    """

    label_S: BoolArray
    user_S: AnyArray
    request_S: AnyArray
    distance_km_S: AnyArray | None = None
    seen_S: AnyArray | None = None
    first_visit_S: BoolArray | None = None

    def __post_init__(self) -> None:
        lengths = {name: array.shape for name, array in self._arrays().items()}
        if len(set(lengths.values())) > 1 or self.label_S.ndim != 1:
            raise DataError(f"samples have arrays of shapes {lengths}, expected one number for each sample in all")

    def __len__(self) -> int:
        return len(self.label_S)

    def _arrays(self) -> dict[str, AnyArray]:
        found = ((column.name, getattr(self, column.name)) for column in fields(self))
        return {name: array for name, array in found if array is not None}

    def where(self, keep_S: BoolArray) -> Samples:
        """Those of the samples that a mask names."""
        return Samples(**{name: array[keep_S] for name, array in self._arrays().items()})

    @classmethod
    def of_requests(
        cls, requests: Requests, lat_deg_N: DoubleArray, lon_deg_N: DoubleArray, seen_N: AnyArray
    ) -> Samples:
        """The samples of R requests with C candidates each, request by request, the positive first.

        Args:
            requests: see `lgsid.rank.samples`.
            lat_deg_N, lon_deg_N: places of the items.
            seen_N: visits of each item in the training period.
        """
        item_RC = requests.candidates
        label_RC = np.zeros(item_RC.shape, dtype=np.bool_)
        label_RC[:, :1] = True
        distance_RC = np.empty(item_RC.shape, dtype=np.float32)
        for rows in _blocks(len(item_RC)):
            here = requests.here_lat_deg[rows, None], requests.here_lon_deg[rows, None]
            distance_RC[rows] = haversine_km(*here, lat_deg_N[item_RC[rows]], lon_deg_N[item_RC[rows]])
        candidates = item_RC.shape[1]
        return cls(
            label_S=label_RC.ravel(),
            user_S=np.repeat(requests.user, candidates),
            request_S=np.repeat(np.arange(len(item_RC), dtype=np.int32), candidates),
            distance_km_S=distance_RC.ravel(),
            seen_S=seen_N[item_RC].ravel(),
            first_visit_S=np.repeat(requests.first_visit, candidates),
        )


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

    @property
    def defined_G(self) -> BoolArray:
        """Whether a group has both classes."""
        both: BoolArray = (self.positives_G > 0) & (self.negatives_G > 0)
        return both

    def of(self, group: int) -> dict[str, Any]:
        """AUC and counts of one group; the AUC is None where it is not defined."""
        return {
            "auc": float(self.auc_G[group]) if self.defined_G[group] else None,
            "positives": int(self.positives_G[group]),
            "negatives": int(self.negatives_G[group]),
        }


# --- AUC --------------------------------------------------------------------------------------------------------------
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
    _require_finite(score_S)
    if score_S.dtype not in (np.float16, np.float32):
        return np.unique(score_S, return_inverse=True)[1].astype(np.int32)
    # the bits of floats order like integers where they are positive, and the other way round where they are not
    bits_S = (score_S.astype(np.float32) + np.float32(0)).view(np.int32)  # adding 0 makes one zero of the two
    return bits_S ^ ((bits_S >> 31) & np.int32(0x7FFFFFFF))


def _require_finite(score_S: AnyArray) -> None:
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
    """AUC of each user, averaged with the user's number of samples as weight (as in the paper of DIN, arXiv 1706.06978).

    Users with samples of one class alone have no AUC: they are left out, and counted.

    Returns:
        gauc (None where no user is left), users, users_left_out, samples_left_out.
    """
    found = grouped_auc(score_S, label_S, _small_numbers(user_S))
    samples_G = found.positives_G + found.negatives_G
    used_G = found.defined_G
    weight = int(samples_G[used_G].sum())
    return {
        "gauc": float(found.auc_G[used_G] @ samples_G[used_G]) / weight if weight else None,
        "users": int(np.count_nonzero(used_G)),
        "users_left_out": int(np.count_nonzero(~used_G & (samples_G > 0))),
        "samples_left_out": len(user_S) - weight,
    }


def _small_numbers(user_S: AnyArray) -> AnyArray:
    """Numbers of users that can be counted in an array of moderate length."""
    if len(user_S) and 0 <= user_S.min() and user_S.max() < 4 * len(user_S) + 1_000:
        return user_S
    return np.unique(user_S, return_inverse=True)[1]


# --- Probabilities ----------------------------------------------------------------------------------------------------
def log_loss(logit_S: AnyArray, label_S: AnyArray) -> float | None:
    """Mean binary cross-entropy in nats, taken from the logits, so that no probability is rounded to 0 or 1.

    Raises:
        DataError: see `auc`.
    """
    label_S = checked_labels(label_S, len(logit_S))
    _require_finite(logit_S)
    total = 0.0
    for rows in _blocks(len(logit_S)):
        x = logit_S[rows].astype(np.float64)
        total += float(np.logaddexp(0.0, np.where(label_S[rows], -x, x)).sum())
    return total / len(logit_S) if len(logit_S) else None


def calibration(logit_S: AnyArray, label_S: AnyArray, bins: int = CALIBRATION_BINS) -> dict[str, Any]:
    """How far predicted probabilities are what happens, without any correction for the drawing of negatives.

    Returns:
        predicted and observed: mean probability and share of positives; ratio: of the two, 1 is right, None without
        positives; error: expected calibration error, the mean of |predicted − observed| over the bins, weighted by
        their samples; bins: from the least scores to the highest, samples, predicted and observed of each.
    """
    from scipy.special import expit

    label_S = checked_labels(label_S, len(logit_S))
    _require_finite(logit_S)
    if not len(logit_S):
        return {"predicted": None, "observed": None, "ratio": None, "error": None, "bins": []}
    bin_S, _ = equal_mass(logit_S, bins)
    samples_K = np.bincount(bin_S)
    predicted_K = np.bincount(bin_S, weights=expit(logit_S.astype(np.float32)))
    observed_K = np.bincount(bin_S, weights=label_S)
    predicted, observed = float(predicted_K.sum() / len(logit_S)), float(observed_K.sum() / len(logit_S))
    rows = zip(samples_K.tolist(), (predicted_K / samples_K).tolist(), (observed_K / samples_K).tolist(), strict=True)
    return {
        "predicted": predicted,
        "observed": observed,
        "ratio": predicted / observed if observed else None,
        "error": float(np.abs(predicted_K - observed_K).sum() / len(logit_S)),
        "bins": [dict(zip(("samples", "predicted", "observed"), row, strict=True)) for row in rows],
    }


def equal_mass(value_S: AnyArray, bins: int) -> tuple[IntArray, AnyArray]:
    """Bins of equally many samples, cut where the values at equal shares of the samples lie.

    Samples of equal values stay in one bin, so bins may be uneven, and fewer than asked for; none is empty.

    Returns:
        bin of each sample, and the cuts: a sample is in the bin after all the cuts that are at most its value.
    """
    if not len(value_S):
        return np.zeros(0, dtype=np.int64), value_S[:0]
    sorted_S = np.sort(value_S)
    edges = np.unique(sorted_S[np.arange(1, bins) * len(sorted_S) // bins])
    edges = edges[edges > sorted_S[0]]
    return np.searchsorted(edges, value_S, "right"), edges


# --- All of it --------------------------------------------------------------------------------------------------------
def measure(score_S: FloatArray | DoubleArray, samples: Samples, logits: bool = True) -> dict[str, Any]:
    """All figures of a score vector, ready for JSON.

    Args:
        score_S: finite scores; logits of a visit where ``logits`` says so.
        samples: what is known of them.
        logits: whether the scores are logits; where not, log loss and calibration are None.

    Returns:
        samples, positives, requests, users: counts;
        auc, log_loss, calibration (see `calibration`);
        gauc, and gauc_users: see `gauc`;
        by_distance: AUC within each band, with from_km and to_km (None: without end) and counts, and unknown: samples
        whose distance is not known; by_popularity: AUC within each band, with the fewest and most visits in the
        training period of an item in it, and counts; first_visits, revisits: AUC over the requests whose positive the
        user had never, or had already, visited, with counts; cold: AUC over the samples, positive and negative, of
        items without a visit in the training period, with counts. None where the samples do not know what it takes.

    Raises:
        DataError: see `auc`.
    """
    label_S = samples.label_S
    of_users = gauc(score_S, label_S, samples.user_S)
    return {
        "samples": len(samples),
        "positives": int(np.count_nonzero(label_S)),
        "requests": len(np.unique(samples.request_S)),
        "users": of_users["users"] + of_users["users_left_out"],
        "auc": auc(score_S, label_S),
        "gauc": of_users.pop("gauc"),
        "gauc_users": of_users,
        "log_loss": log_loss(score_S, label_S) if logits else None,
        "calibration": calibration(score_S, label_S) if logits else None,
        "by_distance": _by_distance(score_S, samples),
        "by_popularity": _by_popularity(score_S, samples),
        **_by_novelty(score_S, samples),
    }


def _by_distance(score_S: AnyArray, samples: Samples) -> dict[str, Any] | None:
    if samples.distance_km_S is None:
        return None
    bands = len(DISTANCE_EDGES_KM) + 1
    # NaN sorts behind all edges, so it gets a group of its own
    band_S = np.where(
        np.isnan(samples.distance_km_S), bands, np.searchsorted(DISTANCE_EDGES_KM, samples.distance_km_S, "right")
    )
    found = grouped_auc(score_S, samples.label_S, band_S, bands + 1)
    ends = zip((0.0, *DISTANCE_EDGES_KM), (*DISTANCE_EDGES_KM, None), strict=True)
    rows = [{"from_km": low, "to_km": high, **found.of(band)} for band, (low, high) in enumerate(ends)]
    return {"bands": rows, "unknown": int(np.count_nonzero(band_S == bands))}


def _by_popularity(score_S: AnyArray, samples: Samples) -> list[dict[str, Any]] | None:
    if samples.seen_S is None:
        return None
    band_S, edges = equal_mass(samples.seen_S, POPULARITY_BANDS)
    found = grouped_auc(score_S, samples.label_S, band_S)
    rows = []
    for band in range(len(edges) + 1 if len(band_S) else 0):
        seen = samples.seen_S[band_S == band]
        rows.append({"from_visits": int(seen.min()), "to_visits": int(seen.max()), **found.of(band)})
    return rows


def _by_novelty(score_S: AnyArray, samples: Samples) -> dict[str, Any]:
    result: dict[str, Any] = {"first_visits": None, "revisits": None, "cold": None}
    if samples.first_visit_S is not None:
        found = grouped_auc(score_S, samples.label_S, samples.first_visit_S, 2)
        result |= {"first_visits": found.of(1), "revisits": found.of(0)}
    if samples.seen_S is not None:
        result["cold"] = grouped_auc(score_S, samples.label_S, samples.seen_S == 0, 2).of(1)
    return result


def _blocks(total: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, total)) for start in range(0, total, _BLOCK))
