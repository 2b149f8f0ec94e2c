"""What the semantic IDs mean: where first tokens lie, what they keep together, a case study, examples, the codebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lgsid.data.labels import REGIONS
from lgsid.evaluate.case_chart import case_chart, spoken
from lgsid.evaluate.case_study import MOST_REFITTED, CaseStudy, leading
from lgsid.evaluate.charts import radius_chart
from lgsid.evaluate.document import (
    Block,
    Code,
    Details,
    Figure,
    Link,
    Section,
    Table,
    kilometres,
    number,
    percent,
    table,
    text,
)
from lgsid.evaluate.hierarchy import OPENED_BEHIND, hierarchy_chart, regions_of
from lgsid.evaluate.plots import drawable
from lgsid.evaluate.results import Results, Token
from lgsid.geo import centre_deg, haversine_km

CODEBOOK = "codebook.html"
"""The page of all tokens, beside the report."""
_LISTED_TOKENS, _CASE_TOKENS = 60, 5
_EXAMPLE_GROUPS, _ITEMS_PER_GROUP, _LEAST_GROUP = 6, 4, 3


def meaning_section(results: Results, maps: Sequence[Figure], case: CaseStudy | None) -> Section:
    """Where the first tokens lie, what they keep together, a case study, and what SIDs say, with examples."""
    first = results.tokens.get(1, {})
    blocks: list[Block] = [
        *_introduction(results),
        *maps,
        *_font_blocks(first),
        *_purity_blocks(results.sid_metrics),
        *_radius_blocks(first),
        _hierarchy(results),
        *([] if case is None else _case_blocks(results, case)),
        *_example_blocks(results),
        *_token_lists(results),
    ]
    return Section("meaning", "Semantic IDs: what they mean", tuple(blocks))


def _introduction(results: Results) -> list[Block]:
    tokens = sum(len(level) for level in results.tokens.values())
    geography = (
        "The first token is geography: a cluster of places. "
        if any(token.place for token in results.tokens.get(1, {}).values())
        else "The first token of this tokeniser is no place, so its items may lie anywhere. "
    )
    return [
        text(f"Every one of the {tokens:,} tokens in words, with examples, to browse and to search: ",
             Link("the codebook", CODEBOOK), "."),
        text(f"{geography}On the maps neighbouring tokens have different colours; far apart, colours repeat. Shaded "
             "areas hold nine in ten of a token's items, numbers are tokens."),
    ]  # fmt: skip


def _hierarchy(results: Results) -> Figure:
    regions = regions_of(results.items, results.codes[:, 0])
    largest = "; ".join(f"{region.name} {region.items:,} items in {len(region.tokens)} tokens" for region in regions)
    return Figure(
        "hierarchy", hierarchy_chart(results),
        "Left, to scale: cities, and all first tokens by the city that most of their items lie in. Right: the largest "
        f"first token of each large city, opened. Of its second tokens the {OPENED_BEHIND} largest are shown, with "
        "their number of items; small ones are drawn a little larger than they are, to be readable. Behind them "
        "their third tokens, the largest one named (+: items in the others).",
        f"Icicle chart of the tokens. {largest}.",
    )  # fmt: skip


def _case_blocks(results: Results, case: CaseStudy) -> list[Block]:
    where = case.city or "the whole catalogue"
    compared = "" if case.before is None else (
        " Before alignment: the same tokeniser fitted on the embeddings of the unaligned encoder; its tokens have "
        "other numbers."
    )  # fmt: skip
    blocks: list[Block] = [
        Figure(
            "case_study", case_chart(case),
            f"How the {case.items:,} items of {where} in the category {case.category} spread over the tokens: share "
            f"of them by token, the commonest first; marks are the same for all {case.city_items:,} items of {where}. "
            "Tokens that are places spread a category like the city itself; tokens that are content gather it in few "
            f"codes.{compared}",
            f"Bar charts for {case.category} in {where}. {_case_words(case)}.",
        ),
        _case_table(results, case),
    ]  # fmt: skip
    if case.left_out:
        blocks.insert(1, text(
            f"With {MOST_REFITTED:,} items or more the tokeniser is not fitted a second time, so the picture shows the "
            "aligned codes alone."
        ))  # fmt: skip
    return blocks


def _case_words(case: CaseStudy) -> str:
    after = spoken(case.spreads)
    return after if case.before is None else f"Before alignment: {spoken(case.before)}. After: {after}"


def _case_table(results: Results, case: CaseStudy) -> Table:
    rows = [
        [str(spread.level), str(code), _label(results, spread.level, code), number(items),
         percent(items / case.items), percent(share)]
        for spread in case.spreads
        for code, items, share in leading(spread, _CASE_TOKENS)
    ]  # fmt: skip
    columns = ["level", "token", "stands for", "items", "of the category", "of the city"]
    caption = f"The commonest tokens of {case.category} in {case.city or 'the whole catalogue'}"
    return table(caption, columns, rows, [column for column in columns if column != "stands for"])


def _label(results: Results, level: int, code: int) -> str:
    token = results.tokens.get(level, {}).get(code)
    return token.label if token else "–"


def _font_blocks(first: Mapping[int, Token]) -> list[Block]:
    if all(drawable(token.label) for token in first.values()):
        return []
    return [text("This machine has no font with all characters of these names: the maps show numbers in their place. "
                 "A font such as ", Code("fonts-noto-cjk"), " (Debian's package) brings the names.")]  # fmt: skip


def _purity_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    first = metrics.get("first_token", {})
    rows = [
        [level, percent(first.get(f"{level}_purity"))] for level in REGIONS if first.get(f"{level}_purity") is not None
    ]
    if not rows:
        return []
    caption = "Items that lie in the main region of their first token"
    return [table(caption, ["region", "share of the items"], rows, ["share of the items"])]


def _radius_blocks(first: Mapping[int, Token]) -> list[Block]:
    tokens = [token for token in first.values() if token.radius_km is not None and token.items]
    if not tokens:
        return []
    radius_km = np.array([token.radius_km for token in tokens], dtype=np.float64)
    widest = tokens[int(np.argmax(radius_km))]
    words = f"median {kilometres(float(np.median(radius_km)))}, widest {kilometres(widest.radius_km)}"
    caption = (
        f"Radius of the {len(tokens):,} first tokens (how far their items lie from their centre, root mean square): "
        f"{words} (token {widest.code}, {widest.label}, {widest.items:,} items)."
    )
    return [Figure("radius", radius_chart(radius_km), caption, f"Histogram of the radius of first tokens: {words}.")]


def _example_blocks(results: Results) -> list[Block]:
    rows = [row for prefix, members in _example_groups(results) for row in _example_rows(results, prefix, members)]
    if not rows:
        return []
    return [
        text("Items that share their first two tokens lie in one area and are of a kind. The largest such groups:"),
        table("Items that share their first two tokens",
              ["SID", "title", "category", "place", "from the first token's centre"], rows,
              ["from the first token's centre"], ["SID"]),
    ]  # fmt: skip


def _example_groups(results: Results) -> list[tuple[tuple[int, int], list[int]]]:
    """Two-token prefixes with several items, the largest first, no token shown twice."""
    groups = (
        results.sids.with_row_index("row")
        .group_by("token_1", "token_2", maintain_order=True)
        .agg(pl.col("row"))
        .with_columns(size=pl.col("row").list.len())
        .filter(pl.col("size") >= _LEAST_GROUP)
        .sort("size", "token_1", "token_2", descending=[True, False, False])
    )
    shown: list[tuple[tuple[int, int], list[int]]] = []
    for first, second, rows, _ in groups.iter_rows():
        if all(first != a and second != b for (a, b), _ in shown):
            shown.append(((first, second), rows))
        if len(shown) == _EXAMPLE_GROUPS:
            break
    return shown


def _example_rows(results: Results, prefix: tuple[int, int], members: Sequence[int]) -> list[list[str]]:
    token = results.tokens.get(1, {}).get(prefix[0])
    items = results.items[list(members[:_ITEMS_PER_GROUP])]
    if token is not None and token.centre_deg is not None:
        centre = token.centre_deg
    else:
        same = results.items.filter(results.sids["token_1"] == prefix[0])
        centre = centre_deg(same["lat_deg"], same["lon_deg"])
    away_km = haversine_km(*centre, items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy())
    sids = results.sids["sid"][list(members[:_ITEMS_PER_GROUP])]
    return [
        [sid, item["title"] or "–", item["category"] or "–", place_of(item), kilometres(float(km))]
        for sid, item, km in zip(sids, items.iter_rows(named=True), away_km, strict=True)
    ]


def place_of(item: Mapping[str, Any]) -> str:
    """The known regions of an item, fine to coarse."""
    return ", ".join(item[level] for level in reversed(REGIONS) if item[level]) or "–"


def _token_lists(results: Results) -> list[Block]:
    blocks: list[Block] = []
    for level, name in ((1, "first tokens: places"), (2, "second tokens: content")):
        tokens = sorted(results.tokens.get(level, {}).values(), key=lambda token: (-token.items, token.code))
        listed = [token for token in tokens if token.items][:_LISTED_TOKENS]
        if listed:
            summary = f"The {len(listed)} largest of {len(tokens):,} {name}"
            blocks.append(Details(summary, (_token_table(f"Tokens of level {level}", listed, places=level == 1),)))
    return blocks


def _token_table(caption: str, tokens: Sequence[Token], places: bool) -> Table:
    cells = {
        "token": [str(token.code) for token in tokens],
        "stands for": [token.label for token in tokens],
        "items": [number(token.items) for token in tokens],
        "radius": [kilometres(token.radius_km) for token in tokens] if places else [],
        "in its main city": [percent(token.region_share.get("city"), 0) for token in tokens] if places else [],
        "leading categories": [_named(token.categories) for token in tokens],
        "brands": [_named(token.brands) for token in tokens] if any(token.brands for token in tokens) else [],
        "examples": [" · ".join(token.examples[:3]) or "–" for token in tokens],
    }
    cells = {column: values for column, values in cells.items() if values}
    numeric = [column for column in ("token", "items", "radius", "in its main city") if column in cells]
    return table(caption, list(cells), list(zip(*cells.values(), strict=True)), numeric)


def _named(shares: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {percent(share, 0)}" for name, share in shares[:3]) or "–"
