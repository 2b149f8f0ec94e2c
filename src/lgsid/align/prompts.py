"""How an item is written down for a text encoder: content text C_i, location text G_i, and the prompt C_i + G_j.

The parts are kept apart because the alignment joins the content of one item with the location of another (the
*mismatched* prompts of LGSID, section "Geographic LLM alignment"); `join` is the only place where the two meet.
Everything is a Polars expression over whole columns, so a million items take seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from lgsid.config import PromptConfig

_FIELDS = ("title", "category", "brand", "description", "street", "district", "city", "province")
_CUT_WORD = r"\s+[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}]*$"
"""The last, possibly cut, word of a text; not in scripts that are written without spaces."""
_MUNICIPALITY_FILLER = ("市辖区", "县", "省直辖县级行政区划", "自治区直辖县级行政区划")
"""What Chinese administrative tables hold in the city column of places that belong to no city."""


@dataclass(frozen=True)
class Template:
    """The words of one language.

    Attributes:
        content: content text of an item; reads ``title``, ``category``, ``brand`` and ``description``.
        location: location text; reads ``street``, ``district``, ``city`` and ``province``.
        gap: what stands between content and location.
    """

    content: Callable[[], pl.Expr]
    location: Callable[[], pl.Expr]
    gap: str


def content_text(items: pl.DataFrame, config: PromptConfig) -> pl.Series:
    """Content text C_i of each item: what it is, without where it is.

    Args:
        items: table with any of ``title``, ``category``, ``brand``, ``description``; missing columns and nulls are
            left out without a trace.
        config: language, and how much of the description is kept.

    Returns:
        Strings in the order of the items; empty where an item has no content at all.
    """
    return _write(_clean(items, config), _TEMPLATES[config.language].content(), "content")


def location_text(items: pl.DataFrame, config: PromptConfig) -> pl.Series:
    """Location text G_i of each item: where it is, from its street up to its province (Chinese: downwards).

    Args:
        items: table with any of ``street``, ``district``, ``city``, ``province``; missing columns and nulls are left
            out without a trace.
        config: language.

    Returns:
        Strings in the order of the items; empty where nothing is known of the place.
    """
    return _write(_clean(items, config), _TEMPLATES[config.language].location(), "location")


def join(content: pl.Series, location: pl.Series, config: PromptConfig) -> pl.Series:
    """The prompts C_i + G_j of two aligned series; an empty half leaves no gap behind."""
    both = pl.DataFrame({"content": content, "location": location})
    halves = [_or_null(pl.col(name)) for name in both.columns]
    return _write(both, pl.concat_str(halves, separator=_TEMPLATES[config.language].gap, ignore_nulls=True), "prompt")


def prompts(items: pl.DataFrame, config: PromptConfig) -> pl.Series:
    """One prompt an item: content and location (``config.kind`` "full"), or one of them alone."""
    if config.kind == "content":
        return content_text(items, config).rename("prompt")
    if config.kind == "location":
        return location_text(items, config).rename("prompt")
    return join(content_text(items, config), location_text(items, config), config)


def _clean(items: pl.DataFrame, config: PromptConfig) -> pl.DataFrame:
    """The text columns of a template: one line each, null where there is nothing to say."""
    texts = [
        _or_null(pl.col(name).cast(pl.String).str.replace_all(r"\s+", " ").str.strip_chars())
        if name in items.columns
        else pl.lit(None, dtype=pl.String).alias(name)
        for name in _FIELDS
    ]
    title, brand, category = pl.col("title"), pl.col("brand"), pl.col("category")
    named_by_category = (title == category).fill_null(False)
    repeats_title = title.str.to_lowercase().str.contains(brand.str.to_lowercase(), literal=True).fill_null(False)
    return items.with_columns(texts).select(
        *("street", "district", "city", "province"),
        title=_or_null(title.str.strip_chars_end(" .。")),
        category=pl.when(~named_by_category).then(_or_null(category.str.strip_chars(" >|"))),
        brand=pl.when(~repeats_title).then(brand),
        description=_or_null(_shortened(pl.col("description"), config.max_description_chars)),
    )


def _shortened(text: pl.Expr, max_chars: int) -> pl.Expr:
    """At most ``max_chars`` characters, cut between words, without a full stop at the end."""
    cut = text.str.slice(0, max_chars + 1).str.replace(_CUT_WORD, "").str.slice(0, max_chars)
    return pl.when(text.str.len_chars() > max_chars).then(cut).otherwise(text).str.strip_chars_end(" .。,，;；")


def _or_null(text: pl.Expr) -> pl.Expr:
    return pl.when(text != "").then(text)


def _write(table: pl.DataFrame, text: pl.Expr, name: str) -> pl.Series:
    return table.select(text.fill_null("").alias(name)).to_series()


def _english_content() -> pl.Expr:
    title = pl.format("{}.", pl.col("title"))
    brand = pl.format("Brand: {}.", pl.col("brand"))
    description = pl.format("{}.", pl.col("description"))
    said = pl.concat_str(
        title,
        brand,
        _before(pl.col("category"), pl.col("description"), "."),
        description,
        separator=" ",
        ignore_nulls=True,
    )
    return pl.format("Shop: {}", _or_null(said))


def _english_location() -> pl.Expr:
    """``Location: STREET, CITY, STATE ZIP``; a district with a name stands before its city, as people write it."""
    district = pl.col("district")
    postcode = district.str.contains(r"\d").fill_null(False)
    named, code = pl.when(~postcode).then(district), pl.when(postcode).then(district)
    state = _or_null(pl.concat_str(pl.col("province"), code, separator=" ", ignore_nulls=True))
    parts = [pl.col("street"), named, pl.col("city"), state]
    return pl.format("Location: {}", _or_null(pl.concat_str(parts, separator=", ", ignore_nulls=True)))


def _chinese_content() -> pl.Expr:
    brand, category = pl.format("品牌：{}", pl.col("brand")), pl.format("类目：{}", pl.col("category"))
    facts = _or_null(pl.concat_str(pl.col("title"), brand, category, separator="，", ignore_nulls=True))
    said = pl.concat_str(pl.format("{}。", facts), pl.format("{}。", pl.col("description")), ignore_nulls=True)
    return pl.format("店铺：{}", _or_null(said))


def _chinese_location() -> pl.Expr:
    """``位置：PROVINCE CITY DISTRICT STREET`` without spaces; a municipality is named once."""
    city = pl.col("city")
    repeats = city.is_in(_MUNICIPALITY_FILLER) | (city == pl.col("province")).fill_null(False)
    city = pl.when(~repeats).then(city)
    parts = [pl.col("province"), city, pl.col("district"), pl.col("street")]
    return pl.format("位置：{}", _or_null(pl.concat_str(parts, ignore_nulls=True)))


def _before(text: pl.Expr, following: pl.Expr, mark: str) -> pl.Expr:
    """The text, closed by a mark where something follows it."""
    return pl.when(following.is_not_null()).then(pl.concat_str(text, pl.lit(mark))).otherwise(text)


_TEMPLATES = {
    "en": Template(_english_content, _english_location, gap=" "),
    "zh": Template(_chinese_content, _chinese_location, gap=""),
}
