"""The harness: places, reach, what is asked of a recommender and what is made of its answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_generate import ITEMS, places, visits_of

from lgsid.arrays import CodeArray, IntArray
from lgsid.errors import DataError
from lgsid.generate import harness, packing
from lgsid.generate.base import Packed
from lgsid.generate.harness import Reach, evaluate
from lgsid.generate.packing import Packer
from lgsid.generate.protocol import requests
from lgsid.geo import SpatialIndex, haversine_km
from lgsid.rank.visits import TEST, Visits

REACH_KM = 8.0


@dataclass
class Fixed:
    """Recommends the same items whatever it is told, those in reach first and alone where that is given."""

    order: list[int]
    asked: list[tuple[int, int, bool]] = field(default_factory=list)

    def top(self, requests: Packed, k: int, reach: Sequence[IntArray | CodeArray] | None = None) -> IntArray:
        self.asked.append((len(requests), k, reach is not None))
        rows = np.full((len(requests), k), -1, dtype=np.int64)
        for r in range(len(requests)):
            allowed = self.order if reach is None else [n for n in self.order if n in reach[r]]
            rows[r, : len(allowed[:k])] = allowed[:k]
        return rows


@pytest.fixture
def visits() -> Visits:
    rng = np.random.default_rng(3)
    rows = [(user, int(rng.integers(ITEMS)), 60 * k) for user in range(4) for k in range(10 + user)]
    return visits_of(rows, (300, 400))


def packer_of(visits: Visits) -> Packer:
    return Packer(*places(), visits, history=4, length=9)


def test_figures_against_the_plainest_computation(visits: Visits) -> None:
    lat, lon = places()
    asked = requests(visits, TEST)
    order = [5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 10, 11]
    fixed = Fixed(order)
    found = evaluate(fixed, packer_of(visits), asked, REACH_KM, ks=(2, 4), batch=3)
    json.dumps(found.figures)
    assert {k for _, k, _ in fixed.asked} == {4}
    new = visits.new_E[asked]
    assert 0 < new.sum() < len(asked)
    asked_for = [sum(n for n, _, given in fixed.asked if given is mode) for mode in (False, True)]
    assert asked_for == [len(asked), len(asked) + new.sum()]
    here = visits.item_E[visits.stop_E[asked] - 1]
    near = haversine_km(lat[here][:, None], lon[here][:, None], lat, lon) <= REACH_KM
    target = visits.item_E[asked]
    assert found.figures["target_within_reach_share"] == near[np.arange(len(asked)), target].mean()
    for mode, allowed in (("catalogue", np.ones_like(near)), ("reachable", near)):
        lists = [[n for n in order if allowed[r, n]][:4] for r in range(len(asked))]
        assert found.ranked[mode].tolist() == [row + [-1] * (4 - len(row)) for row in lists]
        figures = found.figures[mode]
        hits = [wanted in row[:2] for wanted, row in zip(target.tolist(), lists, strict=True)]
        assert figures["all"]["hit@2"] == pytest.approx(np.mean(hits))
        assert figures["first_visits"]["requests"] == visits.new_E[asked].sum()
        beyond = [not near[r, n] for r, row in enumerate(lists) for n in row]
        assert figures["unreachable_share"] == pytest.approx(np.mean(beyond))
        assert figures["unnamed_share"] == pytest.approx(1 - len(beyond) / (4 * len(asked)))
        assert figures["seconds_per_1000"] >= 0
    assert found.figures["catalogue"]["unreachable_share"] > 0.3
    assert found.figures["reachable"]["unreachable_share"] == 0


def test_new_places_are_those_within_reach_that_the_user_has_never_visited(visits: Visits) -> None:
    lat, lon = places()
    asked = requests(visits, TEST)
    found = evaluate(Fixed(list(range(ITEMS))), packer_of(visits), asked, REACH_KM, ks=(2, 4), batch=3)
    lists = []
    for event in asked.tolist():
        past = set(visits.item_E[visits.first_E[event] : visits.stop_E[event]].tolist())
        here = visits.item_E[visits.stop_E[event] - 1]
        near = haversine_km(lat[here], lon[here], lat, lon) <= REACH_KM
        rows = [n for n in range(ITEMS) if near[n] and n not in past][:4] if visits.new_E[event] else []
        lists.append(rows + [-1] * (4 - len(rows)))
    assert found.ranked["new"].tolist() == lists
    hits = [visits.item_E[event] in rows[:2] for event, rows in zip(asked, lists, strict=True) if visits.new_E[event]]
    figures = found.figures["new"]
    assert figures["all"] == figures["first_visits"]
    assert (figures["all"]["requests"], figures["all"]["hit@2"]) == (len(hits), pytest.approx(np.mean(hits)))
    assert figures["unreachable_share"] == 0


def test_without_first_visits_nothing_is_said_of_new_places(visits: Visits) -> None:
    asked = requests(visits, TEST)
    again = asked[~visits.new_E[asked]]
    found = evaluate(Fixed([0, 1, 2]), packer_of(visits), again, REACH_KM)
    assert set(found.figures) & set(harness.MODES) == set(found.ranked) == {"catalogue", "reachable"}


def test_batches_change_nothing_and_modes_are_chosen(visits: Visits) -> None:
    asked = requests(visits, TEST)
    fixed, packer = Fixed(list(range(ITEMS))), packer_of(visits)
    one = evaluate(fixed, packer, asked, REACH_KM, batch=1)
    many = evaluate(fixed, packer, asked, REACH_KM, batch=1_000)
    assert all(np.array_equal(one.ranked[mode], many.ranked[mode]) for mode in harness.MODES)
    assert one.ranked["catalogue"].dtype == np.int32
    assert set(evaluate(fixed, packer, asked, REACH_KM, modes=("reachable",)).ranked) == {"reachable"}


def test_events_say_where_the_user_is(visits: Visits) -> None:
    lat, lon = places()
    asked = requests(visits, TEST)
    lat_E, lon_E = np.full(len(visits), np.nan), np.full(len(visits), np.nan)
    lat_E[asked[0]], lon_E[asked[0]] = 10.0, 20.0
    lat_E[asked[1]] = 10.0  # half a place is none
    here_lat, here_lon = packing.user_places(replace(visits, lat_E=lat_E, lon_E=lon_E), asked, lat, lon)
    last = visits.item_E[visits.stop_E[asked] - 1]
    assert (here_lat[0], here_lon[0]) == (10.0, 20.0)
    assert np.array_equal(here_lat[1:], lat[last[1:]])
    assert np.array_equal(here_lon[1:], lon[last[1:]])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from([0.05, 1.0, 5.0, 300.0, 21_000.0]), st.sampled_from([0.0, 52.0, -89.9]))
def test_reach_is_that_of_the_exact_index(seed: int, reach_km: float, lat_deg: float) -> None:
    rng = np.random.default_rng(seed)
    spread = 4 * min(reach_km, 5_000.0) / 111
    lat = np.clip(lat_deg + rng.uniform(-spread, spread, 60), -90, 90)
    lon = (rng.uniform(-spread, spread, 60) + 360) % 360 - 180  # around the date line
    here = rng.integers(0, 60, 7)
    found = Reach(lat, lon, reach_km).of(lat[here], lon[here])
    expected = SpatialIndex(lat, lon).within(lat[here], lon[here], reach_km)
    assert [sorted(rows.tolist()) for rows in found] == [sorted(expected.of(q).tolist()) for q in range(7)]


def test_nobody_and_nothing_in_reach() -> None:
    reach = Reach(np.array([0.0, 50.0]), np.array([0.0, 0.0]), 5.0)
    nothing, something = reach.of(np.array([20.0, 50.01]), np.array([0.0, 0.0]))
    assert nothing.tolist() == []
    assert something.tolist() == [1]


def test_bad_input(visits: Visits) -> None:
    asked, packer = requests(visits, TEST), packer_of(visits)
    with pytest.raises(DataError, match="no requests"):
        evaluate(Fixed([0]), packer, asked[:0], REACH_KM)
    for rows, wrong in (
        (np.zeros((len(asked), 11), dtype=np.int64), "at most 10 items"),
        (np.zeros((1, 10), dtype=np.int64), "gave lists"),
        (np.full((len(asked), 10), ITEMS), f"named the items {ITEMS}"),
        (np.zeros((len(asked), 10), dtype=np.int64), "name an item twice"),
    ):

        class Wrong:
            answer = rows

            def top(self, requests: Packed, k: int, reach: Sequence[IntArray | CodeArray] | None = None) -> IntArray:
                return self.answer

        with pytest.raises(DataError, match=wrong):
            evaluate(Wrong(), packer, asked, REACH_KM)
