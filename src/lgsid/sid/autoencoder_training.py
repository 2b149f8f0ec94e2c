"""How autoencoders with residual codebooks are trained, and what keeps all their codes in use.

Trained on, with the notation of `lgsid.sid.autoencoder`,

    |x - D(z')|² / I  +  Σ_l ( |sg(r_{l-1}) - e_l|² + commitment · |r_{l-1} - sg(e_l)|² ) / C  +  diversity · Σ_l KL_l

(TIGER, arXiv 2305.05065); sg stops the gradient. The decoder's gradient passes from z' to z as it is
(straight-through), or level by level, turned and scaled as the residual is onto its centroid (rotation trick, arXiv
2410.06424). With moving averages (VQ-VAE-2, arXiv 1906.00446) codebooks follow their members and the first term of the
bracket goes. KL_l compares the frequencies of soft assignments with uniform ones, as in `lgsid.sid.residual`: counts of
hard codes have no gradient.

All codes stay in use: inputs are centred and scaled to unit variance; encoder and decoder are trained alone for a
while; then the space of the codebooks gets unit variance and the codebooks start as k-means of residuals; a code that
nobody uses moves onto a residual, in training and, looking at up to 512 items a code, at the end. The loop is
`lgsid.trainer.fit`, in one process on the CPU; it keeps the parameters that reconstruct held-out items best.

Axes: N items, I inputs, C dimensions of the codebooks, L levels, K codes, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid import trainer
from lgsid.arrays import IntArray
from lgsid.config import AutoencoderConfig, TrainerConfig
from lgsid.sid.autoencoder import Autoencoder, nearest, rotate, straight_through
from lgsid.sid.kmeans import CHUNK, check_enough, fit_centroids, revive
from lgsid.sid.residual import KMEANS_ITERATIONS, SAMPLE_PER_CODE, imbalance

Source: TypeAlias = Callable[[IntArray], Tensor]
"""Inputs (n, I) of the given items, float32: a catalogue's features need not be in memory at once."""
MOST_VALIDATION_ITEMS = 2_048
MOST_REVIVALS = 10
"""Rounds of revival at the end; each may leave another code without items, seldom more than a few times."""


def uniformity(residual_BC: Tensor, book_KC: Tensor) -> Tensor:
    """KL divergence from the frequencies of soft assignments to uniform; its gradient moves the centroids."""
    distance = (residual_BC * residual_BC).sum(1, keepdim=True) - 2 * residual_BC @ book_KC.T + (book_KC**2).sum(1)
    return imbalance(distance, distance.detach().min(1).values)


def train(
    source: Source,
    items: int,
    levels: int,
    codes: int,
    config: AutoencoderConfig,
    seed: int,
    angular_levels: int = 0,
) -> tuple[Autoencoder, list[trainer.History]]:
    """A trained autoencoder, in evaluation mode, all of whose codes are in use as far as the items allow.

    Args:
        source: inputs of items.
        items: N.
        levels, codes: L and K.
        config: shape and schedule.
        seed: of everything drawn.
        angular_levels: see `Autoencoder`.

    Returns:
        the network, and the course of its one or two trainings (alone, then with codebooks).

    Raises:
        ConfigError: fewer items than codes.
    """
    rng = np.random.default_rng(seed)
    training, held = _split(items, codes, config.validation_share, rng)
    some = np.sort(rng.permutation(training)[: codes * SAMPLE_PER_CODE])
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Autoencoder(source(some[:1]).shape[1], levels, codes, config, angular_levels)
    _standardise(network, source, some)
    task = _Task(network, source, training, held, config)
    histories = []
    if config.warm_steps:
        histories.append(trainer.fit(task, task.schedule(min(config.warm_steps, config.steps)), seed=seed))
    task.start_codebooks(_unit_latents(network, _latents(network, source, some)), generator)
    if config.steps > config.warm_steps:
        histories.append(trainer.fit(task, task.schedule(config.steps - config.warm_steps), seed=seed + 1))
    _revive_all(network, _latents(network, source, some))
    return network.eval().requires_grad_(False), histories


