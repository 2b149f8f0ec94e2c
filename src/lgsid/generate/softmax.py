"""Cross-entropy over a whole catalogue, and over a sample of it.

The gradient of a softmax is known as soon as its value is, so both are computed in one pass over a few targets at a
time: the logits of all targets, a hundred times the size of everything else, never exist, and those that do stay in the
cache. On a CPU that takes a third of the time of a matrix product followed by a cross-entropy.

Axes: P targets, N items, S drawn items, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lgsid.generate.places import Places

LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits that exist at once: 4 MiB, or 512 MiB."""


@dataclass(frozen=True)
class Away:
    """What distances add to logits.

    Attributes:
        by_PB: what each bucket of distances adds for each query.
        here_P3: where the users are.
        places: of the items.
    """

    by_PB: Tensor
    here_P3: Tensor
    places: Places

    def bucket(self, at: slice = slice(None), item_S: Tensor | None = None) -> Tensor:
        """Buckets (p, N) of the distances of some queries to all items, or (p, S) to some of these."""
        xyz = self.places.xyz_N3 if item_S is None else self.places.xyz_N3[item_S]
        return self.places.bucket(self.here_P3[at, None], xyz)


def full_cross_entropy(
    q_PD: Tensor,
    weight_ND: Tensor,
    bias_N: Tensor,
    target_P: Tensor,
    smoothing: float = 0.0,
    away: Away | None = None,
) -> Tensor:
    """Mean cross-entropy of the targets under ``softmax(q Wᵀ + b)``; differentiable once.

    Args:
        q_PD: queries.
        weight_ND, bias_N: of the items.
        target_P: items, int64.
        smoothing: label smoothing.
        away: is added to the logits.
    """
    by_PB = None if away is None else away.by_PB
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        q_PD, weight_ND, bias_N, by_PB, target_P, smoothing, away, torch.is_grad_enabled()
    )
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_PD: Tensor,
        weight_ND: Tensor,
        bias_N: Tensor,
        by_PB: Tensor | None,
        target_P: Tensor,
        smoothing: float,
        away: Away | None,
        training: bool,
    ) -> Tensor:
        with torch.autocast(q_PD.device.type, enabled=False):
            q_PD, items = q_PD.detach().float(), len(bias_N)
            size = max(1, LOGITS.get(q_PD.device.type, LOGITS["cpu"]) // items)
            total = q_PD.new_zeros(())
            grads = [torch.zeros_like(q_PD), torch.zeros_like(weight_ND), torch.zeros_like(bias_N)]
            if by_PB is not None:
                grads.append(torch.zeros_like(by_PB))
            for at in range(0, len(q_PD), size):
                q_pD, target_p1 = q_PD[at : at + size], target_P[at : at + size, None]
                x_pN = torch.addmm(bias_N, q_pD, weight_ND.T)
                if by_PB is not None and away is not None:
                    bucket_pN = away.bucket(slice(at, at + size))
                    x_pN.add_(by_PB[at : at + size].gather(1, bucket_pN))
                x_pN.sub_(x_pN.amax(1, keepdim=True))
                right_p, mean_p = x_pN.gather(1, target_p1)[:, 0], x_pN.mean(1) if smoothing else 0.0
                sum_p1 = x_pN.exp_().sum(1, keepdim=True)
                total += (sum_p1[:, 0].log() - (1 - smoothing) * right_p - smoothing * mean_p).sum()
                if training:
                    x_pN.div_(sum_p1).sub_(smoothing / items)
                    x_pN.scatter_add_(1, target_p1, x_pN.new_full(target_p1.shape, smoothing - 1))
                    torch.mm(x_pN, weight_ND, out=grads[0][at : at + size])
                    grads[1].addmm_(x_pN.T, q_pD)
                    grads[2].add_(x_pN.sum(0))
                    if by_PB is not None:
                        grads[3][at : at + size].scatter_add_(1, bucket_pN, x_pN)
        ctx.save_for_backward(*grads)
        return total / len(q_PD)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad[0] / len(ctx.saved_tensors[0])
        grads = [saved * factor for saved in ctx.saved_tensors]
        return *grads, *[None] * (8 - len(grads))


def proposal(items: int, count_N: Tensor | None) -> Tensor:
    """Probabilities (N), float64, that items are drawn with: half evenly, half by their visits."""
    even_N = torch.full((items,), 1 / items, dtype=torch.float64)
    if count_N is None or not count_N.sum():
        return even_N
    return (even_N + count_N.double() / count_N.sum()) / 2


def sampled_cross_entropy(
    q_PD: Tensor,
    weight_ND: Tensor,
    bias_N: Tensor,
    target_P: Tensor,
    proposal_N: Tensor,
    drawn: int,
    smoothing: float = 0.0,
    away: Away | None = None,
) -> Tensor:
    """`full_cross_entropy` with an unbiased estimate of the softmax's denominator.

    The target counts as it is, and each drawn item by one over how often it is expected among the drawn ones (the
    correction of arXiv 1412.2007); one that is the target is left out, so that nothing counts twice.

    Args:
        q_PD, weight_ND, bias_N, target_P, smoothing, away: see `full_cross_entropy`.
        proposal_N: probabilities that items are drawn with, all above 0.
        drawn: S, items that all targets are compared with.
    """
    sum_N = proposal_N.cumsum(0)
    draw_S = torch.rand(drawn, dtype=sum_N.dtype, device=sum_N.device) * sum_N[-1]
    item_S = torch.searchsorted(sum_N, draw_S, right=True).clamp(max=len(sum_N) - 1)
    expected_S = proposal_N[item_S] * drawn
    raw_PS = functional.linear(q_PD, weight_ND[item_S], bias_N[item_S]).float()
    right_P = (q_PD * weight_ND[target_P]).sum(1).float() + bias_N[target_P]
    if away is not None:
        raw_PS = raw_PS + away.by_PB.gather(1, away.bucket(item_S=item_S))
        own_P = away.places.bucket(away.here_P3, away.places.xyz_N3[target_P])
        right_P = right_P + away.by_PB.gather(1, own_P[:, None])[:, 0]
    logit_PS = (raw_PS - expected_S.log().float()).masked_fill(target_P[:, None] == item_S, -torch.inf)
    all_P = torch.logsumexp(torch.cat([right_P[:, None], logit_PS], dim=1), dim=1)
    mean_P = raw_PS @ (1 / (expected_S * len(sum_N))).float() if smoothing else right_P
    return (all_P - (1 - smoothing) * right_P - smoothing * mean_P).mean()
