"""A trained DIN that scores one request at a time, in as few operations as that takes.

For one request the network takes less time than the calls that lead through its modules. So here what a request and a
pair of distance band and region add to the first layer of the head comes from tables, what is known of a visit besides
its item from another, and no module is asked for its parameters. A plan is a copy of a ranker's weights, which must
not change afterwards; the vectors of items stay the ranker's.

Axes: as in `lgsid.rank.din` with B = 1; H units of the head's first layer, V combinations of what is known of a visit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lgsid.rank.base import BANDS, REGIONS, Batch
from lgsid.rank.din import ActivationUnit, Din
from lgsid.rank.layers import Dice, Mlp


class LeanDin:
    """See the module.

    Args:
        ranker: in evaluation mode.
    """

    @torch.no_grad()
    def __init__(self, ranker: Din) -> None:
        self._distance = ranker.config.distance
        self._unit, self._match = _Unit(ranker.unit), ranker.match.weight.t().contiguous()
        self._cross_VD = _crossed(ranker)
        first, *self._rest = _layers(ranker.head)
        width = ranker.items.dim + 2 * ranker.interest_dim
        hours = ranker.hour.weight.shape[1]
        days = hours + ranker.day.weight.shape[1]
        of_vectors, of_context = first.weight[:width], first.weight[width:]
        self._weight = of_vectors.contiguous()
        self._hour = ranker.hour.weight @ of_context[:hours] + first.bias
        self._day = ranker.day.weight @ of_context[hours:days]
        self._pair = ranker.pair.weight @ of_context[days:] if self._distance else None
        self._dice = first.dice

    @torch.no_grad()
    def __call__(self, e_UD: Tensor, batch: Batch) -> Tensor:
        """Logits (1, C) of a batch of one request.

        Args:
            e_UD: vectors of its items.
            batch: the request.
        """
        q_CD = e_UD.index_select(0, batch.candidates_BC[0])
        v_CD = self._interest(q_CD, e_UD, batch)
        x_CX = torch.cat([q_CD, v_CD, torch.mm(q_CD, self._match).mul_(v_CD)], dim=1)
        added = self._hour[batch.hour_B] + self._day[batch.day_B]
        if self._pair is not None:
            assert batch.band_BC is not None
            assert batch.region_BC is not None
            pair_C = batch.band_BC[0] * REGIONS + batch.region_BC[0]
            added = self._pair.index_select(0, pair_C).add_(added)
        return _through(torch.addmm(added, x_CX, self._weight), self._dice, self._rest).t()

    def _interest(self, q_CD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Weighted sum of the visits (C, D); padding stands in front of them and is cut off."""
        visits = int(batch.mask_BT.sum())
        if not visits:
            return torch.zeros_like(q_CD)
        bucket_T = batch.gap_BT[0, -visits:]
        if self._distance:
            assert batch.band_BT is not None
            assert batch.region_BT is not None
            bucket_T = (bucket_T * BANDS + batch.band_BT[0, -visits:]) * REGIONS + batch.region_BT[0, -visits:]
        h_TD = e_UD.index_select(0, batch.history_BT[0, -visits:]).add_(self._cross_VD.index_select(0, bucket_T))
        return torch.mm(self._unit(q_CD, h_TD), h_TD)


class _Constants:
    """`Dice` at inference."""

    def __init__(self, dice: Dice) -> None:
        mean_A, variance_A = dice.norm.running_mean, dice.norm.running_var
        assert mean_A is not None
        assert variance_A is not None
        self.scale_A = (variance_A + dice.norm.eps).rsqrt()
        self.shift_A = -mean_A * self.scale_A
        self.alpha_A, self.rest_A = dice.alpha.detach().clone(), 1 - dice.alpha.detach()

    def __call__(self, x_XA: Tensor) -> Tensor:
        p_XA = torch.addcmul(self.shift_A, x_XA, self.scale_A).sigmoid_()
        return torch.addcmul(self.alpha_A, p_XA, self.rest_A, out=p_XA).mul_(x_XA)


class _Layer:
    """A fully connected layer, weights as they are multiplied by, and the Dice behind it; none behind the last one."""

    def __init__(self, linear: nn.Linear, dice: Dice | None) -> None:
        self.weight, self.bias = linear.weight.detach().t().contiguous(), linear.bias.detach().clone()
        self.dice = None if dice is None else _Constants(dice)


def _layers(mlp: Mlp) -> list[_Layer]:
    linears = [module for module in mlp.layers if isinstance(module, nn.Linear)]
    dices = [module for module in mlp.layers if isinstance(module, Dice)]
    return [_Layer(linear, dice) for linear, dice in zip(linears, [*dices, None], strict=True)]


def _through(x_XA: Tensor, dice: _Constants | None, layers: Sequence[_Layer]) -> Tensor:
    """What a first layer gave through its Dice and the layers behind it."""
    if dice is not None:
        x_XA = dice(x_XA)
    for layer in layers:
        x_XA = torch.addmm(layer.bias, x_XA, layer.weight)
        if layer.dice is not None:
            x_XA = layer.dice(x_XA)
    return x_XA


class _Unit:
    """`ActivationUnit` of one request: for one visit its first layer is linear in the candidate."""

    def __init__(self, unit: ActivationUnit) -> None:
        self._of_candidate, self._of_product = unit.of_candidate.weight.detach(), unit.of_product.weight.detach()
        self._of_visit, self._bias_A = unit.of_visit.weight.detach().t().contiguous(), unit.of_candidate.bias.detach()
        self._dice, self._rest = _Constants(unit.activation), _layers(unit.rest)

    def __call__(self, q_CD: Tensor, h_TD: Tensor) -> Tensor:
        """Weights (C, T)."""
        weight_TAD = torch.addcmul(self._of_candidate, self._of_product, h_TD[:, None])
        bias_TA = torch.addmm(self._bias_A, h_TD, self._of_visit)
        x_CX = torch.addmm(bias_TA.flatten(), q_CD, weight_TAD.flatten(0, 1).t())
        return _through(x_CX.view(-1, bias_TA.shape[1]), self._dice, self._rest).view(len(q_CD), len(h_TD))


def _crossed(ranker: Din) -> Tensor:
    """What `Ranker.cross` gives for every combination, (V, D)."""
    if not ranker.config.distance:
        return ranker.gap.weight.detach().clone()
    sum_GBRD = ranker.gap.weight[:, None, None] + ranker.band.weight[:, None] + ranker.region.weight
    return sum_GBRD.flatten(0, 2)
