"""Random items from each distance band around an anchor, from the nearest street to the other end of the country.

Shapes: N items, P places, A anchors, B bands, D draws, C candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lgsid.align.places import Places, in_chunks, uniforms
from lgsid.arrays import BoolArray, DoubleArray, IntArray

_NEAREST, _THINNING, _FEW = 128, 8, 512
_CHUNK = 4_096


class BandSampler:
    """Draws items by distance band without looking at all pairs.

    Candidates of an anchor are its 128 nearest places, its 128 nearest in a random eighth of the places, in a 64th, and
    so on until a sample has at most 512 places, which are all candidates: a few hundred that cover every scale
    alike. A band takes its items from the sample that holds most of it. Up to 512 places that is exact; beyond, a band
    with less than a few per cent of the places inside its outer edge can be passed over.

    Args:
        lat_deg, lon_deg: N WGS-84 coordinates.
        bands_km: upper edges of the bands, ascending; the last band is everything beyond them.
        seed: same seed, same draws.
    """

    def __init__(self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, bands_km: Sequence[float], seed: int) -> None:
        self._places = Places.of(lat_deg, lon_deg)
        self._edges_km = np.array([*bands_km, np.inf])
        self._seed = seed
        shuffled = np.random.default_rng(seed).permutation(len(self._places))
        sizes = [len(shuffled)]
        while sizes[-1] > _FEW:
            sizes.append(sizes[-1] // _THINNING)
        samples = [np.sort(shuffled[:size]) for size in sizes]
        self._samples = [(sample, self._places.index(sample)) for sample in samples]

    def draw(self, anchors_A: IntArray, draws: int) -> IntArray:
        """Items of each band, shape (A, B, D), never the anchor; -1 where a band is empty. Repetitions can happen.

        What is drawn for an anchor does not depend on the other anchors.
        """
        drawn_ABD = np.empty((len(anchors_A), len(self._edges_km), draws), dtype=np.int64)
        for chunk in in_chunks(self._places, anchors_A, _CHUNK):
            drawn_ABD[chunk] = self._draw(anchors_A[chunk], draws)
        return drawn_ABD

    def _draw(self, rows_A: IntArray, draws: int) -> IntArray:
        shape = (len(rows_A), len(self._edges_km), draws)
        place_ABD = np.full(shape, -1, dtype=np.int64)
        most_AB = np.zeros(shape[:2], dtype=np.int64)
        uniform_ABD = uniforms(self._seed, "place", rows_A, shape[1] * draws).reshape(shape)
        for level in range(len(self._samples)):
            found_AC, first_AB, count_AB = self._candidates(level, rows_A)
            better: BoolArray = count_AB > most_AB
            most_AB = np.where(better, count_AB, most_AB)
            column_ABD = first_AB[..., None] + (uniform_ABD * count_AB[..., None]).astype(np.int64)
            column_ABD = np.minimum(column_ABD, found_AC.shape[1] - 1)  # empty bands are not kept
            place_ABD = np.where(
                better[..., None], found_AC[np.arange(len(rows_A))[:, None, None], column_ABD], place_ABD
            )
        uniform_AC = uniforms(self._seed, "item", rows_A, shape[1] * draws)
        return self._places.pick(place_ABD.reshape(len(rows_A), -1), rows_A, uniform_AC).reshape(shape)

    def _candidates(self, level: int, rows_A: IntArray) -> tuple[IntArray, IntArray, IntArray]:
        """Nearest places of one sample, and where among them each band begins and how many it has."""
        sample, index = self._samples[level]
        own_A = self._places.place_N[rows_A]
        wanted = len(sample) if len(sample) <= _FEW else _NEAREST
        at_C, km_AC = index.nearest(self._places.lat_P[own_A], self._places.lon_P[own_A], wanted)
        found_AC = sample[at_C]
        alone_AC = (found_AC == own_A[:, None]) & (self._places.size_P[own_A] == 1)[:, None]
        end_AB = self._up_to_edges(km_AC)
        first_AB = np.concatenate([alone_AC.any(axis=1)[:, None].astype(np.int64), end_AB[:, :-1]], axis=1)
        return found_AC, first_AB, np.maximum(end_AB - first_AB, 0)

    def _up_to_edges(self, km_AC: DoubleArray) -> IntArray:
        return np.stack([(km_AC <= edge).sum(axis=1) for edge in self._edges_km], axis=1)
