"""Negatives: within reach and uniform there, exactly, everywhere on Earth; the city; what fills."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lgsid.arrays import DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import haversine_km
from lgsid.rank.negatives import OPEN, Moments, Pool, request_keys
from lgsid.rank.reach import WithinReach

LATS = st.one_of(st.floats(-90, 90), st.sampled_from([-90.0, 90.0, 0.0, 89.99, -89.95]))
LONS = st.one_of(st.floats(-180, 180), st.sampled_from([-180.0, 180.0, 179.999, 0.0]))


def moments(lat: DoubleArray, lon: DoubleArray, city: IntArray | None = None, seed: int = 0) -> Moments:
    keys = request_keys(seed, np.arange(len(lat)))
    return Moments(lat, lon, np.full(len(lat), -1) if city is None else city, keys)


def opened(positive: IntArray, negatives: int) -> IntArray:
    candidates = np.full((len(positive), 1 + negatives), OPEN)
    candidates[:, 0] = positive
    return candidates


def town(items: int, seed: int, spread_deg: float = 0.2) -> tuple[DoubleArray, DoubleArray]:
    """Shops around two centres, with many at a few spots."""
    rng = np.random.default_rng(seed)
    lat = 40 + rng.normal(0, spread_deg, items) * rng.choice([0.1, 1], items)
    lon = 116 + rng.normal(0, spread_deg, items) * rng.choice([0.1, 1], items)
    mall = rng.random(items) < 0.2
    lat[mall], lon[mall] = 40.03, 116.02
    return lat, lon


# --- Circles ----------------------------------------------------------------------------------------------------------
@settings(max_examples=150, deadline=None)
@given(LATS, LONS, st.floats(0.001, 21_000), st.integers(0, 2**32 - 1))
@example(90.0, 0.0, 500.0, 0)
@example(0.0, 180.0, 300.0, 1)
@example(-89.9, 120.0, 11.12, 2)
@example(12.0, -180.0, 0.01, 3)
@example(0.0, 0.0, 10_007.5, 4)
def test_circles_hold_what_lies_within_reach_and_little_else(
    lat: float, lon: float, reach_km: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    turn, far = rng.uniform(0, 2 * np.pi, 300), reach_km * rng.uniform(0, 1.5, 300) / 111.2
    lat_P = np.clip(lat + far * np.sin(turn), -90, 90)
    lon_P = (lon + far * np.cos(turn) / max(np.cos(np.radians(lat)), 1e-3) + 180) % 360 - 180
    lat_P[:50], lon_P[:50] = np.degrees(np.arcsin(rng.uniform(-1, 1, 50))), rng.uniform(-180, 180, 50)
    reach = WithinReach(lat_P, lon_P, reach_km)
    circles = reach.circles(np.array([lat]), np.array([lon]))
    row, place = circles.places()
    assert len(np.unique(place)) == len(place) == circles.sizes[0]
    found = reach.order_P[place[reach.inside(place, circles.centre_B3[row])]]
    km = haversine_km(lat, lon, lat_P, lon_P)
    hair = 1e-6 + 1e-9 * reach_km
    if reach_km > 19_000:  # the chord says little of distances near the other end of the Earth
        hair = 1.0
    assert set(np.flatnonzero(km <= reach_km - hair)) <= set(found) <= set(np.flatnonzero(km <= reach_km + hair))


def test_circles_are_covered_closely() -> None:
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(-1, 1, 50_000), rng.uniform(-1, 1, 50_000)
    reach = WithinReach(lat, lon, 30.0)
    circles = reach.circles(np.zeros(1), np.zeros(1))
    inside = (haversine_km(0, 0, lat, lon) <= 30).sum()
    assert inside < circles.sizes[0] < 1.3 * inside


def test_a_place_is_picked_by_each_number() -> None:
    lat, lon = town(500, 0)
    circles = WithinReach(lat, lon, 20.0).circles(np.full(1, 40.0), np.full(1, 116.0))
    size = int(circles.sizes[0])
    picked = circles.of(np.zeros(size, dtype=int)).pick((np.arange(size) + 0.5) / size)
    assert np.array_equal(picked, circles.places()[1])


# --- Within reach -----------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from([0.3, 2.0, 5.0, 40.0]), st.integers(9, 400))
def test_negatives_are_what_they_should_be(seed: int, negatives: int, reach_km: float, items: int) -> None:
    rng = np.random.default_rng(seed)
    lat, lon = town(items, seed)
    city = rng.integers(-1, 4, items)
    city[0] = 3  # a user's city is one of the catalogue's, if not of the pool's
    rows = np.sort(rng.choice(items, max(negatives + 1, items // 2), replace=False))
    positive = rng.choice(rows, 40)
    here_lat, here_lon = 40 + rng.normal(0, 0.2, 40), 116 + rng.normal(0, 0.2, 40)
    candidates = opened(positive, negatives)
    known = candidates[:, 1:] if negatives > 1 else candidates[:0, 1:]
    for row in range(0, len(known), 3):  # some negatives are known already
        known[row, 0] = rng.choice(rows[rows != positive[row]])
    given_ones = candidates.copy()
    here_city = rng.integers(-1, 4, 40)
    figures = Pool(rows, lat, lon, city, reach_km).fill(candidates, moments(here_lat, here_lon, here_city, seed))

    assert np.isin(candidates, rows).all()
    assert (candidates[given_ones != OPEN] == given_ones[given_ones != OPEN]).all()
    assert all(len(set(row)) == negatives + 1 for row in candidates.tolist())
    beyond = elsewhere = 0
    near = (negatives + 1) // 2
    for row, drawn in enumerate(candidates):
        km = dict(zip(rows, haversine_km(here_lat[row], here_lon[row], lat[rows], lon[rows]), strict=True))
        known_ones = set(given_ones[row]) - {OPEN}
        ours = [item for item in drawn[1 : 1 + near] if item not in known_ones]
        inside = [item for item in rows if km[item] <= reach_km and item not in known_ones]
        outside = [item for item in ours if km[item] > reach_km]
        assert len(outside) == max(0, len(ours) - len(inside))
        if outside:  # then all of reach are taken, and the nearest beyond
            rest = sorted(km[item] for item in rows if item not in known_ones and km[item] > reach_km)
            assert sorted(km[item] for item in outside) == pytest.approx(rest[: len(outside)])
        beyond += len(outside)
        for column in range(1 + near, 1 + negatives):
            if here_city[row] >= 0 and city[drawn[column]] != here_city[row]:
                taken = set(drawn[:column])
                assert not [item for item in rows if city[item] == here_city[row] and item not in taken]
                elsewhere += 1
    assert figures == (beyond, elsewhere)


def uniformity(lat: DoubleArray, lon: DoubleArray, reach_km: float, draws: int, negatives: int = 2) -> float:
    """p-value of the draws around (40, 116) having equal chances within reach; checks that all are within reach."""
    positive = int(np.argmin(haversine_km(40, 116, lat, lon)))
    candidates = opened(np.full(draws, positive), negatives)
    here = moments(np.full(draws, 40.0), np.full(draws, 116.0), seed=3)
    Pool(np.arange(len(lat)), lat, lon, np.zeros(len(lat), dtype=int), reach_km).fill(candidates, here)
    inside = np.flatnonzero(haversine_km(40, 116, lat, lon) <= reach_km)
    inside = inside[inside != positive]
    drawn = candidates[:, 1 : 1 + (negatives + 1) // 2]
    assert np.isin(drawn, inside).all()
    return float(chisquare(np.bincount(np.searchsorted(inside, drawn.ravel()), minlength=len(inside))).pvalue)


@pytest.mark.parametrize("reach_km", [1.5, 5.0, 30.0])
def test_each_item_within_reach_has_the_same_chance(reach_km: float) -> None:
    lat, lon = town(600, 5)
    assert uniformity(lat, lon, reach_km, 20_000) > 1e-3


def test_each_item_of_a_short_list_has_the_same_chance() -> None:
    lat, lon = 40 + np.arange(12) * 0.001, np.full(12, 116.0)
    assert uniformity(lat, lon, 0.9, 20_000, negatives=4) > 1e-3


def test_a_crowd_just_out_of_reach_changes_nothing() -> None:
    """Draws from the runs fail nearly always here, so the items inside are listed after all."""
    rng = np.random.default_rng(0)
    # north-east of a circle's rim, inside the band of its northern edge
    crowd = 40 + 4.9 / 111.2 + rng.normal(0, 1e-6, 3_000), 116 + 1.05 / 85.2 + rng.normal(0, 1e-6, 3_000)
    few = 40 + rng.uniform(-0.01, 0.01, 5), 116 + rng.uniform(-0.01, 0.01, 5)
    lat, lon = np.concatenate([few[0], crowd[0]]), np.concatenate([few[1], crowd[1]])
    assert (haversine_km(40, 116, *crowd) > 5).all()
    circles = WithinReach(lat, lon, 5.0).circles(np.full(1, 40.0), np.full(1, 116.0))
    assert circles.sizes[0] == len(lat), "the crowd is not among the runs, so this shows nothing"
    assert uniformity(lat, lon, 5.0, 2_000) > 1e-3


def test_draws_depend_on_nothing_but_their_request() -> None:
    lat, lon = town(300, 1)
    rng = np.random.default_rng(2)
    where = moments(40 + rng.normal(0, 0.1, 200), 116 + rng.normal(0, 0.1, 200), rng.integers(0, 3, 200))
    pool = Pool(np.arange(300), lat, lon, rng.integers(0, 3, 300), 3.0)
    positive = rng.integers(0, 300, 200)
    whole = opened(positive, 4)
    pool.fill(whole, where)
    for rows in (rng.permutation(200), np.arange(7), np.array([150])):
        part = opened(positive[rows], 4)
        pool.fill(part, where.of(rows))
        assert np.array_equal(part, whole[rows])


def test_keys_change_with_each_of_their_parts() -> None:
    parts = [np.array([5]), np.array([7]), np.array([-9])]
    keys = {int(request_keys(seed, *parts)[0]) for seed in range(50)}
    for place in range(3):
        for step in range(1, 50):
            keys.add(int(request_keys(0, *(part + step * (place == k) for k, part in enumerate(parts)))[0]))
    assert len(keys) == 200 - 3
    assert request_keys(0, np.array([1]), np.array([2])) != request_keys(0, np.array([2]), np.array([1]))


# --- The city ---------------------------------------------------------------------------------------------------------
def test_the_city_and_its_items_have_the_same_chance_each() -> None:
    lat, lon = town(100, 0)
    city = np.arange(100) % 4 - 1
    draws = 12_000
    for here, expected in ((1, np.flatnonzero(city == 1)), (-1, np.arange(100))):
        candidates = opened(np.full(draws, int(expected[3])), 2)
        where = moments(np.full(draws, 0.0), np.full(draws, 0.0), np.full(draws, here))
        candidates[:, 1] = expected[4]
        Pool(np.arange(100), lat, lon, city, 1.0).fill(candidates, where)
        free = np.delete(expected, [3, 4])
        assert np.isin(candidates[:, 2], free).all()
        count = np.bincount(np.searchsorted(free, candidates[:, 2]), minlength=len(free))
        assert chisquare(count).pvalue > 1e-3


def test_where_a_city_is_used_up_negatives_come_from_everywhere() -> None:
    lat, lon = town(100, 0)
    city = np.zeros(100, dtype=int)
    city[[2, 8, 40]] = 1
    candidates = opened(np.full(500, 8), 4)
    candidates[:, 1] = 2
    candidates[:, 2] = 50
    figures = Pool(np.arange(100), lat, lon, city, 1.0).fill(
        candidates, moments(np.full(500, 40.0), np.full(500, 116.0), np.ones(500, dtype=int))
    )
    assert figures == (0, 500)
    assert (candidates[:, 3] == 40).all()
    assert len(np.unique(candidates[:, 4])) > 90


def test_a_city_without_items_in_the_pool_is_used_up() -> None:
    lat, lon = town(20, 0)
    city = np.array([3, *[0] * 19])
    candidates = opened(np.full(5, 1), 2)
    where = moments(np.full(5, 40.0), np.full(5, 116.0), np.full(5, 3))
    assert Pool(np.arange(1, 20), lat, lon, city, 500.0).fill(candidates, where) == (0, 5)


def test_too_few_items_are_an_error_that_says_how_many_it_takes() -> None:
    pool = Pool(np.arange(4), *town(4, 0), np.zeros(4, dtype=int), 5.0)
    with pytest.raises(DataError, match=r"4 negatives need at least 5 items to draw from, got 4[\s\S]*negatives=3"):
        pool.fill(opened(np.zeros(1, dtype=int), 4), moments(np.zeros(1), np.zeros(1)))
    full = opened(np.zeros(1, dtype=int), 3)
    pool.fill(full, moments(np.zeros(1), np.zeros(1)))
    assert sorted(full[0]) == [0, 1, 2, 3]
