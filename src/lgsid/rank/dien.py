"""DIEN: how the user's interest evolves towards each candidate.

Reference: Zhou et al., "Deep Interest Evolution Network for Click-Through Rate Prediction" (AAAI 2019, arXiv
1809.03672). A GRU over the visits gives the interest behind each of them, taught by an auxiliary loss to foretell the
next visit; each candidate attends over these interests; a second GRU, its update gate scaled by the attention, follows
the part of them that has to do with the candidate. Its last state is the interest.

Axes: as in `lgsid.rank.base`; S = T - 1 steps from a visit to the next one, V visits of the batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.config import RankConfig
from lgsid.rank.attention import masked_softmax
from lgsid.rank.base import Batch, Interest, Ranker, vectors
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.gru import AttentionalGru


class Dien(Ranker):
    """Deep Interest Evolution Network; see `Ranker` for the arguments."""

    name: ClassVar[str] = "dien"

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        self.extractor = AttentionalGru(encoder.dim)
        self.bilinear = nn.Linear(encoder.dim, encoder.dim, bias=False)
        self.evolution = AttentionalGru(encoder.dim)

    def interest(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Interest:
        """Last state of the interest evolution; zero for users without visits."""
        mask_BT, h_BTD = batch.mask_BT, vectors(e_UD, batch.history_BT)
        x_BTD = torch.where(mask_BT[..., None], h_BTD + self.cross(batch), 0.0)
        s_BTD = self.extractor.states(x_BTD, mask_BT)
        attention_BCT = masked_softmax(self.bilinear(q_BCD) @ s_BTD.transpose(1, 2), mask_BT[:, None])
        vector_BCD = self.evolution.last(s_BTD, attention_BCT, mask_BT)
        if not (self.training and self.config.auxiliary_weight):
            return Interest(vector_BCD)
        loss = auxiliary_loss(s_BTD, h_BTD, batch.history_BT, mask_BT)
        return Interest(vector_BCD, {"auxiliary": self.config.auxiliary_weight * loss})


def auxiliary_loss(s_BTD: Tensor, h_BTD: Tensor, history_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """How badly a visit's interest tells the next visit from another one (eq. 6 with σ(s·e), mean over the pairs).

    Args:
        s_BTD: interests, states of the extractor.
        h_BTD: vectors of the visits' items, finite everywhere.
        history_BT: items of the visits.
        mask_BT: where there is a visit; padding is at the front.

    Returns:
        a scalar, 0 where no user has two visits, or all visits are to one item.
    """
    if not mask_BT[:, :-1].any():
        return s_BTD.new_zeros(())
    place_BS, found_BS = other_visits(history_BT[:, 1:].contiguous(), history_BT[mask_BT])
    pair_BS = mask_BT[:, :-1] & found_BS
    visit_V = mask_BT.flatten().nonzero().squeeze(1)
    other_BSD = h_BTD.flatten(0, 1).index_select(0, visit_V[place_BS.flatten()]).view_as(h_BTD[:, 1:])
    right_BS = (s_BTD[:, :-1] * h_BTD[:, 1:]).sum(2)
    wrong_BS = (s_BTD[:, :-1] * other_BSD).sum(2)
    loss_BS = functional.softplus(-right_BS) + functional.softplus(wrong_BS)
    return (loss_BS * pair_BS).sum() / pair_BS.sum().clamp(min=1)


def other_visits(items_BS: Tensor, visits_V: Tensor) -> tuple[Tensor, Tensor]:
    """For each item one of the visits to other items, uniformly, from torch's generator.

    Args:
        items_BS: items.
        visits_V: items of the visits to draw from, one at least.

    Returns:
        places in ``visits_V``, and whether there is any visit to another item (the place is 0 where not).
    """
    sorted_V, order_V = visits_V.sort(stable=True)
    first_BS = torch.searchsorted(sorted_V, items_BS)
    own_BS = torch.searchsorted(sorted_V, items_BS, right=True) - first_BS
    others_BS = len(visits_V) - own_BS
    draw_BS = (torch.rand(items_BS.shape, device=items_BS.device, dtype=torch.float64) * others_BS).long()
    # the visits to other items lie before and after those to the item itself
    place_BS = torch.where(draw_BS < first_BS, draw_BS, draw_BS + own_BS)
    found_BS = others_BS > 0
    return order_V[place_BS * found_BS], found_BS
