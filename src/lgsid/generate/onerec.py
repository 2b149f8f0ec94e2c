"""OneRec (Deng et al. 2025, arXiv 2502.18965): a generator that writes the rest of a session, a list of items.

TIGER's encoder and decoder with two differences: the decoder's feed-forward layers are sparse mixtures of experts, and
what is learned and written is a list: BOS and the L tokens of an item, BOS and those of the next. So the later items
of a list are chosen with the earlier ones in view. The first item alone is what TIGER would be asked for.

In training a target's list is what is left of its session (`lgsid.generate.sessions`). Lists of one length go through
the decoder together, so that nothing is computed for padding. Every BOS of a list knows the moment of the request, and
nothing of when its own item will be visited.

Axes: R rows or requests, T visits of a row, Q lists with M items of L tokens, P = M·(L + 1) - 1 positions of a list, W
lists of a request, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.arrays import CodeArray, FloatArray
from lgsid.config import GenerateConfig
from lgsid.generate.base import Generator, Packed
from lgsid.generate.decoding import NetworkDecoder
from lgsid.generate.lists import NetworkListDecoder
from lgsid.generate.moe import SparseExperts
from lgsid.generate.network import Moments, Network
from lgsid.generate.pointer import Offers
from lgsid.generate.sessions import session_lists
from lgsid.generate.t5 import Losses


class OneRec(Generator):
    """See the module.

    Args:
        codes_NL: unique SIDs, int32; row n is item n.
        sizes: number of tokens of each level, L of them.
        config: sizes and options; ``feed_forward`` is the width of each expert.
        xyz_N3: places of the items, on the unit sphere; needed with ``config.nearness``.
    """

    name: ClassVar[str] = "onerec"

    def __init__(
        self, codes_NL: CodeArray, sizes: Sequence[int], config: GenerateConfig, xyz_N3: FloatArray | None = None
    ) -> None:
        super().__init__(codes_NL, sizes, config, xyz_N3)
        options = config.experts

        def experts(number: int) -> nn.Module:
            return SparseExperts(
                config.dim, config.feed_forward, config.dropout, options.experts, options.active, options.balance_weight
            )

        self.network = Network(sizes, config, experts)

    def loss(self, rows: Packed) -> tuple[Tensor, dict[str, float]]:
        """Mean cross entropy of all tokens of all lists, and the load-balance loss of the experts.

        The figures: that of each level of the first items and of the later ones, and the balance (1 is even).

        Raises:
            ValueError: nothing is to be predicted.
        """
        memory_RSD, extra = self.network.encode(rows, self.codes_NL)
        offers = self.network.offers(rows, memory_RSD, self.codes_NL, self.places)
        nll: dict[str, list[Tensor]] = {}
        tokens = 0
        for moments, item_QM in self._lists(rows):
            logits, losses = self._logits(moments, item_QM, memory_RSD, offers)
            extra = _merged(extra, losses, len(item_QM) / int(rows.target_RT.sum()))
            code_QML = self.codes_NL[item_QM]
            tokens += code_QML.numel()
            for level, logits_QMK in enumerate(logits):
                nll_QM = self._cross_entropy(logits_QMK, code_QML[..., level])
                nll.setdefault(f"level_{level + 1}", []).append(nll_QM[:, 0])
                nll.setdefault("later", []).append(nll_QM[:, 1:].flatten())
        if not tokens:
            raise ValueError("no visit of these rows is a target")
        parts = {name: torch.cat(values) for name, values in nll.items()}
        total = torch.stack([part.sum() for part in parts.values()]).sum() / tokens
        figures = {name: float(part.detach().mean()) for name, part in parts.items() if part.numel()}
        figures |= {name: float(loss.detach()) for name, loss in extra.items()}
        return torch.stack([total, *extra.values()]).sum(), figures

    def decoder(self, requests: Packed) -> NetworkDecoder:
        """The model at the requests, about to write the first item of a list."""
        return NetworkDecoder(self.network, requests, self.codes_NL, self.places)

    def list_decoder(self, requests: Packed) -> NetworkListDecoder:
        """The model at the requests, about to write lists."""
        return NetworkListDecoder(self.network, requests, self.codes_NL, self.places)

    def list_log_likelihood(self, requests: Packed, lists_RWM: Tensor) -> Tensor:
        """Log-likelihoods (R, W) of given lists at requests, differentiable.

        Args:
            requests: one segment a row.
            lists_RWM: catalogue rows, int64, W lists a request; -1 behind the end of a list. An empty list has 0.
        """
        network, levels = self.network, self.network.tokens.levels
        code_RWML = self.codes_NL[lists_RWM.clamp(min=0)]
        bos_RD, written = network.remember(requests, self.codes_NL, self.places)
        bos_R1D = bos_RD[:, None]
        total_RW = torch.zeros(lists_RWM.shape[:2], device=bos_RD.device)
        for number in range(lists_RWM.shape[2]):
            # all lists share the first BOS; later ones stand behind items that differ
            x_RWD = bos_R1D.expand(-1, lists_RWM.shape[1], -1) if number else bos_R1D
            for level in range(levels):
                logits_RWK, written = network.step(x_RWD, written, level)
                code_RW = code_RWML[:, :, number, level]
                logp_RWK = logits_RWK.float().log_softmax(-1).expand(-1, lists_RWM.shape[1], -1)
                logp_RW = logp_RWK.gather(2, code_RW[..., None])[..., 0]
                total_RW = total_RW + logp_RW.masked_fill(lists_RWM[:, :, number] < 0, 0.0)
                x_RWD, written = network.write(code_RW, level, written)
            if number + 1 < lists_RWM.shape[2]:
                written = network.pass_by(x_RWD, written)
        return total_RW

    def _lists(self, rows: Packed) -> list[tuple[Moments, Tensor]]:
        """The lists of all targets, by their length, and the moments they are written at."""
        options = self.config.sessions
        lists = session_lists(rows, options.gap_hours, options.items)
        length_Q = (lists.item_PM >= 0).sum(1)
        found = []
        for length in range(1, options.items + 1):
            of_length_Q = length_Q == length
            if bool(of_length_Q.any()):
                chosen_RT = torch.zeros_like(rows.target_RT)
                chosen_RT[lists.row_P[of_length_Q], lists.place_P[of_length_Q]] = True
                positions = length * (self.network.tokens.levels + 1) - 1
                found.append((self.network.targets(rows, positions, chosen_RT), lists.item_PM[of_length_Q, :length]))
        return found

    def _logits(
        self, moments: Moments, item_QM: Tensor, memory_RSD: Tensor, offers: Offers | None
    ) -> tuple[list[Tensor], Losses]:
        """Logits (Q, M, K) of each level in lists that are given, and the decoder's further losses."""
        tokens = self.network.tokens
        level_L = torch.arange(tokens.levels, device=item_QM.device)
        x_QMLD = tokens.written(self.codes_NL[item_QM], level_L)
        bos_QM1D = self.network.begin(moments)[:, None, None].expand(-1, item_QM.shape[1], -1, -1)
        x_QPD = torch.cat([bos_QM1D, x_QMLD], dim=2).flatten(1, 2)[:, :-1]
        states_QPD, losses = self.network.decode(x_QPD, moments, memory_RSD)
        stride, code_QML = tokens.levels + 1, self.codes_NL[item_QM]

        def at(level: int, number: int) -> Tensor:
            before = [code_QML[:, number, earlier] for earlier in range(level)]
            states_QD = states_QPD[:, level + number * stride]
            return self.network.logits(states_QD, level, moments, offers, before, self.places)

        items = range(item_QM.shape[1])
        return [torch.stack([at(level, number) for number in items], dim=1) for level in range(tokens.levels)], losses

    def _cross_entropy(self, logits_QMK: Tensor, code_QM: Tensor) -> Tensor:
        nll = functional.cross_entropy(
            logits_QMK.float().flatten(0, 1),
            code_QM.flatten(),
            label_smoothing=self.config.label_smoothing,
            reduction="none",
        )
        return nll.view(code_QM.shape)


def _merged(losses: Losses, further: Losses, share: float) -> Losses:
    """Losses with a share of others added."""
    weighted = {name: loss * share for name, loss in further.items()}
    return losses | {name: losses[name] + loss if name in losses else loss for name, loss in weighted.items()}
