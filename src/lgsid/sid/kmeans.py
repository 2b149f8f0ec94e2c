"""K-means on matrix products: greedy k-means++ seeding, Lloyd iterations on a bounded sample, empty codes revived.

References: Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (SODA 2007); Lloyd (1982).
Distances are computed as ``|c|²/2 - x·c`` in chunks, so that memory stays near the size of the input. Quality depends
more on the seeding than on the number of iterations.

Axes: N items, D dimensions, K codes, C items of one chunk.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lgsid.arrays import CodeArray, FloatArray
from lgsid.errors import ConfigError, DataError, NotFittedError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CHUNK = 4096
"""Rows per matrix product: large enough for full speed, small enough for the cache."""
SEED_SAMPLE_PER_CODE = 64
"""Points per code that seeding looks at."""


class KMeans:
    """K-means for codebooks, in scikit-learn manners.

    Args:
        codes: number of clusters K.
        iterations: Lloyd iterations.
        sample_per_code: Lloyd runs on at most this many points per code, drawn without replacement; assignment is
            always of all points. More does not lower the error of 256 codes measurably.
        seed: same seed, same data, same bits.

    Attributes:
        centroids_KD: float32, after `fit`.
    """

    def __init__(self, codes: int, iterations: int = 20, sample_per_code: int = 256, seed: int = 0) -> None:
        self.codes, self.iterations, self.sample_per_code, self.seed = codes, iterations, sample_per_code, seed
        self.centroids_KD: FloatArray | None = None

    def fit(self, x_ND: FloatArray) -> KMeans:
        """Find K centroids.

        Raises:
            ConfigError: fewer points than codes.
            DataError: a value is not finite.
        """
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        x = torch.from_numpy(check_matrix(x_ND))
        self.centroids_KD = fit_centroids(x, self.codes, self.iterations, self.sample_per_code, generator).numpy()
        return self

    def predict(self, x_ND: FloatArray) -> CodeArray:
        """Nearest centroid of each point, int32 of shape (N,)."""
        import torch

        if self.centroids_KD is None:
            raise NotFittedError("KMeans.predict was called before fit", "KMeans(codes=256).fit(x)")
        codes = assign(torch.from_numpy(check_matrix(x_ND)), torch.from_numpy(self.centroids_KD))
        result: CodeArray = codes.numpy().astype(np.int32)
        return result


def check_enough(points: int, codes: int) -> None:
    """Refuse fewer points than codes.

    Raises:
        ConfigError: names a number of codes that fits.
    """
    if points < codes:
        fitting = max(2, 2 ** int(math.log2(max(points, 4)) - 1))
        raise ConfigError(f"{points} points cannot fill {codes} codes", f"--set sid.codes={fitting}")


def check_matrix(x_ND: FloatArray) -> FloatArray:
    """The matrix as contiguous float32.

    Raises:
        DataError: it is not two-dimensional, is empty, or holds NaN or infinity.
    """
    x = np.ascontiguousarray(x_ND, dtype=np.float32)
    if x.ndim != 2 or x.size == 0:
        raise DataError(f"got an array of shape {x.shape}, expected (items, dimensions) with at least one of each")
    bad = ~np.isfinite(x).all(axis=1)
    if bad.any():
        raise DataError(f"row {int(bad.argmax())} of the matrix holds NaN or infinity ({int(bad.sum())} such rows)")
    return x


def fit_centroids(
    x_ND: Tensor,
    codes: int,
    iterations: int,
    sample_per_code: int,
    generator: torch.Generator,
    start_KD: Tensor | None = None,
) -> Tensor:
    """Centroids (K, D) of the points, ``start_KD`` being the ones to begin with in place of seeds.

    The engine behind `KMeans` and the residual codebooks.
    """
    import torch

    check_enough(len(x_ND), codes)
    sample = _sample(x_ND, codes * sample_per_code, generator)
    centroids = start_KD
    if centroids is None:
        centroids = seed_centroids(_sample(sample, codes * SEED_SAMPLE_PER_CODE, generator), codes, generator)
    for _ in range(iterations):
        assigned = assign(sample, centroids)
        updated = means(sample, assigned, centroids)
        if torch.equal(updated, centroids):
            break
        centroids = revive(sample, assigned, updated)
    return centroids


def _sample(x_ND: Tensor, size: int, generator: torch.Generator) -> Tensor:
    import torch

    return x_ND if len(x_ND) <= size else x_ND[torch.randperm(len(x_ND), generator=generator)[:size].sort().values]


def seed_centroids(x_ND: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: each centroid is the best of 2 + ln K points drawn by squared distance to the chosen ones."""
    import torch

    trials = 2 + int(math.log(codes))
    norms = (x_ND * x_ND).sum(1)
    first = int(torch.randint(len(x_ND), (1,), generator=generator))
    chosen = [first]
    nearest = (norms - 2 * (x_ND @ x_ND[first]) + norms[first]).clamp_min_(0)
    for _ in range(1, codes):
        # a floor keeps the draw valid where all points are duplicates of chosen ones
        weight = nearest.double() + 1e-9 * float(nearest.double().mean()) + 1e-30
        candidates = torch.multinomial(weight, trials, replacement=True, generator=generator)
        distance = (norms[:, None] - 2 * (x_ND @ x_ND[candidates].T) + norms[candidates]).clamp_min_(0)
        distance = torch.minimum(distance, nearest[:, None])
        best = int(distance.sum(0).argmin())
        chosen.append(int(candidates[best]))
        nearest = distance[:, best].contiguous()
    return x_ND[torch.tensor(chosen)].clone()


def assign(x_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """Index of the nearest centroid of each point (Euclidean; the lowest index wins a tie), int64 of shape (N,)."""
    import torch

    half_norms = (centroids_KD * centroids_KD).sum(1) / 2
    codes = torch.empty(len(x_ND), dtype=torch.long)
    for start in range(0, len(x_ND), CHUNK):
        chunk = x_ND[start : start + CHUNK]
        codes[start : start + CHUNK] = torch.addmm(half_norms, chunk, centroids_KD.T, alpha=-1).argmin(1)
    return codes


def means(x_ND: Tensor, codes_N: Tensor, otherwise_KD: Tensor) -> Tensor:
    """Mean of the points of each code; a code without points keeps its row of ``otherwise_KD``."""
    import torch

    counts = torch.bincount(codes_N, minlength=len(otherwise_KD))
    sums = torch.zeros_like(otherwise_KD).index_add_(0, codes_N, x_ND)
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], otherwise_KD)


def revive(x_ND: Tensor, codes_N: Tensor, centroids_KD: Tensor) -> Tensor:
    """Move each code without points onto one of the points that lie farthest from their own centroid."""
    import torch

    dead = (torch.bincount(codes_N, minlength=len(centroids_KD)) == 0).nonzero()[:, 0]
    if len(dead) == 0:
        return centroids_KD
    error = ((x_ND - centroids_KD[codes_N]) ** 2).sum(1)
    farthest = error.topk(min(len(dead), len(x_ND))).indices
    revived = centroids_KD.clone()
    revived[dead[: len(farthest)]] = x_ND[farthest]
    return revived
