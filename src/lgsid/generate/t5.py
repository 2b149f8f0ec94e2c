"""The mathematics of T5 (arXiv 1910.10683): layers and stacks, without embeddings and heads.

Pre-norm residual layers; RMS norms without bias; attention without 1/√E, with a bias by the bucket of the relative
position that is learned once and shared by all layers of a stack; feed-forward layers of two matrices and a ReLU. Two
things are not T5's. Attention weights are not dropped out: on a CPU that costs more than the attention itself. And a
decoder can be given a bias of its cross attention.

Axes: R rows, S tokens of a row, M places of a row with P positions each, Q asks with P positions each, B requests with
W beams each, D dimensions, H heads of E = D / H dimensions; n, B and C as in `lgsid.generate.bands`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.generate.bands import NEVER, Asks, Band, Look
from lgsid.generate.kernels import Dropout, RmsNorm, add_projected, attend, attend_again, look, split_keys
from lgsid.generate.lean import DecoderPlan, EncoderPlan, Versions
from lgsid.generate.relative import RelativeBias

Losses = dict[str, Tensor]
"""Further losses of feed-forward layers by name: scalars, weighted already."""


class FeedForward(Protocol):
    """A feed-forward layer between a norm and the residual, which are not its business."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Losses]:
        """Vectors (…, D) to vectors (…, D), and losses to add to the model's."""


MakeFeedForward = Callable[[int], nn.Module]
"""Makes the feed-forward layer (a `FeedForward`) of a stack's layer of that number, from 0."""


class DenseFeedForward(nn.Module):
    """T5's: a matrix, ReLU, dropout, a matrix.

    Args:
        dim: D.
        inner: width between the matrices.
        dropout: share that is dropped.
    """

    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, inner, bias=False)
        # as it is multiplied by: few vectors times the transpose of a wide matrix take three times as long
        self.outer = nn.Parameter(torch.empty(inner, dim))
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.inner.weight, std=dim**-0.5)
        nn.init.normal_(self.outer, std=inner**-0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Losses]:
        """See `FeedForward`."""
        return self.dropout(self.inner(x).relu_()) @ self.outer, {}


class FeedForwardLayer(nn.Module):
    """Norm, feed-forward, dropout, residual."""

    def __init__(self, dim: int, dropout: float, feed_forward: nn.Module) -> None:
        super().__init__()
        self.norm = RmsNorm(dim)
        self.feed_forward = feed_forward
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, Losses]:
        y, losses = self.feed_forward(self.norm(x))
        return x + self.dropout(y), losses

    def step(self, x: Tensor) -> Tensor:
        """The same without dropout and losses."""
        through = self.feed_forward
        if isinstance(through, DenseFeedForward):
            inner = functional.linear(self.norm(x), through.inner.weight).relu_()
            return torch.addmm(x.flatten(0, -2), inner.flatten(0, -2), through.outer).view(x.shape)
        y: Tensor = through(self.norm(x))[0]
        return x + y


