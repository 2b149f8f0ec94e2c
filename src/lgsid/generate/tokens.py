"""From visits to token embeddings, and from decoder states to likelihoods of tokens.

Each level of a SID has tokens of its own and a head of its own. All tokens are rows of one table, which encoder and
decoder share as in T5; level l begins at row `offset[l]`. A position of the decoder is BOS or a token that has been
written; which level is asked for behind it is the caller's business.

Axes: R rows, T visits of a row, L tokens of a SID, D dimensions, Q asks, K tokens of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.config import GenerateConfig
from lgsid.generate.base import BANDS, Packed

HOURS_OF_WEEK = 168
GAPS = 24
"""Buckets of the time since the visit before, by powers of two of a minute; 0 also where there is none."""

_GAP_EDGES_SECONDS = [60 * 2**power for power in range(1, GAPS)]


def hour_of_week(time: Tensor) -> Tensor:
    """Hour of the week (UTC, Thursday 0:00 is 0) of seconds since 1970, int64."""
    return time // 3_600 % HOURS_OF_WEEK


def gap_bucket(seconds: Tensor) -> Tensor:
    """Bucket of a time span, int64: 0 below two minutes, then one for each doubling."""
    edges = torch.tensor(_GAP_EDGES_SECONDS, device=seconds.device)
    return torch.bucketize(seconds, edges, right=True)


class SidTokens(nn.Module):
    """Embeddings of tokens and of what is known beside them, and the heads.

    Args:
        sizes: number of tokens of each level.
        config: sizes and options.
    """

    def __init__(self, sizes: Sequence[int], config: GenerateConfig) -> None:
        super().__init__()
        self.sizes, self.config = tuple(sizes), config
        self.offset: tuple[int, ...] = tuple(sum(self.sizes[:level]) for level in range(len(self.sizes)))
        self.register_buffer("offset_L", torch.tensor(self.offset), persistent=False)
        self.offset_L: Tensor
        self.table = nn.Embedding(sum(self.sizes), config.dim)
        self.bos = nn.Parameter(torch.randn(config.dim))
        self.heads = nn.ModuleList(nn.Linear(config.dim, size, bias=False) for size in self.sizes)
        for parameter in self.heads.parameters():
            nn.init.normal_(parameter, std=config.dim**-0.5)
        # zero at the start, so that a model which is told more begins as the one which is not
        if config.users:
            self.user = _zeros(config.users, config.dim)
        if config.time:
            self.hour, self.gap = _zeros(HOURS_OF_WEEK, config.dim), _zeros(GAPS, config.dim)
            self.ask_hour, self.ask_gap = _zeros(HOURS_OF_WEEK, config.dim), _zeros(GAPS, config.dim)
        if config.distance:
            self.band = _zeros(BANDS, config.dim)

    @property
    def levels(self) -> int:
        """L."""
        return len(self.sizes)

    def written(self, token: Tensor, level: Tensor | int) -> Tensor:
        """Embeddings (…, D) of tokens (…) of a level, or of levels (…)."""
        offset = self.offset[level] if isinstance(level, int) else self.offset_L[level]
        return functional.embedding(token + offset, self.table.weight)

    def visits(self, rows: Packed, codes_NL: Tensor) -> Tensor:
        """Tokens of all visits with their time and distance, (R, T·L, D)."""
        item_V = rows.item_RT.flatten()
        x_VLD = functional.embedding(codes_NL.index_select(0, item_V) + self.offset_L, self.table.weight)
        further: list[Tensor] = []
        if self.config.time:
            further += [self.hour(hour_of_week(rows.time_RT)), self.gap(gap_bucket(since_before(rows)))]
        if self.config.distance:
            further.append(self.band(rows.band_RT))
        if further:
            x_VLD = x_VLD + torch.stack(further).sum(0).flatten(0, 1)[:, None]
        return x_VLD.view(len(rows), -1, x_VLD.shape[-1])

    def begin(self, user_Q: Tensor, time_Q: Tensor, gap_Q: Tensor) -> Tensor:
        """BOS with the user and the time of each ask, (Q, D).

        Args:
            user_Q: user tokens.
            time_Q: when, seconds since 1970.
            gap_Q: seconds since the visit before.
        """
        x_QD = self.bos.expand(len(user_Q), -1)
        if self.config.users:
            x_QD = x_QD + self.user(user_Q)
        if self.config.time:
            x_QD = x_QD + self.ask_hour(hour_of_week(time_Q)) + self.ask_gap(gap_bucket(gap_Q))
        return x_QD

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Logits (…, K) of the tokens of a level, of decoder states (…, D)."""
        logits: Tensor = self.heads[level](states)
        return logits


def since_before(rows: Packed) -> Tensor:
    """Seconds since the visit before, (R, T), int64; 0 for a segment's first one."""
    since_RT = torch.zeros_like(rows.time_RT)
    same_RT = rows.segment_RT[:, 1:] == rows.segment_RT[:, :-1]
    since_RT[:, 1:] = torch.where(same_RT, rows.time_RT[:, 1:] - rows.time_RT[:, :-1], 0)
    return since_RT


def _zeros(size: int, dim: int) -> nn.Embedding:
    table = nn.Embedding(size, dim)
    nn.init.zeros_(table.weight)
    return table
