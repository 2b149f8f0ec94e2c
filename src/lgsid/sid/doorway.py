"""The doorway: what tells the codes of two items apart whose texts are the same.

Shops of one kind in one district often have the same text, without a name the same embedding. Their last tokens can
only differ if it sees more than the embedding: a few dimensions that are a random function of the grid cell, of some
metres, in which an item lies. How much of what the last token describes is doorway is decided by the data: the least
share that brings raw collisions down to the target, none where they are rare already.

A smooth position (offset from the region's centre) in its stead needed a far larger error for the same collisions:
neighbours in one building hardly differ by it. See docs/experiments.md.

Axes: N items, D embedding dimensions, K codes, L levels.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray
from lgsid.geo import h3_cells
from lgsid.hashing import WEYL, mixed, uniform

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lgsid.sid.residual import Training

RESOLUTION = 13
"""Of the H3 grid: hexagons with edges of 4 m."""
DIM = 4
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Shares of the doorway that are tried."""
MOST_ERROR = 0.1
"""The doorway may raise the reconstruction error by at most this share of the embeddings' variance."""


class LastLevel(NamedTuple):
    """A codebook of the last level, (K, D + DIM), and what is known of it.

    Attributes:
        book: centroids, the doorway's dimensions last.
        weight: of the doorway beside the embedding.
        collisions: share of items that share their whole code.
        error: mean squared error of the embedding's part.
    """

    book: Tensor
    weight: float
    collisions: float
    error: float


def doorways(items: pl.DataFrame) -> FloatArray:
    """Doorway of each item, float32 (N, DIM): uniform numbers of mean square norm 1, the same in the same cell."""
    cells = h3_cells(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), RESOLUTION).astype(np.uint64)
    axes = np.arange(1, DIM + 1, dtype=np.uint64) << np.uint64(58)
    unit = uniform(mixed((cells[:, None] ^ axes) + np.uint64(WEYL)))
    return ((2 * unit - 1) * math.sqrt(3 / DIM)).astype(np.float32)


def fit_last_level(
    items: pl.DataFrame,
    residual_ND: Tensor,
    codes_NL: Tensor,
    book_KD: Tensor,
    variance: float,
    training: Training,
    target: float,
    generator: torch.Generator,
) -> LastLevel:
    """The last level with the least share of doorway that meets the target, or as near to it as the error allows.

    Args:
        items: the catalogue.
        residual_ND: what the tokens before the last leave over.
        codes_NL: codes of all levels, without a doorway.
        book_KD: codebook of the last level, without a doorway.
        variance: of the embeddings.
        training: how a codebook is trained.
        target: share of items that may share their whole code.
        generator: source of all randomness.
    """
    import torch

    from lgsid.sid.kmeans import assign
    from lgsid.sid.residual import fit_residual

    plain = _judged(torch.nn.functional.pad(book_KD, (0, DIM)), 0.0, codes_NL[:, -1], residual_ND, codes_NL)
    if plain.collisions <= target:
        return plain
    best, energy = plain, float((residual_ND * residual_ND).sum(1).mean())
    beside = torch.from_numpy(doorways(items))
    for share in SHARES:
        weight = math.sqrt(energy * share / (1 - share))
        x = torch.cat([residual_ND, weight * beside], 1)
        book = fit_residual(x, 1, len(book_KD), training, generator)[0]
        tried = _judged(book, weight, assign(x, book), residual_ND, codes_NL)
        if tried.error > plain.error + MOST_ERROR * variance:
            break
        if tried.collisions < best.collisions:
            best = tried
        if tried.collisions <= target:
            break
    return best


def _judged(book: Tensor, weight: float, last_N: Tensor, residual_ND: Tensor, codes_NL: Tensor) -> LastLevel:
    """A last level, with the codes it gives, beside what the levels before it leave over and their codes."""
    from lgsid.sid.quality import collision_rates

    error = float(((residual_ND - book[last_N, : residual_ND.shape[1]]) ** 2).sum(1).mean())
    codes = np.column_stack([codes_NL[:, :-1].numpy(), last_N.numpy()]).astype(np.int32)
    return LastLevel(book, weight, collision_rates(codes)[0], error)
