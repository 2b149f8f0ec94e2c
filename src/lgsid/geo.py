"""Distances, cells, datums and the spatial index: the only file that knows the Earth.

Coordinates are WGS-84 degrees, distances are great-circle kilometres on a sphere of mean radius. All functions take and
return arrays of one value per point, and treat the date line and the poles like any other place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lgsid.arrays import BoolArray, DoubleArray, IntArray

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the Earth (IUGG)."""

DECAY_EDGES_KM: DoubleArray = 0.0625 * 2 ** (np.arange(31) / 2)
"""Edges of distance bands for counting and learning: 62 m to 2,048 km, two for each doubling."""

Degrees = npt.ArrayLike


def haversine_km(lat1_deg: Degrees, lon1_deg: Degrees, lat2_deg: Degrees, lon2_deg: Degrees) -> DoubleArray:
    """Great-circle distance in km (haversine formula); the arguments broadcast against each other."""
    lat1, lon1, lat2, lon2 = (
        np.radians(np.asarray(x, dtype=np.float64)) for x in (lat1_deg, lon1_deg, lat2_deg, lon2_deg)
    )
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    distance: DoubleArray = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(half, 0.0, 1.0)))
    return distance


def unit_sphere(lat_deg: Degrees, lon_deg: Degrees) -> DoubleArray:
    """Points on the unit sphere, shape (N, 3): Earth-centred x, y, z divided by the radius."""
    lat, lon = np.radians(np.asarray(lat_deg, dtype=np.float64)), np.radians(np.asarray(lon_deg, dtype=np.float64))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def sphere_to_degrees(xyz_N3: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Latitude and longitude in degrees of points given by direction; their length does not matter."""
    lat = np.degrees(np.arctan2(xyz_N3[..., 2], np.hypot(xyz_N3[..., 0], xyz_N3[..., 1])))
    return lat, np.degrees(np.arctan2(xyz_N3[..., 1], xyz_N3[..., 0]))


def chord_to_km(chord: npt.ArrayLike) -> DoubleArray:
    """Great-circle km of a straight-line distance between two points of the unit sphere."""
    arc: DoubleArray = 2 * EARTH_RADIUS_KM * np.arcsin(np.clip(np.asarray(chord, dtype=np.float64) / 2, 0.0, 1.0))
    return arc


def km_to_chord(distance_km: npt.ArrayLike) -> DoubleArray:
    """Straight-line distance on the unit sphere of a great-circle distance in km."""
    half_angle = np.clip(np.asarray(distance_km, dtype=np.float64) / (2 * EARTH_RADIUS_KM), 0.0, np.pi / 2)
    chord: DoubleArray = 2 * np.sin(half_angle)
    return chord


def centre_deg(lat_deg: Degrees, lon_deg: Degrees) -> tuple[float, float]:
    """Latitude and longitude of the mean direction of the points (their centre on the sphere)."""
    lat, lon = sphere_to_degrees(unit_sphere(lat_deg, lon_deg).mean(axis=0))
    return float(lat), float(lon)


@dataclass(frozen=True)
class Neighbourhoods:
    """Ragged lists: the neighbours of query q are ``index[offset[q]:offset[q + 1]]``, nearest first."""

    index: IntArray
    offset: IntArray

    def of(self, query: int) -> IntArray:
        """Neighbours of one query."""
        return self.index[self.offset[query] : self.offset[query + 1]]


class SpatialIndex:
    """Nearest and within-radius search over N points by a k-d tree on the unit sphere, exact everywhere on Earth.

    Args:
        lat_deg, lon_deg: N WGS-84 coordinates.
    """

    def __init__(self, lat_deg: Degrees, lon_deg: Degrees) -> None:
        from scipy.spatial import cKDTree

        self._xyz_N3 = unit_sphere(lat_deg, lon_deg)
        self._tree = cKDTree(self._xyz_N3)

    def __len__(self) -> int:
        return len(self._xyz_N3)

    def nearest(self, lat_deg: Degrees, lon_deg: Degrees, k: int = 1) -> tuple[IntArray, DoubleArray]:
        """The k nearest points of each query.

        Returns:
            indices and distances in km, both of shape (Q, k'), k' = min(k, N), nearest first.
        """
        k = min(k, len(self))
        if k == 0:  # an empty index has no neighbours, which the tree cannot say
            queries = len(np.atleast_1d(np.asarray(lat_deg)))
            return np.empty((queries, 0), dtype=np.int64), np.empty((queries, 0))
        chord, index = self._tree.query(np.atleast_2d(unit_sphere(lat_deg, lon_deg)), k=range(1, k + 1), workers=-1)
        return index.astype(np.int64), chord_to_km(chord)

    def within(self, lat_deg: Degrees, lon_deg: Degrees, radius_km: float) -> Neighbourhoods:
        """All points at most ``radius_km`` from each query, nearest first."""
        queries_Q3 = np.atleast_2d(unit_sphere(lat_deg, lon_deg))
        # a hair wider than the radius, then exact: rounding must not lose a point that lies on the circle
        found = self._tree.query_ball_point(queries_Q3, float(km_to_chord(radius_km)) * (1 + 1e-9) + 1e-12, workers=-1)
        kept = [
            self._sorted_within(query, np.asarray(rows, dtype=np.int64), radius_km)
            for query, rows in zip(queries_Q3, found, strict=True)
        ]
        offset = np.concatenate([[0], np.cumsum([len(rows) for rows in kept])]).astype(np.int64)
        index = np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
        return Neighbourhoods(index.astype(np.int64), offset)

    def _sorted_within(self, query_3: DoubleArray, rows: IntArray, radius_km: float) -> IntArray:
        distance = chord_to_km(np.linalg.norm(self._xyz_N3[rows] - query_3, axis=1))
        keep = distance <= radius_km + 1e-9
        kept: IntArray = rows[keep][np.lexsort((rows[keep], distance[keep]))]
        return kept


def reachable(index: SpatialIndex, lat_deg: float, lon_deg: float, radius_km: float) -> IntArray:
    """Rows of the index that a person at the given place can reach within ``radius_km``, nearest first."""
    return index.within([lat_deg], [lon_deg], radius_km).of(0)


def h3_cells(lat_deg: Degrees, lon_deg: Degrees, resolution: int) -> IntArray:
    """H3 cell of each point as an integer (resolution 0 … 15; 7 is about 5 km², 9 about 0.1 km²)."""
    from h3.api import numpy_int as h3

    lat, lon = (
        np.atleast_1d(np.asarray(lat_deg, dtype=np.float64)),
        np.atleast_1d(np.asarray(lon_deg, dtype=np.float64)),
    )
    cells = (h3.latlng_to_cell(a, b, resolution) for a, b in zip(lat.tolist(), lon.tolist(), strict=True))
    return np.fromiter(cells, dtype=np.uint64, count=len(lat)).astype(np.int64)


def geohash_cells(lat_deg: Degrees, lon_deg: Degrees, length: int) -> IntArray:
    """GeoHash of each point as an integer of ``5 · length`` interleaved bits (length 1 … 12), longitude first."""
    bits = 5 * length
    lon_bits, lat_bits = (bits + 1) // 2, bits // 2
    x = _quantise(np.asarray(lon_deg, dtype=np.float64), -180.0, 360.0, lon_bits)
    y = _quantise(np.asarray(lat_deg, dtype=np.float64), -90.0, 180.0, lat_bits)
    cells = np.zeros(np.broadcast(x, y).shape, dtype=np.int64)
    for bit in range(bits):
        source, width = (x, lon_bits) if bit % 2 == 0 else (y, lat_bits)
        cells = (cells << 1) | ((source >> (width - 1 - bit // 2)) & 1)
    return np.atleast_1d(cells)


def _quantise(value: DoubleArray, low: float, span: float, bits: int) -> IntArray:
    steps = np.floor((value - low) / span * (1 << bits)).astype(np.int64)
    return np.clip(steps, 0, (1 << bits) - 1)


def geohash_text(cells: IntArray, length: int) -> list[str]:
    """The usual base-32 text of integer GeoHashes."""
    alphabet = "0123456789bcdefghjkmnpqrstuvwxyz"
    shifts = [5 * (length - 1 - i) for i in range(length)]
    return ["".join(alphabet[(int(cell) >> shift) & 31] for shift in shifts) for cell in cells]


# --- Chinese datums -------------------------------------------------------------------------------------------------
# GCJ-02 shifts WGS-84 by up to some 700 m inside China; BD-09 shifts GCJ-02 once more. The constants are the ones of
# the Krasovsky 1940 ellipsoid, as published in every open implementation.
_AXIS_M, _ECCENTRICITY2 = 6378245.0, 0.00669342162296594323
_BD_ANGLE = np.pi * 3000.0 / 180.0


def in_china(lat_deg: Degrees, lon_deg: Degrees) -> BoolArray:
    """The bounding box inside which the Chinese datums shift coordinates."""
    lat, lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    inside: BoolArray = (lon > 72.004) & (lon < 137.8347) & (lat > 0.8293) & (lat < 55.8271)
    return inside


def wgs84_to_gcj02(lat_deg: Degrees, lon_deg: Degrees) -> tuple[DoubleArray, DoubleArray]:
    """GCJ-02 coordinates of WGS-84 points; points outside China stay as they are."""
    lat, lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    x, y = lon - 105.0, lat - 35.0
    waves = 20 * np.sin(6 * x * np.pi) + 20 * np.sin(2 * x * np.pi)
    root = np.sqrt(np.abs(x))
    north_m = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root
    north_m += (
        (
            waves
            + 20 * np.sin(y * np.pi)
            + 40 * np.sin(y / 3 * np.pi)
            + 160 * np.sin(y / 12 * np.pi)
            + 320 * np.sin(y * np.pi / 30)
        )
        * 2
        / 3
    )
    east_m = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root
    east_m += (
        (
            waves
            + 20 * np.sin(x * np.pi)
            + 40 * np.sin(x / 3 * np.pi)
            + 150 * np.sin(x / 12 * np.pi)
            + 300 * np.sin(x / 30 * np.pi)
        )
        * 2
        / 3
    )
    magic = 1 - _ECCENTRICITY2 * np.sin(np.radians(lat)) ** 2
    dlat = np.degrees(north_m * magic * np.sqrt(magic) / (_AXIS_M * (1 - _ECCENTRICITY2)))
    dlon = np.degrees(east_m * np.sqrt(magic) / (_AXIS_M * np.cos(np.radians(lat))))
    inside = in_china(lat, lon)
    return np.where(inside, lat + dlat, lat), np.where(inside, lon + dlon, lon)


def gcj02_to_wgs84(lat_deg: Degrees, lon_deg: Degrees) -> tuple[DoubleArray, DoubleArray]:
    """WGS-84 coordinates of GCJ-02 points, by fixed-point iteration to better than a millimetre."""
    target_lat, target_lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    inside = in_china(target_lat, target_lon)
    lat, lon = target_lat.copy(), target_lon.copy()
    for _ in range(12):
        shifted_lat, shifted_lon = wgs84_to_gcj02(lat, lon)
        lat, lon = lat + (target_lat - shifted_lat), lon + (target_lon - shifted_lon)
    return np.where(inside, lat, target_lat), np.where(inside, lon, target_lon)


def gcj02_to_bd09(lat_deg: Degrees, lon_deg: Degrees) -> tuple[DoubleArray, DoubleArray]:
    """BD-09 coordinates of GCJ-02 points; points outside China stay as they are."""
    lat, lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    radius = np.hypot(lon, lat) + 2e-5 * np.sin(lat * _BD_ANGLE)
    angle = np.arctan2(lat, lon) + 3e-6 * np.cos(lon * _BD_ANGLE)
    inside = in_china(lat, lon)
    return np.where(inside, radius * np.sin(angle) + 0.006, lat), np.where(inside, radius * np.cos(angle) + 0.0065, lon)


def bd09_to_wgs84(lat_deg: Degrees, lon_deg: Degrees) -> tuple[DoubleArray, DoubleArray]:
    """WGS-84 coordinates of BD-09 points (through GCJ-02), by fixed-point iteration."""
    target_lat, target_lon = np.asarray(lat_deg, dtype=np.float64), np.asarray(lon_deg, dtype=np.float64)
    inside = in_china(target_lat, target_lon)
    lat, lon = target_lat.copy(), target_lon.copy()
    for _ in range(12):
        shifted_lat, shifted_lon = gcj02_to_bd09(lat, lon)
        lat, lon = lat + (target_lat - shifted_lat), lon + (target_lon - shifted_lon)
    wgs_lat, wgs_lon = gcj02_to_wgs84(lat, lon)
    return np.where(inside, wgs_lat, target_lat), np.where(inside, wgs_lon, target_lon)
