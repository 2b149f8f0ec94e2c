"""Stage 2: from checked items to embeddings that know where the items are."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lgsid.align.prompts import content_text, location_text, prompts
from lgsid.arrays import FloatArray
from lgsid.artifact import RunFolder, atomic_path, write_json
from lgsid.config import EncoderConfig, RunConfig

if TYPE_CHECKING:
    from lgsid.align.align import Aligned
    from lgsid.align.embed import Embedded
    from lgsid.align.encoder import Encoder

FOLDER = "2_align"
PROMPTS = "prompts.parquet"
EMBEDDINGS = "embeddings.safetensors"
REFERENCE = "reference.safetensors"
"""Unaligned vectors of the true prompts …"""
CONTENT = "content.safetensors"
"""… and of the content texts alone."""
WITHOUT_LOCATION = "without_location.safetensors"
"""Aligned vectors of the content texts alone."""
SPLIT = "split.parquet"
TRAINING = "training.json"
REWARD = "reward.json"
ENCODER = "encoder"
_log = logging.getLogger(__name__)


def align_items(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Write one prompt and one embedding an item, in the order of ``1_data/items.parquet``; align the encoder first.

    Writes ``prompts.parquet`` (item_id, prompt) and ``embeddings.safetensors`` (``emb_ND`` float32, unit length). With
    an objective also the aligned ``encoder/``, ``reference.safetensors``, ``content.safetensors`` and
    ``without_location.safetensors`` (``emb_ND`` each), ``split.parquet`` (item_id, part), ``training.json``, and for
    G-DPO ``reward.json`` and ``reward/``.

    Returns:
        key figures: counts, speed, precision and device, and of an alignment its held-out figures.

    Raises:
        ArtifactError: the data stage has not run.
        ConfigError: alignment is wanted, but the prompts lack content or location.
        EncoderError, MissingDependencyError: see `Encoder.load`.
        AlignmentError, TrainingError, DataError: see `align`.
    """
    from lgsid.align.align import check_prompts
    from lgsid.align.encoder import Encoder

    if config.align.alignment.objective != "none":
        check_prompts(config.align)  # before an hour of encoding, not after
    items = pl.read_parquet(run.require("1_data", "items.parquet", "lgsid run CONFIG, which runs the stages in order"))
    texts = prompts(items, config.align.prompt)
    with atomic_path(run.path(FOLDER, PROMPTS)) as path:
        items.select("item_id", texts.alias("prompt")).write_parquet(path)
    encoder = Encoder.load(config.align.encoder)
    result = _embed(encoder, texts)
    _warn_of_cut_prompts(result, encoder)
    figures = _embedding_figures(config, items, encoder, result)
    if config.align.alignment.objective == "none":
        _write(run, EMBEDDINGS, result.emb, encoder, config.align.prompt.kind)
        return figures
    return {**figures, **_align(config, run, items, texts, encoder, result.emb)}


def _embedding_figures(config: RunConfig, items: pl.DataFrame, encoder: Encoder, result: Embedded) -> dict[str, Any]:
    places = location_text(items, config.align.prompt)
    return {
        "items": len(items),
        "distinct_prompts": result.distinct,
        "without_location": int((places == "").sum()),
        "dim": encoder.dim,
        "encoder": encoder.name,
        "encoded": result.encoded,
        "from_cache": result.distinct - result.encoded,
        "truncated": result.truncated,
        "mean_tokens": round(result.mean_tokens, 1),
        "prompts_per_second": round(result.encoded / result.seconds, 1) if result.encoded else None,
        "precision": encoder.precision,
        "device": encoder.device.type,
        "objective": config.align.alignment.objective,
    }


def align_along(config: RunConfig, run: RunFolder) -> None:
    """The part of a process that trains along with the one that runs `align_items` (under `torchrun`)."""
    if config.align.alignment.objective == "none":
        return
    from lgsid.align.align import align
    from lgsid.align.encoder import Encoder
    from lgsid.distributed import barrier

    barrier()  # the main process has read the tables and filled the cache of embeddings
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    encoder = Encoder.load(config.align.encoder)
    reference_ND = _embed(encoder, prompts(items, config.align.prompt)).emb
    align(encoder, items, _events(run), reference_ND, config.align, config.seed, run.path(FOLDER, ".partial"))


def _events(run: RunFolder) -> pl.DataFrame | None:
    path = run.path("1_data", "events.parquet")
    return pl.read_parquet(path, columns=["user_id", "item_id", "timestamp"]) if path.exists() else None


