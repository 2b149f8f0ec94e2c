"""The contract of every tokeniser: catalogue items and their embeddings in, codes out.

A tokeniser is fitted once and frozen; `transform` of the same item always gives the same codes, alone or in a batch.
Codes are *raw*: two items may share them. `lgsid.sid.unique` makes them unique.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from lgsid.arrays import CodeArray, FloatArray
from lgsid.errors import DataError, NotFittedError
from lgsid.sid.explain import Explanation, TokenBook


class Tokenizer(ABC):
    """Base of all tokenisers.

    Attributes:
        method: name in configurations and result tables.
        books: one codebook (K, D) per level, float32; empty before `fit`.
        tokens: what each token stands for, in words; empty before `fit`.
    """

    method: ClassVar[str]
    books: list[FloatArray]
    tokens: TokenBook

    @abstractmethod
    def fit(self, items: pl.DataFrame, emb_ND: FloatArray) -> Self:
        """Learn the codebooks from items (N rows of the `items` table) and their embeddings (N, D)."""

    @abstractmethod
    def transform(self, items: pl.DataFrame, emb_ND: FloatArray) -> CodeArray:
        """Raw codes, int32 of shape (N, L)."""

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, codebooks.safetensors, tokens.json and a model card."""

    @classmethod
    @abstractmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote; raises ArtifactError where it is missing, corrupt or of another method."""

    def decode(self, codes_NL: CodeArray) -> FloatArray:
        """The vectors that codes stand for, float32 (N, D): the sum of the chosen centroids.

        Raises:
            DataError: a code is out of range.
        """
        import torch

        from lgsid.sid.residual import decode

        self._check_codes(codes_NL)
        books = [torch.from_numpy(book) for book in self.books]
        vectors: FloatArray = decode(torch.from_numpy(codes_NL[:, : len(books)]).long(), books).numpy()
        return vectors

    def explain(self, codes_L: CodeArray) -> Explanation:
        """What a SID, or the first tokens of one, means in words."""
        if not self.books:
            raise self._not_fitted("explain")
        return self.tokens.explain([int(code) for code in codes_L])

    def _check_codes(self, codes_NL: CodeArray) -> None:
        if not self.books:
            raise self._not_fitted("decode")
        if codes_NL.ndim != 2 or codes_NL.shape[1] < len(self.books):
            raise DataError(f"got codes of shape {codes_NL.shape}, expected (items, {len(self.books)})")
        for level, book in enumerate(self.books):
            column = codes_NL[:, level]
            if len(column) and not (column.min() >= 0 and column.max() < len(book)):
                raise DataError(
                    f"level {level + 1} has codes {column.min()} to {column.max()}, expected 0 to {len(book) - 1}"
                )

    def _not_fitted(self, verb: str) -> NotFittedError:
        name = type(self).__name__
        return NotFittedError(f"{name}.{verb} was called before fit", f"{name}().fit(items, embeddings)")

    @staticmethod
    def check_pair(items: pl.DataFrame, emb_ND: FloatArray) -> FloatArray:
        """The embeddings as contiguous float32, one row per item.

        Raises:
            DataError: their numbers differ, or a value is not finite.
        """
        from lgsid.sid.kmeans import check_matrix

        if len(items) != len(emb_ND):
            raise DataError(f"got {len(items)} items and {len(emb_ND)} embeddings, expected one embedding per item")
        return check_matrix(emb_ND)


def config_json(method: str, seed: int, fields: dict[str, Any]) -> dict[str, Any]:
    """Content of a tokeniser's config.json."""
    return {"format": 1, "method": method, "seed": seed, **fields}
