"""Exact nearest neighbours by cosine similarity, in blocks; one answer whatever a machine's order of summation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from lgsid.arrays import FloatArray, IntArray
from lgsid.errors import DataError

if TYPE_CHECKING:
    import torch

_QUERIES_PER_BLOCK, _ITEMS_PER_BLOCK = 1024, 16_384
_STEPS = 2**20  # similarities are compared in steps of 1/_STEPS: smaller differences are rounding, not meaning
_SELF = -4 * _STEPS  # below every cosine
_ROW_BITS = 32
_ROW_MASK = 2**_ROW_BITS - 1


def sample_queries(items: int, sample: int, seed: int) -> IntArray:
    """Rows of at most ``sample`` of the items, in ascending order; the same for the same seed."""
    if items <= sample:
        return np.arange(items, dtype=np.int64)
    rows = np.random.default_rng(seed).choice(items, size=sample, replace=False)
    return np.sort(rows).astype(np.int64)


def nearest_neighbours(emb_ND: FloatArray, queries_Q: IntArray, k: int) -> tuple[IntArray, FloatArray]:
    """The k items of highest cosine similarity to each query item, exactly, the query itself left out.

    Similarities are rounded to 2⁻²⁰ (about 1e-6); items of equal rounded similarity come in the order of their rows.
    Memory beside the embeddings: some 200 MB, whatever N is.

    Args:
        emb_ND: embeddings of N items; of any length, they are normalised here (a zero vector is similar to nothing).
        queries_Q: rows of the query items.
        k: neighbours per query; at most N - 1 are returned.

    Returns:
        rows and similarities of the neighbours, both of shape (Q, min(k, N - 1)), the most similar first.

    Raises:
        DataError: there are fewer than two items, or ``k`` is below 1.
    """
    import torch

    items = len(emb_ND)
    if items < 2 or k < 1:
        raise DataError(f"neighbours got {items} items and k = {k}, expected at least 2 items and k of at least 1")
    k = min(k, items - 1)
    keys_QK = np.empty((len(queries_Q), k), dtype=np.int64)
    with torch.inference_mode():
        for rows in _slices(len(queries_Q), _QUERIES_PER_BLOCK):
            keys_QK[rows] = _best_keys(emb_ND, queries_Q[rows], k).numpy()
    similarity_QK = ((keys_QK >> _ROW_BITS) / _STEPS).astype(np.float32)
    return _ROW_MASK - (keys_QK & _ROW_MASK), similarity_QK


def _best_keys(emb_ND: FloatArray, queries_B: IntArray, k: int) -> torch.Tensor:
    """Keys of the k nearest items of one block of queries, best first."""
    import torch

    query_BD = _unit(emb_ND[queries_B])
    query_rows = torch.from_numpy(queries_B)
    best = torch.empty((len(queries_B), 0), dtype=torch.int64)
    for rows in _slices(len(emb_ND), _ITEMS_PER_BLOCK):
        score = (query_BD @ _unit(emb_ND[rows]).T).mul_(_STEPS).round_()
        inside = ((query_rows >= rows.start) & (query_rows < rows.stop)).nonzero().squeeze(1)
        score[inside, query_rows[inside] - rows.start] = _SELF
        best = torch.cat([best, _block_keys(score, rows.start, k)], dim=1)
        best = best.topk(min(k, best.shape[1]), dim=1).values
    return best


def _block_keys(score: torch.Tensor, first_row: int, k: int) -> torch.Tensor:
    """Keys of the k best scores of each row of a block; ties at the k-th place go to the lower item row."""
    import torch

    size = min(k + 1, score.shape[1])
    value, index = score.topk(size, dim=1)
    keys = _keys(value, index + first_row)
    if size <= k:
        return keys
    # topk chooses among equals as it likes: the rows where that matters are ranked again by unique keys
    tied = (value[:, k - 1] == value[:, k]).nonzero().squeeze(1)
    every_row = torch.arange(first_row, first_row + score.shape[1])
    keys[tied, :k] = _keys(score[tied], every_row).topk(k, dim=1).values
    return keys[:, :k]


def _keys(value: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """One integer per candidate, unique, that orders by score first and by lower item row second."""
    keys: torch.Tensor = value.long() * 2**_ROW_BITS + (_ROW_MASK - row)
    return keys


def _unit(emb_BD: FloatArray) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(torch.tensor(emb_BD, dtype=torch.float32), dim=1)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
