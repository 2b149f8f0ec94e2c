"""The semantic IDs: how well the codes are used, what they lose, what they mean, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from lgsid.data.labels import REGIONS
from lgsid.evaluate.charts import coverage_chart, radius_chart, reconstruction_chart, usage_chart
from lgsid.evaluate.document import (
    Block,
    Code,
    Details,
    Figure,
    Section,
    Table,
    kilometres,
    number,
    percent,
    table,
    text,
)
from lgsid.evaluate.plots import drawable
from lgsid.evaluate.results import Results, Token
from lgsid.evaluate.usage import code_counts, coverage
from lgsid.geo import centre_deg, haversine_km

_LISTED_TOKENS = 60
_EXAMPLE_GROUPS, _ITEMS_PER_GROUP, _LEAST_GROUP = 6, 4, 3


def sid_section(results: Results) -> Section:
    """Figures by level, collisions, reconstruction, and what the first tokens keep together."""
    metrics = results.sid_metrics
    counts = code_counts(results.codes, [level["codes"] for level in metrics["levels"]])
    codebook = max(level["codes"] for level in metrics["levels"])
    covered = coverage(counts)
    half = ", ".join(f"{codes} on level {level + 1}" for level, codes in enumerate(covered[0.5]))
    blocks: list[Block] = [
        text(
            "A level is healthy when its codes are in use (utilisation) and share the items evenly: entropy in bits, "
            "perplexity (2 to the entropy: as if so many codes were used equally) and Gini (0: all equal, 1: one code "
            "has all)."
        ),
        _level_table(metrics["levels"]),
        Figure("token_usage", usage_chart(counts),
               "Items per code on every level of the final SIDs, codes sorted by use; the dashed line is equal use. "
               "A line that falls steeply belongs to a level with few large codes.",
               "Line chart of items per code, sorted, for every level, on a logarithmic axis."),
        Figure("coverage", coverage_chart(covered, codebook),
               "Codes needed to cover a share of the items, most used codes first; the closer to equal use (grey), "
               "the better the level spreads the catalogue.",
               f"Bar chart of codes needed per covered share and level. Half of the items need {half}."),
        *_collision_blocks(metrics),
        *_reconstruction_blocks(metrics),
    ]  # fmt: skip
    return Section("sids", "Semantic IDs: the codes", tuple(blocks))


def _level_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["level", "codes", "utilisation", "dead codes", "entropy", "perplexity", "Gini", "largest code"]
    rows = [
        [
            str(level["level"]),
            number(level["codes"]),
            percent(level["utilisation"]),
            number(round(level["codes"] * (1 - level["utilisation"]))),
            f"{level['entropy_bits']:.2f} bits",
            number(float(level["perplexity"])),
            f"{level['gini']:.2f}",
            percent(level["largest_share"]),
        ]
        for level in levels
    ]
    return table("Use of the codes by level, before SIDs were made unique", columns, rows, columns)


def _collision_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    if metrics.get("collision_share") is None:
        return []
    how = "one more token" if metrics.get("extra_token") else "free codes of the last level, at the least cost"
    rows = [
        ["items that share their code with another item", percent(metrics["collision_share"]),
         percent(metrics.get("collision_share_final"))],
        ["1 - different codes / items", percent(metrics.get("collision_unique")), "–"],
    ]  # fmt: skip
    if metrics.get("collision_share_final") == 0:
        rows[1][2] = percent(0.0)
    moved = metrics.get("moved_share")
    moved_words = "" if moved is None else f" {percent(moved)} of the items were moved."
    return [
        table("Collisions, before and after SIDs were made unique", ["counted as", "before", "after"], rows,
              ["before", "after"]),
        text(f"Items whose code collided were given {how}.{moved_words}"),
    ]  # fmt: skip


def _reconstruction_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    rebuilt = metrics.get("reconstruction", {})
    by_level = rebuilt.get("relative_by_level")
    if not by_level:
        return []
    after = rebuilt.get("relative_after_unique")
    words = f"Share of the embeddings' energy that is still missing after each level{_mse(rebuilt)}."
    shown = ", ".join(f"{percent(error)} after level {level + 1}" for level, error in enumerate(by_level))
    return [Figure("reconstruction", reconstruction_chart(by_level, after), words, f"Bar chart: {shown}.")]


def _mse(rebuilt: Mapping[str, Any]) -> str:
    return f"; mean squared error {rebuilt['mse']:.3g} per dimension" if rebuilt.get("mse") is not None else ""


def meaning_section(results: Results, maps: Sequence[Figure]) -> Section:
    """Where the first tokens lie, what they keep together, and what SIDs say, with examples."""
    first = results.tokens.get(1, {})
    blocks: list[Block] = [
        text(
            "The first token is geography: a cluster of places. Neighbouring tokens have different colours; far apart, "
            "colours repeat. Shaded areas hold nine in ten of a token's items, numbers are tokens."
        ),
        *maps,
        *_font_blocks(first),
        *_purity_blocks(results.sid_metrics),
        *_radius_blocks(first),
        *_example_blocks(results),
        *_token_lists(results),
    ]
    return Section("meaning", "Semantic IDs: what they mean", tuple(blocks))


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
