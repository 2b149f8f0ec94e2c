"""Weighted draws within groups by binary search in running totals: linear memory, logarithmic time per draw."""

from __future__ import annotations

import numpy as np

from lgsid.arrays import AnyArray, DoubleArray, IntArray


class GroupDraw:
    """Draws rows by weight from the rows of one group (a city's shops, a city's centres).

    Args:
        group_N: group of each row, 0 … groups - 1.
        weight_N: positive weights.
        groups: number of groups.
    """

    def __init__(self, group_N: IntArray, weight_N: AnyArray, groups: int) -> None:
        self._order = np.argsort(group_N, kind="stable").astype(np.int32)
        self._running = np.concatenate([[0.0], np.cumsum(weight_N[self._order], dtype=np.float64)])
        edges = np.searchsorted(group_N[self._order], np.arange(groups + 1))
        self._first, self._last = edges[:-1], edges[1:]

    def draw(self, group_B: IntArray, uniform_B: DoubleArray) -> IntArray:
        """One row for each asked group; from all rows where the group has none."""
        some = self._last[group_B] > self._first[group_B]
        first = np.where(some, self._first[group_B], 0)
        last = np.where(some, self._last[group_B], len(self._order))
        low, high = self._running[first], self._running[last]
        found = np.searchsorted(self._running, low + uniform_B * (high - low), side="right") - 1
        row: IntArray = self._order[np.clip(found, first, last - 1)].astype(np.int64)
        return row
