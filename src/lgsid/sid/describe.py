"""Making meanings: what the items of a token have in common, counted for all tokens of a level at once.

A token is described by its place (regions with the share of its items that lie there, centre, radius), by the
categories, brands and words of titles that set it apart from a background, and by examples. The share behind every
name says how sure it is.

Axes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, IntArray
from lgsid.data.labels import REGIONS, SEPARATORS, region_path
from lgsid.geo import centre_deg, haversine_km

SHOWN = 5
"""How many regions, categories, brands, words and examples are kept per token."""
FACTS = ("categories", "brands", "words")
"""What is counted besides places."""
COMMON_WORD = 5
"""Title words in fewer items than this say nothing about a token of the whole catalogue."""
WHOLE_SHARE = 0.9
"""A place that holds at least this share of a token's items is named alone; otherwise with its share, and others."""
NAMED_SHARE, MOST_NAMED = 0.1, 3
"""A further place is named when it holds at least this share, and no more than so many are."""
LEADING_DISTRICT = 0.3
"""A district is part of a label when it holds at least this share of the token's items."""
CLEAR_SHARE = 0.3
"""A kind of item names a token outright when at least this share of its items are of it; else the token is mixed."""
LEAST_LIFT = 1.25
"""A value sets a token apart when it is so many times as common in it as in the background."""
Shares: TypeAlias = Sequence[tuple[str, float]]


@dataclass(frozen=True)
class TokenMeaning:
    """What one token, or the first tokens of a SID together, stand for.

    Attributes:
        label: short name ("Phoenix, AZ · 85004", "Phoenix 61 %, Tempe 30 %, AZ" or "Mexican, Restaurants").
        items: number of items with this token.
        centre: latitude and longitude in degrees of the centre of its items.
        radius_km: root-mean-square distance of its items to the centre.
        place: whether the token stands for a place rather than for a kind of item.
        regions: by region level the commonest regions, as paths ("AZ > Phoenix"), with the share of all its items that
            lie there; the first one is the region that the token is named by.
        region_share: by region level, the share of the commonest: how sure the place is.
        categories, brands, words: the most characteristic ones with the share of items that have them.
        examples: titles of some items.
    """

    label: str
    items: int
    centre: tuple[float, float]
    radius_km: float
    place: bool = False
    regions: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    region_share: dict[str, float] = field(default_factory=dict)
    categories: list[tuple[str, float]] = field(default_factory=list)
    brands: list[tuple[str, float]] = field(default_factory=list)
    words: list[tuple[str, float]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def named(self, level: str) -> str | None:
        """The region that the token is named by, as a path; None where no item's region is known.

        Args:
            level: "province", "city" or "district".
        """
        return self.regions[level][0][0] if self.regions.get(level) else None


Meanings: TypeAlias = dict[int, TokenMeaning]
"""Meanings by code."""
Ranking: TypeAlias = Literal["apart", "common"]
"""Rank the values of a code by what sets it apart from the background, or by how common they are in it."""


def describe_level(
    items: pl.DataFrame, codes_N: CodeArray, place: bool, least_word: int = COMMON_WORD, ranking: Ranking = "apart"
) -> Meanings:
    """Meaning of every code of one level.

    Args:
        items: the catalogue, or a part of it; it is also the background that a code is set apart from.
        codes_N: the code of each item.
        place: whether the codes are named by their place.
        least_word: title words in fewer items are left out.
        ranking: see `Ranking`.
    """
    return describe_with(items, codes_N, fact_tables(items, least_word), place, ranking)


def fact_tables(items: pl.DataFrame, least_word: int = COMMON_WORD) -> dict[str, pl.DataFrame]:
    """(row, value) of the categories, brands and words of the items; the same for all levels of a catalogue."""
    return {"categories": categories(items), "brands": _single(items, "brand"), "words": _words(items, least_word)}


def describe_with(
    items: pl.DataFrame, codes_N: CodeArray, facts: Mapping[str, pl.DataFrame], place: bool, ranking: Ranking = "apart"
) -> Meanings:
    """`describe_level` with fact tables at hand."""
    found = {name: _characteristic(table, codes_N, ranking) for name, table in facts.items()}
    regions = {level: _regions(items, codes_N, depth + 1) for depth, level in enumerate(REGIONS)}
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    meanings = {}
    for rows in groups(codes_N):
        code = int(codes_N[rows[0]])
        own = {name: table.get(code, []) for name, table in found.items()}
        here = {level: table[code] for level, table in regions.items() if code in table}
        centre = centre_deg(lat[rows], lon[rows])
        meanings[code] = TokenMeaning(
            label=(place and place_label(here)) or _content_label(own),
            items=len(rows),
            centre=(round(centre[0], 5), round(centre[1], 5)),
            radius_km=round(float(np.sqrt((haversine_km(lat[rows], lon[rows], *centre) ** 2).mean())), 3),
            place=place,
            regions=here,
            region_share={level: leading[0][1] for level, leading in here.items()},
            examples=_examples(items, rows),
            **own,
        )
    return meanings


def groups(codes_N: CodeArray) -> list[IntArray]:
    """Rows of each code in use, codes ascending."""
    order = np.argsort(codes_N, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes_N[order])) + 1) if len(order) else []


def name_of(path: str, depth: int) -> str:
    """The last name of a region path: "Phoenix" of "AZ > Phoenix"."""
    return path.split(" > ", depth - 1)[-1]


