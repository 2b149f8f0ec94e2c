"""Exact nearest items of free query vectors, apart for the candidates that share the query's label and the others.

Axes: Q queries, N items, D dimensions, K neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lgsid.arrays import FloatArray, IntArray

if TYPE_CHECKING:
    import torch

_QUERIES_PER_BLOCK, _ITEMS_PER_BLOCK = 512, 8192
_STEPS = 2**20  # the resolution of similarities in `lgsid.nearest`, so that both order alike
_ROW_BITS = 32
_ROW_MASK = 2**_ROW_BITS - 1
_NEVER = -(2**62)  # the key of what is not a candidate


@dataclass(frozen=True)
class Nearest:
    """The K best candidates of each query, best first; where there are fewer, similarity is -inf and the row 0."""

    index_QK: IntArray
    similarity_QK: FloatArray


def same_and_other(
    query_QD: FloatArray, own_Q: IntArray, emb_ND: FloatArray, code_Q: IntArray, code_N: IntArray, k: int
) -> tuple[Nearest, Nearest]:
    """The k most similar items with the query's label, and the k most similar of all the others.

    Similarity is the cosine, rounded to 2⁻²⁰; equals come in the order of their rows. Memory beside the arguments:
    some 150 MB, whatever N is.

    Args:
        query_QD: query vectors of any length.
        own_Q: rows of the items they stand for, which are never neighbours of theirs.
        emb_ND: the items' vectors.
        code_Q, code_N: labels of the queries and the items; a label below 0 is unknown and equals no other.
        k: neighbours on either side.
    """
    import torch

    sides: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    with torch.inference_mode():
        for rows in _slices(len(query_QD), _QUERIES_PER_BLOCK):
            best = _block_keys(query_QD[rows], own_Q[rows], emb_ND, code_Q[rows], code_N, k)
            for side, keys in zip(sides, best, strict=True):
                side.append(keys)
        same, other = (_decoded(torch.cat(side) if side else torch.empty((0, k), dtype=torch.int64)) for side in sides)
    return same, other


def nearest_items(query_QD: FloatArray, own_Q: IntArray, emb_ND: FloatArray, k: int) -> IntArray:
    """Rows of the k items most similar to free query vectors, the items they stand for left out; shape (Q, K)."""
    nothing = np.full(len(query_QD), -1, dtype=np.int64)
    k = min(k, len(emb_ND) - 1)
    _, everything = same_and_other(query_QD, own_Q, emb_ND, nothing, np.full(len(emb_ND), -1, dtype=np.int64), k)
    return everything.index_QK


def _block_keys(
    query_BD: FloatArray, own_B: IntArray, emb_ND: FloatArray, code_B: IntArray, code_N: IntArray, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys of the best candidates with the query's label and without, for one block of queries."""
    import torch

    query, own, label = _unit(query_BD), torch.tensor(own_B), torch.tensor(code_B)
    same, other = (torch.full((len(own_B), k), _NEVER, dtype=torch.int64) for _ in range(2))
    labelled = bool((label >= 0).any())
    for cols in _slices(len(emb_ND), _ITEMS_PER_BLOCK):
        row = torch.arange(cols.start, cols.stop)
        key = (query @ _unit(emb_ND[cols]).T).mul_(_STEPS).round_().long().mul_(2**_ROW_BITS).add_(_ROW_MASK - row)
        key.masked_fill_(own[:, None] == row, _NEVER)
        if labelled:
            alike = (label[:, None] == torch.tensor(code_N[cols])) & (label >= 0)[:, None]
            same = _merge(same, key.masked_fill(~alike, _NEVER), k)
            key.masked_fill_(alike, _NEVER)
        other = _merge(other, key, k)
    return same, other


def _merge(best_BK: torch.Tensor, key_BN: torch.Tensor, k: int) -> torch.Tensor:
    import torch

    block = key_BN.topk(min(k, key_BN.shape[1]), dim=1).values
    return torch.cat([best_BK, block], dim=1).topk(k, dim=1).values


def _decoded(key_QK: torch.Tensor) -> Nearest:
    key = key_QK.numpy()
    found = key > _NEVER
    similarity = np.where(found, (key >> _ROW_BITS) / _STEPS, -np.inf).astype(np.float32)
    return Nearest(np.where(found, _ROW_MASK - (key & _ROW_MASK), 0), similarity)


def _unit(emb_BD: FloatArray) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(torch.tensor(emb_BD, dtype=torch.float32), dim=1)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
