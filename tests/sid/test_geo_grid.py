"""Grid cells as first tokens: the finest resolution that fits, and a cell for every place on Earth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.config import GeoGridConfig, SidConfig
from lgsid.data.labels import region_path
from lgsid.errors import ArtifactError, ConfigError, DataError
from lgsid.geo import geohash_text
from lgsid.sid.geo_grid import GeoGridTokenizer, cells_of, finest_cells
from lgsid.sid.quality import first_token_geography, purity

Grid = Literal["h3", "geohash"]
GRIDS: tuple[Grid, ...] = ("h3", "geohash")


def config(codes: int = 8, grid: Grid = "h3") -> SidConfig:
    return SidConfig(method="geo_grid", codes=codes, geo_grid=GeoGridConfig(grid=grid))


def places(*lat_lon: tuple[float, float]) -> pl.DataFrame:
    return pl.DataFrame(lat_lon, schema=["lat_deg", "lon_deg"], orient="row")


@pytest.mark.parametrize("grid", GRIDS)
def test_the_resolution_is_the_finest_that_fits(grid: Grid) -> None:
    items, _ = toy_city()
    settings = GeoGridConfig(grid=grid)
    for codes in (4, 8, 16, 64):
        resolution, cells = finest_cells(items, codes, settings)
        assert len(cells) == len(np.unique(cells_of(items, resolution, settings))) <= codes
        assert len(np.unique(cells_of(items, resolution + 1, settings))) > codes


def test_geohash_cells_of_known_places() -> None:
    """Published example: 57.64911, 10.40744 lies in u4pruydqqvj; the two points share a cell down to its 8th letter."""
    items = places((57.64911, 10.40744), (57.64912, 10.40745), (48.8584, 2.2945))
    resolution, cells = finest_cells(items, 2, GeoGridConfig(grid="geohash"))
    assert resolution >= 8
    assert {text[:8] for text in geohash_text(cells, resolution)} == {"u4pruydq", "u09tunqu"}


@pytest.mark.parametrize("grid", GRIDS)
def test_items_of_a_cell_share_the_first_token_and_its_vector_is_their_mean(grid: Grid) -> None:
    items, emb = toy_city()
    tokenizer = GeoGridTokenizer(config=config(16, grid)).fit(items, emb)
    first = tokenizer.transform(items, emb)[:, 0]
    resolution, cells = finest_cells(items, 16, GeoGridConfig(grid=grid))
    assert np.array_equal(cells[first], cells_of(items, resolution, GeoGridConfig(grid=grid)))
    assert purity(first, region_path(items, 2)) == 1.0
    for code in range(16):
        expected = emb[first == code] if code < len(cells) else emb
        assert np.allclose(tokenizer.books[0][code], expected.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_place_never_seen_gets_the_nearest_cell(grid: Grid) -> None:
    items, emb = toy_city()
    tokenizer = GeoGridTokenizer(config=config(16, grid)).fit(items, emb)
    city_of = dict(zip(tokenizer.transform(items, emb)[:, 0].tolist(), items["city"].to_list(), strict=True))
    # a little beyond each city, and one across the date line that is nearest to Dune
    beyond = places((7.0, 9.5), (14.0, 12.0), (38.0, -58.0), (45.0, -64.0), (41.0, 179.9))
    first = tokenizer.transform(beyond, emb[:5])[:, 0]
    assert [city_of[code] for code in first.tolist()] == ["Alba", "Brio", "Cora", "Dune", "Dune"]


def test_known_places_keep_their_cell_even_where_another_centre_is_nearer() -> None:
    """Two neighbouring cells: an item at the edge of its cell belongs to it, not to the crowd across the border."""
    border = 40.25390625  # of two GeoHashes of length 4
    lats = [border - 0.12] * 6 + [border - 0.0005] + [border + 0.0005] * 7
    items = places(*((lat, -74.0) for lat in lats)).with_columns(title=pl.lit("shop"))
    emb = np.random.default_rng(0).standard_normal((14, 4)).astype(np.float32)
    first = GeoGridTokenizer(config=config(2, "geohash")).fit(items, emb).transform(items, emb)[:, 0]
    assert len(set(first[:7].tolist())) == 1
    assert first[6] != first[7]


def test_place_decides_the_first_token_and_nothing_else() -> None:
    items, emb = toy_city()
    tokenizer = GeoGridTokenizer(config=config()).fit(items, emb)
    first = tokenizer.transform(items, emb)[:, 0]
    unknown = items.select("item_id", "lat_deg", "lon_deg")
    assert np.array_equal(tokenizer.transform(unknown, emb[::-1].copy())[:, 0], first)


def test_more_large_cells_than_codes_are_refused() -> None:
    lat, lon = np.meshgrid(np.arange(-60, 61, 30.0), np.arange(-180, 180, 30.0))
    items = places(*zip(lat.ravel().tolist(), lon.ravel().tolist(), strict=True))
    with pytest.raises(ConfigError, match=r"largest h3 cells, expected at most 8"):
        GeoGridTokenizer(config=config()).fit(items, np.ones((len(items), 2), dtype=np.float32))


def test_missing_coordinates_and_few_items_are_refused() -> None:
    items, emb = toy_city()
    with pytest.raises(DataError, match="no column 'lon_deg'"):
        GeoGridTokenizer(config=config()).fit(items.drop("lon_deg"), emb)
    with pytest.raises(ConfigError, match="5 points cannot fill 8 codes"):
        GeoGridTokenizer(config=config()).fit(items[:5], emb[:5])


def test_a_folder_that_lost_a_cell_is_refused(tmp_path: Path) -> None:
    items, emb = toy_city()
    GeoGridTokenizer(config=config()).fit(items, emb).save_pretrained(tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "cells": state["cells"][1:]}))
    with pytest.raises(ArtifactError, match="do not fit"):
        GeoGridTokenizer.from_pretrained(tmp_path)


@pytest.mark.real
def test_cells_of_three_states(real_data: Path) -> None:
    """H3 cells of a real catalogue are pure by state and small; embeddings play no part in them, so cheap ones do."""
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["title", "lon_deg"])
    emb = np.random.default_rng(0).standard_normal((len(items), 4)).astype(np.float32)
    codes = GeoGridTokenizer(config=config(256)).fit(items, emb).transform(items, emb)
    geography = first_token_geography(codes[:, 0], items)
    assert geography["province_purity"] >= 0.99
    assert geography["city_purity"] >= 0.85
    assert geography["radius_km_median"] < 3