class SelfAttention(nn.Module):
    """Norm, attention of tokens to each other, dropout, residual."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RmsNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.qkv.weight, std=dim**-0.5)
        nn.init.normal_(self.qkv.weight[:dim], std=(dim * dim // heads) ** -0.5)
        nn.init.normal_(self.out.weight, std=dim**-0.5)

    def forward(self, x_RSD: Tensor, sees: Look | Tensor) -> Tensor:
        """Within each row.

        Args:
            x_RSD: tokens.
            sees: bias and mask: a `Look` along the rows, or a bias (H, S, S) of all tokens to each other.
        """
        q_RSD, kv_RSD = self.qkv(self.norm(x_RSD)).split([x_RSD.shape[-1], 2 * x_RSD.shape[-1]], dim=-1)
        if isinstance(sees, Look):
            mixed_RSD = look(q_RSD, kv_RSD, sees, self.heads)
        else:
            mixed_RSD = attend(q_RSD, kv_RSD, sees, self.heads)
        return add_projected(x_RSD, mixed_RSD, self.out.weight.T, self.dropout)

    def step(self, x_BWD: Tensor, past: list[Tensor], bias_HP: Tensor) -> tuple[Tensor, Tensor]:
        """For one more position of each beam.

        Args:
            x_BWD: its vectors.
            past: keys and values (B, W or 1, 2 D) of the positions before; of one beam where all share it.
            bias_HP: of the positions, its own included.

        Returns:
            new vectors, and its keys and values (B, W, 2 D).
        """
        dim = x_BWD.shape[2]
        qkv_BWD = functional.linear(self.norm(x_BWD), self.qkv.weight)
        q_BWD, kv_BWD = qkv_BWD[..., :dim], qkv_BWD[..., dim:]
        if past:
            kv_PBWD = torch.stack([one.expand_as(kv_BWD) for one in (*past, kv_BWD)])
            key, value = kv_PBWD.view(*kv_PBWD.shape[:3], 2, self.heads, -1).unbind(3)
            score_PBWH = (q_BWD.view(key.shape[1:]) * key).sum(-1) + bias_HP.T[:, None, None]
            mixed_BWD = (score_PBWH.softmax(0)[..., None] * value).sum(0).flatten(2)
        else:
            mixed_BWD = kv_BWD[..., dim:]
        return _plus(x_BWD, mixed_BWD, self.out.weight), kv_BWD


class CrossAttention(nn.Module):
    """Norm, attention to the encoder's states, dropout, residual."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = RmsNorm(dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.query.weight, std=(dim * dim // heads) ** -0.5)
        nn.init.normal_(self.kv.weight, std=dim**-0.5)
        nn.init.normal_(self.out.weight, std=dim**-0.5)

    def forward(self, x_QPD: Tensor, memory_RSD: Tensor, asks: Asks) -> Tensor:
        q_RMD = asks.grid(self.query(self.norm(x_QPD)), len(memory_RSD))
        mixed_RMD = look(q_RMD, self.kv(memory_RSD), asks.look, self.heads)
        mixed_QPD = asks.flat(mixed_RMD, x_QPD.shape[1])
        return add_projected(x_QPD, mixed_QPD, self.out.weight.T, self.dropout)

    def step(self, x_BWD: Tensor, memory: tuple[Tensor, Tensor], bias_X1S: Tensor) -> Tensor:
        """For one position of each beam; the beams of a request share its keys and values."""
        q_BWD = functional.linear(self.norm(x_BWD), self.query.weight)
        return _plus(x_BWD, attend_again(q_BWD, *memory, bias_X1S), self.out.weight)


class EncoderLayer(nn.Module):
    """Self-attention, feed-forward."""

    def __init__(self, dim: int, heads: int, dropout: float, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout)
        self.feed_forward = FeedForwardLayer(dim, dropout, feed_forward)

    def forward(self, x_RSD: Tensor, sees: Look) -> tuple[Tensor, Losses]:
        through: tuple[Tensor, Losses] = self.feed_forward(self.attention(x_RSD, sees))
        return through


