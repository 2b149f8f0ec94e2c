"""Co-visits: which items the same people visited within a short time, and how much more often than chance.

Shapes: N items, E visits, C pairs of items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, DoubleArray, IntArray

FOLLOWING = 10
"""A visit is paired with at most so many later visits of its user, so that no session costs its square."""
DAMPING = 5.0
"""Visits added to each item in the score, so that two items with one shared visit are not the strongest pair."""


@dataclass(frozen=True)
class CoVisits:
    """Pairs of different items with their co-occurrence, each pair once, the lower row first, in ascending order.

    Attributes:
        items: N.
        key_C: ``low · N + high`` of the rows of the two items, ascending.
        count_C: co-occurrences: pairs of visits of one user within the window.
        score_C: ``count / sqrt((n_low + 5) (n_high + 5))`` with n an item's visits (a damped cosine).
        visits: visits counted.
        unknown: events dropped because their item is none of the items.
        impressions: events dropped because nobody visited anything.
    """

    items: int
    key_C: IntArray
    count_C: IntArray
    score_C: DoubleArray
    visits: int
    unknown: int
    impressions: int

    def __len__(self) -> int:
        return len(self.key_C)

    def rows(self) -> tuple[IntArray, IntArray]:
        """Rows of the two items of each pair, both of shape (C,)."""
        return self.key_C // max(self.items, 1), self.key_C % max(self.items, 1)

    def contain(self, a: IntArray, b: IntArray) -> BoolArray:
        """Whether items a and b (rows, any equal shapes) were ever visited together."""
        if not len(self):
            return np.zeros(np.shape(a), dtype=np.bool_)
        key = np.minimum(a, b) * self.items + np.maximum(a, b)
        at = np.minimum(np.searchsorted(self.key_C, key), len(self) - 1)
        found: BoolArray = self.key_C[at] == key
        return found


def co_visits(items: pl.DataFrame, events: pl.DataFrame, window_hours: float) -> CoVisits:
    """Count co-visits: pairs of visits of one user to different items at most ``window_hours`` apart.

    Every event but an impression is a visit. A visit is paired with the user's next `FOLLOWING` visits, so time and
    memory are linear in the events. Only what is given is counted: give events of the training period.

    Args:
        items: N items (``item_id``).
        events: ``user_id``, ``item_id``, ``timestamp`` and, if known, ``kind``; events of unknown items are dropped and
            counted.
        window_hours: longest time between the two visits.
    """
    shown = events.filter(pl.col("kind").ne_missing("impression")) if "kind" in events.columns else events
    rows = items.select("item_id", pl.int_range(pl.len(), dtype=pl.Int64).alias("row"))
    known = shown.join(rows, on="item_id").select("user_id", "timestamp", "row").sort("user_id", "timestamp", "row")
    row_E, n = known["row"].to_numpy(), len(items)
    count = _counted(known["user_id"].rle_id().to_numpy(), known["timestamp"].dt.epoch("us").to_numpy(), row_E,
                     n, int(window_hours * 3_600_000_000))  # fmt: skip
    damped_N = np.sqrt(np.bincount(row_E, minlength=n) + DAMPING)
    key_C, count_C = count["key"].to_numpy(), count["count"].to_numpy()
    score_C = count_C / (damped_N[key_C // max(n, 1)] * damped_N[key_C % max(n, 1)])
    return CoVisits(n, key_C, count_C, score_C, len(known), len(shown) - len(known), len(events) - len(shown))


def _counted(user_E: IntArray, time_us_E: IntArray, row_E: IntArray, items: int, window_us: int) -> pl.DataFrame:
    """Columns key and count, ascending by key; visits are sorted by user and time."""
    total = pl.DataFrame(schema={"key": pl.Int64, "count": pl.Int64})
    for step in range(1, min(FOLLOWING, len(row_E) - 1) + 1):
        near = (user_E[step:] == user_E[:-step]) & (time_us_E[step:] - time_us_E[:-step] <= window_us)
        if not near.any():
            break
        earlier, later = row_E[:-step][near], row_E[step:][near]
        other = earlier != later
        key = np.minimum(earlier, later)[other] * items + np.maximum(earlier, later)[other]
        new = pl.DataFrame({"key": key}).group_by("key").agg(pl.len().cast(pl.Int64).alias("count"))
        total = pl.concat([total, new]).group_by("key").agg(pl.col("count").sum())
    return total.sort("key")
