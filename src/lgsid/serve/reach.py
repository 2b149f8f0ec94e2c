"""What lies within a radius or a polygon: a static index for any radius, to which items can be added.

The items lie in bands of latitude one kilometre high, sorted by longitude within each. A shape meets each band in
one run of them (in two where it crosses the date line), found by binary search; what the runs hold is then tested one
by one, so the answer is exact everywhere on Earth. Items added later form a tail that is tested whole, until it is long
enough to be merged in. An index never changes: adding gives a new one, and whoever still reads the old one sees it
whole.

Axes: N items, S bands or runs of a shape, M items found, V corners of a polygon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, IntArray
from lgsid.config.serve import ReachConfig
from lgsid.geo import EARTH_RADIUS_KM, chord_to_km, unit_sphere
from lgsid.serve.base import RequestError

BAND_KM = 1.0
"""Height of a band: the lower, the less the runs hold beside a shape, and the more of them there are."""
_HALF_WAY_KM = math.pi * EARTH_RADIUS_KM
_HEIGHT = BAND_KM / EARTH_RADIUS_KM
_STEPS = 1 << 31  # of the longitude: 2 cm
_HAIR = 1e-7  # radians, 60 cm: no item on the edge is lost to rounding
_WHOLE_BANDS = 64  # a shape of more bands than these, with few items in each, is faster tested without runs


@dataclass(frozen=True)
class Place:
    """A point of the Earth, WGS-84 degrees.

    Raises:
        RequestError: a coordinate is out of range.
    """

    lat_deg: float
    lon_deg: float

    def __post_init__(self) -> None:
        for name, most in (("lat_deg", 90), ("lon_deg", 180)):
            if not -most <= getattr(self, name) <= most:  # so is NaN
                raise RequestError(f"{name} {getattr(self, name)}: expected a number from -{most} to {most}")

    @property
    def xyz(self) -> tuple[float, float, float]:
        """The point on the unit sphere; as `unit_sphere`, which is made for many."""
        lat, lon = math.radians(self.lat_deg), math.radians(self.lon_deg)
        return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


@dataclass(frozen=True)
class Circle:
    """All places at most so far from the user, as the crow flies.

    Raises:
        RequestError: the radius is no positive number.
    """

    radius_km: float

    def __post_init__(self) -> None:
        if not 0 < self.radius_km < np.inf:
            raise RequestError(f"radius_km {self.radius_km}: expected a number above 0")


class Polygon:
    """An area by its corners; edges are straight on a map of longitude and latitude, and take the shorter way round.

    Where edges cross each other the even-odd rule says what is inside. A point on an edge may fall on either side.

    Args:
        corners: latitude and longitude in degrees, three or more; the last may repeat the first.

    Attributes:
        lat_V, lon_V: corners; longitudes go on beyond 180 where the area crosses the date line.

    Raises:
        RequestError: too few corners, a coordinate out of range, or an area around a pole.
    """

    def __init__(self, corners: Sequence[tuple[float, float]]) -> None:
        corners = corners[:-1] if len(corners) > 1 and corners[0] == corners[-1] else corners
        if len(corners) < 3:
            raise RequestError(f"polygon of {len(corners)} corners: expected three or more")
        places = [Place(lat_deg, lon_deg) for lat_deg, lon_deg in corners]
        self.lat_V: DoubleArray = np.array([place.lat_deg for place in places], dtype=np.float64)
        lon_V = np.array([place.lon_deg for place in places], dtype=np.float64)
        step_V = (np.roll(lon_V, -1) - lon_V + 180) % 360 - 180
        self.lon_V: DoubleArray = lon_V[0] + np.concatenate([[0.0], np.cumsum(step_V[:-1])])
        if abs(step_V.sum()) > 1 or np.ptp(self.lon_V) >= 360:
            raise RequestError("polygon around a pole, or all the way round the Earth", "ask for a radius instead")

    def contains(self, lat: npt.ArrayLike, lon: npt.ArrayLike) -> BoolArray:
        """Whether points in degrees lie inside, (M,)."""
        west = self.lon_V.min()
        y_M = np.asarray(lat, dtype=np.float64)
        x_M = west + (np.asarray(lon, dtype=np.float64) - west) % 360
        inside_M = np.zeros(y_M.shape, dtype=np.bool_)
        ends = zip(self.lat_V, self.lon_V, np.roll(self.lat_V, -1), np.roll(self.lon_V, -1), strict=True)
        for y1, x1, y2, x2 in ends:
            if y1 != y2:
                crossing_M = x1 + (y_M - y1) * ((x2 - x1) / (y2 - y1))
                inside_M ^= ((y1 > y_M) != (y2 > y_M)) & (x_M < crossing_M)
        return inside_M


Area = Circle | Polygon


@dataclass(frozen=True)
class Found:
    """Items within reach.

    Attributes:
        rows_M: rows of the catalogue.
        distance_km_M: from the user's place, as the crow flies.
    """

    rows_M: IntArray
    distance_km_M: DoubleArray

    def __len__(self) -> int:
        return len(self.rows_M)

    def where(self, kept_M: BoolArray) -> Found:
        """Those that are kept."""
        return Found(self.rows_M[kept_M], self.distance_km_M[kept_M])

    def nearest(self, most: int | None = None) -> Found:
        """Nearest first, ``most`` at most; of equally near ones the lower row comes first."""
        rows_M, distance_M = self.rows_M, self.distance_km_M
        if most is not None and most < len(rows_M):
            last = np.partition(distance_M, most - 1)[most - 1] if most else -1.0
            rows_M, distance_M = rows_M[distance_M <= last], distance_M[distance_M <= last]
        order = np.lexsort((rows_M, distance_M))[:most]
        return Found(rows_M[order], distance_M[order])


@dataclass(frozen=True)
class _Points:
    """Points in some order: catalogue row, degrees, and the unit sphere."""

    row_P: IntArray
    lat_P: DoubleArray
    lon_P: DoubleArray
    xyz_3P: DoubleArray

    @classmethod
    def of(cls, lat: npt.ArrayLike, lon: npt.ArrayLike, first_row: int = 0) -> _Points:
        lat_P, lon_P = np.atleast_1d(np.asarray(lat, np.float64)), np.atleast_1d(np.asarray(lon, np.float64))
        if lat_P.shape != lon_P.shape or lat_P.ndim != 1:
            raise RequestError(f"latitudes of shape {lat_P.shape} and longitudes of {lon_P.shape}: expected one each")
        wrong = ~((np.abs(lat_P) <= 90) & (np.abs(lon_P) <= 180))
        if wrong.any():
            row = int(wrong.argmax())
            raise RequestError(f"item {row + first_row} lies at {lat_P[row]}, {lon_P[row]}: expected WGS-84 degrees")
        return cls(first_row + np.arange(len(lat_P)), lat_P, lon_P, np.ascontiguousarray(unit_sphere(lat_P, lon_P).T))

    def take(self, place_P: IntArray) -> _Points:
        return _Points(*(column[..., place_P] for column in self.columns()))

    def taken(self, runs: Sequence[slice]) -> _Points:
        """Those of some runs: copied a run at a time, which is faster than one by one."""
        return _Points(*(_cut(column, runs) for column in self.columns()))

    def inserted(self, where: IntArray, others: _Points) -> _Points:
        pairs = zip(self.columns(), others.columns(), strict=True)
        return _Points(*(np.insert(mine, where, theirs, axis=-1) for mine, theirs in pairs))

    def columns(self) -> tuple[AnyArray, ...]:
        return self.row_P, self.lat_P, self.lon_P, self.xyz_3P

    def near(self, centre: tuple[float, float, float], runs: Sequence[slice], most_km: float) -> Found:
        """Those of some runs that are at most so far from a point of the unit sphere."""
        if not runs:
            return Found(self.row_P[:0], self.lat_P[:0])
        # a row at a time: cut together they come in an order in which numpy is slow
        x_P, y_P, z_P = (_cut(row_P, runs) - at for row_P, at in zip(self.xyz_3P, centre, strict=True))
        squared_P = x_P * x_P + y_P * y_P + z_P * z_P
        rows_P = _cut(self.row_P, runs)
        if most_km < _HALF_WAY_KM:
            near_P = np.flatnonzero(squared_P <= (2 * math.sin(most_km / (2 * EARTH_RADIUS_KM))) ** 2)
            squared_P, rows_P = squared_P[near_P], rows_P[near_P]
        # on the edge, rounding may add a nanometre
        return Found(rows_P, np.minimum(chord_to_km(np.sqrt(squared_P)), most_km))


def _cut(column: AnyArray, runs: Sequence[slice]) -> AnyArray:
    return np.concatenate([column[..., run] for run in runs], axis=-1)


class ReachIndex:
    """N items by place; never changes, and may be read from any number of threads.

    Args:
        lat_N, lon_N: WGS-84 degrees; row n of the catalogue is item n.

    Raises:
        RequestError: coordinates out of range.
    """

    def __init__(self, lat_N: npt.ArrayLike, lon_N: npt.ArrayLike) -> None:
        points = _Points.of(lat_N, lon_N)
        key_P = _keys(points)
        order_P = np.argsort(key_P, kind="stable")
        self._points, self._key_P = points.take(order_P), key_P[order_P]
        self._tail = _Points.of([], [])

    def __len__(self) -> int:
        return len(self._key_P) + len(self._tail.row_P)

    def within(self, place: Place, area: Area) -> Found:
        """All items of an area, in no order; see `Found.nearest`. Distances are from ``place``."""
        return self._circle(place, area.radius_km) if isinstance(area, Circle) else self._polygon(place, area)

    def nearest(self, place: Place, most_km: float = _HALF_WAY_KM) -> Found:
        """The nearest item, of equally near ones that of the lower row; none where it is farther than ``most_km``."""
        radius_km = min(0.5, most_km)
        while not len(found := self._circle(place, radius_km)) and radius_km < most_km:
            radius_km = min(2 * radius_km, most_km)
        return found.nearest(1)

    def plus(self, lat: npt.ArrayLike, lon: npt.ArrayLike, tail: int = 4_096) -> ReachIndex:
        """An index with more items, whose rows follow the ones before.

        Args:
            tail: items that may lie unsorted behind the others; more are merged in, which takes 0.1 s for a million.

        Raises:
            RequestError: coordinates out of range.
        """
        new = _Points.of(lat, lon, first_row=len(self))
        longer = self._tail.inserted(np.full(len(new.row_P), len(self._tail.row_P)), new)
        grown = ReachIndex.__new__(ReachIndex)
        grown._points, grown._key_P, grown._tail = self._points, self._key_P, longer
        return grown._merged() if len(longer.row_P) > tail else grown

    def _merged(self) -> ReachIndex:
        key_P = _keys(self._tail)
        order_P = np.argsort(key_P, kind="stable")
        where_P = np.searchsorted(self._key_P, key_P[order_P], side="right")
        merged = ReachIndex.__new__(ReachIndex)
        merged._points = self._points.inserted(where_P, self._tail.take(order_P))
        merged._key_P = np.insert(self._key_P, where_P, key_P[order_P])
        merged._tail = _Points.of([], [])
        return merged

    def _circle(self, place: Place, radius_km: float) -> Found:
        centre, radius_km = place.xyz, min(radius_km, _HALF_WAY_KM)
        runs = self._runs(*_circle_bands(place, radius_km / EARTH_RADIUS_KM + _HAIR))
        found = self._points.near(centre, runs, radius_km)
        if not len(self._tail.row_P):
            return found
        return _joined(found, self._tail.near(centre, [slice(None)], radius_km))

    def _polygon(self, place: Place, polygon: Polygon) -> Found:
        inside = []
        for points, runs in (self._points, self._runs(*_polygon_bands(polygon))), (self._tail, [slice(None)]):
            some = points.taken([slice(0), *runs])
            some = some.take(np.flatnonzero(polygon.contains(some.lat_P, some.lon_P)))
            inside.append(some.near(place.xyz, [slice(None)], _HALF_WAY_KM))
        return _joined(*inside)

    def _runs(self, band_S: IntArray, west_S: DoubleArray, east_S: DoubleArray) -> list[slice]:
        """Runs, in the order of the keys, that hold every item of the bands between two longitudes (radians)."""
        if len(band_S) > _WHOLE_BANDS:
            first, last = np.searchsorted(self._key_P, np.array([band_S[0], band_S[-1] + 1]) * (2 * _STEPS)).tolist()
            if last - first < 16 * len(band_S):
                return [slice(first, last)]
        band_S, west_S, east_S = _wrapped(band_S, west_S, east_S)
        key_2S = _key(band_S, np.stack([west_S, east_S]))
        key_2S[1] += 1  # the first key beyond
        ends_S2 = np.searchsorted(self._key_P, key_2S).T.tolist()
        return [slice(first, last) for first, last in ends_S2 if first < last]


def _joined(one: Found, other: Found) -> Found:
    return Found(
        np.concatenate([one.rows_M, other.rows_M]), np.concatenate([one.distance_km_M, other.distance_km_M])
    )  # fmt: skip


def _key(band: IntArray, lon: DoubleArray) -> IntArray:
    key: IntArray = band * (2 * _STEPS) + ((lon + np.pi) * (_STEPS / (2 * np.pi))).astype(np.int64)
    return key


def _keys(points: _Points) -> IntArray:
    lon_P = (np.radians(points.lon_P) + np.pi) % (2 * np.pi) - np.pi
    return _key(_band(np.radians(points.lat_P)), lon_P)


def _band(lat: npt.ArrayLike) -> IntArray:
    band: IntArray = np.floor((np.asarray(lat) + np.pi / 2) / _HEIGHT).astype(np.int64)
    return band


def _bands(south: float, north: float) -> IntArray:
    first, last = (
        math.floor((min(max(lat, -math.pi / 2), math.pi / 2) + math.pi / 2) / _HEIGHT) for lat in (south, north)
    )
    return np.arange(first, last + 1)


def _circle_bands(place: Place, angle: float) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Bands that a circle meets, and the longitudes between which it does, radians."""
    lat, lon = math.radians(place.lat_deg), math.radians(place.lon_deg)
    band_S = _bands(lat - angle, lat + angle)
    if abs(lat) + angle >= np.pi / 2 - 1e-6:  # around a pole: all longitudes
        full_S = np.full(len(band_S), np.pi)
        return band_S, -full_S, full_S
    south_S = band_S * _HEIGHT - np.pi / 2
    # a circle is widest somewhat nearer to the pole than its centre
    widest = math.asin(min(max(math.sin(lat) / math.cos(angle), -1), 1))
    lat_S = np.minimum(np.maximum(south_S, widest), south_S + _HEIGHT)
    lat_S = np.minimum(np.maximum(lat_S, lat - angle), lat + angle)
    across_S = np.cos(lat_S)
    cosine_S = (math.cos(angle) - np.sin(lat_S) * math.sin(lat)) / (across_S * math.cos(lat))
    half_S = np.minimum(np.arccos(np.minimum(np.maximum(cosine_S, -1), 1)) + _HAIR / across_S, np.pi)
    return band_S, lon - half_S, lon + half_S


