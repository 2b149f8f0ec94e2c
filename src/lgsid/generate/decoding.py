"""Step-by-step decoding: each token costs one position, and what a request's beams share is computed once.

The encoder runs once a request; keys and values of cross attention are computed once a layer and request, and the
request's W beams look at them as W queries; keys and values of self-attention are kept for each position, those of BOS
for all beams together, and follow their beams.

Axes: B requests, W beams, K tokens of a level, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lgsid.generate.base import Packed
from lgsid.generate.network import Network, Written
from lgsid.generate.places import SidPlaces


class NetworkDecoder:
    """A `lgsid.generate.beam.CodeDecoder` of a network.

    Args:
        network: in evaluation mode, or dropout makes the likelihoods random.
        requests: one segment a row.
        codes_NL: SIDs of the catalogue, int64.
        places: of the catalogue, for nearness; None without.
    """

    def __init__(self, network: Network, requests: Packed, codes_NL: Tensor, places: SidPlaces | None) -> None:
        self._network, self._requests, self._codes_NL, self._places = network, requests, codes_NL, places

    @torch.no_grad()
    def start(self) -> tuple[Tensor, Written]:
        """See `lgsid.generate.beam.CodeDecoder`."""
        bos_BD, written = self._network.remember(self._requests, self._codes_NL, self._places)
        return self._answer(bos_BD[:, None], written, 0)

    @torch.no_grad()
    def step(self, cache: Written, parent_BW: Tensor, token_BW: Tensor, level: int) -> tuple[Tensor, Written]:
        """See `lgsid.generate.beam.CodeDecoder`."""
        x_BWD, written = self._network.write(token_BW, level - 1, cache.of_parents(parent_BW))
        return self._answer(x_BWD, written, level)

    def _answer(self, x_BWD: Tensor, written: Written, level: int) -> tuple[Tensor, Written]:
        logits_BWK, written = self._network.step(x_BWD, written, level)
        return logits_BWK.float().log_softmax(-1), written
