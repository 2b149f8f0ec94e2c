"""Items and events tables: what is accepted, what is refused, in which words, and that no row ever vanishes."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lgsid.config import DataConfig
from lgsid.data import tables
from lgsid.data.tables import CheckedItems, TableReport, check_events, check_items
from lgsid.errors import DataError, TableError

ITEM_COLUMNS = ["item_id", "title", "lat_deg", "lon_deg"]
ALL_COLUMNS = [*ITEM_COLUMNS, "category", "brand", "description", "province", "city", "district", "street"]
GOOD = "1,Joe's Pizza,40.7306,-74.0021\n2,Central Perk,40.7327,-74.0060\n3,Tom's,40.8056,-73.9654\n"
HEADER = "item_id,title,lat_deg,lon_deg\n"


def config(**changes: Any) -> DataConfig:
    return DataConfig.model_validate({"items": "items.csv", **changes})


LENIENT = config(lenient=True)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def check_text(folder: Path, content: str | bytes, **changes: Any) -> CheckedItems:
    return check_items(write(folder / "items.csv", content), config(**changes))


def read_events(
    folder: Path, content: str | bytes | pl.DataFrame, items: CheckedItems, **changes: Any
) -> tuple[TableReport, pl.DataFrame, pl.DataFrame]:
    path = folder / ("events.parquet" if isinstance(content, pl.DataFrame) else "events.csv")
    if isinstance(content, pl.DataFrame):
        content.write_parquet(path)
    else:
        write(path, content)
    kept, rejects = folder / "kept.parquet", folder / "rejects.parquet"
    report = check_events(path, items, config(**changes), kept, rejects)
    return report, pl.read_parquet(kept), pl.read_parquet(rejects)


@pytest.fixture
def shops(tmp_path: Path) -> CheckedItems:
    folder = tmp_path / "shops"
    folder.mkdir()
    return check_text(folder, HEADER + GOOD)


# --- A catalogue with one of every mistake ----------------------------------------------------------------------------
BAD_HEADER = b"item_id,title,lat_deg,lon_deg,category,price,note\n"
BAD_ROWS = [
    b"1,Joe's Pizza,40.7306,-74.0021,Food > Pizza,12.5,",
    b'2,"Central\nPerk",40.7327,-74.0060,Food > Cafe,,ok',
    b"1,Again,40.7306,-74.0021,Food,1,",
    b"4,Not a number,NaN,-74.0,Food,1,",
    b"5,North of the pole,95.2,-120.5,Food,1,",
    b"6,Los Angeles,-118.2437,34.0522,Food,1,",
    b"7,New York,-74.0021,40.7306,Food,1,",
    b"8,Null Island,0.0,0.0,Food,1,",
    b"9,   ,40.73,-74.0,Food > Bar,1,",
    b"10," + b"x" * 600 + b",40.73,-74.0,Food,1,",
    b"11,Caf\xe9 Royal,40.73,-74.0,Food,1,",
    b"12,Bell\x07,40.73,-74.0,Food,1,",
    b",No id,40.73,-74.0,Food,1,",
    b'14,Decimal comma,"40,71",-74.0,Food,1,',
    b"15,No longitude,40.73,,Food,1,",
    b"16,Six fields,40.73,-74.0,Food,1",
    b"",
    b"18,Cheap,40.73,-74.0,Food,-3,",
    b"#NAME?,Spreadsheet,40.73,-74.0,Food,1,",
    b"20,East of the east,40.73,181.5,Food,1,",
    b"21,Nine fields,40.73,-74.0,Food,1,a,b,c",
    "22,北京烤鸭,39.9087,116.3975,餐饮 > 烤鸭,1,".encode(),
    b"23,Three faults,,-74.0,Food,abc,\xff\xfe",
]
BAD_MESSAGE = f"""\
FILE: 19 of 22 rows are wrong (not a number: 3, wrong number of fields: 2, broken UTF-8: 2, missing coordinate: 2, \
latitude and longitude swapped: 2, control characters: 1, spreadsheet error in place of a value: 1, \
missing item_id: 1, duplicate item_id: 1, empty title: 1, title longer than 512 characters: 1, \
latitude outside -90 to 90: 1, longitude outside -180 to 180: 1, (0, 0) coordinates: 1, negative: 1)
  items.csv, row 16, column 'item_id': wrong number of fields: 6 fields, expected 7 (got '16')
  items.csv, row 21, column 'item_id': wrong number of fields: 9 fields, expected 7, beyond the last column: b,c \
