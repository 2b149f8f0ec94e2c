"""The top of the report: the figures to remember, and a verdict on each question that has a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgsid.data.labels import REGIONS
from lgsid.evaluate.alignment_verdicts import alignment_key_figure, alignment_verdicts
from lgsid.evaluate.document import (
    KeyFigure,
    KeyFigures,
    Section,
    Verdict,
    Verdicts,
    fractions,
    kilometres,
    number,
    percent,
    percents,
    text,
)
from lgsid.evaluate.generate_section import generate_verdicts
from lgsid.evaluate.rank_verdicts import rank_key_figure, rank_verdicts
from lgsid.evaluate.results import Results

LEAST_PROVINCE_PURITY = 0.99
"""A first token that spans two provinces is reachable from neither."""
LEAST_UTILISATION = 0.95
"""Share of a codebook in use, on catalogues large enough to fill it."""
ITEMS_PER_CODE = 16
"""A catalogue is asked to fill its codebooks when it has this many items per code (4,096 for 256 codes)."""
LEAST_ENTROPY_SHARE = 0.8
"""Entropy as a share of log2 K; utilisation alone misleads, since one item is enough to call a code used."""
MOST_COLLISIONS = 0.399
"""Share of items that share a code: the best published rate (LGRID, arXiv 2607.27944; it gives 0.97 for LGSID)."""
MOST_UNIQUENESS_COST = 0.1
"""Growth of the reconstruction error by making SIDs unique."""
MOST_REJECTED = 0.01
"""Share of the table's rows."""


def summary_section(
    results: Results, geography: Mapping[str, Any], alignment: Mapping[str, Any] | None = None
) -> Section:
    """What was done in plain words, the key figures, and the verdicts."""
    metrics = results.sid_metrics
    codes = sorted({level["codes"] for level in metrics["levels"]})
    regions = ", ".join(f"{count:,} {name}" for name, count in region_counts(results).items() if count)
    words = text(
        f"{len(results.items):,} items in {regions or 'unknown regions'} became semantic IDs (SIDs) of "
        f"{len(results.token_columns)} tokens, with {' or '.join(f'{c:,}' for c in codes)} codes per level. The first "
        "token says where an item is, the following ones say what it is, from coarse to fine: items that share "
        "their first tokens lie in the same area and are of a kind."
    )
    verdicts = tuple(verdicts_of(results, geography, alignment))
    figures = _key_figures(results, geography)
    if alignment is not None and (aligned := alignment_key_figure(alignment)) is not None:
        items, _, *others = figures.figures  # in place of the shares after alignment alone
        figures = KeyFigures((items, aligned, *others))
    if results.ranking is not None and (ranked := rank_key_figure(results.ranking)) is not None:
        *others, _, energy = figures.figures  # in place of the entropy, which stands among the verdicts
        figures = KeyFigures((*others, energy, ranked))
    blocks = (words, figures, Verdicts(verdicts))
    return Section("summary", "Summary", blocks)


def region_counts(results: Results) -> dict[str, int]:
    """Number of different provinces, cities and districts, each counted by its whole path."""
    names = {"province": "provinces", "city": "cities", "district": "districts"}
    found = {}
    for depth, level in enumerate(REGIONS):
        known = results.items.select(REGIONS[: depth + 1]).filter(results.items[level].is_not_null())
        found[names[level]] = known.n_unique() if len(known) else 0
    return found


def _key_figures(results: Results, geography: Mapping[str, Any]) -> KeyFigures:
    metrics = results.sid_metrics
    first, rebuilt = metrics.get("first_token", {}), metrics.get("reconstruction", {})
    k, at = next(iter(geography["at"].items()))
    same, random = (percents([figures[level] for level in REGIONS]) for figures in (at, geography["random"]))
    error = rebuilt.get("relative_after_unique", (rebuilt.get("relative_by_level") or [None])[-1])
    entropy = min(metrics["levels"], key=lambda level: level["entropy_bits"])
    return KeyFigures((
        KeyFigure(f"{len(results.items):,}", "items", f"{distinct_sids(results):,} different SIDs"),
        KeyFigure(same, f"of the {k} nearest neighbours in the same province / city / district",
                  f"random pairs {random}"),
        KeyFigure(kilometres(at["distance_km"]), f"mean distance of the {k} nearest neighbours",
                  f"random pairs {kilometres(geography['random']['distance_km'])}"),
        KeyFigure(percent(first.get("province_purity")), "items in their first token's main province",
                  f"city {percent(first.get('city_purity'))}, district {percent(first.get('district_purity'))}"),
        KeyFigure(kilometres(first.get("radius_km_median")), "radius of a first token (median over items)",
                  f"nine in ten below {kilometres(first.get('radius_km_p90'))}"),
        KeyFigure(percent(metrics.get("collision_share")), "items that shared a code before SIDs were made unique",
                  f"1 - unique codes / items: {percent(metrics.get('collision_unique'))}"),
        KeyFigure(f"{number(entropy['entropy_bits'])} bits", "lowest entropy of a level",
                  f"level {entropy['level']}, at most {number(_bits(entropy['codes']))} bits"),
        KeyFigure(percent(None if error is None else 1 - error), "of the embeddings' energy kept by the SIDs",
                  "the rest is reconstruction error"),
    ))  # fmt: skip


def _bits(codes: int) -> float:
    from math import log2

    return log2(codes)


def distinct_sids(results: Results) -> int:
    """Number of different final SIDs."""
    return results.sids.select(results.token_columns).n_unique()


