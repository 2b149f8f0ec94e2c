"""Case study: how the items of one category in one city spread over the tokens (after the paper's Figure 12).

A first token that is geography spreads a category as it spreads the city. A content token gathers it: few codes hold
nearly all its items, where equally many random items of the city take many. An aligned run also shows the same
category under codes that the same tokeniser learned from the embeddings before alignment.

Axes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, IntArray
from lgsid.config import RunConfig
from lgsid.data.labels import region_path
from lgsid.evaluate.results import Results
from lgsid.evaluate.usage import codes_to_cover
from lgsid.sid.describe import categories, name_of

MOST_REFITTED = 10_000
"""Items up to which the tokeniser is fitted again, on the embeddings before alignment."""
BROAD_SHARE = 0.1
"""A category that more of the catalogue has than this does not say what an item is."""
COVERED = 0.9
_LEVELS, _DRAWS = 2, 50


@dataclass(frozen=True)
class Spread:
    """How a category's items in a city spread over the tokens of one level.

    Attributes:
        level: from 1.
        tokens: the tokens that they have, the commonest first.
        items: how many of them have each.
        city_share: share of all items of the city that have each.
        needed: tokens that hold nine in ten of them.
        needed_at_random: the same for equally many random items of the city, on average.
    """

    level: int
    tokens: IntArray
    items: IntArray
    city_share: np.ndarray
    needed: int
    needed_at_random: float


@dataclass(frozen=True)
class CaseStudy:
    """One category in one city.

    Attributes:
        category, city: their names; the city is None where no city is known, and the whole catalogue stands in.
        items, city_items: how many items of the city have the category, and how many there are in the city.
        spreads: by level, of the run's own codes.
        before: the same with codes learned from the embeddings before alignment; None where there are none.
        left_out: the run was aligned, but the catalogue is too large to fit the tokeniser again.
    """

    category: str
    city: str | None
    items: int
    city_items: int
    spreads: tuple[Spread, ...]
    before: tuple[Spread, ...] | None = None
    left_out: bool = False


def study_case(config: RunConfig, results: Results) -> CaseStudy | None:
    """The commonest category of the largest city, or None where no item has a category.

    A category that more than `BROAD_SHARE` of the catalogue has is passed over where there are others. The last level
    of the codes is left out: making SIDs unique changes it.
    """
    city, in_city = _largest_city(results.items)
    category, has_category = _commonest_category(results.items, in_city)
    if category is None:
        return None
    levels = min(_LEVELS, results.levels - 1)
    chosen = in_city & has_category
    case = CaseStudy(
        category, city, int(chosen.sum()), int(in_city.sum()),
        _spreads(results.codes[:, :levels], chosen, in_city, config.seed),
    )  # fmt: skip
    if results.alignment is None:
        return case
    if len(results.items) >= MOST_REFITTED:
        return replace(case, left_out=True)
    before_NL = _codes_before_alignment(config, results)[:, :levels]
    return replace(case, before=_spreads(before_NL, chosen, in_city, config.seed))


def _largest_city(items: pl.DataFrame) -> tuple[str | None, BoolArray]:
    path = region_path(items, 2)
    counts = path.drop_nulls().value_counts().sort(["count", path.name], descending=[True, False])
    if len(counts) == 0:
        return None, np.ones(len(items), dtype=np.bool_)
    largest = counts[path.name][0]
    return name_of(largest, 2), (path == largest).fill_null(False).to_numpy()


def _commonest_category(items: pl.DataFrame, in_city: BoolArray) -> tuple[str | None, BoolArray]:
    has = np.zeros(len(items), dtype=np.bool_)
    table = categories(items)
    table = table.with_columns(pl.Series("here", in_city).gather(table["row"]))
    counts = table.group_by("value").agg(pl.len().alias("all"), pl.col("here").sum())
    narrow = counts.filter(pl.col("all") <= BROAD_SHARE * len(items))
    ranked = (narrow if narrow["here"].sum() else counts).sort(["here", "value"], descending=[True, False])
    if len(ranked) == 0 or ranked["here"][0] == 0:
        return None, has
    category = ranked["value"][0]
    has[table.filter(pl.col("value") == category)["row"].to_numpy()] = True
    return category, has


def _spreads(codes_NL: IntArray, chosen: BoolArray, in_city: BoolArray, seed: int) -> tuple[Spread, ...]:
    return tuple(
        _spread(level, column, chosen, in_city, np.random.default_rng([seed, level]))
        for level, column in enumerate(codes_NL.T, start=1)
    )


def _spread(level: int, codes_N: IntArray, chosen: BoolArray, in_city: BoolArray, rng: np.random.Generator) -> Spread:
    size = int(codes_N.max()) + 1
    own_K, city_N = np.bincount(codes_N[chosen], minlength=size), codes_N[in_city]
    order = np.argsort(-own_K, kind="stable")[: int((own_K > 0).sum())]
    draws = (rng.choice(city_N, int(chosen.sum()), replace=False) for _ in range(_DRAWS))
    needed = [codes_to_cover(np.bincount(draw, minlength=size), COVERED) for draw in draws]
    return Spread(
        level=level,
        tokens=order,
        items=own_K[order],
        city_share=np.bincount(city_N, minlength=size)[order] / len(city_N),
        needed=codes_to_cover(own_K, COVERED),
        needed_at_random=float(np.mean(needed)),
    )


def _codes_before_alignment(config: RunConfig, results: Results) -> IntArray:
    """Raw codes of the same tokeniser, fitted on the unaligned embeddings of the same items."""
    from lgsid.sid.methods import make_tokenizer
    from lgsid.sid.stage import training_visits

    assert results.alignment is not None
    emb_ND = results.embeddings(results.alignment.reference_path)
    events = training_visits(results.run, config.sid)
    tokenizer = make_tokenizer(config.sid, config.seed).fit(results.items, emb_ND, events)
    return tokenizer.transform(results.items, emb_ND, events).astype(np.int64)


def leading(spread: Spread, most: int) -> Sequence[tuple[int, int, float]]:
    """The commonest tokens: (token, items of the category, share of the city's items)."""
    return [
        (int(token), int(items), float(share))
        for token, items, share in zip(spread.tokens[:most], spread.items, spread.city_share, strict=False)
    ]
