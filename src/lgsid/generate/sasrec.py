"""SASRec (Kang & McAuley 2018, arXiv 1808.09781), tuned: the rival that knows no codes.

A causal transformer over items, whose state after a visit is compared with the embedding of every item. Three things
differ from the paper, each because it makes SASRec stronger or because rows hold several users: the loss is the softmax
over the whole catalogue instead of one negative a positive (with which SASRec beats BERT4Rec, arXiv 2309.07602), over a
sample of it where the catalogue is large; places are told by how many visits ago instead of by absolute number; and an
item has a bias, its popularity. With ``generate.nearness`` it has another one by how far it is from the user, as the
tokens of generators have (`lgsid.generate.nearness`), so that a comparison with these is one of models.

Axes: R rows, T visits of a row, P targets, N items, S sampled items, D dimensions, H heads, K items asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.config import GenerateConfig
from lgsid.generate.bands import NEVER
from lgsid.generate.base import BANDS, Packed, SequenceModel
from lgsid.generate.kernels import Dropout, attend
from lgsid.generate.nearness import Nearness
from lgsid.generate.places import Places, told
from lgsid.generate.softmax import Away, full_cross_entropy, proposal, sampled_cross_entropy
from lgsid.generate.tokens import GAPS, HOURS_OF_WEEK, gap_bucket, hour_of_week, since_before

FULL_SOFTMAX = 50_000
"""Items up to which the loss is over all of them."""
SAMPLED = 8_192
"""Items that the loss is over in larger catalogues, besides the target."""
SCORES = 1 << 24
"""Scores that are in memory at once, 64 MiB, when requests are answered."""


class SasRec(SequenceModel):
    """SASRec.

    Args:
        items: N, size of the catalogue.
        config: sizes and options; ``encoder_layers`` is the number of layers.
        count_N: visits of each item in training, from which the sampled softmax draws; None draws evenly.
        xyz_N3: places of the items, on the unit sphere; needed with ``config.nearness``.

    Raises:
        ValueError: the places are missing.
    """

    name = "sasrec"
    pace = 0.1

    def __init__(
        self,
        items: int,
        config: GenerateConfig,
        count_N: IntArray | None = None,
        xyz_N3: FloatArray | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        known_N3 = told(config.nearness, xyz_N3)
        self.places = None if known_N3 is None else Places(known_N3)
        self.nearness = Nearness(config.dim, 1) if config.nearness else None
        self.items = nn.Embedding(items, config.dim)
        self.bias_N = nn.Parameter(torch.zeros(items))
        self.context = _Context(config)
        self.relative_WH = nn.Parameter(torch.zeros(config.history, config.heads))
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_layers))
        self.norm = nn.LayerNorm(config.dim)
        self.dropout = Dropout(config.dropout)
        nn.init.normal_(self.items.weight, std=0.02)
        self.proposal_N: Tensor
        self.register_buffer(
            "proposal_N", proposal(items, None if count_N is None else torch.from_numpy(count_N)), persistent=False
        )

    def loss(self, rows: Packed) -> tuple[Tensor, dict[str, float]]:
        """Mean cross-entropy of all targets among all items, or a sample of them.

        Raises:
            ValueError: nothing is to be predicted.
        """
        row_P, place_P = rows.target_RT.nonzero(as_tuple=True)
        if not len(row_P):
            raise ValueError("no visit of these rows is a target")
        h_PD = self._states(rows)[row_P, place_P - 1]
        request_PD = self.context.requests(
            rows.time_RT[row_P, place_P], rows.time_RT[row_P, place_P - 1], rows.user_RT[row_P, place_P]
        )
        q_PD = self._queries(h_PD, request_PD)
        target_P = rows.item_RT[row_P, place_P]
        items = (self.items.weight, self.bias_N, target_P)
        smoothing, away = self.config.label_smoothing, self._away(q_PD, rows.here_RT3[row_P, place_P])
        if len(self.bias_N) <= FULL_SOFTMAX:
            return full_cross_entropy(q_PD, *items, smoothing, away), {}
        return sampled_cross_entropy(q_PD, *items, self.proposal_N, SAMPLED, smoothing, away), {}

    def scores(self, requests: Packed) -> Tensor:
        """Scores (R, N) of all items for each request, one segment a row; in the order of likelihood."""
        return self._logits(self._at_requests(requests), requests.here_R3)

    @torch.inference_mode()
    def top(self, requests: Packed, k: int, reach: Sequence[IntArray | CodeArray] | None = None) -> IntArray:
        """See `lgsid.generate.base.Recommender`."""
        if not len(requests):
            return np.empty((0, k), dtype=np.int64)
        training = self.training
        self.eval()
        try:
            q_RD = self._at_requests(requests)
            size = max(1, SCORES // len(self.bias_N))
            parts = [
                _best(
                    self._logits(q_RD[at : at + size], requests.here_R3[at : at + size]),
                    k,
                    None if reach is None else reach[at : at + size],
                )
                for at in range(0, len(q_RD), size)
            ]
        finally:
            self.train(training)
        found: IntArray = torch.cat(parts).cpu().numpy()
        return found

    def _at_requests(self, requests: Packed) -> Tensor:
        """Queries (R, D). Who has no history has the state 0, and is recommended by context and popularity."""
        row_R = torch.arange(len(requests), device=requests.length_R.device)
        some_R, last_R = requests.length_R > 0, (requests.length_R - 1).clamp(min=0)
        h_RD = torch.where(some_R[:, None], self._states(requests)[row_R, last_R], 0.0)
        before_R = torch.where(some_R, requests.time_RT[row_R, last_R], requests.now_R)
        return self._queries(h_RD, self.context.requests(requests.now_R, before_R, requests.user_RT[:, 0]))

    def _states(self, rows: Packed) -> Tensor:
        """What the model knows after each visit (R, T, D)."""
        x_RTD: Tensor = self.items(rows.item_RT) * math.sqrt(self.config.dim)
        x_RTD = self.dropout(x_RTD + self.context.visits(rows))
        bias_RHTT = self._attention_bias(rows.segment_RT)
        for layer in self.layers:
            x_RTD = layer(x_RTD, bias_RHTT)
        return x_RTD

    def _attention_bias(self, segment_RT: Tensor) -> Tensor:
        """What is added to attention logits: by how many visits ago; `NEVER` where a visit isn't seen."""
        place_T = torch.arange(segment_RT.shape[1], device=segment_RT.device)
        ago_TT = place_T[:, None] - place_T
        near_TT = (ago_TT >= 0) & (ago_TT < self.config.history)
        seen_RTT = (segment_RT[:, :, None] == segment_RT[:, None]) & near_TT
        bias_HTT = self.relative_WH[ago_TT.clamp(0, self.config.history - 1)].permute(2, 0, 1)
        return torch.where(seen_RTT[:, None], bias_HTT, NEVER)

    def _queries(self, h_PD: Tensor, request_PD: Tensor | None) -> Tensor:
        """What is compared with the items."""
        q_PD: Tensor = self.norm(h_PD if request_PD is None else h_PD + request_PD)
        return q_PD

    def _logits(self, q_PD: Tensor, here_P3: Tensor) -> Tensor:
        logit_PN = functional.linear(q_PD, self.items.weight, self.bias_N).float()
        away = self._away(q_PD, here_P3)
        return logit_PN if away is None else logit_PN + away.by_PB.gather(1, away.bucket())

    def _away(self, q_PD: Tensor, here_P3: Tensor) -> Away | None:
        """What the distances from the users' places add."""
        if self.nearness is None or self.places is None:
            return None
        return Away(self.nearness.by_bucket(q_PD, 0), here_P3, self.places)


