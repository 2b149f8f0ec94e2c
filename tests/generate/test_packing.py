"""Packed rows: every target once, its whole history and nothing else; requests that cannot see their answer."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_generate import ITEMS, START, places, some_visits, visits_of

from lgsid.errors import DataError
from lgsid.generate.base import BANDS, Packed
from lgsid.generate.packing import Packer, pack
from lgsid.generate.protocol import requests
from lgsid.geo import haversine_km, unit_sphere
from lgsid.rank.loader import BAND_EDGES_KM
from lgsid.rank.visits import TRAINING, Visits

Encoder = Literal["causal", "full"]
ENCODERS: tuple[Encoder, ...] = ("causal", "full")


def packer_of(
    visits: Visits, history: int = 3, length: int = 8, encoder: Encoder = "causal", users: int = 0, items: int = ITEMS
) -> Packer:
    return Packer(*places(items), visits, history, length, users=users, encoder=encoder)


def as_lists(packed: Packed) -> list[list[list[tuple[int, int, bool, int, int]]]]:
    """Item, time, target, band and user of each visit, by row and segment; padding must be at the end and empty."""
    rows = []
    for r in range(len(packed)):
        length = int(packed.length_R[r])
        assert (packed.segment_RT[r, length:] == -1).all()
        for name in ("item_RT", "target_RT", "time_RT", "band_RT", "user_RT"):
            assert not getattr(packed, name)[r, length:].any()
        segment = packed.segment_RT[r, :length]
        assert segment[0] == 0
        assert set(segment.diff().tolist()) <= {0, 1}
        columns = (packed.item_RT, packed.time_RT, packed.target_RT, packed.band_RT, packed.user_RT)
        values = list(zip(*(column[r, :length].tolist() for column in columns), strict=True))
        rows.append([[values[t] for t in torch.where(segment == s)[0]] for s in range(int(segment[-1]) + 1)])
    return rows


def expected_targets(visits: Visits) -> dict[int, int]:
    """Targets by the documented rule, and where the past of each begins."""
    chosen = {}
    for e in range(len(visits)):
        same_user = e > 0 and visits.user_E[e] == visits.user_E[e - 1]
        if visits.period_E[e] == TRAINING and same_user and visits.time_E[e - 1] < visits.time_E[e]:
            chosen[e] = int(visits.first_E[e])
    return chosen


@settings(deadline=None, max_examples=60)
@given(some_visits(), st.integers(1, 6), st.integers(1, 8), st.sampled_from(ENCODERS))
def test_every_target_once_with_its_whole_history(visits: Visits, history: int, more: int, encoder: Encoder) -> None:
    # an item of its own for each visit, so that rows say which visits they hold
    visits = replace(visits, item_E=np.arange(len(visits), dtype=np.int32))
    packer = packer_of(visits, history, history + more, encoder, items=max(2, len(visits)))
    rows = as_lists(packer.rows(packer.training_rows())) if len(packer.training) else []
    expected, found = expected_targets(visits), []
    for row in rows:
        assert sum(map(len, row)) <= history + more
        for segment in row:
            events = [visit[0] for visit in segment]
            assert events == list(range(events[0], events[0] + len(events)))
            assert (visits.period_E[events] == TRAINING).all()
            assert len(set(visits.user_E[events].tolist())) == 1
            assert [visit[1] for visit in segment] == visits.time_E[events].tolist()
            for place, (event, _, target, _, _) in enumerate(segment):
                if target:
                    found.append(event)
                    assert min(history, event - expected[event]) == min(history, place), "the history is whole"
        if encoder == "full":
            assert len(row) == 1
            assert [visit[2] for visit in row[0]] == [False] * (len(row[0]) - 1) + [True]
            assert len(row[0]) <= history + 1
    assert sorted(found) == sorted(expected)


@settings(deadline=None, max_examples=60)
@given(some_visits(), st.integers(1, 5), st.sampled_from(ENCODERS))
def test_requests_hold_the_last_earlier_visits(visits: Visits, history: int, encoder: Encoder) -> None:
    packer = packer_of(visits, history, history + 3, encoder)
    assert packer.past == (history + 2 if encoder == "causal" else history)
    asked = np.concatenate([requests(visits, period) for period in range(3)])
    if not len(asked):
        return
    packed = packer.requests(asked)
    assert packed.item_RT.shape[1] == packed.length_R.max()
    assert not packed.target_RT.any()
    for event, (segment,), now in zip(asked, as_lists(packed), packed.now_R.tolist(), strict=True):
        earlier = (visits.user_E == visits.user_E[event]) & (visits.time_E < visits.time_E[event])
        past = np.flatnonzero(earlier)[-packer.past :]
        assert [visit[0] for visit in segment] == visits.item_E[past].tolist()
        assert [visit[1] for visit in segment] == visits.time_E[past].tolist()
        assert now == visits.time_E[event]


@settings(deadline=None, max_examples=60)
@given(some_visits(), st.data(), st.sampled_from(ENCODERS))
def test_nothing_from_the_moment_on_reaches_a_request(visits: Visits, data: st.DataObject, encoder: Encoder) -> None:
    asked = np.concatenate([requests(visits, period) for period in range(3)])
    if not len(asked):
        return
    event = int(data.draw(st.sampled_from(asked.tolist())))
    before = packer_of(visits, encoder=encoder, users=5).requests(np.array([event]))
    late = np.flatnonzero(visits.time_E >= visits.time_E[event])
    item_E, period_E = visits.item_E.copy(), visits.period_E.copy()
    item_E[late] = data.draw(st.lists(st.integers(0, ITEMS - 1), min_size=len(late), max_size=len(late)))
    period_E[late] = 2
    changed = replace(visits, item_E=item_E, period_E=period_E, new_E=~visits.new_E)
    after = packer_of(changed, encoder=encoder, users=5).requests(np.array([event]))
    for field in fields(Packed):
        assert torch.equal(getattr(before, field.name), getattr(after, field.name)), field.name


def test_bands_of_the_distance_from_the_visit_before() -> None:
    visits = visits_of([(0, k % ITEMS, 10 * k) for k in range(12)] + [(1, 3, 0), (1, 3, 5), (1, 4, 9)])
    packer = packer_of(visits, history=4, length=16)
    lat_N, lon_N = places()
    for row in as_lists(packer.rows(packer.training_rows())):
        for segment in row:
            assert segment[0][3] == 0, "nothing is before it"
            for one, other in itertools.pairwise(segment):
                km = float(haversine_km(lat_N[one[0]], lon_N[one[0]], lat_N[other[0]], lon_N[other[0]]))
                assert other[3] == min(int(np.searchsorted(BAND_EDGES_KM, km)) + 1, BANDS - 1)
    # the third visit of user 0, seen from a request whose row begins with it
    packed = packer_of(visits, history=1, length=2).requests(np.array([3]))
    assert packed.band_RT.tolist() == [[0]]


def test_ties_are_looked_back_at_and_not_predicted() -> None:
    visits = visits_of([(0, 1, 0), (0, 2, 10), (0, 3, 10), (0, 4, 20)])
    (row,) = as_lists(packer_of(visits).rows(np.array([0])))
    assert [(visit[0], visit[2]) for visit in row[0]] == [(1, False), (2, True), (3, False), (4, True)]
    assert packer_of(visits).requests(np.array([2])).item_RT.tolist() == [[1]], "a request's past is strictly earlier"


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 40), st.data())
def test_packing_wastes_little(capacity: int, data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), min_size=1, max_size=120)))
    order_C, bound_R1 = pack(lengths, capacity)
    assert sorted(order_C.tolist()) == list(range(len(lengths)))
    assert bound_R1[0] == 0
    assert bound_R1[-1] == len(lengths)
    fill_R = [int(lengths[order_C[a:b]].sum()) for a, b in itertools.pairwise(bound_R1)]
    assert 0 < min(fill_R) <= max(fill_R) <= capacity
    # any two rows have more than one row's visits together, so fewer than twice the rows that are needed are made
    assert len(fill_R) < 2 or sum(sorted(fill_R)[:2]) > capacity


def test_padding_of_many_users_is_below_five_percent() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(1 / 15, 400), 120)
    user = np.repeat(np.arange(400), lengths)
    start = np.repeat(np.cumsum(lengths) - lengths, lengths).astype(np.int32)
    base = visits_of([(k, 0, 0) for k in range(400)])
    visits = replace(
        base, user_E=user.astype(np.int32), item_E=rng.integers(0, ITEMS, len(user)).astype(np.int32),
        time_E=START + 60 * np.arange(len(user)), period_E=np.zeros(len(user), dtype=np.int8), first_E=start,
        stop_E=np.arange(len(user), dtype=np.int32), new_E=np.ones(len(user), dtype=np.bool_),
    )  # fmt: skip
    packer = packer_of(visits, history=20, length=64)
    packed = packer.rows(packer.training_rows())
    assert (packed.segment_RT >= 0).float().mean() > 0.95
    assert int(packed.target_RT.sum()) == len(user) - 400
    again = packer_of(visits, history=20, length=64).training
    for field in fields(again):
        assert np.array_equal(getattr(again, field.name), getattr(packer.training, field.name))
    some = packer.rows(np.array([3, 1]))
    assert torch.equal(some.item_RT, packed.item_RT[[3, 1], : some.item_RT.shape[1]])


def test_buckets_are_of_like_length_and_complete() -> None:
    visits = visits_of([(user, k % ITEMS, 9 * k) for user in range(6) for k in range(1 + 3 * user)])
    packer, asked = packer_of(visits, history=7), requests(visits, TRAINING)
    seen, widths = [], []
    for place_B, packed in packer.bucketed(asked, 8):
        alone = packer.requests(asked[place_B])
        assert torch.equal(packed.item_RT, alone.item_RT)
        assert torch.equal(packed.now_R, alone.now_R)
        seen += place_B.tolist()
        widths.append(packed.item_RT.shape[1])
        assert widths[-1] == packed.length_R.max()
    assert sorted(seen) == list(range(len(asked)))
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("told", [False, True])
def test_where_the_user_was_just_before(encoder: Encoder, told: bool) -> None:
    """At the visit before, unless the event says where; never at the visit itself."""
    visits = visits_of([(user, (5 * k + user) % ITEMS, 9 * k) for user in range(3) for k in range(12)])
    lat_N, lon_N = places(ITEMS)
    lat_E, lon_E = (degrees_N[np.roll(visits.item_E, 1)] for degrees_N in (lat_N, lon_N))
    if told:  # of every other event
        own = np.where(np.arange(len(visits)) % 2, 1.0, np.nan)
        half = np.where(np.arange(len(visits)) % 4 == 2, 1.0, own)  # a latitude alone says nothing
        visits = replace(visits, lat_E=half, lon_E=own)
        lat_E, lon_E = np.where(np.isnan(own), lat_E, own), np.where(np.isnan(own), lon_E, own)
    expected_E3 = unit_sphere(lat_E, lon_E).astype(np.float32)
    packer = packer_of(visits, encoder=encoder)
    packed = packer.rows(packer.training_rows())
    at = packed.target_RT
    event_Q = [np.flatnonzero((visits.item_E == item) & (visits.time_E == time)) for item, time in
               zip(packed.item_RT[at].tolist(), packed.time_RT[at].tolist(), strict=True)]  # fmt: skip
    assert len(event_Q) == 33
    assert all(len(event) == 1 for event in event_Q)
    assert np.allclose(packed.here_RT3[at].numpy(), expected_E3[np.concatenate(event_Q)], atol=1e-7)
    assert not packed.here_RT3[packed.segment_RT < 0].any()
    asked = requests(visits, TRAINING)
    assert np.allclose(packer.requests(asked).here_R3.numpy(), expected_E3[asked], atol=1e-7)


def test_a_service_says_where_the_user_is() -> None:
    packer, history = packer_of(visits_of([(0, 1, 0), (0, 2, 10)])), ([np.array([1, 2])], [np.array([5, 6])])
    known = packer.from_histories(*history, np.array([9]), None, (np.array([40.0]), np.array([-70.0])))
    assert np.allclose(known.here_R3.numpy(), unit_sphere([40.0], [-70.0]), atol=1e-7)
    assert np.allclose(packer.from_histories(*history, np.array([9])).here_R3.numpy(), packer.xyz_N3[[2]])


def test_user_tokens_depend_on_the_id_alone() -> None:
    visits = visits_of([(user, k, 9 * k) for user in range(40) for k in range(3)])
    packed = packer_of(visits, users=7).requests(requests(visits, TRAINING))
    tokens = packed.user_RT[:, 0].reshape(40, 2)
    assert torch.equal(tokens[:, 0], tokens[:, 1])
    assert set(tokens.flatten().tolist()) == set(range(7))
    renumbered = replace(visits, users=visits.users.with_columns(number=39 - visits.users["number"]))
    other = packer_of(renumbered, users=7).requests(requests(visits, TRAINING))
    assert torch.equal(other.user_RT[:, 0].reshape(40, 2), tokens.flip(0))
    assert packer_of(visits).requests(np.array([1])).user_RT.tolist() == [[0]]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_histories_of_a_service_are_packed_like_requests(encoder: Encoder) -> None:
    visits = visits_of([(user, (5 * k + user) % ITEMS, 9 * k) for user in range(3) for k in range(12)])
    packer, asked = packer_of(visits, encoder=encoder, users=4), np.array([1, 11, 20, 35])
    past = [slice(visits.first_E[e], visits.stop_E[e]) for e in asked]
    token_U = packer.tokens(visits.users["user"].to_numpy())
    served = packer.from_histories(
        [visits.item_E[p] for p in past], [visits.time_E[p] for p in past], visits.time_E[asked],
        token_U[visits.user_E[asked]],
    )  # fmt: skip
    known = packer.requests(asked)
    for field in fields(Packed):
        assert torch.equal(getattr(served, field.name), getattr(known, field.name)), field.name


def test_bad_input() -> None:
    visits = visits_of([(0, 1, 0), (0, 2, 10), (0, 3, 20)])
    with pytest.raises(DataError, match="rows of at least 9 visits"):
        packer_of(visits, history=8, length=8)
    with pytest.raises(DataError, match="1 of 2 requests have no earlier visit"):
        packer_of(visits).requests(np.array([0, 1]))
    with pytest.raises(DataError, match="1 training visits come after"):
        packer_of(replace(visits, period_E=np.array([0, 1, 0], dtype=np.int8)))
    packer, now = packer_of(visits), np.array([100])
    for items, times, wrong in (
        ([[]], [[]], "one at least"),
        ([[1, 2]], [[5]], "2 items and 1 times"),
        ([[1, ITEMS]], [[5, 6]], r"items 1 … 12, expected 0 … 11"),
        ([[1, 2]], [[6, 5]], "order of time"),
        ([[1, 2]], [[6, 101]], "order of time"),
        ([[1], [2]], [[6], [7]], "2 histories"),
    ):
        with pytest.raises(DataError, match=wrong):
            packer.from_histories([np.array(i) for i in items], [np.array(t) for t in times], now)
