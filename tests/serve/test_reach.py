"""What lies within reach, against brute force everywhere on Earth; travel times; indexes that grow."""

from __future__ import annotations

import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lgsid.config.serve import ReachConfig, TravelConfig
from lgsid.geo import EARTH_RADIUS_KM, haversine_km
from lgsid.serve.base import RequestError
from lgsid.serve.reach import Circle, Found, Place, Polygon, ReachIndex, travel_circle, travel_minutes

HALF_WAY_KM = np.pi * EARTH_RADIUS_KM
CONFIG = ReachConfig()

latitudes = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, -89.9999, 0.0, 89.9999, 90.0]))
longitudes = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, -179.9999, 0.0, 179.9999, 180.0]))
radii = st.one_of(st.floats(0.01, 30), st.floats(30, 25_000), st.sampled_from([1e-6, HALF_WAY_KM, HALF_WAY_KM / 2]))


@st.composite
def clouds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, Place]:
    """Points around a place, at all scales and on both sides of the date line, and points anywhere."""
    place = Place(draw(latitudes), draw(longitudes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = 10.0 ** rng.uniform(-5, 1.5, 60)
    lat = np.clip(place.lat_deg + spread * rng.standard_normal(60), -90, 90)
    lon = (place.lon_deg + 2 * spread * rng.standard_normal(60) + 180) % 360 - 180
    far = np.degrees(np.arcsin(rng.uniform(-1, 1, 20))), rng.uniform(-180, 180, 20)
    poles = np.array([90.0, -90.0, place.lat_deg]), np.array([10.0, -180.0, place.lon_deg])
    return np.concatenate([lat, far[0], poles[0]]), np.concatenate([lon, far[1], poles[1]]), place


def as_expected(found: Found, inside: np.ndarray, edge: np.ndarray) -> bool:
    """Exactly those inside, once each; what lies on the edge to within rounding may be on either side."""
    there = np.zeros(len(inside), dtype=int)
    np.add.at(there, found.rows_M, 1)
    return bool(((there == inside) | (edge & (there <= 1))).all())


def on_edge(distance: np.ndarray, radius_km: float) -> np.ndarray:
    # near the antipode distances are known to 10 cm in double precision
    return np.abs(distance - radius_km) < np.where(distance > 0.99 * HALF_WAY_KM, 1e-3, 1e-8)


@settings(deadline=None, max_examples=200)
@given(clouds(), radii)
def test_within_is_brute_force(cloud: tuple[np.ndarray, np.ndarray, Place], radius_km: float) -> None:
    lat, lon, place = cloud
    found = ReachIndex(lat, lon).within(place, Circle(radius_km))
    distance = haversine_km(place.lat_deg, place.lon_deg, lat, lon)
    assert as_expected(found, distance <= radius_km, on_edge(distance, radius_km))
    assert (found.distance_km_M <= radius_km).all()
    assert np.allclose(found.distance_km_M, distance[found.rows_M], atol=1e-3, rtol=1e-9)


@settings(deadline=None, max_examples=60)
@given(clouds(), radii, st.integers(1, 40), st.integers(0, 60))
def test_grown_indexes_are_those_of_all_items(
    cloud: tuple[np.ndarray, np.ndarray, Place], radius_km: float, first: int, tail: int
) -> None:
    lat, lon, place = cloud
    grown = ReachIndex(lat[:first], lon[:first])
    for start in range(first, len(lat), 7):
        grown = grown.plus(lat[start : start + 7], lon[start : start + 7], tail)
    assert len(grown) == len(lat)
    whole = ReachIndex(lat, lon).within(place, Circle(radius_km)).nearest()
    found = grown.within(place, Circle(radius_km)).nearest()
    assert found.rows_M.tolist() == whole.rows_M.tolist()
    assert found.distance_km_M.tolist() == whole.distance_km_M.tolist()


@settings(deadline=None, max_examples=60)
@given(clouds(), radii, st.integers(0, 90))
def test_nearest_is_a_sort(cloud: tuple[np.ndarray, np.ndarray, Place], radius_km: float, most: int) -> None:
    lat, lon, place = cloud
    found = ReachIndex(np.repeat(lat, 2), np.repeat(lon, 2)).within(place, Circle(radius_km))
    nearest = found.nearest(most)
    expected = sorted(zip(found.distance_km_M.tolist(), found.rows_M.tolist(), strict=True))[:most]
    assert list(zip(nearest.distance_km_M.tolist(), nearest.rows_M.tolist(), strict=True)) == expected
    assert found.nearest().nearest(most).rows_M.tolist() == nearest.rows_M.tolist()


@settings(deadline=None, max_examples=60)
@given(clouds(), st.floats(0.1, 20_000))
def test_the_nearest_distance(cloud: tuple[np.ndarray, np.ndarray, Place], most_km: float) -> None:
    lat, lon, place = cloud
    lat, lon = lat[:-1], lon[:-1]  # without the place itself
    nearest = float(haversine_km(place.lat_deg, place.lon_deg, lat, lon).min())
    assume(abs(nearest - most_km) > 1e-6)
    found = ReachIndex(lat, lon).nearest(place, most_km)
    assert found.distance_km_M.tolist() == ([] if nearest > most_km else [pytest.approx(nearest, abs=1e-6)])
    assert len(ReachIndex(lat, lon).nearest(place)) == 1


def test_wide_circles_over_many_items_use_runs_and_whole_bands() -> None:
    rng = np.random.default_rng(0)
    lat, lon = np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000))), rng.uniform(-180, 180, 40_000)
    dense = rng.uniform(50, 50.5, 40_000), rng.uniform(179, 181, 40_000)
    lat, lon = np.concatenate([lat, dense[0]]), np.concatenate([lon, (dense[1] + 180) % 360 - 180])
    index = ReachIndex(lat, lon)
    for place in (Place(50.2, 180), Place(50.2, -179.9), Place(-89, 3), Place(10, 20), Place(89.99, -100)):
        distance = haversine_km(place.lat_deg, place.lon_deg, lat, lon)
        for radius_km in (0.3, 3, 20, 60, 300, 3_000, 12_000, 30_000):
            found = index.within(place, Circle(radius_km))
            assert as_expected(found, distance <= radius_km, on_edge(distance, radius_km)), (place, radius_km)


