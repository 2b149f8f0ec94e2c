"""What the scores of a ranker are worth: AUC over all samples, by user, distance, popularity and novelty; log loss and
calibration.

Negatives are drawn, so many for each visit, and nothing here undoes that: log loss and calibration are about the
samples as they are drawn, in which one of 1 + negatives is a visit, and not about all a user could have chosen.

A figure that is not defined (an AUC without negatives, the log loss of what is not a logit) is None, never NaN.

Axes: S samples (one candidate of one request), K bins, R requests, C candidates of a request, N items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import haversine_km
from lgsid.rank.auc import auc as auc
from lgsid.rank.auc import checked_labels, gauc, grouped_auc, require_finite
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


# --- Probabilities ----------------------------------------------------------------------------------------------------
def log_loss(logit_S: AnyArray, label_S: AnyArray) -> float | None:
    """Mean binary cross-entropy in nats, taken from the logits, so that no probability is rounded to 0 or 1.

    Raises:
        DataError: see `auc`.
    """
    label_S = checked_labels(label_S, len(logit_S))
    require_finite(logit_S)
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
    require_finite(logit_S)
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
