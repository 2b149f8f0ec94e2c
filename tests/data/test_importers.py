"""Importers: known answers from small files of every format, bad lines, round trips, the real Yelp sample."""

from __future__ import annotations

import gzip
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lgsid import geo
from lgsid.data.importers import SOURCES, import_data
from lgsid.data.importers.streams import line_batches
from lgsid.data.importers.yelp_text import attributes_in_words, hours_in_words, split_address, split_categories
from lgsid.errors import ConfigError, DataError, TableError

FOURSQUARE = (
    "470\t49bbd6c0f964a520f4531fe3\t4bf58dd8d48988d127951735\tArts & Crafts Store\t40.7198\t-74.0026\t-240\t"
    "Tue Apr 03 18:00:09 +0000 2012",
    "979\t4a43c0aef964a520c6a61fe3\t4bf58dd8d48988d1df941735\tCafé\t40.6068\t-74.0442\t-240\t"
    "Tue Apr 03 18:00:25 +0000 2012",
    "470\t4a43c0aef964a520c6a61fe3\t4bf58dd8d48988d1df941735\tCafé\t40.6158\t-74.0442\t-300\t"
    "Sat Feb 16 02:34:57 +0000 2013",
)
GOWALLA = (
    "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847",
    "0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315",
    "7\t2009-02-01T00:00:00Z\t30.2359091167\t-97.7951395833\t22847",
)
EARLY_BUSINESS: dict[str, Any] = {
    "business_id": "b1", "full_address": "75 Federal Street\nSte 2\nFinancial District\nBoston, MA 02110",
    "hours": {"Tuesday": {"close": "15:00", "open": "06:00"}, "Monday": {"close": "2:30", "open": "17:00"}},
    "open": False, "categories": ["Bakeries", "Beer, Wine & Spirits"], "city": "Boston", "review_count": 6,
    "name": "Rebecca's Cafe", "neighborhoods": ["Financial District", "Downtown"], "longitude": -71.05, "state": "MA",
    "stars": 3.5, "latitude": 42.35, "type": "business",
    "attributes": {
        "Parking": {"garage": False, "street": True, "lot": True}, "Accepts Credit Cards": True, "Delivery": False,
        "Alcohol": "none", "Noise Level": "very_loud", "Price Range": 1,
    },
}  # fmt: skip
MODERN_BUSINESS: dict[str, Any] = {
    "business_id": "b2", "name": "Sushi Bar", "address": "30 Eglinton Avenue W", "city": "Mississauga", "state": "ON",
    "postal_code": "L5R 3E7", "latitude": 43.6, "longitude": -79.65, "stars": 2.5, "review_count": 128, "is_open": 1,
    "attributes": {
        "BusinessParking": "{'garage': False, 'street': True, 'lot': True}", "BusinessAcceptsCreditCards": "True",
        "RestaurantsDelivery": "False", "Alcohol": "u'none'", "NoiseLevel": "u'very_loud'", "WiFi": "u'free'",
        "RestaurantsPriceRange2": "1",
    },
    "categories": "Bakeries, Beer, Wine & Spirits", "hours": {"Monday": "17:0-2:30", "Tuesday": "6:0-15:0"},
}  # fmt: skip
REVIEW = {
    "review_id": "r",
    "user_id": "u1",
    "business_id": "b2",
    "stars": 4.0,
    "date": "2018-07-07 22:09:11",
    "text": "x",
}
CHECKIN = {"business_id": "b1", "date": "2016-04-26 19:49:16, 2016-08-30 18:36:57"}
TIP = {"user_id": "u2", "business_id": "b1", "text": "Great soup", "likes": 0, "date": "2011-02-09", "type": "tip"}


