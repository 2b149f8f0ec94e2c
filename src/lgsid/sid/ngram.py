"""RQ-VAE codes consumed as n-grams: what a recommender looks up in its embedding tables.

References: Singh et al., "Better Generalization with Semantic IDs" (RecSys 2024, arXiv 2306.08121): a code is cut into
pieces of n tokens, and each piece has a table of its own; Zheng et al., "Enhancing Embedding Representation Stability
in Recommendation Systems with Semantic ID" (Meta, arXiv 2504.02137): prefixes of all lengths, so that items share what
they have in common and differ in the rest. The codes are those of `lgsid.sid.rqvae`, bit for bit.

An n-gram that can take no more values than a table may have rows has a row of its own for each; others are hashed.
`prefix_ngrams` and `plain_ngrams` take the codes of any tokeniser.

Axes: N items, L tokens of a code (an extra token included), T tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from lgsid.arrays import CodeArray, IntArray
from lgsid.hashing import WEYL, mixed
from lgsid.sid.rqvae import RqVaeTokenizer

"""2⁶⁴ over the golden ratio, of SplitMix64 (Steele et al. 2014)."""


class NgramTokenizer(RqVaeTokenizer):
    """The codes of RQ-VAE under n-gram embedding tables; see `Tokenizer` for the arguments."""

    method: ClassVar[str] = "rqvae_ngram"

    def embedding_rows(self, codes_NL: CodeArray) -> tuple[IntArray, list[int]]:
        """Prefixes, or pieces of ``sid.ngram.order`` tokens; an extra token counts as one more token.

        Unlike the tables of other methods these do not depend on which items are asked for.
        """
        self._check_codes(codes_NL)
        # an extra token counts the items of one code, never more than the last level has codes
        sizes = [len(self.books[min(level, len(self.books) - 1)]) for level in range(codes_NL.shape[1])]
        options = self.config.ngram
        if options.kind == "plain":
            return plain_ngrams(codes_NL, sizes, options.order, options.rows)
        return prefix_ngrams(codes_NL, sizes, options.rows)


def prefix_ngrams(codes_NL: CodeArray, sizes: Sequence[int], rows: int) -> tuple[IntArray, list[int]]:
    """Rows of all prefixes: first token, first two, …, one table each.

    Args:
        codes_NL: codes.
        sizes: how many values each token can take, L.
        rows: most rows of a table.

    Returns:
        row of each item in each table, int64 (N, L), and the number of rows of each table.
    """
    return _tables(codes_NL, sizes, [slice(0, end) for end in range(1, codes_NL.shape[1] + 1)], rows)


def plain_ngrams(codes_NL: CodeArray, sizes: Sequence[int], order: int, rows: int) -> tuple[IntArray, list[int]]:
    """Rows of the pieces of ``order`` tokens, the last one perhaps shorter; see `prefix_ngrams`."""
    return _tables(codes_NL, sizes, [slice(at, at + order) for at in range(0, codes_NL.shape[1], order)], rows)


def _tables(
    codes_NL: CodeArray, sizes: Sequence[int], pieces: Sequence[slice], rows: int
) -> tuple[IntArray, list[int]]:
    columns, heights = [], []
    for number, piece in enumerate(pieces):
        column, height = _rows(codes_NL[:, piece], sizes[piece], rows, number)
        columns.append(column)
        heights.append(height)
    return np.stack(columns, axis=1), heights


def _rows(codes_Nn: CodeArray, sizes: Sequence[int], rows: int, table: int) -> tuple[IntArray, int]:
    """Rows of one table's n-grams, and its height."""
    possible = math.prod(sizes)
    if possible <= rows:
        row_N = np.zeros(len(codes_Nn), dtype=np.int64)
        for size, column in zip(sizes, codes_Nn.T, strict=True):
            row_N = row_N * size + column
        return row_N, possible
    return (ngram_hash(codes_Nn, table) % np.uint64(rows)).astype(np.int64), rows


def ngram_hash(codes_Nn: CodeArray, table: int) -> npt.NDArray[np.uint64]:
    """Well-mixed 64-bit hash of each row of tokens, another one for every table."""
    state = np.full(len(codes_Nn), (table + 1) * WEYL % 2**64, dtype=np.uint64)
    for column in codes_Nn.T:
        state = mixed(state + column.astype(np.uint64) + np.uint64(WEYL))
    return state
