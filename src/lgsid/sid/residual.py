"""Residual codebooks: encoding by matrix products, and joint training with balanced use.

Level l codes the residual ``r_l = r_{l-1} - mu_{z_l}``, ``z_l = argmin_k |r_{l-1} - mu_k|²`` (LGSID, section on HGIT).
The codebooks start as k-means of the residuals and are then trained together on

    |x - sum_l mu_{z_l}|² / E|r_1|²  +  entropy_weight · sum_l KL(mean_i softmax(-|r_{l-1,i} - mu_k|² / tau) || uniform)

with tau a small share of the mean assignment error. A soft tau (a tenth of it) made the frequencies look uniform while
the hard codes collided more than without the term; see docs/experiments.md.

Axes: N items, D dimensions, K codes, L levels, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lgsid.sid.kmeans import CHUNK, assign, fit_centroids, revive

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SAMPLE_PER_CODE = 512
"""Training sees at most this many items per code; the time is then independent of the catalogue's size."""
KMEANS_ITERATIONS = 12
"""Lloyd iterations of the start; joint training does the rest."""
TEMPERATURE = 0.03
"""Softness of the frequencies, as a share of the mean squared assignment error."""


@dataclass(frozen=True)
class Training:
    """How residual codebooks are trained; see `lgsid.config.SidConfig` for the meaning of the fields."""

    epochs: int
    batch: int
    learning_rate: float
    entropy_weight: float


def encode(x_ND: Tensor, books: Sequence[Tensor], first_N: Tensor | None = None) -> Tensor:
    """Greedy residual codes of each point, int64 of shape (N, L).

    All levels share one matrix product per chunk: the residual's product with level m is the input's, less the products
    of the centroids already chosen, which are looked up in K × K tables. Nothing of size N × D is written.

    Args:
        x_ND: points.
        books: L codebooks (K, D).
        first_N: codes of the first level, where something other than distance decides them.
    """
    import torch

    stacked = torch.cat(list(books))
    half_norms = (stacked * stacked).sum(1) / 2
    tables = [[books[low] @ book.T for low in range(level)] for level, book in enumerate(books)]
    ends = np.cumsum([len(book) for book in books]).tolist()
    codes = torch.empty((len(x_ND), len(books)), dtype=torch.long)
    for begin in range(0, len(x_ND), CHUNK):
        rows = slice(begin, begin + CHUNK)
        scores = torch.addmm(half_norms, x_ND[rows], stacked.T, beta=-1)
        for level, book in enumerate(books):
            if level == 0 and first_N is not None:
                codes[rows, 0] = first_N[rows]
                continue
            score = scores[:, ends[level] - len(book) : ends[level]]
            for low in range(level):
                score -= tables[level][low].index_select(0, codes[rows, low])
            codes[rows, level] = score.argmax(1)
    return codes


def decode(codes_NL: Tensor, books: Sequence[Tensor]) -> Tensor:
    """Sum of the chosen centroids, shape (N, D)."""
    total = books[0][codes_NL[:, 0]].clone()
    for level in range(1, len(books)):
        total += books[level][codes_NL[:, level]]
    return total


