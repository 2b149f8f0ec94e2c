"""Items within reach of a place, drawn uniformly without listing them.

The items lie in bands of latitude, sorted by longitude within each. The part of a circle inside a band is covered by
one run of them (by two where it crosses the date line), so a circle is covered by a handful of runs, found by binary
search, that hold few items beside its own. A draw takes a random item of the runs and is repeated where that lies
outside the circle: exactly uniform over the items inside, whatever their density.

Axes: P items, B circles, S runs of a circle, M listed items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.geo import EARTH_RADIUS_KM, km_to_chord, unit_sphere

BANDS = 8
"""Bands across a circle: the more, the less the runs hold beside it, and the more of them there are."""
_STEPS = 1 << 31  # of the longitude: 2 cm
_HAIR = 1e-7  # radians, 60 cm: no item on the edge is lost to rounding


@dataclass(frozen=True)
class Circles:
    """B circles and the runs that cover them.

    Attributes:
        start_BS: first place of each run; places are those of `WithinReach.order_P`.
        total_BS: number of places in the run and all before it.
        centre_B3: centres on the unit sphere.
    """

    start_BS: IntArray
    total_BS: IntArray
    centre_B3: DoubleArray

    @property
    def sizes(self) -> IntArray:
        """Number of places of each circle's runs, (B,)."""
        return self.total_BS[:, -1]

    def of(self, rows: IntArray) -> Circles:
        """Some of the circles."""
        return Circles(self.start_BS[rows], self.total_BS[rows], self.centre_B3[rows])

    def pick(self, uniform_B: DoubleArray) -> IntArray:
        """A place of each circle's runs, by a number in [0, 1)."""
        rank_B = (uniform_B * self.sizes).astype(np.int64)
        rows, run_B = np.arange(len(rank_B)), (self.total_BS <= rank_B[:, None]).sum(axis=1)
        before_B = np.where(run_B > 0, self.total_BS[rows, run_B - 1], 0)
        place_B: IntArray = self.start_BS[rows, run_B] + rank_B - before_B
        return place_B

    def places(self) -> tuple[IntArray, IntArray]:
        """All places of the runs: circle (M,) and place (M,), by circle."""
        count = np.diff(self.total_BS, axis=1, prepend=0).ravel()
        before = np.cumsum(count) - count
        place_M = np.arange(int(count.sum())) + np.repeat(self.start_BS.ravel() - before, count)
        return np.repeat(np.arange(len(self.sizes)), self.sizes), place_M


