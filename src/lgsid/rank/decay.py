"""How visits thin out with distance: the gravity model of shopping trips, fitted to visits.

Reference: Huff, "A Probabilistic Analysis of Shopping Center Trade Areas" (Land Economics, 1963). From where a user is

    P(item) ∝ mass of the item · f(distance to it)

where the mass is how often the item is visited. Huff's f is a power; here it is a step function, which is as easy to
fit and need not be a power. Each round multiplies f of a band by the moves that went there over those that the model
sends there (iterative proportional fitting), which is the way to the highest likelihood.

Axes: M moves, N items, B bands of distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, IntArray
from lgsid.geo import DECAY_EDGES_KM, km_to_chord

UNSEEN = 0.5
"""Visits that every item has beside those that were counted (Krichevsky and Trofimov's estimate of a share)."""
_LOOKED, _MOVES, _ITEMS, _ROUNDS = 200_000, 4_000, 20_000, 100
_AT_ONCE = 1 << 21
"""Distances that exist at once."""


@dataclass(frozen=True)
class DistanceDecay:
    """A fitted f.

    Attributes:
        log_f_B: its logarithm in each band of `lgsid.geo.DECAY_EDGES_KM`; 0 on the mean over the moves.
    """

    log_f_B: DoubleArray

    @classmethod
    def fit(cls, from_M: AnyArray, to_M: AnyArray, xyz_N3: DoubleArray, mass_N: AnyArray, seed: int = 0) -> Self:
        """Fit to moves from item to item; of many moves or items to a sample.

        Args:
            from_M, to_M: rows of the items, see `moves_of`.
            xyz_N3: places of the items, on the unit sphere.
            mass_N: visits of each item.
            seed: of the samples.
        """
        rng = np.random.default_rng(seed)
        if len(to_M) > _MOVES:
            chosen = rng.choice(len(to_M), _MOVES, replace=False)
            from_M, to_M = from_M[chosen], to_M[chosen]
        from_M3 = xyz_N3[from_M]
        weight_N = mass_N + UNSEEN
        to_N3 = xyz_N3
        if len(xyz_N3) > _ITEMS:  # drawn by their weight, so that all that are drawn weigh the same
            to_N3 = xyz_N3[rng.choice(len(xyz_N3), _ITEMS, p=weight_N / weight_N.sum())]
            weight_N = np.ones(_ITEMS)
        bands = len(DECAY_EDGES_KM) + 1
        went_B = np.bincount(bands_between(from_M3, xyz_N3[to_M]), minlength=bands)
        mass_MB = _mass_by_band(from_M3, to_N3, weight_N, bands)
        known_B = mass_MB.sum(0) > 0
        if not known_B.any():
            return cls(np.zeros(bands))
        # one more move that goes by mass alone: no band is impossible because nobody of the sample went there
        went_B = went_B + (mass_MB / mass_MB.sum(1, keepdims=True)).mean(0)
        f_B = np.ones(bands)
        for _ in range(_ROUNDS):
            share_MB = mass_MB * f_B
            sent_B = (share_MB / share_MB.sum(1, keepdims=True)).sum(0)
            f_B[known_B] *= went_B[known_B] / sent_B[known_B]
            f_B /= np.exp(np.average(np.log(f_B[known_B]), weights=went_B[known_B]))
        return cls(_as_the_nearest(np.log(f_B), known_B))

    def between(self, from_M3: DoubleArray, to_M3: DoubleArray) -> DoubleArray:
        """log f of the distances between places (…, 3) and (…, 3) on the unit sphere; 0 where one of them is NaN."""
        known = np.isfinite(from_M3).all(-1) & np.isfinite(to_M3).all(-1)
        found: DoubleArray = np.where(known, self.log_f_B[bands_between(from_M3, to_M3)], 0.0)
        return found


@dataclass(frozen=True)
class Gravity:
    """Masses, places and the decay between them: what draws users to items.

    Attributes:
        xyz_N3: places of the items, on the unit sphere.
        log_mass_N: logarithms of their visits.
        decay: with distance.
    """

    xyz_N3: DoubleArray
    log_mass_N: DoubleArray
    decay: DistanceDecay

    @classmethod
    def fit(cls, xyz_N3: DoubleArray, visits_N: AnyArray, user_E: AnyArray, item_E: AnyArray) -> Self:
        """Fit to visits.

        Args:
            xyz_N3: places of the items, on the unit sphere.
            visits_N: visits of each item.
            user_E, item_E: user and item of each visit, sorted by user and time.
        """
        decay = DistanceDecay.fit(*moves_of(user_E, item_E), xyz_N3, visits_N)
        return cls(xyz_N3, np.log(visits_N + UNSEEN), decay)

    def scores(self, from_M3: DoubleArray, item_M: AnyArray) -> DoubleArray:
        """log of mass times decay (…) of items (…), seen from places (…, 3) on the unit sphere; of a place that is NaN
        the mass alone."""
        found: DoubleArray = self.log_mass_N[item_M] + self.decay.between(from_M3, self.xyz_N3[item_M])
        return found


def bands_between(from_M3: DoubleArray, to_M3: DoubleArray) -> IntArray:
    """Band of the distance between places (…, 3) and (…, 3) on the unit sphere."""
    squared = sum(np.square(from_M3[..., axis] - to_M3[..., axis]) for axis in range(3))
    found: IntArray = np.searchsorted(np.square(km_to_chord(DECAY_EDGES_KM)), np.asarray(squared), side="right")
    return found


def _as_the_nearest(values_B: DoubleArray, known_B: BoolArray) -> DoubleArray:
    """The values, with those of bands in which there are no items from the nearest band that has some."""
    known = np.flatnonzero(known_B)
    found: DoubleArray = values_B[known[np.abs(np.arange(len(values_B))[:, None] - known).argmin(1)]]
    return found


def _mass_by_band(from_M3: DoubleArray, to_N3: DoubleArray, weight_N: AnyArray, bands: int) -> DoubleArray:
    """Weight of the items in each band of distance from each move's begin, (M, B)."""
    found = np.empty((len(from_M3), bands))
    step = max(1, _AT_ONCE // max(1, len(to_N3)))
    for at in range(0, len(from_M3), step):
        band_mN = bands_between(from_M3[at : at + step, None], to_N3)
        rows = len(band_mN)
        cell_mN = band_mN + np.arange(rows)[:, None] * bands
        mass = np.bincount(cell_mN.ravel(), np.broadcast_to(weight_N, band_mN.shape).ravel(), rows * bands)
        found[at : at + rows] = mass.reshape(rows, bands)
    return found


def moves_of(user_E: AnyArray, item_E: AnyArray, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Items that users went from and to: one visit and the next of the same user; of many visits a sample.

    Args:
        user_E, item_E: user and item of each visit, sorted by user and time.
        seed: of the sample.
    """
    at_E = np.arange(max(0, len(user_E) - 1))
    if len(at_E) > _LOOKED:
        at_E = np.unique(np.random.default_rng(seed).integers(0, len(user_E) - 1, _LOOKED))
    at_E = at_E[user_E[at_E] == user_E[at_E + 1]]
    return item_E[at_E].astype(np.int64), item_E[at_E + 1].astype(np.int64)
