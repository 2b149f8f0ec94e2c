"""The shops of a world as numbers: where they stand, what they sell, and the latent truth behind their text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.config import WorldConfig
from lgsid.data.world.catalogue import CENTRES, Catalogue
from lgsid.data.world.chains import Chains, unit_styles
from lgsid.data.world.places import Places
from lgsid.data.world.seeds import stream
from lgsid.data.world.towns import Towns, shifted

SCATTERED = CENTRES.index("scattered")
_CHAIN_LIKING = np.array([1.8, 0.7, 0.9, 1.4, 0.8, 0.7])
_POPULAR_KIND = np.array([0.3, 0.2, -0.1, 0.1, 0.3, -0.2])


@dataclass(frozen=True)
class Shops:
    """N shops. Axis S: latent styles.

    Attributes:
        lat_N, lon_N: place in degrees, six decimals.
        city_N, district_N, street_N, centre_N, number_N: rows of the town tables (centre -1: none); house number.
        leaf_N, brand_N: leaf category; brand (-1: independent).
        style_NS: latent style, of unit length.
        quality_N, log_popularity_N: standard normal; centred.
        price_level_N: log of the price over the leaf's typical price.
        price_N: typical spend per visit.
        opened_N: day of opening, counted from the first day of the simulation (negative: before).
    """

    lat_N: DoubleArray
    lon_N: DoubleArray
    city_N: IntArray
    district_N: IntArray
    street_N: IntArray
    centre_N: IntArray
    number_N: IntArray
    leaf_N: IntArray
    brand_N: IntArray
    style_NS: FloatArray
    quality_N: FloatArray
    price_level_N: FloatArray
    log_popularity_N: FloatArray
    price_N: DoubleArray
    opened_N: IntArray

    def __len__(self) -> int:
        return len(self.lat_N)


def build_shops(
    world: WorldConfig, places: Places, towns: Towns, chains: Chains, catalogue: Catalogue, seed: int
) -> Shops:
    """Draw all shops; whole columns at a time, about 200 bytes a shop."""
    centre_N, lat_N, lon_N = _sites(world, places, towns, stream(seed, "sites"))
    in_mall = (centre_N >= 0) & (towns.kind_K[centre_N] == CENTRES.index("mall"))
    # all shops of a mall share its address
    door_lat = np.where(in_mall, towns.lat_K[centre_N], lat_N)
    door_lon = np.where(in_mall, towns.lon_K[centre_N], lon_N)
    street_N = towns.nearest_street(door_lat, door_lon)
    number_N = towns.house_number(street_N, door_lat, door_lon, float(catalogue.words["streets"]["metres_per_number"]))
    district_N = towns.district_S[street_N]
    city_N = places.city_R[district_N]
    kind_N = np.where(centre_N >= 0, towns.kind_K[centre_N], SCATTERED)
    leaf_N = _leaves(catalogue, kind_N, places.province_C[city_N], stream(seed, "leaves"))
    brand_N = _brands(world, chains, kind_N, leaf_N, city_N, stream(seed, "brands"))
    traits = _traits(towns, chains, catalogue, centre_N, kind_N, leaf_N, brand_N, stream(seed, "traits"))
    opened_N = _openings(world, len(leaf_N), stream(seed, "openings"))
    return Shops(
        lat_N, lon_N, city_N, district_N, street_N, centre_N, number_N, leaf_N, brand_N, *traits, opened_N
    )  # fmt: skip


def _sites(
    world: WorldConfig, places: Places, towns: Towns, rng: np.random.Generator
) -> tuple[IntArray, DoubleArray, DoubleArray]:
    """Centre (-1: none) and place of each shop."""
    district_N = rng.choice(len(towns.weight_R), size=world.items, p=towns.weight_R)
    # a district's centres are a run of rows, so one search in the running total of sizes picks one of them
    running_K = np.concatenate([[0.0], np.cumsum(towns.size_K)])
    first_R = np.searchsorted(towns.district_K, np.arange(len(towns.weight_R)))
    last_R = np.searchsorted(towns.district_K, np.arange(len(towns.weight_R)), side="right")
    low, high = running_K[first_R[district_N]], running_K[last_R[district_N]]
    centre_N = np.searchsorted(running_K, low + rng.random(world.items) * (high - low), side="right") - 1
    centre_N = np.clip(centre_N, first_R[district_N], last_R[district_N] - 1)
    alone = rng.random(world.items) < world.scattered_share
    spread_km = np.where(alone, 0.6 * places.radius_R[district_N], towns.spread_K[centre_N])
    offset = np.clip(rng.normal(size=(2, world.items)), -2.5, 2.5) * spread_km
    lat_N, lon_N = shifted(
        np.where(alone, places.lat_R[district_N], towns.lat_K[centre_N]),
        np.where(alone, places.lon_R[district_N], towns.lon_K[centre_N]),
        offset[0],
        offset[1],
    )
    return np.where(alone, -1, centre_N), lat_N, lon_N


def _leaves(catalogue: Catalogue, kind_N: IntArray, province_N: IntArray, rng: np.random.Generator) -> IntArray:
    """Leaf categories by kind of centre, with a taste of its own in every province."""
    uniform_N = rng.random(len(kind_N))
    leaf_N = np.zeros(len(kind_N), dtype=np.int64)
    tilt_PL = rng.lognormal(0.0, 0.4, size=(int(province_N.max()) + 1, len(catalogue.leaves)))
    for province, tilt_L in enumerate(tilt_PL):
        for kind in range(len(CENTRES)):
            rows = np.flatnonzero((province_N == province) & (kind_N == kind))
            running_L = np.cumsum(catalogue.share_L6[:, kind] * tilt_L)
            leaf_N[rows] = np.searchsorted(running_L, uniform_N[rows] * running_L[-1], side="right")
    return np.minimum(leaf_N, len(catalogue.leaves) - 1)


def _brands(
    world: WorldConfig, chains: Chains, kind_N: IntArray, leaf_N: IntArray, city_N: IntArray, rng: np.random.Generator
) -> IntArray:
    liking_N = _CHAIN_LIKING[kind_N]
    chance_N = world.chain_share * liking_N / liking_N.mean()
    chain_N = rng.random(len(leaf_N)) < chance_N
    return np.where(chain_N, chains.draw(leaf_N, city_N, rng.random(len(leaf_N))), -1)


def _traits(
    towns: Towns,
    chains: Chains,
    catalogue: Catalogue,
    centre_N: IntArray,
    kind_N: IntArray,
    leaf_N: IntArray,
    brand_N: IntArray,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, DoubleArray]:
    """Style, quality, price level, log popularity and price; shops of a brand resemble each other."""
    total = len(leaf_N)
    branded = brand_N >= 0
    style_NS = unit_styles(catalogue.style_prior_LS[leaf_N], 0.12, rng)
    mixed_NS = np.where(branded[:, None], chains.style_BS[brand_N] + 0.25 * style_NS, style_NS)
    style_NS = (mixed_NS / np.linalg.norm(mixed_NS, axis=1, keepdims=True)).astype(np.float32)
    quality_N = rng.normal(size=total)
    own_level = 0.25 * quality_N + rng.normal(0.0, 0.35, size=total) + 0.5 * (style_NS[:, _elegant(catalogue)] - 0.3)
    level_N = np.clip(np.where(branded, chains.price_level_B[brand_N], own_level), -1.1, 1.1)
    price_N = _round_price(catalogue.price_L[leaf_N] * np.exp(level_N))
    crowd_N = np.where(centre_N >= 0, np.log(towns.size_K[centre_N]), 0.0)
    popularity_N = 0.45 * quality_N + 0.1 * crowd_N + _POPULAR_KIND[kind_N] + rng.normal(0.0, 0.7, size=total)
    popularity_N += np.where(branded, chains.strength_B[brand_N], 0.0)
    return (
        style_NS,
        quality_N.astype(np.float32),
        np.log(price_N / catalogue.price_L[leaf_N]).astype(np.float32),
        (popularity_N - popularity_N.mean()).astype(np.float32),
        price_N,
    )


def _elegant(catalogue: Catalogue) -> int:
    return [style.name for style in catalogue.styles].index("elegant")


def _round_price(price_N: DoubleArray) -> DoubleArray:
    """Whole units below 100, fives below 500, tens above."""
    step_N = np.select([price_N < 100, price_N < 500], [1.0, 5.0], 10.0)
    rounded: DoubleArray = np.maximum(np.round(price_N / step_N) * step_N, 1.0)
    return rounded


def _openings(world: WorldConfig, total: int, rng: np.random.Generator) -> IntArray:
    fresh = (rng.random(total) < world.new_share) & (world.days > 1)
    during = rng.integers(1, max(world.days, 2), size=total)
    before = -1 - np.minimum(rng.exponential(1200.0, size=total), 12_000).astype(np.int64)
    return np.where(fresh, during, before)
