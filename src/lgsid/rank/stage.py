"""Stage 4a: rankers with and without the codes among their features, on the run's own visits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import RunFolder, atomic_path, read_json, sha256_json, write_json
from lgsid.config import RankConfig, RunConfig
from lgsid.errors import DataError
from lgsid.rank.features import ItemFeatures, SidRows, item_features, sid_rows
from lgsid.rank.loader import SampleFolder

FOLDER = "4_rank"
METRICS = "metrics.json"
WITHOUT = "without_sid"
"""What stands in the place of a ranker's name for the one that sees no codes: "din" and "din_without_sid"."""


def rank_items(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Train the configured rankers on the run's visits, each with and without SIDs, and measure them.

    Writes ``samples/``, one folder a ranker (see `lgsid.rank.pretrained`), ``scores/FILE.parquet`` (row by row with
    ``samples/FILE.parquet``, the logits of all candidates by each ranker) and ``metrics.json``. Without ``rank.models``
    there is nothing to do.

    Returns:
        key figures: AUC of each ranker, and what the codes add to it.

    Raises:
        DataError: there are no events.
        ArtifactError: an earlier stage has not run.
    """
    from lgsid.distributed import barrier

    if not config.rank.models:
        return {"models": 0}
    items = pl.read_parquet(run.require("1_data", "items.parquet", f"lgsid data {run.root}"))
    folder = run.path(FOLDER)
    counts = write_run_samples(config, run, items)
    samples = SampleFolder(folder / "samples", items)
    barrier()
    scores, courses = _train_all(config, run, samples)
    metrics = _measured(config, samples, scores)
    _write_scores(folder / "scores", scores)
    write_json(folder / METRICS, {"samples": counts, "training": courses, **metrics})
    return key_figures(counts, metrics)


def rank_along(config: RunConfig, run: RunFolder) -> None:
    """The part of a process that trains along with the one that runs `rank_items` (under `torchrun`)."""
    from lgsid.distributed import barrier

    if not config.rank.models:
        return
    barrier()  # the main process has written the samples
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    _train_all(config, run, SampleFolder(run.path(FOLDER, "samples"), items))


def write_run_samples(config: RunConfig, run: RunFolder, items: pl.DataFrame) -> dict[str, Any]:
    """Write the samples of a run; returns their counts."""
    from lgsid.rank.samples import write_samples

    path = run.path("1_data", "events.parquet")
    if not path.exists():
        raise DataError(
            f"{run.root} has no events, and rankers learn from what people chose",
            "set data.events, or leave rank.models empty",
        )
    return write_samples(
        items, pl.scan_parquet(path), config.rank.samples, config.sid.training_share, config.seed,
        run.path(FOLDER, "samples"),
    )  # fmt: skip


def run_sid_rows(run: RunFolder, items: pl.DataFrame, config: RankConfig) -> SidRows:
    """The SIDs of a run as rows of embedding tables, in the order of its items."""
    from lgsid.sid.methods import load_tokenizer
    from lgsid.sid.table import run_codes

    codes_NL = run_codes(run)
    tokenizer = load_tokenizer(run.path("3_sid", "tokenizer"))
    if config.sid == "levels":
        rows_NL, sizes = tokenizer.embedding_rows(codes_NL)
        return SidRows(rows_NL, tuple(sizes))
    sizes = [max(len(book), int(column.max()) + 1) for book, column in zip(tokenizer.books, codes_NL.T, strict=False)]
    sizes += [int(column.max()) + 1 for column in codes_NL.T[len(sizes) :]]
    return sid_rows(codes_NL, sizes, config.sid)


def _train_all(config: RunConfig, run: RunFolder, samples: SampleFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores and courses of all rankers; what an interrupted call has finished is kept.

    Every process of a `torchrun` trains; the main one scores and writes.
    """
    from safetensors.numpy import load_file

    from lgsid.distributed import is_main, share

    partial = run.path(FOLDER, ".partial")
    scores: dict[str, Any] = {}
    courses: dict[str, Any] = {}
    seen_N = samples.seen()
    # of all, before the first is trained: a ranker that would know nothing of an item is found now
    wanted = {
        name: (options, item_features(samples.items, seen_N, _codes(run, samples.items, options), options))
        for name, options in variants(config.rank).items()
    }
    for name, (options, features) in wanted.items():
        done = partial / f"{name}.safetensors"
        if not share(done.exists()):
            _train(name, features, options, config, samples, done)
        if is_main():
            scores[name], courses[name] = load_file(done), read_json(done.with_suffix(".json"))
            shutil.copytree(_kept(done), run.path(FOLDER, name), dirs_exist_ok=True)
    return scores, courses


def _kept(done: Path) -> Path:
    """Where a finished ranker waits for the others: what else is in the stage's folder goes when a call continues."""
    return done.with_suffix("") / "ranker"


def _write_scores(folder: Path, scores: Mapping[str, Mapping[str, FloatArray]]) -> None:
    for name in next(iter(scores.values())):
        logits = {ranker: by_file[name] for ranker, by_file in scores.items()}
        columns = [
            pl.Series(ranker, logit_RC, dtype=pl.Array(pl.Float32, logit_RC.shape[1]))
            for ranker, logit_RC in logits.items()
        ]
        with atomic_path(folder / f"{name}.parquet") as path:
            pl.DataFrame(columns).write_parquet(path)


def _train(
    name: str, features: ItemFeatures, options: RankConfig, config: RunConfig, samples: SampleFolder, done: Path
) -> None:
    """Train one ranker; keep it, its course and its scores."""
    from safetensors.numpy import save_file

    from lgsid.distributed import is_main
    from lgsid.rank.pretrained import save_ranker
    from lgsid.rank.ranking import score_files, train

    identity = sha256_json([config.model_dump(mode="json"), _digest(features.rows_NF)])
    model = name.removesuffix(f"_{WITHOUT}")
    ranker, history = train(model, features, samples, options, config.seed, done.with_suffix(""), identity)
    if is_main():
        save_ranker(ranker, _kept(done))
        write_json(done.with_suffix(".json"), history.to_json())
        with atomic_path(done) as path:
            save_file(score_files(ranker, samples), path)


def _codes(run: RunFolder, items: pl.DataFrame, config: RankConfig) -> SidRows | None:
    return None if config.sid == "none" else run_sid_rows(run, items, config)


def _digest(rows_NF: IntArray) -> str:
    import hashlib

    return hashlib.sha256(np.ascontiguousarray(rows_NF).tobytes()).hexdigest()


def variants(config: RankConfig) -> dict[str, RankConfig]:
    """What is trained: every ranker with the codes, and without them for comparison where something else is known."""
    found: dict[str, RankConfig] = {}
    for model in config.models:
        found[model] = config
        if config.sid != "none" and config.features:
            found[f"{model}_{WITHOUT}"] = config.model_copy(update={"sid": "none"})
    return found


def _measured(config: RunConfig, samples: SampleFolder, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of all rankers and baselines, and what the codes add, with its interval."""
    from lgsid.rank.bootstrap import bootstrap_auc
    from lgsid.rank.ranking import MEASURED, baseline_scores, figures, samples_of

    seen_N = samples.seen()
    known = {name: samples_of(samples, name, seen_N) for name in MEASURED}
    rivals = baseline_scores(samples, config.rank.samples.reach_km)
    gains = {}
    for model in config.rank.models:
        other = f"{model}_{WITHOUT}"
        if other in scores:
            pair = {name: [scores[name]["test"].ravel()] for name in (model, other)}
            found = bootstrap_auc(pair, known["test"].label_S, known["test"].user_S)
            gains[model] = found.difference(model, other).to_json()
    return {
        "rankers": {name: figures(by_file, known, logits=True) for name, by_file in scores.items()},
        "baselines": {name: figures(by_file, known, logits=False) for name, by_file in rivals.items()},
        "gain_of_sid": gains,
    }


def key_figures(counts: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that a person wants to see first."""
    result: dict[str, Any] = {"training_requests": counts["requests"]["train"]}
    for name, found in {**metrics["rankers"], **metrics["baselines"]}.items():
        result[f"{name}_auc"] = found["auc"]
    for name, gain in metrics["gain_of_sid"].items():
        result[f"{name}_gain_of_sid"] = [gain["difference"], gain["low"], gain["high"]]
    return result
