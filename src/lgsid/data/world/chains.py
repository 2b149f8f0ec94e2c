"""Chains: invented brands of one leaf category each, national, regional or of one city."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lgsid.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.data.world.catalogue import Catalogue
from lgsid.data.world.places import Places
from lgsid.data.world.seeds import stream
from lgsid.geo import haversine_km

_SHOPS_PER_BRAND = 6
_MOST_BRANDS_PER_LEAF = 120


@dataclass(frozen=True)
class Chains:
    """B brands.

    Attributes:
        name_B: unique names.
        leaf_B, weight_B: the category each sells, and its size among the brands there.
        reach_BC: the cities it is found in.
        style_BS, price_level_B, strength_B: what its shops have in common (style of unit length).
    """

    name_B: list[str]
    leaf_B: IntArray
    weight_B: DoubleArray
    reach_BC: BoolArray
    style_BS: FloatArray
    price_level_B: DoubleArray
    strength_B: DoubleArray

    def draw(self, leaf_N: IntArray, city_N: IntArray, uniform_N: DoubleArray) -> IntArray:
        """A brand for each shop, by size among those of its category that reach its city; -1 where none does."""
        brand_N = np.full(len(leaf_N), -1, dtype=np.int64)
        order = np.argsort(leaf_N, kind="stable")
        leaves, starts = np.unique(leaf_N[order], return_index=True)
        for leaf, rows in zip(leaves, np.split(order, starts[1:]), strict=True):
            brands = np.flatnonzero(self.leaf_B == leaf)
            cumulative = np.cumsum(self.weight_B[brands, None] * self.reach_BC[brands], axis=0)[:, city_N[rows]]
            chosen = (cumulative <= uniform_N[rows] * cumulative[-1]).sum(axis=0)
            found = cumulative[-1] > 0
            brand_N[rows[found]] = brands[chosen[found]]
        return brand_N


def build_chains(places: Places, catalogue: Catalogue, chain_shops: float, seed: int) -> Chains:
    """Brands for about so many chain shops."""
    rng = stream(seed, "chains")
    share_L = catalogue.share_L6.mean(axis=1)
    count_L = np.clip(chain_shops * share_L / _SHOPS_PER_BRAND, 1, _MOST_BRANDS_PER_LEAF).astype(np.int64)
    leaf_B = np.repeat(np.arange(len(count_L)), count_L)
    rank_B = np.concatenate([np.arange(count) for count in count_L])
    return Chains(
        name_B=_names(catalogue, leaf_B, rng),
        leaf_B=leaf_B,
        weight_B=1 / (1 + rank_B) ** 0.7,
        reach_BC=_reach(places, rank_B, rng),
        style_BS=unit_styles(catalogue.style_prior_LS[leaf_B], 0.1, rng),
        price_level_B=rng.normal(0.0, 0.35, size=len(leaf_B)),
        strength_B=rng.normal(0.5, 0.3, size=len(leaf_B)),
    )


def unit_styles(prior_NS: DoubleArray, sharpness: float, rng: np.random.Generator) -> FloatArray:
    """Style vectors of unit length: square roots of a Dirichlet draw, so that the squares are shares that sum to 1."""
    gamma_NS = rng.standard_gamma(np.maximum(prior_NS * sharpness, 1e-3)).astype(np.float32) + np.float32(1e-6)
    unit: FloatArray = np.sqrt(gamma_NS / gamma_NS.sum(axis=1, keepdims=True))
    return unit


def _reach(places: Places, rank_B: IntArray, rng: np.random.Generator) -> BoolArray:
    """Three in ten brands (and each category's first) are national, two in ten local, the rest regional.

    A regional brand covers one to three neighbouring provinces.
    """
    province_C = places.province_C
    lat_C, lon_C = np.array([c.lat_deg for c in places.cities]), np.array([c.lon_deg for c in places.cities])
    home_B = rng.choice(len(lat_C), size=len(rank_B), p=places.population_C / places.population_C.sum())
    kind_B, wide_B = rng.random(len(rank_B)), rng.integers(1, 4, size=len(rank_B))
    reach_BC = np.zeros((len(rank_B), len(lat_C)), dtype=np.bool_)
    for brand, home in enumerate(home_B):
        if rank_B[brand] == 0 or kind_B[brand] < 0.3:
            reach_BC[brand] = True
        elif kind_B[brand] < 0.5:
            reach_BC[brand, home] = True
        else:
            near = np.argsort(haversine_km(lat_C[home], lon_C[home], lat_C, lon_C), kind="stable")
            nearest_provinces = list(dict.fromkeys(province_C[near].tolist()))[: wide_B[brand]]
            reach_BC[brand] = np.isin(province_C, nearest_provinces)
    return reach_BC


def _names(catalogue: Catalogue, leaf_B: IntArray, rng: np.random.Generator) -> list[str]:
    words, patterns = catalogue.words, catalogue.words["brands"]
    taken: set[str] = set()
    names = []
    for leaf in leaf_B.tolist():
        while True:
            pick = rng.random(3)
            head = catalogue.leaves[leaf].head
            word, word2 = (words["brand_words"][i] for i in rng.choice(len(words["brand_words"]), 2, replace=False))
            name = patterns[int(pick[0] * len(patterns))].format(
                brand_word=word,
                brand_word2=word2,
                thing=words["things"][int(pick[1] * len(words["things"]))],
                head=head[int(pick[2] * len(head))],
            )
            if name not in taken:
                break
        taken.add(name)
        names.append(name)
    return names
