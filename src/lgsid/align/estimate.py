"""How long an alignment would take on this machine, from a few timed steps on prompts of the catalogue itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.align import check_prompts, objective_class
from lgsid.align.encoder import Encoder
from lgsid.align.policy import Policy
from lgsid.align.prompts import prompts
from lgsid.align.split import split_items
from lgsid.align.training import trainer_config
from lgsid.artifact import RunFolder
from lgsid.config import RunConfig
from lgsid.schedule import Schedule

_SAMPLE = 32
_TYPICAL = "Shop: Pine Cone Restaurant. Restaurants | American. Location: 6162 US Highway 51, De Forest, WI 53532"
"""Stands for the prompts of a catalogue that has not been read yet."""
_PASSES = 3.0
"""The catalogue is embedded so often: unaligned and aligned with its places, and its content alone by both, shorter."""


@dataclass(frozen=True)
class Estimate:
    """What aligning would take.

    Attributes:
        items: items of the catalogue, None where it has not been read.
        trained_on: items trained on, at most ``alignment.most_items``.
        steps: training steps.
        prompts_per_second: embedded.
        examples_per_second: trained on.
        minutes: all of it.
    """

    items: int | None
    trained_on: int
    steps: int
    prompts_per_second: float
    examples_per_second: float
    minutes: float

    def to_json(self) -> dict[str, Any]:
        """All figures, rounded."""
        return {key: round(value, 1) if isinstance(value, float) else value for key, value in asdict(self).items()}


def estimate_alignment(config: RunConfig, run: RunFolder) -> Estimate:
    """Time a few steps and count how many there would be.

    Args:
        config: of the run.
        run: its folder; the catalogue is known once its stage ``1_data`` has run.

    Raises:
        ConfigError, DataError: alignment would stop with the same error.
    """
    check_prompts(config.align)
    options = config.align.alignment
    path = run.path("1_data", "items.parquet")
    known = pl.read_parquet(path) if path.exists() else None
    items = len(known) if known is not None else config.data.world.items if config.data.world else None
    sample = None if known is None else known.sample(min(_SAMPLE, len(known)), seed=0)
    texts = [_TYPICAL] * _SAMPLE if sample is None else prompts(sample, config.align.prompt).to_list()
    encoder = Encoder.load(config.align.encoder)
    encoded = len(texts) / _seconds(lambda: encoder.encode([f"{text} {place}" for place, text in enumerate(texts)]))
    kind = objective_class(options)
    trained_on = _trained_on(config, items, known)
    examples = trained_on * options.epochs
    speed = len(texts) / _seconds(_step(encoder, config, texts)) / kind.items_per_anchor(options)
    prompts_in_all = (items or 0) * _PASSES + kind.prompts_to_prepare(options)
    return Estimate(
        items=items,
        trained_on=trained_on,
        steps=Schedule(trained_on, trainer_config(options), config.seed).steps,
        prompts_per_second=encoded,
        examples_per_second=speed,
        minutes=(prompts_in_all / encoded + examples / speed) / 60,
    )


def _trained_on(config: RunConfig, items: int | None, known: pl.DataFrame | None) -> int:
    options = config.align.alignment
    if known is not None:
        return int((split_items(known, options, config.seed) == "train").sum())
    share = 1 - options.validation_share - options.test_share - options.unseen_share
    return options.most_items if items is None else min(max(round(items * share), 1), options.most_items)


def _step(encoder: Encoder, config: RunConfig, texts: list[str]) -> Callable[[], None]:
    """One training step: forward and backward."""
    head_DD = np.eye(encoder.dim, dtype=np.float32)
    policy = Policy(encoder, config.align.alignment.lora, head_DD, config.seed)
    tokens = policy.tokens(texts)

    def step() -> None:
        policy.train_mode(True)
        policy.forward(tokens, np.arange(len(texts))).square().sum().backward()  # type: ignore[no-untyped-call]

    return step


def _seconds(work: Callable[[], Any]) -> float:
    """The shorter of two runs after a first one that warms up."""
    taken = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
