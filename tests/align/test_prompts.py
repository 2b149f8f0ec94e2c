"""Prompts: known answers in both languages, no debris whatever is missing, location always last and whole."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.align.prompts import content_text, join, location_text, prompts
from lgsid.config import PromptConfig

EN, ZH = PromptConfig(), PromptConfig(language="zh")
FIELDS = ("title", "category", "brand", "description", "street", "district", "city", "province")


def table(**columns: object) -> pl.DataFrame:
    """One row; columns that are not named do not exist."""
    named = {"item_id": "1", **columns}
    return pl.DataFrame({name: [value] for name, value in named.items()}, schema=dict.fromkeys(named, pl.String))


def one(config: PromptConfig = EN, **columns: object) -> str:
    """The prompt of one item."""
    return str(prompts(table(**columns), config)[0])


def test_english_prompt_with_every_field() -> None:
    assert one(
        title="Pine Cone", category="Food > Diner", brand="Conifer", description="Pies all day.",
        street="6162 US Highway 51", city="De Forest", province="WI", district="53532",
    ) == (
        "Shop: Pine Cone. Brand: Conifer. Food > Diner. Pies all day. "
        "Location: 6162 US Highway 51, De Forest, WI 53532"
    )  # fmt: skip


def test_english_prompt_is_the_measured_one() -> None:
    assert one(
        title="Eric Goldberg, MD", category="Doctors | Health & Medical", street="4840 E Indian School Rd, Ste 101",
        city="Phoenix", province="AZ", district="85018",
    ) == (
        "Shop: Eric Goldberg, MD. Doctors | Health & Medical "
        "Location: 4840 E Indian School Rd, Ste 101, Phoenix, AZ 85018"
    )  # fmt: skip


def test_a_district_with_a_name_stands_before_its_city() -> None:
    where = table(street="5 Main St", district="Harlem", city="New York", province="NY")
    assert location_text(where, EN)[0] == "Location: 5 Main St, Harlem, New York, NY"


def test_chinese_prompt_with_every_field() -> None:
    assert one(
        ZH, title="川味小馆", category="美食 > 川菜", brand="川味", description="麻辣鲜香。", street="人民路1号",
        district="武侯区", city="成都市", province="四川省",
    ) == "店铺：川味小馆，类目：美食 > 川菜。麻辣鲜香。位置：四川省成都市武侯区人民路1号"  # fmt: skip


@pytest.mark.parametrize("city", ["上海市", "市辖区", None, ""])
def test_a_chinese_municipality_is_named_once(city: str | None) -> None:
    where = table(province="上海市", city=city, district="黄浦区", street="南京东路1号")
    assert location_text(where, ZH)[0] == "位置：上海市黄浦区南京东路1号"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"title": "Bar"}, "Shop: Bar."),
        ({"title": "Bar", "city": "Reno"}, "Shop: Bar. Location: Reno"),
        ({"city": "Reno"}, "Location: Reno"),
        ({"title": "Bar", "district": "85018"}, "Shop: Bar. Location: 85018"),
        ({"title": "Bar", "category": None, "description": "Loud"}, "Shop: Bar. Loud."),
        ({"title": "", "category": "Food"}, "Shop: Food"),
        ({"title": "   ", "street": "\n"}, ""),
        ({}, ""),
    ],
)
def test_missing_fields_leave_nothing_behind(fields: dict[str, object], expected: str) -> None:
    assert one(**fields) == expected


def test_a_table_without_any_text_column_gives_empty_prompts() -> None:
    assert prompts(pl.DataFrame({"item_id": ["a", "b"]}), EN).to_list() == ["", ""]
    assert prompts(pl.DataFrame({"item_id": []}, schema={"item_id": pl.String}), EN).to_list() == []


def test_a_brand_or_category_that_the_title_says_is_not_repeated() -> None:
    assert one(title="Starbucks Coffee", brand="starbucks") == "Shop: Starbucks Coffee."
    assert one(title="Food > Bar", category="Food > Bar") == "Shop: Food > Bar."
    assert one(title="x > y", category="> Food | Bar | ") == "Shop: x > y. Food | Bar"
    assert one(title="a.b", brand="axb") == "Shop: a.b. Brand: axb."  # literal, not a pattern
    assert one(title="c++ [bar", brand="[") == "Shop: c++ [bar."


def test_white_space_and_full_stops_are_tidied() -> None:
    assert one(title="  Dr.\tA \n B M.D. ", description="x.  y.") == "Shop: Dr. A B M.D. x. y."


def test_descriptions_are_cut_between_words() -> None:
    short = PromptConfig(max_description_chars=11)
    assert content_text(table(title="A", description="alpha beta gamma"), short)[0] == "Shop: A. alpha beta."
    assert content_text(table(title="A", description="alpha betas gamma"), short)[0] == "Shop: A. alpha betas."
    assert content_text(table(title="A", description="abcdefghijklmnop"), short)[0] == "Shop: A. abcdefghijk."
    assert content_text(table(title="A", description="x" * 11), short)[0] == f"Shop: A. {'x' * 11}."


def test_chinese_descriptions_are_cut_between_characters() -> None:
    short = PromptConfig(language="zh", max_description_chars=6)
    assert content_text(table(title="甲", description="好 一二三四五六七八"), short)[0] == "店铺：甲。好 一二三四。"


def test_no_description_at_all_on_request() -> None:
    assert one(PromptConfig(max_description_chars=0), title="A", description="alpha") == "Shop: A."


def test_kinds_are_the_halves_of_the_full_prompt() -> None:
    items = table(title="Bar", city="Reno", province="NV")
    content, location = (prompts(items, PromptConfig(kind=kind))[0] for kind in ("content", "location"))
    assert (content, location) == ("Shop: Bar.", "Location: Reno, NV")
    assert one(title="Bar", city="Reno", province="NV") == f"{content} {location}"


def test_join_makes_mismatched_prompts() -> None:
    items = pl.DataFrame({"title": ["Bar", "Spa"], "city": ["Reno", "Ely"]})
    content, location = content_text(items, EN), location_text(items, EN)
    assert join(content, location.reverse(), EN).to_list() == ["Shop: Bar. Location: Ely", "Shop: Spa. Location: Reno"]
    assert join(content, pl.Series(["", "Location: X"]), EN).to_list() == ["Shop: Bar.", "Shop: Spa. Location: X"]


def test_other_column_types_are_written_down() -> None:
    items = pl.DataFrame({"title": ["Bar"], "district": [85018], "province": pl.Series(["AZ"], dtype=pl.Categorical)})
    assert prompts(items, EN)[0] == "Shop: Bar. Location: AZ 85018"


field = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "Café", "A > B", "A | B", "Dr. X.", "85018", "上海市", "市辖区", "O'Hare, Ltd", "a.b|c"]),
    st.text(alphabet="abc 甲,.>|;\n", max_size=12),
)


@settings(deadline=None, max_examples=60)
@given(rows=st.lists(st.tuples(*[field] * len(FIELDS)), min_size=1, max_size=5), language=st.sampled_from(["en", "zh"]))
def test_nothing_missing_shows(rows: list[tuple[str | None, ...]], language: str) -> None:
    """Whatever is missing: no "None", no gap at an end, one space at most, one line; and rows do not see each other."""
    config = PromptConfig.model_validate({"language": language, "max_description_chars": 8})
    items = pl.DataFrame(rows, schema=dict.fromkeys(FIELDS, pl.String), orient="row")
    texts = prompts(items, config).to_list()
    for text, row in zip(texts, rows, strict=True):
        assert "None" not in text
        assert "null" not in text
        assert text == text.strip()
        assert "\n" not in text
        assert "  " not in text
        if not any(mark in (value or "") for value in row for mark in ",.，。;|>"):
            assert not any(debris in text for debris in (", ,", ",,", "..", "，，", "。。", ": ,", "：，", "：。"))
        assert text == prompts(pl.DataFrame([row], schema=items.schema, orient="row"), config)[0]


@pytest.mark.parametrize("dataset", ["yelp_3states", "fsq_nyc", "gowalla_nyc"])
def test_real_catalogues(real_data: Path, dataset: str) -> None:
    items = pl.read_parquet(real_data / dataset / "items.parquet")
    texts, places = prompts(items, EN), location_text(items, EN)
    assert texts.str.ends_with(places).all()
    debris = r"None|null\b|, ,|,,|\.\.|  "
    own = items.select(pl.any_horizontal(pl.col(pl.String).str.contains(debris).fill_null(False)))
    assert own.to_series().mean() < 0.01
    assert not (texts.str.contains(debris) & ~own.to_series()).any()
    assert (texts.str.len_chars() > 10).mean() > 0.999