def test_an_empty_index() -> None:
    index = ReachIndex([], [])
    assert len(index.within(Place(0, 0), Circle(30_000)).nearest(5)) == 0
    assert len(index.within(Place(0, 0), Polygon([(0, 0), (1, 1), (0, 1)]))) == 0
    assert len(index.nearest(Place(0, 0))) == 0
    assert index.plus([1.0], [1.0]).within(Place(1, 1), Circle(1)).rows_M.tolist() == [0]


def test_readers_never_see_half_an_addition() -> None:
    """Items come in pairs at one place: a reader sees both or neither, and rows that exist."""
    newest, wrong, done = [ReachIndex([0.0, 0.0], [0.0, 0.0])], list[int](), threading.Event()

    def read() -> None:
        while not done.is_set():
            index = newest[0]
            rows = index.within(Place(0, 0), Circle(50)).rows_M
            if len(rows) % 2 or len(rows) != len(index) or sorted(rows) != list(range(len(index))):
                wrong.append(len(rows))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for number in range(300):
        newest[0] = newest[0].plus([number * 1e-4] * 2, [0.0] * 2, tail=9)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
    assert len(newest[0]) == 602


# --- Polygons ---------------------------------------------------------------------------------------------------------
grid = st.integers(-40, 40).map(lambda step: step / 8)
corners = st.lists(st.tuples(grid, grid), min_size=3, max_size=8)


def crossings(corner_V: list[tuple[float, float]], y: float, x: float) -> int:
    """Edges that a ray to the east crosses, in exact arithmetic; -1 where the point lies on an edge."""
    crossed = 0
    for (y1, x1), (y2, x2) in zip(corner_V, corner_V[1:] + corner_V[:1], strict=True):
        (ay, ax), (by, bx), (py, px) = ((Fraction(u), Fraction(v)) for u, v in ((y1, x1), (y2, x2), (y, x)))
        between = min(ay, by) <= py <= max(ay, by) and min(ax, bx) <= px <= max(ax, bx)
        if between and (bx - ax) * (py - ay) == (by - ay) * (px - ax):
            return -1
        if (ay > py) != (by > py) and px < ax + (py - ay) * (bx - ax) / (by - ay):
            crossed += 1
    return crossed