def fit_residual(
    x_ND: Tensor,
    levels: int,
    codes: int,
    training: Training,
    generator: torch.Generator,
    first: tuple[Tensor, Tensor] | None = None,
    start: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Codebooks of all levels, trained on the points.

    Args:
        x_ND: points.
        levels, codes: L and K.
        training: schedule.
        generator: source of all randomness.
        first: a frozen first level as (vectors_KD, codes_N); without one the first level is learned too.
        start: codebooks of the levels that are learned, to begin with in place of k-means.

    Returns:
        L codebooks (K, D); the first is ``first[0]`` itself where given.
    """
    import torch

    size = SAMPLE_PER_CODE * codes
    rows = torch.randperm(len(x_ND), generator=generator)[:size].sort().values if len(x_ND) > size else None
    sample = x_ND if rows is None else x_ND[rows]
    books: list[Tensor] = []
    given = None
    if first is not None:
        given = first[1] if rows is None else first[1][rows]
        books.append(first[0])
    residual = sample.clone()
    if given is not None:
        subtract_chosen(residual, books[0], given)
    for level in range(levels - len(books)):
        book = (
            start[level]
            if start is not None
            else fit_centroids(residual, codes, KMEANS_ITERATIONS, SAMPLE_PER_CODE, generator)
        )
        subtract_chosen(residual, book, assign(residual, book))
        books.append(book)
    frozen = 0 if first is None else 1
    return _train(sample, books, frozen, given, training, generator)


def _train(
    x_ND: Tensor,
    books: list[Tensor],
    frozen: int,
    first_N: Tensor | None,
    training: Training,
    generator: torch.Generator,
) -> list[Tensor]:
    """Joint training of the codebooks behind the frozen ones; dead codes are revived after every epoch."""
    import torch

    if training.epochs == 0:
        return books
    start = x_ND
    if first_N is not None:
        start = x_ND.clone()
        subtract_chosen(start, books[0], first_N)
    energy = float((start * start).sum(1).mean())
    step = training.learning_rate * float((start * start).mean().sqrt())
    learned = [book.clone().requires_grad_() for book in books[frozen:]]
    adam = _Adam(learned)
    for epoch in range(training.epochs):
        rate = step * (1 - epoch / training.epochs)
        order = torch.randperm(len(x_ND), generator=generator)
        for begin in range(0, len(order), training.batch):
            loss = _loss(start[order[begin : begin + training.batch]], learned, energy, training.entropy_weight)
            adam.step(torch.autograd.grad(loss, learned), rate)
        with torch.no_grad():
            _revive_dead(start, learned)
    return [*books[:frozen], *(book.detach() for book in learned)]


class _Adam:
    """Adam (arXiv 1412.6980) with torch's own constants; torch.optim would import its compiler, for 70 MiB."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._first = [parameter.detach() * 0 for parameter in parameters]
        self._second = [parameter.detach() * 0 for parameter in parameters]
        self._steps = 0

    def step(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One update."""
        self._steps += 1
        rate, second_bias = rate / (1 - 0.9**self._steps), 1 - 0.999**self._steps
        for parameter, gradient, first, second in zip(
            self._parameters, gradients, self._first, self._second, strict=True
        ):
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            parameter.detach().addcdiv_(first, (second / second_bias).sqrt_().add_(1e-8), value=-rate)


def _loss(residual_BD: Tensor, books: Sequence[Tensor], energy: float, entropy_weight: float) -> Tensor:
    balance = residual_BD.new_zeros(())
    for book in books:
        before = residual_BD.detach()
        distance = (before * before).sum(1, keepdim=True) - 2 * before @ book.T + (book * book).sum(1)
        nearest, code = distance.detach().min(1)
        if entropy_weight > 0:
            balance = balance + imbalance(distance, nearest)
        residual_BD = residual_BD - book[code]
    return (residual_BD**2).sum(1).mean() / energy + entropy_weight * balance


def imbalance(distance_BK: Tensor, nearest_B: Tensor) -> Tensor:
    """KL divergence (scalar) from the frequencies of soft assignments to uniform; its gradient moves the centroids.

    Args:
        distance_BK: squared distances to the centroids.
        nearest_B: the least of each point, without a gradient.
    """
    import torch

    temperature = TEMPERATURE * nearest_B.clamp_min(0).mean().clamp_min(1e-12)
    # beyond e^-30 a code has no say, and its denormal numbers would make every product ten times slower
    closeness = ((nearest_B[:, None] - distance_BK) / temperature).clamp_min(-30.0)
    frequency_K = torch.softmax(closeness, dim=1).mean(0)
    return (frequency_K * (frequency_K * len(frequency_K) + 1e-9).log()).sum()


def _revive_dead(start_ND: Tensor, books: Sequence[Tensor]) -> None:
    residual = start_ND.clone()
    for book in books:
        code = assign(residual, book)
        book.copy_(revive(residual, code, book))
        subtract_chosen(residual, book, code)


def subtract_chosen(residual_ND: Tensor, book_KD: Tensor, code_N: Tensor) -> None:
    """Take each point's centroid from it, in place and chunk by chunk: no second array of this size."""
    for begin in range(0, len(residual_ND), CHUNK):
        rows = slice(begin, begin + CHUNK)
        residual_ND[rows] -= book_KD[code_N[rows]]
