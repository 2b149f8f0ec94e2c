"""Impressions that were not chosen, as negatives: the user has seen them, and took something else.

Only what came before the request is used: an impression counts as not chosen when the user has not chosen the item
between the impression and the request. (That they do so a moment later is something nobody knew.)

Impressions are read user group by user group, so that there can be any number of them.

Axes: E visits, I impressions, R requests, C candidates, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, IntArray
from lgsid.hashing import id_hash
from lgsid.rank.negatives import OPEN, request_keys
from lgsid.rank.visits import Visits, event_keys, with_rows

KIND = "impression"
PAGE_GAP_S = 2
"""Impressions of a user that follow each other within so many seconds are one page, whose order says nothing."""
LOOK_BACK = 100
"""Impressions before a request that are looked at."""
_AT_ONCE = 8_000_000  # impressions in memory
_TIME_BITS, _EPOCH = 36, 1 << 35
_NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class _Shown:
    """Impressions, sorted by user and page, and within a page at random.

    Attributes:
        key_I: user and time as one integer, sorted; its place says in which page, not where there.
        user_I, page_I: numbers of the user and of the page.
        item_I, time_I: what was shown when, in seconds.
        chosen_I: when the user first chose the item at that time or later; `_NEVER` where they did not.
    """

    key_I: IntArray
    user_I: CodeArray
    page_I: IntArray
    item_I: CodeArray
    time_I: IntArray
    chosen_I: IntArray


def not_chosen(
    items: pl.DataFrame,
    events: pl.LazyFrame,
    visits: Visits,
    asked_E: BoolArray,
    warm_N: BoolArray,
    negatives: int,
    seed: int,
) -> CodeArray | None:
    """Items that the user was shown before a visit and had not chosen by then, the last pages first.

    Args:
        items: the catalogue.
        events: see `lgsid.rank.visits.read_visits`.
        visits: the visits among them.
        asked_E: for which visits.
        warm_N: items come from the same side of this as the visit's.
        negatives: at most so many for each visit.
        seed: of the order within a page.

    Returns:
        (E, negatives) rows of the catalogue, `OPEN` where there are fewer; None where there are no impressions.
    """
    shown = events.filter(pl.col("kind") == KIND)
    count = int(shown.select(pl.len()).collect(engine="streaming").item())
    if not count:
        return None
    result_EK = np.full((len(visits), negatives), OPEN, dtype=np.int32)
    groups = -(-count // _AT_ONCE)
    group_U = visits.users["user"].to_numpy() % np.uint64(groups)
    group_of = np.empty(len(group_U), dtype=np.int64)
    group_of[visits.users["number"].to_numpy()] = group_U
    for group in range(groups):
        rows_R = np.flatnonzero(asked_E & (group_of[visits.user_E] == group))
        part = shown.filter(id_hash("user_id") % groups == group)
        candidates_RC = np.full((len(rows_R), 1 + negatives), OPEN, dtype=np.int32)
        candidates_RC[:, 0] = visits.item_E[rows_R]
        _walk(candidates_RC, _read(items, part, visits, seed), visits, rows_R, warm_N)
        result_EK[rows_R] = candidates_RC[:, 1:]
    return result_EK


def _read(items: pl.DataFrame, part: pl.LazyFrame, visits: Visits, seed: int) -> _Shown:
    frame = part.select(event_keys()).collect(engine="streaming")
    frame = with_rows(items, frame, part).join(visits.users, on="user", how="inner", maintain_order="left")
    frame = frame.select("number", "item", time=pl.col("us") // 1_000_000).sort("number", "time", maintain_order=True)
    user_I, item_I, time_I = (frame[name].to_numpy() for name in ("number", "item", "time"))
    turns = (np.diff(user_I) != 0) | (np.diff(time_I) > PAGE_GAP_S)
    page_I = np.concatenate([np.zeros(min(1, len(frame)), dtype=np.int64), np.cumsum(turns)])
    order_I = np.lexsort((request_keys(seed, user_I, time_I, item_I), page_I))
    return _Shown(
        key_I=_key(user_I, time_I),
        user_I=user_I,
        page_I=page_I,
        item_I=item_I[order_I],
        time_I=time_I[order_I],
        chosen_I=_next_choice(frame, visits)[order_I],
    )


def _key(user: CodeArray, time: IntArray) -> IntArray:
    key: IntArray = (user.astype(np.int64) << _TIME_BITS) + time + _EPOCH
    return key


def _next_choice(shown: pl.DataFrame, visits: Visits) -> IntArray:
    """When each impression's user first visited its item at that time or later."""
    chosen = pl.DataFrame({"number": visits.user_E, "item": visits.item_E, "time": visits.time_E})
    rows = shown.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    rows = rows.join(chosen, on=["number", "item"], how="semi")  # what was never chosen needs no search
    chosen = chosen.join(rows, on=["number", "item"], how="semi").with_columns(row=pl.lit(-1, dtype=pl.Int64))
    both = pl.concat([rows, chosen.select(rows.columns)]).sort(
        "number", "item", "time", "row", descending=[False, False, False, True]
    )
    visit = pl.when(pl.col("row") < 0).then("time")
    both = both.with_columns(choice=visit.backward_fill().over("number", "item")).filter(pl.col("row") >= 0)
    choice_I = np.full(len(shown), _NEVER, dtype=np.int64)
    choice_I[both["row"].to_numpy()] = both["choice"].fill_null(_NEVER).to_numpy()
    return choice_I


def _walk(candidates_RC: CodeArray, shown: _Shown, visits: Visits, rows_R: IntArray, warm_N: BoolArray) -> None:
    """Fill the candidates of some visits, in place, going back from each."""
    if not len(shown.key_I):
        return
    user_R, time_R, warm_R = visits.user_E[rows_R], visits.time_E[rows_R], warm_N[visits.item_E[rows_R]]
    last_R = np.searchsorted(shown.key_I, _key(user_R, time_R), side="right") - 1
    start_R = np.searchsorted(shown.user_I, user_R)
    # what is shown with the last impression may stand behind it
    at_R = np.where(last_R >= start_R, np.searchsorted(shown.page_I, shown.page_I[last_R], side="right") - 1, -1)
    column_R, looked_R = np.ones(len(rows_R), dtype=np.int64), np.zeros(len(rows_R), dtype=np.int64)
    left = np.flatnonzero(at_R >= start_R)
    while len(left):
        at = at_R[left]
        item, known = shown.item_I[at], shown.time_I[at] <= time_R[left]
        good = known & (shown.chosen_I[at] >= time_R[left]) & (warm_N[item] == warm_R[left])
        good &= ~(candidates_RC[left] == item[:, None]).any(axis=1)
        rows = left[good]
        candidates_RC[rows, column_R[rows]] = item[good]
        column_R[rows] += 1
        looked_R[left] += known
        at_R[left] -= 1
        more = (at_R[left] >= start_R[left]) & (looked_R[left] < LOOK_BACK)
        left = left[more & (column_R[left] < candidates_RC.shape[1])]
