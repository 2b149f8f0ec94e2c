"""DIN: attention of each candidate over the history.

Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018, arXiv 1706.06978): the
interest is the sum of the visits' vectors, each weighted by a small network that sees candidate and visit; the weights
are not normalised, so that their sum says how strong the interest is (section 4.3).

Axes: as in `lgsid.rank.base`; A units of the first hidden layer.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lgsid.config import RankConfig
from lgsid.rank.base import Batch, Interest, Ranker
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.layers import Dice, Mlp


class ActivationUnit(nn.Module):
    """The network that weighs a visit for a candidate: fully connected layers over [q, h, q − h, q ⊙ h].

    The first layer is linear in these four, so its products with q and with h are taken once for each candidate and
    once for each visit; only q ⊙ h needs one for each pair.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        first, *rest = hidden
        self.of_candidate = nn.Linear(dim, first)
        self.of_visit = nn.Linear(dim, first, bias=False)
        self.of_product = nn.Linear(dim, first, bias=False)
        self.activation = Dice(first)
        self.rest = Mlp(first, rest, 1)

    def forward(self, q_BCD: Tensor, h_BTD: Tensor) -> Tensor:
        """Weights (B, C, T)."""
        requests, candidates, _ = q_BCD.shape
        # of visits, both h and q ⊙ h: one matrix for each candidate, and one product for all candidates of a request
        weight_DA, product_DA = self.of_visit.weight.t()[:, None], self.of_product.weight.t()[:, None]
        matrix_BDCA = torch.addcmul(weight_DA, q_BCD.transpose(1, 2)[..., None], product_DA)
        x_BTCA = (h_BTD @ matrix_BDCA.flatten(2)).view(requests, -1, candidates, matrix_BDCA.shape[-1])
        x_BTCA = x_BTCA + self.of_candidate(q_BCD)[:, None]
        weight_BCT: Tensor = self.rest(self.activation(x_BTCA)).squeeze(-1).transpose(1, 2)
        return weight_BCT


class Din(Ranker):
    """Deep Interest Network; see `Ranker` for the arguments."""

    name: ClassVar[str] = "din"

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        self.unit = ActivationUnit(encoder.dim, config.attention_hidden)

    def interest(self, q_BCD: Tensor, h_BTD: Tensor, batch: Batch) -> Interest:
        """Weighted sum of the visits."""
        h_BTD = torch.where(batch.mask_BT[..., None], h_BTD + self.cross(batch), 0.0)
        weight_BCT = self.unit(q_BCD, h_BTD) * batch.mask_BT[:, None]
        return Interest(weight_BCT @ h_BTD)
