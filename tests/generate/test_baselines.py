"""Baselines: known answers, fitted on the training period alone, and always the items they may name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_generate import ITEMS, places, some_visits, visits_of

from lgsid.errors import DataError, NotFittedError
from lgsid.generate.base import Packed
from lgsid.generate.baselines import Baseline, ItemCoVisits, PopularNearby, PopularWithinReach, Revisit
from lgsid.generate.harness import evaluate
from lgsid.generate.packing import Packer
from lgsid.generate.protocol import global_time, requests
from lgsid.geo import DECAY_EDGES_KM, haversine_km
from lgsid.rank.visits import TEST, TRAINING, Visits

MAKERS: dict[str, Callable[[], Baseline]] = {
    "popular_within_reach": lambda: PopularWithinReach(*places(), reach_km=8.0),
    "popular_nearby": lambda: PopularNearby(*places()),
    "revisit": lambda: Revisit(ITEMS),
    "item_co_visits": lambda: ItemCoVisits(ITEMS),
}


def asked(visits: Visits, event: int) -> Packed:
    return Packer(*places(), visits, history=20, length=64).requests(np.array([event]))


def popularity(visits: Visits) -> list[int]:
    counts = np.bincount(visits.item_E[visits.period_E == TRAINING], minlength=ITEMS)
    return sorted(range(ITEMS), key=lambda n: (-counts[n], n))


# --- Known answers ----------------------------------------------------------------------------------------------------
DIARY = visits_of([
    (0, 2, 0), (0, 4, 10), (0, 2, 20), (0, 4, 30), (0, 6, 40), (0, 9, 900),
    (1, 2, 0), (1, 4, 10), (1, 1, 20), (1, 3, 30), (1, 9, 901),
    (2, 4, 0), (2, 4, 10), (2, 8, 20), (2, 10, 902),
], (100, 200))  # fmt: skip
"""Even items are in one town, odd ones in the other; the last visit of each user is the test."""


def test_popular_within_reach() -> None:
    fitted = PopularWithinReach(*places(), reach_km=8.0).fit(DIARY)
    assert fitted.visits_N.tolist() == [0, 1, 3, 1, 5, 0, 1, 0, 1, 0, 0, 0]
    assert fitted.top(asked(DIARY, 5), 7).tolist() == [[4, 2, 6, 8, 0, 10, 1]], "the rest of the world comes last"
    assert fitted.top(asked(DIARY, 10), 3).tolist() == [[1, 3, 5]], "in the other town"
    assert fitted.top(asked(DIARY, 5), 4, [np.array([11, 3, 2])]).tolist() == [[2, 3, 11, -1]], "reach is what is said"


def test_popular_nearby() -> None:
    fitted = PopularNearby(*places()).fit(DIARY)
    ranked = fitted.top(asked(DIARY, 10), ITEMS)[0].tolist()
    assert ranked[0] % 2, "what is near, in the other town"
    here = places()[0][3], places()[1][3]
    km_N = haversine_km(*here, *places())
    score_N = (
        np.log(fitted.visits_N + 0.5) + fitted.gravity.decay.log_f_B[np.searchsorted(DECAY_EDGES_KM, km_N, "right")]
    )
    assert (np.diff(score_N[ranked]) <= 1e-12).all()
    assert fitted.top(asked(DIARY, 5), 4, [np.array([11, 3, 2])])[0].tolist()[0] == 2


def test_revisit_by_frequency_and_recency() -> None:
    request = asked(DIARY, 5)  # 2 4 2 4 6
    assert Revisit(ITEMS, decay=1.0).fit(DIARY).top(request, 5).tolist() == [[4, 2, 6, 1, 3]]
    assert Revisit(ITEMS, decay=0.1).fit(DIARY).top(request, 5).tolist() == [[6, 4, 2, 1, 3]]
    assert Revisit(ITEMS).fit(DIARY).top(request, 4, [np.array([0, 2, 6, 8])]).tolist() == [[2, 6, 8, 0]]


def test_co_visits_by_hand() -> None:
    after = ItemCoVisits(ITEMS, last=1, steps=1).fit(DIARY)
    # after item 4, visited five times: 4 once, 2 once, 6 once, 1 once, 8 once; popularity decides
    assert after.top(asked(visits_of([(0, 4, 0), (0, 0, 900)], (100, 200)), 1), 5).tolist() == [[4, 2, 1, 6, 8]]
    # after item 2, visited three times: 4 thrice
    two = asked(visits_of([(0, 2, 0), (0, 0, 900)], (100, 200)), 1)
    assert after.top(two, 3).tolist() == [[4, 2, 1]], "then what is popular"
    assert after.top(two, 3, [np.array([1, 6])]).tolist() == [[1, 6, -1]]
    wider = ItemCoVisits(ITEMS, last=1, steps=2).fit(DIARY)
    # two apart: 2 once, 6 once (from the second visit) and 1 once, at half weight
    assert wider.top(two, 4).tolist() == [[4, 2, 1, 6]]
    assert wider.top(two, 4)[0].tolist() != after.top(two, 4)[0].tolist()
    hurried = ItemCoVisits(ITEMS, last=1, steps=1, within_hours=1 / 3_600).fit(DIARY)
    assert hurried.top(two, 3).tolist() == [[4, 2, 1]], "nothing follows within a second: popularity"
    assert not len(hurried._other_Z)


@settings(deadline=None, max_examples=40)
@given(some_visits(), st.integers(1, 4), st.sampled_from([1.0, 0.7]), st.integers(1, 4), st.booleans())
def test_co_visits_against_the_plainest_computation(
    visits: Visits, steps: int, decay: float, last: int, short: bool
) -> None:
    hours = 4 / 3_600 if short else 720.0
    fitted = ItemCoVisits(ITEMS, last=last, decay=decay, steps=steps, within_hours=hours).fit(visits)
    training = np.flatnonzero(visits.period_E == TRAINING)
    weight = np.zeros((ITEMS, ITEMS))
    for a in training:
        for b in training:
            close = 0 <= visits.time_E[b] - visits.time_E[a] <= hours * 3_600
            if visits.user_E[a] == visits.user_E[b] and 1 <= b - a <= steps and close:
                weight[visits.item_E[a], visits.item_E[b]] += 1 / (b - a)
    weight /= np.maximum(fitted.visits_N, 1)[:, None]
    events = np.concatenate([requests(visits, period) for period in range(3)])
    if not len(events):
        return
    event = int(events[-1])
    past = visits.item_E[visits.first_E[event] : visits.stop_E[event]][::-1][:last]
    score = sum(decay**t * weight[item] for t, item in enumerate(past))
    found = fitted.top(asked(visits, event), ITEMS)[0]
    assert sorted(found.tolist()) == list(range(ITEMS))
    assert (np.diff(np.asarray(score)[found]) < 1e-6).all()


# --- All of them ------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=30)
@given(some_visits(), st.sampled_from(sorted(MAKERS)), st.integers(1, ITEMS + 2), st.data())
def test_lists_are_full_distinct_and_within_reach(visits: Visits, name: str, k: int, data: st.DataObject) -> None:
    events = np.concatenate([requests(visits, period) for period in range(3)])
    if not len(events):
        return
    fitted = MAKERS[name]().fit(visits)
    packed = Packer(*places(), visits, history=5, length=12).requests(events)
    subset = st.lists(st.integers(0, ITEMS - 1), unique=True)
    allowed = data.draw(st.lists(subset, min_size=len(events), max_size=len(events)))
    everything = [list(range(ITEMS))] * len(events)
    free = fitted.top(packed, k)
    bound = fitted.top(packed, k, [np.array(rows, dtype=np.int64) for rows in allowed])
    for found, may in ((free, everything), (bound, allowed)):
        assert found.shape == (len(events), k)
        for row, rows in zip(found.tolist(), may, strict=True):
            named = [n for n in row if n >= 0]
            assert row == named + [-1] * (k - len(named)), "nothing follows an empty place"
            assert len(set(named)) == len(named) == min(k, len(rows))
            assert set(named) <= set(rows)
    if name != "popular_within_reach":  # which looks at what is given instead of its own circle
        whole = fitted.top(packed, ITEMS).tolist()
        for best, row, rows in zip(whole, bound.tolist(), allowed, strict=True):
            assert [n for n in row if n >= 0] == [n for n in best if n in rows][:k]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_only_the_training_period_is_learnt_from(name: str) -> None:
    late = DIARY.period_E != TRAINING
    item_E = np.where(late, 0, DIARY.item_E).astype(np.int32)
    request = asked(DIARY, 5)
    one, other = MAKERS[name]().fit(DIARY), MAKERS[name]().fit(replace(DIARY, item_E=item_E))
    assert np.array_equal(one.top(request, ITEMS), other.top(request, ITEMS))
    nobody = MAKERS[name]().fit(replace(DIARY, period_E=np.full(len(DIARY), TEST, dtype=np.int8)))
    assert sorted(nobody.top(request, ITEMS)[0].tolist()) == list(range(ITEMS)), "without visits, the catalogue's order"


def test_fewer_followers_are_kept() -> None:
    fitted = ItemCoVisits(ITEMS, steps=3, keep=2).fit(DIARY)
    assert np.diff(fitted._bound_N1).max() == 2


def test_bad_input() -> None:
    with pytest.raises(NotFittedError, match="Revisit has counted no visits"):
        Revisit(ITEMS).top(asked(DIARY, 5), 3)
    with pytest.raises(DataError, match=r"items 1 … 8, expected 0 … 3"):
        Revisit(4).fit(DIARY)


@pytest.mark.real
def test_new_york_goes_back_to_where_it_was(real_data: Path) -> None:
    items = pl.read_parquet(real_data / "fsq_nyc" / "items.parquet")
    visits = global_time(items, pl.scan_parquet(real_data / "fsq_nyc" / "events.parquet"), ["visit"], 0.8, 0.1)
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    chosen = requests(visits, TEST)[::20]
    packer = Packer(lat, lon, visits, history=20)
    found = {
        fitted.name: evaluate(fitted, packer, chosen, 5.0)
        for fitted in (PopularWithinReach(lat, lon).fit(visits), Revisit(len(items)).fit(visits))
    }
    hits = {name: each.figures["catalogue"]["all"]["hit@10"] for name, each in found.items()}
    assert hits["revisit"] > 0.5 > 0.2 > hits["popular_within_reach"] > 0.04
    ranked, here = found["revisit"].ranked["reachable"], visits.item_E[visits.stop_E[chosen] - 1]
    km = haversine_km(lat[here][:, None], lon[here][:, None], lat[ranked], lon[ranked])
    assert (km[ranked >= 0] <= 5.0 + 1e-6).all()
