"""Exact nearest neighbours by cosine similarity, in blocks; one answer whatever a machine's order of summation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lgsid.arrays import FloatArray, IntArray
from lgsid.errors import DataError

if TYPE_CHECKING:
    import torch

_QUERIES_PER_BLOCK, _ITEMS_PER_BLOCK = 1024, 16_384
_STEPS = 2**20  # similarities are compared in steps of 1/_STEPS: smaller differences are rounding, not meaning
_SELF = -4 * _STEPS  # below every cosine
_NEVER = -(2**62)  # the key of what is not a candidate
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
    items = len(emb_ND)
    if items < 2 or k < 1:
        raise DataError(f"neighbours got {items} items and k = {k}, expected at least 2 items and k of at least 1")
    keys_QK = _search(lambda rows: emb_ND[queries_Q[rows]], queries_Q, emb_ND, min(k, items - 1))
    return _decoded(keys_QK)


def nearest_items(query_QD: FloatArray, own_Q: IntArray, emb_ND: FloatArray, k: int) -> IntArray:
    """The k items most similar to free query vectors, the items that these stand for left out.

    Args:
        query_QD: query vectors of any length.
        own_Q: rows of the items they stand for, which are never neighbours of theirs.
        emb_ND: embeddings of N items.
        k: neighbours per query; at most N - 1 are returned.

    Returns:
        rows of shape (Q, min(k, N - 1)), ordered as by `nearest_neighbours`.
    """
    return _decoded(_search(lambda rows: query_QD[rows], own_Q, emb_ND, min(k, len(emb_ND) - 1)))[0]


@dataclass(frozen=True)
class Nearest:
    """The K best candidates of each query, best first; where there are fewer, similarity is -inf and the row 0.

    Attributes:
        index_QK: rows of items.
        similarity_QK: their cosines.
    """

    index_QK: IntArray
    similarity_QK: FloatArray


def same_and_other(
    query_QD: FloatArray, own_Q: IntArray, emb_ND: FloatArray, code_Q: IntArray, code_N: IntArray, k: int
) -> tuple[Nearest, Nearest]:
    """The k most similar items with the query's label, and the k most similar of all the others.

    Ordered as by `nearest_neighbours`. Memory beside the arguments: some 150 MB, whatever N is.

    Args:
        query_QD: query vectors of any length.
        own_Q: rows of the items they stand for, which are never neighbours of theirs.
        emb_ND: the items' vectors.
        code_Q, code_N: labels of the queries and the items; a label below 0 is unknown and equals no other.
        k: neighbours on either side.

    Returns:
        those with the query's label, and the others, each of shape (Q, k).
    """
    import torch

    keys = np.full((2, len(query_QD), k), _NEVER, dtype=np.int64)
    with torch.inference_mode():
        for rows in _slices(len(query_QD), _QUERIES_PER_BLOCK):
            for side, best in enumerate(_keys_by_label(query_QD[rows], own_Q[rows], emb_ND, code_Q[rows], code_N, k)):
                keys[side, rows] = best.numpy()
    same, other = (_or_nothing(key_QK) for key_QK in keys)
    return same, other


def _search(queries_of: Callable[[slice], FloatArray], own_Q: IntArray, emb_ND: FloatArray, k: int) -> IntArray:
    """Keys of the k nearest items of every query, best first, shape (Q, k)."""
    import torch

    keys_QK = np.empty((len(own_Q), k), dtype=np.int64)
    with torch.inference_mode():
        for rows in _slices(len(own_Q), _QUERIES_PER_BLOCK):
            keys_QK[rows] = _best_keys(_unit(queries_of(rows)), own_Q[rows], emb_ND, k).numpy()
    return keys_QK


def _best_keys(query_BD: torch.Tensor, own_B: IntArray, emb_ND: FloatArray, k: int) -> torch.Tensor:
    """Keys of the k nearest items of one block of queries, best first."""
    import torch

    own = torch.tensor(own_B)
    best = torch.empty((len(own_B), 0), dtype=torch.int64)
    for rows in _slices(len(emb_ND), _ITEMS_PER_BLOCK):
        score = (query_BD @ _unit(emb_ND[rows]).T).mul_(_STEPS).round_()
        inside = ((own >= rows.start) & (own < rows.stop)).nonzero().squeeze(1)
        score[inside, own[inside] - rows.start] = _SELF
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


def _keys_by_label(
    query_BD: FloatArray, own_B: IntArray, emb_ND: FloatArray, code_B: IntArray, code_N: IntArray, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of the best candidates with the query's label and without, for one block of queries."""
    import torch

    query, own, label = _unit(query_BD), torch.tensor(own_B), torch.tensor(code_B)
    same, other = (torch.full((len(own_B), k), _NEVER, dtype=torch.int64) for _ in range(2))
    for cols in _slices(len(emb_ND), _ITEMS_PER_BLOCK):
        row = torch.arange(cols.start, cols.stop)
        key = _keys((query @ _unit(emb_ND[cols]).T).mul_(_STEPS).round_(), row)
        key.masked_fill_(own[:, None] == row, _NEVER)
        alike = (label[:, None] == torch.tensor(code_N[cols])) & (label >= 0)[:, None]
        same = _merge(same, key.masked_fill(~alike, _NEVER), k)
        other = _merge(other, key.masked_fill_(alike, _NEVER), k)
    return same, other


def _merge(best_BK: torch.Tensor, key_BN: torch.Tensor, k: int) -> torch.Tensor:
    import torch

    block = key_BN.topk(min(k, key_BN.shape[1]), dim=1).values
    return torch.cat([best_BK, block], dim=1).topk(k, dim=1).values


def _decoded(key_QK: IntArray) -> tuple[IntArray, FloatArray]:
    """Rows and similarities of keys."""
    return _ROW_MASK - (key_QK & _ROW_MASK), ((key_QK >> _ROW_BITS) / _STEPS).astype(np.float32)


def _or_nothing(key_QK: IntArray) -> Nearest:
    found = key_QK > _NEVER
    index_QK, similarity_QK = _decoded(key_QK)
    return Nearest(np.where(found, index_QK, 0), np.where(found, similarity_QK, np.float32(-np.inf)))


def _unit(emb_BD: FloatArray) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(torch.tensor(emb_BD, dtype=torch.float32), dim=1)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
