"""Residual k-means on the embedding: the plainest semantic IDs, geography only as far as the embedding holds it.

References: RQ-KMeans of QARM (arXiv 2411.11739) and of OneRec (arXiv 2502.18965). Level by level, k-means of what the
levels before leave over; no joint training and no term for balanced use. OneRec's variant learns *balanced* clusters
(Algorithm 1 there): in each sweep every cluster takes, one after the other, the floor or ceiling of N/K nearest items
that no cluster has taken yet, and its centroid becomes their mean. Codes are nearest centroids either way, so the codes
of the balanced variant are more even, not equal in number.

Axes: N items, D dimensions, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import polars as pl

from lgsid.arrays import FloatArray
from lgsid.sid.base import Tokenizer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from lgsid.config import ResKMeansConfig

CLUSTERS_TOGETHER = 16
"""Clusters whose distances a balanced sweep holds at once: memory N × 16."""


class ResKMeansTokenizer(Tokenizer):
    """Residual k-means of the embedding; see `Tokenizer` for the arguments."""

    method: ClassVar[str] = "res_kmeans"

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        import torch

        config, generator = self.config, torch.Generator().manual_seed(self.seed)
        books = residual_kmeans(
            torch.from_numpy(emb_ND), config.levels, config.codes, config.res_kmeans, generator
        )  # fmt: skip
        return [book.numpy() for book in books]


def residual_kmeans(
    x_ND: Tensor, levels: int, codes: int, config: ResKMeansConfig, generator: torch.Generator
) -> list[Tensor]:
    """Codebooks (K, D) of so many levels, each the k-means of the residuals of the nearest centroids before it.

    Raises:
        ConfigError: there are fewer points than codes.
    """
    import torch

    from lgsid.sid.kmeans import assign, fit_centroids
    from lgsid.sid.residual import SAMPLE_PER_CODE

    size = SAMPLE_PER_CODE * codes
    rows = torch.randperm(len(x_ND), generator=generator)[:size].sort().values if len(x_ND) > size else None
    residual = x_ND.clone() if rows is None else x_ND[rows]
    books: list[Tensor] = []
    for _ in range(levels):
        iterations = 0 if config.balanced else config.iterations
        book = fit_centroids(residual, codes, iterations, SAMPLE_PER_CODE, generator)
        if config.balanced:
            book = balanced_centroids(residual, book, config.iterations)
        residual -= book[assign(residual, book)]
        books.append(book)
    return books


def balanced_centroids(x_ND: Tensor, centroids_KD: Tensor, sweeps: int) -> Tensor:
    """Balanced k-means from the given centroids: at most so many sweeps, fewer where one changes nothing.

    Needs at least K points.
    """
    import torch

    from lgsid.sid.kmeans import means

    before = None
    for _ in range(sweeps):
        taken_N = balanced_sweep(x_ND, centroids_KD)
        if before is not None and torch.equal(taken_N, before):
            break
        centroids_KD, before = means(x_ND, taken_N, centroids_KD), taken_N
    return centroids_KD


def balanced_sweep(x_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """Cluster of each point, int64 (N,): in turn, each cluster takes its nearest points among those still free.

    The first ``N mod K`` clusters take ``N // K + 1`` points, the others ``N // K``.
    """
    import torch

    least, more = divmod(len(x_ND), len(centroids_KD))
    taken_N = torch.full((len(x_ND),), -1, dtype=torch.long)
    free = torch.arange(len(x_ND))
    for start in range(0, len(centroids_KD), CLUSTERS_TOGETHER):
        cost_BF = _costs(x_ND, free, centroids_KD[start : start + CLUSTERS_TOGETHER])
        for cluster, cost_F in enumerate(cost_BF, start=start):
            nearest = cost_F.topk(least + (cluster < more), largest=False, sorted=False).indices
            taken_N[free[nearest]] = cluster
            cost_BF[:, nearest] = torch.inf
        free = free[taken_N[free] < 0]
    return taken_N


def _costs(x_ND: Tensor, rows_F: Tensor, centroids_BD: Tensor) -> Tensor:
    """Half the squared distance of the given points to each centroid, less the centroid's own norm, (B, F)."""
    import torch

    from lgsid.sid.kmeans import CHUNK

    costs = torch.empty((len(centroids_BD), len(rows_F)))
    for start in range(0, len(rows_F), CHUNK):
        x = x_ND[rows_F[start : start + CHUNK]]
        costs[:, start : start + CHUNK] = (x * x).sum(1) / 2 - centroids_BD @ x.T
    return costs
