"""TWIN: a search that scores as the attention does.

Reference: Chang et al., "TWIN: TWo-stage Interest Network for Lifelong User Behavior Modeling in CTR Prediction at
Kuaishou" (KDD 2023, arXiv 2302.02352). Both stages use one score, so that the first keeps exactly the visits to which
the second gives most weight. What makes that affordable over a long history is the split of a visit's features: its
item's vector takes part in an inner product, and what holds between user and visit, how long ago and how far away it
was, is compressed to one number a head that is added to the score (section 4.2).

Each head keeps visits of its own.

Axes: as in `lgsid.rank.base`; H heads, X = C·H (a candidate's heads are neighbours), K visits kept by each head of each
candidate, J = X·K, V combinations of buckets.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lgsid.config import RankConfig
from lgsid.rank.attention import TargetAttention, masked_softmax, pooled
from lgsid.rank.base import BANDS, GAPS, REGIONS, Batch, vectors
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.search import Kept, SearchRanker, inner_products, search


class Twin(SearchRanker):
    """Two-stage interest network; see `Ranker` for the arguments."""

    name: ClassVar[str] = "twin"

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        heads = config.search.heads
        self.attention = TargetAttention(encoder.dim, heads)
        self.joined = nn.Linear(encoder.dim, encoder.dim, bias=False)
        self.gap_bias = nn.Parameter(torch.zeros(GAPS, heads))
        if config.distance:
            self.band_bias = nn.Parameter(torch.zeros(BANDS, heads))
            self.region_bias = nn.Parameter(torch.zeros(REGIONS, heads))

    def long_term(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Attention over the visits that each head scores highest."""
        query_BXD = self.attention.queries(q_BCD).flatten(1, 2)
        return self.second_stage(query_BXD, self.first_stage(query_BXD, e_UD, batch), e_UD, batch)

    @torch.no_grad()
    def first_stage(self, query_BXD: Tensor, e_UD: Tensor, batch: Batch) -> Kept:
        """The visits of the highest scores."""
        score_BXT = inner_products(query_BXD, e_UD, batch.history_BT) + self._all_biases(query_BXD, batch)
        return search(score_BXT, batch.mask_BT[:, None], self.config.search.keep)

    def second_stage(self, query_BXD: Tensor, kept: Kept, e_UD: Tensor, batch: Batch) -> Tensor:
        """Attention (B, C, D) over the kept visits, by the same scores."""
        if kept.whole:
            return self._joined(self._over_all(query_BXD, e_UD, batch))
        h_XKD, mask_XK, known = self.kept_visits(kept, e_UD, batch)
        score_X1K = query_BXD.flatten(0, 1)[:, None] @ h_XKD.transpose(1, 2)
        score_X1K = score_X1K + self._own_bias(kept, batch).flatten(0, 1)[:, None]
        pooled_X1D = pooled(masked_softmax(score_X1K, mask_XK[:, None]), h_XKD, known)
        return self._joined(pooled_X1D.view_as(query_BXD))

    def _over_all(self, query_BXD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Weighted sums (B, X, D) of all visits, which are read once for all searches."""
        h_BTD = vectors(e_UD, batch.history_BT)
        score_BXT = query_BXD @ h_BTD.transpose(1, 2) + self._all_biases(query_BXD, batch)
        return masked_softmax(score_BXT, batch.mask_BT[:, None]) @ (h_BTD + self.cross(batch))

    def _joined(self, pooled_BXD: Tensor) -> Tensor:
        """The result (B, C, D) of the heads' weighted sums."""
        pooled_BCHD = pooled_BXD.view(len(pooled_BXD), -1, self.attention.heads, pooled_BXD.shape[-1])
        long_BCD: Tensor = self.joined(self.attention.values(pooled_BCHD))
        return long_BCD

    def _all_biases(self, query_BXD: Tensor, batch: Batch) -> Tensor:
        """Biases (B, X, T) of all visits for each search."""
        bias_BHT = vectors(self._biases(), self._bucket(batch)).transpose(1, 2)
        return bias_BHT.repeat(1, query_BXD.shape[1] // self.attention.heads, 1)

    def _own_bias(self, kept: Kept, batch: Batch) -> Tensor:
        """Biases (B, X, K) of kept visits, each for the head that kept it."""
        heads, place_BXK = self.attention.heads, kept.place_BXK
        head_X1 = torch.arange(place_BXK.shape[1], device=place_BXK.device)[:, None] % heads
        bucket_BXK = self._bucket(batch).gather(1, place_BXK.flatten(1)).view_as(place_BXK)
        return vectors(self._biases().view(-1, 1), bucket_BXK * heads + head_X1).squeeze(-1)

    def _bucket(self, batch: Batch) -> Tensor:
        """Which combination of buckets each visit (B, T) is in."""
        if not self.config.distance:
            return batch.gap_BT
        assert batch.band_BT is not None and batch.region_BT is not None  # noqa: PT018
        return (batch.gap_BT * BANDS + batch.band_BT) * REGIONS + batch.region_BT

    def _biases(self) -> Tensor:
        """Sums of the biases of every combination of buckets."""
        if not self.config.distance:
            return self.gap_bias
        return (self.gap_bias[:, None, None] + self.band_bias[:, None] + self.region_bias).flatten(0, 2)