(got '21')
  items.csv, row 11, column 'title': broken UTF-8 (got 'Caf<0xe9> Royal')
  items.csv, row 12, column 'title': control characters (got 'Bell\\x07')
  items.csv, row 23, column 'note': broken UTF-8 (got '<0xff><0xfe>')
  items.csv, row 19, column 'item_id': spreadsheet error in place of a value (got '#NAME?')
  items.csv, row 13, column 'item_id': missing item_id (got '')
  items.csv, row 3, column 'item_id': duplicate item_id: first in row 1 (got '1')
  items.csv, row 9, column 'title': empty title (got '   ')
  items.csv, row 10, column 'title': title longer than 512 characters: 600 characters (got '{"x" * 77}...')
  items.csv, row 23, column 'lat_deg': missing coordinate (got '')
  items.csv, row 15, column 'lon_deg': missing coordinate (got '')
  items.csv, row 4, column 'lat_deg': not a number (got 'NaN')
  items.csv, row 14, column 'lat_deg': not a number (got '40,71')
  items.csv, row 6, column 'lat_deg': latitude and longitude swapped: latitude -118.2437, longitude 34.0522 \
(got '-118.2437')
  items.csv, row 7, column 'lat_deg': latitude and longitude swapped: latitude -74.0021, longitude 40.7306; \
no place within 2790 km, but swapped it is 2 km from New York City (got '-74.0021')
  items.csv, row 5, column 'lat_deg': latitude outside -90 to 90 (got '95.2')
  items.csv, row 20, column 'lon_deg': longitude outside -180 to 180 (got '181.5')
  items.csv, row 8, column 'lat_deg': (0, 0) coordinates (got '0.0')
  items.csv, row 23, column 'price': not a number (got 'abc')
  items.csv, row 18, column 'price': negative (got '-3')
  fix: mend the rows, or drop them into a reject file with --set data.lenient=true
       broken UTF-8: iconv -f GB18030 -t UTF-8 FILE (or whichever encoding it is), if the whole file has \
another encoding
       latitude and longitude swapped: --set data.find_swapped=false, if these places are real
       spreadsheet error in place of a value: export the table without opening it in a spreadsheet, which reads -A1 \
or =A1 as a formula
       empty title: --set data.empty_title=category, if places without a name are meant"""


def bad_csv(folder: Path) -> Path:
    return write(folder / "items.csv", BAD_HEADER + b"\n".join(BAD_ROWS) + b"\n")


def test_every_mistake_is_named_in_strict_mode(tmp_path: Path) -> None:
    path = bad_csv(tmp_path)
    with pytest.raises(TableError) as caught:
        check_items(path, config())
    assert str(caught.value).replace(str(path), "FILE") == BAD_MESSAGE
    assert caught.value.counts["not a number"] == 3
    assert {row.row for row in caught.value.examples} == set(range(3, 24)) - {17, 22}


def test_every_mistake_is_kept_as_a_reject_in_lenient_mode(tmp_path: Path) -> None:
    checked = check_items(bad_csv(tmp_path), config(lenient=True, empty_title="category"))
    assert checked.items.columns == [*ALL_COLUMNS, "price", "note"]
    assert checked.items["item_id"].to_list() == ["1", "2", "9", "22"]
    assert checked.items["title"].to_list() == ["Joe's Pizza", "Central\nPerk", "Bar", "北京烤鸭"]
    assert checked.items["price"].to_list() == [12.5, None, 1.0, 1.0]
    assert checked.items["note"].to_list() == [None, "ok", None, None]
    rejects = checked.rejects
    assert rejects["row"].to_list() == [3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 23]
    by_row = {row.pop("row"): row for row in rejects.to_dicts()}
    assert by_row[3] == {
        "reason": "duplicate item_id", "column": "item_id", "detail": "first in row 1",
        "item_id": "1", "title": "Again", "lat_deg": "40.7306", "lon_deg": "-74.0021", "category": "Food",
        "price": "1", "note": "",
    }  # fmt: skip
    assert by_row[23]["reason"] == "broken UTF-8; missing coordinate; not a number"
    assert by_row[23]["column"] == "note; lat_deg; price"
    assert by_row[23]["note"] == "<0xff><0xfe>"
    assert by_row[21]["note"] == "a"
    assert by_row[21]["detail"] == "9 fields, expected 7, beyond the last column: b,c"
    assert checked.report.to_json() == {
        "file": "items.csv", "rows": 22, "kept": 4, "rejected": 18,
        "rejected_by_reason": checked.report.reasons, "blank_lines": 1, "titles_from_category": 1,
    }  # fmt: skip
    assert sum(checked.report.reasons.values()) == 18 + 2, "row 23 has three reasons"
    assert "1" not in checked.rejected_ids, "the first row with this id was kept"
    assert {"4", "16", "23"} <= set(checked.rejected_ids)


def broken_text(values: list[bytes | None]) -> pa.Array:
    """A Parquet text column as careless writers make it: bytes that are not UTF-8, declared as text."""
    return pa.array(values, pa.binary()).view(pa.string())


def test_the_same_mistakes_in_parquet(tmp_path: Path) -> None:
    nan = float("nan")
    names = [b"Joe's", b"Again", b"NaN", b"Pole", b"Los Angeles", b"New York", b"Island", None, b"Caf\xe9", b"Bell\x00"]
    table = pa.table({
        "item_id": pa.array([1, 1, 3, 4, 5, 6, 7, 8, 9, None], pa.int64()),
        "title": broken_text(names),
        "lat_deg": [40.7306, 40.73, nan, 95.2, -118.2437, -74.0021, 0.0, 40.7, 40.7, None],
        "lon_deg": [-74.0021, -74.0, -74.0, -120.5, 34.0522, 40.7306, 0.0, -74.0, -74.0, float("inf")],
        "vector_photo": pa.array([[1.0, 2.0], [1.0, 2.0], [1.0], [nan, 1], [], *[[1.0, 2.0]] * 4, None]),
    })  # fmt: skip
    path = tmp_path / "items.parquet"
    pq.write_table(table, path)
    with pytest.raises(TableError) as caught:
        check_items(path, config())
    text = "\n".join(str(row) for row in caught.value.examples)
    assert (
        text
        == """\