def place_label(regions: Mapping[str, Shares]) -> str:
    """Cities, province and leading districts in a few words; how much each holds, where it does not hold nearly all.

    Empty where no region is known.
    """
    provinces, cities = regions.get("province", ()), regions.get("city", ())
    home = provinces[0][0] if provinces else None
    named = [_named([(city_name(path, home), share) for path, share in cities]), _named(provinces)]
    where = ", ".join(dict.fromkeys(part for part in named if part))  # a city that is its own province is named once
    districts = [name_of(path, 3) for path, share in regions.get("district", ()) if share >= LEADING_DISTRICT][:2]
    return " · ".join(part for part in (where, " / ".join(districts)) if part)


def city_name(path: str, home: str | None) -> str:
    """A city's name, with its province where that is not the token's own."""
    name, province = name_of(path, 2), path.split(" > ", 1)[0]
    return name if province in ("", home) else f"{name} ({province})"


def _named(shares: Shares) -> str:
    if not shares:
        return ""
    if shares[0][1] >= WHOLE_SHARE:
        return shares[0][0]
    kept = [shares[0], *(pair for pair in shares[1:] if pair[1] >= NAMED_SHARE)][:MOST_NAMED]
    return ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in kept)


def _content_label(own: Mapping[str, Shares]) -> str:
    for name in FACTS:
        if own[name]:
            values = ", ".join(value for value, _ in own[name][:3])
            return values if own[name][0][1] >= CLEAR_SHARE else f"mixed: {values}"
    return "mixed"


def _regions(items: pl.DataFrame, codes_N: CodeArray, depth: int) -> dict[int, list[tuple[str, float]]]:
    """By code the commonest regions with the share of all its items, the unknown ones included in the whole."""
    table = pl.DataFrame({"code": codes_N, "value": region_path(items, depth)})
    sizes = table.group_by("code").agg(pl.len().alias("size"))
    ranked = (
        table.drop_nulls("value")
        .group_by("code", "value").agg(pl.len().alias("count"))
        .join(sizes, on="code")
        .with_columns((pl.col("count") / pl.col("size")).alias("share"))
        .sort(["code", "count", "value"], descending=[False, True, False])
    )  # fmt: skip
    return _first_of_each(ranked)


def _first_of_each(ranked: pl.DataFrame) -> dict[int, list[tuple[str, float]]]:
    """The first `SHOWN` (value, share) of each code of a sorted table."""
    head = ranked.group_by("code", maintain_order=True).head(SHOWN)
    found: dict[int, list[tuple[str, float]]] = {}
    for code, value, share in head.select("code", "value", "share").iter_rows():
        found.setdefault(int(code), []).append((value, round(share, 4)))
    return found


def _examples(items: pl.DataFrame, rows: np.ndarray[Any, Any]) -> list[str]:
    """Distinct titles, spread evenly over the token's items."""
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), 4 * SHOWN)).astype(int)]
    return list(dict.fromkeys(items["title"].gather(picked).drop_nulls().to_list()))[:SHOWN]


def _single(items: pl.DataFrame, column: str) -> pl.DataFrame:
    """(row, value) of a column; no rows where it is absent."""
    if column not in items.columns:
        return pl.DataFrame(schema={"row": pl.UInt32, "value": pl.String})
    return items.select(pl.col(column).alias("value")).with_row_index("row").drop_nulls("value")


def categories(items: pl.DataFrame) -> pl.DataFrame:
    """(row, value) for the leaf of every category of every item."""
    listed = _single(items, "category").with_columns(pl.col("value").str.replace_all(SEPARATORS, "|").str.split("|"))
    leaf = pl.col("value").str.split(">").list.last().str.strip_chars()
    return (
        listed.explode("value", empty_as_null=True).with_columns(leaf).drop_nulls("value").unique(maintain_order=True)
    )


def _words(items: pl.DataFrame, least: int) -> pl.DataFrame:
    """(row, value) for the words of the titles that occur in several items; Chinese, which has no spaces, by pairs."""
    title = pl.col("value").str.to_lowercase()
    pairs = r"\p{Han}{2}"
    words = pl.concat_list(
        title.str.extract_all(r"[\p{L}--\p{Han}][\p{L}'’--\p{Han}]{2,}"),
        title.str.extract_all(pairs),
        title.str.replace_all(r"\p{Han}(\p{Han}+)", "$1").str.extract_all(pairs),  # the pairs that start one later
    )
    table = _single(items, "title").with_columns(words).explode("value", empty_as_null=True).drop_nulls("value")
    return table.unique(maintain_order=True).filter(pl.len().over("value") >= least)


def _characteristic(table: pl.DataFrame, codes_N: CodeArray, ranking: Ranking) -> dict[int, list[tuple[str, float]]]:
    """The values of each code, best first: by share · log(share in the code / share overall), or by share alone."""
    if len(table) == 0:
        return {}
    sizes = pl.DataFrame({"code": codes_N}).group_by("code").agg(pl.len().alias("size"))
    overall = table.group_by("value").agg((pl.len() / len(codes_N)).alias("overall"))
    lift = pl.col("share") / pl.col("overall")
    apart = ranking == "apart"
    ranked = (
        table.with_columns(pl.Series("code", codes_N).gather(table["row"]))
        .group_by("code", "value").agg(pl.len().alias("count"))
        .join(sizes, on="code").join(overall, on="value")
        .with_columns((pl.col("count") / pl.col("size")).alias("share"))
        .with_columns((pl.col("share") * (lift.log() if apart else 1.0)).alias("score"))
        .filter((lift >= LEAST_LIFT) if apart else pl.lit(True))
        .filter((pl.col("count") > 1) | (pl.col("size") == 1))
        .sort(["code", "score", "value"], descending=[False, True, False])
    )  # fmt: skip
    return _first_of_each(ranked)
