"""Baselines: known answers on a street of shops, and nothing learnt from what comes later."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from lgsid.errors import DataError, NotFittedError
from lgsid.rank import baselines
from lgsid.rank.baselines import Baseline, ItemCoVisits, PopularNearby, PopularWithinReach, Revisit
from lgsid.rank.loader import Requests

HOUR = 3_600
ITEMS = 6
LAT, LON = np.zeros(ITEMS), np.asarray([0.00, 0.01, 0.02, 0.03, 1.0, 1.01])
"""Four shops within 3.4 km of the first one, two more 110 km east."""

MAKERS: dict[str, Callable[[], Baseline]] = {
    "popular_within_reach": lambda: PopularWithinReach(LAT, LON, reach_km=5.0),
    "popular_nearby": lambda: PopularNearby(LAT, LON),
    "item_co_visits": lambda: ItemCoVisits(ITEMS, last=3, decay=0.5, steps=1, within_hours=24),
    "revisit": lambda: Revisit(ITEMS),
}


@dataclass(frozen=True)
class Visits:
    """What a baseline is fitted on; ``training_E``: whether the visit is of the training period."""

    user_E: np.ndarray
    item_E: np.ndarray
    time_E: np.ndarray
    training_E: np.ndarray


def fitted_on(baseline: Baseline, visits: Visits) -> Baseline:
    """The baseline, fitted."""
    return baseline.fit(visits.user_E, visits.item_E, visits.time_E, visits.training_E)


def visits_of(*users: Sequence[tuple[int, float, int]]) -> Visits:
    """Visits of users, each (item, hour, period; 0 is training)."""
    rows = [(user, *visit) for user, visits in enumerate(users) for visit in visits]
    user_E, item_E, hour_E, period_E = (np.asarray(column) for column in zip(*rows, strict=True))
    time_E = (hour_E * HOUR).astype(np.int64)
    return Visits(user_E.astype(np.int32), item_E.astype(np.int32), time_E, period_E == 0)


def requests_of(
    candidates: Sequence[Sequence[int]], first: Sequence[int], stop: Sequence[int], lon: float = 0.0
) -> Requests:
    """Requests of users who are on the street."""
    rows = len(candidates)
    return Requests(
        user=np.arange(rows), first=np.asarray(first), stop=np.asarray(stop), time=np.zeros(rows, dtype=np.int64),
        here_lat_deg=np.zeros(rows), here_lon_deg=np.full(rows, lon), candidates=np.asarray(candidates),
        first_visit=np.ones(rows, dtype=np.bool_),
    )  # fmt: skip


STREET = visits_of(
    [(0, 0, 0), (1, 1, 0), (0, 2, 0), (4, 90, 0), (5, 91, 1)],
    [(0, 0, 0), (1, 5, 0), (2, 6, 0), (4, 7, 0), (4, 8, 0), (4, 9, 0), (4, 10, 0), (3, 200, 2)],
)
"""In training: item 0 three times, 1 twice, 2 once, 4 five times."""


def order_of(score_BC: np.ndarray, candidates: Sequence[int]) -> list[int]:
    """The candidates of the first request, best first."""
    return np.asarray(candidates)[np.argsort(-score_BC[0], kind="stable")].tolist()


# --- Popular within reach ---------------------------------------------------------------------------------------------
def test_everything_out_of_reach_comes_behind_what_is_within_and_popularity_orders_both() -> None:
    popular = fitted_on(PopularWithinReach(LAT, LON, reach_km=5.0), STREET)
    everything = [5, 4, 3, 2, 1, 0]
    here = popular.score(requests_of([everything], [0], [1]), STREET.item_E)
    assert order_of(here, everything) == [0, 1, 2, 3, 4, 5]
    there = popular.score(requests_of([everything], [0], [1], lon=1.0), STREET.item_E)
    assert order_of(there, everything) == [4, 5, 0, 1, 2, 3]


def test_where_the_place_is_unknown_nothing_is_within_reach() -> None:
    score_BC = fitted_on(PopularWithinReach(LAT, LON), STREET).score(
        requests_of([[0, 4]], [0], [1], np.nan), STREET.item_E
    )
    assert order_of(score_BC, [0, 4]) == [4, 0]
    assert score_BC.max() < 0


# --- Popular nearby ---------------------------------------------------------------------------------------------------
def test_what_is_near_comes_first_and_of_what_is_equally_far_the_more_popular() -> None:
    back_and_forth = [(n % 2, n, 0) for n in range(40)]
    nearby = fitted_on(PopularNearby(LAT, LON), visits_of(back_and_forth, [(4, 0, 0)] * 10, [(5, 0, 0)]))
    score_BC = nearby.score(requests_of([[0, 1, 4, 5]], [0], [1]), STREET.item_E)
    assert order_of(score_BC, [0, 1, 4, 5])[2:] == [4, 5], "equally far: the more popular"
    assert score_BC[0, 2] < score_BC[0, 1] - 3, "nobody went so far"
    unknown = nearby.score(requests_of([[5, 4, 3]], [0], [1], np.nan), STREET.item_E)
    assert order_of(unknown, [5, 4, 3]) == [4, 5, 3], "without a place, popularity"


# --- Revisit ----------------------------------------------------------------------------------------------------------
def test_revisits_count_the_users_whole_past_and_popularity_breaks_ties() -> None:
    everything = [5, 4, 3, 2, 1, 0]
    score_BC = fitted_on(Revisit(ITEMS), STREET).score(
        requests_of([everything] * 3, [0, 5, 5], [3, 12, 5]), STREET.item_E
    )  # fmt: skip
    assert np.floor(score_BC).tolist() == [[0, 0, 0, 0, 1, 2], [0, 4, 0, 1, 1, 1], [0] * 6]
    assert order_of(score_BC, everything) == [0, 1, 4, 2, 5, 3]
    assert order_of(score_BC[2:], everything) == [4, 0, 1, 2, 5, 3]


@pytest.mark.parametrize("block", [1, 7, 1_000])
def test_revisits_equal_counting_one_by_one_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(baselines, "VISITS_PER_BLOCK", block)
    monkeypatch.setattr(baselines, "REQUESTS_PER_BLOCK", 5)
    rng = np.random.default_rng(0)
    item_E = rng.integers(0, ITEMS, 60)
    first_B, candidates_BC = rng.integers(0, 60, 23), rng.integers(0, ITEMS, (23, 4))
    stop_B = np.minimum(first_B + rng.integers(0, 20, 23), 60)
    fitted = fitted_on(Revisit(ITEMS), STREET)
    found = fitted.score(requests_of(candidates_BC, first_B, stop_B), item_E) - fitted.popularity(candidates_BC)
    for b in range(23):
        expected = [np.count_nonzero(item_E[first_B[b] : stop_B[b]] == item) for item in candidates_BC[b]]
        assert found[b] == pytest.approx(expected)


# --- Item co-visits ---------------------------------------------------------------------------------------------------
def test_similarity_is_the_cosine_of_visits_one_after_the_other() -> None:
    fitted = ItemCoVisits(ITEMS, steps=1, within_hours=24)
    fitted_on(fitted, STREET)
    similarity = fitted.similarity.toarray()
    expected = np.eye(ITEMS)
    # (0, 1) and (1, 0) of the first user, (0, 1) of the second; (0, 4) of the first is 88 hours apart
    for one, other, count in ((0, 1, 3), (1, 2, 1), (2, 4, 1)):
        expected[one, other] = expected[other, one] = count / np.sqrt(fitted.visits_N[one] * fitted.visits_N[other])
    assert similarity == pytest.approx(expected, abs=1e-6)


def test_more_steps_and_more_hours_find_more_pairs_but_never_across_users() -> None:
    wide = ItemCoVisits(ITEMS, steps=50, within_hours=1_000)
    fitted_on(wide, STREET)
    similarity = wide.similarity.toarray()
    assert similarity[0, 4] == pytest.approx((2 + 4) / np.sqrt(3 * 5))
    two_users = visits_of([(0, 0, 0)], [(1, 0, 0)])
    apart = ItemCoVisits(ITEMS)
    fitted_on(apart, two_users)
    assert apart.similarity.toarray() == pytest.approx(np.eye(ITEMS))


def test_scores_sum_the_decayed_last_visits_and_popularity_breaks_ties() -> None:
    fitted = ItemCoVisits(ITEMS, last=2, decay=0.5, steps=1, within_hours=24)
    fitted_on(fitted, STREET)
    similarity = fitted.similarity.toarray()
    everything = [5, 4, 3, 2, 1, 0]
    score_BC = fitted.score(requests_of([everything, everything], [0, 5], [3, 5]), STREET.item_E)
    expected = similarity[0, everything] + 0.5 * similarity[1, everything]
    assert score_BC[0] == pytest.approx(expected, abs=3e-6)
    assert order_of(score_BC, everything)[-3:] == [4, 5, 3]
    assert order_of(score_BC[1:], everything) == [4, 0, 1, 2, 5, 3]  # without a past, popularity alone
    assert score_BC[1].max() < 2**-20


# --- All --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", MAKERS)
def test_names_are_those_of_result_tables(name: str) -> None:
    assert MAKERS[name]().name == name


@pytest.mark.parametrize("name", MAKERS)
def test_later_visits_change_nothing(name: str) -> None:
    rng = np.random.default_rng(1)
    later_E = ~STREET.training_E
    requests = requests_of(rng.integers(0, ITEMS, (6, 4)), [0, 0, 0, 5, 5, 5], [1, 2, 4, 6, 8, 12])
    before = fitted_on(MAKERS[name](), STREET).score(requests, STREET.item_E)
    for item in range(ITEMS):
        other = replace(STREET, item_E=np.where(later_E, item, STREET.item_E))
        assert np.array_equal(fitted_on(MAKERS[name](), other).score(requests, other.item_E), before)
    arrays = (STREET.user_E, STREET.item_E, STREET.time_E, STREET.training_E)
    without = Visits(*(array[~later_E] for array in arrays))
    assert np.array_equal(fitted_on(MAKERS[name](), without).score(requests, STREET.item_E), before)
    # and the test can fail: what is in the training period does count
    earlier = replace(STREET, training_E=np.ones_like(later_E), item_E=np.where(later_E, 1, STREET.item_E))
    assert not np.array_equal(fitted_on(MAKERS[name](), earlier).score(requests, STREET.item_E), before)


@pytest.mark.parametrize("name", MAKERS)
def test_the_request_itself_and_what_follows_is_not_looked_at(name: str) -> None:
    fitted = fitted_on(MAKERS[name](), STREET)
    requests = requests_of([[0, 1, 2, 3, 4, 5]] * 2, [0, 5], [2, 7])
    before = fitted.score(requests, STREET.item_E)
    hidden = STREET.item_E.copy()
    hidden[2:5], hidden[7:] = 3, 3
    assert np.array_equal(fitted.score(requests, hidden), before)


@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_is_its_requests_one_by_one(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    rng = np.random.default_rng(2)
    fitted = fitted_on(MAKERS[name](), STREET)
    requests = requests_of(rng.integers(0, ITEMS, (9, 3)), [0] * 4 + [5] * 5, [1, 2, 3, 4, 5, 6, 7, 9, 12])
    whole = fitted.score(requests, STREET.item_E)
    assert whole.shape == (9, 3)
    assert np.isfinite(whole).all()
    monkeypatch.setattr(baselines, "REQUESTS_PER_BLOCK", 2)
    assert np.array_equal(fitted.score(requests, STREET.item_E), whole)
    single = [fitted.score(requests[b : b + 1], STREET.item_E) for b in range(9)]
    assert np.array_equal(np.concatenate(single), whole)
    assert fitted.score(requests[:0], STREET.item_E).shape == (0, 3)


@pytest.mark.parametrize("name", MAKERS)
def test_bad_use_is_refused(name: str) -> None:
    with pytest.raises(NotFittedError, match="has counted no visits"):
        MAKERS[name]().score(requests_of([[0]], [0], [1]), STREET.item_E)
    with pytest.raises(DataError, match=r"items 0 … 9, expected 0 … 5"):
        fitted_on(MAKERS[name](), visits_of([(0, 0, 0), (9, 1, 0)]))


@pytest.mark.parametrize("name", MAKERS)
def test_no_visits_in_training_leave_zeros_not_errors(name: str) -> None:
    later = visits_of([(0, 0, 1), (1, 1, 1)])
    assert np.isfinite(fitted_on(MAKERS[name](), later).score(requests_of([[0, 1]], [0], [2]), later.item_E)).all()


def test_memory_is_linear_in_the_catalogue() -> None:
    items = 300_000
    rng = np.random.default_rng(3)
    rows = 2_000
    user_E, item_E = np.repeat(np.arange(20, dtype=np.int32), 100), rng.integers(0, items, rows).astype(np.int32)
    visits = Visits(user_E, item_E, np.arange(rows), np.ones(rows, dtype=np.bool_))
    tracemalloc.start()
    fitted_on(ItemCoVisits(items), visits).score(requests_of([[0, 1]], [0], [100]), visits.item_E)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 * items
