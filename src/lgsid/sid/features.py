"""The features that decide the first token: hard, discretised geography with a little coarse content.

The first level of HGIT clusters "GeoHash, latitude/longitude, province, city, district and a coarse content
representation" (LGSID, section on HGIT). Each block has unit spread and a weight (`lgsid.config.GeoFeatureConfig`):

    province, city, district, cell   identity: a fixed random unit vector per name, so two different names lie sqrt(2)
                                     apart as one-hots would, in a few dimensions, and a name never seen has one too
    globe                            unit-sphere coordinates, scaled by the catalogue's spread: no special case at the
                                     date line or the poles
    regional                         offset from the centre of the item's province, scaled by that province's spread:
                                     small towns that share a token are neighbours
    local                            offset from the centre of the item's city, scaled by that city's spread: a dense
                                     city is cut as finely as its items deserve, whatever lies a thousand km away
    content                          identity of the root categories (a mean where there are several) and of the brand

Axes: N items, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, FloatArray
from lgsid.config import GeoFeatureConfig
from lgsid.data.labels import identities, region_path, root_categories
from lgsid.errors import DataError
from lgsid.geo import EARTH_RADIUS_KM, geohash_cells, h3_cells, unit_sphere

IDENTITY_DIM = 16
"""Dimensions of a name's random vector; the squared distance of two names is then 2 ± 0.5."""
WIDTH = 4 * IDENTITY_DIM + 3 * 3 + 2 * IDENTITY_DIM
"""F: four identity blocks, three of coordinates, and content."""
LEAST_SPREAD_KM = 1.0
"""A city that is one shopping street is not cut into single doorways."""
BRAND_SHARE = 0.5
"""Weight of the brand inside the content block."""
REQUIRED = ("lat_deg", "lon_deg")


@dataclass(frozen=True)
class Place:
    """Centre (unit-sphere x, y, z) and root-mean-square spread in km of the items of a province, a city, or of all."""

    centre: tuple[float, float, float]
    spread_km: float


