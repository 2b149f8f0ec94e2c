"""What the simulated app shows: slates from near, popular, familiar and far items, without ever pairing all with all.

Near items come from a quadtree that exists only as an order: items sorted by GeoHash bits, so that every square of
every size is one run of rows. A draw picks a reach (log-normal around `near_km`), puts a square of that size around the
user at a random offset, and takes a random item in it; a square without items grows until it has some.
"""

from __future__ import annotations

import numpy as np

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.config import WorldConfig
from lgsid.data.world.choice import EMPTY
from lgsid.data.world.draws import GroupDraw
from lgsid.data.world.shops import Shops
from lgsid.geo import geohash_cells

_LENGTH = 8  # 40 bits: 20 for the latitude, so the finest square is 19 m high
_DEPTH = 20
_REACH_SPREAD = 1.0
_FINEST_KM = 0.024  # side of a square with the area of the finest cell, at 40 degrees


class NearDraw:
    """Draws items around points.

    Args:
        lat_N, lon_N: places of the items in degrees.
    """

    def __init__(self, lat_N: DoubleArray, lon_N: DoubleArray) -> None:
        code_N = geohash_cells(lat_N, lon_N, _LENGTH)
        self._order = np.argsort(code_N, kind="stable").astype(np.int32)
        self._code = code_N[self._order]

    def draw(self, lat_B: DoubleArray, lon_B: DoubleArray, near_km: float, rng: np.random.Generator) -> IntArray:
        """One item near each point."""
        reach_km = near_km * rng.lognormal(0.0, _REACH_SPREAD, size=len(lat_B))
        level_B = np.clip(np.round(np.log2(2 * reach_km / _FINEST_KM)), 0, _DEPTH).astype(np.int64)
        scale_B = 2.0 ** (level_B - _DEPTH)
        jitter = rng.random((2, len(lat_B))) - 0.5
        lat = np.clip(lat_B + 180.0 * scale_B * jitter[0], -90.0, 90.0)
        lon = (lon_B + 360.0 * scale_B * jitter[1] + 180.0) % 360.0 - 180.0
        first, last = self._runs(geohash_cells(lat, lon, _LENGTH), level_B)
        row = first + np.floor(rng.random(len(lat_B)) * (last - first)).astype(np.int64)
        item: IntArray = self._order[row].astype(np.int64)
        return item

    def _runs(self, code_B: IntArray, level_B: IntArray) -> tuple[IntArray, IntArray]:
        """Run of rows in the square of each level around each code; empty squares grow fourfold until they are not."""
        first, last = np.zeros_like(code_B), np.zeros_like(code_B)
        left = np.arange(len(code_B))
        level = level_B.copy()
        while len(left):
            shift = 2 * level[left]
            prefix = code_B[left] >> shift
            first[left] = np.searchsorted(self._code, prefix << shift)
            last[left] = np.searchsorted(self._code, (prefix + 1) << shift)
            left = left[first[left] == last[left]]
            level[left] += 1
        return first, last


class Exposure:
    """Fills slates.

    Args:
        world: the weights of the sources and the slate's length.
        shops: the items.
        cities: number of cities.
    """

    def __init__(self, world: WorldConfig, shops: Shops, cities: int) -> None:
        sources = world.exposure
        weights = np.array([sources.near, sources.popular, sources.familiar, sources.far])
        self._edges = np.cumsum(weights / weights.sum())[:-1]
        self._near_km, self._slate = sources.near_km, world.slate
        self._opened = shops.opened_N
        popularity_N = np.exp(shops.log_popularity_N)
        self._near = NearDraw(shops.lat_N, shops.lon_N)
        self._city = GroupDraw(shops.city_N, popularity_N, cities)
        self._all = GroupDraw(np.zeros(len(shops), dtype=np.int64), popularity_N, 1)

    def slates(
        self,
        lat_B: DoubleArray,
        lon_B: DoubleArray,
        city_B: IntArray,
        recent_BH: IntArray,
        day: int,
        rng: np.random.Generator,
    ) -> IntArray:
        """A slate of different items for each page, shape (B, T); `EMPTY` for repeats and shops not yet open."""
        shape = (len(lat_B), self._slate)
        page = np.repeat(np.arange(shape[0]), self._slate)
        source = np.searchsorted(self._edges, rng.random(len(page)), side="right")
        familiar = recent_BH[page, rng.integers(recent_BH.shape[1], size=len(page))]
        uniform = rng.random(len(page))
        popular, far = source == 1, source == 3
        known = (source == 2) & (familiar != EMPTY)
        near = ~(popular | far | known)
        item = np.empty(len(page), dtype=np.int64)
        item[known] = familiar[known]
        item[popular] = self._city.draw(city_B[page[popular]], uniform[popular])
        item[far] = self._all.draw(np.zeros(int(far.sum()), dtype=np.int64), uniform[far])
        item[near] = self._near.draw(lat_B[page[near]], lon_B[page[near]], self._near_km, rng)
        item_BT = item.reshape(shape)
        return np.where(_repeated(item_BT) | (self._opened[item_BT] > day), EMPTY, item_BT)


def _repeated(item_BT: IntArray) -> BoolArray:
    """Where an item already stands further left in its row."""
    repeated = np.zeros(item_BT.shape, dtype=np.bool_)
    for t in range(1, item_BT.shape[1]):
        repeated[:, t] = (item_BT[:, :t] == item_BT[:, t : t + 1]).any(axis=1)
    return repeated
