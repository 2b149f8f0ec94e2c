"""How far a catalogue has drifted from the codebooks that were fitted on it, and whether a refit is due.

A frozen tokeniser codes whatever comes. This says how well: whether new items lie as near to their centroids as the
fitted ones, whether some tokens fill up, whether items come from regions that no token knows, how often a raw code is
taken already, and how many changed items keep a SID that they would not get now. Each is held against a threshold that
is stated with it; one that is passed makes a refit due.

All compares with the fitted items, for which the codebooks are made: new items of the same kind always lie somewhat
farther from their centroids (measured on three states and on New York, see docs/catalogue.md).

Axes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, DoubleArray, FloatArray, IntArray
from lgsid.data.labels import REGIONS, region_path
from lgsid.geo import SpatialIndex
from lgsid.sid.base import Tokenizer
from lgsid.sid.catalogue import CHANGED, Assigned, Fit, merged_sids
from lgsid.sid.quality import level_use
from lgsid.sid.table import token_columns

SAMPLE = 20_000
"""Distances are measured on at most so many fitted and so many new items, evenly spread."""
LEAST_NEW = 30
"""Shares of fewer new items than this say nothing."""
MOST_ERROR = 1.6
"""Squared distance of new items to their centroids after the last token, as a multiple of the fitted items'."""
MOST_TAKEN = 0.15
"""Share of new items whose raw code was taken, beyond the collision share of the fitted items."""
MOST_UNSEEN = 0.1
"""Share of new items in a province or city that no fitted item has, or far from every one."""
FAR_KM = 25.0
"""An item farther than this from every fitted item is far."""
MOST_GINI = 0.05
"""Rise of the Gini coefficient of the load of some level's tokens."""
MOST_GROWTH, FULL = 2.0, 3.0
"""A token overflows when it holds so many times the items it was fitted with, and so many times the average."""
MOST_CHANGED = 0.05
"""Share of all items that would get another SID now."""
MOST_NEW = 0.5
"""New items as a share of the fitted ones."""
NAMES = 10
"""Unseen names that are listed by level."""


def drift_report(fit: Fit, assigned: Assigned, tokenizer: Tokenizer, events: pl.DataFrame | None) -> dict[str, Any]:
    """What has drifted, as a JSON-able object with a verdict in words.

    Args:
        fit: the fitted catalogue.
        assigned: what came since.
        tokenizer, events: the fitted tokeniser, and the visits that it may look at.
    """
    gone = assigned.closed
    fresh = ~assigned.items["item_id"].is_in(fit.items["item_id"].implode())
    fresh &= ~assigned.items["item_id"].is_in(gone.implode())
    rows = fresh.arg_true().to_numpy()
    new, new_ND = assigned.items[rows], assigned.emb_ND[rows]
    counts = {
        "fitted": len(fit.items),
        "new": len(new),
        "changed": int((assigned.sids["status"] == CHANGED).sum()),
        "closed": len(gone),
    }
    measured = {
        "levels": _levels(fit, new, new_ND, assigned, tokenizer, events),
        "regions": _regions(fit.items, new),
        "codes": _codes(fit, assigned, new["item_id"]),
        "changes": _changes(assigned, len(fit.items) + len(new)),
    }
    signals = list(_signals(counts, measured))
    due = [signal for signal in signals if signal["due"]]
    return {
        "refit_due": bool(due),
        "verdict": _verdict(counts, due),
        "signals": signals,
        **counts,
        **measured,
    }


def _spread(size: int) -> IntArray:
    rows: IntArray = np.linspace(0, size - 1, min(size, SAMPLE)).astype(np.int64)
    return rows


