"""Hard negatives of the reward model's lists: other places, dense near the anchor and sparse far away.

After LGSID (arXiv 2511.14221), "density-aware hard negative sampling": the candidates of an item are sorted by distance
(haversine) and sampled by *rank*, because "near" is hundreds of metres in a city centre and tens of kilometres in a
sparse county. A list has at most one negative a spot, and none at the anchor's own (a prompt with the same place is no
mismatch); only where a catalogue has fewer than K other spots, further items of the same spots fill the list.

`density_aware` draws the ranks of near negatives from the nearest 128 places, `multiscale` from the whole catalogue by
the same law (`lgsid.align.ranks`); both add negatives from anywhere.

Shapes: N items, A anchors (rows of items), K negatives of a list, P places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lgsid.align.places import Places, in_chunks, uniforms
from lgsid.align.ranks import NearestPlaces, PlacesOfEveryScale
from lgsid.arrays import DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import haversine_km

NEIGHBOURHOOD = 128
"""Nearest places whose ranks are exact."""
_CHUNK = 16_384
_TRIES = 8


def density_aware(
    lat_deg: npt.ArrayLike,
    lon_deg: npt.ArrayLike,
    anchors_A: IntArray,
    *,
    negatives: int = 15,
    far_share: float = 0.2,
    seed: int,
    neighbourhood: int = NEIGHBOURHOOD,
) -> tuple[IntArray, DoubleArray]:
    """Negatives by rank of distance: most from the nearest places, denser the nearer, the rest from anywhere.

    Near negatives: rank r among the nearest places is drawn with density ∝ 1 / (r + 8), one draw from each of as many
    equal slices of that law as there are near negatives, so every list covers every scale of its neighbourhood. Far
    negatives: items drawn uniformly from the catalogue. Ranks are exact (a k-d tree), time is N log N, and a list
    depends on catalogue, seed and anchor alone, not on the other anchors.

    Args:
        lat_deg, lon_deg: N WGS-84 coordinates.
        anchors_A: rows of the anchors.
        negatives: K.
        far_share: share of the K that are far, rounded to whole negatives.
        seed: same seed, same lists.
        neighbourhood: nearest places that near negatives come from (all, where there are fewer).

    Returns:
        rows of the negatives and their distances in km, both of shape (A, K), nearest first; distinct within a list.

    Raises:
        DataError: there are fewer than K + 1 items, an option is out of range, an anchor is no row, or coordinates are
            not finite.
    """
    return _sample(lat_deg, lon_deg, anchors_A, negatives, far_share, seed, neighbourhood, NearestPlaces)


def multiscale(
    lat_deg: npt.ArrayLike,
    lon_deg: npt.ArrayLike,
    anchors_A: IntArray,
    *,
    negatives: int = 15,
    far_share: float = 0.2,
    seed: int,
    neighbourhood: int = NEIGHBOURHOOD,
) -> tuple[IntArray, DoubleArray]:
    """Negatives of every scale: rank of distance drawn log-uniformly over the whole catalogue, the rest from anywhere.

    As `density_aware`, but the law ∝ 1 / (r + 8) goes on to the farthest place, so that streets, districts, cities and
    provinces all get their share of a list. Ranks are exact among the nearest places; a larger rank r is drawn from
    the nearest places in a random sample of a fraction f of the catalogue, in which rank f · r stands for it
    (`PlacesOfEveryScale`). Up to 512 places all ranks are exact. Time is N log N.

    Arguments, results and errors are those of `density_aware`; ``neighbourhood`` is the number of exact ranks.
    """
    return _sample(lat_deg, lon_deg, anchors_A, negatives, far_share, seed, neighbourhood, PlacesOfEveryScale)


def uniform(
    lat_deg: npt.ArrayLike,
    lon_deg: npt.ArrayLike,
    anchors_A: IntArray,
    *,
    negatives: int = 15,
    far_share: float = 0.2,
    seed: int,
) -> tuple[IntArray, DoubleArray]:
    """Negatives drawn uniformly from the catalogue, for comparison: every one of them is "far".

    Arguments, results and errors are those of `density_aware`; ``far_share`` is checked and has no effect, it is taken
    so that either sampler can be called in the other's place.
    """
    _check(len(np.asarray(lat_deg)), np.asarray(anchors_A), negatives, far_share)
    return density_aware(lat_deg, lon_deg, anchors_A, negatives=negatives, far_share=1.0, seed=seed)


def _sample(
    lat_deg: npt.ArrayLike,
    lon_deg: npt.ArrayLike,
    anchors_A: IntArray,
    negatives: int,
    far_share: float,
    seed: int,
    neighbourhood: int,
    law: type[NearestPlaces],
) -> tuple[IntArray, DoubleArray]:
    anchors_A = np.asarray(anchors_A, dtype=np.int64)
    places = Places.of(lat_deg, lon_deg, at_least=negatives + 1)
    _check(len(places.place_N), anchors_A, negatives, far_share)
    near = negatives - round(far_share * negatives)
    near_places = law(places, max(neighbourhood, negatives), seed) if near else None
    barred = _barred_spots(places, negatives)
    lat, lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    index_AK = np.empty((len(anchors_A), negatives), dtype=np.int64)
    distance_AK = np.empty((len(anchors_A), negatives))
    for chunk in in_chunks(places, anchors_A, _CHUNK):
        rows = anchors_A[chunk]
        chosen = np.full((len(rows), negatives), -1, dtype=np.int64)
        if near_places is not None:
            chosen[:, :near] = near_places.draw(rows, near)
        _add_far_places(places, barred, rows, chosen, near, seed)
        items = places.pick(chosen, rows, uniforms(seed, "item", rows, negatives))
        km = haversine_km(lat[rows, None], lon[rows, None], lat[items], lon[items])
        order = np.argsort(km, axis=1, kind="stable")
        index_AK[chunk] = np.take_along_axis(items, order, axis=1)
        distance_AK[chunk] = np.take_along_axis(km, order, axis=1)
    return index_AK, distance_AK


def _add_far_places(
    places: Places, barred_P: IntArray, rows_A: IntArray, chosen_AK: IntArray, first: int, seed: int
) -> None:
    """Fill the columns from ``first`` on with the places of uniformly drawn items, no place twice in a list."""
    own_A = places.place_N[rows_A]
    barred_A = barred_P[own_A]
    for column in range(first, chosen_AK.shape[1]):
        draws_AT = uniforms(seed, f"far {column}", rows_A, _TRIES + 1)
        start_A = (draws_AT[:, _TRIES] * len(places)).astype(np.int64)
        open_A, step = np.arange(len(rows_A)), 0
        while len(open_A):
            if step < _TRIES:
                item_A = (draws_AT[open_A, step] * len(places.place_N)).astype(np.int64)
                place_A = places.place_N[item_A]
            else:  # most items are at a few spots: the next free place from a random one on
                place_A = (start_A[open_A] + step) % len(places)
            taken_A = (chosen_AK[open_A] == place_A[:, None]).any(axis=1) | (place_A == own_A[open_A])
            free_A = ~taken_A & (places.spot_P[place_A] != barred_A[open_A])
            chosen_AK[open_A[free_A], column] = place_A[free_A]
            open_A, step = open_A[~free_A], step + 1


def _barred_spots(places: Places, negatives: int) -> IntArray:
    """For each place its own spot, or -1 (no spot) where a list is longer than what the other spots offer."""
    _, which_P, count = np.unique(places.spot_P, return_inverse=True, return_counts=True)
    return np.where(len(places) - count[which_P] >= negatives, places.spot_P, -1)


def _check(items: int, anchors_A: IntArray, negatives: int, far_share: float) -> None:
    if negatives < 1 or not 0 <= far_share <= 1:
        raise DataError(
            f"negatives got {negatives} a list with far share {far_share}, expected at least 1 and a share of 0 to 1",
            "change align.alignment.reward.negatives or far_share",
        )
    if items < negatives + 1:
        raise DataError(
            f"{negatives} negatives a list need at least {negatives + 1} items, got {items}",
            f"--set align.alignment.reward.negatives={max(items - 1, 1)}, or bring more items",
        )
    if len(anchors_A) and not (anchors_A.min() >= 0 and anchors_A.max() < items):
        raise DataError(f"anchors {anchors_A.min()} … {anchors_A.max()} are no rows of {items} items")
