"""How many items change their codes when a tokeniser is fitted anew: under another seed, or with new items.

Which number a code has is arbitrary, so the codes of the two fits are first matched level by level, one to one, so that
as many items as can be keep theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lgsid.arrays import CodeArray
from lgsid.sid.matching import match_codes


def changed_share(old_NL: CodeArray, new_NL: CodeArray, sizes: Sequence[int]) -> dict[str, Any]:
    """Share of the items whose codes differ between two fits, after the best matching of each level.

    Args:
        old_NL, new_NL: raw codes of the same items by the one and by the other fit.
        sizes: codes of each level.

    Returns:
        ``levels``, the share of items whose token of each level changed, and ``sid``, the share of which any did.
    """
    changed_NL = np.stack(
        [
            match_codes(old_N, new_N, size)[new_N] != old_N
            for old_N, new_N, size in zip(old_NL.T, new_NL.T, sizes, strict=True)
        ],
        axis=1,
    )
    return {"levels": changed_NL.mean(axis=0).tolist(), "sid": float(changed_NL.any(axis=1).mean())}
