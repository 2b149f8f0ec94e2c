"""SIM: search-based interest.

Reference: Pi et al., "Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate
Prediction" (CIKM 2020, arXiv 2006.05639). The general search unit keeps the visits that matter for a candidate: those
of its category (hard search), or those with the highest inner products in a learned space (soft search). The exact
search unit is multi-head target attention over them, which sees how long ago each was.

The soft search is trained by a prediction of its own, from the history pooled by the search's scores (section 3.1). As
in the paper, a random part of a very long history stands for it there. Unlike the paper, which adds visits up weighted
by bare scores, the scores pass a softmax: with bare scores a prediction is as good with all signs turned, and then the
highest scores are those of the visits that matter least. (Pairs of items that go together, five seeds: the top three of
twenty visits held the candidate's partner in 10 to 56 % of cases with bare scores, in 87 to 100 % with the softmax.)

Axes: as in `lgsid.rank.base`; K visits of the random part.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.config import RankConfig
from lgsid.rank.attention import TargetAttention, masked_softmax
from lgsid.rank.base import Batch, vectors
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.layers import Mlp
from lgsid.rank.search import Kept, SearchRanker, inner_products, search

SAMPLE = 128
"""Visits of a request that train the soft search."""


class Sim(SearchRanker):
    """Search-based interest model; see `Ranker` for the arguments. `SearchConfig.hard` says how it searches."""

    name: ClassVar[str] = "sim"

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        self.exact = TargetAttention(encoder.dim, config.search.heads)
        if not config.search.hard:
            self.of_candidate = nn.Linear(encoder.dim, encoder.dim, bias=False)
            self.of_visit = nn.Linear(encoder.dim, encoder.dim, bias=False)
            self.search_head = Mlp(2 * encoder.dim, config.hidden, 1, config.dropout)

    def long_term(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Target attention over the visits that the search keeps."""
        kept = self.same_category(batch) if self.config.search.hard else self.most_similar(q_BCD, e_UD, batch)
        return self.read(self.exact, q_BCD, kept, e_UD, batch)

    def losses(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """That of the soft search."""
        if self.config.search.hard:
            return {}
        return {"search": self.config.search.search_weight * self.search_loss(q_BCD, e_UD, batch)}

    def same_category(self, batch: Batch) -> Kept:
        """Hard search: the most recent visits of the candidate's category; none where it has no category."""
        category_U = self.items.categories_N[batch.items_U]
        wanted_BC1 = category_U[batch.candidates_BC][..., None]
        same_BCT = (category_U[batch.history_BT][:, None] == wanted_BC1) & (wanted_BC1 >= 0) & batch.mask_BT[:, None]
        return search(torch.zeros_like(same_BCT, dtype=torch.int32), same_BCT, self.config.search.keep)

    def most_similar(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Kept:
        """Soft search: the visits of the highest scores, (W_a q)(W_b h)^T / sqrt(D)."""
        score_BCT = inner_products(self.queries(q_BCD), e_UD, batch.history_BT)
        return search(score_BCT, batch.mask_BT[:, None], self.config.search.keep)

    def queries(self, q_BCD: Tensor) -> Tensor:
        """Queries (B, C, D) whose inner products with visits are the scores of the soft search."""
        query_BCD: Tensor = self.of_candidate(q_BCD) @ self.of_visit.weight
        return query_BCD / math.sqrt(q_BCD.shape[-1])

    def search_loss(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of the soft search's own logits, from up to `SAMPLE` random visits of each request."""

        def summed(q_XCD: Tensor, part: Batch) -> Tensor:
            dice_X1T = torch.rand_like(part.mask_BT[:, None], dtype=torch.float32)
            drawn = search(dice_X1T, part.mask_BT[:, None], SAMPLE)
            h_XKD = vectors(e_UD, drawn.of(part).history_BT)
            return masked_softmax(self.queries(q_XCD) @ h_XKD.transpose(1, 2), drawn.mask_BXK) @ h_XKD

        pooled_BCD = self.by_length(q_BCD, batch, summed)
        logit_BC = self.search_head(torch.cat([q_BCD, pooled_BCD], dim=-1)).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(logit_BC, batch.label_BC)
