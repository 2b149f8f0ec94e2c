"""Matching the codes of two fits: which new code stands for which old one.

Two fits of a tokeniser number their codes differently even where they cut the catalogue in the same way. The numbering
that agrees best is the permutation with the greatest total overlap (linear sum assignment; Kuhn, "The Hungarian method
for the assignment problem", 1955, in the variant of Jonker and Volgenant).

Axes: N items, K codes.
"""

from __future__ import annotations

import numpy as np

from lgsid.arrays import CodeArray
from lgsid.errors import DataError


def match_codes(old_N: CodeArray, new_N: CodeArray, size: int) -> CodeArray:
    """The permutation of new codes that agrees with the old codes on most items.

    Args:
        old_N, new_N: codes that the same items have in the two fits, one level, 0 to ``size`` - 1.
        size: codes of the level, K.

    Returns:
        int32 (K,): ``p[new code]`` is its old code, so that ``p[new_N] == old_N`` on as many items as possible. Among
        permutations that are equally good, one that leaves more codes as they are.

    Raises:
        DataError: the arrays are not of one length, or a code is out of range.
    """
    from scipy.optimize import linear_sum_assignment

    if old_N.shape != new_N.shape or old_N.ndim != 1:
        raise DataError(f"got codes of shapes {old_N.shape} and {new_N.shape}, expected one code per item in each")
    for codes_N in (old_N, new_N):
        if len(codes_N) and not (codes_N.min() >= 0 and codes_N.max() < size):
            raise DataError(f"got codes {codes_N.min()} to {codes_N.max()}, expected 0 to {size - 1}")
    pairs = np.bincount(new_N.astype(np.int64) * size + old_N, minlength=size * size)
    overlap_KK = pairs.reshape(size, size).astype(np.float64)
    overlap_KK[np.diag_indices(size)] += 0.5 / size  # all of them together weigh less than one item
    new, old = linear_sum_assignment(overlap_KK, maximize=True)
    permutation = np.empty(size, dtype=np.int32)
    permutation[new] = old
    return permutation