def verdicts_of(
    results: Results, geography: Mapping[str, Any], alignment: Mapping[str, Any] | None = None
) -> list[Verdict]:
    """One verdict per question, the ones without the figures they need left out."""
    found = [
        _rejected(results.checks),
        _unique(results),
        _province(results.sid_metrics),
        _utilisation(results),
        _entropy(results.sid_metrics),
        _collisions(results.sid_metrics),
        _uniqueness_cost(results.sid_metrics),
        _neighbours(geography),
        *([] if alignment is None else alignment_verdicts(alignment)),
        *([] if results.ranking is None else rank_verdicts(results.ranking)),
        *([] if results.generation is None else generate_verdicts(results.generation)),
    ]
    return [verdict for verdict in found if verdict is not None]


def _judge(good: bool, question: str, answer: str, wanted: str) -> Verdict:
    return Verdict("good" if good else "look", question, answer, wanted)


def _rejected(checks: Mapping[str, Any]) -> Verdict | None:
    tables = [checks[name] for name in ("items", "events") if name in checks]
    if any("rows" not in report or "rejected" not in report for report in tables) or not tables:
        return None
    rows, bad = sum(report["rows"] for report in tables), sum(report["rejected"] for report in tables)
    share = bad / max(rows, 1)
    answer = "yes, all of them" if bad == 0 else f"{percent(1 - share)}: {bad:,} of {rows:,} rows were rejected"
    return _judge(share <= MOST_REJECTED, "Are the rows of the tables usable?", answer,
                  f"at most {percent(MOST_REJECTED, 0)} rejected; the reasons stand below")  # fmt: skip


def _unique(results: Results) -> Verdict:
    items, distinct = len(results.items), distinct_sids(results)
    answer = "yes" if distinct == items else f"no, {items - distinct:,} too few"
    return _judge(distinct == items, "Is every SID unique?", answer,
                  "all of them: two items with one SID cannot be told apart when it is generated")  # fmt: skip


def _province(metrics: Mapping[str, Any]) -> Verdict | None:
    purity = metrics.get("first_token", {}).get("province_purity")
    if purity is None:
        return None
    return _judge(purity >= LEAST_PROVINCE_PURITY, "Do first tokens stay within one province?", percent(purity),
                  f"at least {percent(LEAST_PROVINCE_PURITY, 0)} of the items in their token's main province: a token "
                  "across provinces is reachable from neither")  # fmt: skip


def _utilisation(results: Results) -> Verdict:
    lowest = min(results.sid_metrics["levels"], key=lambda level: level["utilisation"])
    answer = f"{percent(lowest['utilisation'])} on level {lowest['level']}, the lowest"
    question = "Are the codes in use?"
    if len(results.items) < ITEMS_PER_CODE * lowest["codes"]:
        return Verdict("note", question, answer, f"no threshold: fewer than {ITEMS_PER_CODE} items per code")
    return _judge(lowest["utilisation"] >= LEAST_UTILISATION, question, answer,
                  f"at least {percent(LEAST_UTILISATION, 0)} of the codebook at every level")  # fmt: skip


def _entropy(metrics: Mapping[str, Any]) -> Verdict:
    def share(level: Mapping[str, Any]) -> float:
        return float(level["entropy_bits"]) / max(_bits(level["codes"]), 1e-9)

    lowest = min(metrics["levels"], key=share)
    bits, most = lowest["entropy_bits"], _bits(lowest["codes"])
    answer = f"{number(bits)} of {number(most)} bits on level {lowest['level']}, the lowest"
    return _judge(share(lowest) >= LEAST_ENTROPY_SHARE, "Are they used evenly?", answer,
                  f"at least {percent(LEAST_ENTROPY_SHARE, 0)} of the bits: a code counts as used from its first item, "
                  "so use alone can mislead")  # fmt: skip


def _collisions(metrics: Mapping[str, Any]) -> Verdict | None:
    share = metrics.get("collision_share")
    if share is None:
        return None
    return _judge(share < MOST_COLLISIONS, "Did few items share a code before SIDs were made unique?", percent(share),
                  f"below {percent(MOST_COLLISIONS)}, the best rate published for geographic SIDs (LGRID; LGSID: 97 %)"
                  )  # fmt: skip


def _uniqueness_cost(metrics: Mapping[str, Any]) -> Verdict | None:
    rebuilt = metrics.get("reconstruction", {})
    before, after = (rebuilt.get("relative_by_level") or [None])[-1], rebuilt.get("relative_after_unique")
    if not before or after is None:
        return None
    growth = after / before - 1
    answer = f"{percent(growth)} more reconstruction error" if growth >= 5e-5 else "nothing"
    if metrics.get("moved_share") is not None:
        answer += f", {percent(metrics['moved_share'])} of the items moved"
    return _judge(growth <= MOST_UNIQUENESS_COST, "What did uniqueness cost?", answer,
                  f"at most {percent(MOST_UNIQUENESS_COST, 0)} more reconstruction error")  # fmt: skip


def _neighbours(geography: Mapping[str, Any]) -> Verdict:
    k, at = next(iter(geography["at"].items()))
    same = fractions([at[level] for level in REGIONS])
    return Verdict("note", f"Do the {k} nearest neighbours lie in the same province / city / district?", same,
                   "no threshold: it depends on the prompt; LGSID reports 0.87 / 0.73 / 0.16 before alignment and "
                   "0.99 / 0.95 / 0.56 after its strongest, on Kuaishou's data")  # fmt: skip