class Encoder(nn.Module):
    """A stack of self-attention and feed-forward layers.

    Args:
        layers: how many.
        dim: D.
        heads: H.
        dropout: share that is dropped.
        feed_forward: makes the feed-forward layers.
    """

    def __init__(self, layers: int, dim: int, heads: int, dropout: float, feed_forward: MakeFeedForward) -> None:
        super().__init__()
        self._planned: tuple[Versions, EncoderPlan] | None = None
        self.bias = RelativeBias(heads, both=True, std=dim**-0.5)
        self.layers = nn.ModuleList(EncoderLayer(dim, heads, dropout, feed_forward(n)) for n in range(layers))
        self.norm = RmsNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_RSD: Tensor, band: Band, seen: list[Tensor]) -> tuple[Tensor, Losses]:
        """States (R, S, D), and the losses of the feed-forward layers.

        Args:
            x_RSD: tokens, as many of each visit.
            band: how rows are cut.
            seen: what visits see of each other, n times (R, B or 1, C), bool.
        """
        tokens = x_RSD.shape[1] // band.visits
        if band.blocks == 1 and not self.training and not torch.is_grad_enabled():
            plan = self._plan()
            bias_HNK = plan.bias((band.visits, tokens), lambda: self._bias(band, tokens))
            return self.norm(plan(x_RSD, Look.of(band, bias_HNK, seen, tokens, tokens).added[0])), {}
        sees = Look.of(band, self._bias(band, tokens), seen, tokens, tokens)
        losses: Losses = {}
        x_RSD = self.dropout(x_RSD)
        for layer in self.layers:
            x_RSD, further = layer(x_RSD, sees)
            _add(losses, further)
        return self.dropout(self.norm(x_RSD)), losses

    def _bias(self, band: Band, tokens: int) -> Tensor:
        """Bias (H, N, K) of the tokens of a block to those that it sees."""
        device = self.bias.weight.device
        query_N = torch.arange(band.block * tokens, device=device) + band.before * tokens
        bias_HNK: Tensor = self.bias(torch.arange(band.seen * tokens, device=device) - query_N[:, None])
        return bias_HNK

    def _plan(self) -> EncoderPlan:
        if self._planned is None or not self._planned[0].same():
            layers = cast("Sequence[EncoderLayer]", self.layers)
            self._planned = Versions(self), EncoderPlan(layers, layers[0].attention.heads)
        return self._planned[1]

    def train(self, mode: bool = True) -> Self:
        """See torch."""
        self._planned = None
        return super().train(mode)


@dataclass
class DecoderCache:
    """What a decoder remembers of the beams of B requests.

    Attributes:
        memory: keys (B·H, E, S) and values (B·H, S, E) of the encoder's states, of each layer.
        bias_X1S: bias of cross attention, mask included, (B·H, 1, S).
        past: keys and values (B, W, 2 D) of earlier positions, by position and layer; (B, 1, 2 D) where all beams of a
            request share one.
    """

    memory: list[tuple[Tensor, Tensor]]
    bias_X1S: Tensor
    past: list[list[Tensor]] = field(default_factory=list)

    def of_parents(self, parent_BW: Tensor) -> DecoderCache:
        """The same, of beams that go on from others."""
        if all(kv_BVD.shape[1] == 1 for position in self.past for kv_BVD in position):
            return self
        requests, beams = parent_BW.shape
        row_X = parent_BW
        if requests > 1:
            row_X = parent_BW + torch.arange(requests, device=parent_BW.device)[:, None] * self.past[-1][0].shape[1]
        row_X = row_X.flatten()

        def chosen(kv_BVD: Tensor) -> Tensor:
            if kv_BVD.shape[1] == 1:
                return kv_BVD
            return kv_BVD.reshape(-1, kv_BVD.shape[2]).index_select(0, row_X).view(requests, beams, -1)

        past = [[chosen(kv_BVD) for kv_BVD in position] for position in self.past]
        return DecoderCache(self.memory, self.bias_X1S, past)


class DecoderLayer(nn.Module):
    """Causal self-attention, cross attention, feed-forward."""

    def __init__(self, dim: int, heads: int, dropout: float, feed_forward: nn.Module) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads, dropout)
        self.cross = CrossAttention(dim, heads, dropout)
        self.feed_forward = FeedForwardLayer(dim, dropout, feed_forward)

    def forward(self, x_QPD: Tensor, bias_HPP: Tensor, memory_RSD: Tensor, asks: Asks) -> tuple[Tensor, Losses]:
        x_QPD = self.attention(x_QPD, bias_HPP)
        through: tuple[Tensor, Losses] = self.feed_forward(self.cross(x_QPD, memory_RSD, asks))
        return through


