"""All SIDs of a catalogue as a prefix trie in flat arrays, and the part of it that a user can reach.

Items are sorted by their SID; then a prefix is a run of items, the nodes of a level are runs one after the other, and
the children of a node are a run of the next level's nodes. So a level is two arrays: the token of each node, and where
its children begin. No node is an object, and a million items of three tokens take some 30 MB.

The same holds for any set of items, such as those within reach of a user (*reachable-first decoding*): their places in
the order, sorted, give a trie of their own by comparing neighbours, in time linear in their number and independent of
the catalogue. A beam search in that trie cannot leave it: whatever the model prefers, it names an item that exists and
can be reached. The tries of a batch lie behind one another in the same arrays, so that users with different reach are
decoded together.

Axes: N items, L levels, M nodes of a level, B requests, R items of a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lgsid.arrays import CodeArray, IntArray
from lgsid.errors import DataError


@dataclass(frozen=True)
class Level:
    """The nodes of one level.

    Attributes:
        token_M: last token of each node's prefix, int32.
        child_M1: the children of node m are nodes ``child_M1[m]:child_M1[m + 1]`` of the next level, int32 (M + 1,);
            below the last level, row m of ``rows`` of the trie.
    """

    token_M: CodeArray
    child_M1: CodeArray


@dataclass(frozen=True)
class BatchTrie:
    """The tries of B requests.

    Attributes:
        root_B2: request b begins with nodes ``root_B2[b, 0]:root_B2[b, 1]`` of the first level.
        levels: L levels; requests may share their nodes.
        row_M: catalogue row of each node of the last level, int32.
    """

    root_B2: CodeArray
    levels: tuple[Level, ...]
    row_M: CodeArray

    def __len__(self) -> int:
        return len(self.root_B2)


class Trie:
    """The trie of a catalogue.

    Args:
        codes_NL: unique SIDs, int32; row n is item n of the catalogue. SIDs that have no extra token where others
            have one hold 0 there.

    Raises:
        DataError: two items have one SID, a token is negative, or there are no items.
    """

    def __init__(self, codes_NL: CodeArray) -> None:
        if codes_NL.ndim != 2 or not codes_NL.size:
            raise DataError(f"got SIDs of shape {codes_NL.shape}, expected (items, tokens) with at least one item")
        if codes_NL.min() < 0:
            raise DataError(f"SIDs hold the token {codes_NL.min()}, expected numbers from 0")
        self.row_N: CodeArray = np.lexsort(codes_NL.T[::-1]).astype(np.int32)
        sorted_NL = codes_NL[self.row_N]
        self.place_N: CodeArray = np.empty_like(self.row_N)
        self.place_N[self.row_N] = np.arange(len(codes_NL), dtype=np.int32)
        differs_NL = np.ones(codes_NL.shape, dtype=bool)
        differs_NL[1:] = np.logical_or.accumulate(sorted_NL[1:] != sorted_NL[:-1], axis=1)
        same = np.flatnonzero(~differs_NL[:, -1])
        if len(same):
            a, b = self.row_N[same[0] - 1], self.row_N[same[0]]
            raise DataError(
                f"items {a} and {b} have one SID, {'-'.join(map(str, codes_NL[b]))}, so a generator could not tell them"
                f" apart; {len(same)} items in all have that of another one",
                "make SIDs unique: lgsid tokenize RUN does",
            )
        self.node_LN: CodeArray = np.cumsum(differs_NL, axis=0, dtype=np.int32).T.copy() - 1
        self._tokens = tuple(
            np.ascontiguousarray(sorted_NL[differs_NL[:, level], level], dtype=np.int32)
            for level in range(codes_NL.shape[1])
        )
        whole = _batch(self.node_LN, self._tokens, np.array([0, len(codes_NL)]))
        self.levels, self.row_M = whole.levels, self.row_N

    def __len__(self) -> int:
        """Number of items."""
        return len(self.row_N)

    @property
    def depth(self) -> int:
        """Tokens of a SID, L."""
        return len(self._tokens)

    @property
    def nbytes(self) -> int:
        """Memory of all arrays."""
        arrays = [self.row_N, self.place_N, self.node_LN, *self._tokens, *(level.child_M1 for level in self.levels)]
        return sum(array.nbytes for array in arrays)

    def all(self, requests: int) -> BatchTrie:
        """The whole catalogue for each of some requests."""
        root_B2 = np.tile(np.array([0, len(self._tokens[0])], dtype=np.int32), (requests, 1))
        return BatchTrie(root_B2, self.levels, self.row_M)

    def only(self, rows: Sequence[IntArray | CodeArray]) -> BatchTrie:
        """A trie for each request of the items it may name.

        Args:
            rows: catalogue rows of each request, in any order, each once; a request may have none.
        """
        sizes = np.array([len(of_request) for of_request in rows], dtype=np.int64)
        places = [np.sort(self.place_N[of_request]) for of_request in rows]
        place_R = np.concatenate(places) if places else np.empty(0, dtype=np.int32)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        found = _batch(self.node_LN[:, place_R], self._tokens, bounds)
        return BatchTrie(found.root_B2, found.levels, self.row_N[place_R])


def _batch(node_LR: CodeArray, tokens: Sequence[CodeArray], bounds_B1: IntArray) -> BatchTrie:
    """The tries of runs of items.

    Args:
        node_LR: node of each item at each level of the catalogue's trie; sorted within a run.
        tokens: token of each node, by level.
        bounds_B1: run b is ``bounds_B1[b]:bounds_B1[b + 1]``.
    """
    total = node_LR.shape[1]
    opens_R = np.zeros(total + 1, dtype=bool)
    opens_R[bounds_B1] = True  # a new run begins new nodes, whatever came before
    starts: list[IntArray] = []
    for node_R in node_LR:
        first_R = opens_R[:-1].copy()
        first_R[1:] |= node_R[1:] != node_R[:-1]
        starts.append(np.flatnonzero(first_R))
    levels = []
    for level, start_M in enumerate(starts):
        below = starts[level + 1] if level + 1 < len(starts) else np.arange(total)
        child_M1 = np.searchsorted(below, np.append(start_M, total)).astype(np.int32)
        levels.append(Level(tokens[level][node_LR[level, start_M]], child_M1))
    root_B1 = np.searchsorted(starts[0], bounds_B1).astype(np.int32)
    return BatchTrie(np.stack([root_B1[:-1], root_B1[1:]], axis=1), tuple(levels), np.empty(0, dtype=np.int32))
