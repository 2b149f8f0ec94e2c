"""From raw codes to unique SIDs.

Raw codes collide: chains, duplicates and neighbours share all tokens. Two mends, chosen by configuration:

    reassign     within a prefix (all tokens but the last), at most one item keeps each last-level code; the others move
                 to free codes so that the total added error is least (linear sum assignment, Jonker-Volgenant). No
                 longer SID, a small loss of precision in the last token, none in the others.
    extra_token  codes stay, and one more token counts the items that share them (0 for the first of them). Only where
                 more than K items share a code do some of them move, so that the extra token has at most K values.

A prefix with more items than codes cannot be made unique by reassignment alone; its items are spread evenly over the
last level and the extra token tells them apart. One extra token suffices for any catalogue: it takes as many values as
are needed, more than K only where more than K² items share a prefix.

Items that come later (`lgsid.sid.assign`) find seats among those that are taken: a free code of their own, else the
free one of their prefix that costs least, and only in a full prefix the next value of the extra token. As text an extra
token of 0 is not written, so that ``12-7-255`` stays what it is when a later item becomes ``12-7-255-1``.

Axes: N items, T SIDs that are taken, L levels, K codes of the last level; n items of one prefix, m of them that move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from lgsid.arrays import BoolArray, CodeArray, FloatArray, IntArray

Cost: TypeAlias = Callable[[IntArray], FloatArray]
"""Squared distance of the given items' last residual to every last-level centroid: (n,) → (n, K)."""
Method: TypeAlias = Literal["reassign", "extra_token"]
BLOCK_ITEMS = 8192
"""Items whose distances are asked for together."""
EXACT_CELLS = 2**22
"""With more pairs of an item to move and a free seat than this, a prefix is seated greedily: the exact way is cubic."""


@dataclass(frozen=True)
class UniqueCodes:
    """Unique codes and what they cost.

    Attributes:
        codes: int32 (N, L), or (N, L + 1) with the extra token where some item needs one.
        collides: whether the item's raw code was not its alone: shared with another item, or taken before, (N,).
        moved: whether its last token was changed, (N,).
        levels: L.
    """

    codes: CodeArray
    collides: BoolArray
    moved: BoolArray
    levels: int


@dataclass(frozen=True)
class _Crowd:
    """Items of one prefix that cannot all keep their last token.

    Attributes:
        rows: of the items.
        held: SIDs that are taken behind this prefix, by last-level code, (K,).
        capacities: how many items may share a code: at first, and where that leaves items without a seat.
    """

    rows: IntArray
    held: IntArray
    capacities: tuple[int, ...]


def make_unique(
    codes_NL: CodeArray, last_codes: int, cost: Cost, method: Method, taken_TM: CodeArray | None = None
) -> UniqueCodes:
    """Give every item its own SID; the result depends on nothing but the arguments.

    Args:
        codes_NL: raw codes.
        last_codes: K of the last level.
        cost: see `Cost`; asked only for items of prefixes in which items must move.
        method: see the module.
        taken_TM: SIDs that are given away and stay, (T, L), or (T, L + 1) with their extra token.
    """
    raw = np.ascontiguousarray(codes_NL, dtype=np.int32)
    levels = raw.shape[1]
    taken_TL, taken_extra_T = split_extra(np.empty((0, levels), np.int32) if taken_TM is None else taken_TM, levels)
    key_T, key_N = _both_keys(taken_TL, raw)
    collides = _shared(key_N) | np.isin(key_N, key_T)
    codes = raw.copy()
    if collides.any():
        crowds = _crowded(raw, collides, taken_TL, last_codes, method, taken_TM is not None)
        for block in _blocks(crowds):
            distance = cost(np.concatenate([crowd.rows for crowd in block]))
            edges = np.cumsum([len(crowd.rows) for crowd in block])[:-1]
            for crowd, group_distance in zip(block, np.split(distance, edges), strict=True):
                codes[crowd.rows, -1] = _seated(codes[crowd.rows, -1], group_distance, crowd)
    extra_N = _extra_tokens(codes, taken_TL, taken_extra_T)
    moved = codes[:, -1] != raw[:, -1]
    if extra_N.any():
        codes = np.concatenate([codes, extra_N[:, None]], axis=1)
    return UniqueCodes(codes, collides, moved, levels)


def split_extra(codes_NM: CodeArray, levels: int) -> tuple[CodeArray, CodeArray]:
    """Codes (N, L) and extra tokens (N,), 0 where the codes have none."""
    if codes_NM.shape[1] > levels:
        return codes_NM[:, :levels], codes_NM[:, levels]
    return codes_NM, np.zeros(len(codes_NM), dtype=np.int32)


