"""DIN: attention of each candidate over the history.

Reference: Zhou et al., "Deep Interest Network for Click-Through Rate Prediction" (KDD 2018, arXiv 1706.06978): the
interest is the sum of the visits' vectors, each weighted by a small network that sees candidate and visit; the weights
are not normalised, so that their sum says how strong the interest is (section 4.3).

Nearly all the time goes into the first layer of that network, for every pair of candidate and visit. Automatic
differentiation keeps a dozen tensors of all pairs there, and mostly waits for memory; here the way back is written by
hand, in blocks that stay in a processor's cache.

Axes: as in `lgsid.rank.base`; A units of the first hidden layer; P = C·T·B pairs of candidate and visit, X = C·B
candidates or T·B visits. Inside, pairs are the last axis and requests the last of theirs: a unit is one block of
memory, and so is a step of all histories.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable

from lgsid.config import RankConfig
from lgsid.rank.base import Batch, Interest, Ranker, vectors
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.layers import Dice, Mlp

_CACHED = 1 << 18
"""Numbers that a processor's cache holds."""


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
        q_CBD, h_TBD = q_BCD.transpose(0, 1).contiguous(), h_BTD.transpose(0, 1).contiguous()
        bias_A1 = self.of_candidate.bias[:, None]
        q_AX = torch.addmm(bias_A1, self.of_candidate.weight, q_CBD.flatten(0, 1).t())
        h_AX = self.of_visit.weight @ h_TBD.flatten(0, 1).t()
        x_AP = _Products.apply(q_CBD, h_TBD, self.of_product.weight, q_AX, h_AX)  # type: ignore[no-untyped-call]
        weight_P1: Tensor = self.rest(_dice(self.activation, x_AP).t())
        return weight_P1.view(len(q_CBD), *h_TBD.shape[:2]).permute(2, 0, 1)


