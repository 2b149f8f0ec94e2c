"""The contract of every tokeniser: catalogue items and their embeddings in, codes out.

A tokeniser is fitted once and frozen; `transform` of the same item always gives the same codes, alone or in a batch.
Codes are *raw*: two items may share them. `lgsid.sid.unique` makes them unique.

What the methods share is written here. An item is *projected* into the space of the codebooks (its embedding itself, or
what an encoder network or a geographic stream makes of it), coded there level by level, and the sum of the chosen
centroids is *lifted* back to an embedding. A method says how it learns, and overrides what it does differently.

Axes: N items, D embedding dimensions, C dimensions of the space of the codebooks, L levels, K codes of a level.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.artifact import atomic_path, read_json, write_json, write_text
from lgsid.config import SidConfig
from lgsid.errors import ArtifactError, DataError, NotFittedError
from lgsid.sid.explain import Explanation, TokenBook, describe_tokens, model_card

FORMAT = 2
"""Of the saved folder."""
CHUNK = 65_536
"""Items that are projected and coded together, so that a catalogue may lie on disk (a memory-mapped array)."""
REFIT = "lgsid tokenize RUN"


class Tokenizer(ABC):
    """Base of all tokenisers.

    Args:
        levels: tokens per SID, L.
        codes: codes per level, K.
        seed: same seed, same data, same bits.
        config: all further options; overrides ``levels`` and ``codes``.

    Attributes:
        method: name in configurations and result tables.
        warm: whether a fit can begin from another one's codebooks.
        place_levels: levels (from 1) whose tokens stand for places, for their description.
        books: one codebook (K, C) per level, float32; empty before `fit`.
        tokens: what each token stands for, in words; empty before `fit`.
    """

    method: ClassVar[str]
    warm: ClassVar[bool] = False
    place_levels: ClassVar[frozenset[int]] = frozenset()

    def __init__(self, levels: int = 3, codes: int = 256, seed: int = 0, config: SidConfig | None = None) -> None:
        self.config = config or SidConfig(method=self.method, levels=levels, codes=codes)  # type: ignore[arg-type]
        self.seed = seed
        self.books: list[FloatArray] = []
        self.tokens = TokenBook({})
        self._start: Self | None = None

    def fit(
        self,
        items: pl.DataFrame,
        emb_ND: FloatArray,
        events: pl.DataFrame | None = None,
        start: Self | None = None,
    ) -> Self:
        """Learn the codebooks.

        Args:
            items: N rows of the `items` table.
            emb_ND: their embeddings.
            events: visits of the training period, for the methods that use them; no others may be given.
            start: a fitted tokeniser to begin from, so that fewer codes change; for methods that are `warm`.

        Raises:
            ConfigError: the catalogue has fewer items than codes.
            DataError: numbers of rows differ, a value is not finite, or a column that the method needs is missing.
        """
        emb = self.check_pair(items, emb_ND)
        self._start = start if self.warm else None
        self.books = [np.ascontiguousarray(book, dtype=np.float32) for book in self._learn(items, emb, events)]
        self._start = None
        self.tokens = describe_tokens(items, self.transform(items, emb, events), self.place_levels)
        return self

    def transform(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None = None) -> CodeArray:
        """Raw codes, int32 of shape (N, L). The embeddings may be float16 or memory-mapped; see `fit` for the rest."""
        if not self.books:
            raise self._not_fitted("transform")
        check_lengths(items, emb_ND)
        codes_NL = np.empty((len(items), len(self.books)), dtype=np.int32)
        for rows in chunks(len(items)):
            codes_NL[rows] = self._codes(*self._project(items[rows], emb_ND[rows], events))
            release_pages(emb_ND)
        return codes_NL

    def project(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None = None) -> FloatArray:
        """The items in the space of the codebooks, float32 (N, C)."""
        if not self.books:
            raise self._not_fitted("project")
        return self._project(items, emb_ND, events)[0]

    def lift(self, x_NC: FloatArray) -> FloatArray:
        """Embeddings (N, D) of points in the space of the codebooks: the points, unless a method says otherwise."""
        return x_NC

    def decode(self, codes_NL: CodeArray) -> FloatArray:
        """The embeddings that codes stand for, float32 (N, D).

        Args:
            codes_NL: codes of all levels or of the first ones; an extra token behind the last level says nothing.

        Raises:
            DataError: a code is out of range.
        """
        return self.lift(self.sum_of_centroids(codes_NL))

    def sum_of_centroids(self, codes_NL: CodeArray) -> FloatArray:
        """The points of the space of the codebooks that codes stand for, float32 (N, C); see `decode`."""
        self._check_codes(codes_NL)
        total: FloatArray = self.books[0][codes_NL[:, 0]].copy()
        for level in range(1, min(codes_NL.shape[1], len(self.books))):
            total += self.books[level][codes_NL[:, level]]
        return total

    def last_level_distances(self, x_NC: FloatArray, codes_NL: CodeArray) -> FloatArray:
        """What each code of the last level would cost: squared distances (N, K) of the last residual to its centroids.

        Args:
            x_NC: projected items.
            codes_NL: their codes; those of the last level are not looked at.
        """
        book = self.books[-1]
        residual_NC = x_NC - self.sum_of_centroids(codes_NL[:, : len(self.books) - 1])
        distance: FloatArray = (residual_NC * residual_NC).sum(1, keepdims=True) - 2 * residual_NC @ book.T
        distance += (book * book).sum(1)
        return distance

    def embedding_rows(self, codes_NL: CodeArray) -> tuple[IntArray, list[int]]:
        """How a recommender's embedding tables take the codes: one table a level, unless a method says otherwise.

        Returns:
            row of each item in each table, int64 (N, tables), and the number of rows of each table.
        """
        self._check_codes(codes_NL)
        sizes = [len(book) for book in self.books]
        sizes += [int(column.max(initial=0)) + 1 for column in codes_NL.T[len(sizes) :]]
        return codes_NL.astype(np.int64), sizes

    def explain(self, codes_L: CodeArray) -> Explanation:
        """What a SID, or the first tokens of one, means in words."""
        if not self.books:
            raise self._not_fitted("explain")
        return self.tokens.explain([int(code) for code in codes_L])

    def can_relabel(self, level: int) -> bool:
        """Whether the numbers of a level's codes (from 1) are arbitrary, as those of centroids are, or follow from the
        items themselves, as those of a grid's cells and of hashes do."""
        return True

    def relabel(self, level: int, permutation_K: CodeArray) -> None:
        """Give the codes of a level other numbers: what was code c becomes ``permutation_K[c]``. Nothing else changes.

        Args:
            level: from 1.
            permutation_K: each number below K once.

        Raises:
            DataError: it is no permutation of the level's codes, or the level has none; see `can_relabel`.
        """
        if not self.books:
            raise self._not_fitted("relabel")
        size = len(self.books[level - 1])
        if not self.can_relabel(level):
            raise DataError(
                f"the codes of level {level} of {self.method!r} follow from the items: no other numbers fit"
            )
        if not np.array_equal(np.sort(permutation_K), np.arange(size)):
            raise DataError(f"level {level} has codes 0 to {size - 1}, got no permutation of them: {permutation_K}")
        old_K = np.argsort(permutation_K)
        self.books[level - 1] = np.ascontiguousarray(self.books[level - 1][old_K])
        self._reorder(level, old_K)
        self._restore(*self._state())  # what holds the codebooks a second time takes up the new ones
        meanings = self.tokens.meanings.get(level, {})
        renamed = {int(permutation_K[code]): meaning for code, meaning in meanings.items()}
        self.tokens = TokenBook({**self.tokens.meanings, level: dict(sorted(renamed.items()))})

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, codebooks.safetensors, state.json, tokens.json and the model card README.md."""
        from safetensors.numpy import save_file

        if not self.books:
            raise self._not_fitted("save_pretrained")
        folder = Path(folder)
        tensors, state = self._state()
        books = {f"level_{level}": book for level, book in enumerate(self.books, start=1)}
        with atomic_path(folder / "codebooks.safetensors") as path:
            save_file({**{name: np.ascontiguousarray(value) for name, value in tensors.items()}, **books}, path)
        write_json(folder / "state.json", state)
        write_json(folder / "tokens.json", self.tokens.to_json())
        write_text(folder / "README.md", model_card(self.config, self.books, self.tokens))
        write_json(folder / "config.json", {
            "format": FORMAT, "method": self.method, "seed": self.seed, "sizes": [len(book) for book in self.books],
            "config": self.config.model_dump(mode="json"),
        })  # fmt: skip

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            ArtifactError: a file is missing, corrupt, of another method or of another shape.
        """
        folder = Path(folder)
        stored = read_json(folder / "config.json")
        if stored.get("method") != cls.method or stored.get("format") != FORMAT:
            raise ArtifactError(f"{folder} does not hold a {cls.method!r} tokeniser of format {FORMAT}", REFIT)
        try:
            tokenizer = cls(seed=stored["seed"], config=SidConfig.model_validate(stored["config"]))
        except ValueError as error:  # pydantic's ValidationError is one
            raise ArtifactError(f"{folder}/config.json has options of another version: {error}", REFIT) from error
        tensors = dict(_tensors(folder / "codebooks.safetensors"))
        names = [f"level_{level}" for level in range(1, len(stored["sizes"]) + 1)]
        if [len(tensors.get(name, ())) for name in names] != stored["sizes"]:
            raise ArtifactError(f"{folder}: codebooks do not fit config.json: {sorted(tensors)}", REFIT)
        tokenizer.books = [tensors.pop(name) for name in names]
        try:
            tokenizer._restore(tensors, read_json(folder / "state.json"))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ArtifactError(f"{folder}: codebooks do not fit config.json: {error!r}", REFIT) from error
        tokenizer.tokens = TokenBook.from_json(read_json(folder / "tokens.json"))
        return tokenizer

    @abstractmethod
    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        """Learn everything that `_project` and `lift` need, and return the codebooks."""

    def _project(
        self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
    ) -> tuple[FloatArray, IntArray | None]:
        """The items in the space of the codebooks (N, C), and the codes (N,) of the first level where something other
        than the distance there decides them. The embeddings themselves and None, unless a method says otherwise."""
        return self.check_pair(items, emb_ND), None

    def _codes(self, x_NC: FloatArray, first_N: IntArray | None) -> CodeArray:
        """Codes (N, L) of projected items: the nearest centroid of each residual."""
        import torch

        from lgsid.sid.residual import encode

        books = [torch.from_numpy(book) for book in self.books]
        codes = encode(torch.from_numpy(x_NC), books, None if first_N is None else torch.from_numpy(first_N))
        result: CodeArray = codes.numpy().astype(np.int32)
        return result

    def _state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """What must be saved besides the codebooks: tensors (no name "level_…"), and a JSON object."""
        return {}, {}

    def _restore(self, tensors: Mapping[str, FloatArray], state: Mapping[str, Any]) -> None:
        """Take up what `_state` gave; called with the codebooks in place."""
        return

    def _reorder(self, level: int, old_K: IntArray) -> None:
        """Bring what is kept per code besides the codebook into a new order: code c takes the place of ``old_K[c]``."""
        return

    def _check_codes(self, codes_NL: CodeArray) -> None:
        if not self.books:
            raise self._not_fitted("decode")
        if codes_NL.ndim != 2 or codes_NL.shape[1] == 0:
            raise DataError(f"got codes of shape {codes_NL.shape}, expected (items, {len(self.books)})")
        for level, (column, book) in enumerate(zip(codes_NL.T, self.books, strict=False), start=1):
            if len(column) and not (column.min() >= 0 and column.max() < len(book)):
                raise DataError(
                    f"level {level} has codes {column.min()} to {column.max()}, expected 0 to {len(book) - 1}"
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

        check_lengths(items, emb_ND)
        return check_matrix(emb_ND)


def check_lengths(items: pl.DataFrame, emb_ND: FloatArray) -> None:
    """Refuse embeddings that are not one per item."""
    if len(items) != len(emb_ND):
        raise DataError(f"got {len(items)} items and {len(emb_ND)} embeddings, expected one embedding per item")


def release_pages(emb_ND: FloatArray) -> None:
    """Let go of the pages of a memory-mapped array that have been read, so that memory does not grow to its size."""
    # not of a private copy ("c"), whose changes would go with the pages
    if isinstance(emb_ND, np.memmap) and emb_ND.mode == "r" and hasattr(mmap, "MADV_DONTNEED"):
        emb_ND._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def chunks(size: int) -> Iterator[slice]:
    """Slices of `CHUNK` rows."""
    return (slice(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK))


def _tensors(path: Path) -> dict[str, FloatArray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, FloatArray] = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", REFIT) from error
    return tensors
