"""Multi-head target attention: candidates look at visits.

Axes: as in `lgsid.rank.base`; X sets of visits, R candidates that look at each, K visits of a set, H heads, E = D / H
dimensions of a head, J = R·H queries, V rows of a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

Known = Sequence[tuple[Tensor, Tensor]]
"""What is known of visits besides their items: tables (V, D), and the row (X, K) of each that is added to a visit's
vector. Where each set has one candidate, it is cheaper to add their part to scores and sums than to the vectors of all
visits: queries times the table are looked up, and weights are added up by row before they meet the table."""


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

    def forward(self, q_XRD: Tensor, h_XKD: Tensor, mask_XK: Tensor, known: Known = ()) -> Tensor:
        """Result (X, R, D); 0 where a set has no visit. Vectors and rows at padding must be valid, and mean nothing."""
        query_XRHD = self.queries(q_XRD)
        query_XJD = query_XRHD.flatten(1, 2)
        score_XJK = query_XJD @ h_XKD.transpose(1, 2)
        for more_XJK in scores_of_known(query_XJD, known):
            score_XJK = score_XJK + more_XJK
        pooled_XJD = pooled(masked_softmax(score_XJK, mask_XK[:, None]), h_XKD, known)
        return self.values(pooled_XJD.view_as(query_XRHD))

    def _by_head(self, projection: nn.Linear) -> Tensor:
        return projection.weight.view(self.heads, -1, projection.in_features)


def scores_of_known(query_XJD: Tensor, known: Known) -> list[Tensor]:
    """What each table adds to the scores (X, J, K) of queries."""
    return [
        (query_XJD @ table_VD.t()).gather(2, row_XK[:, None].expand(-1, query_XJD.shape[1], -1))
        for table_VD, row_XK in known
    ]


def pooled(weight_XJK: Tensor, h_XKD: Tensor, known: Known) -> Tensor:
    """Weighted sums (X, J, D) of the visits' vectors and of what is added to them."""
    pooled_XJD = weight_XJK @ h_XKD
    for table_VD, row_XK in known:
        weight_XJV = weight_XJK.new_zeros(*weight_XJK.shape[:2], len(table_VD))
        weight_XJV = weight_XJV.scatter_add(2, row_XK[:, None].expand_as(weight_XJK), weight_XJK)
        pooled_XJD = pooled_XJD + weight_XJV @ table_VD
    return pooled_XJD


def masked_softmax(score: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where the mask is True, 0 elsewhere: all 0, with finite gradients, if it never is."""
    return score.masked_fill(~mask, torch.finfo(score.dtype).min).softmax(-1) * mask
