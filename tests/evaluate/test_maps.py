"""Maps: the plane against great circles, colours of neighbouring tokens, labels, and reproducible pictures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.evaluate import maps, plots
from lgsid.evaluate.map_figures import city_places, zoom_places
from lgsid.evaluate.maps import Place, Plane, TokenMap, overview_map, token_colours, zoom_map
from lgsid.evaluate.plots import COLOURS, display_width, drawable, short
from lgsid.geo import haversine_km


@given(lat=st.floats(-75, 75), lon=st.floats(-180, 180), dlat=st.floats(-0.3, 0.3), dlon=st.floats(-0.3, 0.3))
@settings(deadline=None)
def test_the_plane_keeps_distances_within_a_city(lat: float, lon: float, dlat: float, dlon: float) -> None:
    plane = Plane(lat, lon)
    x, y = plane.xy(lat + dlat, (lon + dlon + 180) % 360 - 180)  # also across the date line
    true_km = float(haversine_km(lat, lon, lat + dlat, lon + dlon))
    assert float(np.hypot(x, y)) == pytest.approx(true_km, rel=0.02, abs=1e-6)
    back = plane.degrees(float(x), float(y))
    assert back == pytest.approx((lat + dlat, lon + dlon), abs=1e-9)


def test_neighbouring_tokens_differ_in_colour() -> None:
    lat, lon = (axis.ravel().astype(float) for axis in np.meshgrid(np.arange(12) / 50, np.arange(12) / 50))
    colour = token_colours(lat, lon, np.random.default_rng(0).integers(1, 100, 144))
    distance = haversine_km(lat[:, None], lon[:, None], lat, lon)
    np.fill_diagonal(distance, np.inf)
    touching = distance < 2.3  # the four neighbours on the grid
    assert touching.any()
    assert not (touching & (colour[:, None] == colour)).any()
    assert set(colour.tolist()) == set(range(len(COLOURS)))


def test_tokens_without_items_do_not_take_colours() -> None:
    colour = token_colours(np.zeros(20), np.zeros(20), np.array([0] * 12 + [5] * 8))
    assert sorted(colour[12:].tolist()) == list(range(8))
    assert colour[:12].tolist() == [0] * 12


def toy_map(points: int = 300, names: str = "place") -> TokenMap:
    rng = np.random.default_rng(0)
    token = rng.integers(0, 12, points)
    lat, lon = 40 + token // 4 * 0.2 + rng.normal(0, 0.02, points), 116 + token % 4 * 0.2 + rng.normal(0, 0.02, points)
    places = (Place(f"{names} A", 40.1, 116.3, points), Place(f"{names} B", 40.4, 116.6, 10))
    return TokenMap(lat, lon, token, np.arange(12) % 8, {code: f"{names} {code} $x_1$" for code in range(12)}, places)


def test_same_data_gives_the_same_bytes() -> None:
    data = toy_map()
    assert zoom_map(data, data.places[0], "t") == zoom_map(data, data.places[0], "t")
    assert overview_map(data, "t").startswith(b"\x89PNG")


def test_a_single_point_and_points_on_one_line_can_be_drawn() -> None:
    one = TokenMap(np.array([10.0]), np.array([179.9999]), np.array([0]), np.array([0]), {}, ())
    assert overview_map(one, "one").startswith(b"\x89PNG")
    line = TokenMap(
        np.full(9, 10.0), np.linspace(179.95, 180.04, 9), np.zeros(9, dtype=np.int64), np.array([0]), {}, ()
    )
    assert zoom_map(line, Place("p", 10.0, 180.0, 9), "line").startswith(b"\x89PNG")
    assert maps._hull(np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])) is None
    corners = maps._hull(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.2, 0.2]]))
    assert corners is not None
    assert sorted(map(tuple, corners.tolist())) == [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]


@pytest.fixture
def no_chinese_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine that has no font but matplotlib's own."""
    for cached in (plots._families, plots._characters):
        cached.cache_clear()
    monkeypatch.setattr(plots, "_families", lambda: ("DejaVu Sans",))
    yield
    plots._characters.cache_clear()


@pytest.mark.usefixtures("no_chinese_font")
def test_without_a_chinese_font_names_become_numbers_and_nothing_warns() -> None:
    assert not drawable("火锅")
    assert drawable("Café №1")
    data = toy_map(names="火锅")  # warnings are errors here: a missing glyph would fail
    assert zoom_map(data, data.places[0], "t") == zoom_map(toy_map(names="咖啡"), data.places[0], "t")


@pytest.mark.parametrize(
    ("value", "east", "north"), [(12.5, "12.5°E", "12.5°N"), (-80.0, "80°W", "80°S"), (190.0, "170°W", None)]
)
def test_degrees_are_labelled_with_their_hemisphere(value: float, east: str, north: str | None) -> None:
    assert maps._degree(value, "E", "W") == east
    assert north is None or maps._degree(value, "N", "S") == north


def test_texts_are_cut_by_what_they_take_on_paper() -> None:
    assert short("Phoenix, AZ", 20) == "Phoenix, AZ"
    assert short("成都市 春熙路", 7) == "成都市…"
    assert short("a\n b", 9) == "a b"
    assert display_width("成都 a") == 6


def catalogue(cities: list[tuple[str, float, float, int]]) -> pl.DataFrame:
    rows = [("p", name, lat, lon) for name, lat, lon, count in cities for _ in range(count)]
    return pl.DataFrame(rows, schema=["province", "city", "lat_deg", "lon_deg"], orient="row")


def test_cities_stand_at_the_centre_of_their_items_even_on_the_date_line() -> None:
    items = pl.DataFrame({"province": ["p"] * 3, "city": ["x", "x", None], "lat_deg": [0.0, 0.0, 5.0],
                          "lon_deg": [179.0, -179.0, 5.0]})  # fmt: skip
    (place,) = city_places(items)
    assert (place.name, place.items) == ("x", 2)
    assert abs(place.lon_deg) == pytest.approx(180.0)


def test_close_ups_show_large_cities_far_apart() -> None:
    items = catalogue(
        [("big", 40, 116, 500), ("suburb", 40.1, 116.1, 300), ("far", 31, 121, 100), ("tiny", 20, 110, 5)]
    )
    assert [place.name for place in zoom_places(items, city_places(items))] == ["big", "far"]


def test_without_cities_the_densest_area_is_shown() -> None:
    items = catalogue([("a", 40.0, 116.0, 50), ("b", 31.0, 121.0, 80)]).with_columns(city=pl.lit(None, dtype=pl.String))
    (place,) = zoom_places(items, city_places(items))
    assert (place.lat_deg, place.lon_deg, place.items) == (pytest.approx(31.0), pytest.approx(121.0), 80)
