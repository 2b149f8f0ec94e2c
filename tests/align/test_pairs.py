"""Pairs: a hand-computed co-visit table, bands that are all covered, no leak from other events, no events at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.align import bands as bands_module
from lgsid.align import covisits as covisits_module
from lgsid.align.bands import BandSampler
from lgsid.align.covisits import co_visits
from lgsid.align.pairs import COLLABORATIVE, GEOGRAPHIC, collaborative_pairs, geographic_pairs, preference_pairs
from lgsid.config import PairConfig
from lgsid.errors import DataError
from lgsid.geo import haversine_km

START = datetime(2026, 1, 1, tzinfo=UTC)
KM = 1 / 111.195  # degrees of latitude
BANDS = (0.5, 2.0, 10.0, 50.0)


def street(*km: float) -> pl.DataFrame:
    """Items on a line to the north, at so many km from its beginning."""
    return pl.DataFrame({
        "item_id": [f"i{number}" for number in range(len(km))],
        "lat_deg": np.array(km) * KM,
        "lon_deg": np.zeros(len(km)),
    })  # fmt: skip


def log(*rows: tuple[str, str, float], kinds: Sequence[str] | None = None) -> pl.DataFrame:
    """Events (user, item, hours after the start)."""
    frame = pl.DataFrame(
        [(user, item, START + timedelta(hours=hours)) for user, item, hours in rows],
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC")},
        orient="row",
    )
    return frame if kinds is None else frame.with_columns(kind=pl.Series(kinds))


def country(items: int = 1_500, seed: int = 0) -> pl.DataFrame:
    """A few towns with suburbs: every band has items around most of them."""
    rng = np.random.default_rng(seed)
    town = rng.integers(0, 6, items)
    km = np.exp(rng.uniform(np.log(0.05), np.log(40), items))
    angle = rng.uniform(0, 2 * np.pi, items)
    return pl.DataFrame({
        "item_id": [f"i{number}" for number in range(items)],
        "lat_deg": 30 + town * 2 + km * np.sin(angle) * KM,
        "lon_deg": 100 + town + km * np.cos(angle) * KM,
    })  # fmt: skip


def visits_of(items: pl.DataFrame, users: int = 60, days: int = 20, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    popular = rng.permutation(len(items))[:200]
    rows = [
        (f"u{user}", f"i{rng.choice(popular)}", day * 24 + hour)
        for user in range(users)
        for day in range(days)
        for hour in (9, 12, 19)
    ]
    return log(*rows)


def test_co_visits_known_answer() -> None:
    """Counted by hand. Window 3 h; a: i0 i1 i0 | i2; b: i1 i0, i2 too late; c: twice the same item."""
    items = street(0, 1, 2, 3)
    events = log(
        ("a", "i0", 0), ("a", "i1", 1), ("a", "i0", 2), ("a", "i2", 10),
        ("b", "i0", 1), ("b", "i1", 0), ("b", "i2", 4.5),
        ("c", "i3", 0), ("c", "i3", 1),
        ("d", "i2", 0), ("d", "i3", 3),
    )  # fmt: skip
    found = co_visits(items, events, window_hours=3)
    low, high = found.rows()
    # i0-i1: a has two pairs (0-1, 1-0), b one; i2-i3: d, exactly at the window's end
    assert list(zip(low.tolist(), high.tolist(), found.count_C.tolist(), strict=True)) == [(0, 1, 3), (2, 3, 1)]
    visits = {0: 3, 1: 2, 2: 3, 3: 3}
    expected = [3 / np.sqrt((visits[0] + 5) * (visits[1] + 5)), 1 / np.sqrt((visits[2] + 5) * (visits[3] + 5))]
    np.testing.assert_allclose(found.score_C, expected)
    assert (found.visits, found.unknown, found.impressions) == (11, 0, 0)
    assert found.contain(np.array([1, 0, 3, 0]), np.array([0, 1, 2, 2])).tolist() == [True, True, True, False]


def test_unknown_items_and_impressions_are_dropped_and_counted() -> None:
    events = log(("a", "i0", 0), ("a", "gone", 1), ("a", "i1", 2), ("a", "i2", 2.5),
                 kinds=["click", "click", "order", "impression"])  # fmt: skip
    found = co_visits(street(0, 1, 2), events, window_hours=24)
    assert found.key_C.tolist() == [0 * 3 + 1]
    assert (found.visits, found.unknown, found.impressions) == (2, 1, 1)


def test_a_visit_of_unknown_kind_counts() -> None:
    events = log(("a", "i0", 0), ("a", "i1", 1)).with_columns(kind=pl.Series([None, "click"], dtype=pl.String))
    assert co_visits(street(0, 1), events, window_hours=24).visits == 2


def test_a_long_session_costs_no_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covisits_module, "FOLLOWING", 2)
    items = street(*range(8))
    found = co_visits(items, log(*(("a", f"i{n}", n / 10) for n in range(8))), window_hours=24)
    low, high = found.rows()
    assert set((high - low).tolist()) == {1, 2}
    assert len(found) == 7 + 6


def test_co_visits_do_not_depend_on_the_order_of_events() -> None:
    items = country(200)
    events = visits_of(items, users=10)
    a, b = (co_visits(items, frame, 24) for frame in (events, events.sample(fraction=1, shuffle=True, seed=3)))
    np.testing.assert_array_equal(a.key_C, b.key_C)
    np.testing.assert_array_equal(a.count_C, b.count_C)


@settings(max_examples=60, deadline=None)
@given(
    cloud=st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=3, max_size=40),
    copies=st.integers(0, 6),
    seed=st.integers(0, 2**32),
)
def test_every_band_that_has_items_is_drawn_from_and_no_other(
    cloud: list[tuple[float, float]], copies: int, seed: int
) -> None:
    lat, lon = np.array(cloud + cloud[:1] * copies, dtype=float).T
    rows = np.arange(len(lat))
    drawn = BandSampler(lat, lon, (100.0, 1_000.0, 5_000.0), seed).draw(rows, 3)
    km = haversine_km(lat[:, None], lon[:, None], lat, lon)
    band = np.searchsorted([100.0, 1_000.0, 5_000.0], km)
    np.fill_diagonal(band, -1)
    for anchor in rows:
        for number in range(4):
            there = set(np.flatnonzero(band[anchor] == number).tolist())
            assert set(drawn[anchor, number].tolist()) <= (there or {-1})


def test_bands_of_a_big_catalogue_are_true_and_nearly_all_covered() -> None:
    items = country(6_000)
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    anchors = np.arange(0, 6_000, 20)
    drawn = BandSampler(lat, lon, BANDS, seed=0).draw(anchors, 2)
    km = haversine_km(lat[anchors, None], lon[anchors, None], lat, lon)
    band = np.searchsorted(BANDS, km)
    band[np.arange(len(anchors)), anchors] = -1
    there = np.stack([(band == number).sum(axis=1) for number in range(5)], axis=1)
    got = drawn[:, :, 0] >= 0
    assert not (got & (there == 0)).any()
    inside = np.maximum(there.cumsum(axis=1), 1)
    assert got[there / inside > 0.2].mean() > 0.99
    for number in range(5):
        picked = drawn[:, number][got[:, number]]
        at = haversine_km(lat[picked], lon[picked], *(x[anchors[got[:, number]], None] for x in (lat, lon)))
        assert (np.searchsorted(BANDS, at) == number).all()


def test_draws_of_a_band_are_spread_over_its_items() -> None:
    """A hundred items in one band: each is drawn about as often."""
    items = street(0, *(5 + np.arange(100) / 100))
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    drawn = BandSampler(lat, lon, BANDS, seed=0).draw(np.array([0]), 5_000)[0, 2]
    count = np.bincount(drawn, minlength=101)
    assert count[0] == 0
    assert count[1:].min() > 20
    assert count[1:].max() < 90


def test_draws_do_not_depend_on_chunks_or_other_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    items = country()
    sampler = BandSampler(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), BANDS, seed=5)
    everything = sampler.draw(np.arange(len(items)), 4)
    monkeypatch.setattr(bands_module, "_CHUNK", 3)
    some = np.array([1_400, 2, 900, 13])
    np.testing.assert_array_equal(sampler.draw(some, 4), everything[some])


def test_geographic_pairs_cover_every_band_of_an_anchor_nearer_first() -> None:
    items = street(0, 0.3, 1, 5, 30, 200)
    pairs = geographic_pairs(items, PairConfig(bands_km=BANDS, per_anchor=4), seed=0)
    mine = pairs.of(np.array([0]))
    found = sorted(zip(pairs.first_P[mine].tolist(), pairs.second_P[mine].tolist(), strict=True))
    assert found == [(1, 2), (2, 3), (3, 4), (4, 5)]
    assert (pairs.source_P == GEOGRAPHIC).all()
    assert (np.searchsorted(BANDS, pairs.first_km_P) <= np.searchsorted(BANDS, pairs.second_km_P)).all()


def check(pairs: object, items: pl.DataFrame) -> None:
    """What every set of pairs must be."""
    anchor, first, second = (getattr(pairs, f"{name}_P") for name in ("anchor", "first", "second"))
    assert (np.diff(anchor) >= 0).all()
    assert ((anchor != first) & (anchor != second) & (first != second)).all()
    assert all(x.min(initial=0) >= 0 and x.max(initial=0) < len(items) for x in (anchor, first, second))
    keys = set(
        zip(anchor.tolist(), np.minimum(first, second).tolist(), np.maximum(first, second).tolist(), strict=True)
    )
    assert len(keys) == len(anchor)


@settings(max_examples=40, deadline=None)
@given(
    cloud=st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=3, max_size=30),
    per_anchor=st.integers(1, 9),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_pairs_are_three_different_items_each_pair_once(
    cloud: list[tuple[float, float]], per_anchor: int, share: float, seed: int
) -> None:
    lat, lon = np.array(cloud).T
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(lat))], "lat_deg": lat, "lon_deg": lon})
    events = log(*((f"u{n % 3}", f"i{n % len(lat)}", n) for n in range(40)))
    pairs = preference_pairs(items, events, PairConfig(per_anchor=per_anchor, collaborative_share=share), seed)
    check(pairs, items)
    assert np.bincount(pairs.anchor_P, minlength=len(lat)).max(initial=0) <= per_anchor


def test_everything_at_one_place_still_makes_pairs() -> None:
    items = pl.DataFrame({"item_id": list("abcdef"), "lat_deg": [31.2] * 6, "lon_deg": [121.5] * 6})
    pairs = geographic_pairs(items, PairConfig(), seed=0)
    check(pairs, items)
    assert set(pairs.anchor_P.tolist()) == set(range(6))


def test_collaborative_pairs_set_a_co_visited_item_against_one_that_is_not() -> None:
    items = country()
    events = visits_of(items)
    config = PairConfig(quantile=0.5)
    pairs = collaborative_pairs(items, events, config, seed=0)
    check(pairs, items)
    found = co_visits(items, events, config.window_hours)
    low, high = (rows[found.score_C >= np.quantile(found.score_C, 0.5)] for rows in found.rows())
    strong = {frozenset(pair) for pair in zip(low.tolist(), high.tolist(), strict=True)}
    assert all(frozenset(pair) in strong for pair in zip(pairs.anchor_P.tolist(), pairs.first_P.tolist(), strict=True))
    assert not found.contain(pairs.anchor_P, pairs.second_P).any()
    assert set(pairs.anchor_P.tolist()) == set(low.tolist()) | set(high.tolist())
    assert (pairs.source_P == COLLABORATIVE).all()


def test_the_quantile_keeps_the_strongest() -> None:
    """i0-i1 five times, the others once: only the strong pair stands above the median."""
    items = street(*range(12))
    events = log(
        *((f"s{n}", item, 0) for n in range(5) for item in ("i0", "i1")),
        ("x", "i2", 0), ("x", "i3", 1), ("y", "i4", 0), ("y", "i5", 1),
    )  # fmt: skip
    pairs = collaborative_pairs(items, events, PairConfig(quantile=0.9), seed=0)
    assert set(zip(pairs.anchor_P.tolist(), pairs.first_P.tolist(), strict=True)) == {(0, 1), (1, 0)}
    assert pairs.figures()["co_visited_pairs_above_threshold"] == 1


@pytest.mark.parametrize(("per_anchor", "share"), [(4, 0.5), (1, 0.3), (5, 0.25)])
def test_sources_are_mixed_by_share_where_there_are_co_visits(per_anchor: int, share: float) -> None:
    items = country()
    config = PairConfig(per_anchor=per_anchor, collaborative_share=share, quantile=0.0)
    pairs = preference_pairs(items, visits_of(items), config, seed=0)
    check(pairs, items)
    partnered = np.unique(pairs.anchor_P[pairs.source_P == COLLABORATIVE])
    events_items = np.flatnonzero(np.isin(items["item_id"].to_numpy(), visits_of(items)["item_id"].to_numpy()))
    assert set(partnered.tolist()) <= set(events_items.tolist())
    mine = pairs.of(events_items)
    assert (pairs.source_P[mine] == COLLABORATIVE).mean() == pytest.approx(share, abs=0.06)
    assert (pairs.source_P[pairs.of(np.setdiff1d(np.arange(len(items)), events_items))] == GEOGRAPHIC).all()


def test_nothing_leaks_from_events_that_are_not_given() -> None:
    items = country()
    events = visits_of(items)
    early = events.filter(pl.col("timestamp") < START + timedelta(days=10))
    late_only = {"i7", "i8"}
    later = log(*(("z", item, 24 * 15 + n) for n in range(9) for item in late_only))
    trained = preference_pairs(items, early, PairConfig(), seed=0)
    whole = pl.concat([events, later])
    cut = preference_pairs(items, whole.filter(pl.col("timestamp") < START + timedelta(days=10)), PairConfig(), seed=0)
    for name in ("anchor_P", "first_P", "second_P", "source_P"):
        np.testing.assert_array_equal(getattr(trained, name), getattr(cut, name))
    seen = set(early["item_id"].to_list())
    collaborative = trained.source_P == COLLABORATIVE
    rows = np.concatenate([trained.anchor_P[collaborative], trained.first_P[collaborative]])
    assert {f"i{row}" for row in rows.tolist()} <= seen


def test_held_out_items_never_appear_in_pairs_of_training_items() -> None:
    items = country()
    events, training = visits_of(items), items[:1_000]
    pairs = preference_pairs(training, events, PairConfig(), seed=0)
    check(pairs, training)
    dropped = events.filter(~pl.col("item_id").is_in(training["item_id"].implode()))
    assert len(dropped) > 0
    assert pairs.figures()["events_of_unknown_items"] == len(dropped)


@pytest.mark.parametrize(
    ("events", "share", "reason"),
    [
        (None, 0.5, "there are no events"),
        (log(), 0.5, "no two items were visited by one user within the window"),
        (log(("a", "i0", 0), ("a", "i1", 99)), 0.5, "no two items were visited by one user within the window"),
        (log(("a", "i0", 0), ("a", "i1", 1)), 0.0, "collaborative_share is 0"),
    ],
)
def test_geographic_pairs_alone_say_why(events: pl.DataFrame | None, share: float, reason: str) -> None:
    items = street(0, 0.3, 1, 5, 30, 200)
    pairs = preference_pairs(items, events, PairConfig(collaborative_share=share), seed=0)
    assert pairs.figures()["geographic_only_because"] == reason
    only = geographic_pairs(items, PairConfig(), seed=0)
    np.testing.assert_array_equal(pairs.second_P, only.second_P)
    np.testing.assert_array_equal(pairs.anchor_P, only.anchor_P)


def test_figures_are_json_and_add_up() -> None:
    items = country()
    pairs = preference_pairs(items, visits_of(items), PairConfig(), seed=0)
    figures = json.loads(json.dumps(pairs.figures(), allow_nan=False))
    assert figures["pairs"] == len(pairs) == figures["geographic"]["pairs"] + figures["collaborative"]["pairs"]
    assert sum(band["geographic"] + band["collaborative"] for band in figures["bands"]) == 2 * len(pairs)
    for band in figures["bands"]:
        assert band["from_km"] < band["median_km"] <= (band["to_km"] or np.inf)
    assert figures["geographic"]["first_median_km"] < figures["geographic"]["second_median_km"]
    assert "geographic_only_because" not in figures


def test_same_seed_same_pairs_other_seed_other_pairs() -> None:
    items = country()
    events = visits_of(items)
    a, b, c = (preference_pairs(items, events, PairConfig(), seed) for seed in (1, 1, 2))
    assert a.second_P.tobytes() == b.second_P.tobytes()
    assert a.second_P.tobytes() != c.second_P.tobytes()


def test_too_few_items_and_bands_in_disorder_are_refused() -> None:
    with pytest.raises(DataError, match="at least 3 items, got 2"):
        geographic_pairs(street(0, 1), PairConfig(), seed=0)
    with pytest.raises(DataError, match="ascending order"):
        geographic_pairs(street(0, 1, 2), PairConfig(bands_km=(2.0, 1.0)), seed=0)


@pytest.mark.real
def test_people_go_together_to_what_lies_together(real_data: Path) -> None:
    """New York check-ins: co-visited items are nearer than what a random band offers."""
    folder = real_data / "fsq_nyc"
    items, events = pl.read_parquet(folder / "items.parquet"), pl.read_parquet(folder / "events.parquet")
    items, events = (frame.with_columns(pl.col("item_id").cast(pl.String)) for frame in (items, events))
    figures = collaborative_pairs(items, events, PairConfig(bands_km=(5.0,)), seed=0).figures()
    assert figures["anchors_with_co_visits"] > 0.8 * len(items)
    assert figures["collaborative"]["first_median_km"] < 0.6 * figures["collaborative"]["second_median_km"]
