"""Negatives: known answers, the law of ranks, independence of chunks and other anchors, crowded and tiny catalogues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.align import negatives as module
from lgsid.align.negatives import NEIGHBOURHOOD, density_aware, multiscale, uniform
from lgsid.align.places import Places, uniforms
from lgsid.align.ranks import PlacesOfEveryScale, near_ranks
from lgsid.errors import DataError
from lgsid.geo import haversine_km

SAMPLERS = (density_aware, multiscale, uniform)
BY_RANK = (density_aware, multiscale)
coordinate = st.tuples(
    st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 0.0, 31.2, 90.0])),
    st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 0.0, 121.5, 180.0])),
)
clouds = st.lists(coordinate, min_size=6, max_size=60)


def columns(cloud: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    lat, lon = np.array(cloud, dtype=float).T
    return lat, lon


def country(items: int = 3_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Towns of very different density."""
    rng = np.random.default_rng(seed)
    town = rng.integers(0, 20, items)
    spread = np.array([0.002, 0.02, 0.2, 0.5])[town % 4]
    return 30 + town % 5 + rng.normal(0, spread), 100 + town // 5 + rng.normal(0, spread)


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=60, deadline=None)
@given(cloud=clouds, far_share=st.floats(0, 1), seed=st.integers(0, 2**40))
def test_a_list_has_distinct_other_items_sorted_by_their_true_distance(
    sampler: Callable[..., Any], cloud: list[tuple[float, float]], far_share: float, seed: int
) -> None:
    lat, lon = columns(cloud)
    anchors = np.arange(len(lat))
    index, km = sampler(lat, lon, anchors, negatives=5, far_share=far_share, seed=seed)
    assert index.shape == km.shape == (len(lat), 5)
    assert (index != anchors[:, None]).all()
    assert all(len(set(row)) == 5 for row in index.tolist())
    assert (np.diff(km, axis=1) >= 0).all()
    np.testing.assert_array_equal(km, haversine_km(lat[:, None], lon[:, None], lat[index], lon[index]))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_list_does_not_depend_on_other_anchors_their_order_or_chunks(
    sampler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lat, lon = country()
    lat[:300], lon[:300] = lat[0], lon[0]  # a mall
    index, km = sampler(lat, lon, np.arange(len(lat)), seed=3)
    monkeypatch.setattr(module, "_CHUNK", 7)
    some = np.array([2_900, 5, 77, 1_234, 5])
    again, again_km = sampler(lat, lon, some, seed=3)
    np.testing.assert_array_equal(again, index[some])
    np.testing.assert_array_equal(again_km, km[some])
    other, _ = sampler(lat, lon, some, seed=4)
    assert (other != again).any(axis=1).all()


def test_without_far_ones_negatives_are_among_the_nearest_other_places_and_denser_nearer() -> None:
    lat, lon = country()
    index, _ = density_aware(lat, lon, np.arange(400), negatives=15, far_share=0.0, seed=0)
    ranks = true_ranks(lat, lon, np.arange(400), index)
    assert ranks.min() == 1
    assert ranks.max() <= NEIGHBOURHOOD
    # the law is 1 / (r + 8): its CDF is log(1 + r / 8) / log(1 + 128 / 8)
    for rank in (8, 16, 32, 64, 128):
        share, law = (ranks <= rank).mean(), np.log1p(rank / 8) / np.log1p(NEIGHBOURHOOD / 8)
        assert share == pytest.approx(law, abs=0.03), rank


def test_multiscale_ranks_follow_the_law_over_the_whole_catalogue() -> None:
    lat, lon = country()
    anchors = np.arange(0, 3_000, 3)
    index, _ = multiscale(lat, lon, anchors, negatives=15, far_share=0.0, seed=0)
    ranks = true_ranks(lat, lon, anchors, index)
    # beyond 128 ranks are those of random samples, within some ten or twenty per cent; the law spans decades
    for rank, tolerance in ((8, 0.01), (32, 0.01), (128, 0.01), (300, 0.03), (600, 0.03), (1_200, 0.03), (2_999, 0.0)):
        share, law = (ranks <= rank).mean(), np.log1p(rank / 8) / np.log1p(2_999 / 8)
        assert share == pytest.approx(law, abs=tolerance + 1e-9), rank


def test_multiscale_ranks_are_exact_up_to_512_places_and_the_law_reaches_the_last() -> None:
    lat, lon = country(400)
    index, _ = multiscale(lat, lon, np.arange(400), negatives=10, far_share=0.0, seed=0)
    drawn = np.sort(true_ranks(lat, lon, np.arange(400), index), axis=1)
    np.testing.assert_array_equal(drawn, near_ranks(uniforms(0, "rank", np.arange(400), 10), np.full(400, 399)))


def test_every_list_of_multiscale_covers_every_scale() -> None:
    lat, lon = country(20_000)
    anchors = np.arange(0, 20_000, 40)
    ranks = np.sort(true_ranks(lat, lon, anchors, multiscale(lat, lon, anchors, far_share=0.0, seed=0)[0]), axis=1)
    for low, high in ((0, 30), (30, 300), (300, 3_000), (3_000, 20_000)):
        count = ((ranks > low) & (ranks <= high)).sum(axis=1)
        assert np.mean(count >= 2) > 0.97, (low, high)


def test_multiscale_draws_from_all_places_not_from_one_sample() -> None:
    lat, lon = country()
    anchors = np.arange(3_000)
    index, _ = multiscale(lat, lon, anchors, far_share=0.0, seed=0)
    ranks = true_ranks(lat, lon, anchors, index)
    middle = index[(ranks > 200) & (ranks < 600)]
    assert len(np.unique(middle)) > 2_500
    assert np.bincount(middle).max() < 30 * np.bincount(middle, minlength=3_000).mean()


def test_levels_grow_at_most_eightfold_and_the_last_reaches_everything() -> None:
    lat, lon = country(9_000)
    reach = PlacesOfEveryScale(Places.of(lat, lon), NEIGHBOURHOOD, seed=0)._reach_L
    assert reach[0] == pytest.approx(NEIGHBOURHOOD)
    assert reach[-1] == pytest.approx(8_999)
    assert (reach[1:] / reach[:-1] <= 8).all()


@pytest.mark.parametrize("options", [{"negatives": 15}, {"negatives": 200}, {"negatives": 15, "neighbourhood": 15}])
@pytest.mark.parametrize("items", [513, 540, 1_100, 5_000])
def test_multiscale_lists_are_distinct_for_any_number_of_levels(items: int, options: dict[str, int]) -> None:
    lat, lon = country(items)
    index, km = multiscale(lat, lon, np.arange(0, items, 7), far_share=0.1, seed=0, **options)
    assert all(len(set(row)) == options["negatives"] for row in index.tolist())
    assert km.min() > 0


def true_ranks(lat: np.ndarray, lon: np.ndarray, anchors: np.ndarray, index: np.ndarray) -> np.ndarray:
    km = haversine_km(lat[anchors, None], lon[anchors, None], lat, lon)
    rank = km.argsort(axis=1).argsort(axis=1)  # 0: the anchor itself
    return np.take_along_axis(rank, index, axis=1)


def test_density_is_far_from_uniform_and_keeps_its_share_of_far_ones() -> None:
    lat, lon = country()
    anchors = np.arange(300)
    dense = true_ranks(lat, lon, anchors, density_aware(lat, lon, anchors, far_share=0.2, seed=0)[0])
    even = true_ranks(lat, lon, anchors, uniform(lat, lon, anchors, seed=0)[0])
    assert np.median(dense) < 40
    assert np.median(even) == pytest.approx(len(lat) / 2, rel=0.1)
    # three of fifteen from anywhere, and 128 of 3,000 items are not beyond the neighbourhood
    assert (dense > NEIGHBOURHOOD).mean() == pytest.approx(0.2 * (1 - NEIGHBOURHOOD / 3_000), abs=0.01)


def test_near_means_near_for_its_own_density() -> None:
    lat, lon = country()
    town = np.random.default_rng(0).integers(0, 20, len(lat))
    _, km = density_aware(lat, lon, np.arange(len(lat)), far_share=0.0, seed=0)
    dense, sparse = (np.median(km[town % 4 == kind]) for kind in (0, 3))
    assert dense < 0.5
    assert sparse > 10


@pytest.mark.parametrize("sampler", BY_RANK)
def test_known_answer_on_a_street(sampler: Callable[..., Any]) -> None:
    """Six houses on a line, five negatives: all others, in order."""
    index, km = sampler(np.zeros(6), np.arange(6) / 1_000, np.array([0, 5, 2]), negatives=5, seed=0)
    assert index[:2].tolist() == [[1, 2, 3, 4, 5], [4, 3, 2, 1, 0]]
    assert set(index[2, :2].tolist()) == {1, 3}
    assert index[2, 4] == 5
    np.testing.assert_allclose(km[0], np.arange(1, 6) * 0.1111949, rtol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_own_spot_is_left_out_and_no_spot_comes_twice_where_there_are_others(sampler: Callable[..., Any]) -> None:
    lat, lon = country(2_000)
    lat[:1_500], lon[:1_500] = lat[0], lon[0]  # three quarters of the catalogue at one coordinate
    index, km = sampler(lat, lon, np.arange(2_000), seed=0)
    assert km.min() > 0
    spots = np.where(index < 1_500, 0, index)
    assert all(len(set(row)) == 15 for row in spots.tolist())


def test_an_item_of_a_shared_spot_is_any_of_its_items() -> None:
    lat, lon = np.repeat(np.arange(20) / 100, 10), np.zeros(200)
    index, _ = uniform(lat, lon, np.arange(200), negatives=15, seed=0)
    assert np.bincount(index.ravel(), minlength=200).min() > 0


@pytest.mark.parametrize("sampler", BY_RANK)
def test_everything_at_one_place_works(sampler: Callable[..., Any]) -> None:
    index, km = sampler(np.full(40, 31.2), np.full(40, 121.5), np.arange(40), seed=0)
    assert (km == 0).all()
    assert (index != np.arange(40)[:, None]).all()
    assert all(len(set(row)) == 15 for row in index.tolist())


def test_a_few_spots_with_very_many_negatives_fill_the_list_from_all_of_them() -> None:
    lat = np.repeat([31.2, 31.3, 31.4], 300)  # 3 spots, divided into 201 places each
    index, _ = multiscale(lat, np.zeros(900), np.arange(900), negatives=200, far_share=0.1, seed=0)
    assert all(len(set(row)) == 200 for row in index.tolist())
    assert (index != np.arange(900)[:, None]).all()


@pytest.mark.parametrize("sampler", BY_RANK)
@pytest.mark.parametrize("far_share", [0.0, 0.2, 1.0])
def test_two_crowded_spots_ask_about_the_other_one(sampler: Callable[..., Any], far_share: float) -> None:
    lat = np.repeat([31.2, 31.3], 20)
    _, km = sampler(lat, np.zeros(40), np.arange(40), far_share=far_share, seed=0)
    assert (km > 0).all()


@pytest.mark.parametrize("sampler", BY_RANK)
def test_the_own_spot_fills_a_list_that_others_cannot(sampler: Callable[..., Any]) -> None:
    lat = np.array([31.2] * 20 + [31.3] * 4)
    index, km = sampler(lat, np.zeros(24), np.arange(20), negatives=15, seed=0)
    assert all(len(set(row)) == 15 for row in index.tolist())
    assert (index != np.arange(20)[:, None]).all()
    assert (km == 0).any()


def test_the_date_line_and_the_pole_are_no_borders() -> None:
    lon = np.concatenate([180 - np.arange(1, 11) / 100, -180 + np.arange(0, 10) / 100])
    _, km = density_aware(np.zeros(20), lon, np.array([10]), negatives=5, far_share=0.0, seed=0)
    assert km.max() < 15
    assert len(Places.of([90.0, 90.0], [0.0, 77.0])) == 1
    assert len(Places.of([10.0, 10.0], [180.0, -180.0])) == 1


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), extra=st.integers(0, 400), seed=st.integers(0, 2**32))
def test_ranks_are_distinct_and_within_reach(count: int, extra: int, seed: int) -> None:
    reach = count + extra
    ranks = near_ranks(uniforms(seed, "x", np.arange(5), count), np.full(5, reach))
    assert ranks.min() >= 1
    assert ranks.max() <= reach
    assert (np.diff(ranks, axis=1) > 0).all()