def _best(logit_RN: Tensor, k: int, reach: Sequence[IntArray | CodeArray] | None) -> Tensor:
    """Rows (R, K) of the highest logits; -1 where there are no more."""
    if reach is not None:
        inside_RN = torch.zeros_like(logit_RN, dtype=torch.bool)
        row_A = np.repeat(np.arange(len(reach)), [len(of_request) for of_request in reach])
        item_A = np.concatenate([np.asarray(of_request, dtype=np.int64) for of_request in reach])
        inside_RN[torch.from_numpy(row_A), torch.from_numpy(item_A)] = True
        logit_RN = logit_RN.masked_fill(~inside_RN, -torch.inf)
    best_RK, item_RK = logit_RN.topk(min(k, logit_RN.shape[1]), dim=1)
    item_RK = item_RK.masked_fill(best_RK == -torch.inf, -1)
    return functional.pad(item_RK, (0, k - item_RK.shape[1]), value=-1)


class _Context(nn.Module):
    """What is known besides the items, as far as the configuration lets models know it."""

    def __init__(self, config: GenerateConfig) -> None:
        super().__init__()
        self.config = config

        def table(rows: int) -> nn.Embedding | None:
            if not rows:
                return None
            made = nn.Embedding(rows, config.dim)
            nn.init.zeros_(made.weight)
            return made

        timed = config.time
        self.hour, self.gap = table(HOURS_OF_WEEK * timed), table(GAPS * timed)
        self.hour_asked, self.gap_asked = table(HOURS_OF_WEEK * timed), table(GAPS * timed)
        self.band = table(BANDS * config.distance)
        self.user = table(config.users)

    def visits(self, rows: Packed) -> Tensor | float:
        """What is added to visits (R, T, D)."""
        x_RTD: Tensor | float = 0.0
        if self.hour is not None and self.gap is not None:
            x_RTD = self.hour(hour_of_week(rows.time_RT)) + self.gap(gap_bucket(since_before(rows)))
        if self.band is not None:
            x_RTD = x_RTD + self.band(rows.band_RT)
        return x_RTD

    def requests(self, now_P: Tensor, before_P: Tensor, user_P: Tensor) -> Tensor | None:
        """What is added to states that are asked for what comes next (P, D), given when the visit before was."""
        parts = []
        if self.hour_asked is not None and self.gap_asked is not None:
            parts = [self.hour_asked(hour_of_week(now_P)), self.gap_asked(gap_bucket(now_P - before_P))]
        if self.user is not None:
            parts.append(self.user(user_P))
        return torch.stack(parts).sum(0) if parts else None


class _Layer(nn.Module):
    """Causal self-attention and a feed-forward network, each behind a norm and beside a shortcut."""

    def __init__(self, config: GenerateConfig) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, config.feed_forward), nn.Linear(config.feed_forward, dim)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_RTD: Tensor, bias_RHTT: Tensor) -> Tensor:
        """One layer."""
        q_RTD, kv_RTD = self.qkv(self.norm_attention(x_RTD)).split([x_RTD.shape[2], 2 * x_RTD.shape[2]], dim=2)
        q_RTD = q_RTD * math.sqrt(self.heads / x_RTD.shape[2])
        x_RTD = x_RTD + self.dropout(self.out(attend(q_RTD, kv_RTD, bias_RHTT, self.heads)))
        inner = functional.relu(self.up(self.norm_forward(x_RTD)))
        x_RTD = x_RTD + self.dropout(self.down(self.dropout(inner)))
        return x_RTD