def _levels(
    fit: Fit,
    new: pl.DataFrame,
    new_ND: FloatArray,
    assigned: Assigned,
    tokenizer: Tokenizer,
    events: pl.DataFrame | None,
) -> list[dict[str, Any]]:
    """Distances to the centroids and load of the tokens, by level."""
    row_n = _spread(len(fit.items))
    fitted_nL = _distances(tokenizer, fit.items[row_n], np.asarray(fit.emb_ND[row_n]), events)
    row_n = _spread(len(new))
    new_nL = _distances(tokenizer, new[row_n], new_ND[row_n], events) if len(new) else None
    now = merged_sids(fit.sids, assigned.sids)
    found = []
    for level, (name, book) in enumerate(zip(token_columns(fit.levels), tokenizer.books, strict=True)):
        fitted, own = fitted_nL[:, level], None if new_nL is None else new_nL[:, level]
        found.append({
            "level": level + 1,
            "distance_fitted": float(fitted.mean()),
            "distance_new": None if own is None else float(own.mean()),
            "distance_ratio": None if own is None else float(own.mean() / max(fitted.mean(), 1e-12)),
            "beyond_fitted_p99": None if own is None else float((own > np.quantile(fitted, 0.99)).mean()),
            "load": _load(fit.sids[name].to_numpy(), now[name].to_numpy(), len(book)),
        })  # fmt: skip
    return found


def _distances(
    tokenizer: Tokenizer, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
) -> DoubleArray:
    """Squared distance of each item to the sum of its first centroid, its first two, …, (N, L)."""
    x_NC = tokenizer.project(items, emb_ND, events)
    codes_NL = tokenizer.transform(items, emb_ND, events)
    levels = range(1, codes_NL.shape[1] + 1)
    by_level = [((x_NC - tokenizer.sum_of_centroids(codes_NL[:, :level])) ** 2).sum(axis=1) for level in levels]
    distances: DoubleArray = np.stack(by_level, axis=1).astype(np.float64)
    return distances


def _load(fitted_N: CodeArray, now_N: CodeArray, size: int) -> dict[str, Any]:
    """Load of one level's tokens at the fit and now, and the token that grew most of those above the average."""
    before, after = np.bincount(fitted_N, minlength=size), np.bincount(now_N, minlength=size)
    growth = np.where(after >= after.mean(), after / np.maximum(before, 1), 0)
    token = int(growth.argmax())
    use = {"fitted": level_use(fitted_N, size), "now": level_use(now_N, size)} if len(now_N) else {}
    return {
        **{f"{name}_{when}": level[name] for when, level in use.items() for name in ("gini", "entropy_bits")},
        "overflow": float(growth.max(where=after > FULL * after.mean(), initial=0)),
        "newly_used": int(((before == 0) & (after > 0)).sum()),
        "largest_growth": {
            "token": token,
            "fitted": int(before[token]),
            "now": int(after[token]),
            "times": float(growth[token]),
        },
    }


def _regions(fitted: pl.DataFrame, new: pl.DataFrame) -> dict[str, Any]:
    """Names of regions that no fitted item has, and places far from every fitted item."""
    unseen, strange = {}, np.zeros(len(new), dtype=np.bool_)
    for depth, level in enumerate(REGIONS, start=1):
        path = region_path(new, depth)
        unknown = path.is_not_null() & ~path.is_in(region_path(fitted, depth).drop_nulls().unique().implode())
        counts = path.filter(unknown).value_counts().sort(["count", "path"], descending=[True, False])
        unseen[level] = {"items": int(unknown.sum()), "names": dict(counts.head(NAMES).iter_rows())}
        if level != "district":  # a new district of a known city is no surprise
            strange |= unknown.to_numpy()
    index = SpatialIndex(fitted["lat_deg"].to_numpy(), fitted["lon_deg"].to_numpy())
    nearest_km = (
        index.nearest(new["lat_deg"].to_numpy(), new["lon_deg"].to_numpy())[1][:, 0] if len(new) else np.empty(0)
    )
    strange |= nearest_km > FAR_KM
    return {
        "unseen": unseen,
        "far_items": int((nearest_km > FAR_KM).sum()),
        "farthest_km": float(nearest_km.max(initial=0.0)),
        "unseen_or_far_share": float(strange.mean()) if len(new) else None,
    }