class WithinReach:
    """P items, and circles of one radius around any places of the Earth.

    Args:
        lat_P, lon_P: WGS-84 degrees.
        reach_km: the radius.

    Attributes:
        order_P: the items in the order of bands and longitudes: what stands at each place.
    """

    def __init__(self, lat_P: npt.ArrayLike, lon_P: npt.ArrayLike, reach_km: float) -> None:
        lat_P, lon_P = np.asarray(lat_P, dtype=np.float64), np.asarray(lon_P, dtype=np.float64)
        self._angle = min(reach_km / EARTH_RADIUS_KM, np.pi)
        self._height = max(2 * self._angle / BANDS, 1e-6)
        self._squared_chord = float(km_to_chord(reach_km)) ** 2 * (1 + 1e-12) + 1e-20
        key_P = self.along(lat_P, lon_P)
        self.order_P: IntArray = np.argsort(key_P, kind="stable")
        self._key_P = key_P[self.order_P]
        self._xyz_P3 = unit_sphere(lat_P, lon_P)[self.order_P]

    def along(self, lat: DoubleArray, lon: DoubleArray) -> IntArray:
        """Bands and longitudes of points in degrees, as one integer; near queries are faster in this order."""
        wrapped = (np.radians(lon) + np.pi) % (2 * np.pi) - np.pi
        return _key(self._band(np.radians(lat)), wrapped)

    def _band(self, lat: DoubleArray) -> IntArray:
        band: IntArray = np.floor((lat + np.pi / 2) / self._height).astype(np.int64)
        return band

    def circles(self, lat_B: DoubleArray, lon_B: DoubleArray) -> Circles:
        """Circles around places in degrees."""
        lat_1B, lon_1B = np.radians(lat_B)[None], ((np.radians(lon_B) + np.pi) % (2 * np.pi) - np.pi)[None]
        radius = self._angle + _HAIR
        # one row a band: keys that rise are found faster
        band_SB = self._band(np.maximum(lat_1B - radius, -np.pi / 2)) + np.arange(BANDS + 2)[:, None]
        half_SB = self._half_width(lat_1B, radius, band_SB)
        west_SB, east_SB = np.maximum(lon_1B - half_SB, -np.pi), np.minimum(lon_1B + half_SB, np.pi)
        spans = [(band_SB, np.where(half_SB < np.pi, west_SB, -np.pi), np.where(half_SB < np.pi, east_SB, np.pi))]
        # what goes beyond the date line comes back on its other side
        over_SB = np.where((half_SB >= 0) & (half_SB < np.pi), np.abs(lon_1B) + half_SB - np.pi, -1.0)
        if (over_SB > 0).any():
            at_west = lon_1B > 0
            spans.append(
                (band_SB, np.where(at_west, -np.pi, np.pi - over_SB), np.where(at_west, over_SB - np.pi, np.pi))
            )
        runs = [self._run(*span) for span in spans]
        start_BS, count_BS = (np.concatenate(parts).T for parts in zip(*runs, strict=True))
        return Circles(start_BS, np.cumsum(count_BS, axis=1), unit_sphere(lat_B, lon_B))

    def _half_width(self, lat_1B: DoubleArray, radius: float, band_SB: IntArray) -> DoubleArray:
        """Half the longitudes that a circle covers in a band, radians; negative where it covers none."""
        south_SB = np.maximum(band_SB * self._height - np.pi / 2, lat_1B - radius)
        north_SB = np.minimum((band_SB + 1) * self._height - np.pi / 2, lat_1B + radius)
        # a circle is widest somewhat nearer to the pole than its centre
        widest_1B = np.arcsin(np.clip(np.sin(lat_1B) / max(np.cos(radius), 1e-300), -1, 1))
        lat_SB = np.clip(widest_1B, south_SB, np.maximum(north_SB, south_SB))
        across_SB = np.maximum(np.cos(lat_SB) * np.cos(lat_1B), 1e-300)
        cosine_SB = (np.cos(radius) - np.sin(lat_SB) * np.sin(lat_1B)) / across_SB
        half_SB = np.arccos(np.clip(cosine_SB, -1, 1)) + _HAIR / np.maximum(np.cos(lat_SB), 1e-9)
        polar_1B = np.abs(lat_1B) + radius >= np.pi / 2 - 1e-6  # all longitudes: more than needed, and safe
        return np.where(south_SB > north_SB, -1.0, np.where(polar_1B, np.pi, np.minimum(half_SB, np.pi)))

    def _run(self, band_SB: IntArray, west_SB: DoubleArray, east_SB: DoubleArray) -> tuple[IntArray, IntArray]:
        first_SB = np.searchsorted(self._key_P, _key(band_SB, west_SB), side="left")
        last_SB = np.searchsorted(self._key_P, _key(band_SB, east_SB), side="right")
        return first_SB, np.where(west_SB > east_SB, 0, last_SB - first_SB)

    def inside(self, place: IntArray, centre_xyz: DoubleArray) -> BoolArray:
        """Whether places lie within reach of points of the unit sphere, one for one."""
        inside: BoolArray = np.square(self._xyz_P3[place] - centre_xyz).sum(axis=-1) <= self._squared_chord
        return inside


def _key(band: IntArray, lon: DoubleArray) -> IntArray:
    key: IntArray = band * (2 * _STEPS) + np.floor((lon + np.pi) / (2 * np.pi) * _STEPS).astype(np.int64)
    return key