class Din(Ranker):
    """Deep Interest Network; see `Ranker` for the arguments."""

    name: ClassVar[str] = "din"

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        self.unit = ActivationUnit(encoder.dim, config.attention_hidden)

    def interest(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Interest:
        """Weighted sum of the visits."""
        h_BTD = vectors(e_UD, batch.history_BT) + self.cross(batch)
        h_BTD = torch.where(batch.mask_BT[..., None], h_BTD, 0.0)
        weight_BCT = self.unit(q_BCD, h_BTD) * batch.mask_BT[:, None]
        return Interest(weight_BCT @ h_BTD)


class _Products(Function):
    """(q ⊙ h) W for all pairs, plus what the layer makes of q (A, C·B) and of h (A, T·B) alone: (A, P)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, q_CBD: Tensor, h_TBD: Tensor, weight_AD: Tensor, q_AX: Tensor, h_AX: Tensor) -> Tensor:
        (candidates, requests, _), steps = q_CBD.shape, len(h_TBD)
        q_AC1B, h_ATB = q_AX.view(-1, candidates, 1, requests), h_AX.view(-1, steps, requests)
        x_ACTB = h_AX.new_empty(len(weight_AD), candidates, steps, requests)
        for block in _blocks(h_TBD):
            h_tBD = h_TBD[block]
            product_tBD = torch.empty_like(h_tBD)
            for c, q_BD in enumerate(q_CBD):
                torch.mul(h_tBD, q_BD, out=product_tBD)
                x_AtB = torch.add(h_ATB[:, block], q_AC1B[:, c], out=x_ACTB[:, c, block])
                x_AtB.flatten(1).addmm_(weight_AD, product_tBD.flatten(0, 1).t())
        ctx.save_for_backward(q_CBD, h_TBD, weight_AD)
        return x_ACTB.flatten(1)

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_AP: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        q_CBD, h_TBD, weight_AD = ctx.saved_tensors
        grad_ACTB = grad_AP.contiguous().view(-1, len(q_CBD), *h_TBD.shape[:2])
        q_grad_CBD, h_grad_TBD = torch.zeros_like(q_CBD), torch.zeros_like(h_TBD)
        weight_grad_AD = torch.zeros_like(weight_AD)
        for block in _blocks(h_TBD):
            h_tBD, h_grad_tBD = h_TBD[block], h_grad_TBD[block]
            one_tBD, two_tBD = torch.empty_like(h_tBD), torch.empty_like(h_tBD)
            for c, q_BD in enumerate(q_CBD):
                grad_AX = grad_ACTB[:, c, block].flatten(1)
                weight_grad_AD.addmm_(grad_AX, torch.mul(h_tBD, q_BD, out=one_tBD).flatten(0, 1))
                torch.mm(grad_AX.t(), weight_AD, out=two_tBD.flatten(0, 1))
                h_grad_tBD.addcmul_(two_tBD, q_BD)
                q_grad_CBD[c] += two_tBD.mul_(h_tBD).sum(0)
        return q_grad_CBD, h_grad_TBD, weight_grad_AD, grad_ACTB.sum(2).flatten(1), grad_ACTB.sum(1).flatten(1)


def _dice(dice: Dice, x_AP: Tensor) -> Tensor:
    """What `Dice` makes of units by pairs; in training, the running figures move as `nn.BatchNorm1d` moves them."""
    norm = dice.norm
    mean_A, variance_A = norm.running_mean, norm.running_var
    assert mean_A is not None
    assert variance_A is not None
    if dice.training:
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        norm.num_batches_tracked += 1
        running_A, pairs = (mean_A, variance_A), x_AP.shape[1]
        mean_A, variance_A = _moments(x_AP.detach())
        running_A[0].lerp_(mean_A, norm.momentum)
        running_A[1].lerp_(variance_A * (pairs / max(1, pairs - 1)), norm.momentum)
    scale_A = (variance_A + norm.eps).rsqrt()
    y_AP: Tensor = _Dice.apply(x_AP, dice.alpha, mean_A, scale_A, dice.training)  # type: ignore[no-untyped-call]
    return y_AP


def _moments(x_AP: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each unit; the variance is that of these pairs, not an estimate."""
    mean_A = x_AP.mean(1)
    variance_A = torch.empty_like(mean_A)
    for block in _blocks(x_AP):
        torch.mean((x_AP[block] - mean_A[block, None]).square_(), 1, out=variance_A[block])
    return mean_A, variance_A


class _Dice(Function):
    """`Dice` of x_AP, a few units at a time, standardised as (x − mean) · scale.

    Where these are the figures of x_AP itself, its gradient also goes through them; their own is not wanted.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x_AP: Tensor, alpha_A: Tensor, mean_A: Tensor, scale_A: Tensor, of_x: bool) -> Tensor:
        p_AP, y_AP = torch.empty_like(x_AP), torch.empty_like(x_AP)
        for block in _blocks(x_AP):
            x, p, alpha = x_AP[block], p_AP[block], alpha_A[block, None]
            torch.sub(x, mean_A[block, None], out=p).mul_(scale_A[block, None]).sigmoid_()
            torch.addcmul(alpha, p, 1 - alpha, out=y_AP[block]).mul_(x)
        ctx.save_for_backward(x_AP, p_AP, alpha_A, mean_A, scale_A)
        ctx.of_x = of_x
        return y_AP

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_AP: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x_AP, p_AP, alpha_A, mean_A, scale_A = ctx.saved_tensors
        x_grad_AP, alpha_grad_A = torch.empty_like(x_AP), torch.empty_like(alpha_A)
        for block in _blocks(x_AP):
            x, p, grad, out = x_AP[block], p_AP[block], grad_AP[block], x_grad_AP[block]
            alpha, scale = alpha_A[block, None], scale_A[block, None]
            one = grad * x
            two = one * p
            torch.sub(one.sum(1), two.sum(1), out=alpha_grad_A[block])
            through_p = torch.addcmul(two, two, p, value=-1, out=one)  # grad · x · p · (1 − p)
            if ctx.of_x:
                centred = torch.sub(x, mean_A[block, None], out=out)
                slope = torch.mul(through_p, centred, out=two).mean(1, keepdim=True) * scale.square()
                through_p.sub_(through_p.mean(1, keepdim=True)).addcmul_(centred, slope, value=-1)
            torch.addcmul(alpha, p, 1 - alpha, out=out).mul_(grad).addcmul_(through_p, (1 - alpha) * scale)
        return x_grad_AP, alpha_grad_A, None, None, None


def _blocks(x: Tensor) -> Iterator[slice]:
    """Slices of the first axis that fit in cache; on other devices, the whole of it."""
    size = max(1, _CACHED * len(x) // max(1, x.numel())) if x.device.type == "cpu" else max(1, len(x))
    return (slice(start, min(start + size, len(x))) for start in range(0, len(x), size))