def test_random_numbers_are_uniform_uncorrelated_and_differ_by_purpose() -> None:
    drawn = uniforms(0, "a", np.arange(20_000), 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    np.testing.assert_allclose(np.histogram(drawn, bins=10, range=(0, 1))[0] / 60_000, 0.1, atol=0.005)
    correlation = np.corrcoef(np.column_stack([drawn[:-1], drawn[1:], uniforms(0, "b", np.arange(19_999), 1)]).T)
    assert np.abs(correlation - np.eye(7)).max() < 0.03


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        (15, {}, "need at least 16 items, got 15"),
        (0, {}, "need at least 16 items, got 0"),
        (20, {"negatives": 0}, "expected at least 1"),
        (20, {"far_share": 1.5}, "share of 0 to 1"),
        (20, {"anchors": [20]}, "no rows of 20 items"),
        (20, {"anchors": [-1]}, "no rows of 20 items"),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    sampler: Callable[..., Any], items: int, options: dict[str, Any], message: str
) -> None:
    options = dict(options)
    anchors = np.array(options.pop("anchors", [0]))
    with pytest.raises(DataError, match=message):
        sampler(np.arange(items) / 10.0, np.zeros(items), anchors, seed=0, **options)


def test_a_small_catalogue_is_told_which_setting_to_change() -> None:
    with pytest.raises(DataError, match=r"--set align\.alignment\.reward\.negatives=9"):
        density_aware(np.arange(10.0), np.zeros(10), np.arange(10), seed=0)


def test_coordinates_that_are_no_numbers_are_named() -> None:
    lat = np.arange(20.0)
    lat[6] = np.nan
    with pytest.raises(DataError, match="item row 7 has latitude nan"):
        density_aware(lat, np.zeros(20), np.arange(20), seed=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("items", [20, 2_000])
def test_no_anchors_give_no_lists(sampler: Callable[..., Any], items: int) -> None:
    index, km = sampler(np.arange(items) / 100, np.zeros(items), np.empty(0, dtype=np.int64), seed=0)
    assert index.shape == km.shape == (0, 15)
