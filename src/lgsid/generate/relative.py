"""T5's bias of attention scores by relative position.

Axes: H heads, P positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

BUCKETS, LONGEST = 32, 128
"""Of T5: relative positions share a bucket beyond 16 (8 of either direction), and are all one beyond 128."""


def relative_bucket(relative: Tensor, *, both: bool) -> Tensor:
    """Bucket of relative positions (key less query), int64.

    Args:
        relative: any shape, int64.
        both: whether keys may stand behind queries; if not, all positions from 0 on are bucket 0.
    """
    count = BUCKETS // 2 if both else BUCKETS
    distance = relative.abs() if both else (-relative).clamp(min=0)
    exact = count // 2
    further = distance.clamp(min=exact).float() / exact
    coarse = exact + (further.log() / math.log(LONGEST / exact) * (count - exact)).long()
    bucket = torch.where(distance < exact, distance, coarse.clamp(max=count - 1))
    return bucket + count * (relative > 0) if both else bucket


class RelativeBias(nn.Embedding):
    """A bias of attention scores by relative position, for each head.

    Args:
        heads: H.
        both: see `relative_bucket`.
        std: of the biases at the start.
    """

    def __init__(self, heads: int, *, both: bool, std: float) -> None:
        super().__init__(BUCKETS, heads)
        self.both = both
        nn.init.normal_(self.weight, std=std)

    def forward(self, input: Tensor) -> Tensor:
        """Biases (H, …) of relative positions (…)."""
        return super().forward(relative_bucket(input, both=self.both)).movedim(-1, 0)

    def of_last(self, positions: int) -> Tensor:
        """Biases (H, P) of so many positions, as the last of them sees them."""
        if positions <= BUCKETS // 2 and not self.both:  # each distance is a bucket
            return self.weight[:positions].flip(0).T
        bias_HP: Tensor = self(torch.arange(1 - positions, 1, device=self.weight.device))
        return bias_HP
