"""Multi-head target attention: candidates look at visits.

Axes: as in `lgsid.rank.base`; X sets of visits, R candidates that look at each, K visits of a set, H heads, E = D / H
dimensions of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TargetAttention(nn.Module):
    """Multi-head attention of candidates over visits: softmax((q W_q)(z W_k)^T / sqrt(E)) z W_v, joined over heads.

    Key and value projections are moved to the side of the candidates: (q W_q)(z W_k)^T = (q W_q W_k^T) z^T, and the
    weighted sum is projected instead of the visits. The result is the same, and the visits, of which there are many
    more, are not projected at all.

    Args:
        dim: D, of candidates, visits and result.
        heads: H; must divide D.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def queries(self, q_XRD: Tensor) -> Tensor:
        """Queries (X, R, H, D) whose inner products with visits are the scores."""
        key_HED = self._by_head(self.key)
        q_XRHE = self.query(q_XRD).view(*q_XRD.shape[:2], self.heads, -1)
        return torch.einsum("xrhe,hed->xrhd", q_XRHE, key_HED) / math.sqrt(key_HED.shape[1])

    def values(self, pooled_XRHD: Tensor) -> Tensor:
        """Weighted sums of visits, one a head, projected and joined: (X, R, D)."""
        return torch.einsum("xrhd,hed->xrhe", pooled_XRHD, self._by_head(self.value)).flatten(-2)

    def forward(self, q_XRD: Tensor, z_XKD: Tensor, mask_XK: Tensor) -> Tensor:
        """Result (X, R, D); 0 where a set has no visit. Vectors at padding must be finite, and mean nothing."""
        query_XRHD = self.queries(q_XRD)
        score_XJK = query_XRHD.flatten(1, 2) @ z_XKD.transpose(1, 2)
        pooled_XJD = masked_softmax(score_XJK, mask_XK[:, None]) @ z_XKD
        return self.values(pooled_XJD.view_as(query_XRHD))

    def _by_head(self, projection: nn.Linear) -> Tensor:
        return projection.weight.view(self.heads, -1, projection.in_features)


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where the mask is True, 0 elsewhere: all 0, with finite gradients, if it never is."""
    return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1) * mask
