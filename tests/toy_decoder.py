"""A decoder without a model: the likelihood of a token is a fixed function of the prefix and the request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

Prefixes = list[list[tuple[int, ...]]]

CODES = 4


def sids(draw_N: list[int], levels: int = 3) -> np.ndarray:
    """Distinct SIDs of numbers below CODES ** levels, in the order given."""
    n = np.array(list(dict.fromkeys(draw_N)), dtype=np.int64)
    return np.stack([n // CODES ** (levels - 1 - level) % CODES for level in range(levels)], axis=1).astype(np.int32)


some_sids = st.lists(st.integers(0, CODES**3 - 1), min_size=1, max_size=40).map(sids)


@dataclass
class ToyDecoder:
    """Likelihoods of B requests over K tokens a level.

    Attributes:
        requests: B.
        codes: K.
        seed: of the likelihoods.
        asked: how many prefixes were asked for.
    """

    requests: int
    codes: int
    seed: int = 0
    asked: int = 0

    def likelihoods(self, request: int, prefix: tuple[int, ...]) -> Tensor:
        """Log-likelihoods of the tokens behind a prefix."""
        draw = np.random.default_rng([self.seed, request, len(prefix), *prefix]).standard_normal(self.codes)
        return torch.log_softmax(torch.from_numpy(draw).float() * 2, dim=0)

    def start(self) -> tuple[Tensor, Prefixes]:
        """See `lgsid.generate.beam.CodeDecoder`."""
        return self._answer([[()] for _ in range(self.requests)])

    def step(self, cache: Prefixes, parent_BW: Tensor, token_BW: Tensor, level: int) -> tuple[Tensor, Prefixes]:
        """See `lgsid.generate.beam.CodeDecoder`."""
        prefixes = [
            [(*cache[b][int(parent)], int(token)) for parent, token in zip(parent_BW[b], token_BW[b], strict=True)]
            for b in range(self.requests)
        ]
        assert all(len(prefix) == level for of_request in prefixes for prefix in of_request)
        return self._answer(prefixes)

    def _answer(self, prefixes: Prefixes) -> tuple[Tensor, Prefixes]:
        self.asked += sum(len(of_request) for of_request in prefixes)
        logp = [torch.stack([self.likelihoods(b, prefix) for prefix in of]) for b, of in enumerate(prefixes)]
        return torch.stack(logp), prefixes

    def of_item(self, request: int, code_L: tuple[int, ...]) -> float:
        """Log-likelihood of a whole SID, token by token."""
        return sum(float(self.likelihoods(request, code_L[:level])[token]) for level, token in enumerate(code_L))