items.parquet, row 9, column 'title': broken UTF-8 (got 'Caf<0xe9>')
items.parquet, row 10, column 'title': control characters (got 'Bell\\x00')
items.parquet, row 10, column 'item_id': missing item_id (got '')
items.parquet, row 2, column 'item_id': duplicate item_id: first in row 1 (got '1')
items.parquet, row 8, column 'title': empty title (got '')
items.parquet, row 10, column 'lat_deg': missing coordinate (got '')
items.parquet, row 3, column 'lat_deg': not a number (got 'NaN')
items.parquet, row 5, column 'lat_deg': latitude and longitude swapped: latitude -118.2437, longitude 34.0522 \
(got '-118.2437')
items.parquet, row 6, column 'lat_deg': latitude and longitude swapped: latitude -74.0021, longitude 40.7306; \
no place within 2790 km, but swapped it is 2 km from New York City (got '-74.0021')
items.parquet, row 4, column 'lat_deg': latitude outside -90 to 90 (got '95.2')
items.parquet, row 10, column 'lon_deg': longitude outside -180 to 180 (got 'inf')
items.parquet, row 7, column 'lat_deg': (0, 0) coordinates (got '0.0')
items.parquet, row 3, column 'vector_photo': vector of another length or with a value that is no finite number \
(got '[1.0]')
items.parquet, row 4, column 'vector_photo': vector of another length or with a value that is no finite number \
(got '[nan, 1.0]')
items.parquet, row 5, column 'vector_photo': vector of another length or with a value that is no finite number \
(got '[]')"""
    )
    checked = check_items(path, LENIENT)
    assert checked.items["item_id"].to_list() == ["1"]
    assert checked.items["vector_photo"].to_list() == [[1.0, 2.0]]
    assert checked.rejects["row"].to_list() == list(range(2, 11))


EVENT_HEADER = "user_id,item_id,timestamp,kind,amount,user_lat_deg,user_lon_deg\n"
BAD_EVENTS = """\
u1,1,2026-01-05T10:00:00Z,click,,40.73,-74.00
u1,4711,2026-01-05T10:01:00Z,click,,,
u2,bad,2026-01-05T10:02:00Z,order,12.5,40.73,-74.00
u2,2,yesterday,click,,,
u2,2,2026-01-05T10:04:00+08:00,click,,,
u2,2,20260105,click,,,
u2,2,2026-01-05T10:06:00Z,view,,,
u2,2,2026-01-05T10:07:00Z,order,-1,,
u2,2,2026-01-05T10:08:00Z,order,inf,,
u2,2,2026-01-05T10:09:00Z,click,,40.73,
,2,2026-01-05T10:10:00Z,click,,,
u2,2,,click,,,
u2,2,2026-01-05T10:12:00Z,click,,0,0
u3,2,2026-01-05T10:13:00Z, Order ,7,,
u3,3,1767607200,,,-74.00,40.73
"""
BAD_EVENTS_MESSAGE = """\
FILE: 13 of 15 rows are wrong (unknown item: 2, missing user_id: 1, missing timestamp: 1, timestamp is not UTC: 1, \
timestamp not understood: 1, timestamp outside 1990 to 2100: 1, kind is none of impression, click, order: 1, \
infinite: 1, negative: 1, missing coordinate: 1, latitude and longitude swapped: 1, (0, 0) coordinates: 1)
  events.csv, row 11, column 'user_id': missing user_id (got '')
  events.csv, row 2, column 'item_id': unknown item: not in the items table (got '4711')
  events.csv, row 3, column 'item_id': unknown item: its row in the items table was rejected (got 'bad')
  events.csv, row 12, column 'timestamp': missing timestamp (got '')
  events.csv, row 5, column 'timestamp': timestamp is not UTC (got '2026-01-05T10:04:00+08:00')
  events.csv, row 4, column 'timestamp': timestamp not understood (got 'yesterday')
  events.csv, row 6, column 'timestamp': timestamp outside 1990 to 2100 (got '20260105')
  events.csv, row 7, column 'kind': kind is none of impression, click, order (got 'view')
  events.csv, row 9, column 'amount': infinite (got 'inf')
  events.csv, row 8, column 'amount': negative (got '-1')
  events.csv, row 10, column 'user_lon_deg': missing coordinate (got '')
  events.csv, row 15, column 'user_lat_deg': latitude and longitude swapped: latitude -74.0, longitude 40.73; \
