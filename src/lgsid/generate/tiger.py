"""TIGER (Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023, arXiv 2305.05065).

A T5 encoder reads the SIDs of a user's visits, and a decoder writes that of the next one, token by token. What is
different here: each level has tokens and a head of its own, so that a token of another level cannot be written and
likelihoods are those of the level; the encoder can be causal, so that one pass serves all predictions of a row (the
paper's own is ``encoder: full``); the cross attention knows how many visits ago a token was; attention weights are not
dropped out; visits can be copied and distances are known (`lgsid.generate.pointer`, `lgsid.generate.nearness`); and
user tokens, which the paper hashes into 2,000, go to the decoder's BOS instead of the encoder's front.

Axes: Q targets, L tokens of a SID, D dimensions, K tokens of a level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lgsid.arrays import CodeArray, FloatArray
from lgsid.config import GenerateConfig
from lgsid.generate.base import Generator, Packed
from lgsid.generate.decoding import NetworkDecoder
from lgsid.generate.network import Network


class Tiger(Generator):
    """See the module.

    Args:
        codes_NL: unique SIDs, int32; row n is item n.
        sizes: number of tokens of each level, L of them.
        config: sizes and options.
        xyz_N3: places of the items, on the unit sphere; needed with ``config.nearness``.
    """

    name: ClassVar[str] = "tiger"

    def __init__(
        self, codes_NL: CodeArray, sizes: Sequence[int], config: GenerateConfig, xyz_N3: FloatArray | None = None
    ) -> None:
        super().__init__(codes_NL, sizes, config, xyz_N3)
        self.network = Network(sizes, config)

    def loss(self, rows: Packed) -> tuple[Tensor, dict[str, float]]:
        """Mean cross entropy of the tokens of all targets; the figures are the mean of each level.

        Raises:
            ValueError: nothing is to be predicted.
        """
        logits, code_QL = self._logits(rows)
        if not len(code_QL):
            raise ValueError("no visit of these rows is a target")
        smoothing = self.config.label_smoothing
        losses = torch.stack([
            functional.cross_entropy(logits_QK.float(), code_QL[:, level], label_smoothing=smoothing)
            for level, logits_QK in enumerate(logits)
        ])  # fmt: skip
        return losses.mean(), {f"level_{n}": loss for n, loss in enumerate(losses.tolist(), start=1)}

    def likelihoods(self, rows: Packed) -> Tensor:
        """Log-likelihood of each target's tokens, (Q, L): row by row, in the order of their places."""
        logits, code_QL = self._logits(rows)
        return torch.stack(
            [
                logits_QK.float().log_softmax(-1).gather(1, code_QL[:, level : level + 1])[:, 0]
                for level, logits_QK in enumerate(logits)
            ],
            dim=1,
        )

    def decoder(self, requests: Packed) -> NetworkDecoder:
        """The model at the requests, about to write the next item."""
        return NetworkDecoder(self.network, requests, self.codes_NL, self.places)

    def _logits(self, rows: Packed) -> tuple[list[Tensor], Tensor]:
        """Logits (Q, K) of each level at all targets, and the targets' SIDs (Q, L)."""
        network, tokens = self.network, self.network.tokens
        moments = network.targets(rows, tokens.levels)
        asks = moments.asks
        code_QL = self.codes_NL.index_select(0, rows.item_RT[asks.row_Q, asks.place_Q])
        level_P = torch.arange(tokens.levels - 1, device=code_QL.device)
        x_QPD = torch.cat([network.begin(moments)[:, None], tokens.written(code_QL[:, :-1], level_P)], dim=1)
        memory_RSD, _ = network.encode(rows, self.codes_NL)
        states_QPD, _ = network.decode(x_QPD, moments, memory_RSD)
        offers = network.offers(rows, memory_RSD, self.codes_NL, self.places)
        written = code_QL.unbind(1)
        return [
            network.logits(states_QPD[:, level], level, moments, offers, written[:level], self.places)
            for level in range(tokens.levels)
        ], code_QL
