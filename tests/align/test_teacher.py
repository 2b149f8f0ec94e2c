"""The geographic teacher: its inner products are the similarity it stands for, on known and unknown places."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.align.teacher import coarse_geography, fine_geography, fit_teacher
from lgsid.arrays import DoubleArray
from lgsid.config import TeacherConfig
from lgsid.data.labels import REGIONS, region_path
from lgsid.geo import haversine_km

CONFIG = TeacherConfig(province=0.1, city=0.03, district=0.2, near=0.05, near_km=2.0)
ONLY_NEAR = TeacherConfig(province=0, city=0, district=0, near=0.05, near_km=2.0)
WIDE = 8_192
"""So many dimensions make random vectors nearly orthogonal."""


def geography(items: pl.DataFrame, dim: int, config: TeacherConfig, seed: int) -> DoubleArray:
    """Coarse and fine geography side by side: their inner products add up."""
    half = dim // 2
    blocks = coarse_geography(items, half, config), fine_geography(items, dim - half, config, seed)
    return np.concatenate(blocks, axis=1)


def wanted_similarity(items: pl.DataFrame, config: TeacherConfig) -> DoubleArray:
    """The geographic terms of s(i, j), pair by pair."""
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    apart_NN = haversine_km(lat[:, None], lon[:, None], lat, lon)
    wanted_NN = config.near * np.exp(-(apart_NN**2) / (2 * config.near_km**2))
    for depth, weight in enumerate((config.province, config.city, config.district), start=1):
        path_N = np.array(region_path(items, depth).fill_null("").to_list())
        wanted_NN += weight * ((path_N[:, None] == path_N) & (path_N != ""))
    return np.asarray(wanted_NN)


def test_inner_products_are_the_weighted_terms() -> None:
    items, _ = toy_city(12)
    place_NG = geography(items, WIDE, CONFIG, seed=0)
    gap_NN = place_NG @ place_NG.T - wanted_similarity(items, CONFIG)
    assert np.abs(gap_NN).max() < 0.02
    narrow_NG = geography(items, 150, CONFIG, seed=0)  # about what MiniLM's 384 dimensions leave
    gap_NN = narrow_NG @ narrow_NG.T - wanted_similarity(items, CONFIG)
    assert np.sqrt((gap_NN**2).mean()) < 0.04


def test_provinces_and_cities_are_coarse_and_the_others_fine() -> None:
    items, _ = toy_city(2)
    elsewhere = items.with_columns(
        district=pl.lit("d"), lat_deg=pl.lit(0.0), lon_deg=pl.lit(0.0), street=pl.lit("Main Street")
    )
    assert np.array_equal(coarse_geography(items, 64, CONFIG), coarse_geography(elsewhere, 64, CONFIG))
    no_names = items.with_columns(pl.lit("x").alias(name) for name in ("province", "city", "district"))
    assert not np.array_equal(coarse_geography(items, 64, CONFIG), coarse_geography(no_names, 64, CONFIG))
    without = CONFIG.model_copy(update={"province": 0.0, "city": 0.0})
    assert np.array_equal(fine_geography(items, 64, CONFIG, 0), fine_geography(items, 64, without, 0))


def test_an_unknown_region_adds_nothing() -> None:
    items, _ = toy_city(4)
    unknown = items.with_columns(district=pl.lit(None, dtype=pl.String))
    without = CONFIG.model_copy(update={"district": 0.0})
    assert np.array_equal(geography(unknown, 64, CONFIG, 0), geography(items, 64, without, 0))
    nowhere = unknown.with_columns(province=pl.lit(None, dtype=pl.String), city=pl.lit(None, dtype=pl.String))
    assert np.array_equal(geography(nowhere, 64, CONFIG, 0), geography(items, 64, ONLY_NEAR, 0))
    assert np.array_equal(geography(nowhere.drop(REGIONS), 64, CONFIG, 0), geography(items, 64, ONLY_NEAR, 0))


def test_namesakes_in_two_provinces_are_two_regions() -> None:
    items, _ = toy_city(1)
    namesakes = items.with_columns(city=pl.lit("Springfield"), district=pl.lit("Centre"))
    config = TeacherConfig(province=0, city=1, district=0, near=0)
    place_NG = geography(namesakes, WIDE, config, 0)  # provinces East, East, West, West
    assert np.allclose(place_NG[0] @ place_NG[1], 1)
    assert abs(place_NG[0] @ place_NG[2]) < 0.05


@pytest.mark.parametrize("apart_km", [0.0, 0.5, 2.0, 4.0, 30.0])
def test_fourier_features_give_the_gaussian_kernel(apart_km: float) -> None:
    degrees = apart_km / 111.19493
    points = pl.DataFrame({"lat_deg": [40.0, 40.0 + degrees], "lon_deg": [-112.0, -112.0]})
    here, there = geography(points, WIDE, ONLY_NEAR, seed=3)
    assert here @ here == pytest.approx(ONLY_NEAR.near)
    assert here @ there == pytest.approx(ONLY_NEAR.near * np.exp(-(apart_km**2) / (2 * 2.0**2)), abs=0.002)


def test_fourier_features_of_an_odd_number_of_dimensions() -> None:
    items, _ = toy_city(2)
    place_NG = fine_geography(items, 11, ONLY_NEAR, seed=0)
    assert np.allclose((place_NG**2).sum(axis=1), ONLY_NEAR.near)


def test_no_weights_no_geography() -> None:
    items, _ = toy_city(2)
    assert not geography(items, 16, TeacherConfig(province=0, city=0, district=0, near=0), 0).any()


def test_axes_are_orthonormal_and_fall_in_variance() -> None:
    items, emb = toy_city(16)
    teacher = fit_teacher(items, emb, CONFIG, 0)
    assert np.allclose(teacher.axes.T @ teacher.axes, np.eye(16), atol=1e-5)
    energy = ((emb @ teacher.axes) ** 2).sum(axis=0)
    assert (np.diff(energy) <= 1e-4).all()
    assert (teacher.meaning, teacher.coarse, teacher.fine) == (slice(0, 9), slice(9, 11), slice(11, 16))
    assert teacher.scales(2, 3).tolist() == [1] * 9 + [2] * 2 + [3] * 5


def test_targets_hold_the_whole_similarity() -> None:
    """Vectors of rank 8 lose nothing in the meaning's dimensions, so s(i, j) comes out complete."""
    items, _ = toy_city(12)
    rng = np.random.default_rng(0)
    dim = 900
    factors = rng.standard_normal((len(items), 8)) @ rng.standard_normal((8, dim))
    emb = (factors / np.linalg.norm(factors, axis=1, keepdims=True)).astype(np.float32)
    teacher = fit_teacher(items, emb, CONFIG, 0)
    assert teacher.targets.dtype == np.float32
    gap_NN = teacher.targets @ teacher.targets.T - emb @ emb.T - wanted_similarity(items, CONFIG)
    assert np.abs(gap_NN).max() < 0.07


