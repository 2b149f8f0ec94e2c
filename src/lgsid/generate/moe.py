"""Sparse mixture-of-experts feed-forward layers, with the load-balance loss of GShard and Switch.

A router chooses k of E experts for each token; the token is the sum of what they make of it, weighted by a softmax over
the chosen (arXiv 2006.16668, 2101.03961). Tokens are sorted by expert, so that every expert is one matrix product over
its own tokens and nothing is computed for a token that an expert does not see. No token is dropped.

The balance loss is ``E · Σ_e f_e · P_e``, f_e the share of assignments that go to expert e and P_e its mean
probability; it is 1 where all experts are equally busy, and its gradient goes through P_e.

Axes: X tokens, D dimensions, F inner dimensions, E experts, A = X·k assignments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.generate.kernels import Dropout
from lgsid.generate.t5 import Losses

BALANCE = "balance"
"""Name of the load-balance loss."""


class SparseExperts(nn.Module):
    """A feed-forward layer (`lgsid.generate.t5.FeedForward`) of E experts, k of which see a token.

    Args:
        dim: D.
        inner: F of each expert.
        dropout: share that is dropped between an expert's matrices.
        experts: E.
        active: k.
        balance_weight: of the load-balance loss.

    Raises:
        ValueError: more experts are to be active than there are.
    """

    def __init__(
        self, dim: int, inner: int, dropout: float, experts: int, active: int, balance_weight: float = 0.01
    ) -> None:
        super().__init__()
        if not 1 <= active <= experts:
            raise ValueError(f"{active} of {experts} experts cannot be active, expected 1 to {experts}")
        self.active, self.balance_weight = active, balance_weight
        self.router = nn.Linear(dim, experts, bias=False)
        self.inner_EFD = nn.Parameter(torch.empty(experts, inner, dim))
        self.outer_EDF = nn.Parameter(torch.empty(experts, dim, inner))
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.router.weight, std=0.02)
        nn.init.normal_(self.inner_EFD, std=dim**-0.5)
        nn.init.normal_(self.outer_EDF, std=inner**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Losses]:
        """Vectors (…, D) to vectors (…, D), and the load-balance loss, weighted."""
        flat_XD = x.reshape(-1, x.shape[-1])
        p_XE = functional.linear(flat_XD, self.router.weight).float().softmax(dim=1)
        weight_Xk, expert_Xk = p_XE.topk(self.active, dim=1)
        weight_Xk = weight_Xk / weight_Xk.sum(dim=1, keepdim=True)
        order_A = expert_Xk.flatten().argsort(stable=True)
        count_E = torch.bincount(expert_Xk.flatten(), minlength=len(self.inner_EFD))
        made_AD = self._experts(flat_XD.index_select(0, order_A // self.active), count_E.tolist())
        made_AD = made_AD * weight_Xk.flatten()[order_A, None].to(made_AD.dtype)
        # back in the order of tokens by a gather: its sum has one order, on a GPU too
        y_XD = made_AD.index_select(0, order_A.argsort()).view(len(flat_XD), self.active, x.shape[-1]).sum(dim=1)
        share_E = count_E / max(1, len(order_A))
        mean_E = p_XE.sum(dim=0) / max(1, len(flat_XD))
        balance = self.balance_weight * len(count_E) * (share_E * mean_E).sum()
        return y_XD.view(x.shape), {BALANCE: balance}

    def _experts(self, x_AD: Tensor, counts: Sequence[int]) -> Tensor:
        """What each expert makes of its run of tokens."""
        parts = zip(torch.split(x_AD, list(counts)), self.inner_EFD, self.outer_EDF, strict=True)
        made = [functional.linear(self.dropout(functional.linear(x, a_FD).relu()), b_DF) for x, a_FD, b_DF in parts]
        return torch.cat(made)
