"""Residual quantisation behind an encoder network: what RQ-VAE, its variants and GNPR-SID have in common.

An encoder z = E(x) is quantised level by level, r_0 = z, r_l = r_{l-1} - e_l, and decoded from the sum of the chosen
centroids, z' = Σ e_l (RQ-VAE: Lee et al., arXiv 2203.01941). How it is trained: `lgsid.sid.autoencoder_training`.

Axes: I inputs, C dimensions of the codebooks, L levels, K codes, N or B items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.arrays import FloatArray
from lgsid.config import AutoencoderConfig
from lgsid.sid.kmeans import CHUNK
from lgsid.sid.residual import decode


class Autoencoder(nn.Module):
    """Encoder, codebooks and decoder.

    Args:
        inputs: I.
        levels, codes: L and K.
        config: the network's shape.
        angular_levels: so many of the first levels choose by angle instead of distance.

    Attributes:
        books_LKC: the codebooks.
        mean_I, scale: what inputs are centred and divided by.
    """

    mean_I: Tensor
    scale: Tensor

    def __init__(self, inputs: int, levels: int, codes: int, config: AutoencoderConfig, angular_levels: int = 0):
        super().__init__()
        sizes = [inputs, *config.hidden, config.latent]
        self.encoder = _perceptron(sizes, config.dropout)
        self.decoder = _perceptron(sizes[::-1], config.dropout)
        self.books_LKC = nn.Parameter(torch.zeros(levels, codes, config.latent))
        self.register_buffer("mean_I", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(()))
        self.angular_levels = angular_levels

    def scaled(self, x_BI: Tensor) -> Tensor:
        """Inputs as the network sees them."""
        return (x_BI - self.mean_I) / self.scale

    def encode(self, x_BI: Tensor) -> Tensor:
        """Points of the space of the codebooks, (B, C)."""
        latent: Tensor = self.encoder(self.scaled(x_BI))
        return latent

    def decode(self, z_BC: Tensor) -> Tensor:
        """Inputs (B, I) that points stand for."""
        output: Tensor = self.decoder(z_BC)
        return output * self.scale + self.mean_I

    def hidden(self, z_BC: Tensor) -> Tensor:
        """The decoder's last hidden layer."""
        hidden: Tensor = self.decoder[:-1](z_BC)
        return hidden

    def quantise(self, z_BC: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Residual and codes of each level; the residual's gradient leads to the encoder only."""
        residual = z_BC
        for level, book in enumerate(self.books_LKC):
            code = nearest(residual.detach(), book.detach(), level < self.angular_levels)
            yield residual, code
            residual = residual - book.detach()[code]

    def codes(self, z_NC: Tensor) -> Tensor:
        """Codes (N, L) of points."""
        with torch.no_grad():
            parts = [torch.stack([code for _, code in self.quantise(z)], dim=1) for z in torch.split(z_NC, CHUNK)]
        return torch.cat(parts)

    def sum_of_centroids(self, codes_NL: Tensor) -> Tensor:
        """Points that codes stand for."""
        return decode(codes_NL, list(self.books_LKC))

    def weights(self) -> dict[str, FloatArray]:
        """All tensors but the codebooks, by name."""
        return {name: tensor.numpy() for name, tensor in self.state_dict().items() if name != "books_LKC"}

    @classmethod
    def from_weights(
        cls,
        weights: Mapping[str, FloatArray],
        books: Sequence[FloatArray],
        config: AutoencoderConfig,
        angular_levels: int = 0,
    ) -> Autoencoder:
        """What `weights` gave, with the codebooks.

        Raises:
            KeyError, RuntimeError, ValueError: they are not of this network.
        """
        network = cls(len(weights["mean_I"]), len(books), len(books[0]), config, angular_levels)
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        network.load_state_dict({**tensors, "books_LKC": torch.from_numpy(np.stack(books))})
        return network.eval()


def _perceptron(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(sizes[:-1]):
        layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def nearest(x_BC: Tensor, book_KC: Tensor, by_angle: bool = False) -> Tensor:
    """The code of each point: the nearest centroid, or the one in the most similar direction."""
    if by_angle:
        return (x_BC @ functional.normalize(book_KC, dim=1).T).argmax(1)
    return torch.addmm((book_KC * book_KC).sum(1), x_BC, book_KC.T, alpha=-2).argmin(1)


def straight_through(z_BC: Tensor, quantised_BC: Tensor) -> Tensor:
    """The quantised points, with the gradient of the points themselves."""
    return z_BC + (quantised_BC - z_BC).detach()


def rotate(z_BC: Tensor, quantised_BC: Tensor) -> Tensor:
    """The quantised points as a rotation and scaling of the points, both constant: z' = |z'|/|z| · R z.

    R z = z - 2 r (r·z) + 2 q (u·z) with u and q the directions of z and z', and r that of u + q (equation 4 there).
    """
    length_B1 = z_BC.detach().norm(dim=1, keepdim=True).clamp_min(1e-8)
    target_B1 = quantised_BC.norm(dim=1, keepdim=True).clamp_min(1e-8)
    u, q = z_BC.detach() / length_B1, quantised_BC.detach() / target_B1.detach()
    r = functional.normalize(u + q, dim=1)
    turned = z_BC - 2 * (z_BC * r).sum(1, keepdim=True) * r + 2 * (z_BC * u).sum(1, keepdim=True) * q
    result: Tensor = turned * (target_B1 / length_B1).detach()
    return result