no place within 2790 km, but swapped it is 2 km from New York City (got '-74.00')
  events.csv, row 13, column 'user_lat_deg': (0, 0) coordinates (got '0')
  fix: mend the rows, or drop them into a reject file with --set data.lenient=true
       timestamp is not UTC: `lgsid import` with `timezone` in the mapping, which converts to UTC
       timestamp not understood: `lgsid import` with `timezone` in the mapping, or write times as 2026-01-31T18:00:09Z
       latitude and longitude swapped: --set data.find_swapped=false, if these places are real"""


def test_every_mistake_in_events(tmp_path: Path) -> None:
    items = check_text(tmp_path, HEADER + GOOD + "bad,,40.7,-74.0\n", lenient=True)
    with pytest.raises(TableError) as caught:
        read_events(tmp_path, EVENT_HEADER + BAD_EVENTS, items)
    assert str(caught.value).replace(str(tmp_path / "events.csv"), "FILE") == BAD_EVENTS_MESSAGE
    assert not (tmp_path / "kept.parquet").exists(), "a table that cannot be used writes nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.csv", "items.csv"], "no half-written files"

    report, kept, rejects = read_events(tmp_path, EVENT_HEADER + BAD_EVENTS, items, lenient=True)
    assert kept.to_dicts() == [
        {"user_id": "u1", "item_id": "1", "timestamp": _utc("2026-01-05T10:00:00"), "kind": "click", "amount": None,
         "user_lat_deg": 40.73, "user_lon_deg": -74.0},
        {"user_id": "u3", "item_id": "2", "timestamp": _utc("2026-01-05T10:13:00"), "kind": "order", "amount": 7.0,
         "user_lat_deg": None, "user_lon_deg": None},
    ]  # fmt: skip
    assert kept.schema["timestamp"] == pl.Datetime("us", "UTC")
    assert rejects["row"].to_list() == [*range(2, 14), 15]
    assert rejects["amount"].to_list()[6:8] == ["-1", "inf"]
    assert report.notes["unknown_items_rejected"] == 1
    assert report.notes["unknown_items_absent"] == 1


def _utc(text: str) -> Any:
    return pl.Series([text]).str.to_datetime(time_unit="us", time_zone="UTC").item()


# --- Files as a whole -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lenient", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.csv", b"", "is empty (0 bytes)"),
        ("items.csv", b"\xef\xbb\xbf\n \n", "is empty (no header, no rows)"),
        ("items.csv", HEADER.encode(), "has a header but no rows"),
        ("items.csv", HEADER.strip().encode(), "has a header but no rows"),
        ("items.csv", (HEADER + "\n\n").encode(), "has a header but no rows"),
        ("items.csv", b"\xff\xfe" + HEADER.encode("utf-16-le"), "is UTF-16, expected UTF-8"),
        ("items.csv", b"item_id,\xb5\xea\xc3\xfb,lat_deg,lon_deg\n1,a,2,3\n", "the header is not UTF-8"),
        ("items.csv", b"PAR1....", "is a Parquet file with the name of a CSV file"),
        ("items.csv", b"item_id,title,title,lat_deg,lon_deg\n1,a,b,2,3\n", "has the column 'title' twice"),
        ("items.csv", (HEADER + '1,"a,40.7,-74\n2,b,40.7,-74\n').encode(), "row 1: a quote is opened here and never"),
        ("items.csv", (HEADER + '1,a,40.7,"-74\n2,b,40.7,-74\n').encode(), "row 1: a quote is opened here and never"),
        ("items.csv.gz", gzip.compress((HEADER + GOOD * 500).encode())[:-20], "cannot be read"),
        ("items.csv.gz", b"not gzip at all", "cannot be read"),
        ("items.parquet", b"PAR1 cut off", "cannot be read"),
        ("items.xlsx", b"PK", "unknown kind of file, expected .parquet, .pq, .csv"),
        ("items.csv", b"item_id,name,latitude,lon_deg\n1,a,2,3\n",
         "lacks the columns title, lat_deg (it has item_id, name, latitude, lon_deg); is 'name' the title?; "
             "is 'latitude' the lat_deg?"),
    ],
)  # fmt: skip
def test_unusable_files(tmp_path: Path, name: str, content: bytes, message: str, lenient: bool) -> None:
    with pytest.raises(DataError, match=r"(?s).+") as caught:
        check_items(write(tmp_path / name, content), config(lenient=lenient))
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_missing_file_folder_and_empty_parquet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nowhere\.csv"):
        check_items(tmp_path / "nowhere.csv", config())
    with pytest.raises(DataError, match="is a folder, expected one file"):
        check_items(tmp_path, config())
    pl.DataFrame(schema=dict.fromkeys(ITEM_COLUMNS, pl.String)).write_parquet(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="has a header but no rows"):
        check_items(tmp_path / "none.parquet", LENIENT)


def test_nothing_left_is_an_error_in_lenient_mode_too(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="2 of 2 rows are wrong, no row is left"):
        check_text(tmp_path, HEADER + "1,,40.7,-74\n2,b,0,0\n", lenient=True)


def test_events_need_their_columns(tmp_path: Path, shops: CheckedItems) -> None:
    with pytest.raises(DataError, match="lacks the column timestamp"):
        read_events(tmp_path, "user_id,item_id\nu,1\n", shops)
    with pytest.raises(DataError, match="the column user_lat_deg without user_lon_deg"):
        read_events(tmp_path, "user_id,item_id,timestamp,user_lat_deg\nu,1,2026-01-01,1\n", shops)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", (HEADER + GOOD).encode()),
        ("bom.csv", b"\xef\xbb\xbf" + (HEADER + GOOD).encode()),
        ("windows.csv", (HEADER + GOOD).replace("\n", "\r\n").encode()),
        ("mac.csv", (HEADER + GOOD).replace("\n", "\r").encode()),
        ("open_end.csv", (HEADER + GOOD).strip().encode()),
        ("blank.csv", (HEADER + "\n" + GOOD + "\n\n").encode()),
        ("excel.csv", (HEADER + GOOD).replace(",", ";").encode()),
        ("tabs.tsv", (HEADER + GOOD).replace(",", "\t").encode()),
        ("quoted.csv", b'"item_id","title","lat_deg","lon_deg"\n"1","Joe\'s Pizza","40.7306","-74.0021"\n'
                       b'"2","Central Perk",40.7327,"-74.0060"\n3,Tom\'s, 40.8056 ,-73.9654\n'),
        ("packed.csv.gz", gzip.compress((HEADER + GOOD).encode())),
        ("two_members.CSV.GZ", gzip.compress(HEADER.encode()) + gzip.compress(GOOD.encode())),
    ],
)  # fmt: skip
def test_kinds_of_csv(tmp_path: Path, name: str, content: bytes, shops: CheckedItems) -> None:
    checked = check_items(write(tmp_path / name, content), config())
    assert checked.items.equals(shops.items)
    assert checked.rejects.is_empty()


def test_rows_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    good = "{},a,40.7,-74.0\n"
    lines = [good.format(i) for i in range(1, 9)]
    lines[1] = "2,short\n"
    lines[2] = "\n"
    lines[3] = '4,"two\nlines",40.7,x\n'
    lines[7] = "8,too,many,of,them\n"
    checked = check_text(tmp_path, HEADER + "".join(lines), lenient=True)
    assert checked.rejects["row"].to_list() == [2, 4, 8]
    assert checked.items["item_id"].to_list() == ["1", "5", "6", "7"]
    assert checked.report.notes["blank_lines"] == 1


def test_rows_are_numbered_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lgsid.data.reading._BLOCK_BYTES", 64)
    lines = [f"{i},a,40.7,-74.0\n" if i % 7 else f"{i},short\n" for i in range(1, 400)]
    lines[199] = "200,Caf\xe9,40.7,-74.0\n"
    content = (HEADER + "".join(lines)).encode("latin-1")
    checked = check_text(tmp_path, content, lenient=True)
    assert checked.rejects["row"].to_list() == sorted([*range(7, 400, 7), 200])
    assert checked.rejects["item_id"].to_list() == [str(row) for row in checked.rejects["row"]]


def test_a_quote_inside_text_is_no_quote(tmp_path: Path) -> None:
    checked = check_text(tmp_path, HEADER + '1,5" pipes,40.7,-74.0\n2,"say ""hi""",40.7,-74.0\n')
    assert checked.items["title"].to_list() == ['5" pipes', 'say "hi"']