def test_a_region_never_seen_has_its_own_vector() -> None:
    items, emb = toy_city(16, dim=600)
    teacher = fit_teacher(items, emb, TeacherConfig(near=0), 0)
    new = items[:1].with_columns(district=pl.lit("Alba north"))
    target, known = teacher.of(new, emb[:1])[0], teacher.targets[0]
    assert np.allclose(target[: teacher.fine.start], known[: teacher.fine.start], atol=1e-6)
    gap = target[teacher.fine] - known[teacher.fine]
    assert gap @ gap == pytest.approx(0.2, abs=0.05)  # two districts of weight .1
    elsewhere = fit_teacher(items[:9], emb[:9], TeacherConfig(near=0), 5)  # a name has one vector in every catalogue
    assert np.array_equal(elsewhere.of(new, emb[:1])[0][teacher.fine], target[teacher.fine])


def test_targets_of_the_fitted_items_are_those_of_any_item() -> None:
    items, emb = toy_city(8)
    teacher = fit_teacher(items, emb, CONFIG, 0)
    assert np.allclose(teacher.of(items[5:9], emb[5:9]), teacher.targets[5:9], atol=1e-6)


def test_the_seed_draws_the_fourier_features_and_nothing_else() -> None:
    items, emb = toy_city(8)
    assert np.array_equal(fit_teacher(items, emb, CONFIG, 1).targets, fit_teacher(items, emb, CONFIG, 1).targets)
    assert not np.array_equal(fit_teacher(items, emb, CONFIG, 1).targets, fit_teacher(items, emb, CONFIG, 2).targets)
    far = TeacherConfig(near=0)
    assert np.array_equal(fit_teacher(items, emb, far, 1).targets, fit_teacher(items, emb, far, 2).targets)
