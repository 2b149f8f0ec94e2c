"""Distances, spatial index, cells and datums against brute force, known answers and published points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.geo import (
    EARTH_RADIUS_KM,
    SpatialIndex,
    bd09_to_wgs84,
    centre_deg,
    chord_to_km,
    gcj02_to_bd09,
    gcj02_to_wgs84,
    geohash_cells,
    geohash_text,
    h3_cells,
    haversine_km,
    in_china,
    km_to_chord,
    reachable,
    sphere_to_degrees,
    unit_sphere,
    wgs84_to_gcj02,
)

HALF_WAY_KM = np.pi * EARTH_RADIUS_KM

latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.999999, 0.0, 89.999999, 90.0]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, -179.999999, 0.0, 179.999999, 180.0]))
points = st.tuples(latitudes, longitudes)
clouds = st.lists(points, min_size=1, max_size=40)
chinese = st.tuples(st.floats(18, 53), st.floats(74, 134))


def columns(cloud: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    lat, lon = np.array(cloud, dtype=float).reshape(-1, 2).T
    return lat, lon


def brute_km(lat: np.ndarray, lon: np.ndarray, at: tuple[float, float]) -> np.ndarray:
    """Angle between two directions by atan2, an independent formula that is exact for near and antipodal points."""
    a, b = unit_sphere(lat, lon), unit_sphere(*at)
    return EARTH_RADIUS_KM * np.arctan2(np.linalg.norm(np.cross(a, b), axis=-1), a @ b)


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((40.7128, -74.0060), (34.0522, -118.2437), 3935.75),  # New York, Los Angeles
        ((51.5074, -0.1278), (48.8566, 2.3522), 343.56),  # London, Paris
        ((39.9042, 116.4074), (31.2304, 121.4737), 1067.31),  # Beijing, Shanghai
        ((0, 0), (0, 1), HALF_WAY_KM / 180),  # one degree of the equator
        ((0, 179.9), (0, -179.9), HALF_WAY_KM / 900),  # across the date line
        ((90, 0), (90, 137), 0.0),  # the pole has every longitude
        ((90, 12), (-90, 99), HALF_WAY_KM),
        ((0, 0), (0, 180), HALF_WAY_KM),
    ],
)
def test_haversine_known_distances(a: tuple[float, float], b: tuple[float, float], km: float) -> None:
    assert haversine_km(*a, *b) == pytest.approx(km, abs=0.01)


def test_haversine_broadcasts() -> None:
    table = haversine_km(np.zeros((3, 1)), np.arange(3.0)[:, None], np.zeros((1, 2)), np.arange(2.0)[None])
    assert table.shape == (3, 2)
    assert table[1, 1] == 0
    assert table[2, 0] == pytest.approx(2 * table[1, 0])


@settings(deadline=None)
@given(points, points)
def test_haversine_is_a_bounded_symmetric_distance(a: tuple[float, float], b: tuple[float, float]) -> None:
    there, back = float(haversine_km(*a, *b)), float(haversine_km(*b, *a))
    assert there == pytest.approx(back, abs=1e-9)
    assert 0 <= there <= HALF_WAY_KM + 1e-9
    # near the antipode the haversine of an angle is flat: half a metre is what double precision leaves
    assert there == pytest.approx(float(brute_km(np.array([a[0]]), np.array([a[1]]), b)[0]), abs=5e-4)


@settings(deadline=None)
@given(st.floats(0, HALF_WAY_KM))
def test_chords_and_arcs_are_inverse(km: float) -> None:
    assert float(chord_to_km(km_to_chord(km))) == pytest.approx(km, rel=1e-7, abs=5e-4)


@settings(deadline=None)
@given(points)
def test_sphere_round_trip(point: tuple[float, float]) -> None:
    lat, lon = sphere_to_degrees(3.0 * unit_sphere(*point))
    assert float(haversine_km(lat, lon, *point)) < 1e-6


def test_centre_across_the_date_line() -> None:
    lat, lon = centre_deg([10.0, 10.0], [179.0, -179.0])
    assert abs(lon) == pytest.approx(180)
    assert lat == pytest.approx(10, abs=0.01)


@settings(deadline=None, max_examples=60)
@given(clouds, points, st.integers(1, 45))
def test_nearest_is_brute_force(cloud: list[tuple[float, float]], query: tuple[float, float], k: int) -> None:
    lat, lon = columns(cloud)
    index, distance = SpatialIndex(lat, lon).nearest([query[0]], [query[1]], k)
    exact = brute_km(lat, lon, query)
    assert index.shape == distance.shape == (1, min(k, len(cloud)))
    np.testing.assert_allclose(distance[0], np.sort(exact)[: index.shape[1]], atol=5e-4)
    np.testing.assert_allclose(exact[index[0]], distance[0], atol=5e-4)
    assert len(set(index[0].tolist())) == index.shape[1]


@settings(deadline=None, max_examples=60)
@given(clouds, points, st.floats(0, HALF_WAY_KM))
def test_within_is_brute_force(cloud: list[tuple[float, float]], query: tuple[float, float], radius_km: float) -> None:
    lat, lon = columns(cloud)
    found = SpatialIndex(lat, lon).within([query[0]], [query[1]], radius_km).of(0)
    exact = brute_km(lat, lon, query)
    slack_km = 1e-3
    assert set(np.flatnonzero(exact <= radius_km - slack_km)) <= set(found.tolist())
    assert set(found.tolist()) <= set(np.flatnonzero(exact <= radius_km + slack_km))
    assert np.all(np.diff(exact[found]) >= -slack_km), "nearest first"


def test_within_of_many_queries_and_a_point_on_the_circle() -> None:
    index = SpatialIndex([0, 0, 89.9, 89.9], [179.95, -179.95, 0, 180])
    on_circle_km = float(haversine_km(0, 180, 0, 179.95))
    found = index.within([0, 90, 45], [180, 77, 45], on_circle_km)
    assert sorted(found.of(0).tolist()) == [0, 1]
    assert found.of(1).tolist() == []
    assert found.of(2).tolist() == []
    assert sorted(index.within([90], [77], 12).of(0).tolist()) == [2, 3]


def test_empty_index_and_no_queries() -> None:
    nothing, one = SpatialIndex([], []), SpatialIndex([1.0], [2.0])
    assert nothing.nearest([1.0, 2.0], [1.0, 2.0], 3)[0].shape == (2, 0)
    assert nothing.within([1.0], [1.0], 100).of(0).tolist() == []
    assert one.nearest([], [])[0].shape == (0, 1)
    assert one.nearest([3.0], [2.0], 5)[1].shape == (1, 1)
    assert len(nothing) == 0


def test_reachable_is_nearest_first() -> None:
    index = SpatialIndex([40.75, 40.70, 41.5], [-74.0, -74.0, -74.0])
    assert reachable(index, 40.71, -74.0, 10).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("lat", "lon", "text"),
    [
        (57.64911, 10.40744, "u4pruydqqvj"),  # the example of the format's author
        (42.605, -5.603, "ezs42"),
        (-25.382708, -49.265506, "6gkzwgjzn820"),
        (90.0, 180.0, "zzzzz"),
        (-90.0, -180.0, "00000"),
        (0.0, 0.0, "s000"),
    ],
)
def test_geohash_known_answers(lat: float, lon: float, text: str) -> None:
    assert geohash_text(geohash_cells([lat], [lon], len(text)), len(text)) == [text]


@settings(deadline=None)
@given(points, st.integers(1, 11))
def test_geohash_cells_nest(point: tuple[float, float], length: int) -> None:
    coarse, fine = (int(geohash_cells(*point, n)[0]) for n in (length, length + 1))
    assert fine >> 5 == coarse
    assert 0 <= fine < 1 << (5 * (length + 1))


def test_h3_known_answer() -> None:
    # the example of the H3 documentation: a point of San Francisco at resolution 5
    assert [hex(cell) for cell in h3_cells([37.3615593], [-122.0553238], 5).tolist()] == ["0x85283473fffffff"]


@pytest.mark.parametrize(
    ("wgs84", "gcj02"),
    [
        # the published test points of eviltransform and coordtransform
        ((31.1774276, 121.5272106), (31.17530398364597, 121.531541859215)),
        ((22.543847, 113.912316), (22.540796131694766, 113.9171764808363)),
        ((39.911954, 116.377817), (39.91334545536069, 116.38404722455657)),
        ((39.915, 116.404), (39.91640428150164, 116.41024449916938)),
    ],
)
def test_gcj02_published_points(wgs84: tuple[float, float], gcj02: tuple[float, float]) -> None:
    assert [float(x) for x in wgs84_to_gcj02(*wgs84)] == pytest.approx(gcj02, abs=1e-11)
    assert [float(x) for x in gcj02_to_wgs84(*gcj02)] == pytest.approx(wgs84, abs=1e-9)


def test_bd09_published_points() -> None:
    assert [float(x) for x in gcj02_to_bd09(39.915, 116.404)] == pytest.approx((39.92133699351021, 116.41036949371029))
    there = gcj02_to_bd09(*wgs84_to_gcj02(39.915, 116.404))
    assert [float(x) for x in there] == pytest.approx((39.922699552216216, 116.41662724378733), abs=1e-11)
    # coordtransform inverts in one step, to about a metre
    assert [float(x) for x in bd09_to_wgs84(39.915, 116.404)] == pytest.approx((39.907253, 116.391384), abs=2e-5)


@settings(deadline=None)
@given(chinese)
def test_datum_round_trips_to_a_millimetre(point: tuple[float, float]) -> None:
    gcj02 = wgs84_to_gcj02(*point)
    assert 0.01 < float(haversine_km(*point, *gcj02)) < 1.0, "GCJ-02 shifts by some 100 m"
    assert float(haversine_km(*point, *gcj02_to_wgs84(*gcj02))) < 1e-6
    assert float(haversine_km(*point, *bd09_to_wgs84(*gcj02_to_bd09(*gcj02)))) < 1e-6


def test_datums_leave_the_rest_of_the_world_alone() -> None:
    lat, lon = np.array([40.7, 48.85, -33.9, 35.68, 0.0]), np.array([-74.0, 2.35, 151.2, 139.77, 0.0])
    assert not in_china(lat, lon).any()
    for convert in (wgs84_to_gcj02, gcj02_to_wgs84, gcj02_to_bd09, bd09_to_wgs84):
        np.testing.assert_array_equal(convert(lat, lon), (lat, lon))
