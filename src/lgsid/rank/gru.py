"""Gated recurrent units whose update gate is scaled from outside: GRU and AUGRU.

Made for many short sequences on few cores, where automatic differentiation of a loop mostly makes and reads small
tensors: the input's part of the gates is one product for all steps, shared by all sequences over the same input; a
step is one more product and elementwise work in place; the way back through time is written by hand; and requests go
longest first, so that most padding is not computed.

Axes: as in `lgsid.rank.base`; G = 3D, the reset gate, the update gate and the proposed state; N requests that are
computed at a step. Inside, the request is the last axis, so that each gate is one block of memory.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

STRETCHES = 4
"""Most stretches of steps with the same N: a stretch costs a little, and so does padding."""

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input


class AttentionalGru(nn.Module):
    """GRU with attentional update gate (DIEN, arXiv 1809.03672, eq. 2-5 and 13-14).

    For every sequence, with x the input, s the state (zero at first) and a the attention of a step::

        r = sigmoid(W_r x + b_r + U_r s)
        u = sigmoid(W_u x + b_u + U_u s)
        n = tanh(W_n x + b_n + r ⊙ U_n s)
        s ← (1 - a u) ⊙ s + a u ⊙ n

    Attention 1 is a plain GRU. Padding leaves the state as it is.

    Args:
        dim: D, of input and state.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(dim, 3 * dim)
        self.of_state = nn.Linear(dim, 3 * dim, bias=False)
        for weight in (*self.of_input.weight.chunk(3), *self.of_state.weight.chunk(3)):
            nn.init.orthogonal_(weight)

    def states(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """States (B, T, D) of the plain GRU after each step, zero at padding.

        Args:
            x_BTD: inputs, finite everywhere; what stands at padding means nothing.
            mask_BT: where there is input; padding is at the front.
        """
        return self._run(x_BTD, mask_BT[:, None].to(x_BTD.dtype), mask_BT, every=True).squeeze(1)

    def last(self, x_BTD: Tensor, attention_BCT: Tensor, mask_BT: Tensor) -> Tensor:
        """Last states (B, C, D) of C sequences over each request's input, each with its own attention.

        Args:
            x_BTD: inputs, finite everywhere; what stands at padding means nothing.
            attention_BCT: attention, finite everywhere; what stands at padding means nothing.
            mask_BT: where there is input; padding is at the front.
        """
        return self._run(x_BTD, attention_BCT * mask_BT[:, None], mask_BT, every=False).squeeze(2)

    def _run(self, x_BTD: Tensor, attention_BCT: Tensor, mask_BT: Tensor, every: bool) -> Tensor:
        """States (B, C, T, D) after every step, or (B, C, 1, D) after the last one; attention is 0 at padding."""
        requests, steps, dim = x_BTD.shape
        plan = stretches(mask_BT)
        lengths = [length for length, _ in plan]
        first = steps - sum(lengths)
        order_B = mask_BT.sum(1).argsort(descending=True, stable=True)
        x_GTB = self._project(x_BTD[:, first:].index_select(0, order_B))
        a_TCB = attention_BCT[..., first:].index_select(0, order_B).permute(2, 1, 0)
        s_DCN = x_GTB.new_zeros(dim, a_TCB.shape[1], 0)
        pieces = []
        inputs = zip(plan, torch.split(x_GTB, lengths, 1), torch.split(a_TCB, lengths), strict=True)
        for (_, count), x_GTN, a_TCN in inputs:
            s_TDCN, s_DCN = _Recurrence.apply(
                x_GTN[..., :count], self.of_state.weight, a_TCN[..., :count].contiguous(), _widen(s_DCN, count)
            )  # type: ignore[no-untyped-call]
            pieces.append(s_TDCN)
        s_TDCB = torch.cat([_widen(s_TDCN, requests) for s_TDCN in pieces]) if every else _widen(s_DCN, requests)[None]
        s_BCTD = s_TDCB.permute(3, 2, 0, 1).index_select(0, order_B.argsort())
        return functional.pad(s_BCTD, (0, 0, first, 0)) if every and first else s_BCTD

    def _project(self, x_BTD: Tensor) -> Tensor:
        """The input's part of the gates, (G, T, B)."""
        x_DTB = x_BTD.permute(2, 1, 0)
        x_GX = torch.addmm(self.of_input.bias[:, None], self.of_input.weight, x_DTB.flatten(1))
        return x_GX.view(-1, *x_DTB.shape[1:])


def stretches(mask_BT: Tensor) -> list[tuple[int, int]]:
    """Stretches of steps with the same number of requests, up to the last step: (steps, requests).

    The requests go longest first; those of a stretch are the ones that have begun, rounded up. Steps before the first
    visit of all are left out.
    """
    requests = len(mask_BT)
    unit = -(-requests // STRETCHES)
    begun = mask_BT.sum(0).tolist()
    begun[-1] = max(begun[-1], 1)
    counts = [min(requests, -(-count // unit) * unit) for count in begun if count]
    return [(len(list(steps)), count) for count, steps in groupby(counts)]


def _widen(s_N: Tensor, requests: int) -> Tensor:
    """Zero for the requests that have not begun; the last axis holds the requests."""
    return functional.pad(s_N, (0, requests - s_N.shape[-1])) if s_N.shape[-1] < requests else s_N


class _Recurrence(Function):
    """All steps of a stretch; see `AttentionalGru`.

    Takes x_GTN, weight_GD, attention_TCN and the state_DCN before; gives the states after each step, s_TDCN, and the
    last one once more, so that nobody who needs that alone makes a gradient for all of them.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cuda", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, x_GTN: Tensor, weight_GD: Tensor, attention_TCN: Tensor, state_DCN: Tensor
    ) -> tuple[Tensor, Tensor]:
        dim, steps = len(state_DCN), x_GTN.shape[1]
        s_XDCN = state_DCN.new_empty(steps + 1, *state_DCN.shape)
        s_XDCN[0] = state_DCN
        gates_TGCN = state_DCN.new_empty(steps, 3 * dim, *state_DCN.shape[1:])
        n_TDCN = torch.empty_like(s_XDCN[1:])
        au_DCN = torch.empty_like(state_DCN)
        # all views at once: one by one they would take as long as the work
        s, s_flat = s_XDCN.unbind(), s_XDCN.flatten(2).unbind()
        gates, gates_flat = gates_TGCN.unbind(), gates_TGCN.flatten(2).unbind()
        ru = gates_TGCN[:, : 2 * dim].unbind()
        x_ru, x_n = (part.unsqueeze(2).unbind(1) for part in torch.split(x_GTN, [2 * dim, dim]))
        for t, (a, n) in enumerate(zip(attention_TCN.unbind(), n_TDCN.unbind(), strict=True)):
            torch.mm(weight_GD, s_flat[t], out=gates_flat[t])
            ru[t].add_(x_ru[t]).sigmoid_()
            r, u, s_n = gates[t].chunk(3)
            _tanh_(torch.addcmul(x_n[t], r, s_n, out=n))
            torch.lerp(s[t], n, torch.mul(u, a, out=au_DCN), out=s[t + 1])
        ctx.save_for_backward(weight_GD, attention_TCN, s_XDCN, gates_TGCN, n_TDCN)
        ctx.set_materialize_grads(False)
        return s_XDCN[1:], s_XDCN[-1].clone()

    @staticmethod
    @once_differentiable
    @torch.amp.custom_bwd(device_type="cuda")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        s_grad_TDCN, last_grad_DCN = gradients
        weight_GD, attention_TCN, s_XDCN, gates_TGCN, n_TDCN = ctx.saved_tensors
        dim, shape_DCN = weight_GD.shape[1], n_TDCN.shape[1:]
        weight_DG = weight_GD.t().contiguous()
        weight_grad_GD = torch.zeros_like(weight_GD)
        a_grad_TCN = torch.empty_like(attention_TCN)
        x_grad_GTN = weight_GD.new_empty(3 * dim, len(n_TDCN), shape_DCN[2])
        x_grads = [part.unbind(1) for part in torch.split(x_grad_GTN, [2 * dim, dim])]
        s_flat = s_XDCN.flatten(2).transpose(1, 2).unbind()
        grad_DCN = weight_GD.new_zeros(shape_DCN)
        if last_grad_DCN is not None:
            grad_DCN.copy_(last_grad_DCN)
        gates_grad_GCN = weight_GD.new_empty(3 * dim, *shape_DCN[1:])
        grad_flat, gates_grad_flat = grad_DCN.flatten(1), gates_grad_GCN.flatten(1)
        spare = torch.empty_like(grad_DCN), torch.empty_like(grad_DCN)
        saved = [part.unbind() for part in (s_XDCN[:-1], gates_TGCN, n_TDCN, attention_TCN, a_grad_TCN)]
        for t, (s, gates, n, a, a_grad) in reversed(list(enumerate(zip(*saved, strict=True)))):
            if s_grad_TDCN is not None:
                grad_DCN.add_(s_grad_TDCN[t])
            n_grad_DCN = _step_back(grad_DCN, s, gates, n, a, a_grad, gates_grad_GCN, spare)
            torch.sum(gates_grad_GCN[: 2 * dim], 1, out=x_grads[0][t])
            torch.sum(n_grad_DCN, 1, out=x_grads[1][t])
            weight_grad_GD.addmm_(gates_grad_flat, s_flat[t])
            grad_flat.addmm_(weight_DG, gates_grad_flat)
        return x_grad_GTN, weight_grad_GD, a_grad_TCN, grad_DCN


def _step_back(
    grad: Tensor,
    s: Tensor,
    gates: Tensor,
    n: Tensor,
    a: Tensor,
    a_grad: Tensor,
    gates_grad: Tensor,
    spare: tuple[Tensor, Tensor],
) -> Tensor:
    """The elementwise part of a step, backwards and in place.

    Args:
        grad: of the state after the step; becomes that of the state before it, without the way through the gates.
        s: state before the step.
        gates: r, u and U_n s.
        n: proposed state.
        a: attention.
        a_grad: gets the gradient of ``a``.
        gates_grad: gets the gradient of the three parts of U s.
        spare: memory of the shape of ``s``.

    Returns:
        gradient of the proposed state before its tanh, in spare memory.
    """
    (r, u, s_n), (r_grad, u_grad, s_n_grad) = gates.chunk(3), gates_grad.chunk(3)
    one, two = spare
    torch.sub(n, s, out=one).mul_(grad)
    torch.sum(torch.mul(one, u, out=two), 0, out=a_grad)
    _sigmoid_backward(one.mul_(a), u, grad_input=u_grad)
    torch.mul(u, a, out=two).mul_(grad)
    grad.sub_(two)
    _tanh_backward(two, n, grad_input=two)
    _sigmoid_backward(torch.mul(two, s_n, out=one), r, grad_input=r_grad)
    torch.mul(two, r, out=s_n_grad)
    return two


def _tanh_(x: Tensor) -> Tensor:
    """Hyperbolic tangent in place; on a CPU, torch's own takes six times as long as its sigmoid."""
    return x.tanh_() if x.is_cuda else x.mul_(2).sigmoid_().mul_(2).sub_(1)