# --- Types ------------------------------------------------------------------------------------------------------------
def parquet(folder: Path, **columns: Any) -> Path:
    base = {"item_id": ["1", "2"], "title": ["a", "b"], "lat_deg": [40.7, 40.8], "lon_deg": [-74.0, -74.1]}
    pl.DataFrame(base | columns).write_parquet(folder / "items.parquet")
    return folder / "items.parquet"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([7, 12], dtype=pl.Int32), ["7", "12"]),
        (pl.Series([7.0, 12.0]), ["7", "12"]),
        (pl.Series(["7", "12"], dtype=pl.Categorical), ["7", "12"]),
        (pl.Series([18446744073709551615, 1], dtype=pl.UInt64), ["18446744073709551615", "1"]),
        (pl.Series([" 7", "007"]), [" 7", "007"]),  # identifiers are never tidied: others join on them
    ],
)
def test_identifiers_become_text(tmp_path: Path, ids: pl.Series, expected: list[str]) -> None:
    assert check_items(parquet(tmp_path, item_id=ids), config()).items["item_id"].to_list() == expected


def test_identifiers_that_lost_digits(tmp_path: Path) -> None:
    path = parquet(tmp_path, item_id=[1.5, 2.0**60])
    with pytest.raises(TableError, match=r"identifier is no exact whole number \(got '1\.5'\)"):
        check_items(path, config())


