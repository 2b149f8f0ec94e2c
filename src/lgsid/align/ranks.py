"""Random places by their rank of distance from an anchor, denser the nearer, without looking at all pairs.

Rank r is drawn with density ∝ 1 / (r + 8): nearly log-uniform, so that every doubling of the distance order gets the
same share, but not half of all draws at the first few ranks.

Shapes: N items, P places, A anchors (rows of items), B distinct places of anchors, K draws, C candidates, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lgsid.align.places import Places, uniforms
from lgsid.arrays import DoubleArray, IntArray
from lgsid.geo import SpatialIndex

_HALF_DENSE = 8.0  # places are drawn half as often at this rank as at the first
_FEW = 512  # so many places are all looked at
_PER_LEVEL = 32  # nearest places of a random sample
_GROWTH = 8.0  # at most so many times farther a level reaches than the one before
_EDGE_KM = 1e-9  # a place at the very edge of a level belongs to the nearer one, whatever is rounded


class NearestPlaces:
    """Draws from the nearest places at other spots than the anchor's own.

    Args:
        places: the catalogue.
        reach: so many nearest places (all, where there are fewer).
        seed: same seed, same draws.
    """

    def __init__(self, places: Places, reach: int, seed: int) -> None:
        self.places = places
        self.seed = seed
        self.reach = min(reach, len(places) - 1)
        self._index = places.index()

    def draw(self, rows_A: IntArray, near: int) -> IntArray:
        """Distinct places at ``near`` ranks, shape (A, near), nearest first; an anchor's do not depend on the others.

        None is at the anchor's own spot, except where the places looked at have fewer than ``near`` at others.
        """
        found = self._nearest(rows_A, near)
        rank_AK = near_ranks(uniforms(self.seed, "rank", rows_A, near), found.count_B[found.which_A])
        near_AK: IntArray = found.place_BC[found.which_A[:, None], rank_AK - 1]
        return near_AK

    def _nearest(self, rows_A: IntArray, near: int) -> _Nearest:
        places = self.places
        asked_B, which_A = np.unique(places.place_N[rows_A], return_inverse=True)
        wanted = self.reach + 1 if len(places) > _FEW else len(places)
        place_BC, km_BC = self._index.nearest(places.lat_P[asked_B], places.lon_P[asked_B], wanted)
        same_spot_BC = places.spot_P[place_BC] == places.spot_P[asked_B][:, None]
        last_BC = same_spot_BC.astype(np.uint8) + (place_BC == asked_B[:, None])
        place_BC = np.take_along_axis(place_BC, np.argsort(last_BC, axis=1, kind="stable"), axis=1)
        others_B = wanted - same_spot_BC.sum(axis=1)
        count_B = np.minimum(np.where(others_B >= near, others_B, wanted - 1), self.reach)
        return _Nearest(place_BC, count_B, km_BC[:, -1], which_A)


@dataclass(frozen=True)
class _Nearest:
    """Nearest places of the distinct places of some anchors.

    Attributes:
        place_BC: nearest first, those at the own spot last.
        count_B: so many of them may be drawn.
        edge_km_B: distance of the farthest that was looked at.
        which_A: row of each anchor.
    """

    place_BC: IntArray
    count_B: IntArray
    edge_km_B: DoubleArray
    which_A: IntArray


@dataclass(frozen=True)
class _Ring:
    """The nearest places of a sample that lie beyond the ring before: ``place_AC[:, first_A:first_A + count_A]``."""

    place_AC: IntArray
    first_A: IntArray
    count_A: IntArray


class PlacesOfEveryScale(NearestPlaces):
    """Draws from the whole catalogue: exact ranks for the nearest places, then ranks in ever thinner random samples.

    The catalogue is shuffled and dealt out into *hands*; an anchor looks at one of them, chosen by its row. Level l
    looks at the 32 nearest places of the first n_l of its hand, which stand for ranks up to 32 P / n_l, each level
    reaching at most eight times as far as the one before and the last one to the end. The places of a level that lie
    within the reach of the one before are left out, so no place is looked at twice and every anchor has a few hundred
    candidates. Different hands keep the lists of different anchors different.
    """

    def __init__(self, places: Places, reach: int, seed: int) -> None:
        super().__init__(places, len(places) if len(places) <= _FEW else reach, seed)
        span = len(places) - 1
        levels = int(np.ceil(np.log(span / self.reach) / np.log(_GROWTH))) if span > self.reach else 0
        self._reach_L = np.geomspace(self.reach, span, levels + 1) if levels else np.array([float(self.reach)])
        size_L = np.minimum(np.round(len(places) * _PER_LEVEL / self._reach_L[1:]), len(places)).astype(np.int64)
        dealt_HP = _dealt(len(places), int(size_L[0]), seed) if levels else np.empty((0, 0), dtype=np.int64)
        self._samples = [[_Sample.of(places, hand_P[:size]) for hand_P in dealt_HP] for size in size_L]

    def draw(self, rows_A: IntArray, near: int) -> IntArray:
        """As `NearestPlaces.draw`."""
        if not self._samples:
            return super().draw(rows_A, near)
        found = self._nearest(rows_A, near)
        nearest_A = found.count_B[found.which_A]
        rings = self._rings(rows_A, found.edge_km_B[found.which_A])
        span_A = np.full(len(rows_A), len(self.places) - 1)
        rank_AK = near_ranks(uniforms(self.seed, "rank", rows_A, near), span_A)
        number_AK = self._candidates(rank_AK, nearest_A, rings)
        which_A1 = np.arange(len(rows_A))[:, None]
        last_A1 = nearest_A[:, None]
        place_AK: IntArray = found.place_BC[found.which_A[:, None], np.minimum(number_AK, last_A1) - 1]
        for ring in rings:
            column_AK = ring.first_A[:, None] + np.clip(number_AK - last_A1 - 1, 0, ring.count_A[:, None] - 1)
            column_AK = np.minimum(column_AK, ring.place_AC.shape[1] - 1)  # empty rings are not drawn from
            place_AK = np.where(number_AK > last_A1, ring.place_AC[which_A1, column_AK], place_AK)
            last_A1 = last_A1 + ring.count_A[:, None]
        return place_AK

    def _candidates(self, rank_AK: IntArray, nearest_A: IntArray, rings: list[_Ring]) -> IntArray:
        """The candidates that stand for some ranks, distinct, numbered from 1 outwards: the nearest, then the rings."""
        last_A1 = nearest_A[:, None]
        number_AK = np.maximum(np.minimum(rank_AK, last_A1), 1)
        for ring, low, high in zip(rings, self._reach_L[:-1], self._reach_L[1:], strict=True):
            part_AK = np.ceil((rank_AK - low) / (high - low) * ring.count_A[:, None]).astype(np.int64)
            number_AK = np.where(rank_AK > low, last_A1 + np.minimum(part_AK, ring.count_A[:, None]), number_AK)
            last_A1 = last_A1 + ring.count_A[:, None]
        return _distinct(number_AK, last_A1[:, 0])

    def _rings(self, rows_A: IntArray, edge_km_A: DoubleArray) -> list[_Ring]:
        """For each level the places beyond the edge of the one before."""
        hand_A = (uniforms(self.seed, "hand", rows_A, 1)[:, 0] * len(self._samples[0])).astype(np.int64)
        rings = []
        for hands in self._samples:
            columns = min(_PER_LEVEL, len(hands[0].place_S))
            place_AC, km_AC = np.empty((len(rows_A), columns), dtype=np.int64), np.empty((len(rows_A), columns))
            for hand, sample in enumerate(hands):
                here = np.flatnonzero(hand_A == hand)
                place_AC[here], km_AC[here] = sample.nearest(self.places, rows_A[here], columns)
            first_A = (km_AC <= edge_km_A[:, None] + _EDGE_KM).sum(axis=1)
            rings.append(_Ring(place_AC, first_A, columns - first_A))
            edge_km_A = np.maximum(edge_km_A, km_AC[:, -1])
        return rings


@dataclass(frozen=True)
class _Sample:
    """Some places and their spatial index."""

    place_S: IntArray
    index: SpatialIndex

    @classmethod
    def of(cls, places: Places, place_S: IntArray) -> _Sample:
        ascending_S = np.sort(place_S)
        return cls(ascending_S, places.index(ascending_S))

    def nearest(self, places: Places, rows_A: IntArray, count: int) -> tuple[IntArray, DoubleArray]:
        own_A = places.place_N[rows_A]
        at_AC, km_AC = self.index.nearest(places.lat_P[own_A], places.lon_P[own_A], count)
        return self.place_S[at_AC], km_AC


def _dealt(places: int, size: int, seed: int) -> IntArray:
    """Places in random order, dealt out into as many hands of one size as there are, shape (H, size)."""
    shuffled_P = np.random.default_rng(seed).permutation(places)
    return shuffled_P[: places // size * size].reshape(-1, size)


def near_ranks(uniform_AK: DoubleArray, reach_A: IntArray) -> IntArray:
    """Distinct ranks of 1 … reach in ascending order, one from each of K equal slices of the law ∝ 1 / (rank + 8).

    Slices at the dense end can be narrower than one rank; a rank that is taken is replaced by the next.
    """
    count = uniform_AK.shape[1]
    slices = (np.arange(count) + uniform_AK) / count
    growth_A1 = (reach_A[:, None] + _HALF_DENSE) / _HALF_DENSE
    return _distinct(np.floor(_HALF_DENSE * (growth_A1**slices - 1)).astype(np.int64) + 1, reach_A)


def _distinct(ranks_AK: IntArray, most_A: IntArray) -> IntArray:
    """Ascending ranks from 1 made distinct: one that is taken is replaced by the next, at the end by one before."""
    step = np.arange(ranks_AK.shape[1])
    ranks_AK = np.maximum.accumulate(ranks_AK - step, axis=1) + step
    distinct: IntArray = np.minimum(ranks_AK, most_A[:, None] - step[::-1])
    return distinct
