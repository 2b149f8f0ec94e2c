"""The stacks of `lgsid.generate.t5` without gradients, in as few operations as they take.

A request of one user is a few dozen vectors: its layers take less time than the calls that start them. So here norms
are part of the matrices behind them, matrices lie as they are multiplied by, residuals are added by the multiplication,
and no module is asked for its parameters. A plan is a copy of a stack's weights, and made again when these change.

Axes: as in `lgsid.generate.t5`; X = B·W vectors, Y = R·H or B·H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from lgsid.generate.t5 import DecoderLayer, EncoderLayer, FeedForwardLayer, SelfAttention

Through = Callable[[Tensor], Tensor]
"""Vectors (X, D) through a feed-forward layer, residual included."""


_SHAPES = 64
"""Shapes of rows whose biases are kept."""


class Versions:
    """Tells whether parameters are what they were."""

    def __init__(self, module: nn.Module) -> None:
        self._parameters = list(module.parameters())
        self._seen = self._now()

    def same(self) -> bool:
        """Whether nothing has been written to them, and none has moved."""
        return self._now() == self._seen

    def _now(self) -> list[tuple[int, int]]:
        return [(parameter.data_ptr(), parameter._version) for parameter in self._parameters]


@dataclass(frozen=True)
class _Attention:
    """Matrices (D, 3 D) and (D, D) of self-attention."""

    qkv: Tensor
    out: Tensor

    @classmethod
    def of(cls, layer: SelfAttention) -> _Attention:
        return cls(_folded(layer.norm.weight, layer.qkv.weight), layer.out.weight.T.contiguous())


class EncoderPlan:
    """An encoder's layers.

    Args:
        layers: of the stack.
        heads: H.
    """

    def __init__(self, layers: Sequence[EncoderLayer], heads: int) -> None:
        self.heads = heads
        self.normal = _Normal(layers[0].attention.norm)
        self.layers = [(_Attention.of(layer.attention), _through(layer.feed_forward, self.normal)) for layer in layers]
        self.biases: dict[tuple[int, int], Tensor] = {}

    def bias(self, shape: tuple[int, int], make: Callable[[], Tensor]) -> Tensor:
        """The bias of rows of a shape, made once."""
        if shape not in self.biases:
            if len(self.biases) >= _SHAPES:
                self.biases.clear()
            self.biases[shape] = make()
        return self.biases[shape]

    def __call__(self, x_RSD: Tensor, added_YSS: Tensor) -> Tensor:
        """States before the last norm, of rows that are one block.

        Args:
            x_RSD: tokens.
            added_YSS: bias and mask.
        """
        rows, tokens, dim = x_RSD.shape
        x_XD = x_RSD.reshape(-1, dim)
        for attention, through in self.layers:
            qkv = torch.mm(self.normal(x_XD), attention.qkv).view(rows, tokens, 3, self.heads, -1)
            q_YSE, k_YSE, v_YSE = qkv.permute(2, 0, 3, 1, 4).reshape(3, rows * self.heads, tokens, -1)
            mixed_YSE = torch.bmm(torch.baddbmm(added_YSS, q_YSE, k_YSE.transpose(1, 2)).softmax(-1), v_YSE)
            mixed_XD = mixed_YSE.view(rows, self.heads, tokens, -1).transpose(1, 2).reshape(-1, dim)
            x_XD = through(torch.addmm(x_XD, mixed_XD, attention.out))
        return x_XD.view(x_RSD.shape)


class DecoderPlan:
    """A decoder's layers.

    Args:
        layers: of the stack.
        heads: H.
    """

    def __init__(self, layers: Sequence[DecoderLayer], heads: int) -> None:
        self.heads = heads
        self.normal = _Normal(layers[0].attention.norm)
        self.layers = [
            (
                _Attention.of(layer.attention),
                _folded(layer.cross.norm.weight, layer.cross.query.weight),
                layer.cross.out.weight.T.contiguous(),
                _through(layer.feed_forward, self.normal),
            )
            for layer in layers
        ]

    def __call__(
        self,
        x_BWD: Tensor,
        memory: list[tuple[Tensor, Tensor]],
        bias_Y1S: Tensor,
        past: list[list[Tensor]],
        bias_HP: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """One more position of each beam, before the last norm, and its keys and values of each layer.

        Args:
            x_BWD: what was written last.
            memory, bias_Y1S, past: as in `lgsid.generate.t5.DecoderCache`.
            bias_HP: of the positions, as the last one sees them.
        """
        requests, beams, dim = x_BWD.shape
        x_XD, written = x_BWD.reshape(-1, dim), []
        # of two positions only the difference counts: their softmax is a sigmoid
        bias = (bias_HP[:, :1] - bias_HP[:, 1:]) if len(past) == 1 else bias_HP.T[:, None, None]
        for number, (attention, query, cross_out, through) in enumerate(self.layers):
            qkv_BWD = torch.mm(self.normal(x_XD), attention.qkv).view(requests, beams, 3 * dim)
            mixed_XD = self._mixed(qkv_BWD, [position[number] for position in past], bias)
            x_XD = torch.addmm(x_XD, mixed_XD, attention.out)
            q_BWHE = torch.mm(self.normal(x_XD), query).view(requests, beams, self.heads, -1)
            x_XD = torch.addmm(x_XD, self._crossed(q_BWHE, *memory[number], bias_Y1S), cross_out)
            x_XD = through(x_XD)
            written.append(qkv_BWD[..., dim:])
        return x_XD.view(x_BWD.shape), written

    def _mixed(self, qkv_BWD: Tensor, past: list[Tensor], bias: Tensor) -> Tensor:
        """Self-attention, (X, D)."""
        requests, beams, width = qkv_BWD.shape
        split = (requests, beams, 3, self.heads, width // 3 // self.heads)
        q, k, v = qkv_BWD.view(split).unbind(2)
        if not past:
            return v.reshape(requests * beams, -1)
        before = [one.view(requests, -1, 2, *split[3:]) for one in past]
        if len(before) == 1:
            k_0, v_0 = before[0].unbind(2)
            score_BWH1 = (q * (k_0 - k)).sum(-1, keepdim=True).add_(bias)
            return torch.lerp(v, v_0, score_BWH1.sigmoid_()).view(requests * beams, -1)
        shape = (requests, beams, 2, *split[3:])
        kv_P = torch.stack([*(one.expand(shape) for one in before), qkv_BWD.view(split)[:, :, 1:]])
        score_PBWH = (q * kv_P[:, :, :, 0]).sum(-1).add_(bias)
        return (score_PBWH.softmax(0)[..., None] * kv_P[:, :, :, 1]).sum(0).view(requests * beams, -1)

    def _crossed(self, q_BWHE: Tensor, k_YES: Tensor, v_YSE: Tensor, bias_Y1S: Tensor) -> Tensor:
        """Cross attention, (X, D)."""
        requests, beams, heads, _ = q_BWHE.shape
        q_YWE = q_BWHE.transpose(1, 2).reshape(requests * heads, beams, -1)
        mixed_YWE = torch.bmm(torch.baddbmm(bias_Y1S, q_YWE, k_YES).softmax(-1), v_YSE)
        return mixed_YWE.view(requests, heads, beams, -1).transpose(1, 2).reshape(requests * beams, -1)


class _Normal:
    """An RMS norm without its factors."""

    def __init__(self, norm: Any) -> None:
        self.eps_1, self.share = norm.weight.new_tensor([norm.eps]), 1 / len(norm.weight)

    def __call__(self, x_XD: Tensor) -> Tensor:
        length_X1 = torch.linalg.vector_norm(x_XD, dim=1, keepdim=True)
        return x_XD * torch.addcmul(self.eps_1, length_X1, length_X1, value=self.share).rsqrt_()


def _folded(norm_D: Tensor, weight_ED: Tensor) -> Tensor:
    """A matrix (D, E) behind a norm, with the norm's factors."""
    return (weight_ED * norm_D).T.contiguous()


def _through(layer: FeedForwardLayer, normal: _Normal) -> Through:
    """A feed-forward layer, residual included; one that is not T5's is asked itself."""
    from lgsid.generate.t5 import DenseFeedForward

    if not isinstance(layer.feed_forward, DenseFeedForward):
        return layer.step
    inner, outer = _folded(layer.norm.weight, layer.feed_forward.inner.weight), layer.feed_forward.outer.detach()

    def through(x_XD: Tensor) -> Tensor:
        return torch.addmm(x_XD, functional.relu_(torch.mm(normal(x_XD), inner)), outer)

    return through
