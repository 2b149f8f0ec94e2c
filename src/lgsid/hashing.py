"""Hashes.

Counter-based pseudo-random bits are functions of their key alone, the same on every machine and in every release.
Reference: SplitMix64, Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).

Hashes of IDs are those of polars, which takes seconds for millions of them and promises nothing from one of its
releases to the next. What is kept for later and depends on them keeps `id_hash_mark` too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lgsid.arrays import DoubleArray

if TYPE_CHECKING:
    import polars as pl

Bits: TypeAlias = npt.NDArray[np.uint64]

WEYL = 0x9E3779B97F4A7C15
"""Step between the counters of one sequence: 2^64 over the golden ratio."""


def mixed(x: Bits) -> Bits:
    """The finaliser of SplitMix64, of any shape: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(bits: Bits) -> DoubleArray:
    """Numbers in [0, 1) of mixed bits, of the same shape."""
    numbers: DoubleArray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers


def id_hash(column: str) -> pl.Expr:
    """Hashes (uint64) of a column of IDs, under the column's name."""
    import polars as pl

    return pl.col(column).cast(pl.String).hash(seed=0)


def id_hash_mark() -> str:
    """Tells one way of hashing IDs from another."""
    import polars as pl

    return f"{pl.DataFrame({'id': ['lgsid']}).select(id_hash('id')).item():016x}"
