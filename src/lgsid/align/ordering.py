"""How well a reward is right: pair-order accuracy by distance, calibration, and the report of a fitted reward.

Shapes: A anchors, J members of a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.lists import Lists
from lgsid.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.data.labels import REGIONS, region_path
from lgsid.geo import haversine_km, sphere_to_degrees, unit_sphere

BANDS_KM = (0.5, 2.0, 10.0, 50.0)
"""Upper edges of the bands by how much farther one of the two is than the other; the last band is everything beyond."""
_BINS = 10
_CHUNK = 2_048


@dataclass(frozen=True)
class Order:
    """Pair-order accuracy over the pairs of one list whose distances from the anchor differ.

    A pair is right when the nearer of the two has the higher score, half right when the scores are equal. The anchor's
    own prompt takes part at distance 0.

    Attributes:
        pairs, accuracy: all such pairs (accuracy is None where there are none).
        told_pairs, told_accuracy: of these, the pairs whose two location texts differ; the others are two items at
            different spots whose prompts say the same place, which no reward can tell apart.
        bands: accuracy of the latter by the difference of the two distances.
    """

    pairs: int
    accuracy: float | None
    told_pairs: int
    told_accuracy: float | None
    bands: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class RewardReport:
    """What is known of a fitted reward; nothing in it depends on the machine's speed.

    Attributes:
        form, features, labels, sampling: as configured.
        anchors: number of lists by part ("train", "held_out").
        prompts: mismatched prompts encoded, repetitions included.
        train, held_out: pair order on the lists of mismatched prompts; no location of a held-out anchor was learnt.
        held_out_true: pair order of the held-out anchors with the candidates' own prompts, as G-DPO uses the reward.
        region_oracle: pair order of held-out anchors by the distance between the regions' centres: what knowing every
            region's place, but no street's, is worth on these lists; None where an item has no region.
        calibration: by tenth of the predicted label: mean prediction, mean label and count, on held-out anchors.
        train_loss, held_out_loss: by epoch.
        best_epoch: the one that was kept, from 1.
    """

    form: str
    features: str
    labels: str
    sampling: str
    anchors: Mapping[str, int]
    prompts: int
    train: Order
    held_out: Order
    held_out_true: Order
    region_oracle: Order | None
    calibration: tuple[Mapping[str, float], ...]
    train_loss: tuple[float, ...]
    held_out_loss: tuple[float, ...]
    best_epoch: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def pair_order(score_AJ: FloatArray, km_AJ: FloatArray, text_AJ: IntArray) -> Order:
    """Pair-order accuracy of scores.

    Args:
        score_AJ: scores of the members of A lists, higher is nearer.
        km_AJ: their distances from the anchor.
        text_AJ: numbers that are equal where the location texts are.
    """
    edges = np.array([0.0, *BANDS_KM, np.inf])
    count = np.zeros((2, len(edges)), dtype=np.float64)  # pairs and right ones by band, equal texts in the last column
    for start in range(0, len(score_AJ), _CHUNK):
        rows = slice(start, start + _CHUNK)
        gap, right, told = _pairs(score_AJ[rows], km_AJ[rows], text_AJ[rows])
        column = np.where(told, np.searchsorted(edges, gap, side="right") - 1, len(edges) - 1)
        count[0] += np.bincount(column, minlength=len(edges))
        count[1] += np.bincount(column, weights=right, minlength=len(edges))
    bands = tuple(
        {"from_km": low, "to_km": high, "pairs": int(count[0, band]), "accuracy": _share(*count[:, band])}
        for band, (low, high) in enumerate(zip((0.0, *BANDS_KM), (*BANDS_KM, None), strict=True))
    )
    pairs, right_pairs = count.sum(axis=1)
    told_pairs, told_right = count[:, :-1].sum(axis=1)
    return Order(int(pairs), _share(pairs, right_pairs), int(told_pairs), _share(told_pairs, told_right), bands)


def _pairs(score: FloatArray, km: FloatArray, text: IntArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Difference of distance, rightness (0, ½, 1) and difference of text of the pairs of different distance."""
    first, second = np.nonzero(~np.tri(score.shape[1], dtype=np.bool_))
    gap = km[:, second] - km[:, first]
    ahead = np.sign(gap) * (score[:, first] - score[:, second])
    right = (0.5 * (1 + np.sign(ahead))).astype(np.float32)
    differ = gap != 0
    return np.abs(gap)[differ], right[differ], (text[:, first] != text[:, second])[differ]


def _share(pairs: float, right: float) -> float | None:
    return round(float(right / pairs), 6) if pairs else None


def region_score(items: pl.DataFrame, lists: Lists) -> FloatArray | None:
    """Minus the distance in km between the centres of the anchor's and the member's region, shape (A, J).

    The region is the finest one known of an item; None where an item has none at all.
    """
    paths = [region_path(items, depth) for depth in range(len(REGIONS), 0, -1)]
    finest = pl.DataFrame({str(place): path for place, path in enumerate(paths)}).select(pl.coalesce(pl.all()))
    if finest.to_series().null_count():
        return None
    region_N = finest.to_series().rank("dense").to_numpy().astype(np.int64) - 1
    lat_N, lon_N = _centres(items, region_N)
    anchor_A1 = lists.anchors[:, None]
    km = haversine_km(lat_N[anchor_A1], lon_N[anchor_A1], lat_N[lists.item_AJ], lon_N[lists.item_AJ])
    return (-km).astype(np.float32)


def _centres(items: pl.DataFrame, region_N: IntArray) -> tuple[DoubleArray, DoubleArray]:
    """Latitude and longitude of each item's region's centre."""
    xyz_N3 = unit_sphere(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy())
    sums_R3: DoubleArray = np.stack([np.bincount(region_N, weights=xyz_N3[:, axis]) for axis in range(3)], axis=1)
    lat_R, lon_R = sphere_to_degrees(sums_R3)
    return lat_R[region_N], lon_R[region_N]


def calibration(predicted: FloatArray, label: FloatArray) -> tuple[dict[str, float], ...]:
    """Mean prediction, mean label and count in ten bins of equal width of the prediction; empty bins are left out."""
    bins = np.minimum((predicted.ravel() * _BINS).astype(np.int64), _BINS - 1)
    count, guess, truth = (
        np.bincount(bins, weights=weights, minlength=_BINS) for weights in (None, predicted.ravel(), label.ravel())
    )
    return tuple(
        {
            "predicted": round(float(guess[b] / count[b]), 6),
            "label": round(float(truth[b] / count[b]), 6),
            "count": int(count[b]),
        }
        for b in range(_BINS)
        if count[b]
    )
