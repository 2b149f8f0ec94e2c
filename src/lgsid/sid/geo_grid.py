"""A grid cell, then residual k-means: the honest simple rival of every learned geographic first token.

The first token is the item's cell of H3 (Brodsky, "H3: Uber's hexagonal hierarchical spatial index", 2018) or GeoHash
(Niemeyer, 2008), at the finest resolution at which the catalogue occupies no more cells than there are codes. As in
HGIT (arXiv 2511.14221) the cell's vector is the mean embedding of its items, frozen, and the further tokens code the
rest, here by plain residual k-means. A place in no cell of the catalogue gets the cell whose items' centre is nearest.

A grid knows neither towns nor how many shops there are: some cells hold a city centre, others one petrol station.

Axes: N items, D dimensions, K codes, O occupied cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray, IntArray
from lgsid.config import GeoGridConfig
from lgsid.errors import ConfigError, DataError
from lgsid.geo import SpatialIndex, geohash_cells, h3_cells, sphere_to_degrees, unit_sphere
from lgsid.sid.base import Tokenizer

RESOLUTIONS = {"h3": range(16), "geohash": range(1, 13)}
"""Coarse to fine."""


class GeoGridTokenizer(Tokenizer):
    """Grid cell as first token, residual k-means for the others; see `Tokenizer` for the arguments.

    Codes behind the last occupied cell stay unused; their vector is the mean of the catalogue.
    """

    method: ClassVar[str] = "geo_grid"
    place_levels: ClassVar[frozenset[int]] = frozenset({1})

    _resolution: int
    _cells_O: IntArray
    """The occupied cells in ascending order: the place of a cell here is its code."""
    _centres_O3: FloatArray
    """Centre of each cell's items, a direction from the centre of the Earth."""

    def can_relabel(self, level: int) -> bool:
        """All but the first level: a cell's code is its place among the cells."""
        return level > 1

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        import torch

        from lgsid.sid.kmeans import means
        from lgsid.sid.res_kmeans import residual_kmeans

        config = self.config
        self._resolution, self._cells_O = finest_cells(items, config.codes, config.geo_grid)
        first_N = np.searchsorted(self._cells_O, cells_of(items, self._resolution, config.geo_grid))
        xyz_N3 = unit_sphere(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy())
        sums_O3 = np.stack([np.bincount(first_N, axis) for axis in xyz_N3.T], axis=1)
        self._centres_O3 = (sums_O3 / np.bincount(first_N)[:, None]).astype(np.float32)
        x, first = torch.from_numpy(emb_ND), torch.from_numpy(first_N)
        frozen_KD = means(x, first, x.mean(0).expand(config.codes, -1).clone())
        generator = torch.Generator().manual_seed(self.seed)
        rest = residual_kmeans(x - frozen_KD[first], config.levels - 1, config.codes, config.res_kmeans, generator)
        return [frozen_KD.numpy(), *(book.numpy() for book in rest)]

    def _project(
        self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
    ) -> tuple[FloatArray, IntArray]:
        return self.check_pair(items, emb_ND), self._cell_codes(items)

    def _cell_codes(self, items: pl.DataFrame) -> IntArray:
        """First token: the item's cell, or the nearest one known."""
        cells_N = cells_of(items, self._resolution, self.config.geo_grid)
        first_N = np.searchsorted(self._cells_O, cells_N).clip(max=len(self._cells_O) - 1)
        strange = np.flatnonzero(self._cells_O[first_N] != cells_N)
        if len(strange):
            index = SpatialIndex(*sphere_to_degrees(self._centres_O3.astype(np.float64)))
            away = items[strange]
            nearest, _ = index.nearest(away["lat_deg"].to_numpy(), away["lon_deg"].to_numpy())
            first_N[strange] = nearest[:, 0]
        return first_N

    def _state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        return {"centres_O3": self._centres_O3}, {"resolution": self._resolution, "cells": self._cells_O.tolist()}

    def _restore(self, tensors: Mapping[str, FloatArray], state: Mapping[str, Any]) -> None:
        self._centres_O3 = tensors["centres_O3"]
        self._resolution, self._cells_O = int(state["resolution"]), np.array(state["cells"], dtype=np.int64)
        if len(self._cells_O) != len(self._centres_O3):
            raise ValueError(f"{len(self._cells_O)} cells, {len(self._centres_O3)} centres")


def finest_cells(items: pl.DataFrame, codes: int, config: GeoGridConfig) -> tuple[int, IntArray]:
    """The finest resolution at which the items occupy at most ``codes`` cells, and those cells in ascending order.

    Raises:
        ConfigError: they occupy more even at the coarsest.
        DataError: a coordinate column is missing.
    """
    found = None
    for resolution in RESOLUTIONS[config.grid]:
        cells_O = np.unique(cells_of(items, resolution, config))
        if len(cells_O) > codes:
            break
        found = resolution, cells_O
    if found is None:
        raise ConfigError(
            f"the items lie in {len(cells_O)} of the largest {config.grid} cells, expected at most {codes} (codes)",
            f"--set sid.codes={len(cells_O)}",
        )
    return found


def cells_of(items: pl.DataFrame, resolution: int, config: GeoGridConfig) -> IntArray:
    """Cell of each item, int64 (N,).

    Raises:
        DataError: a coordinate column is missing.
    """
    missing = [name for name in ("lat_deg", "lon_deg") if name not in items.columns]
    if missing:
        raise DataError(f"items have no column {missing[0]!r}; got {', '.join(items.columns)}")
    grid = h3_cells if config.grid == "h3" else geohash_cells
    return grid(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), resolution)
