"""Random codes: the control that every claim about a tokeniser must beat.

The code of each level is a hash of (seed, level, item_id) modulo K, so an item has the same codes in every catalogue
and neither its text nor its place has a say. What a recommender gains from these codes, it gains from the form of a SID
and not from its meaning; TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065) compares with random IDs likewise.

The vector of a code is the mean of what the levels before leave of its items' embeddings, so that decoding, errors and
the moves of `lgsid.sid.unique` are defined; with many items to a code it is next to zero.

Axes: N items, D dimensions, L levels, K codes.
"""

from __future__ import annotations

import hashlib
from typing import ClassVar

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray
from lgsid.errors import DataError
from lgsid.sid.base import Tokenizer, check_lengths

HASH_BYTES = 8
"""Of the hash of one level: 64 bits modulo K are even to within K · 2⁻⁶⁴."""


class RandomTokenizer(Tokenizer):
    """Codes that are a hash of the item's identifier; see `Tokenizer` for the arguments."""

    method: ClassVar[str] = "random"

    def transform(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None = None) -> CodeArray:
        """Raw codes, int32 of shape (N, L), functions of ``item_id`` alone; the embeddings are only counted."""
        if not self.books:
            raise self._not_fitted("transform")
        check_lengths(items, emb_ND)
        return hashed_codes(items, self.config.levels, self.config.codes, self.seed)

    def can_relabel(self, level: int) -> bool:
        """None: codes are hashes."""
        return False

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        import torch

        from lgsid.sid.kmeans import check_enough, means

        levels, codes = self.config.levels, self.config.codes
        check_enough(len(items), codes)
        codes_NL = torch.from_numpy(hashed_codes(items, levels, codes, self.seed)).long()
        residual_ND = torch.from_numpy(emb_ND).clone()
        books = []
        for code_N in codes_NL.T:
            # a code that no item has stands for the mean of all
            book_KD = means(residual_ND, code_N, residual_ND.mean(0).expand(codes, -1).clone())
            residual_ND -= book_KD[code_N]
            books.append(book_KD.numpy())
        return books


def hashed_codes(items: pl.DataFrame, levels: int, codes: int, seed: int) -> CodeArray:
    """Codes int32 (N, L) from SHAKE-128 of seed and ``item_id``; level l reads its own 8 bytes of the stream.

    Raises:
        DataError: there is no column ``item_id``.
    """
    if "item_id" not in items.columns:
        raise DataError(f"items have no column 'item_id'; got {', '.join(items.columns)}")
    start = hashlib.shake_128(f"{seed}\x00".encode())
    size = HASH_BYTES * levels
    stream = bytearray(size * len(items))
    for row, item_id in enumerate(items["item_id"].cast(pl.String)):
        of_item = start.copy()
        of_item.update(item_id.encode())
        stream[size * row : size * (row + 1)] = of_item.digest(size)
    hash_NL = np.frombuffer(stream, dtype="<u8").reshape(len(items), levels)
    return (hash_NL % np.uint64(codes)).astype(np.int32)
