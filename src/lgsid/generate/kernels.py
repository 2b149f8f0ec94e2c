"""Attention, norm and dropout as a CPU likes them: the same numbers as torch's own, in a fraction of the time.

What makes the difference is memory: gradients written by hand keep blocks that fit a core's cache, and no tensor is
written that only autograd would need.

Axes: as in `lgsid.generate.bands`; E = D / H dimensions of a head; S = T·L keys of a row, M = T·P queries of a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.generate.bands import Band, Look


def attend(q_GND: Tensor, kv_GKD: Tensor, bias_GHNK: Tensor, heads: int) -> Tensor:
    """softmax(q kᵀ + bias) v of each head, joined: (G, N, D), for any G groups.

    Args:
        q_GND: queries.
        kv_GKD: keys and values beside each other, (G, K, 2 D).
        bias_GHNK: additive; G and N may be 1, and G may be missing.
        heads: H.
    """
    k_GHKE, v_GHKE = _split_heads(kv_GKD, 2 * heads).chunk(2, dim=1)
    # torch's scaled_dot_product_attention takes twice as long: its kernel for CPUs is made for longer rows
    score_GHNK = _split_heads(q_GND, heads) @ k_GHKE.transpose(2, 3)
    weight_GHNK = score_GHNK.add_(bias_GHNK).softmax(-1)
    return (weight_GHNK.to(v_GHKE.dtype) @ v_GHKE).transpose(1, 2).flatten(2)


def split_keys(kv_GKD: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Keys (G·H, E, K) and values (G·H, K, E), for `attend_again`."""
    k_GHKE, v_GHKE = _split_heads(kv_GKD, 2 * heads).chunk(2, dim=1)
    return k_GHKE.flatten(0, 1).transpose(1, 2).contiguous(), v_GHKE.flatten(0, 1)


