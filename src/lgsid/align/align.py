"""From a catalogue and an encoder to an encoder that knows where the items are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.base import Material, Objective, Trained
from lgsid.align.cache import EmbeddingCache
from lgsid.align.embed import embed
from lgsid.align.encoder import Encoder
from lgsid.align.guards import Guards
from lgsid.align.policy import Policy
from lgsid.align.prompts import content_text, join, location_text, prompts
from lgsid.align.split import rows_of, split_items
from lgsid.align.training import Alignment, Validator, trainer_config
from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import sha256_json
from lgsid.config import AlignConfig, AlignmentConfig
from lgsid.distributed import barrier, is_main
from lgsid.errors import ConfigError
from lgsid.history import History
from lgsid.nearest import sample_queries
from lgsid.trainer import fit

_ROWS_PER_DIMENSION = 8
"""A head is fitted on so many items for each dimension of the vectors; more hardly move it."""


@dataclass(frozen=True)
class Aligned:
    """An alignment and how it came about.

    Attributes:
        policy: the aligned encoder.
        objective: what it was aligned with, prepared.
        part: each item's part (`lgsid.align.split.PARTS`).
        history: the course of training.
        figures: what the objective prepared: counts, and for G-DPO the reward's report.
    """

    policy: Policy
    objective: Objective
    part: pl.Series
    history: History
    figures: Mapping[str, Any]


def align(
    encoder: Encoder,
    items: pl.DataFrame,
    events: pl.DataFrame | None,
    reference_ND: FloatArray,
    config: AlignConfig,
    seed: int,
    folder: Path | None = None,
) -> Aligned:
    """Align an encoder with the geography of a catalogue.

    Args:
        encoder: the unaligned encoder; it stays as it is.
        items: the N items.
        events: their events, or None; only the earliest share (``pairs.events_share``) is looked at.
        reference_ND: unit vectors of the items' prompts by ``encoder``.
        config: options of the stage.
        seed: for everything that is drawn.
        folder: keeps checkpoints here and continues from them.

    Raises:
        ConfigError: see `check_prompts`.
        DataError: too few items to train on.
        AlignmentError: a guard stopped the run.
        TrainingError: the loss is not finite.
    """
    check_prompts(config)
    options = config.alignment
    part = split_items(items, options, seed)
    rows = rows_of(part)
    chosen = rows["train"]
    material = _material(encoder, items, events, reference_ND, chosen, config)
    objective = objective_class(options)(options, seed)
    figures = _prepare(objective, material)
    policy = Policy(encoder, options.lora, objective.head(), seed)
    validator = Validator(items, reference_ND, rows["validation"] if len(rows["validation"]) else chosen, chosen, seed)
    task = Alignment(policy, objective, prompts(items, config.prompt).to_list(), chosen, validator, options)
    guards = Guards(options.guards, task.figures(reference_ND[validator.rows]))
    identity = _identity(encoder, items, material.events, config)
    history = fit(task, trainer_config(options), seed=seed, folder=folder, watch=(guards,), description="aligning",
                  identity=identity)  # fmt: skip
    _finish(policy, objective, task, items, reference_ND, rows, seed)
    guards.judge(task.validate())  # what is saved, too: its head may be another than the one that was trained
    return Aligned(policy, objective, part, history, figures)


def check_prompts(config: AlignConfig) -> None:
    """Alignment joins the content of one item with the location of another, so prompts must have both.

    Raises:
        ConfigError: they have not.
    """
    if config.prompt.kind != "full":
        raise ConfigError(
            f"alignment got prompts of the kind {config.prompt.kind!r}, expected content and location together",
            "align.prompt.kind: full, or align.alignment.objective: none",
        )


def _material(
    encoder: Encoder,
    items: pl.DataFrame,
    events: pl.DataFrame | None,
    reference_ND: FloatArray,
    chosen: IntArray,
    config: AlignConfig,
) -> Material:
    """What the objective may learn from: the chosen items and nothing of any other."""
    training = items[chosen]
    cache = EmbeddingCache(encoder.fingerprint, encoder.dim)
    return Material(
        items=training,
        events=training_events(events, training["item_id"], config.alignment.pairs.events_share),
        content=content_text(training, config.prompt).to_list(),
        location=location_text(training, config.prompt).to_list(),
        join=lambda content, location: join(pl.Series(content), pl.Series(location), config.prompt).to_list(),
        reference=reference_ND[chosen],
        encode=lambda texts: embed(encoder, texts, cache).emb,
    )


def _identity(encoder: Encoder, items: pl.DataFrame, events: pl.DataFrame | None, config: AlignConfig) -> str:
    """Hash of all that training depends on: a checkpoint of another one is of no use."""
    tables = (table.hash_rows().to_numpy().tobytes() for table in (items, events) if table is not None)
    digests = [hashlib.sha256(table).hexdigest() for table in tables]
    return sha256_json([encoder.fingerprint, config.model_dump(mode="json"), digests])


def objective_class(config: AlignmentConfig) -> type[Objective]:
    """The objective that a configuration names.

    Raises:
        ConfigError: it names none.
    """
    if config.objective == "contrast":
        from lgsid.align.contrast import Contrast

        return Contrast
    if config.objective == "distil":
        from lgsid.align.distil import Distil

        return Distil
    if config.objective == "gdpo":
        from lgsid.align.gdpo import GDpo

        return GDpo
    raise ConfigError(f"alignment got the objective {config.objective!r}", "align.alignment.objective: distil")


def training_events(events: pl.DataFrame | None, item_ids: pl.Series, share: float) -> pl.DataFrame | None:
    """The earliest ``share`` of the events by time, and of these the ones with the given items."""
    if events is None or events.is_empty():
        return None
    until = events["timestamp"].quantile(share, "lower")
    return events.filter((pl.col("timestamp") <= until) & pl.col("item_id").is_in(item_ids.implode()))


def _prepare(objective: Objective, material: Material) -> Mapping[str, Any]:
    """Prepare an objective; the main process goes first, so that the others find its embeddings in the cache."""
    if not is_main():
        barrier()
    figures = objective.prepare(material)
    if is_main():
        barrier()
    return figures


def _finish(
    policy: Policy,
    objective: Objective,
    task: Alignment,
    items: pl.DataFrame,
    reference_ND: FloatArray,
    rows: Mapping[str, IntArray],
    seed: int,
) -> None:
    """Let the objective replace the trained head."""
    import torch

    if policy.head is None:
        return
    weight = policy.head.weight
    head_DD: FloatArray = weight.detach().cpu().numpy().copy()
    enough = _ROWS_PER_DIMENSION * len(head_DD)
    with torch.no_grad():
        weight.copy_(torch.eye(len(weight)))
        trained, held = (
            Trained(items[some], reference_ND[some], task.vectors(some), head_DD)
            for some in (rows[part][sample_queries(len(rows[part]), enough, seed)] for part in ("train", "validation"))
        )
        better_DD = objective.finish(trained, held)
        weight.copy_(torch.from_numpy(np.asarray(head_DD if better_DD is None else better_DD)))