def _codes(fit: Fit, assigned: Assigned, new_ids: pl.Series) -> dict[str, Any]:
    rows = assigned.sids.filter(pl.col("item_id").is_in(new_ids.implode()))
    extra = f"token_{fit.levels + 1}"
    return {
        "collision_share_fitted": float(fit.sids["collides"].cast(pl.Float64).to_numpy().mean()),
        "taken_share_new": float(rows["collides"].cast(pl.Float64).to_numpy().mean()) if len(rows) else None,
        "extra_token_share_new": float((rows[extra] > 0).to_numpy().mean()) if len(rows) else None,
    }


def _changes(assigned: Assigned, items: int) -> dict[str, Any]:
    changed = assigned.sids.filter(pl.col("status") == CHANGED)
    other = changed.filter(pl.col("sid_now") != pl.col("sid"))
    km = changed["moved_km"].drop_nulls().to_numpy()
    return {
        "would_get_another_sid": len(other),
        "of_changed": len(other) / len(changed) if len(changed) else None,
        "of_all": len(other) / items,
        "moved_km_median": float(np.median(km)) if len(km) else None,
        "moved_km_max": float(km.max()) if len(km) else None,
    }


def _signals(counts: dict[str, int], measured: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What is held against a threshold; signals about new items only where there are enough of them."""
    last = measured["levels"][-1]
    if counts["new"] >= LEAST_NEW:
        yield _signal(
            "distance", last["distance_ratio"], MOST_ERROR,
            "new items lie {value:.2f} times as far from their centroids as fitted ones (squared; limit {limit:.2f})",
        )  # fmt: skip
        codes = measured["codes"]
        yield _signal(
            "taken", codes["taken_share_new"] - codes["collision_share_fitted"], MOST_TAKEN,
            "raw codes of new items were taken {value:.1%} more often than fitted items collide (limit {limit:.0%})",
        )  # fmt: skip
        yield _signal(
            "regions", measured["regions"]["unseen_or_far_share"], MOST_UNSEEN,
            "{value:.1%} of the new items lie in a province or city without fitted items, or more than "
            f"{FAR_KM:.0f} km from each of them (limit {{limit:.0%}})",
        )  # fmt: skip
    loads = [level["load"] for level in measured["levels"]]
    rise = max((load.get("gini_now", 0.0) - load.get("gini_fitted", 0.0) for load in loads), default=0.0)
    yield _signal(
        "load", rise, MOST_GINI, "the Gini coefficient of some level's load rose by {value:.3f} (limit {limit})"
    )
    yield _signal(
        "overflow", max((load["overflow"] for load in loads), default=0.0), MOST_GROWTH,
        f"a token with over {FULL:.0f} times the average load holds {{value:.2f}} times the items it was fitted with "
        "(limit {limit:.1f})",
    )  # fmt: skip
    yield _signal(
        "changed", measured["changes"]["of_all"], MOST_CHANGED,
        "{value:.1%} of all items keep a SID that they would not get now (limit {limit:.0%})",
    )  # fmt: skip
    yield _signal(
        "growth", counts["new"] / counts["fitted"], MOST_NEW, "the catalogue grew by {value:.1%} (limit {limit:.0%})"
    )


def _signal(name: str, value: float, limit: float, words: str) -> dict[str, Any]:
    due = value > limit
    return {"name": name, "value": value, "limit": limit, "due": due, "words": words.format(value=value, limit=limit)}


def _verdict(counts: dict[str, int], due: list[dict[str, Any]]) -> str:
    if due:
        return "A refit is due: " + "; ".join(signal["words"] for signal in due) + "."
    if counts["new"] < LEAST_NEW:
        return f"No refit is due; {counts['new']} new items are too few to judge how well they fit."
    return f"No refit is due: the {counts['new']:,} new items fit the codebooks."
