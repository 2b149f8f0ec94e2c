"""The contract of an alignment objective: what it may learn from, what it asks the encoder for, and its loss.

Shapes: N training items, B items of a batch, D dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AlignmentConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Material:
    """What an objective may learn from: training items only, so that nothing it does can leak a held-out item.

    Attributes:
        items: the N training items, in the columns of ``1_data/items.parquet``.
        events: their events of the training period, or None.
        content, location: the two halves of the items' prompts, N each.
        join: writes content i and location j down as one prompt, as the prompt stage does.
        reference: unit vectors of the true prompts by the unaligned encoder, shape (N, D).
        encode: the unaligned encoder, through the embedding cache: any texts in, unit vectors out.
    """

    items: pl.DataFrame
    events: pl.DataFrame | None
    content: Sequence[str]
    location: Sequence[str]
    join: Callable[[Sequence[str], Sequence[str]], list[str]]
    reference: FloatArray
    encode: Callable[[Sequence[str]], FloatArray]


@dataclass(frozen=True)
class Losses:
    """A batch's loss and the parts it is made of.

    Attributes:
        total: scalar, differentiable.
        parts: figures to watch ("align", "similarity", "reward", …).
    """

    total: Tensor
    parts: dict[str, float]


class Objective(ABC):
    """One way to teach an encoder geography.

    A training step takes some *anchors* (training items, every one once an epoch), asks the objective which items to
    encode for them (`batch`), encodes these once with the policy, and asks for the loss.

    Args:
        config: all options of alignment.
        seed: for everything the objective draws.
    """

    name: ClassVar[str]

    def __init__(self, config: AlignmentConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    @abstractmethod
    def prepare(self, material: Material) -> Mapping[str, Any]:
        """Learn or mine what the loss needs (a reward model, pairs, targets); returns figures for the report."""

    def head(self) -> FloatArray | None:
        """A linear map (D, D) to start the policy's head from, ``vector = head @ pooled``; None for no head."""
        return None

    def batch(self, anchors_A: IntArray, generator: np.random.Generator) -> IntArray:
        """Rows of the distinct items to encode for these anchors; by default the anchors themselves."""
        return anchors_A

    @abstractmethod
    def loss(self, policy_BD: Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
        """The loss of one batch.

        Args:
            policy_BD: unit vectors of the items ``rows_B``, differentiable, float32, on the policy's device.
            rows_B: what `batch` returned for these anchors.
            anchors_A: the anchors.
        """
