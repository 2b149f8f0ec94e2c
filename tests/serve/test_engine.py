"""The engine of a real small run: what it returns is reachable and as wanted, and it says why there is no more."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_serve import NOW_MS, ask_at, copy_of, items_of, new_items, served_engine, served_run

from lgsid.config.serve import ServeConfig
from lgsid.geo import haversine_km
from lgsid.nearest import nearest_neighbours
from lgsid.serve.base import Event, RequestError
from lgsid.serve.contract import Ask, Filters, Place, Reach
from lgsid.serve.engine import RunEngine
from lgsid.sid.assign import assign_in_run


@pytest.fixture(scope="module")
def engine() -> RunEngine:
    return served_engine()


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    return items_of(served_run())


def brute(items: pl.DataFrame, ask: Ask) -> tuple[set[str], set[str]]:
    """Ids within a radius, and those of them that meet the filters."""
    assert ask.reach.radius_km is not None
    away = haversine_km(ask.place.lat_deg, ask.place.lon_deg, items["lat_deg"], items["lon_deg"])
    near = items.filter(pl.Series(away <= ask.reach.radius_km))
    wanted, filters = near, ask.filters
    if filters.category is not None:
        path = pl.col("category").str.to_lowercase()
        asked = filters.category.lower()
        wanted = wanted.filter((path == asked) | path.str.starts_with(asked + " > "))
    if filters.brand is not None:
        wanted = wanted.filter(pl.col("brand").str.to_lowercase() == filters.brand.lower())
    if filters.price_min is not None:
        wanted = wanted.filter(pl.col("price") >= filters.price_min)
    if filters.price_max is not None:
        wanted = wanted.filter(pl.col("price") <= filters.price_max)
    return set(near["item_id"]), set(wanted["item_id"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_everything_returned_is_within_reach_and_as_wanted(data: st.DataObject) -> None:
    engine, items = served_engine(), items_of(served_run())
    row = data.draw(st.integers(0, len(items) - 1))
    category = data.draw(st.sampled_from([None, *items["category"].unique().sort(), "Coffee & Sweets", "No such kind"]))
    brand = data.draw(st.sampled_from([None, None, items["brand"].drop_nulls()[0]]))
    prices = [None, 0.0, 15.0, 40.0]
    low, high = data.draw(st.sampled_from(prices)), data.draw(st.sampled_from(prices))
    if low is not None and high is not None and low > high:
        low, high = high, low
    ask = ask_at(
        items,
        row,
        data.draw(st.floats(0.05, 60)),
        k=data.draw(st.integers(1, 30)),
        candidates=data.draw(st.integers(1, 100)),
        model=data.draw(st.sampled_from([None, "din_without_sid", "popularity_nearness"])),
        filters=Filters(category=category, brand=brand, price_min=low, price_max=high),
        history=tuple(items["item_id"][: data.draw(st.integers(0, 8))]),
    )
    reachable, wanted = brute(items, ask)
    answer = engine.recommend(ask, [])
    found = [item.item_id for item in answer.items]
    assert set(found) <= wanted
    assert len(found) == len(set(found)) == min(ask.k, ask.candidates, len(wanted))
    assert (answer.reachable, answer.candidates) == (len(reachable), min(ask.candidates, len(wanted)))
    assert bool(answer.note) == (len(found) < ask.k)
    scores = [item.score for item in answer.items]
    assert scores == sorted(scores, reverse=True)
    for item in answer.items:
        away = haversine_km(ask.place.lat_deg, ask.place.lon_deg, item.place.lat_deg, item.place.lon_deg)
        assert item.distance_km == pytest.approx(float(away), abs=1e-6)
        assert item.reason


def test_travel_time_and_polygon(engine: RunEngine, items: pl.DataFrame) -> None:
    here = Place(items["lat_deg"][0], items["lon_deg"][0])
    walk = engine.recommend(ask_at(items, k=100, reach=Reach(travel_minutes=30)), [])
    limit = 30 / 60 * 4.8 / 1.3
    away = haversine_km(here.lat_deg, here.lon_deg, items["lat_deg"], items["lon_deg"])
    assert {item.item_id for item in walk.items} == set(items["item_id"].filter(pl.Series(away <= limit)))
    assert all("walk" in item.reason for item in walk.items)
    bike = engine.recommend(ask_at(items, k=100, reach=Reach(travel_minutes=30, travel_mode="bike")), [])
    assert bike.reachable > walk.reachable
    assert "by bike" in bike.items[0].reason
    box = [(0.02, 0.02), (0.02, -0.02), (-0.02, -0.02), (-0.02, 0.02)]
    corners = tuple(Place(here.lat_deg + lat, here.lon_deg + lon) for lat, lon in box)
    inside = engine.recommend(ask_at(items, k=200, reach=Reach(polygon=corners)), [])
    lat, lon = items["lat_deg"] - here.lat_deg, items["lon_deg"] - here.lon_deg
    assert {item.item_id for item in inside.items} == set(
        items["item_id"].filter((lat.abs() < 0.02) & (lon.abs() < 0.02))
    )


def test_unknown_items_of_a_history_are_left_out_and_told(engine: RunEngine, items: pl.DataFrame) -> None:
    known = tuple(items["item_id"][:4])
    plain = engine.recommend(ask_at(items, k=5, history=known), [])
    ask = ask_at(items, k=5, history=(known[0], "who?", *known[1:], "what?"))
    mixed = engine.recommend(ask, [])
    assert [item.item_id for item in mixed.items] == [item.item_id for item in plain.items]
    assert "2 visits of the history left out" in mixed.note
    assert engine.recommend(replace(ask, language="zh"), []).note == "历史中有2次访问未计入：没有这样的商品。"
    assert plain.note == ""


@pytest.mark.parametrize("model", ["din_without_sid", "popularity_nearness"])
def test_new_places_only(engine: RunEngine, items: pl.DataFrame, model: str) -> None:
    nobody = ask_at(items, k=100, model=model)
    been = [item.item_id for item in engine.recommend(nobody, []).items[:4]]
    ask = replace(nobody, history=(*been, been[0]))
    everything = engine.recommend(ask, [])
    assert set(been) <= {item.item_id for item in everything.items}
    new = engine.recommend(replace(ask, filters=Filters(new_only=True)), [])
    expected = [item.item_id for item in everything.items if item.item_id not in been]
    assert [item.item_id for item in new.items] == expected
    assert (new.reachable, new.candidates) == (everything.reachable, everything.candidates - 4)
    assert "new places only (4 visited) rules out 4" in new.note
    visits = [Event(f"e{k}", "u", item_id, NOW_MS - 86_400_000, None) for k, item_id in enumerate(been)]
    stored = engine.recommend(replace(nobody, user_id="u", filters=Filters(new_only=True)), visits)
    assert {item.item_id for item in stored.items} == set(expected)
    unknown = engine.recommend(replace(nobody, filters=Filters(new_only=True)), [])
    assert len(unknown.items) == len(everything.items)


def test_stored_events_count_as_visits_unless_the_request_brings_a_history(
    engine: RunEngine, items: pl.DataFrame
) -> None:
    times = [NOW_MS - hours * 3_600_000 for hours in (72, 48, 24)]
    ids = items["item_id"][:3].to_list()
    visits = [Event(f"e{k}", "u", ids[k], times[k], "order" if k else None) for k in range(3)]
    ask = ask_at(items, k=20, user_id="u")
    by_store = engine.recommend(ask, visits)
    by_hand = engine.recommend(replace(ask, history=tuple(ids)), [])
    assert [(i.item_id, i.score) for i in by_store.items] == [(i.item_id, i.score) for i in by_hand.items]
    assert next(item for item in by_store.items if item.item_id == ids[0]).reason.startswith("visited before")
    shown = [replace(visit, kind="impression") for visit in visits]
    nothing = engine.recommend(ask, shown)
    assert [i.score for i in nothing.items] == [i.score for i in engine.recommend(ask, []).items]
    assert [i.score for i in nothing.items] != [i.score for i in by_store.items]


def test_empty_parts_get_an_answer_with_a_note(engine: RunEngine, items: pl.DataFrame) -> None:
    sea = engine.recommend(Ask(Place(0.0, -30.0), Reach(radius_km=10), NOW_MS), [])
    assert (sea.items, sea.reachable, sea.candidates) == ((), 0, 0)
    assert "No item lies within 10 km" in sea.note
    kind = engine.recommend(ask_at(items, filters=Filters(category="No such kind")), [])
    assert not kind.items
    assert kind.reachable > 0
    assert "No such kind" in kind.note
    cut = engine.recommend(ask_at(items, radius_km=60, k=20, candidates=5), [])
    assert len(cut.items) == 5
    assert "Only the nearest 5 were looked at" in cut.note
    chinese = engine.recommend(ask_at(items, radius_km=60, k=20, candidates=5, language="zh"), [])
    assert chinese.note.endswith("个商品。只看了最近的5个。")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": 0}, "k 0"),
        ({"k": 10_000}, "k 10000"),
        ({"candidates": 0}, "candidates 0"),
        ({"reach": Reach()}, "got none"),
        ({"reach": Reach(radius_km=1, travel_minutes=2)}, "radius_km and travel_minutes"),
        ({"reach": Reach(radius_km=-1)}, "radius_km -1"),
        ({"reach": Reach(radius_km=5_000)}, "at most 100 km"),
        ({"reach": Reach(polygon=(Place(0, 0), Place(1, 1)))}, "polygon of 2 corners"),
        ({"place": Place(91, 0)}, "lat_deg 91"),
        ({"model": "gru"}, "model 'gru'"),
        ({"mode": "generative"}, "no generative model"),
        ({"mode": "both"}, "no generative model"),
        ({"mode": "best"}, "mode 'best'"),
        ({"language": "fr"}, "language 'fr'"),
        ({"now_ms": -1}, "now_ms -1"),
        ({"filters": Filters(category=" ")}, "category"),
        ({"filters": Filters(price_min=5, price_max=1)}, "price from 5"),
        ({"filters": Filters(open_at_ms=NOW_MS)}, "opening_hours"),
        ({"filters": Filters(open_at_ms=10**20)}, "open_at_ms"),
    ],
)
def test_wrong_requests(engine: RunEngine, items: pl.DataFrame, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        engine.recommend(ask_at(items, **changes), [])


def test_similar_is_the_exact_neighbourhood(engine: RunEngine, items: pl.DataFrame) -> None:
    emb_ND = engine.artefacts.fit.emb_ND
    index_QK, similarity_QK = nearest_neighbours(emb_ND, np.arange(len(items)), 6)
    for row in range(0, len(items), 61):
        for aligned in (True, False):
            found = engine.similar(items["item_id"][row], 6, aligned)
            assert [hit.item_id for hit in found] == items["item_id"].gather(index_QK[row]).to_list()
            assert [hit.score for hit in found] == pytest.approx(similarity_QK[row].tolist(), abs=1e-6)
    with pytest.raises(RequestError, match="no such item"):
        engine.similar("nobody", 3)


def test_explain(engine: RunEngine, items: pl.DataFrame) -> None:
    sids = pl.read_parquet(served_run().path("3_sid", "sids.parquet"))
    sid = engine.explain(items["item_id"][7])
    assert sid.sid == sids["sid"][7]
    assert items["item_id"][7] in sid.items
    first = engine.explain(sid.sid.split("-")[0])
    assert first.count == (sids["token_1"] == sids["token_1"][7]).sum()
    assert len(first.tokens) == 1
    assert f"{first.count} items" in first.tokens[0]
    assert len(first.items) == min(20, first.count)
    for wrong in ("zebra", "1-2-3-4-5-6", "999", "", "1--2", "٣", "-1"):
        with pytest.raises(RequestError):
            engine.explain(wrong)


def test_search(engine: RunEngine, items: pl.DataFrame) -> None:
    title = items["title"][3]
    assert engine.search(title, 1)[0].title == title
    near = Place(items["lat_deg"][0], items["lon_deg"][0])
    by_distance = engine.search(items["city"][0], 10, near)
    assert all(hit.distance_km is not None and hit.distance_km < 100 for hit in by_distance)
    assert by_distance[0].distance_km == min(hit.distance_km or 0 for hit in by_distance)
    assert engine.search("zzzzqq", 10) == []
    assert engine.search(" .,!", 10) == []


def test_many_threads_get_what_one_gets(engine: RunEngine, items: pl.DataFrame) -> None:
    asks = [ask_at(items, row, k=10, history=tuple(items["item_id"][row : row + 5])) for row in range(0, 120, 3)]
    alone = [[(item.item_id, item.score) for item in engine.recommend(ask, []).items] for ask in asks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda ask: engine.recommend(ask, []).items, asks))
    assert [[(item.item_id, item.score) for item in found] for found in together] == alone


def test_new_items_are_recommended_at_once_and_change_no_sid(items: pl.DataFrame, tmp_path: Path) -> None:
    engine = RunEngine.load(copy_of(served_run(), tmp_path / "run").root, ServeConfig())
    ask = ask_at(items, radius_km=20, k=1_000, candidates=2_000, history=tuple(items["item_id"][:5]))
    before = {item.item_id: item for item in engine.recommend(ask, []).items}
    added = new_items(items, 4).with_columns(lat_deg=ask.place.lat_deg + 1e-3, lon_deg=ask.place.lon_deg)
    added = added.with_columns(title=pl.lit("Quetzal Emporium"), brand=pl.lit("Never seen"))
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(engine.recommend, replace(ask, k=5), []) for _ in range(20)]
        figures = engine.add_items(added)
        assert all(len(future.result().items) == 5 for future in asked)
    assert (figures["new"], figures["served"]) == (4, 4)
    after = {item.item_id: item for item in engine.recommend(ask, []).items}
    assert set(after) == set(before) | set(added["item_id"])
    assert all(after[name].sid == item.sid for name, item in before.items())
    assert [after[name].score for name in before] == pytest.approx([item.score for item in before.values()], abs=1e-5)
    assert len({item.sid for item in after.values()}) == len(after)
    assert len(engine.search("quetzal", 10)) == 4
    assert len(engine.similar("new-0-0", 3)) == 3
    assert "new-0-1" in engine.explain(after["new-0-1"].sid).items
    assert engine.add_items(added)["served"] == 0
    again = RunEngine.load(engine.artefacts.run.root)
    assert again.version != engine.version
    loaded = {item.item_id: item for item in again.recommend(ask, []).items}
    assert {name: item.sid for name, item in loaded.items()} == {name: item.sid for name, item in after.items()}
    assert [loaded[name].score for name in after] == pytest.approx([i.score for i in after.values()], abs=1e-5)


def test_closed_items_are_not_served(items: pl.DataFrame, tmp_path: Path) -> None:
    run = copy_of(served_run(), tmp_path / "run")
    gone = items["item_id"][:3]
    assign_in_run(run, None, gone)
    engine = RunEngine.load(run.root)
    found = engine.recommend(ask_at(items, radius_km=60, k=500, candidates=1_000), []).items
    assert found
    assert not set(gone) & {item.item_id for item in found}
    with pytest.raises(RequestError, match="no such item"):
        engine.similar(gone[0], 3)
    kept = served_engine().recommend(ask_at(items, radius_km=60, k=500, candidates=1_000), []).items
    score = {item.item_id: item.score for item in kept}
    assert [item.score for item in found] == pytest.approx([score[item.item_id] for item in found], abs=1e-5)