@pytest.mark.parametrize("numbers", [pl.Series(["40.7", " 40.8 "]), pl.Series([40.7, 40.8]).cast(pl.Decimal(10, 4))])
def test_coordinates_become_numbers(tmp_path: Path, numbers: pl.Series) -> None:
    assert check_items(parquet(tmp_path, lat_deg=numbers), config()).items["lat_deg"].to_list() == [40.7, 40.8]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("category", [["Food", "Bar"], ["Food"]], "column 'category' holds List(String), expected text"),
        ("lat_deg", [True, False], "column 'lat_deg' holds Boolean, expected numbers"),
        ("item_id", [[1], [2]], "column 'item_id' holds List(Int64), expected text or whole numbers"),
        ("vector_photo", ["[1, 2]", "[3, 4]"], "column 'vector_photo' holds String, expected lists of numbers"),
    ],
)
def test_columns_of_the_wrong_type(tmp_path: Path, column: str, values: list[Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        check_items(parquet(tmp_path, **{column: values}), LENIENT)
    assert message in str(caught.value)


def test_text_is_tidied_and_extra_columns_are_kept(tmp_path: Path) -> None:
    path = parquet(tmp_path, brand=["  Joe ", " "], stars=[4.5, None], tags=[["a"], []], city=[None, None])
    items = check_items(path, config()).items
    assert items.columns == [*ALL_COLUMNS, "stars", "tags"]
    assert items["brand"].to_list() == ["Joe", None]
    assert items["tags"].to_list() == [["a"], []]
    assert [items.schema[name] for name in ALL_COLUMNS] == [
        pl.String, pl.String, pl.Float64, pl.Float64, *[pl.String] * 7
    ]  # fmt: skip


def test_extra_columns_of_any_type_are_kept_and_rejected_as_text(tmp_path: Path) -> None:
    day = dt.date(2026, 1, 5)
    extra = {
        "flag": [True, None], "day": [day] * 2, "time": [dt.time(1, 2)] * 2, "wait": [dt.timedelta(hours=1)] * 2,
        "local": pl.Series([dt.datetime(2026, 1, 5)] * 2).dt.replace_time_zone("Asia/Shanghai"),
        "money": [Decimal("1.5")] * 2, "kind": pl.Series(["x", "y"], dtype=pl.Categorical), "blob": [b"\xff"] * 2,
        "nested": [{"a": 1}, {"a": 2}], "words": [["p", "q"], None], "nothing": [None] * 2,
    }  # fmt: skip
    path = parquet(tmp_path, item_id=[1, 1], **extra)
    checked = check_items(path, LENIENT)
    assert checked.items.select("flag", "day", "wait", "money", "blob", "nested", "words").rows() == [
        (True, day, dt.timedelta(hours=1), Decimal("1.5"), b"\xff", {"a": 1}, ["p", "q"])
    ]
    assert checked.rejects.select(*extra).row(0) == (
        None, "2026-01-05", "01:02:00", "1:00:00", "2026-01-05 00:00:00.000000+08:00", "1.5", "y", r"b'\xff'",
        "{'a': 2}", None, None,
    )  # fmt: skip


def test_reject_columns_never_collide_with_the_users(tmp_path: Path) -> None:
    path = parquet(tmp_path, row=[10, 20], reason=["x", "y"], title=["a", None])
    rejects = check_items(path, LENIENT).rejects
    assert rejects.columns[:4] == ["row", "reason", "column", "detail"]
    assert rejects.select("row", "row_", "reason", "reason_").to_dicts() == [
        {"row": 2, "row_": "20", "reason": "empty title", "reason_": "y"}
    ]


def test_empty_titles(tmp_path: Path) -> None:
    text = "item_id,title,lat_deg,lon_deg,category\n1,,40.7,-74,Food > Late Bar \n2,,40.7,-74,\n3,a,40.7,-74,Food\n"
    with pytest.raises(TableError, match="empty title: 2"):
        check_text(tmp_path, text)
    with pytest.raises(TableError, match="empty title and no category: 1"):
        check_text(tmp_path, text, empty_title="category")
    checked = check_text(tmp_path, text, empty_title="category", lenient=True)
    assert checked.items["title"].to_list() == ["Late Bar", "a"]
    assert checked.report.notes["titles_from_category"] == 1


def test_limits_come_from_the_configuration(tmp_path: Path) -> None:
    text = "item_id,title,lat_deg,lon_deg,description\n" + "1,abcdef,40.7,-74,123456789\n"
    assert check_text(tmp_path, text, max_title_chars=6, max_description_chars=9).report.kept == 1
    with pytest.raises(TableError, match="title longer than 5 characters: 6 characters"):
        check_text(tmp_path, text, max_title_chars=5)
    with pytest.raises(TableError, match="description longer than 8 characters: 9 characters"):
        check_text(tmp_path, text, max_description_chars=8)
    with pytest.raises(TableError, match="identifier longer than 512 characters"):
        check_text(tmp_path, HEADER + "i" * 513 + ",a,40.7,-74\n")


@pytest.mark.parametrize("datum", ["gcj02", "bd09"])
def test_chinese_datums_are_converted_in_both_tables(tmp_path: Path, datum: str) -> None:
    published = {"gcj02": (39.91640428150164, 116.41024449916938), "bd09": (39.922699552216216, 116.41662724378733)}
    lat, lon = published[datum]
    row = f"1,烤鸭,{lat},{lon}\n2,Paris,48.8566,2.3522\n"
    items = check_text(tmp_path, HEADER + row, datum=datum)
    assert items.items["lat_deg"].to_list() == pytest.approx([39.915, 48.8566])
    assert items.items["lon_deg"].to_list() == pytest.approx([116.404, 2.3522])
    events = "user_id,item_id,timestamp,user_lat_deg,user_lon_deg\n" + f"u,1,2026-01-01,{lat},{lon}\nu,2,2026-01-01,,\n"
    _, kept, _ = read_events(tmp_path, events, items, datum=datum)
    assert kept["user_lat_deg"].to_list() == pytest.approx([39.915, None])
    assert kept["user_lon_deg"].to_list() == pytest.approx([116.404, None])


# --- Streaming --------------------------------------------------------------------------------------------------------
def many_events(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame({
        "user_id": rng.integers(0, 50, rows),
        "item_id": rng.integers(1, 5, rows),  # item 4 does not exist
        "timestamp": 1_767_607_200 + rng.integers(0, 10**6, rows),
        "kind": rng.choice(["click", "order", "impression", "view"], rows, p=[0.4, 0.2, 0.3, 0.1]),
    })  # fmt: skip


def test_batches_change_nothing(tmp_path: Path, shops: CheckedItems, monkeypatch: pytest.MonkeyPatch) -> None:
    events = many_events(5_000)
    whole_report, whole, whole_rejects = read_events(tmp_path, events, shops, lenient=True)
    monkeypatch.setattr(tables, "BATCH_ROWS", 700)
    report, kept, rejects = read_events(tmp_path, events, shops, lenient=True)
    assert kept.equals(whole)
    assert rejects.equals(whole_rejects)
    assert report == whole_report
    assert 0 < kept.height < 5_000
    assert kept.height + rejects.height == 5_000
    assert pq.ParquetFile(tmp_path / "kept.parquet").num_row_groups == 8


def test_the_same_events_give_the_same_bytes(tmp_path: Path, shops: CheckedItems) -> None:
    read_events(tmp_path, many_events(1_000), shops, lenient=True)
    first = (tmp_path / "kept.parquet").read_bytes(), (tmp_path / "rejects.parquet").read_bytes()
    read_events(tmp_path, many_events(1_000), shops, lenient=True)
    assert ((tmp_path / "kept.parquet").read_bytes(), (tmp_path / "rejects.parquet").read_bytes()) == first


# --- Properties -------------------------------------------------------------------------------------------------------
cells = st.sampled_from(["1", "2", "3", "a", "", " ", "NaN", "40.7", "-74", "0", "181", "-95", "1e400", "é", "#REF!"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
coordinates = st.one_of(st.floats(-200, 200).map(str), cells)
identifiers = st.integers(1, 60).map(str)
good_item = st.tuples(identifiers, st.sampled_from(["Bar", " Café "]), st.just("40.7"), st.just("-74.0"))
odd_item = st.tuples(st.one_of(cells, texts), texts, coordinates, coordinates)
good_event = st.tuples(st.just("u"), st.sampled_from(["1", "2"]), st.just("2026-01-05"), st.sampled_from(["click", ""]))
odd_times = st.one_of(cells, st.integers(10**8, 10**19).map(str), st.datetimes().map(str))
odd_event = st.tuples(cells, cells, odd_times, texts)
# a CSV row of empty cells is a blank line, counted as such and tested for itself
item_rows = st.lists(st.one_of(good_item, odd_item.filter(any)), min_size=1, max_size=12)
event_rows = st.lists(st.one_of(good_event, odd_event.filter(any)), min_size=1, max_size=12)
item_rows |= st.lists(good_item, min_size=1, max_size=4, unique_by=lambda row: row[0])
event_rows |= st.lists(good_event, min_size=1, max_size=4)


def frame_of(rows: list[tuple[str, ...]], columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def nothing_vanishes(folder: Path, name: str, frame: pl.DataFrame, items: CheckedItems | None) -> None:
    """Lenient keeps + rejects = all rows in order, and strict passes exactly when lenient rejects nothing."""
    path = folder / name
    frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path, quote_style="always")

    def check(lenient: bool) -> tuple[pl.DataFrame, pl.DataFrame, TableReport]:
        if items is None:
            checked = check_items(path, config(lenient=lenient))
            return checked.items, checked.rejects, checked.report
        outputs = folder / "kept.parquet", folder / "rejects.parquet"
        report = check_events(path, items, config(lenient=lenient), *outputs)
        return pl.read_parquet(outputs[0]), pl.read_parquet(outputs[1]), report

    try:
        kept, rejects, report = check(lenient=True)
    except TableError as error:
        refused = error.message, sum(error.counts.values())
    else:
        refused = None
    if refused:
        assert "no row is left" in refused[0]
        assert refused[1] >= frame.height
        with pytest.raises(TableError):
            check(lenient=False)
        return
    assert report.rows == frame.height
    assert kept.height + rejects.height == frame.height
    rejected_rows = rejects["row"].to_list()
    assert rejected_rows == sorted(set(rejected_rows))
    kept_rows = [row for row in range(1, frame.height + 1) if row not in rejected_rows]
    assert kept["item_id"].to_list() == frame["item_id"][[row - 1 for row in kept_rows]].to_list()
    assert rejects["item_id"].to_list() == frame["item_id"][[row - 1 for row in rejected_rows]].to_list()
    assert (rejects["reason"] != "").all()
    if rejects.height:
        with pytest.raises(TableError):
            check(lenient=False)
    else:
        assert check(lenient=False)[0].equals(kept)


@pytest.mark.parametrize("name", ["items.csv", "items.parquet"])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=item_rows)
def test_no_item_vanishes(tmp_path: Path, name: str, rows: list[tuple[str, ...]]) -> None:
    nothing_vanishes(tmp_path, name, frame_of(rows, ITEM_COLUMNS), None)


@pytest.mark.parametrize("name", ["events.csv", "events.parquet"])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=event_rows)
def test_no_event_vanishes(tmp_path: Path, shops: CheckedItems, name: str, rows: list[tuple[str, ...]]) -> None:
    nothing_vanishes(tmp_path, name, frame_of(rows, ["user_id", "item_id", "timestamp", "kind"]), shops)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.lists(st.sampled_from([b"1", b",", b"\n", b'"', b"\xff", b"\xc3", b"a", b"40.7", b"\x00", b"\r"])))
def test_any_bytes_give_rows_or_an_error_of_ours(tmp_path: Path, content: list[bytes]) -> None:
    path = write(tmp_path / "items.csv", HEADER.encode() + b"".join(content))
    try:
        checked = check_items(path, LENIENT)
    except DataError:
        return
    assert checked.items.height + checked.rejects.height == checked.report.rows > 0


# --- Real data --------------------------------------------------------------------------------------------------------
@pytest.mark.real
def test_real_catalogues(real_data: Path, tmp_path: Path) -> None:
    gowalla = check_items(real_data / "gowalla_nyc" / "items.parquet", config())
    assert gowalla.report.kept == 17_291
    kept, rejects = tmp_path / "kept.parquet", tmp_path / "rejects.parquet"
    events = real_data / "gowalla_nyc" / "events.parquet"
    assert check_events(events, gowalla, config(), kept, rejects).kept == 112_384
    assert pl.read_parquet(kept).equals(pl.read_parquet(events))

    yelp = check_items(real_data / "yelp_3states" / "items.parquet", LENIENT)
    assert yelp.report.kept == 7_759
    assert yelp.report.reasons == {
        "spreadsheet error in place of a value": 91,  # identifiers that began with "-" and went through a spreadsheet
        "empty title": 1,
        "missing coordinate": 1,
    }

    with pytest.raises(TableError, match="empty title: 1,612"):
        check_items(real_data / "fsq_nyc" / "items.parquet", config())
    fsq = check_items(real_data / "fsq_nyc" / "items.parquet", config(lenient=True, empty_title="category"))
    assert fsq.report.reasons == {"empty title and no category": 52}
    assert fsq.report.notes["titles_from_category"] == 1_560
    report = check_events(real_data / "fsq_nyc" / "events.parquet", fsq, LENIENT, kept, rejects)
    assert (report.kept, report.rejected) == (146_704, 1_234)
    assert report.notes["unknown_items_rejected"] == 1_234
    json.dumps(report.to_json())


@pytest.mark.real
def test_real_catalogues_survive_csv(real_data: Path, tmp_path: Path) -> None:
    lenient = config(lenient=True, empty_title="category")
    for name in ("fsq_nyc", "yelp_3states"):
        original = real_data / name / "items.parquet"
        pl.read_parquet(original).write_csv(tmp_path / "items.csv")
        from_csv, from_parquet = check_items(tmp_path / "items.csv", lenient), check_items(original, lenient)
        assert from_csv.items.select(ALL_COLUMNS).equals(from_parquet.items.select(ALL_COLUMNS))
        assert from_csv.rejects["row"].equals(from_parquet.rejects["row"])
