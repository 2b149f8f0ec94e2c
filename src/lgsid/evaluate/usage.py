"""How the codes of a level share the items: counts, and how many codes cover how much of the catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lgsid.arrays import IntArray

COVERED = (0.5, 0.75, 0.9, 0.95, 0.99)
"""Shares of the items in the coverage figure (the quantiles of the paper's radar)."""


def code_counts(codes_NL: IntArray, codebooks: Sequence[int]) -> list[IntArray]:
    """Items of each code, one array of ``codebooks[l]`` counts per level; further columns of the codes are ignored."""
    return [
        np.bincount(codes_NL[:, level], minlength=codebook).astype(np.int64) for level, codebook in enumerate(codebooks)
    ]


def codes_to_cover(count_K: IntArray, share: float) -> int:
    """The fewest codes that together hold at least ``share`` of the items."""
    falling = np.cumsum(np.sort(count_K)[::-1])
    # counts are whole: a hair below the threshold keeps 0.95 * 20 = 19 from turning into 20 by rounding
    return int(np.searchsorted(falling, share * falling[-1] - 1e-9)) + 1


def coverage(counts: Sequence[IntArray]) -> dict[float, list[int]]:
    """Codes needed per level, by covered share of the items."""
    return {share: [codes_to_cover(count, share) for count in counts] for share in COVERED}