def _crowded(
    raw: CodeArray, collides: BoolArray, taken_TL: CodeArray, last_codes: int, method: Method, later: bool
) -> Iterator[_Crowd]:
    """Prefixes in which some code holds more items than it may."""
    prefix_T, prefix_N = _both_keys(taken_TL[:, :-1], raw[:, :-1])
    near = np.flatnonzero(np.isin(prefix_T, np.unique(prefix_N[collides])))
    order = near[np.argsort(prefix_T[near], kind="stable")]
    prefix_t, last_t = prefix_T[order], taken_TL[order, -1]
    for rows in _groups(prefix_N, collides):
        begin, end = np.searchsorted(prefix_t, [prefix_N[rows[0]], prefix_N[rows[0]] + 1])
        held = np.bincount(last_t[begin:end], minlength=last_codes)
        needed = -(-(len(rows) + int(end - begin)) // last_codes)
        capacities: tuple[int, ...] = (needed,)
        if method == "extra_token":
            capacities = (max(last_codes, needed),)
        elif later:
            capacities = (1, needed)
        if (np.bincount(raw[rows, -1], minlength=last_codes) + held).max() > capacities[0]:
            yield _Crowd(rows, held, capacities)


def _blocks(crowds: Iterator[_Crowd]) -> Iterator[list[_Crowd]]:
    """Crowds in blocks of some thousand items: one call for their distances instead of one each."""
    block: list[_Crowd] = []
    items = 0
    for crowd in crowds:
        block.append(crowd)
        items += len(crowd.rows)
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


def _both_keys(one_TL: CodeArray, other_NL: CodeArray) -> tuple[IntArray, IntArray]:
    """Keys of two tables of codes that are comparable with each other."""
    keys = code_keys(np.concatenate([one_TL, other_NL]))
    return keys[: len(one_TL)], keys[len(one_TL) :]


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


def _seated(last_n: CodeArray, distance_nK: FloatArray, crowd: _Crowd) -> CodeArray:
    """Last tokens of one prefix's items, no code above its capacity, least total cost.

    Only as many items move as must: those beyond the capacity of their code, the ones nearest to it staying.
    """
    result = np.full(len(last_n), -1, dtype=np.int32)
    waiting = np.arange(len(last_n))
    for capacity in crowd.capacities:
        here = result[result >= 0]
        free_K = np.maximum(capacity - crowd.held - np.bincount(here, minlength=len(crowd.held)), 0)
        own = last_n[waiting]
        stays = _first_in_line(own, distance_nK[waiting, own], free_K)
        result[waiting[stays]] = own[stays]
        free_K = free_K - np.bincount(own[stays], minlength=len(free_K))
        movers = waiting[~stays]
        result[movers] = _moved(distance_nK[movers], free_K)
        waiting = movers[result[movers] < 0]
    return result


def _first_in_line(code_n: CodeArray, distance_n: FloatArray, free_K: IntArray) -> BoolArray:
    """Which items get a seat of their code when the nearest ones come first."""
    order = np.lexsort((np.arange(len(code_n)), distance_n))
    rank_n = np.empty(len(code_n), dtype=np.int64)
    rank_n[order] = _rank_within(code_n[order].astype(np.int64))
    first: BoolArray = rank_n < free_K[code_n]
    return first


def _moved(distance_mK: FloatArray, free_K: IntArray) -> CodeArray:
    """A code with a free seat for each item, at the least total cost; -1 where there are more items than seats."""
    from scipy.optimize import linear_sum_assignment

    seats = np.repeat(np.arange(len(free_K)), np.minimum(free_K, len(distance_mK)))
    result = np.full(len(distance_mK), -1, dtype=np.int32)
    if len(distance_mK) * len(seats) > EXACT_CELLS:
        return _greedily_moved(distance_mK, free_K)
    if len(seats):
        row, seat = linear_sum_assignment(distance_mK[:, seats].astype(np.float64))
        result[row] = seats[seat]
    return result


def _greedily_moved(distance_mK: FloatArray, free_K: IntArray) -> CodeArray:
    """The same approximately: all ask for their nearest open code, the nearest are let in, the others ask again."""
    result = np.full(len(distance_mK), -1, dtype=np.int32)
    waiting, free_K = np.arange(len(distance_mK)), free_K.copy()
    while len(waiting) and free_K.any():  # every round fills a code or seats all
        wanted = np.where(free_K > 0, distance_mK[waiting], np.inf).argmin(axis=1).astype(np.int32)
        let_in = _first_in_line(wanted, distance_mK[waiting, wanted], free_K)
        result[waiting[let_in]] = wanted[let_in]
        free_K -= np.bincount(wanted[let_in], minlength=len(free_K))
        waiting = waiting[~let_in]
    return result


def _extra_tokens(codes_NL: CodeArray, taken_TL: CodeArray, taken_extra_T: CodeArray) -> CodeArray:
    """Extra token of each item, (N,): the least numbers that no other item with its codes has, in row order."""
    key_T, key_N = _both_keys(taken_TL, codes_NL)
    extra_N = _rank_within(key_N).astype(np.int32)
    on_taken = np.flatnonzero(np.isin(key_N, key_T))
    near = np.flatnonzero(np.isin(key_T, key_N[on_taken]))
    rows, others = on_taken[np.argsort(key_N[on_taken], kind="stable")], near[np.argsort(key_T[near], kind="stable")]
    keys = np.unique(key_N[rows])
    row_edges, other_edges = np.searchsorted(key_N[rows], keys)[1:], np.searchsorted(key_T[others], keys)[1:]
    for own, used in zip(np.split(rows, row_edges), np.split(others, other_edges), strict=True):
        numbers = np.arange(len(own) + len(used), dtype=np.int32)
        extra_N[own] = np.setdiff1d(numbers, taken_extra_T[used])[: len(own)]
    return extra_N


def _rank_within(key_N: IntArray) -> IntArray:
    """Position of each item among those with the same key, in row order."""
    order = np.argsort(key_N, kind="stable")
    sorted_keys = key_N[order]
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    rank = np.empty(len(key_N), dtype=np.int64)
    rank[order] = np.arange(len(key_N)) - np.repeat(starts, np.diff(np.r_[starts, len(key_N)]))
    return rank
