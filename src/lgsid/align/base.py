"""The contract of an alignment objective: what it may learn from, what it asks the encoder for, and its loss.

Shapes: N training items, B items of a batch, D dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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


@dataclass(frozen=True)
class Trained:
    """Some items, and what a trained policy makes of them.

    Attributes:
        items: N items.
        reference: unit vectors by the unaligned encoder, shape (N, D).
        pooled: unit vectors by the policy without its head, shape (N, D).
        head: the trained head (D, D), or None.
    """

    items: pl.DataFrame
    reference: FloatArray
    pooled: FloatArray
    head: FloatArray | None


class Objective(ABC):
    """One way to teach an encoder geography.

    A training step takes some *anchors* (training items, every one once an epoch), asks the objective which items to
    encode for them (`batch`), encodes these once with the policy, and asks for the loss.

    Args:
        config: all options of alignment.
        seed: for everything the objective draws.
    """

    name: ClassVar[str]

    @classmethod
    def items_per_anchor(cls, config: AlignmentConfig) -> float:
        """About how many items are encoded for one anchor: what a step costs."""
        return 1.0

    @classmethod
    def prompts_to_prepare(cls, config: AlignmentConfig) -> int:
        """About how many prompts `prepare` encodes."""
        return 0

    def __init__(self, config: AlignmentConfig, seed: int) -> None:
        self.config = config
        self.seed = seed

    @abstractmethod
    def prepare(self, material: Material) -> Mapping[str, Any]:
        """Learn or mine what the loss needs (a reward model, pairs, targets); returns figures for the report."""

    def watch(self, emb_BD: FloatArray) -> dict[str, float]:
        """Figures of the objective's own on the policy's vectors of held-out items; "reward" is guarded."""
        return {}

    def finish(self, trained: Trained, held: Trained) -> FloatArray | None:
        """A better head for the trained policy, or None to keep the one it has; called once if there is a head.

        Args:
            trained: the training items and the policy's vectors of them.
            held: the same of the validation items.
        """
        return None

    def head(self) -> FloatArray | None:
        """A linear map (D, D) to start the policy's head from, ``vector = head @ pooled``; None for no head."""
        return None

    def batch(self, anchors_A: IntArray, generator: np.random.Generator) -> IntArray:
        """Rows of the distinct items to encode for these anchors; by default the anchors themselves."""
        return anchors_A

    def save(self, folder: Path) -> None:  # noqa: B027  # most objectives learn nothing but the encoder
        """Keep what else was learned (a reward model) in a sub-folder of ``folder``; nothing by default."""

    @abstractmethod
    def loss(self, policy_BD: Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
        """The loss of one batch.

        Args:
            policy_BD: unit vectors of the items ``rows_B``, differentiable, float32, on the policy's device.
            rows_B: what `batch` returned for these anchors.
            anchors_A: the anchors.
        """
