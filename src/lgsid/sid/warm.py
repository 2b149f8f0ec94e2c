"""Centroids that follow a catalogue: k-means that begins from fitted centroids and changes as few as it must.

Lloyd's iterations cannot carry a centroid from one town to another, so a catalogue that has grown by a province would
share the few centroids next to it. Centroids of least use are therefore moved to where they save most, as in the swap
heuristic for k-means (Kanungo et al., "A local search approximation algorithm for k-means clustering", 2004), but only
where that pays by a clear margin: every move takes a token away from the items that have it.

Axes: N points, D dimensions, K centroids, T trials.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lgsid.sid.kmeans import CHUNK, assign, means, revive
from lgsid.sid.residual import SAMPLE_PER_CODE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MARGIN = 2.0
"""A centroid moves when it saves so many times the squared error that its going costs."""
ROUNDS, ITERATIONS = 10, 5
"""At most so many rounds of moves, and Lloyd iterations after each."""


def follow(x_ND: Tensor, start_KD: Tensor, generator: torch.Generator) -> Tensor:
    """Centroids (K, D) of points, near ``start_KD`` wherever the points are still as they were.

    Looks at no more points than a cold fit does.
    """
    import torch

    size = SAMPLE_PER_CODE * len(start_KD)
    if len(x_ND) > size:
        x_ND = x_ND[torch.randperm(len(x_ND), generator=generator)[:size].sort().values]
    centroids = _lloyd(x_ND, start_KD)
    for _ in range(ROUNDS):
        moved = _move_idle(x_ND, centroids, generator)
        if moved is None:
            break
        centroids = _lloyd(x_ND, moved)
    return centroids


def _lloyd(x_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    for _ in range(ITERATIONS):
        assigned = assign(x_ND, centroids_KD)
        centroids_KD = revive(x_ND, assigned, means(x_ND, assigned, centroids_KD))
    return centroids_KD


def _move_idle(x_ND: Tensor, centroids_KD: Tensor, generator: torch.Generator) -> Tensor | None:
    """Move centroids of least use to where they save most; None where no move pays."""
    import torch

    code_N2, distance_N2 = _two_nearest(x_ND, centroids_KD)
    loss_K = torch.zeros(len(centroids_KD)).index_add_(0, code_N2[:, 0], distance_N2[:, 1] - distance_N2[:, 0])
    nearest_N, moved, stays = distance_N2[:, 0].clone(), centroids_KD.clone(), set[int]()
    trials, norms_N, count = 2 + int(math.log(len(centroids_KD))), (x_ND * x_ND).sum(1), 0
    for code in loss_K.argsort().tolist():
        if code in stays:  # items of a centroid that has moved are to find this one
            continue
        tried_T = torch.multinomial(nearest_N.double() + 1e-30, trials, replacement=True, generator=generator)
        distance_NT = (norms_N[:, None] - 2 * x_ND @ x_ND[tried_T].T + norms_N[tried_T]).clamp_min_(0)
        saved_T = (nearest_N[:, None] - distance_NT).clamp_min_(0).sum(0)
        best = int(saved_T.argmax())
        if saved_T[best] <= MARGIN * loss_K[code]:
            break
        moved[code] = x_ND[tried_T[best]]
        nearest_N = torch.minimum(nearest_N, distance_NT[:, best])
        stays |= set(code_N2[code_N2[:, 0] == code, 1].tolist())
        count += 1
    return moved if count else None


def _two_nearest(x_ND: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """The two nearest centroids of each point, (N, 2), and their squared distances."""
    import torch

    norms_K = (centroids_KD * centroids_KD).sum(1)
    codes, distances = [], []
    for begin in range(0, len(x_ND), CHUNK):
        x = x_ND[begin : begin + CHUNK]
        found = (norms_K - 2 * x @ centroids_KD.T).topk(2, dim=1, largest=False)
        codes.append(found.indices)
        distances.append((found.values + (x * x).sum(1, keepdim=True)).clamp_min_(0))
    return torch.cat(codes), torch.cat(distances)
