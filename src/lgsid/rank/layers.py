"""Layers that the rankers share.

Axes: as in `lgsid.rank.base`; A units of a hidden layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dice(nn.Module):
    """Data-adaptive activation of DIN (Zhou et al., KDD 2018, arXiv 1706.06978, eq. 4).

    p(x)·x + (1 − p(x))·α·x with p the sigmoid of x standardised over the batch; at inference, by running figures.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(units, affine=False, eps=1e-3, momentum=0.05)
        self.alpha = nn.Parameter(torch.full((units,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; the last axis holds the units."""
        if not self.training and not torch.is_grad_enabled():
            return self._at_inference(x)
        p = torch.sigmoid(self.norm(x.reshape(-1, x.shape[-1]))).view_as(x)
        return x * (self.alpha + p * (1 - self.alpha))

    def _at_inference(self, x: Tensor) -> Tensor:
        """The same in one tensor."""
        mean_A, variance_A = self.norm.running_mean, self.norm.running_var
        p = functional.batch_norm(x.reshape(-1, x.shape[-1]), mean_A, variance_A, eps=self.norm.eps).sigmoid_()
        return torch.addcmul(self.alpha, p, 1 - self.alpha, out=p).view_as(x).mul_(x)


class Mlp(nn.Module):
    """Fully connected layers with Dice between them."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((inputs, *hidden)):
            layers += [nn.Linear(before, after), Dice(after)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1] if hidden else inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(…, inputs) to (…, outputs)."""
        y: Tensor = self.layers(x)
        return y
