"""The people of a world: homes, work places, tastes, budgets and how often they look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.config import WorldConfig
from lgsid.data.world.catalogue import Catalogue
from lgsid.data.world.draws import GroupDraw
from lgsid.data.world.places import Places
from lgsid.data.world.seeds import stream
from lgsid.data.world.shops import Shops
from lgsid.data.world.towns import Towns, shifted

_NEAR_SHOPS = 0.7
_HOME_SPREAD_KM = 0.7
_COMMUTE_KM, _COMMUTE_SPREAD, _LONGEST_COMMUTE_KM = 5.0, 0.8, 25.0
_ROOT_SHARPNESS, _LEAF_SHARPNESS, _STYLE_SHARPNESS = 0.35, 0.5, 0.3
_BLOCK = 65_536


@dataclass(frozen=True)
class People:
    """U people. Axes: L leaf categories, S styles.

    Attributes:
        city_U: home city.
        home_lat_U, home_lon_U, work_lat_U, work_lon_U: places in degrees.
        affinity_UL: liking of each leaf category, the favourite's being 1.
        preference_US: liking of each style, of unit length.
        budget_U: the price level that suits, as log of price over typical price.
        activity_U: relative number of sessions; log-normal, so heavy-tailed.
    """

    city_U: IntArray
    home_lat_U: DoubleArray
    home_lon_U: DoubleArray
    work_lat_U: DoubleArray
    work_lon_U: DoubleArray
    affinity_UL: FloatArray
    preference_US: FloatArray
    budget_U: FloatArray
    activity_U: DoubleArray

    def __len__(self) -> int:
        return len(self.city_U)


def build_people(
    world: WorldConfig, places: Places, towns: Towns, shops: Shops, catalogue: Catalogue, seed: int
) -> People:
    """Draw all people. Most live near shops, the others anywhere in a district; both follow the density of shops."""
    rng = stream(seed, "homes")
    district_U, home_lat, home_lon = _homes(world.users, places, towns, shops, rng)
    city_U = places.city_R[district_U]
    work_lat, work_lon = _work(places, towns, city_U, home_lat, home_lon, stream(seed, "work"))
    affinity_UL, preference_US = _tastes(world.users, catalogue, seed)
    return People(
        city_U=city_U,
        home_lat_U=home_lat,
        home_lon_U=home_lon,
        work_lat_U=work_lat,
        work_lon_U=work_lon,
        affinity_UL=affinity_UL,
        preference_US=preference_US,
        budget_U=stream(seed, "budgets").normal(0.0, 0.45, size=world.users).astype(np.float32),
        activity_U=stream(seed, "activity").lognormal(0.0, 1.0, size=world.users),
    )


def _homes(
    users: int, places: Places, towns: Towns, shops: Shops, rng: np.random.Generator
) -> tuple[IntArray, DoubleArray, DoubleArray]:
    shop_U = rng.integers(len(shops), size=users)
    near = rng.random(users) < _NEAR_SHOPS
    anywhere_U = rng.choice(len(towns.weight_R), size=users, p=towns.weight_R)
    district_U = np.where(near, shops.district_N[shop_U], anywhere_U)
    spread_km = np.where(near, _HOME_SPREAD_KM, 0.6 * places.radius_R[district_U])
    offset = np.clip(rng.normal(size=(2, users)), -2.5, 2.5) * spread_km
    lat = np.where(near, shops.lat_N[shop_U], places.lat_R[district_U])
    lon = np.where(near, shops.lon_N[shop_U], places.lon_R[district_U])
    return district_U, *shifted(lat, lon, offset[0], offset[1])


def _work(
    places: Places,
    towns: Towns,
    city_U: IntArray,
    home_lat: DoubleArray,
    home_lon: DoubleArray,
    rng: np.random.Generator,
) -> tuple[DoubleArray, DoubleArray]:
    """A log-normal way from home, in the direction of a commercial centre of the city."""
    centres = GroupDraw(places.city_R[towns.district_K], towns.size_K, len(places.cities))
    goal = centres.draw(city_U, rng.random(len(city_U)))
    north = towns.lat_K[goal] - home_lat
    east = (towns.lon_K[goal] - home_lon) * np.cos(np.radians(home_lat))
    bearing = np.arctan2(east, north) + rng.normal(0.0, 0.2, size=len(city_U))
    away_km = np.minimum(_COMMUTE_KM * rng.lognormal(0.0, _COMMUTE_SPREAD, size=len(city_U)), _LONGEST_COMMUTE_KM)
    return shifted(home_lat, home_lon, away_km * np.cos(bearing), away_km * np.sin(bearing))


def _tastes(users: int, catalogue: Catalogue, seed: int) -> tuple[FloatArray, FloatArray]:
    """Dirichlet over roots times Dirichlet over each root's leaves, and Dirichlet over styles, block by block."""
    affinity_UL = np.empty((users, len(catalogue.leaves)), dtype=np.float32)
    preference_US = np.empty((users, len(catalogue.styles)), dtype=np.float32)
    for block, start in enumerate(range(0, users, _BLOCK)):
        rows = slice(start, min(start + _BLOCK, users))
        rng = stream(seed, "tastes", block)
        count = rows.stop - rows.start
        root = rng.standard_gamma(_ROOT_SHARPNESS, size=(count, int(catalogue.root_L.max()) + 1))
        leaf = rng.standard_gamma(_LEAF_SHARPNESS, size=(count, len(catalogue.leaves))) + 1e-9
        roots = np.arange(root.shape[1])
        leaf_sum = leaf @ (catalogue.root_L[:, None] == roots).astype(np.float64)
        liking = (root / leaf_sum)[:, catalogue.root_L] * leaf
        affinity_UL[rows] = liking / liking.max(axis=1, keepdims=True)
        style = rng.standard_gamma(_STYLE_SHARPNESS, size=(count, len(catalogue.styles))) + 1e-6
        preference_US[rows] = style / np.linalg.norm(style, axis=1, keepdims=True)
    return affinity_UL, preference_US
