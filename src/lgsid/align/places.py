"""The distinct places of a catalogue, and random numbers that belong to an item: what negatives and pairs draw from.

Items at one spot (the shops of a mall) are one *place*: asking twice about one spot teaches nothing, and thousands of
items at one coordinate would fill every neighbourhood.

Shapes: N items, P places, A anchors (rows of items), C candidates.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lgsid.arrays import DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import SpatialIndex, geohash_cells
from lgsid.hashing import WEYL, mixed, uniform

_SPOT = 12  # GeoHash characters of a place: 4 × 2 cm


def uniforms(seed: int, purpose: str, key_A: IntArray, count: int) -> DoubleArray:
    """Random numbers in [0, 1) that depend on nothing but seed, purpose, key and column, shape (A, count).

    Counter-based (SplitMix64, Steele et al. 2014), so what is drawn for one anchor cannot depend on which other
    anchors are asked for, nor on how they are divided into chunks.
    """
    salt = np.array([seed % 2**64], dtype=np.uint64)
    salt = mixed(mixed(salt) + np.uint64(zlib.crc32(purpose.encode())))
    state_A = mixed(mixed(key_A.astype(np.uint64)) + salt)
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(WEYL)
    return uniform(mixed(state_A[:, None] + steps))


@dataclass(frozen=True)
class Places:
    """Items grouped by place; places are numbered along a Z-curve, so that near numbers are mostly near places.

    Attributes:
        place_N: place of each item.
        position_N: number of the item among those of its place.
        order_N: items sorted by place; those of place p are ``order_N[start_P[p]:start_P[p] + size_P[p]]``.
        start_P, size_P: see above.
        lat_P, lon_P: coordinates in degrees (of the place's first item).
        spot_P: GeoHash of the place's spot; the same for several places only where spots were divided.
    """

    place_N: IntArray
    position_N: IntArray
    order_N: IntArray
    start_P: IntArray
    size_P: IntArray
    lat_P: DoubleArray
    lon_P: DoubleArray
    spot_P: IntArray

    @classmethod
    def of(cls, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, at_least: int = 1) -> Places:
        """Group N items by spot.

        Args:
            lat_deg, lon_deg: N WGS-84 coordinates.
            at_least: where there are fewer spots than this, the items of a spot are dealt out to so many places of the
                same coordinates that there are enough, as long as there are enough items.

        Raises:
            DataError: coordinates are missing, not finite or of different lengths.
        """
        lat, lon = _checked(lat_deg, lon_deg)
        at_pole, wrapped = np.abs(lat) == 90.0, (lon + 180.0) % 360.0 - 180.0
        spot_N = geohash_cells(lat, np.where(at_pole, 0.0, wrapped), _SPOT) if len(lat) else np.empty(0, dtype=np.int64)
        grouped = cls._grouped(lat, lon, spot_N, spot_N)
        if len(grouped) >= at_least:
            return grouped
        return cls._grouped(lat, lon, grouped.place_N * at_least + grouped.position_N % at_least, spot_N)

    @classmethod
    def _grouped(cls, lat_N: DoubleArray, lon_N: DoubleArray, key_N: IntArray, spot_N: IntArray) -> Places:
        _, first, place_N, size_P = np.unique(key_N, return_index=True, return_inverse=True, return_counts=True)
        order_N, start_P = np.argsort(place_N, kind="stable"), np.cumsum(size_P) - size_P
        position_N = np.empty_like(order_N)
        position_N[order_N] = np.arange(len(order_N)) - start_P[place_N[order_N]]
        return cls(place_N, position_N, order_N, start_P, size_P, lat_N[first], lon_N[first], spot_N[first])

    def __len__(self) -> int:
        return len(self.size_P)

    def index(self, rows_C: IntArray | None = None) -> SpatialIndex:
        """A spatial index of all places, or of some."""
        chosen = slice(None) if rows_C is None else rows_C
        return SpatialIndex(self.lat_P[chosen], self.lon_P[chosen])

    def pick(self, place_AC: IntArray, anchors_A: IntArray, uniform_AC: DoubleArray) -> IntArray:
        """A random item of each place that is not the anchor; -1 where the anchor is alone there, or for place -1."""
        own_AC = place_AC == self.place_N[anchors_A][:, None]
        choices_AC = np.where(place_AC >= 0, self.size_P[place_AC], 0) - own_AC
        offset_AC = (uniform_AC * choices_AC).astype(np.int64)
        offset_AC += own_AC & (offset_AC >= self.position_N[anchors_A][:, None])
        row_AC = np.minimum(self.start_P[place_AC] + offset_AC, len(self.order_N) - 1)
        return np.where(choices_AC > 0, self.order_N[row_AC], -1)


def in_chunks(places: Places, anchors_A: IntArray, size: int) -> Iterator[IntArray]:
    """Positions of anchors in chunks of near places: near queries walk the same branches of a spatial index."""
    order_A = np.argsort(places.place_N[anchors_A], kind="stable")
    return (order_A[start : start + size] for start in range(0, len(order_A), size))


def _checked(lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> tuple[DoubleArray, DoubleArray]:
    lat, lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    if lat.ndim != 1 or lat.shape != lon.shape:
        raise DataError(f"coordinates got shapes {lat.shape} and {lon.shape}, expected two columns of one length")
    bad = np.flatnonzero(~(np.isfinite(lat) & np.isfinite(lon)))
    if len(bad):
        raise DataError(
            f"item row {bad[0] + 1} has latitude {lat[bad[0]]} and longitude {lon[bad[0]]}, expected finite degrees "
            f"({len(bad)} such rows)",
            "take items from 1_data/items.parquet, whose coordinates are checked",
        )
    return lat, lon
