"""Protocols: who is learnt from, who is predicted, and from what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_visits import START, events_of, history

from lgsid.errors import DataError
from lgsid.generate.protocol import CONTEXT, global_time, leave_one_out, next_poi, requests
from lgsid.rank.samples import period_ends
from lgsid.rank.visits import TEST, TRAINING, VALIDATION, Visits, read_visits

HOUR = 3_600.0


@pytest.fixture
def items() -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"i{k}" for k in range(40)]})


def diary(visits: Visits) -> list[tuple[int, int, int, int]]:
    """User, item, seconds since the start and period of each visit."""
    seconds = visits.time_E - int(START.timestamp())
    columns = (visits.user_E, visits.item_E, seconds, visits.period_E)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def check_pasts(visits: Visits) -> None:
    """The past of a visit is what its user did at earlier seconds, whatever was left out."""
    for e in range(len(visits)):
        past = np.flatnonzero((visits.user_E == visits.user_E[e]) & (visits.time_E < visits.time_E[e]))
        assert list(range(visits.first_E[e], visits.stop_E[e])) == past.tolist()
        assert bool(visits.new_E[e]) == (visits.item_E[e] not in visits.item_E[past])
    assert set(visits.users["number"]) == set(visits.user_E.tolist())


# --- Global time ------------------------------------------------------------------------------------------------------
def test_global_time_is_the_rankers_split(items: pl.DataFrame) -> None:
    events = history(40, 600).lazy()
    visits = global_time(items, events, ["visit"], 0.6, 0.2)
    expected = read_visits(items, events, ["visit"], period_ends(events, 0.6, 0.2))
    assert np.array_equal(visits.period_E, expected.period_E)
    assert np.bincount(visits.period_E).tolist() == [360, 120, 120]
    assert visits.time_E[visits.period_E == TRAINING].max() < visits.time_E[visits.period_E == VALIDATION].min()
    with pytest.raises(DataError, match="leave nothing to test on"):
        global_time(items, events, ["visit"], 0.8, 0.2)


def test_requests_have_a_past(items: pl.DataFrame) -> None:
    events = events_of([("ann", "i1", 1.0), ("ann", "i2", 2.0), ("bob", "i3", 10.0), ("bob", "i4", 10.0)]).lazy()
    visits = global_time(items, events, ["visit"], 0.25, 0.25)
    assert requests(visits, TRAINING).tolist() == []
    assert requests(visits, VALIDATION).tolist() == [1]
    assert requests(visits, TEST).tolist() == [], "both of bob's visits are at one second"


# --- Leave one out ----------------------------------------------------------------------------------------------------
def test_leave_one_out_by_hand(items: pl.DataFrame) -> None:
    rows = [("ann", f"i{k}", 10.0 * k) for k in (3, 1, 4, 2)] + [("bob", "i7", 5.0), ("bob", "i8", 6.0)]
    rows += [("cat", "i1", 50.0), ("cat", "i2", 50.0), ("cat", "i3", 50.0), ("cat", "i2", 7.0)]
    visits = leave_one_out(items, events_of(rows).lazy(), ["visit"])
    check_pasts(visits)
    bob, cat, ann = 0, 1, 2  # by first visit
    assert diary(visits) == [
        (bob, 7, 5, TRAINING), (bob, 8, 6, TRAINING),
        (cat, 2, 7, TRAINING), (cat, 1, 50, TRAINING), (cat, 2, 50, VALIDATION), (cat, 3, 50, TEST),
        (ann, 1, 10, TRAINING), (ann, 2, 20, TRAINING), (ann, 3, 30, VALIDATION), (ann, 4, 40, TEST),
    ]  # fmt: skip
    assert requests(visits, TEST).tolist() == [5, 9]
    assert (visits.stop_E[5], visits.first_E[5]) == (3, 2), "the past of a tie is strictly earlier"


def test_leave_one_out_predicts_each_user_once(items: pl.DataFrame) -> None:
    visits = leave_one_out(items, history(40, 500, users=11).lazy(), ["visit"])
    for period in (VALIDATION, TEST):
        assert visits.user_E[visits.period_E == period].tolist() == list(range(11))


# --- Next check-in ----------------------------------------------------------------------------------------------------
def test_next_poi_by_hand(items: pl.DataFrame) -> None:
    """Twenty visits by time: 16 to learn from, 2 to validate on, 2 to test on."""
    ann = [(1, 0), (2, 1), (1, 2), (3, 40), (2, 41), (1, 80), (2, 81), (9, 130), (1, 200), (2, 201), (3, 202)]
    bob = [(1, 0.5), (2, 1.5), (3, 2.5), (1, 90), (2, 91), (3, 92), (4, 203), (1, 204), (4, 205)]
    rows = [(name, f"i{i}", HOUR * h) for name, days in (("ann", ann), ("bob", bob)) for i, h in days]
    visits = next_poi(items, events_of(rows).lazy(), ["visit"], least=1)
    check_pasts(visits)
    got = [(u, i, s / HOUR, p) for u, i, s, p in diary(visits) if s > 99 * HOUR]
    assert got == [
        (0, 1, 200, TRAINING), (0, 2, 201, TRAINING),
        (0, 3, 202, VALIDATION),  # the end of its trajectory
        (1, 4, 203, CONTEXT), (1, 1, 204, CONTEXT),
        (1, 4, 205, CONTEXT),  # ends its trajectory, but item 4 is unknown to the training period
    ]  # fmt: skip
    assert 9 not in visits.item_E, "ann's visit at 130 h is a trajectory of its own"
    assert len(visits) == 19
    known = next_poi(items, events_of([*rows, ("bob", "i4", HOUR * 3)]).lazy(), ["visit"], least=1)
    check_pasts(known)
    assert [(i, p) for u, i, s, p in diary(known) if u == 1 and s > 202 * HOUR] == [
        (4, CONTEXT), (1, CONTEXT), (4, TEST)
    ]  # fmt: skip


def test_next_poi_leaves_out_the_rare(items: pl.DataFrame) -> None:
    rows = [("ann", f"i{k % 2}", HOUR * k) for k in range(20)] + [("bob", f"i{k % 2}", HOUR * k) for k in range(9)]
    rows += [("ann", "i5", HOUR * (20 + k)) for k in range(9)]
    visits = next_poi(items, events_of(rows).lazy(), ["visit"])
    check_pasts(visits)
    assert set(visits.item_E.tolist()) == {0, 1}
    assert len(visits.users) == 1
    assert np.bincount(visits.period_E, minlength=4).tolist() == [16, 0, 1, 3], "one trajectory has one end"
    with pytest.raises(DataError, match="none of 38 visits is left"):
        next_poi(items, events_of(rows).lazy(), ["visit"], least=21)


def test_next_poi_on_random_diaries(items: pl.DataFrame) -> None:
    rng = np.random.default_rng(5)
    hours = np.cumsum(rng.choice([0.0, 0.5, 6.0, 30.0], 600))
    rows = [(f"u{rng.integers(6)}", f"i{rng.integers(12)}", HOUR * hour) for hour in hours]
    visits = next_poi(items, events_of(rows).lazy(), ["visit"])
    check_pasts(visits)
    training = visits.period_E == TRAINING
    for period in (VALIDATION, TEST):
        asked = requests(visits, period)
        assert len(asked) > 3
        assert len(asked) == (visits.period_E == period).sum()
        assert np.isin(visits.item_E[asked], visits.item_E[training]).all()
        for e in asked:
            assert visits.time_E[e] - visits.time_E[e - 1] <= 24 * HOUR, "its trajectory has an earlier visit"
            last = e + 1 == len(visits) or visits.user_E[e + 1] != visits.user_E[e]
            assert last or visits.time_E[e + 1] - visits.time_E[e] > 24 * HOUR
    assert visits.time_E[training].max() <= visits.time_E[visits.period_E == VALIDATION].min()


@pytest.mark.real
def test_next_poi_on_new_york(real_data: Path) -> None:
    items = pl.read_parquet(real_data / "fsq_nyc" / "items.parquet")
    events = pl.scan_parquet(real_data / "fsq_nyc" / "events.parquet")
    visits = next_poi(items, events, ["visit"])
    assert 2_000 < len(requests(visits, TEST)) < 2_800
    assert 100_000 < (visits.period_E == TRAINING).sum() < 104_000