@settings(deadline=None, max_examples=100)
@given(corners, st.sampled_from([0.0, 90.0, 180.0, -177.0]), st.sampled_from([0.0, 60.0, -84.0]))
def test_polygons_are_the_even_odd_rule(corner_V: list[tuple[float, float]], lon0: float, lat0: float) -> None:
    assume(len(set(corner_V)) >= 3 and corner_V[0] != corner_V[-1])
    points = [(y / 4 + 0.03, x / 4 + 0.01) for y in range(-20, 21, 6) for x in range(-20, 21, 6)]
    lat = np.array([y + lat0 for y, _ in points])
    lon = (np.array([x + lon0 for _, x in points]) + 180) % 360 - 180
    polygon = Polygon([(y + lat0, (x + lon0 + 180) % 360 - 180) for y, x in corner_V])
    counts = np.array([crossings(corner_V, y, x) for y, x in points])
    assert ((polygon.contains(lat, lon) == (counts % 2 == 1)) | (counts == -1)).all()
    index = ReachIndex(lat[:40], lon[:40]).plus(lat[40:], lon[40:])
    found = index.within(Place(lat0, lon0 if lon0 <= 180 else lon0 - 360), polygon)
    assert sorted(found.rows_M) == np.flatnonzero(polygon.contains(lat, lon)).tolist()
    assert np.allclose(found.distance_km_M, haversine_km(lat0, lon0, lat[found.rows_M], lon[found.rows_M]))


def test_a_square_across_the_date_line() -> None:
    square = Polygon([(-1, 179), (-1, -179), (1, -179), (1, 179), (-1, 179)])
    assert square.contains([0, 0, 0, 0, 2], [179.5, -179.5, 178.5, 0, 180]).tolist() == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert len(square.lat_V) == 4  # the last corner repeated the first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([(0, 0), (1, 1)], "2 corners: expected three"),
        ([(0, 0), (1, 1), (0, 0)], "2 corners"),
        ([(0, 0), (91, 1), (0, 2)], "lat_deg 91"),
        ([(0, 0), (1, 181), (0, 2)], "lon_deg 181"),
        ([(0, 0), (1, float("nan")), (0, 2)], "lon_deg nan"),
        ([(80, 0), (80, 120), (80, -120)], "around a pole"),
    ],
)
def test_wrong_polygons(wrong: list[tuple[float, float]], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Polygon(wrong)


@pytest.mark.parametrize("radius_km", [0, -1, float("nan"), float("inf")])
def test_wrong_radii(radius_km: float) -> None:
    with pytest.raises(RequestError, match=r"radius_km .*: expected a number above 0"):
        Circle(radius_km)


def test_wrong_places_and_items() -> None:
    with pytest.raises(RequestError, match="lat_deg nan: expected a number from -90 to 90"):
        Place(float("nan"), 0)
    with pytest.raises(RequestError, match="item 1 lies at 95"):
        ReachIndex([0.0, 95.0], [0.0, 0.0])
    with pytest.raises(RequestError, match="item 2 lies at nan"):
        ReachIndex([0.0], [0.0]).plus([1.0, float("nan")], [0.0, 0.0])
    with pytest.raises(RequestError, match="expected one each"):
        ReachIndex([0.0, 1.0], [0.0])


# --- Travel time ------------------------------------------------------------------------------------------------------
def test_travel_times_become_radii_and_back() -> None:
    config = ReachConfig(travel={"walk": TravelConfig(speed_kmh=4.5, detour=1.5)})
    assert travel_circle(20, "walk", config) == Circle(1.0)
    assert travel_minutes([1.0, 0.0, 3.0], "walk", config).tolist() == [20.0, 0.0, 60.0]
    with pytest.raises(RequestError, match="no way to travel 'car'; known: walk"):
        travel_circle(20, "car", config)
    for minutes in (0, -5, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="expected a number above 0"):
            travel_circle(minutes, "walk", config)


def test_faster_ways_reach_farther() -> None:
    radii_km = [travel_circle(15, mode, CONFIG).radius_km for mode in ("walk", "bike", "transit", "car")]
    assert radii_km == sorted(radii_km)
    assert 0.5 < radii_km[0] < 1.5


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="no time zone 'Mars/Olympus'"):
        ReachConfig(time_zone="Mars/Olympus")
    with pytest.raises(ValueError, match="above most_radius_km"):
        ReachConfig(radius_km=200)