class Decoder(nn.Module):
    """A stack of causal self-attention, cross-attention and feed-forward layers.

    Args:
        layers: how many.
        dim: D.
        heads: H.
        dropout: share that is dropped.
        feed_forward: makes the feed-forward layers.
    """

    def __init__(self, layers: int, dim: int, heads: int, dropout: float, feed_forward: MakeFeedForward) -> None:
        super().__init__()
        self._planned: tuple[Versions, DecoderPlan] | None = None
        self.bias = RelativeBias(heads, both=False, std=dim**-0.5)
        self.layers = nn.ModuleList(DecoderLayer(dim, heads, dropout, feed_forward(n)) for n in range(layers))
        self.norm = RmsNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_QPD: Tensor, memory_RSD: Tensor, asks: Asks) -> tuple[Tensor, Losses]:
        """States (Q, P, D), and the losses of the feed-forward layers.

        Args:
            x_QPD: what has been written at each ask; a position sees itself and those before it.
            memory_RSD: states of the encoder.
            asks: where each stands, and what it sees.
        """
        place_P = torch.arange(x_QPD.shape[1], device=x_QPD.device)
        relative_PP = place_P - place_P[:, None]
        bias_HPP = self.bias(relative_PP).masked_fill(relative_PP > 0, NEVER)
        losses: Losses = {}
        x_QPD = self.dropout(x_QPD)
        for layer in self.layers:
            x_QPD, further = layer(x_QPD, bias_HPP, memory_RSD, asks)
            _add(losses, further)
        return self.dropout(self.norm(x_QPD)), losses

    def remember(self, memory_BSD: Tensor, bias_BH1S: Tensor) -> DecoderCache:
        """A cache of nothing but the encoder's states, to begin with."""
        memory = [split_keys(layer.cross.kv(memory_BSD), layer.cross.heads) for layer in self._layers]
        return DecoderCache(memory, bias_BH1S.flatten(0, 1))

    def step(self, x_BWD: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """States (B, W, D) at the next position, without dropout, and the cache with that position.

        Args:
            x_BWD: what was written last, by the beams whose positions the cache holds (`DecoderCache.of_parents`).
            cache: of the positions before.
        """
        bias_HP = self.bias.of_last(len(cache.past) + 1)
        if not torch.is_grad_enabled():
            x_BWD, written = self._plan()(x_BWD, cache.memory, cache.bias_X1S, cache.past, bias_HP)
            return self.norm(x_BWD), DecoderCache(cache.memory, cache.bias_X1S, [*cache.past, written])
        written = []
        for number, layer in enumerate(self._layers):
            past = [position[number] for position in cache.past]
            x_BWD, kv_BWD = layer.attention.step(x_BWD, past, bias_HP)
            x_BWD = layer.feed_forward.step(layer.cross.step(x_BWD, cache.memory[number], cache.bias_X1S))
            written.append(kv_BWD)
        return self.norm(x_BWD), DecoderCache(cache.memory, cache.bias_X1S, [*cache.past, written])

    def train(self, mode: bool = True) -> Self:
        """See torch."""
        self._planned = None
        return super().train(mode)

    def _plan(self) -> DecoderPlan:
        if self._planned is None or not self._planned[0].same():
            self._planned = Versions(self), DecoderPlan(self._layers, self._layers[0].attention.heads)
        return self._planned[1]

    @property
    def _layers(self) -> Sequence[DecoderLayer]:
        return cast("Sequence[DecoderLayer]", self.layers)


def _plus(x: Tensor, y: Tensor, weight_DE: Tensor) -> Tensor:
    """x + y Wᵀ."""
    return torch.addmm(x.flatten(0, -2), y.flatten(0, -2), weight_DE.T).view(x.shape)


def _add(losses: Losses, further: Losses) -> None:
    for name, loss in further.items():
        losses[name] = losses[name] + loss if name in losses else loss
