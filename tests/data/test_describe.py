"""Descriptions: known answers on small worlds, the strictly-past stand-in, intervals, reading, pictures, real data."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.data.describe import Description, describe, describe_path, load, print_description, save_plots, style
from lgsid.data.describe import distance as distance_module
from lgsid.data.describe.distance import BAND_EDGES_KM, distance_curve, user_places, wilson
from lgsid.data.describe.events import Events, as_numbers
from lgsid.data.describe.measures import region_names
from lgsid.errors import DataError
from lgsid.geo import centre_deg, haversine_km

KM = float(1 / haversine_km(0.0, 0.0, 1.0, 0.0))
"""Degrees of latitude in one km."""
START = datetime(2026, 1, 1, tzinfo=UTC)
PNG = b"\x89PNG\r\n\x1a\n"


def catalogue(km_north: list[float], **columns: Any) -> pl.DataFrame:
    """Items i0, i1, … on one meridian, so many km north of the equator."""
    n = len(km_north)
    ids = {"item_id": [f"i{i}" for i in range(n)], "title": [f"Shop {i}" for i in range(n)]}
    return pl.DataFrame(ids | {"lat_deg": [km * KM for km in km_north], "lon_deg": [0.0] * n} | columns)


def log(rows: list[tuple[str, str, float]], **columns: Any) -> pl.DataFrame:
    """Events from user, item and minutes since the start."""
    users, items, minutes = zip(*rows, strict=True)
    when = [START + timedelta(minutes=minute) for minute in minutes]
    times = pl.Series("timestamp", when, dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"user_id": users, "item_id": items, "timestamp": times} | columns)


def table(description: Description) -> str:
    """The description as it would be printed."""
    from rich.console import Console

    out = io.StringIO()
    print_description(description, Console(file=out, width=120))
    return out.getvalue()


class TestCounts:
    def test_text_coverage(self) -> None:
        items = catalogue([0, 1, 2, 3], brand=["Aa", None, "Aa", "Bbbb"], note=["x", None, None, None])
        text = {column.column: column for column in describe(items).text}
        assert list(text) == ["title", "brand", "note"]
        assert (text["brand"].share, text["brand"].distinct) == (0.75, 2)
        assert (text["brand"].mean_chars, text["brand"].max_chars) == (2.7, 4)
        assert (text["title"].share, text["title"].distinct, text["title"].mean_chars) == (1.0, 4, 6.0)

    def test_levels_tell_cities_of_one_name_apart(self) -> None:
        items = catalogue(
            [0, 1, 2, 3, 4],
            province=["IL", "IL", "MA", "MA", None],
            city=["Springfield", "Springfield", "Springfield", "Boston", None],
        )
        place = describe(items).geography
        assert place is not None
        province, city = place.levels
        assert (province.distinct, province.share, province.effective) == (2, 0.8, 2.0)
        assert city.top == (("Springfield, IL", 2), ("Boston, MA", 1), ("Springfield, MA", 1))

    def test_region_names(self) -> None:
        items = catalogue(
            [0, 1, 2], province=["上海市", "AZ", "AZ"], city=["上海市", None, "Mesa"], district=["a", "b", None]
        )
        assert region_names(items, "district").to_list() == ["a, 上海市", "b, AZ", None]
        assert region_names(items, "city").to_list() == ["上海市", None, "Mesa, AZ"]

    def test_categories_of_paths_and_of_sets(self) -> None:
        paths = describe(catalogue([0, 1, 2, 3], category=["Food > Pizza", "Food > Sushi", "Spa", None])).categories
        sets = describe(catalogue([0, 1], category=["Pizza | Bars", "Bars"])).categories
        assert paths is not None
        assert (paths.top, paths.share) == ((("Food", 2), ("Spa", 1)), 0.75)
        assert sets is not None
        assert sets.top == (("Bars", 2), ("Pizza", 1))

    def test_geography_of_a_line(self) -> None:
        place = describe(catalogue([0, 0.005, 2, 10])).geography
        assert place is not None
        assert place.nearest_km["50%"] == pytest.approx((0.005 + 1.995) / 2, abs=1e-3)
        assert (place.alone_share, place.shared_share) == (0.5, 0.5)
        distances = np.array([0, 0.005, 2, 10]) - np.mean([0, 0.005, 2, 10])
        assert place.spread_km == pytest.approx(np.sqrt((distances**2).mean()), abs=0.01)

    def test_the_box_crosses_the_date_line(self) -> None:
        items = pl.DataFrame({"item_id": ["a", "b"], "lat_deg": [-17.0, -16.0], "lon_deg": [179.0, -179.5]})
        place = describe(items).geography
        assert place is not None
        assert (place.west_deg, place.east_deg) == (179.0, -179.5)
        assert place.centre_lon_deg == pytest.approx(179.75, abs=0.01)

    def test_items_without_coordinates_are_said(self) -> None:
        items = catalogue([0, 1, 2]).with_columns(lat_deg=pl.Series([0.0, None, float("nan")]))
        description = describe(items)
        assert description.geography is not None
        assert description.geography.located == 1
        assert "items without coordinates: 2" in description.notes

    def test_activity(self) -> None:
        events = log([("u", "i0", 0), ("u", "i0", 1), ("u", "i1", 2), ("v", "i0", 60 * 24 * 10), ("v", "gone", 5)])
        active = describe(catalogue([0, 1, 2, 3]), events).activity
        assert active is not None
        assert (active.events, active.users, active.items, active.unknown_items) == (5, 2, 2, 1)
        assert active.repeat_share == pytest.approx(1 / 4)
        assert active.per_user_counts == (("2", 1), ("3–4", 1))
        assert active.per_item_counts == (("0", 2), ("1", 1), ("2", 0), ("3–4", 1))
        assert (active.days, active.period, len(active.by_period)) == (10.0, "day", 11)
        assert active.by_period[0] == (date(2026, 1, 1), 4)
        assert active.by_period[1] == (date(2026, 1, 2), 0)
        assert active.gini == pytest.approx(2 * (3 * 1 + 4 * 3) / (4 * 4) - 5 / 4)

    def test_impressions_are_not_visits(self) -> None:
        rows = [("u", "i0", 0), ("u", "i0", 1), ("u", "i1", 2), ("w", "i1", 3)]
        events = log(rows, kind=["impression", "click", "impression", "impression"])
        active = describe(catalogue([0, 1]), events).activity
        assert active is not None
        assert active.kinds == {"impression": 3, "click": 1}
        assert active.per_user_counts == (("0", 1), ("1", 1))
        assert active.repeat_share == 0

    def test_an_order_is_not_a_second_visit_unless_there_are_no_clicks(self) -> None:
        rows = [("u", "i0", 0), ("u", "i0", 1), ("u", "i1", 2)]
        with_clicks = describe(catalogue([0, 1]), log(rows, kind=["click", "order", "click"])).activity
        without = describe(catalogue([0, 1]), log(rows, kind=["order", "order", "order"])).activity
        assert with_clicks is not None
        assert without is not None
        assert (with_clicks.visits, with_clicks.repeat_share, with_clicks.per_user["100%"]) == ("clicks", 0, 2)
        assert (without.visits, without.repeat_share, without.per_user["100%"]) == ("orders", pytest.approx(1 / 3), 3)

    def test_events_without_keys_are_left_out_and_said(self) -> None:
        events = log([("u", "i0", 0), ("u", "i1", 1)]).with_columns(user_id=pl.Series([None, "u"]))
        description = describe(catalogue([0, 1]), events)
        assert "events left out because they lack user, item or time: 1" in description.notes

    def test_an_empty_catalogue_is_an_error(self) -> None:
        with pytest.raises(DataError, match="no items"):
            describe(catalogue([]))

    def test_no_events_at_all(self) -> None:
        description = describe(catalogue([0, 1]), log([("u", "i0", 0)]).head(0))
        assert description.activity is None
        assert description.distance is None


def places_by_hand(rows: list[tuple[str, int, float, bool]], km_north: list[float]) -> list[tuple[float, float] | None]:
    """Centre of the ten last strictly earlier visits, slowly and plainly."""
    found: list[tuple[float, float] | None] = []
    for user, _, minute, _ in rows:
        earlier = [row for row in rows if row[0] == user and row[2] < minute and not row[3]]
        last = earlier[-10:]
        found.append(centre_deg([km_north[row[1]] * KM for row in last], [0.0] * len(last)) if last else None)
    return found


class TestDistance:
    def test_the_stand_in_never_sees_the_event_itself(self) -> None:
        events = log([("u", "i0", 0), ("u", "i1", 1), ("u", "i2", 2), ("v", "i2", 0)])
        curve = describe(catalogue([0, 3, 60]), events).distance
        assert curve is not None
        visits = {band.label: band.visits for band in curve.bands if band.visits}
        # i1 is 3 km from i0; i2 is 58.5 km from the centre of i0 and i1; both first events have no past
        assert visits == {"2–5": 1, "50–100": 1}
        assert (curve.from_visits, curve.from_coordinates, curve.unplaced) == (2, 0, 2)
        assert "stands in" in curve.location
        assert "stands in" in table(describe(catalogue([0, 3, 60]), events))

    def test_events_of_the_same_moment_do_not_explain_each_other(self) -> None:
        curve = describe(catalogue([0, 3]), log([("u", "i0", 0), ("u", "i1", 0), ("u", "i1", 1)])).distance
        assert curve is not None
        assert (curve.from_visits, curve.unplaced) == (1, 2)

    @settings(max_examples=60, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(st.sampled_from("uvw"), st.integers(0, 4), st.integers(0, 9), st.booleans()),
            min_size=1,
            max_size=60,
        )
    )
    def test_the_vectorised_stand_in_is_the_plain_one(self, rows: list[tuple[str, int, float, bool]]) -> None:
        km_north = [0.0, 1.0, 3.0, 8.0, 20.0]
        # among events of one moment the order decides which count as most recent: the one of `as_numbers`
        rows.sort(key=lambda row: (row[0], row[2], row[1], 1 if row[3] else 3))
        items, kinds = catalogue(km_north), ["impression" if shown else "order" for *_, shown in rows]
        numbers = as_numbers(
            items, log([(user, f"i{item}", minute) for user, item, minute, _ in rows], kind=kinds).lazy()
        )
        lat, lon = (items[name].to_numpy()[numbers.item] for name in ("lat_deg", "lon_deg"))
        got_lat, got_lon, recorded = user_places(numbers, lat, lon)
        expected = places_by_hand(rows, km_north)
        assert not recorded.any()
        for i, place in enumerate(expected):
            if place is None:
                assert np.isnan(got_lat[i])
            else:
                assert (got_lat[i], got_lon[i]) == pytest.approx(place, abs=1e-9)

    def test_recorded_places_win_and_gaps_are_filled(self) -> None:
        events = log(
            [("u", "i0", 0), ("u", "i1", 1)],
            user_lat_deg=[0.0, None],
            user_lon_deg=[0.0, None],
        )
        curve = describe(catalogue([0.7, 4]), events).distance
        assert curve is not None
        assert (curve.from_coordinates, curve.from_visits) == (1, 1)
        assert {band.label: band.visits for band in curve.bands if band.visits} == {"0.5–1": 1, "2–5": 1}
        assert "where it is missing" in curve.location

    def test_first_visits(self) -> None:
        events = log([("u", "i0", 0), ("u", "i1", 1), ("u", "i1", 2), ("u", "i1", 3)])
        curve = describe(catalogue([0, 3]), events).distance
        assert curve is not None
        assert sum(band.first_visits for band in curve.bands) == 1
        assert sum(band.visits for band in curve.bands) == 3

    def test_conversion(self) -> None:
        near, far = [("u", "i0", i) for i in range(100)], [("u", "i1", 100 + i) for i in range(200)]
        rows = [*near, *far, *near[:40], *far[:10], *near[:8]]
        kind = ["impression"] * 300 + ["click"] * 50 + ["order"] * 8
        zero = [0.0] * len(rows)
        curve = describe(catalogue([0.2, 7]), log(rows, kind=kind, user_lat_deg=zero, user_lon_deg=zero)).distance
        assert curve is not None
        first, sixth = curve.bands[0], curve.bands[4]
        assert (first.impressions, first.clicks, first.orders, first.visits) == (100, 40, 8, 40)
        assert first.click_rate is not None
        assert first.order_rate is not None
        assert (first.click_rate.value, first.order_rate.value) == (0.4, 0.08)
        assert sixth.click_rate is not None
        assert sixth.click_rate.value == 0.05
        assert curve.bands[1].click_rate is None
        printed = table(dataclasses.replace(describe(catalogue([0.2, 7])), distance=curve))
        assert "40.00 % (30.94–49.80)" in printed

    def test_more_clicks_than_impressions_are_not_a_rate(self) -> None:
        events = log(
            [("u", "i0", 0)] * 3, kind=["impression", "click", "click"], user_lat_deg=[0.0] * 3, user_lon_deg=[0.0] * 3
        )
        description = describe(catalogue([0]), events)
        assert description.distance is not None
        assert description.distance.bands[0].click_rate is None
        assert any("more clicks than impressions" in note for note in description.notes)

    def test_the_reference_is_the_catalogue_seen_from_the_user(self) -> None:
        n = 400
        events = log([("u", "i0", i) for i in range(n)], user_lat_deg=[0.0] * n, user_lon_deg=[0.0] * n)
        curve = describe(catalogue([0.1, 0.7, 0.8, 30]), events).distance
        assert curve is not None
        shares = [band.reference_share for band in curve.bands]
        assert sum(shares) == pytest.approx(1)
        assert [shares[0], shares[1], shares[6]] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
        assert curve.bands[0].share == 1

    def test_parts_do_not_change_the_result(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng(0)
        rows = [
            (f"u{user}", f"i{item}", float(minute)) for user, item, minute in rng.integers(0, [40, 30, 5000], (900, 3))
        ]
        items = catalogue(rng.uniform(0, 50, 30).tolist())
        whole = distance_curve(items, as_numbers(items, log(rows).lazy()))
        monkeypatch.setattr(distance_module, "_CHUNK_EVENTS", 37)
        parts = distance_curve(items, as_numbers(items, log(rows).lazy()))
        assert whole == parts

    def test_bands_hold_their_lower_edge(self) -> None:
        events = Events(*(np.zeros(2, dtype=np.int64) for _ in range(4)), np.zeros(2), np.zeros(2))
        items = catalogue([1.0])
        curve = distance_curve(items, events)
        assert curve is not None
        edge = float(haversine_km(0.0, 0.0, items["lat_deg"][0], 0.0))
        band = int(np.searchsorted(BAND_EDGES_KM, edge, side="right")) - 1
        assert curve.bands[band].visits == 2


class TestWilson:
    def test_known_answers(self) -> None:
        rate = wilson(10, 100)
        assert rate is not None
        assert (rate.low, rate.high) == pytest.approx((0.05523, 0.17437), abs=1e-5)
        zero = wilson(0, 20)
        assert zero is not None
        assert (zero.value, zero.low, zero.high) == pytest.approx((0, 0, 0.16113), abs=1e-5)

    def test_what_is_no_share(self) -> None:
        assert wilson(0, 0) is None
        assert wilson(3, 2) is None

    @given(trials=st.integers(1, 10**7), share=st.floats(0, 1))
    def test_the_interval_holds_the_share(self, trials: int, share: float) -> None:
        rate = wilson(int(share * trials), trials)
        assert rate is not None
        assert 0 <= rate.low <= rate.value + 1e-12
        assert rate.value - 1e-12 <= rate.high <= 1


class TestLoading:
    def test_folder_run_folder_and_file_are_the_same(self, tmp_path: Path) -> None:
        items, events = catalogue([0, 1, 5]), log([("u", "i0", 0), ("u", "i1", 1)])
        for folder in (tmp_path / "plain", tmp_path / "run" / "1_data"):
            folder.mkdir(parents=True)
            items.write_parquet(folder / "items.parquet")
            events.write_parquet(folder / "events.parquet")
        plain = describe(*load(tmp_path / "plain"))
        assert describe(*load(tmp_path / "run")) == plain
        alone, none = load(tmp_path / "plain" / "items.parquet")
        assert none is None
        assert describe(alone).geography == plain.geography

    def test_csv_is_read_as_parquet_is(self, tmp_path: Path) -> None:
        items, events = catalogue([0, 1, 5], category=["a", " ", "b"]), log([("u", "i0", 0), ("u", "i1", 1.5)])
        items.write_csv(tmp_path / "items.csv")
        events.with_columns(pl.col("timestamp").dt.to_string("iso")).write_csv(tmp_path / "events.csv")
        got_items, got_events = load(tmp_path)
        assert got_events is not None
        assert got_items["category"].to_list() == ["a", None, "b"]
        assert got_events.select("user_id", "item_id", "timestamp").collect().equals(events)
        assert describe(got_items, got_events).distance == describe(items, events).distance

    @pytest.mark.parametrize("make", ["nothing", "empty folder", "other columns"])
    def test_what_is_no_dataset(self, tmp_path: Path, make: str) -> None:
        target = tmp_path / "x"
        if make != "nothing":
            target.mkdir()
        if make == "other columns":
            pl.DataFrame({"id": [1]}).write_parquet(target / "items.parquet")
        with pytest.raises(DataError, match=r"no file or folder|no items table|no column item_id, lat_deg, lon_deg"):
            load(target)


class TestOutput:
    def test_everything_is_written_and_is_json(self, tmp_path: Path) -> None:
        items = catalogue([0, 1, 5], province=["A"] * 3, city=["B", "B", "C"])
        items.write_parquet(tmp_path / "items.parquet")
        log([("u", "i0", 0), ("u", "i1", 1), ("v", "i2", 2)]).write_parquet(tmp_path / "events.parquet")
        description, files = describe_path(tmp_path, tmp_path / "out")
        names = ["description.json", "map.png", "regions.png", "distance.png", "activity.png", "time.png"]
        assert [file.name for file in files] == names
        assert all(file.read_bytes().startswith(PNG) for file in files[1:])
        content = json.loads((tmp_path / "out" / "description.json").read_text())
        assert content["activity"]["first"] == "2026-01-01T00:00:00+00:00"
        assert content["distance"]["bands"][-1]["high_km"] is None
        assert content == json.loads(json.dumps(description.to_dict(), allow_nan=False))

    def test_items_alone_have_no_pictures_of_events(self, tmp_path: Path) -> None:
        items = catalogue([0, 1, 5])
        assert [file.name for file in save_plots(describe(items), items, tmp_path)] == ["map.png"]

    def test_one_item_in_one_place(self, tmp_path: Path) -> None:
        items = catalogue([0], province=["A"])
        description = describe(items, log([("u", "i0", 0), ("u", "i0", 1)]))
        assert len(save_plots(description, items, tmp_path)) == 5
        assert "items" in table(description)

    def test_provinces_far_apart_and_across_the_date_line(self, tmp_path: Path) -> None:
        items = pl.DataFrame({
            "item_id": ["a", "b", "c", "d"], "lat_deg": [-17.0, -17.1, -20.0, -20.1],
            "lon_deg": [179.0, 179.1, -170.0, -170.1], "province": ["W", "W", "E", None], "city": ["x", "y", "z", None],
        })  # fmt: skip
        assert save_plots(describe(items), items, tmp_path)[0].stat().st_size > 10_000

    def test_names_without_a_font_are_numbered_not_boxed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(style, "_FONTS", ("DejaVu Sans",))
        assert style.readable(["上海市", "Zürich", "北京市"], "city") == ["city 1", "Zürich", "city 3"]
        items = catalogue(
            [0, 1, 500, 501],
            province=["上海市", "上海市", "北京市", "北京市"],
            city=["上海市", "上海市", "北京市", "北京市"],
        )
        description = describe(items, log([("u", "i0", 0), ("u", "i1", 1)]), source="上海")
        assert len(save_plots(description, items, tmp_path)) == 5  # a missing glyph would warn, and warnings are errors
        assert "上海市" in table(description)

    def test_same_seed_same_picture(self, tmp_path: Path) -> None:
        items = catalogue(np.random.default_rng(0).uniform(0, 9, 200).tolist(), province=["A", "B"] * 100)
        first, second = (save_plots(describe(items), items, tmp_path / name)[0].read_bytes() for name in "ab")
        assert first == second


class TestRealData:
    def test_foursquare(self, real_data: Path) -> None:
        description = describe(*load(real_data / "fsq_nyc"))
        active, curve, place = description.activity, description.distance, description.geography
        assert active is not None
        assert curve is not None
        assert place is not None
        assert (description.items, active.events, active.users) == (5_135, 147_938, 1_083)
        assert [level.distinct for level in place.levels] == [2, 12, 349]
        assert {text.column: round(text.share, 3) for text in description.text}["title"] == 0.686
        assert curve.unplaced == 1_091
        ratios = [band.share / band.reference_share for band in curve.bands if band.reference_share > 0.001]
        assert ratios == sorted(ratios, reverse=True)
        assert ratios[0] > 10

    def test_gowalla(self, real_data: Path) -> None:
        description = describe(*load(real_data / "gowalla_nyc"))
        assert description.activity is not None
        assert (description.items, description.activity.events, description.activity.users) == (17_291, 112_384, 6_852)
        assert description.categories is None

    def test_yelp(self, real_data: Path) -> None:
        description = describe(*load(real_data / "yelp_3states"))
        assert description.activity is None
        assert description.geography is not None
        assert description.categories is not None
        assert (description.items, description.geography.located, description.categories.distinct) == (
            7_851,
            7_850,
            548,
        )
        assert next(level.distinct for level in description.geography.levels) == 3