def attend_again(q_GND: Tensor, k_XEK: Tensor, v_XKE: Tensor, bias_XNK: Tensor) -> Tensor:
    """`attend` to keys and values that are split by head already; X = G·H. N may be 1 in the bias."""
    groups, queries, dim = q_GND.shape
    q_XNE = _split_heads(q_GND, len(k_XEK) // groups).reshape(len(k_XEK), queries, -1)
    mixed_XNE = torch.baddbmm(bias_XNK, q_XNE, k_XEK).softmax(-1) @ v_XKE
    return mixed_XNE.view(groups, -1, queries, v_XKE.shape[2]).transpose(1, 2).reshape(groups, queries, dim)


def _split_heads(x_GND: Tensor, heads: int) -> Tensor:
    """Vectors of D as heads of E, (G, H, N, E)."""
    return x_GND.view(*x_GND.shape[:2], heads, x_GND.shape[2] // heads).transpose(1, 2)


def look(q_RMD: Tensor, kv_RSD: Tensor, what: Look, heads: int) -> Tensor:
    """The same along rows, each query looking at what it sees: (R, M, D).

    Args:
        q_RMD: queries of the visits; or of the visits and of what fills up the last block.
        kv_RSD: keys and values of the visits beside each other, (R, S, 2 D).
        what: bias and mask.
        heads: H.
    """
    queries = q_RMD.shape[1]
    missing = what.bias_HNK.shape[1] * what.band.blocks - queries
    if missing:
        q_RMD = functional.pad(q_RMD, (0, 0, 0, missing))
    if torch.is_grad_enabled() and q_RMD.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        mixed: Tensor = _Look.apply(q_RMD, kv_RSD, what.bias_HNK, what.added, what.band, heads)  # type: ignore[no-untyped-call]
    else:
        mixed = look_plainly(q_RMD, kv_RSD, what, heads)
    return mixed[:, :queries]


def look_plainly(q_RMD: Tensor, kv_RSD: Tensor, what: Look, heads: int) -> Tensor:
    """`look` in torch's own operations."""
    band, bias_HNK = what.band, what.bias_HNK
    per = kv_RSD.shape[1] // band.visits
    kv = kv_RSD
    if band.blocks > 1:
        kv = functional.pad(kv_RSD, (0, 0, band.before * per, (band.padded - band.visits) * per))
    found = []
    for number, (q, added) in enumerate(zip(q_RMD.chunk(band.blocks, 1), what.added, strict=True)):
        start = number * band.block * per
        bias = added.view(-1, *bias_HNK.shape)
        if bias_HNK.requires_grad:
            bias = bias_HNK + (bias - bias_HNK.detach())
        found.append(attend(q, kv[:, start : start + band.seen * per], bias, heads))
    return torch.cat(found, dim=1) if len(found) > 1 else found[0]


class _Look(torch.autograd.Function):
    """`look` with its gradient by hand."""

    @staticmethod
    def forward(
        ctx: Any, q_RMD: Tensor, kv_RSD: Tensor, bias_HNK: Tensor, added: list[Tensor], band: Band, heads: int
    ) -> Tensor:
        q, k, v = _by_head(q_RMD, kv_RSD, band, heads)
        weights: list[Tensor] = []
        mixed = torch.empty_like(q)
        for (q_N, k_K, v_K, out_N), extra in zip(_blocks(band, q, k, v, mixed), added, strict=True):
            weight_XNK = torch.baddbmm(extra, q_N, k_K.transpose(1, 2)).softmax(-1)
            out_N.copy_(torch.bmm(weight_XNK, v_K))
            weights.append(weight_XNK)
        ctx.save_for_backward(q, k, v, *weights)
        ctx.band, ctx.heads, ctx.rows, ctx.bias = band, heads, len(q_RMD), bias_HNK.shape
        ctx.keys = kv_RSD.shape[1]
        return _joined(mixed, len(q_RMD))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *weights = ctx.saved_tensors
        band: Band = ctx.band
        g = grads[0].view(ctx.rows, -1, ctx.heads, q.shape[-1]).transpose(1, 2).reshape(q.shape)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        d_bias = q.new_zeros(ctx.bias)
        blocks = zip(_blocks(band, q, k, v, g), _blocks(band, dq, dk, dv, dq), weights, strict=True)
        for (q_N, k_K, v_K, g_N), (dq_N, dk_K, dv_K, _), weight in blocks:
            # added, as baddbmm_ into a view would take its matrices one by one
            dv_K += torch.bmm(weight.transpose(1, 2), g_N)
            d_score = torch._softmax_backward_data(torch.bmm(g_N, v_K.transpose(1, 2)), weight, -1, q.dtype)
            dq_N.copy_(torch.bmm(d_score, k_K))
            dk_K += torch.bmm(d_score.transpose(1, 2), q_N)
            d_bias += d_score.view(ctx.rows, *ctx.bias).sum(0)
        per = ctx.keys // band.visits
        inside = slice(band.before * per, band.before * per + ctx.keys)
        dkv = torch.stack([_split(dk, ctx.rows), _split(dv, ctx.rows)], 3)[:, :, inside]
        return _joined(dq, ctx.rows), dkv.permute(0, 2, 3, 1, 4).flatten(2), d_bias, None, None, None


def _split(x_XSE: Tensor, rows: int) -> Tensor:
    return x_XSE.view(rows, -1, *x_XSE.shape[1:])


def _by_head(q_RMD: Tensor, kv_RSD: Tensor, band: Band, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (R·H, M, E), and keys and values (R·H, padded S, E) with 0 beyond the row."""
    rows, keys, _ = kv_RSD.shape
    per = keys // band.visits
    q = q_RMD.view(rows, q_RMD.shape[1], heads, -1).transpose(1, 2).flatten(0, 1)
    kv = kv_RSD.view(rows, keys, 2, heads, -1).permute(2, 0, 3, 1, 4)
    if band.blocks == 1:
        k, v = kv.flatten(1, 2)
        return q, k, v
    padded = kv.new_zeros(2, rows, heads, (band.before + band.padded) * per, kv.shape[-1])
    padded[:, :, :, band.before * per : band.before * per + keys] = kv
    k, v = padded.flatten(1, 2)
    return q, k, v


def _blocks(band: Band, q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Views of each block: queries, the keys and values that it sees, and something of the queries' shape."""
    queries = q.shape[1] // band.blocks
    step = k.shape[1] * band.block // (band.before + band.padded)
    width = step * band.seen // band.block
    views = []
    for number in range(band.blocks):
        of_q, of_k = slice(number * queries, (number + 1) * queries), slice(number * step, number * step + width)
        views.append((q[:, of_q], k[:, of_k], v[:, of_k], g[:, of_q]))
    return views


def _joined(x_XME: Tensor, rows: int) -> Tensor:
    """Heads (R·H, M, E) beside each other: (R, M, D)."""
    return x_XME.view(rows, -1, *x_XME.shape[1:]).transpose(1, 2).flatten(2)


class _RmsNorm(torch.autograd.Function):
    """RMS norm with its gradient by hand."""

    @staticmethod
    def forward(ctx: Any, x_XD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        inverse_X1 = (x_XD.square().mean(-1, keepdim=True) + eps).rsqrt_()
        normal_XD = x_XD * inverse_X1
        ctx.save_for_backward(normal_XD, inverse_X1, weight_D)
        return normal_XD * weight_D

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normal_XD, inverse_X1, weight_D = ctx.saved_tensors
        product_XD = grads[0] * normal_XD
        d_weight = product_XD.sum(0)
        mean_X1 = (product_XD @ weight_D)[:, None] / len(weight_D)
        return (grads[0] * weight_D).addcmul_(normal_XD, mean_X1, value=-1).mul_(inverse_X1), d_weight, None


class RmsNorm(nn.Module):
    """Division by the root of the mean square, then a factor for each dimension."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.register_buffer("_eps_1", torch.tensor([eps]), persistent=False)
        self._eps_1: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (…, D) to vectors (…, D)."""
        if not torch.is_grad_enabled():
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            root = torch.addcmul(self._eps_1, length, length, value=1 / x.shape[-1]).rsqrt_()
            return (x * root).mul_(self.weight)
        if x.device.type == "cpu" and x.dtype == torch.float32:
            normal: Tensor = _RmsNorm.apply(x.reshape(-1, x.shape[-1]), self.weight, self.eps)  # type: ignore[no-untyped-call]
            return normal.view(x.shape)
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Dropout(nn.Dropout):
    """Dropout; on a CPU from random bytes, which cost a tenth of random numbers.

    There the share that is dropped is the nearest multiple of 1/256, and what is kept is scaled by just that.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The same, with some of it 0."""
        if not self.training:
            return input
        dropped = round(256 * self.p)
        if not dropped or dropped >= 256 or input.device.type != "cpu":
            return super().forward(input)
        words = torch.empty(-(-input.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        kept = words.view(torch.uint8)[: input.numel()].view(input.shape) >= dropped
        return input * (kept * (256 / (256 - dropped)))


def add_projected(x: Tensor, y: Tensor, weight_ED: Tensor, dropout: nn.Dropout) -> Tensor:
    """x + dropout(y W), of vectors (…, D) and (…, E); without dropout in one operation."""
    if dropout.training:
        dropped: Tensor = dropout(y @ weight_ED)
        return x + dropped
    return torch.addmm(x.flatten(0, -2), y.flatten(0, -2), weight_ED).view(x.shape)
