"""Filters against plain Python, opening hours against known weeks, and what empty answers say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.config.serve import ReachConfig
from lgsid.errors import TableError
from lgsid.geo import haversine_km
from lgsid.serve.base import RequestError
from lgsid.serve.filters import Filters, Wanted, tidy
from lgsid.serve.hours import QUARTERS, OpeningHours, parse_hours, quarter_of
from lgsid.serve.nearby import Shelf
from lgsid.serve.notes import filter_words, reach_words
from lgsid.serve.reach import Circle, Place, Polygon

CATEGORIES = [None, "Food > Pizza", "Food > Sushi", "food  >  pizza > Slices", "Bars | Food", "Foodstore", "Shops;Bars"]
BRANDS = [None, "Acme", "acme", "Zoë", ""]
PRICES = [None, 0.0, 5.0, 9.5, 20.0]
HOURS = [None, "Mo-Fr 09:00-18:00", "24/7", "Fr-Sa 20:00-02:00", "", "Mo off"]
MONDAY = datetime(2026, 11, 16)


def catalogue(rows: int = 300, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    columns = {"category": CATEGORIES, "brand": BRANDS, "price": PRICES, "opening_hours": HOURS}
    drawn = {name: [values[k] for k in rng.integers(0, len(values), rows)] for name, values in columns.items()}
    where = {"lat_deg": 40 + rng.normal(0, 0.05, rows), "lon_deg": -74 + rng.normal(0, 0.05, rows)}
    return pl.DataFrame({"item_id": [f"i{row}" for row in range(rows)], **where, **drawn}, strict=False)


def is_open(text: str, moment: datetime) -> bool:
    """The hours of `HOURS`, said once more."""
    day, hour = moment.weekday(), moment.hour
    late = (day in (4, 5) and hour >= 20) or (day in (5, 6) and hour < 2)
    return {"24/7": True, "Mo off": False, "Mo-Fr 09:00-18:00": day < 5 and 9 <= hour < 18}.get(text, late)


def meets(item: dict[str, Any], row: int, wanted: Wanted) -> bool:
    """One item at a time."""
    paths = [tidy(path).split(" > ") for path in (item["category"] or "").replace(";", "|").split("|")]
    asked = [tidy(name).split(" > ") for name in wanted.categories]
    price = item["price"]
    tests = [
        not asked or any(path[: len(name)] == name for path in paths for name in asked),
        not wanted.brands or tidy(item["brand"] or "") in [tidy(name) for name in wanted.brands],
        wanted.least_price is None or (price is not None and price >= wanted.least_price),
        wanted.most_price is None or (price is not None and price <= wanted.most_price),
        row not in wanted.without,
    ]
    if wanted.open_at is not None:
        hours = item["opening_hours"]
        tests.append(is_open(hours, wanted.open_at) if hours else wanted.or_unknown_hours)
    return all(tests)


prices = st.none() | st.sampled_from([0.0, 5.0, 7.0, 9.5, 30.0])


@st.composite
def wishes(draw: st.DrawFn) -> Wanted:
    least, most = draw(prices), draw(prices)
    if least is not None and most is not None:
        least, most = min(least, most), max(least, most)
    names = st.sampled_from(["food", "FOOD > pizza", "Bars", "foodstore", "nowhere", "Food > Pizza > Slices"])
    return Wanted(
        categories=tuple(draw(st.lists(names, max_size=2))),
        brands=tuple(draw(st.lists(st.sampled_from(["ACME", "zoë", "none"]), max_size=2))),
        least_price=least,
        most_price=most,
        open_at=draw(st.none() | st.integers(0, 167).map(lambda hour: MONDAY + timedelta(hours=hour, minutes=20))),
        or_unknown_hours=draw(st.booleans()),
        without=tuple(draw(st.lists(st.integers(0, 299), max_size=5))),
    )


ITEMS = catalogue()
ROWS = ITEMS.to_dicts()
WHOLE = Filters(ITEMS)
GROWN = Filters(ITEMS[:100]).plus(ITEMS[100:101]).plus(ITEMS[101:])


@settings(deadline=None, max_examples=100)
@given(wishes(), st.sampled_from([WHOLE, GROWN]))
def test_filters_are_those_of_one_item_at_a_time(wanted: Wanted, filters: Filters) -> None:
    expected = [meets(item, row, wanted) for row, item in enumerate(ROWS)]
    kept = filters.keep(wanted)
    assert kept.kept_M.tolist() == expected
    some = np.array([250, 3, 3, 101])
    assert filters.keep(wanted, some).kept_M.tolist() == [expected[row] for row in some]


@settings(deadline=None, max_examples=50)
@given(wishes())
def test_steps_count_what_each_filter_rules_out(wanted: Wanted) -> None:
    kept = WHOLE.keep(wanted)
    alone = {
        "category": Wanted(categories=wanted.categories),
        "brand": Wanted(brands=wanted.brands),
        "price": Wanted(least_price=wanted.least_price, most_price=wanted.most_price),
        "open": Wanted(open_at=wanted.open_at, or_unknown_hours=wanted.or_unknown_hours),
        "without": Wanted(without=wanted.without),
    }
    for step in kept.steps:
        assert step.removed == 300 - sum(meets(item, row, alone[step.name]) for row, item in enumerate(ROWS))
        assert 0 <= step.unknown <= step.removed
    total = int(kept.kept_M.sum())
    assert all(total + step.only <= 300 - max(0, step.removed - step.only) for step in kept.steps)
    if len(kept.steps) == 1:
        assert kept.steps[0].only == kept.steps[0].removed == 300 - total


def test_categories_are_paths_not_texts() -> None:
    filters = Filters(pl.DataFrame({"category": ["Food > Pizza", "Foodstore", "Bars | Food"]}))
    assert filters.keep(Wanted(categories=("Food",))).kept_M.tolist() == [True, False, True]
    assert filters.categories() == ["bars", "food", "food > pizza", "foodstore"]


def test_columns_without_values_cannot_be_asked_for() -> None:
    filters = Filters(pl.DataFrame({"item_id": ["a", "b"], "brand": ["x", None]}))
    assert filters.known == ("brand",)
    wishes_of = {
        "category": Wanted(categories=("Food",)),
        "price": Wanted(most_price=5),
        "opening_hours": Wanted(open_at=MONDAY),
    }
    for column, wanted in wishes_of.items():
        with pytest.raises(RequestError, match=f"no item has a value in the column {column}; known: brand"):
            filters.keep(wanted)
    assert filters.plus(catalogue(20)).known == ("category", "brand", "price", "opening_hours")


def test_wrong_wishes() -> None:
    for wrong in ({"categories": ("",)}, {"brands": (" > ",)}):
        with pytest.raises(RequestError, match="without a name"):
            Wanted(**wrong)  # type: ignore[arg-type]
    for price in (-1.0, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="expected a number of 0 or more"):
            Wanted(least_price=price)
    with pytest.raises(RequestError, match="price from 9 to 5: expected the lower one first"):
        Wanted(least_price=9, most_price=5)


def test_many_single_additions_do_not_grow_the_names() -> None:
    filters = Filters(ITEMS)
    names = len(filters._category.code_of), {name: len(codes) for name, codes in filters._category.codes.items()}
    for row in range(50):
        filters = filters.plus(ITEMS[row : row + 1])
    assert len(filters) == 350
    assert names == (
        len(filters._category.code_of),
        {name: len(codes) for name, codes in filters._category.codes.items()},
    )
    assert len(filters._hours.open_UB) == len(WHOLE._hours.open_UB)


# --- Opening hours ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "quarters"),
    [
        ("24/7", QUARTERS),
        ("off", 0),
        ("Mo-Fr 09:00-18:00; Sa 10:00-14:00", 5 * 36 + 16),
        ("Mo,We,Fr 09:00-12:00,13:00-17:30", 3 * 30),
        ("Mo-We, Su 9:00 - 10:00", 4 * 4),
        ("Sa-Mo 10:00-11:00", 3 * 4),
        ("09:00-18:00", 7 * 36),
        ("Mo-Su 08:00-20:00; Su off", 6 * 48),
        ("Mo-Su 08:00-20:00; We closed;", 6 * 48),
        ("su 22:00-02:00", 16),
        ("Mo 00:00-24:00", 96),
        ("Mo 10:00-10:00", 96),
        ("Mo 09:10-10:05", 3),  # only whole quarters
        ("Mo 20:00-02:00; Tu off", 24),  # Tuesday off does not end Monday's night
    ],
)
def test_hours_of_a_week(text: str, quarters: int) -> None:
    assert parse_hours(text).sum() == quarters


def test_hours_at_moments() -> None:
    week = parse_hours("Mo-Fr 09:00-18:00; Su 22:00-02:00")
    moments = {
        "Mo 08:59": (0, 8, 59, False), "Mo 09:00": (0, 9, 0, True), "Fr 17:59": (4, 17, 59, True),
        "Fr 18:00": (4, 18, 0, False), "Su 23:00": (6, 23, 0, True), "Mo 01:59": (0, 1, 59, True),
        "Mo 02:00": (0, 2, 0, False),
    }  # fmt: skip
    for name, (day, hour, minute, expected) in moments.items():
        moment = MONDAY + timedelta(days=day, hours=hour, minutes=minute)
        assert bool(week[quarter_of(moment)]) == expected, name


@pytest.mark.parametrize(
    "text",
    ["9-5", "Mo 25:00-26:00", "Mo 09:60-10:00", "PH off", "Mo-Fr", "Mo 09:00-", "Xx 09:00-10:00", "Mo 24:00-25:00"],
)
def test_other_texts_are_not_understood(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not understood|is no time of day|after the day's end"):
        parse_hours(text)


def test_wrong_hours_are_named_by_row() -> None:
    items = pl.DataFrame({"opening_hours": ["24/7", "by appointment", None, "Mo 09:00-99:00", "by appointment"]})
    with pytest.raises(TableError, match=r"shops\.csv: 3 of 5 rows have opening hours") as caught:
        OpeningHours.of(items, "shops.csv")
    assert caught.value.counts == {"opening hours not understood": 3}
    assert [row.row for row in caught.value.examples] == [2, 4, 5]
    assert "row 2, column 'opening_hours': 'by appointment' is not understood" in str(caught.value)


# --- Reach and filters together ---------------------------------------------------------------------------------------
CONFIG = ReachConfig(candidates=20, most_radius_km=50, tail=4)
HERE = Place(40, -74)


@settings(deadline=None, max_examples=60)
@given(wishes(), st.floats(0.1, 20), st.none() | st.integers(1, 300))
def test_answers_are_brute_force(wanted: Wanted, radius_km: float, most: int | None) -> None:
    answer = Shelf.of(ITEMS, CONFIG).search(HERE, Circle(radius_km), wanted, most)
    distance = haversine_km(HERE.lat_deg, HERE.lon_deg, ITEMS["lat_deg"], ITEMS["lon_deg"])
    inside = [row for row in np.argsort(distance, kind="stable") if distance[row] <= radius_km]
    expected = [row for row in inside if meets(ROWS[row], row, wanted)]
    assert answer.reachable == len(inside)
    assert answer.left == len(expected)
    assert answer.found.rows_M.tolist() == expected[: most or 20]


def test_empty_answers_say_why() -> None:
    items = pl.DataFrame({
        "lat_deg": [40.0, 40.001, 40.002], "lon_deg": [-74.0] * 3, "category": ["Food > Pizza", "Food", "Bars"],
        "price": [5.0, 30.0, None], "opening_hours": ["Mo 09:00-18:00", None, "24/7"],
    })  # fmt: skip
    shelf = Shelf.of(items, CONFIG)
    wanted = Wanted(categories=("Food",), most_price=10, open_at=MONDAY)
    assert reach_words(shelf.search(HERE, Circle(1), wanted)) == (
        "3 items within 1 km; category Food rules out 1; price up to 10 rules out 2 (1 of them unknown); "
        "open on Mo at 00:00 rules out 2 (1 of them unknown); 0 items left; "
        "without 'open on Mo at 00:00' there would be 1."
    )
    assert reach_words(shelf.search(HERE, Circle(1), wanted), "zh") == (
        "1公里内有3个商品；“类别Food”排除1个；“价格不超过10”排除2个（其中1个未知）；"
        "“周一00:00营业”排除2个（其中1个未知）；剩0个；去掉“周一00:00营业”会有1个。"
    )
    blameless = Wanted(categories=("nowhere",), most_price=1)
    nothing = shelf.search(HERE, Circle(1), blameless)
    assert reach_words(nothing).endswith("no single filter is to blame.")
    assert reach_words(nothing, "zh").endswith("去掉任何单个条件都没有结果。")
    far = shelf.search(Place(40.1, -74), Circle(1))
    assert reach_words(far) == "No item lies within 1 km; the nearest one is 10.9 km away."
    assert reach_words(far, "zh") == "1公里内没有商品；最近的在10.9公里外。"
    assert reach_words(shelf.search(Place(0, 0), Circle(1))) == "No item lies within 1 km."
    area = shelf.search(HERE, Polygon([(39, -75), (39, -73), (41, -74)]))
    assert [reach_words(area), reach_words(area, "zh")] == ["3 items in the area.", "区域内有3个商品。"]


@pytest.mark.parametrize(
    ("wanted", "name", "words"),
    [
        (Wanted(brands=("A", "B")), "brand", ("brand A or B", "品牌A或B")),
        (Wanted(least_price=5), "price", ("price from 5", "价格不低于5")),
        (Wanted(least_price=5, most_price=9.5), "price", ("price from 5 to 9.5", "价格5至9.5")),
        (Wanted(without=(1, 2)), "without", ("new places only (2 visited)", "没去过的（去过2个）")),
    ],
)
def test_filters_in_words(wanted: Wanted, name: str, words: tuple[str, str]) -> None:
    assert (filter_words(name, wanted), filter_words(name, wanted, "zh")) == words


def test_moments_are_read_in_the_items_time_zone() -> None:
    items = pl.DataFrame({"lat_deg": [40.0], "lon_deg": [-74.0], "opening_hours": ["Mo 09:00-18:00"]})
    shelf = Shelf.of(items, ReachConfig(time_zone="America/New_York"))

    def left(moment: datetime) -> int:
        return shelf.search(HERE, Circle(1), Wanted(open_at=moment)).left

    assert left(MONDAY.replace(hour=9)) == 1  # without an offset: as the clock on the wall says
    assert left(MONDAY.replace(hour=9, tzinfo=UTC)) == 0
    assert left(MONDAY.replace(hour=14, tzinfo=UTC)) == 1
    assert left(MONDAY.replace(hour=22, tzinfo=timezone(timedelta(hours=8)))) == 1


def test_limits_of_areas() -> None:
    shelf = Shelf.of(ITEMS, CONFIG.model_copy(update={"most_vertices": 3}))
    with pytest.raises(RequestError, match="radius of 51 km: at most 50 km"):
        shelf.search(HERE, Circle(51))
    with pytest.raises(RequestError, match="polygon of 4 corners: at most 3"):
        shelf.search(HERE, Polygon([(0, 0), (0, 1), (1, 1), (1, 0)]))


def test_a_shelf_grows_whole_or_not_at_all() -> None:
    shelf = Shelf.of(ITEMS, CONFIG)
    with pytest.raises(TableError):
        shelf.plus(ITEMS[:2].with_columns(opening_hours=pl.lit("whenever")))
    with pytest.raises(RequestError):
        shelf.plus(ITEMS[:2].with_columns(lat_deg=pl.lit(99.0)))
    grown = shelf.plus(ITEMS[:3])
    assert (len(shelf.reach), len(shelf.filters)) == (300, 300)
    assert (len(grown.reach), len(grown.filters)) == (303, 303)
