"""From raw codes to unique SIDs.

Raw codes collide: chains, duplicates and neighbours share all tokens. Two mends, chosen by configuration:

    reassign     within a prefix (all tokens but the last), at most one item keeps each last-level code; the others move
                 to free codes so that the total added error is least (linear sum assignment, Jonker-Volgenant). No
                 longer SID, a small loss of precision in the last token, none in the others.
    extra_token  codes stay, and one more token counts the items that share them (0 for the first of them).

A prefix with more items than codes cannot be made unique by reassignment alone; its items are spread evenly over the
last level and the extra token tells them apart. There is never more than one extra token; what would need more is an
error.

Axes: N items, L levels, K codes of the last level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lgsid.arrays import BoolArray, CodeArray, FloatArray, IntArray
from lgsid.errors import ConfigError

Cost: TypeAlias = Callable[[IntArray], FloatArray]
"""Squared distance of the given items' last residual to every last-level centroid: (n,) → (n, K)."""
Crowd: TypeAlias = tuple[IntArray, int]
"""Rows of the items of one prefix, and how many of them may share a code."""
BLOCK_ITEMS = 8192
"""Items whose distances are asked for together."""


@dataclass(frozen=True)
class UniqueCodes:
    """Unique codes and what they cost.

    Attributes:
        codes: int32 (N, L), or (N, L + 1) with the extra token.
        collides: whether the item shared its raw code with another, (N,).
        moved: whether its last token was changed, (N,).
    """

    codes: CodeArray
    collides: BoolArray
    moved: BoolArray


def make_unique(
    codes_NL: CodeArray, last_codes: int, cost: Cost, method: Literal["reassign", "extra_token"]
) -> UniqueCodes:
    """Give every item its own SID; the result depends on nothing but the arguments.

    Args:
        codes_NL: raw codes.
        last_codes: K of the last level.
        cost: see `Cost`; asked only for items of prefixes in which items must move.
        method: see the module.

    Raises:
        ConfigError: more items share a prefix than ``K²``: the codebooks are too small for the catalogue.
    """
    raw = np.ascontiguousarray(codes_NL, dtype=np.int32)
    collides = _shared(code_keys(raw))
    codes = raw.copy()
    crowded = _crowded(raw, collides, last_codes, method)
    for block in _blocks(crowded):
        distance = cost(np.concatenate([rows for rows, _ in block]))
        edges = np.cumsum([len(rows) for rows, _ in block])[:-1]
        for (rows, capacity), group_distance in zip(block, np.split(distance, edges), strict=True):
            codes[rows, -1] = _spread(codes[rows, -1], group_distance, capacity)
    rank = _rank_within(code_keys(codes))
    if rank.any():
        codes = np.concatenate([codes, rank[:, None].astype(np.int32)], axis=1)
    return UniqueCodes(codes, collides, codes[:, raw.shape[1] - 1] != raw[:, -1])


def _crowded(raw: CodeArray, collides: BoolArray, last_codes: int, method: str) -> Iterator[Crowd]:
    """Prefixes in which some code holds more items than it may, with the number that it may hold.

    Raises:
        ConfigError: a prefix has more items than one extra token can tell apart.
    """
    for rows in _groups(code_keys(raw[:, :-1]), collides):
        needed = -(-len(rows) // last_codes)
        if needed > last_codes:
            prefix = "-".join(map(str, raw[rows[0], :-1]))
            message = f"{len(rows):,} items share the prefix {prefix}; one extra token tells {last_codes**2:,} apart"
            raise ConfigError(message, "--set sid.levels=4, or more sid.codes")
        capacity = last_codes if method == "extra_token" else needed
        if np.bincount(raw[rows, -1]).max() > capacity:
            yield rows, capacity


def _blocks(crowds: Iterator[Crowd]) -> Iterator[list[Crowd]]:
    """Crowds in blocks of some thousand items: one call for their distances instead of one each."""
    block: list[Crowd] = []
    items = 0
    for crowd in crowds:
        block.append(crowd)
        items += len(crowd[0])
        if items >= BLOCK_ITEMS:
            yield block
            block, items = [], 0
    if block:
        yield block


def code_keys(codes_NL: CodeArray) -> IntArray:
    """One integer per row, (N,): equal exactly where the rows are equal, ordered as the sorted rows."""
    key = np.zeros(len(codes_NL), dtype=np.int64)
    for column in codes_NL.T.astype(np.int64):
        key = key * (int(column.max(initial=0)) + 1) + column
        if key.max(initial=0) > 2**40:  # long codes would overflow
            key = np.unique(key, return_inverse=True)[1].astype(np.int64)
    return key


def _shared(key_N: IntArray) -> BoolArray:
    _, inverse, counts = np.unique(key_N, return_inverse=True, return_counts=True)
    shared: BoolArray = counts[inverse] > 1
    return shared


def _groups(prefix_N: IntArray, collides_N: BoolArray) -> Iterator[IntArray]:
    """Rows of each prefix that holds a collision, in row order."""
    order = np.argsort(prefix_N, kind="stable")
    edges = np.flatnonzero(np.diff(prefix_N[order])) + 1
    for rows in np.split(order, edges):
        if collides_N[rows].any():
            yield rows


def _spread(last_n: CodeArray, distance_nK: FloatArray, capacity: int) -> CodeArray:
    """Last tokens of one prefix's items with at most ``capacity`` items per code, least total cost.

    Only as many items move as must: those beyond the capacity of their code, the ones nearest to it staying.
    """
    from scipy.optimize import linear_sum_assignment

    n, last_codes = distance_nK.shape
    order = np.lexsort((np.arange(n), distance_nK[np.arange(n), last_n]))
    rank = np.empty(n, dtype=np.int64)
    rank[order] = _rank_within(last_n[order].astype(np.int64))
    movers = np.flatnonzero(rank >= capacity)
    free = capacity - np.minimum(np.bincount(last_n, minlength=last_codes), capacity)
    seats = np.repeat(np.arange(last_codes), free)
    row, seat = linear_sum_assignment(distance_nK[np.ix_(movers, seats)].astype(np.float64))
    result = last_n.copy()
    result[movers[row]] = seats[seat]
    return result


def _rank_within(key_N: IntArray) -> IntArray:
    """Position of each item among those with the same key, in row order."""
    order = np.argsort(key_N, kind="stable")
    sorted_keys = key_N[order]
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    rank = np.empty(len(key_N), dtype=np.int64)
    rank[order] = np.arange(len(key_N)) - np.repeat(starts, np.diff(np.r_[starts, len(key_N)]))
    return rank