def _polygon_bands(polygon: Polygon) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Bands of the box around a polygon."""
    south, north = np.radians(polygon.lat_V.min()) - _HAIR, np.radians(polygon.lat_V.max()) + _HAIR
    band_S = _bands(south, north)
    west, east = np.radians(polygon.lon_V.min()) - _HAIR, np.radians(polygon.lon_V.max()) + _HAIR
    if east - west >= 2 * np.pi:
        west, east = -np.pi, np.pi
    return band_S, np.full(len(band_S), west), np.full(len(band_S), east)


def _wrapped(band_S: IntArray, west_S: DoubleArray, east_S: DoubleArray) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """The same with longitudes from -π to π: what goes beyond the date line comes back on its other side."""
    if west_S.min() >= -np.pi and east_S.max() <= np.pi:
        return band_S, west_S, east_S
    turns_S = np.floor((west_S + np.pi) / (2 * np.pi)) * (2 * np.pi)
    west_S, east_S = west_S - turns_S, east_S - turns_S
    over_S = east_S > np.pi
    first = band_S, west_S, np.minimum(east_S, np.pi)
    again = band_S[over_S], np.full(int(over_S.sum()), -np.pi), np.minimum(east_S[over_S] - 2 * np.pi, np.pi)
    bands, wests, easts = (np.concatenate(pair) for pair in zip(first, again, strict=True))
    return bands, wests, easts


# --- Travel time ------------------------------------------------------------------------------------------------------
def travel_circle(minutes: float, mode: str, config: ReachConfig) -> Circle:
    """Circle that can be reached in a time: ``minutes / 60 · speed_kmh / detour``.

    A model for want of a street network: it knows neither rivers nor rush hours. Where a router is at hand, ask with
    the polygon of its isochrone.

    Raises:
        RequestError: the time is no positive number, or nobody said how fast that mode is.
    """
    if not 0 < minutes < np.inf:
        raise RequestError(f"travel time of {minutes} minutes: expected a number above 0")
    return Circle(minutes / 60 * _speed_kmh(mode, config))


def travel_minutes(distance_km: npt.ArrayLike, mode: str, config: ReachConfig) -> DoubleArray:
    """Minutes to places at some distance as the crow flies, by the same model.

    Raises:
        RequestError: nobody said how fast that mode is.
    """
    minutes: DoubleArray = 60 * np.asarray(distance_km, dtype=np.float64) / _speed_kmh(mode, config)
    return minutes


def _speed_kmh(mode: str, config: ReachConfig) -> float:
    """Speed towards the goal, as the crow flies."""
    travel = {str(name): value for name, value in config.travel.items()}
    if mode not in travel:
        raise RequestError(f"no way to travel {mode!r}; known: {', '.join(travel)}")
    return travel[mode].speed_kmh / travel[mode].detour