def _split(items: int, codes: int, share: float, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Rows for training, and rows held out; the training rows themselves where none can be spared."""
    check_enough(items, codes)
    order = rng.permutation(items)
    held = min(round(share * items), MOST_VALIDATION_ITEMS, items - codes)
    if held == 0:
        return np.sort(order), np.sort(order)[:MOST_VALIDATION_ITEMS]
    return np.sort(order[held:]), np.sort(order[:held])


def blocks_of(rows: IntArray) -> list[IntArray]:
    """Rows in blocks small enough for the network's layers."""
    return [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]


def _standardise(network: Autoencoder, source: Source, rows: IntArray) -> None:
    total = sum(source(block).double().sum(0) for block in blocks_of(rows))
    assert isinstance(total, Tensor)
    network.mean_I.copy_(total / len(rows))
    energy = sum(float((source(block) - network.mean_I).double().square().sum()) for block in blocks_of(rows))
    # identical items have no spread; their error is then absolute
    network.scale.fill_(math.sqrt(energy / (len(rows) * len(network.mean_I))) or 1.0)


def _latents(network: Autoencoder, source: Source, rows: IntArray) -> Tensor:
    network.eval()
    with torch.no_grad():
        return torch.cat([network.encode(source(block)) for block in blocks_of(rows)])


def _unit_latents(network: Autoencoder, z_NC: Tensor) -> Tensor:
    """The points with unit variance, from a network that gives them so and decodes them as before.

    Terms about the codebooks then weigh the same against the reconstruction error, whatever the encoder came up with.
    """
    spread = float(z_NC.var(0).mean().sqrt()) or 1.0
    with torch.no_grad():
        last, first = network.encoder[-1], network.decoder[0]
        assert isinstance(last, nn.Linear)
        assert isinstance(first, nn.Linear)
        last.weight.div_(spread)
        last.bias.div_(spread)
        first.weight.mul_(spread)
    return z_NC / spread


def _revive_all(network: Autoencoder, z_NC: Tensor) -> None:
    """Move codes that none of the points has onto points, first level first."""
    with torch.no_grad():
        residual = z_NC
        for level, book in enumerate(network.books_LKC):
            by_angle = level < network.angular_levels
            code = nearest(residual, book, by_angle)
            for _ in range(MOST_REVIVALS):
                revived = revive(residual, code, book)
                if revived is book:
                    break
                book.copy_(revived)
                code = nearest(residual, book, by_angle)
            residual = residual - book[code]


class _Task:
    """What the training loop trains; without codebooks until they are started."""

    def __init__(
        self, network: Autoencoder, source: Source, training: IntArray, held: IntArray, config: AutoencoderConfig
    ) -> None:
        self.network = network
        self.config = config
        self.examples = len(training)
        self._source, self._training, self._held = source, training, held
        self._quantised = False
        levels, codes, _ = network.books_LKC.shape
        self._idle_LK = torch.zeros(levels, codes)
        self._size_LK = torch.ones(levels, codes)
        self._sum_LKC = torch.zeros_like(network.books_LKC)

    def schedule(self, steps: int) -> TrainerConfig:
        """The training loop's options for so many updates."""
        config = self.config
        steps_per_epoch = math.ceil(self.examples / config.batch)
        return TrainerConfig(
            epochs=steps / steps_per_epoch, batch=config.batch, weight_decay=config.weight_decay,
            validations=config.validations, patience=config.patience,
        )  # fmt: skip

    def start_codebooks(self, z_NC: Tensor, generator: torch.Generator) -> None:
        """K-means of the residuals of points, level by level; from here on the codebooks take part."""
        residual = z_NC
        network = self.network
        with torch.no_grad():
            for level, book in enumerate(network.books_LKC):
                by_angle = level < network.angular_levels
                points = functional.normalize(residual, dim=1) if by_angle else residual
                centroids = fit_centroids(points, len(book), KMEANS_ITERATIONS, SAMPLE_PER_CODE, generator)
                code = nearest(residual, centroids, by_angle)
                count = torch.bincount(code, minlength=len(book))
                total = torch.zeros_like(book).index_add_(0, code, residual)
                book.copy_(torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centroids))
                # as many members as a batch has, so that the first updates count for what they are
                self._size_LK[level] = count * (min(self.config.batch, self.examples) / len(residual))
                self._sum_LKC[level] = book * self._size_LK[level][:, None]
                residual = residual - book[code]
        self._quantised = True

    def parameters(self) -> list[dict[str, Any]]:
        """The network, and the codebooks without decay where they have a gradient."""
        rate = self.config.learning_rate
        layers = [*self.network.encoder.parameters(), *self.network.decoder.parameters()]
        groups: list[dict[str, Any]] = [{"params": layers, "lr": rate}]
        if self._quantised and self.config.codebook == "gradient":
            groups.append({"params": [self.network.books_LKC], "lr": rate, "weight_decay": 0.0})
        return groups

    def named(self) -> dict[str, Tensor]:
        """Parameters, and what is counted of the codes."""
        counted = {"idle_LK": self._idle_LK, "size_LK": self._size_LK, "sum_LKC": self._sum_LKC}
        return {**dict(self.network.named_parameters()), **counted}

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """See the module."""
        x_BI = self.network.scaled(self._source(self._training[examples_B]))
        z_BC: Tensor = self.network.encoder(x_BI)
        if not self._quantised:
            error = functional.mse_loss(self.network.decoder(z_BC), x_BI)
            return error, {"reconstruction": error.item()}
        self._move_codebooks(z_BC.detach(), generator)
        quantised_BC, terms = self._quantise(z_BC)
        error = functional.mse_loss(self.network.decoder(quantised_BC), x_BI)
        total = error + torch.stack(list(terms.values())).sum()
        return total, {"reconstruction": error.item(), **{name: term.item() for name, term in terms.items()}}

    def _quantise(self, z_BC: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the chosen centroids, with a gradient, and the weighted terms of the loss that are about them."""
        config, network = self.config, self.network
        terms = {name: z_BC.new_zeros(()) for name in ("codebook", "commitment", "diversity")}
        total = torch.zeros_like(z_BC)
        for book, (residual, code) in zip(network.books_LKC, network.quantise(z_BC), strict=True):
            chosen, before = book[code], residual.detach()
            terms["commitment"] = terms["commitment"] + config.commitment * functional.mse_loss(
                residual, chosen.detach()
            )
            if config.codebook == "gradient":
                terms["codebook"] = terms["codebook"] + functional.mse_loss(chosen, before)
            if config.diversity:
                terms["diversity"] = terms["diversity"] + config.diversity * uniformity(before, book)
            # of the whole quantiser as one, rotated latents shrink until codes say little
            total = total + (rotate(residual, chosen.detach()) if config.gradient == "rotation" else chosen.detach())
        return (total if config.gradient == "rotation" else straight_through(z_BC, total)), terms

    def _move_codebooks(self, z_BC: Tensor, generator: np.random.Generator) -> None:
        """Moving averages and revival; before the loss is built, which must not see its codebooks change."""
        with torch.no_grad():
            for level, (residual, code) in enumerate(self.network.quantise(z_BC)):
                count_K = torch.bincount(code, minlength=self._size_LK.shape[1])
                self._idle_LK[level] = (self._idle_LK[level] + 1) * (count_K == 0)
                if self.config.codebook == "ema":
                    self._average(level, residual, code, count_K)
                idle = (self._idle_LK[level] >= self.config.revive_steps).nonzero()[:, 0]
                if len(idle):
                    self._revive(level, idle, residual, generator)

    def _average(self, level: int, residual_BC: Tensor, code_B: Tensor, count_K: Tensor) -> None:
        decay = self.config.ema_decay
        size, total = self._size_LK[level], self._sum_LKC[level]
        size.mul_(decay).add_(count_K, alpha=1 - decay)
        total.mul_(decay).index_add_(0, code_B, residual_BC, alpha=1 - decay)
        book = self.network.books_LKC[level]
        book.copy_(torch.where(size[:, None] > 1e-3, total / size.clamp_min(1e-3)[:, None], book))

    def _revive(self, level: int, idle_J: Tensor, residual_BC: Tensor, generator: np.random.Generator) -> None:
        rows = torch.from_numpy(generator.integers(len(residual_BC), size=len(idle_J)))
        self.network.books_LKC[level, idle_J] = residual_BC[rows]
        self._size_LK[level, idle_J] = 1.0
        self._sum_LKC[level, idle_J] = residual_BC[rows]
        self._idle_LK[level, idle_J] = 0.0

    def validate(self) -> dict[str, float]:
        """Score: minus the squared error of held-out items, relative to the variance of all."""
        network = self.network
        error = 0.0
        for rows in blocks_of(self._held):
            x_BI = network.scaled(self._source(rows))
            z_BC = network.encoder(x_BI)
            if self._quantised:
                z_BC = network.sum_of_centroids(network.codes(z_BC))
            error += float((network.decoder(z_BC) - x_BI).square().mean(1).sum())
        return {"score": -error / len(self._held)}

    def train_mode(self, training: bool) -> None:
        """Switch dropout."""
        self.network.train(training)
