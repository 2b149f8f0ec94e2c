"""Explanations name the right place and kind, say how sure that is, and speak of tokens and of prefixes."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_city

from lgsid.data.labels import region_path
from lgsid.sid.describe import describe_level, place_label
from lgsid.sid.explain import Explanation, TokenBook, Typicality, describe_tokens


def book() -> TokenBook:
    items, _ = toy_city()
    place = items["city"].replace_strict(["Alba", "Brio", "Cora", "Dune"], [0, 1, 2, 3]).to_numpy()
    kind = items["category"].replace_strict(
        ["Food > Noodles", "Food > Pizza", "Beauty > Barber", "Fitness > Gym"], [0, 1, 2, 3]
    )
    return describe_tokens(items, np.stack([place, kind.to_numpy()], axis=1).astype(np.int32))


def placed(regions: list[tuple[str | None, str | None]], titles: list[str] | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "title": titles or ["x"] * len(regions), "lat_deg": [0.0] * len(regions), "lon_deg": [0.0] * len(regions),
            "province": [province for province, _ in regions], "city": [city for _, city in regions],
        },
        schema_overrides={"province": pl.String, "city": pl.String},
    )  # fmt: skip


def one(regions: list[tuple[str | None, str | None]]) -> str:
    return describe_level(placed(regions), np.zeros(len(regions), dtype=np.int32), place=True)[0].label


def test_a_place_is_named_with_centre_radius_and_certainty() -> None:
    token = book().meanings[1][2]
    assert token.place
    assert token.label.startswith("Cora, West · Cora ")
    assert token.items == 64
    assert token.centre == (pytest.approx(40.0, abs=0.02), pytest.approx(-60.0, abs=0.1))
    assert 5 < token.radius_km < 15
    assert token.region_share["province"] == token.region_share["city"] == 1.0
    assert 0.3 < token.region_share["district"] < 0.8
    assert token.named("city") == "West > Cora"
    assert [path for path, _ in token.regions["district"]] == sorted(
        ["West > Cora > Cora east", "West > Cora > Cora west"], key=dict(token.regions["district"]).get, reverse=True
    )


def test_a_token_that_spans_cities_says_so() -> None:
    six, three, one_more = [("AZ", "Phoenix")] * 6, [("AZ", "Tempe")] * 3, [("AZ", "Mesa")]
    assert one(six + three + one_more) == "Phoenix 60 %, Tempe 30 %, Mesa 10 %, AZ"
    assert one([("AZ", "Phoenix")] * 19 + [("AZ", "Tempe")]) == "Phoenix, AZ"


def test_namesakes_are_told_apart() -> None:
    label = one([("IL", "Springfield")] * 4 + [("OH", "Springfield")] * 3 + [("OH", "Dayton")] * 3)
    # the commonest city lies in the rarer province: each is named by its own share
    assert label == "Springfield (IL) 40 %, Dayton 30 %, Springfield 30 %, OH 60 %, IL 40 %"


def test_unknown_regions_count_against_the_name() -> None:
    assert one([("AZ", "Phoenix")] * 2 + [("AZ", None)] * 2) == "Phoenix 50 %, AZ"
    assert one([(None, None)]) == "mixed"
    assert one([(None, "Phoenix")]) == "Phoenix"


def test_a_city_that_is_its_own_province_is_named_once() -> None:
    assert one([("上海市", "上海市")]) == "上海市"
    assert place_label({}) == ""


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("AB"), st.sampled_from("xyz")), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_the_named_region_is_the_commonest_of_each_token(rows: list[tuple[int, str, str]]) -> None:
    items = placed([(province, city) for _, province, city in rows])
    codes = np.array([code for code, _, _ in rows], dtype=np.int32)
    meanings = describe_level(items, codes, place=True)
    for depth, level in ((1, "province"), (2, "city")):
        path = region_path(items, depth).to_list()
        for code, meaning in meanings.items():
            counted = Counter(path[row] for row in np.flatnonzero(codes == code))
            assert counted[meaning.named(level)] == max(counted.values())
            assert meaning.region_share[level] == pytest.approx(max(counted.values()) / meaning.items, abs=1e-4)


def test_a_kind_is_named_by_what_sets_it_apart() -> None:
    token = book().meanings[2][1]
    assert not token.place
    assert token.label == "Pizza"
    assert token.categories == [("Pizza", 1.0)]
    assert token.words == [("pizza", 1.0)]  # "house" stands in every title and says nothing
    assert all("Pizza" in example for example in token.examples)


def test_a_token_without_a_clear_kind_says_that_it_is_mixed() -> None:
    items = placed([("AZ", "Phoenix")] * 20).with_columns(category=pl.Series([f"kind {row % 5}" for row in range(20)]))
    codes = np.array([0] * 10 + [1] * 10, dtype=np.int32)
    changed = items.with_columns(
        category=pl.when(pl.int_range(20) < 10).then("category").otherwise(pl.lit("other"))
    )  # token 0: five kinds of a fifth each
    label = describe_level(changed, codes, place=False)[0].label
    assert label == "mixed: kind 0, kind 1, kind 2"


def test_chinese_titles_are_read_by_pairs() -> None:
    titles = ["老王火锅", "小李火锅店", "大火锅", "书屋", "图书城", "书店"]
    items = placed([(None, None)] * 6, titles)
    words = describe_level(items, np.array([0, 0, 0, 1, 1, 1], dtype=np.int32), place=False, least_word=2)[0].words
    assert words == [("火锅", 1.0)]


def test_text_speaks_of_place_first_and_content_second() -> None:
    text = str(book().explain([2, 1, 7]))
    assert text.startswith("SID 2-1-7")
    first, rest = text.split("token 2 =")
    assert "radius" in first
    assert "city: Cora 100 %" in first
    assert "radius" not in rest
    assert "tells apart items" in rest


def test_text_tells_how_typical_an_item_is_and_what_a_prefix_means() -> None:
    plain = book().explain([2, 1])
    token = plain.tokens[1]
    assert token is not None
    typical = [Typicality(0.5, 0.4, 0.25, 3.2), Typicality(0.2, 0.3, 1.0, 777.7)]
    told = str(Explanation(plain.sid, plain.tokens, {"title": "T", "item_id": "i1"}, {"2-1": token}, typical))
    assert "= T (item i1)" in told
    assert "3.2 km from its centre; 0.50 from its centroid" in told
    assert "25 % of them lie farther" in told
    assert "777" not in told  # a kind of item has no centre to be far from
    assert "2-1 together: Pizza  (64 items, centre" in told


def test_a_share_is_never_rounded_up_to_all() -> None:
    regions = [("AZ", "Phoenix")] * 999 + [("NV", "Reno")]
    meanings = describe_level(placed(regions), np.zeros(1000, dtype=np.int32), place=True)
    assert "province: AZ 99 %, NV 0 %" in str(TokenBook({1: meanings}).explain([0]))


def test_json_round_trip() -> None:
    original = book()
    again = TokenBook.from_json(json.loads(json.dumps(original.to_json())))
    assert again.meanings == original.meanings
    json.dumps(original.explain([2, 1]).to_json())


def test_items_without_any_text_are_mixed() -> None:
    items = pl.DataFrame({"title": ["A1", "B2"], "lat_deg": [0.0, 0.0], "lon_deg": [0.0, 0.0]})
    token = describe_tokens(items, np.zeros((2, 1), dtype=np.int32)).meanings[1][0]
    assert token.label == "mixed"
    assert token.region_share == token.regions == {}
    assert token.named("city") is None