@dataclass(frozen=True)
class GeoFeatures:
    """Turns items into first-level features; what it needs to know of the catalogue is learned once by `fit`.

    Attributes:
        config: weights of the blocks.
        whole: centre and spread of the whole catalogue.
        provinces: centre and spread by province.
        cities: centre and spread by city path ("AZ > Phoenix").
    """

    config: GeoFeatureConfig
    whole: Place
    provinces: dict[str, Place]
    cities: dict[str, Place]

    @classmethod
    def fit(cls, items: pl.DataFrame, config: GeoFeatureConfig) -> GeoFeatures:
        """Learn centres and spreads.

        Raises:
            DataError: a coordinate column is missing.
        """
        missing = [name for name in REQUIRED if name not in items.columns]
        if missing:
            raise DataError(f"items have no column {missing[0]!r}; got {', '.join(items.columns)}")
        xyz_N3 = unit_sphere(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy())
        provinces, cities = (_places(xyz_N3, region_path(items, depth)) for depth in (1, 2))
        return cls(config, _place(xyz_N3), provinces, cities)

    def transform(self, items: pl.DataFrame) -> FloatArray:
        """Features of the items, float32 of shape (N, F)."""
        # block by block into place: all blocks in float64 at once would be four times the result
        features_NF = np.empty((len(items), WIDTH), dtype=np.float32)
        start = 0
        for weight, block in self._blocks(items):
            features_NF[:, start : start + block.shape[1]] = weight * block
            start += block.shape[1]
        return features_NF

    def keeping(self, old: GeoFeatures) -> GeoFeatures:
        """The same with the centres and spreads of an older fit for all that it knew."""
        return GeoFeatures(self.config, old.whole, self.provinces | old.provinces, self.cities | old.cities)

    def state(self) -> dict[str, Any]:
        """What `fit` learned, as a JSON object."""
        return {
            "whole": asdict(self.whole),
            "provinces": {name: asdict(place) for name, place in self.provinces.items()},
            "cities": {name: asdict(place) for name, place in self.cities.items()},
        }

    @classmethod
    def restore(cls, config: GeoFeatureConfig, state: Mapping[str, Any]) -> GeoFeatures:
        """Take up what `state` gave."""
        provinces, cities = (
            {name: _stored_place(place) for name, place in state[level].items()} for level in ("provinces", "cities")
        )
        return cls(config, _stored_place(state["whole"]), provinces, cities)

    def _blocks(self, items: pl.DataFrame) -> Iterator[tuple[float, DoubleArray]]:
        """Weight and values (N, …) of each block."""
        weight = self.config
        province, city, district = (region_path(items, depth) for depth in (1, 2, 3))
        yield weight.province, identities(province, "province", IDENTITY_DIM)
        yield weight.city, identities(city, "city", IDENTITY_DIM)
        yield weight.district, identities(district, "district", IDENTITY_DIM)
        yield weight.cell, identities(self._cells(items), "cell", IDENTITY_DIM)
        xyz_N3 = unit_sphere(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy())
        yield weight.globe, (xyz_N3 - self.whole.centre) * EARTH_RADIUS_KM / self.whole.spread_km
        yield weight.regional, self._offset(xyz_N3, province, self.provinces)
        yield weight.local, self._offset(xyz_N3, city, self.cities)
        yield weight.content, content_identities(items)

    def _cells(self, items: pl.DataFrame) -> pl.Series:
        grid = h3_cells if self.config.grid == "h3" else geohash_cells
        cells = grid(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), self.config.grid_resolution)
        return pl.Series("cell", cells).cast(pl.String)

    def _offset(self, xyz_N3: DoubleArray, region_N: pl.Series, places: dict[str, Place]) -> DoubleArray:
        """Offset from the region's centre in units of its spread; an unknown region is the whole catalogue."""
        names = region_N.unique(maintain_order=True)
        known = [places.get(name, self.whole) if name is not None else self.whole for name in names]
        where = region_N.replace_strict(names, pl.Series(range(len(names)), dtype=pl.Int64)).to_numpy()
        centre = np.array([place.centre for place in known])[where]
        spread = np.array([place.spread_km for place in known])[where]
        offset: DoubleArray = (xyz_N3 - centre) * EARTH_RADIUS_KM / spread[:, None]
        return offset


def _stored_place(stored: Mapping[str, Any]) -> Place:
    x, y, z = stored["centre"]
    return Place((x, y, z), stored["spread_km"])


def _places(xyz_N3: DoubleArray, region_N: pl.Series) -> dict[str, Place]:
    rows = pl.DataFrame({"region": region_N}).with_row_index("row").drop_nulls("region")
    groups = rows.group_by("region", maintain_order=True).agg("row")
    return {region: _place(xyz_N3[np.asarray(index)]) for region, index in groups.iter_rows()}


def _place(xyz_N3: DoubleArray) -> Place:
    centre = xyz_N3.mean(axis=0)
    spread_km = EARTH_RADIUS_KM * float(np.sqrt(((xyz_N3 - centre) ** 2).sum(axis=1).mean()))
    return Place((float(centre[0]), float(centre[1]), float(centre[2])), max(spread_km, LEAST_SPREAD_KM))


def content_identities(items: pl.DataFrame) -> DoubleArray:
    """Coarse content (N, 2 · IDENTITY_DIM): mean identity of the root categories, and of the brand."""
    roots = pl.DataFrame({"root": root_categories(items)}).with_row_index("row").explode("root", empty_as_null=True)
    vectors = identities(roots["root"], "category", IDENTITY_DIM)
    count = np.bincount(roots["row"].to_numpy(), minlength=len(items)).clip(1)
    category = np.stack([np.bincount(roots["row"].to_numpy(), column, len(items)) for column in vectors.T], axis=1)
    brand = items["brand"] if "brand" in items.columns else pl.Series([None] * len(items), dtype=pl.String)
    return np.concatenate([category / count[:, None], BRAND_SHARE * identities(brand, "brand", IDENTITY_DIM)], axis=1)
