"""The contract of stage 4b: what a packed batch holds, what a generator is, and what recommends.

Axes: R rows, T visits of a row, N items, L tokens of a SID, K items asked for.

A *row* holds the visits of one or more users one after another (*segments*); nothing looks across segments. Every
visit is something to look back at, and where ``target_RT`` says so it is also something to predict from what lies
before it in its segment. A row made for a *request* has one segment, and is asked what follows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.config import GenerateConfig
from lgsid.generate.beam import CodeDecoder
from lgsid.generate.places import Places, SidPlaces, told


@dataclass(frozen=True)
class Packed:
    """R rows of T visits; all tensors on one device.

    Attributes:
        item_RT: catalogue rows, int64; 0 at padding, which is at the end.
        segment_RT: number of the user within the row, from 0, int64; -1 at padding.
        target_RT: whether the visit is predicted, bool. Never of a segment's first visit, nor of one at the same
            second as the visit before.
        time_RT: seconds since 1970, int64.
        band_RT: distance band from the visit before, int64, below `BANDS`; 0 for a segment's first visit.
        user_RT: user tokens, int64, from 0; all 0 where users are anonymous.
        length_R: visits of the row, int64: a request comes after so many of them.
        now_R: when the request is made, seconds since 1970, int64; of rows to train on it means nothing.
        here_RT3: where the user is just before each visit, on the unit sphere, float32; 0 for a segment's first
            visit. Of requests it means nothing.
        here_R3: where they are at the request; of rows to train on it means nothing.
    """

    item_RT: Tensor
    segment_RT: Tensor
    target_RT: Tensor
    time_RT: Tensor
    band_RT: Tensor
    user_RT: Tensor
    length_R: Tensor
    now_R: Tensor
    here_RT3: Tensor
    here_R3: Tensor

    def __len__(self) -> int:
        return len(self.item_RT)


BANDS = 17
"""Bands of the distance from the visit before: 0 unknown, then the 16 of `lgsid.rank.loader`."""


class Recommender(Protocol):
    """Whatever names the next items of a user: generators, item scorers, baselines."""

    def top(self, requests: Packed, k: int, reach: Sequence[IntArray | CodeArray] | None = None) -> IntArray:
        """The best items of each request, best first.

        Args:
            requests: one segment a row.
            k: how many.
            reach: catalogue rows that each request may be answered with; None is the whole catalogue.

        Returns:
            catalogue rows (R, K), int64, each once in a row; -1 where there are no more.
        """


class SequenceModel(nn.Module, ABC):
    """What is trained on packed rows.

    Attributes:
        name: in configurations and result tables.
        pace: share of ``config.learning_rate`` that it is trained at.
        config: sizes and options.
        places: of the items; None without ``config.nearness``.
    """

    name: ClassVar[str]
    pace: ClassVar[float] = 1.0
    config: GenerateConfig
    places: Places | None

    @abstractmethod
    def loss(self, rows: Packed) -> tuple[Tensor, dict[str, float]]:
        """Mean loss of all targets (scalar, differentiable), and figures to watch."""


class Generator(SequenceModel):
    """Base of the models that write SIDs.

    Args:
        codes_NL: unique SIDs, int32; row n is item n.
        sizes: number of tokens of each level, L of them.
        config: sizes and options.
        xyz_N3: places of the items, on the unit sphere; needed with ``config.nearness``.

    Attributes:
        places: of items and prefixes.

    Raises:
        ValueError: the places are missing.
    """

    def __init__(
        self, codes_NL: CodeArray, sizes: Sequence[int], config: GenerateConfig, xyz_N3: FloatArray | None = None
    ) -> None:
        super().__init__()
        self.config, self.sizes = config, tuple(sizes)
        known_N3 = told(config.nearness, xyz_N3)
        self.places: SidPlaces | None = None if known_N3 is None else SidPlaces(codes_NL, known_N3)
        self.codes_NL: Tensor
        self.register_buffer("codes_NL", torch.from_numpy(codes_NL).long(), persistent=False)

    @abstractmethod
    def decoder(self, requests: Packed) -> CodeDecoder[Any]:
        """The model at the requests, about to write the next item."""
