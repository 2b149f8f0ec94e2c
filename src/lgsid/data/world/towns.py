"""Commercial centres and streets of every district: invented, but placed and sized the way towns are.

A district has several centres whose sizes follow a power law; each has a kind (mall, food street, …), a scatter of its
own and a name. It has streets too: each a point, a direction and a first house number, so that neighbouring shops
stand in the same street and their numbers rise along it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lgsid.arrays import DoubleArray, IntArray
from lgsid.data.world.catalogue import CENTRES, Catalogue
from lgsid.data.world.places import Places
from lgsid.data.world.seeds import stream
from lgsid.geo import EARTH_RADIUS_KM, SpatialIndex, haversine_km

_KIND_SHARE = np.array([0.15, 0.2, 0.35, 0.18, 0.12])
_KIND_SPREAD_KM = np.array([0.08, 0.15, 0.40, 0.25, 0.30])
_STREET_REACH_M = 900.0
_KM_PER_DEGREE = np.pi * EARTH_RADIUS_KM / 180


def shifted(
    lat_deg: DoubleArray, lon_deg: DoubleArray, north_km: DoubleArray, east_km: DoubleArray
) -> tuple[DoubleArray, DoubleArray]:
    """Points some km (up to a few tens) north and east of others, to the six decimals of a degree that tables hold."""
    lat: DoubleArray = lat_deg + north_km / _KM_PER_DEGREE
    lon: DoubleArray = lon_deg + east_km / (_KM_PER_DEGREE * np.cos(np.radians(lat_deg)))
    return np.round(lat, 6), np.round((lon + 180.0) % 360.0 - 180.0, 6)


@dataclass(frozen=True)
class Towns:
    """Centres (K) and streets (S) of all districts (R).

    Attributes:
        weight_R: share of the world's shops in each district.
        district_K, kind_K, size_K, spread_K, lat_K, lon_K: district, kind, relative size, scatter (km) and place.
        centre_stem_K, centre_name_K: "Lakeside" and "Lakeside Mall".
        district_S, lat_S, lon_S, heading_S, first_number_S: district, midpoint, direction (radians), first number.
        stem_S, street_S: "Elm" and "N Elm St".
    """

    weight_R: DoubleArray
    district_K: IntArray
    kind_K: IntArray
    size_K: DoubleArray
    spread_K: DoubleArray
    lat_K: DoubleArray
    lon_K: DoubleArray
    centre_stem_K: list[str]
    centre_name_K: list[str]
    district_S: IntArray
    lat_S: DoubleArray
    lon_S: DoubleArray
    heading_S: DoubleArray
    first_number_S: IntArray
    stem_S: list[str]
    street_S: list[str]

    def nearest_street(self, lat_deg: DoubleArray, lon_deg: DoubleArray) -> IntArray:
        """The street nearest to each point."""
        return SpatialIndex(self.lat_S, self.lon_S).nearest(lat_deg, lon_deg)[0][:, 0]

    def house_number(
        self, street: IntArray, lat_deg: DoubleArray, lon_deg: DoubleArray, metres_per_number: float
    ) -> IntArray:
        """House numbers that rise along each street; even on one side, odd on the other."""
        north_m = (lat_deg - self.lat_S[street]) * _KM_PER_DEGREE * 1000
        east_m = (lon_deg - self.lon_S[street]) * _KM_PER_DEGREE * 1000 * np.cos(np.radians(lat_deg))
        cos, sin = np.cos(self.heading_S[street]), np.sin(self.heading_S[street])
        along_m = np.clip(north_m * cos + east_m * sin, -_STREET_REACH_M, _STREET_REACH_M)
        side = (east_m * cos - north_m * sin > 0).astype(np.int64)
        steps = np.floor((along_m + _STREET_REACH_M) / (2 * metres_per_number)).astype(np.int64)
        first = self.first_number_S[street]
        return first - first % 2 + 2 * steps + side


def build_towns(places: Places, catalogue: Catalogue, items: int, seed: int) -> Towns:
    """Centres and streets for a world of so many shops; more shops make more centres and streets, up to a limit."""
    weight_R = _district_weights(places, stream(seed, "districts"))
    expected_R = items * weight_R
    centres = _centres(places, catalogue.words["areas"], expected_R, stream(seed, "centres"))
    streets = _streets(places, catalogue.words["streets"], expected_R, centres, stream(seed, "streets"))
    return Towns(weight_R=weight_R, **centres, **streets)


def _district_weights(places: Places, rng: np.random.Generator) -> DoubleArray:
    """Cities by population^0.8; districts within a city thin out from its centre and differ by chance."""
    centre_lat = np.array([city.lat_deg for city in places.cities])[places.city_R]
    centre_lon = np.array([city.lon_deg for city in places.cities])[places.city_R]
    out_km = haversine_km(centre_lat, centre_lon, places.lat_R, places.lon_R)
    local_R = rng.gamma(2.0, size=len(out_km)) * np.exp(-out_km / 8.0) * places.radius_R
    total_C = np.bincount(places.city_R, local_R, minlength=len(places.cities))
    weight_R = local_R / total_C[places.city_R] * (places.population_C**0.8)[places.city_R]
    result: DoubleArray = weight_R / weight_R.sum()
    return result


def _centres(
    places: Places, words: dict[str, Any], expected_R: DoubleArray, rng: np.random.Generator
) -> dict[str, Any]:
    count_R = np.clip(1 + np.floor(np.sqrt(expected_R) / 2), 1, 40).astype(np.int64)
    district_K = np.repeat(np.arange(len(count_R)), count_R)
    total = len(district_K)
    kind_K = rng.choice(len(_KIND_SHARE), size=total, p=_KIND_SHARE)
    lat_K, lon_K = _scatter(places, district_K, 0.45, rng)
    stems = [words["stems"][i] for i in rng.integers(len(words["stems"]), size=total)]
    patterns = [words[CENTRES[kind]] for kind in kind_K]
    picks = rng.random(total)
    names = [p[int(u * len(p))].format(stem=s) for p, u, s in zip(patterns, picks, stems, strict=True)]
    return {
        "district_K": district_K,
        "kind_K": kind_K,
        "size_K": np.minimum(1 + rng.pareto(1.2, size=total), 50.0),
        "spread_K": _KIND_SPREAD_KM[kind_K] * rng.lognormal(0.0, 0.3, size=total),
        "lat_K": lat_K,
        "lon_K": lon_K,
        "centre_stem_K": stems,
        "centre_name_K": names,
    }


def _scatter(
    places: Places, district: IntArray, spread: float, rng: np.random.Generator
) -> tuple[DoubleArray, DoubleArray]:
    """Points around district centroids, Gaussian with ``spread`` district radii, cut at two standard deviations."""
    offset = np.clip(rng.normal(size=(2, len(district))), -2, 2) * places.radius_R[district] * spread
    return shifted(places.lat_R[district], places.lon_R[district], offset[0], offset[1])


def _streets(
    places: Places,
    words: dict[str, Any],
    expected_R: DoubleArray,
    centres: dict[str, Any],
    rng: np.random.Generator,
) -> dict[str, Any]:
    count_R = np.clip(3 + expected_R / 12, 3, 60).astype(np.int64)
    wide_lat, wide_lon = _scatter(places, np.repeat(np.arange(len(count_R)), count_R), 0.6, rng)
    # beside the scattered ones, every centre has two streets of its own
    east, north = rng.normal(scale=0.2, size=(2, 2 * len(centres["lat_K"])))
    own_lat, own_lon = shifted(np.tile(centres["lat_K"], 2), np.tile(centres["lon_K"], 2), north, east)
    lat_S = np.concatenate([places.lat_R, wide_lat, own_lat])
    lon_S = np.concatenate([places.lon_R, wide_lon, own_lon])
    total = len(lat_S)
    stem_S, street_S = _street_names(words, total, rng)
    low, high = words["first_number"]
    return {
        # a street belongs to the district whose centroid is nearest, and so do the shops that stand in it
        "district_S": SpatialIndex(places.lat_R, places.lon_R).nearest(lat_S, lon_S)[0][:, 0],
        "lat_S": lat_S,
        "lon_S": lon_S,
        "heading_S": rng.uniform(0, np.pi, size=total),
        "first_number_S": rng.integers(low, high, size=total),
        "stem_S": stem_S,
        "street_S": street_S,
    }


def _street_names(words: dict[str, Any], total: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    stems, kinds, prefixes = words["stems"], words["kinds"], words["prefixes"]
    picks = rng.random((3, total))
    stem_S = [stems[int(u * len(stems))] for u in picks[0]]
    kind_S = [kinds[int(u * len(kinds))] for u in picks[1]]
    prefix_S = [prefixes[int(u * len(prefixes))] for u in picks[2]]
    names = [
        words["name"].format(prefix=prefix, stem=stem, kind=kind)
        for prefix, stem, kind in zip(prefix_S, stem_S, kind_S, strict=True)
    ]
    return stem_S, names
