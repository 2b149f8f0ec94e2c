"""Nearest neighbours of an item by cosine, exact, over embeddings that may lie on disk.

One request reads all vectors once: a million of 384 dimensions take about a fifth of a second when they are in the page
cache. Order and rounding are those of `lgsid.nearest`.

Axes: V vectors in segments, N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray, IntArray

_BLOCK = 16_384
_STEPS = 2**20  # as in `lgsid.nearest`: smaller differences are rounding, not meaning


class Vectors:
    """Vectors of items in segments, which may be memory-mapped; never changes.

    Args:
        segments: matrices of unit vectors, one after another.
        row_V: item of each vector; -1 for one that is of no item any more.
    """

    def __init__(self, segments: Sequence[FloatArray], row_V: IntArray) -> None:
        self._segments, self._row_V = tuple(segments), row_V
        self._starts = np.cumsum([0, *(len(segment) for segment in self._segments)])
        self._vector_N = np.full(int(row_V.max(initial=-1)) + 1, -1, dtype=np.int64)
        known = np.flatnonzero(row_V >= 0)
        self._vector_N[row_V[known]] = known

    def plus(self, emb_ND: FloatArray, row_V: IntArray) -> Vectors:
        """The same with more vectors."""
        return Vectors((*self._segments, emb_ND), np.concatenate([self._row_V, row_V]))

    def like(self, segments: Sequence[FloatArray]) -> Vectors:
        """Other vectors of the same items, as far as the segments go."""
        return Vectors(segments, self._row_V[: sum(len(segment) for segment in segments)])

    def of(self, row: int) -> FloatArray | None:
        """The vector (D,) of an item; None where it has none."""
        vector = int(self._vector_N[row]) if row < len(self._vector_N) else -1
        if vector < 0:
            return None
        segment = int(np.searchsorted(self._starts, vector, side="right")) - 1
        return np.asarray(self._segments[segment][vector - self._starts[segment]], dtype=np.float32)

    def nearest(self, query_D: FloatArray, k: int, without: int = -1) -> tuple[IntArray, FloatArray]:
        """Rows and cosines of the k nearest items, the most similar first; of equal ones the lower row first.

        Args:
            query_D: of any length.
            k: how many at most.
            without: an item that is left out.
        """
        query_D = query_D / max(float(np.linalg.norm(query_D)), 1e-12)
        best_row: IntArray = np.empty(0, dtype=np.int64)
        best_score: DoubleArray = np.empty(0)
        for segment, start in zip(self._segments, self._starts[:-1], strict=True):
            for at in range(0, len(segment), _BLOCK):
                block = segment[at : at + _BLOCK]
                row_b = self._row_V[start + at : start + at + len(block)]
                score_b = np.rint((block @ query_D).astype(np.float64) * _STEPS)
                score_b[(row_b < 0) | (row_b == without)] = -np.inf
                row, score = np.concatenate([best_row, row_b]), np.concatenate([best_score, score_b])
                best_row, best_score = _best(row, score, k)
        return best_row, (best_score / _STEPS).astype(np.float32)


def _best(row: IntArray, score: DoubleArray, k: int) -> tuple[IntArray, DoubleArray]:
    if k < len(score):
        least = np.partition(score, len(score) - k)[len(score) - k]
        kept = score >= least
        row, score = row[kept], score[kept]
    order = np.lexsort((row, -score))[:k]
    order = order[score[order] > -np.inf]
    return row[order], score[order]