def _align(
    config: RunConfig, run: RunFolder, items: pl.DataFrame, texts: pl.Series, encoder: Encoder, reference_ND: FloatArray
) -> dict[str, Any]:
    """Align, save the encoder, and write what it makes of the items."""
    from lgsid.align.align import align
    from lgsid.align.aligned import save_aligned
    from lgsid.align.card import alignment_card
    from lgsid.align.encoder import Encoder
    from lgsid.distributed import barrier

    barrier()
    partial = run.path(FOLDER, ".partial")
    aligned = align(encoder, items, _events(run), reference_ND, config.align, config.seed, partial)
    held = _held_out_figures(items, aligned, texts, reference_ND, config.seed)
    save_aligned(run.path(FOLDER, ENCODER), aligned.policy, alignment_card(config, encoder, aligned, held))
    after = Encoder.load(_aligned_config(config.align.encoder, run.path(FOLDER, ENCODER)))
    content = content_text(items, config.align.prompt)
    _write(run, EMBEDDINGS, _embed(after, texts).emb, after, "full")
    _write(run, REFERENCE, reference_ND, encoder, "full")
    _write(run, CONTENT, _embed(encoder, content).emb, encoder, "content")
    _write(run, WITHOUT_LOCATION, _embed(after, content).emb, after, "content")
    with atomic_path(run.path(FOLDER, SPLIT)) as path:
        items.select("item_id", aligned.part).write_parquet(path)
    _write_training(run, aligned)
    aligned.objective.save(run.path(FOLDER))
    return {
        "trained_on": int((aligned.part == "train").sum()),
        "training_steps": aligned.history.records[-1].step if aligned.history.records else 0,
        "examples_per_second": round(aligned.history.examples_per_second, 1),
        **{f"held_out_{name}": value for name, value in held["after"].items()},
        **{f"unaligned_{name}": value for name, value in held["before"].items()},
    }


def _held_out_figures(
    items: pl.DataFrame, aligned: Aligned, texts: pl.Series, reference_ND: FloatArray, seed: int
) -> dict[str, dict[str, float]]:
    """P/C/T@5 and kept meaning of items that training never saw, before and after."""
    from lgsid.align.split import rows_of
    from lgsid.align.training import Validator

    rows = rows_of(aligned.part)
    queries = next((rows[part] for part in ("test", "validation") if len(rows[part])), rows["train"])
    world = Validator(items, reference_ND, queries, rows["train"], seed)
    emb_ND = aligned.policy.encode(texts.gather(world.rows).to_list())
    figures = {"before": world.metrics(reference_ND[world.rows]), "after": world.metrics(emb_ND)}
    return {when: {name: round(value, 4) for name, value in metrics.items()} for when, metrics in figures.items()}


def _aligned_config(config: EncoderConfig, folder: Path) -> EncoderConfig:
    return config.model_copy(update={"model": str(folder)})


def _write_training(run: RunFolder, aligned: Aligned) -> None:
    """The course of training, and what the objective prepared."""
    figures = dict(aligned.figures)
    reward = figures.pop("reward", None)
    write_json(run.path(FOLDER, TRAINING), {
        "objective": aligned.objective.name,
        "validations": [{"step": at.step, **at.metrics} for at in aligned.history.validations],
        "steps": [{"step": at.step, "loss": at.loss, **at.parts} for at in aligned.history.records],
        "stopped_early": aligned.history.stopped_early,
        "best_step": aligned.history.best.step,
        "prepared": figures,
    })  # fmt: skip
    if reward is not None:
        write_json(run.path(FOLDER, REWARD), reward)


def _embed(encoder: Encoder, texts: pl.Series) -> Embedded:
    from lgsid.align.cache import EmbeddingCache
    from lgsid.align.embed import embed

    return embed(encoder, texts.to_list(), EmbeddingCache(encoder.fingerprint, encoder.dim))


def _warn_of_cut_prompts(result: Embedded, encoder: Encoder) -> None:
    if result.truncated:
        _log.warning(
            "%d of %d prompts are longer than the encoder's %d tokens and were cut: their location may be lost; "
            "fix: lower align.prompt.max_description_chars",
            result.truncated,
            result.distinct,
            encoder.max_tokens,
        )


def _write(run: RunFolder, name: str, emb_ND: FloatArray, encoder: Encoder, kind: str) -> None:
    made_by = {"encoder": Path(encoder.name).name, "fingerprint": encoder.fingerprint, "prompt": kind}
    write_embeddings(run.path(FOLDER, name), emb_ND, made_by)


def write_embeddings(path: Path, emb_ND: FloatArray, metadata: Mapping[str, str]) -> None:
    """Write ``emb_ND`` atomically as safetensors, with metadata on what made it.

    The header is written here because the safetensors library puts metadata in another order every time, and equal
    embeddings must be equal files.
    """
    emb = np.ascontiguousarray(emb_ND, dtype="<f4")
    header = json.dumps({
        "__metadata__": dict(metadata),
        "emb_ND": {"dtype": "F32", "shape": list(emb.shape), "data_offsets": [0, emb.nbytes]},
    }).encode()  # fmt: skip
    header += b" " * (-len(header) % 8)  # the data starts on a multiple of 8 bytes
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(emb.data)