def write_lines(path: Path, lines: Any, encoding: str = "utf-8") -> Path:
    """Write lines, compressed where the name says so."""
    content = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines).encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def tables(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Items and events of an import."""
    return pl.read_parquet(folder / "items.parquet"), pl.read_parquet(folder / "events.parquet")


class TestFoursquare:
    def test_known_answer(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "dataset_TSMC2014_NYC.txt", FOURSQUARE, "latin-1")
        report = import_data("foursquare", [log], tmp_path / "out")
        items, events = tables(tmp_path / "out")
        assert (report.items, report.events, report.rejects) == (2, 3, {})
        assert items.rows() == [
            ("49bbd6c0f964a520f4531fe3", "Arts & Crafts Store", 40.7198, -74.0026, "Arts & Crafts Store",
             "4bf58dd8d48988d127951735"),
            ("4a43c0aef964a520c6a61fe3", "Café", 40.6068, -74.0442, "Café", "4bf58dd8d48988d1df941735"),
        ]  # fmt: skip
        assert events["timestamp"].to_list() == [
            datetime(2012, 4, 3, 18, 0, 9, tzinfo=UTC),
            datetime(2012, 4, 3, 18, 0, 25, tzinfo=UTC),
            datetime(2013, 2, 16, 2, 34, 57, tzinfo=UTC),
        ]
        assert events["utc_offset_minutes"].to_list() == [-240, -240, -300]
        assert events["user_id"].to_list() == ["470", "979", "470"]

    def test_a_venue_that_moves_keeps_its_first_place_and_is_counted(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "log.txt", FOURSQUARE)
        report = import_data("foursquare", [log], tmp_path / "out")
        assert any("different coordinates: 1 (up to 1.00 km apart)" in note for note in report.notes)

    def test_venues_that_stay_are_not_counted(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "log.txt", [*FOURSQUARE[:2], FOURSQUARE[0]])
        notes = import_data("foursquare", [log], tmp_path / "out").notes
        assert not any("different coordinates" in note for note in notes)

    def test_private_homes_are_pointed_out(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "log.txt", [FOURSQUARE[0].replace("Arts & Crafts Store", "Home (private)")])
        assert any("1 venues are people's homes" in note for note in import_data("foursquare", [log], tmp_path).notes)

    def test_lines_split_over_many_batches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = [FOURSQUARE[0].replace("470", str(user)) for user in range(500)]
        log = write_lines(tmp_path / "log.txt", [*lines, *FOURSQUARE[1:]])
        whole = import_data("foursquare", [log], tmp_path / "whole")
        monkeypatch.setattr(line_batches, "__defaults__", (1000,))
        parts = import_data("foursquare", [log], tmp_path / "parts")
        assert pl.read_parquet(tmp_path / "parts" / "events.parquet").height == 502
        for before, after in zip(tables(tmp_path / "whole"), tables(tmp_path / "parts"), strict=True):
            assert before.equals(after)
        assert whole.notes == parts.notes

    def test_other_formats_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="line 1 has 5 tab-separated fields, expected 8"):
            import_data("foursquare", [write_lines(tmp_path / "g.txt", GOWALLA)], tmp_path / "out")
        assert not (tmp_path / "out" / "items.parquet").exists()


class TestGowalla:
    def test_known_answer(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "loc-gowalla_totalCheckins.txt.gz", GOWALLA)
        report = import_data("gowalla", [log], tmp_path / "out")
        items, events = tables(tmp_path / "out")
        assert items.rows() == [
            ("22847", "Place 22847", 30.2359091167, -97.7951395833),
            ("420315", "Place 420315", 30.2691029532, -97.7493953705),
        ]
        assert events.rows()[2] == ("7", "22847", datetime(2009, 2, 1, tzinfo=UTC))
        assert any("no other text" in note for note in report.notes)

    def test_windows_line_ends_blank_lines_and_a_missing_last_line_break(self, tmp_path: Path) -> None:
        log = tmp_path / "log.txt"
        log.write_bytes("\r\n".join([*GOWALLA[:2], "", GOWALLA[2]]).encode())
        import_data("gowalla", [log], tmp_path / "out")
        assert tables(tmp_path / "out")[1]["item_id"].to_list() == ["22847", "420315", "22847"]


BAD_GOWALLA = {
    "expected 5 tab-separated fields": "0\t2010-10-19T23:55:27Z\t30.2",
    "user_id is empty": "\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847",
    "item_id is empty": "0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t ",
    "latitude is not a number": "0\t2010-10-19T23:55:27Z\tabc\t-97.7\t22847",
    "longitude is not a number": "0\t2010-10-19T23:55:27Z\t30.2\tnan\t22847",
    "latitude is outside ±90°": "0\t2010-10-19T23:55:27Z\t97.7\t30.2\t22847",
    "longitude is outside ±180°": "0\t2010-10-19T23:55:27Z\t30.2\t-197.7\t22847",
    "timestamp does not parse": "0\t2010-13-19T23:55:27Z\t30.2\t-97.7\t22847",
}


class TestBadLines:
    @pytest.mark.parametrize("reason", BAD_GOWALLA)
    def test_strict_names_file_line_and_reason(self, tmp_path: Path, reason: str) -> None:
        log = write_lines(tmp_path / "log.txt", [*GOWALLA, BAD_GOWALLA[reason]])
        with pytest.raises(TableError) as caught:
            import_data("gowalla", [log], tmp_path / "out")
        assert caught.value.counts == {reason: 1}
        assert (caught.value.examples[0].file, caught.value.examples[0].row) == (str(log), 4)
        assert reason in str(caught.value)
        assert "--lenient" in str(caught.value)
        assert list((tmp_path / "out").iterdir()) == []

    def test_lenient_counts_every_reason_and_keeps_the_lines(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "log.txt", [GOWALLA[0], *BAD_GOWALLA.values(), GOWALLA[1]])
        report = import_data("gowalla", [log], tmp_path / "out", lenient=True)
        rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
        assert report.rejects == dict.fromkeys(BAD_GOWALLA, 1)
        assert report.events == 2
        assert rejects["row"].to_list() == list(range(2, 10))
        assert rejects["raw"].to_list() == list(BAD_GOWALLA.values())
        assert rejects["reason"].to_list() == list(BAD_GOWALLA)
        assert json.loads((tmp_path / "out" / "import.json").read_text())["rejects"] == report.rejects

    def test_nothing_left_is_an_error(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "log.txt", [BAD_GOWALLA["user_id is empty"]])
        with pytest.raises(DataError, match="every line was rejected: 1 × user_id is empty"):
            import_data("gowalla", [log], tmp_path / "out", lenient=True)

    @pytest.mark.parametrize("source", ["foursquare", "gowalla", "yelp"])
    def test_an_empty_file_is_an_error(self, tmp_path: Path, source: str) -> None:
        with pytest.raises(DataError):
            import_data(source, [write_lines(tmp_path / "log.txt", [])], tmp_path / "out")

    def test_a_cut_off_archive_is_an_error(self, tmp_path: Path) -> None:
        log = write_lines(tmp_path / "log.txt.gz", [f"{line[:-1]}{i}" for i in range(500) for line in GOWALLA])
        log.write_bytes(log.read_bytes()[:-200])
        with pytest.raises(DataError, match="damaged or cut off"):
            import_data("gowalla", [log], tmp_path / "out")

    def test_a_failed_import_leaves_the_earlier_one(self, tmp_path: Path) -> None:
        import_data("gowalla", [write_lines(tmp_path / "good.txt", GOWALLA)], tmp_path / "out")
        before = (tmp_path / "out" / "events.parquet").read_bytes()
        with pytest.raises(TableError):
            import_data("gowalla", [write_lines(tmp_path / "bad.txt", [*GOWALLA, "x"])], tmp_path / "out")
        assert (tmp_path / "out" / "events.parquet").read_bytes() == before

    def test_a_new_import_removes_what_the_earlier_one_left(self, tmp_path: Path) -> None:
        import_data("gowalla", [write_lines(tmp_path / "a.txt", [*GOWALLA, "x"])], tmp_path / "out", lenient=True)
        assert (tmp_path / "out" / "rejects.parquet").exists()
        import_data("gowalla", [write_lines(tmp_path / "b.txt", GOWALLA)], tmp_path / "out", lenient=True)
        assert not (tmp_path / "out" / "rejects.parquet").exists()


class TestYelp:
    def test_early_and_modern_businesses_say_the_same(self, tmp_path: Path) -> None:
        files = [
            write_lines(tmp_path / "early.json", [EARLY_BUSINESS]),
            write_lines(tmp_path / "modern.json", [MODERN_BUSINESS]),
        ]
        import_data("yelp", files, tmp_path / "out")
        early, modern = pl.read_parquet(tmp_path / "out" / "items.parquet").to_dicts()
        assert early == {
            "item_id": "b1", "title": "Rebecca's Cafe", "lat_deg": 42.35, "lon_deg": -71.05,
            "category": "Bakeries | Beer, Wine & Spirits",
            "description": "price range 1; parking street, lot; accepts credit cards; noise level very loud",
            "province": "MA", "city": "Boston", "district": "02110", "street": "75 Federal Street, Ste 2", "price": 1.0,
            "neighborhood": "Financial District, Downtown", "stars": 3.5, "review_count": 6, "is_open": False,
            "hours": "Mon 17:00-02:30; Tue 06:00-15:00",
        }  # fmt: skip
        assert modern["category"] == early["category"]
        assert modern["hours"] == early["hours"]
        assert modern["description"] == f"{early['description']}; wi-fi free"
        assert (modern["price"], modern["district"], modern["street"]) == (1.0, "L5R 3E7", "30 Eglinton Avenue W")
        assert modern["is_open"] is True

    def test_events_from_reviews_and_tips_but_not_from_checkins(self, tmp_path: Path) -> None:
        files = [
            write_lines(tmp_path / "checkin.json", [CHECKIN]),
            write_lines(tmp_path / "tip.json", [TIP]),
            write_lines(tmp_path / "user.json", [{"user_id": "u1", "name": "A", "review_count": 3}]),
            write_lines(tmp_path / "review.json.gz", [REVIEW]),
            write_lines(tmp_path / "business.json", [EARLY_BUSINESS, MODERN_BUSINESS]),
        ]  # fmt: skip
        report = import_data("yelp", files, tmp_path / "out")
        assert tables(tmp_path / "out")[1].rows() == [
            ("u1", "b2", datetime(2018, 7, 7, 22, 9, 11, tzinfo=UTC), 4.0, "review"),
            ("u2", "b1", datetime(2011, 2, 9, tzinfo=UTC), None, "tip"),
        ]
        notes = "\n".join(report.notes)
        assert "checkin.json: 2 check-ins name no user" in notes
        assert "user.json was skipped" in notes
        assert "tip.json: 1 dates have no time of day" in notes
        assert "as if they were UTC" in notes

    def test_early_checkins_are_counted(self, tmp_path: Path) -> None:
        checkin = {"business_id": "b1", "checkin_info": {"9-5": 1, "7-5": 2}, "type": "checkin"}
        files = [write_lines(tmp_path / "c.json", [checkin]), write_lines(tmp_path / "b.json", [EARLY_BUSINESS])]
        assert any("c.json: 3 check-ins" in note for note in import_data("yelp", files, tmp_path / "out").notes)

    @pytest.mark.parametrize(
        ("change", "column", "reason"),
        [
            ({"business_id": ""}, "business_id", "business_id is missing or empty"),
            ({"latitude": None}, "latitude", "latitude is missing"),
            ({"latitude": "42.1"}, "latitude", "latitude is not a number"),
            ({"longitude": 200}, "longitude", "longitude is outside ±180°"),
            ({"latitude": math.nan}, "latitude", "latitude is not a number"),
            ({"name": 3}, "name", "name is not text"),
            ({"attributes": []}, "", ""),
            ({"attributes": "x"}, "attributes", "attributes is not an object"),
            ({"is_open": 2}, "is_open", "is_open is neither 0 nor 1"),
        ],
    )
    def test_bad_businesses(self, tmp_path: Path, change: dict[str, Any], column: str, reason: str) -> None:
        file = write_lines(tmp_path / "b.json", [MODERN_BUSINESS, MODERN_BUSINESS | change])
        if not reason:
            assert import_data("yelp", [file], tmp_path / "out").items == 2
            return
        with pytest.raises(TableError) as caught:
            import_data("yelp", [file], tmp_path / "out")
        row = caught.value.examples[0]
        assert (row.row, row.column, row.reason) == (2, column, reason)

    def test_bad_lines_are_kept_with_their_numbers(self, tmp_path: Path) -> None:
        business = write_lines(tmp_path / "b.json", [EARLY_BUSINESS, "", "{broken", "[1]"])
        business.write_bytes(business.read_bytes() + b'{"business_id": "\xff"}\n')
        tips = write_lines(tmp_path / "t.json", [TIP, TIP | {"date": "2011-02-30"}, TIP | {"user_id": None}])
        report = import_data("yelp", [business, tips], tmp_path / "out", lenient=True)
        rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
        assert rejects.select("row", "reason").rows() == [
            (3, "not JSON"), (4, "not a JSON object"), (5, "not UTF-8"),
            (2, "date does not parse"), (3, "user_id is missing or empty"),
        ]  # fmt: skip
        assert (report.items, report.events) == (1, 1)

    def test_a_business_file_is_needed(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no business file among t.json \(tip\)"):
            import_data("yelp", [write_lines(tmp_path / "t.json", [TIP])], tmp_path / "out")

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="is not a Yelp file: its first line is"):
            import_data("yelp", [write_lines(tmp_path / "g.txt", GOWALLA)], tmp_path / "out")

    def test_real_sample(self, real_data: Path, tmp_path: Path) -> None:
        files = sorted((real_data / "raw_yelp_boston").glob("*.json.gz"))
        report = import_data("yelp", files, tmp_path)
        items, events = tables(tmp_path)
        assert (report.items, report.events, report.rejects) == (2005, 5372, {})
        assert events["user_id"].n_unique() == 1502
        assert items["item_id"].n_unique() == 2005
        assert events["item_id"].is_in(items["item_id"].implode()).all()
        assert int(items["is_open"].sum()) == 1786
        assert items.filter(pl.col("district").str.contains(r"^0\d{4}$")).height == 2004
        assert items["province"].unique().to_list() == ["MA"]
        assert items["price"].value_counts().filter(pl.col("price") == 4)["count"].to_list() == [32]
        assert items["lat_deg"].is_between(42.2, 42.5).all()
        first = items.row(0, named=True)
        assert (first["title"], first["street"], first["neighborhood"]) == (
            "Rebecca's Cafe", "75 Federal Street", "Financial District",
        )  # fmt: skip


class TestYelpText:
    @pytest.mark.parametrize(
        ("address", "city", "state", "expected"),
        [
            ("1 A St\nDowntown\nBoston, MA 02108", "Boston", "MA", ("1 A St", "02108")),
            ("Edinburgh EH10 4HF", "Edinburgh", "EDH", (None, "EH10 4HF")),
            ("Kaiserstr. 12\n76133 Karlsruhe", "Karlsruhe", "BW", ("Kaiserstr. 12", "76133")),
            ("1 A St\nBoston, MA", "Boston", "MA", ("1 A St", None)),
            ("1 A St\nElsewhere", "Boston", "MA", ("1 A St, Elsewhere", None)),
            ("", "Boston", "MA", (None, None)),
        ],
    )
    def test_addresses(self, address: str, city: str, state: str, expected: tuple[str | None, str | None]) -> None:
        assert split_address(address, city, state, ["Downtown"]) == expected

    def test_categories_with_commas_survive(self) -> None:
        text = "Beer, Wine & Spirits, Food, Books, Mags, Music & Video, Shopping"
        assert split_categories(text) == ["Beer, Wine & Spirits", "Food", "Books, Mags, Music & Video", "Shopping"]
        assert split_categories(None) == []

    def test_attributes_without_anything_true_say_nothing(self) -> None:
        assert (
            attributes_in_words({"WiFi": "u'no'", "Music": "{'dj': False}", "HasTV": "False", "Smoking": "None"})
            is None
        )

    def test_hours_of_a_closed_shop(self) -> None:
        assert hours_in_words(None) is None
        assert hours_in_words({}) is None


MAPPING = """
items:
  files: shops*
  columns: {item_id: id, title: name, lat_deg: lat, lon_deg: lng, category: [top, sub], price: avg}
  constants: {province: 上海市}
  datum: gcj02
events:
  files: log*
  columns: {user_id: uid, item_id: id, timestamp: time, kind: action, user_lat_deg: ulat, user_lon_deg: ulng}
  timestamp_format: "%d/%m/%Y %H:%M"
  timezone: Asia/Shanghai
  kind_values: {show: impression, click: click, pay: order}
  extra: drop
"""
SHOPS = (
    "id,name,lat,lng,top,sub,avg,city",
    '1,"面馆, 老店",31.2304,121.4737,美食,面馆,35.5,x',
    "2,Spa,31.3,121.5,丽人,,,y",
)
LOG = ("uid,id,time,action,ulat,ulng,page", "u,1,02/01/2026 08:30,show,31.1,121.4,7", "u,2,02/01/2026 07:00,pay,,,8")


def write_mapping(folder: Path, text: str) -> Path:
    """A mapping file."""
    path = folder / "map.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class TestMapping:
    def test_known_answer(self, tmp_path: Path) -> None:
        files = [write_lines(tmp_path / "shops.csv", SHOPS, "utf-8"), write_lines(tmp_path / "log.csv.gz", LOG)]
        report = import_data("table", files, tmp_path / "out", mapping=write_mapping(tmp_path, MAPPING))
        items, events = tables(tmp_path / "out")
        lat, lon = geo.gcj02_to_wgs84([31.2304, 31.3], [121.4737, 121.5])
        assert items["lat_deg"].to_list() == lat.tolist()
        assert items["lon_deg"].to_list() == lon.tolist()
        assert items.drop("lat_deg", "lon_deg").to_dicts() == [
            {"item_id": "1", "title": "面馆, 老店", "category": "美食 > 面馆", "province": "上海市", "price": 35.5,
             "source_city": "x"},
            {"item_id": "2", "title": "Spa", "category": "丽人", "province": "上海市", "price": None,
             "source_city": "y"},
        ]  # fmt: skip
        assert events.rows() == [
            ("u", "1", datetime(2026, 1, 2, 0, 30, tzinfo=UTC), "impression", 31.1, 121.4),
            ("u", "2", datetime(2026, 1, 1, 23, 0, tzinfo=UTC), "order", None, None),
        ]
        notes = "\n".join(report.notes)
        assert "converted from GCJ02" in notes
        assert "'city' of the source is not mapped" in notes
        assert "Asia/Shanghai" in notes

    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("title: name", "title: nam", r"no column 'nam' \(nearest: 'name'\)"),
            (
                "item_id: id, title",
                "itemid: id, title",
                r"'itemid' is not a column of this table \(nearest: 'item_id'\)",
            ),
            ("title: name, ", "", "columns lacks title"),
            ("click: click", "click: tap", "'tap' is not one of impression, click, order"),
            ("Asia/Shanghai", "Asia/Shanghi", r"no time zone 'Asia/Shanghi' \(nearest: 'Asia/Shanghai'\)"),
            ("title: name", "title: name, province: city", "'province' stands both in columns and in constants"),
            ("province: 上海市", "created_at: 上海市", "created_at cannot be '上海市'"),
            ("lat_deg: lat", "lat_deg: [lat, lng]", "lat_deg takes one source column"),
            ("extra: drop", "extras: drop", r"extras"),
            ("files: log*", "files: events*", r"no file matches 'events\*'"),
            ("  files: log*\n", "", "events does not say which files are its own"),
        ],
    )
    def test_wrong_mappings(self, tmp_path: Path, before: str, after: str, message: str) -> None:
        files = [write_lines(tmp_path / "shops.csv", SHOPS), write_lines(tmp_path / "log.csv", LOG)]
        assert before in MAPPING
        with pytest.raises(ConfigError, match=message):
            import_data(
                "table", files, tmp_path / "out", mapping=write_mapping(tmp_path, MAPPING.replace(before, after))
            )

    @pytest.mark.parametrize(
        ("line", "column", "reason"),
        [
            ("3,x,31.2", "line", "3 fields, expected 8"),
            (",x,31.2,121.4,a,b,1,c", "id", "item_id is empty"),
            ("3,x,,121.4,a,b,1,c", "lat", "latitude is not a number"),
            ("3,x,31.2,1e3,a,b,1,c", "lng", "longitude is outside ±180°"),
            ("3,x,31.2,121.4,a,b,cheap,c", "avg", "price is not a number"),
            ("3,x\udcff,31.2,121.4,a,b,1,c", "name", "not UTF-8"),
        ],
    )
    def test_bad_rows_are_named(self, tmp_path: Path, line: str, column: str, reason: str) -> None:
        shops = tmp_path / "shops.csv"
        shops.write_bytes("\n".join([*SHOPS, "4,broken", line, SHOPS[1]]).encode("utf-8", errors="surrogateescape"))
        mapping = write_mapping(tmp_path, MAPPING.partition("events:")[0])
        import_data("table", [shops], tmp_path / "out", mapping=mapping, lenient=True)
        rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet").sort("row")
        assert rejects.select("row", "column", "reason").rows() == [
            (3, "line", "2 fields, expected 8"),
            (4, column, reason),
        ]
        assert pl.read_parquet(tmp_path / "out" / "items.parquet").height == 3

    @pytest.mark.parametrize(
        ("text", "settings_", "expected"),
        [
            ("2026-01-02T03:04:05Z", "", "2026-01-02T03:04:05+00:00"),
            ("2026-01-02 03:04:05.25+08:00", "", "2026-01-01T19:04:05.250000+00:00"),
            ("2026-01-02T03:04+0530", "", "2026-01-01T21:34:00+00:00"),
            ("2026-01-02 03:04", "timezone: UTC", "2026-01-02T03:04:00+00:00"),
            ("2026-07-02", "timezone: Europe/Berlin", "2026-07-01T22:00:00+00:00"),
            ("2026-10-25 02:30:00", "timezone: Europe/Berlin", "2026-10-25T00:30:00+00:00"),
            ("1767323045", "timestamp_format: unix_s", "2026-01-02T03:04:05+00:00"),
            ("1767323045123", "timestamp_format: unix_ms", "2026-01-02T03:04:05.123000+00:00"),
            (
                "Fri Jan 02 03:04:05 +0100 2026",
                'timestamp_format: "%a %b %d %H:%M:%S %z %Y"',
                "2026-01-02T02:04:05+00:00",
            ),
        ],
    )
    def test_timestamps(self, tmp_path: Path, text: str, settings_: str, expected: str) -> None:
        log = write_lines(tmp_path / "log.csv", ["u,i,t", f"a,b,{text}"])
        mapping = f"events:\n  columns: {{user_id: u, item_id: i, timestamp: t}}\n  {settings_}\n"
        import_data("table", [log], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))
        assert pl.read_parquet(tmp_path / "out" / "events.parquet")["timestamp"][0].isoformat() == expected

    @pytest.mark.parametrize(
        ("text", "settings_", "reason"),
        [
            ("2026-01-02 03:04:05", "", "timestamp has no time zone: set timezone in the mapping"),
            ("2026-03-29 02:30:00", "timezone: Europe/Berlin", "does not exist: daylight saving skips this hour"),
            ("02/01/2026", "timezone: UTC", "timestamp does not parse"),
            ("", "timezone: UTC", "timestamp does not parse"),
            ("soon", "timestamp_format: unix_s", "timestamp does not parse"),
        ],
    )
    def test_bad_timestamps(self, tmp_path: Path, text: str, settings_: str, reason: str) -> None:
        log = write_lines(tmp_path / "log.csv", ["u,i,t", f"a,b,{text}"])
        mapping = f"events:\n  columns: {{user_id: u, item_id: i, timestamp: t}}\n  {settings_}\n"
        with pytest.raises(TableError, match=reason):
            import_data("table", [log], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))

    def test_a_log_that_repeats_its_items_feeds_both_tables(self, tmp_path: Path) -> None:
        log = write_lines(
            tmp_path / "log.tsv", ["u\tv\tn\ty\tx\tt", "1\ta\tA\t1\t2\t10", "2\ta\tA\t1\t2\t20", "2\tb\tB\t3\t4\t30"]
        )
        mapping = """
items:
  files: "*.tsv"
  columns: {item_id: v, title: n, lat_deg: y, lon_deg: x}
  repeated_ids: first
  extra: drop
events:
  files: "*.tsv"
  columns: {user_id: u, item_id: v, timestamp: t}
  timestamp_format: unix_s
  extra: drop
"""
        report = import_data("table", [log], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))
        assert (report.items, report.events) == (2, 3)
        assert any("1 further lines of items already seen" in note for note in report.notes)

    def test_headerless_gbk_text_with_its_own_delimiter(self, tmp_path: Path) -> None:
        shops = tmp_path / "shops.txt"
        shops.write_bytes("7|火锅店|30.5|104.1|美食/火锅\n".encode("gb18030"))
        mapping = """
items:
  columns: {item_id: id, title: name, lat_deg: lat, lon_deg: lon, category: cate}
  header: [id, name, lat, lon, cate]
  delimiter: "|"
  encoding: gb18030
  category_separator: /
"""
        import_data("table", [shops], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))
        assert pl.read_parquet(tmp_path / "out" / "items.parquet").rows() == [
            ("7", "火锅店", 30.5, 104.1, "美食 > 火锅")
        ]

    def test_parquet_keeps_types_and_vectors(self, tmp_path: Path) -> None:
        source = pl.DataFrame({
            "id": [5, 6], "n": ["a", "b"], "y": [1.0, 2.0], "x": [3, 4], "v": [[0.5, 1.0], [1.5, 2.0]], "size": [7, 8],
            "t": [datetime(2026, 1, 1), datetime(2026, 1, 2)],
        })  # fmt: skip
        source.write_parquet(tmp_path / "shops.parquet")
        mapping = """
items:
  columns: {item_id: id, title: n, lat_deg: y, lon_deg: x, vector_image: v, created_at: t}
  timezone: UTC
"""
        import_data("table", [tmp_path / "shops.parquet"], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))
        items = pl.read_parquet(tmp_path / "out" / "items.parquet")
        assert items["item_id"].to_list() == ["5", "6"]
        assert items["vector_image"].to_list() == [[0.5, 1.0], [1.5, 2.0]]
        assert items.schema["size"] == pl.Int64
        assert items["created_at"].to_list() == [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)]

    def test_another_delimiter_is_pointed_out(self, tmp_path: Path) -> None:
        shops = write_lines(tmp_path / "shops.csv", [line.replace(",", ";") for line in SHOPS])
        with pytest.raises(ConfigError, match="set delimiter: ';'"):
            import_data(
                "table", [shops], tmp_path / "o", mapping=write_mapping(tmp_path, MAPPING.partition("events:")[0])
            )

    def test_an_unclosed_quote_is_an_error(self, tmp_path: Path) -> None:
        shops = write_lines(tmp_path / "shops.csv", [SHOPS[0], '1,"open,31.2,121.4,a,b,1,c', *[SHOPS[2]] * 200_000])
        with pytest.raises(DataError, match="row 1: a quotation mark is opened and not closed"):
            import_data(
                "table", [shops], tmp_path / "out", mapping=write_mapping(tmp_path, MAPPING.partition("events:")[0])
            )

    def test_row_numbers_hold_across_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lgsid.data.importers.readers._BLOCK_BYTES", 2048)
        good = "{},x,31.2,121.4,a,b,1,c"
        lines = [good.format(i) if i % 37 else f"{i},short" for i in range(1, 1000)]
        lines[500 - 1] = good.format(500).replace("31.2", "wrong")
        shops = write_lines(tmp_path / "shops.csv", [SHOPS[0], *lines])
        mapping = write_mapping(tmp_path, MAPPING.partition("events:")[0])
        import_data("table", [shops], tmp_path / "out", mapping=mapping, lenient=True)
        rejects = pl.read_parquet(tmp_path / "out" / "rejects.parquet")
        assert sorted(rejects["row"].to_list()) == sorted([*range(37, 1000, 37), 500])
        items = pl.read_parquet(tmp_path / "out" / "items.parquet")
        assert items["item_id"].to_list() == [str(i) for i in range(1, 1000) if i % 37 and i != 500]


texts = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=12)
rows = st.fixed_dictionaries(
    {
        "id": texts,
        "name": st.one_of(st.none(), texts),
        "lat": st.floats(-90, 90),
        "lon": st.floats(-180, 180),
        "price": st.one_of(st.none(), st.floats(0, 1e9)),
        "note": st.one_of(st.none(), texts),
    }
)


class TestRoundTrip:
    @pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(records=st.lists(rows, min_size=1, max_size=8))
    def test_items_come_back_as_they_were(self, tmp_path: Path, ending: str, records: list[dict[str, Any]]) -> None:
        schema = {
            "id": pl.String,
            "name": pl.String,
            "lat": pl.Float64,
            "lon": pl.Float64,
            "price": pl.Float64,
            "note": pl.String,
        }
        frame, path = pl.DataFrame(records, schema=schema), tmp_path / f"shops.{ending}"
        if ending == "jsonl":
            write_lines(path, records)
        elif ending == "parquet":
            frame.write_parquet(path)
        else:
            frame.write_csv(path, separator="\t" if ending == "tsv" else ",")
        mapping = "items:\n  columns: {item_id: id, title: name, lat_deg: lat, lon_deg: lon, price: price}\n"
        import_data("table", [path], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))
        items = pl.read_parquet(tmp_path / "out" / "items.parquet")
        back = items.select(id="item_id", name="title", lat="lat_deg", lon="lon_deg", price="price", note="note")
        assert back.equals(frame)

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        when=st.datetimes(datetime(1990, 1, 1), datetime(2040, 1, 1)),
        offset=st.integers(-14 * 60, 14 * 60),
        form=st.sampled_from(["T", " "]),
    )
    def test_any_offset_comes_back_in_utc(self, tmp_path: Path, when: datetime, offset: int, form: str) -> None:
        sign, minutes = "-" if offset < 0 else "+", abs(offset)
        local = (when + timedelta(minutes=offset)).isoformat(form)
        log = write_lines(tmp_path / "log.csv", ["u,i,t", f"a,b,{local}{sign}{minutes // 60:02d}:{minutes % 60:02d}"])
        mapping = "events:\n  columns: {user_id: u, item_id: i, timestamp: t}\n"
        import_data("table", [log], tmp_path / "out", mapping=write_mapping(tmp_path, mapping))
        assert pl.read_parquet(tmp_path / "out" / "events.parquet")["timestamp"][0] == when.replace(tzinfo=UTC)


class TestSources:
    def test_unknown_sources_name_the_nearest(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="did you mean 'gowalla'"):
            import_data("gowala", [tmp_path / "x"], tmp_path)

    @pytest.mark.parametrize("source", SOURCES)
    def test_missing_files_are_named(self, tmp_path: Path, source: str) -> None:
        mapping = write_mapping(tmp_path, MAPPING) if source == "table" else None
        with pytest.raises(DataError, match=r"no file .*nowhere"):
            import_data(source, [tmp_path / "nowhere"], tmp_path / "out", mapping=mapping)

    def test_tables_need_a_mapping_and_the_others_take_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="needs a column mapping"):
            import_data("table", [tmp_path / "x"], tmp_path)
        with pytest.raises(ConfigError, match="takes no column mapping"):
            import_data("yelp", [tmp_path / "x"], tmp_path, mapping=tmp_path / "m.yaml")

    def test_no_files(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no files to import"):
            import_data("yelp", [], tmp_path)
