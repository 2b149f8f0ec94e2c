"""Stage 4b: generative recommenders on the run's own visits and codes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from lgsid.artifact import RunFolder, read_json, sha256_json, write_json
from lgsid.config import GenerateConfig, RunConfig
from lgsid.errors import DataError
from lgsid.generate.generating import Data
from lgsid.sid.table import run_codes

if TYPE_CHECKING:
    from lgsid.generate.base import SequenceModel
    from lgsid.rank.visits import Visits

FOLDER = "4_generate"
METRICS = "metrics.json"
MOST_REQUESTS = 10_000
"""Test requests that are answered at most: a standard error of half a point on a hit rate."""


def generate_items(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Train the configured generators on the run's visits, and measure them beside the baselines.

    Writes one folder a generator (see `lgsid.generate.pretrained`) and ``metrics.json``. Without ``generate.models``
    there is nothing to do.

    Returns:
        key figures: Hit@5 of each recommender on the whole catalogue and among what is in reach.

    Raises:
        DataError: there are no events, or nothing to predict.
        ArtifactError: an earlier stage has not run.
        ConfigError: OneRec is to be aligned to a reward that the data does not tell.
    """
    from lgsid.generate.generating import baselines, measured, requests_to_answer

    if not config.generate.models:
        return {"models": 0}
    data = run_data(config, run)
    courses = _train_all(config, run, data)
    event_R = requests_to_answer(data, MOST_REQUESTS)
    rows = {name: course.pop("figures") for name, course in courses.items()}
    for name, recommender in baselines(data, config.generate).items():
        rows[name] = measured(recommender, data, config.generate, event_R).figures
    write_json(run.path(FOLDER, METRICS), {
        "protocol": config.generate.protocol,
        "visits": len(data.visits),
        "training": courses,
        "recommenders": rows,
    })  # fmt: skip
    return key_figures(rows)


def generate_along(config: RunConfig, run: RunFolder) -> None:
    """The part of a process that trains along with the one that runs `generate_items` (under `torchrun`)."""
    if config.generate.models:
        _train_all(config, run, run_data(config, run))


def run_data(config: RunConfig, run: RunFolder) -> Data:
    """Visits and unique SIDs of a run.

    Raises:
        DataError: the run has no events.
        ArtifactError: stage 1 or 3 has not run.
    """
    items = pl.read_parquet(run.require("1_data", "items.parquet", f"lgsid data {run.root}"))
    path = run.path("1_data", "events.parquet")
    if not path.exists():
        raise DataError(
            f"{run.root} has no events, and generators learn from what people chose",
            "set data.events, or leave generate.models empty",
        )
    codes_NL = run_codes(run)
    sizes = tuple(int(column.max()) + 1 for column in codes_NL.T)
    visits = _visits(config, items, pl.scan_parquet(path))
    amount_N = None
    if aligned(config.generate) and config.generate.preference.value:
        from lgsid.generate.rewards import mean_amounts

        amount_N = mean_amounts(items, pl.scan_parquet(path), visits)
    return Data(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), visits, codes_NL, sizes, amount_N)


def aligned(config: GenerateConfig) -> bool:
    """Whether OneRec is trained, and then aligned to a reward."""
    return "onerec" in config.models and config.preference.rounds > 0


def _visits(config: RunConfig, items: pl.DataFrame, events: pl.LazyFrame) -> Visits:
    from lgsid.generate import protocol

    kinds = config.rank.samples.kinds
    if config.generate.protocol == "leave_one_out":
        return protocol.leave_one_out(items, events, kinds)
    shares = config.sid.training_share, config.rank.samples.validation_share
    return protocol.global_time(items, events, kinds, *shares)


def _train_all(config: RunConfig, run: RunFolder, data: Data) -> dict[str, Any]:
    """Course and figures of all generators; what an interrupted call has finished is kept.

    Every process of a `torchrun` trains; the main one measures and writes.
    """
    from lgsid.distributed import is_main, share

    courses: dict[str, Any] = {}
    if aligned(config.generate):
        from lgsid.generate.rewards import check_weights

        check_weights(config.generate.preference, data.amount_N)
    for name in config.generate.models:
        done = run.path(FOLDER, ".partial") / f"{name}.json"
        if not share(done.exists()):
            _train(name, config, data, done)
        if is_main():
            courses[name] = read_json(done)
            shutil.copytree(_kept(done), run.path(FOLDER, name), dirs_exist_ok=True)
    return courses


def _kept(done: Path) -> Path:
    """Where a finished generator waits: what else is in the stage's folder goes when a call continues."""
    return done.with_suffix("") / "generator"


def _train(name: str, config: RunConfig, data: Data, done: Path) -> None:
    """Train one generator; keep it, its course and its figures."""
    from lgsid.distributed import is_main
    from lgsid.generate.generating import align, train
    from lgsid.generate.pretrained import save_generator

    identity = sha256_json([config.model_dump(mode="json"), len(data.visits)])
    folder = done.with_suffix("")
    model, history = train(name, data, config.generate, config.seed, folder, identity)
    course = history.to_json()
    if name == "onerec" and aligned(config.generate):
        before = _measured_once(model, config, data, folder / "unaligned.json") if is_main() else None
        alignment = align(model, history.best.score, data, config.generate, config.seed, folder, identity)
        course["alignment"] = {**alignment, "figures_before": before}
    if is_main():
        model.eval()
        save_generator(model, data.codes_NL, data.sizes, _kept(done))
        figures = _measured_once(model, config, data, folder / "figures.json")
        write_json(done, {**course, "figures": figures})


def _measured_once(model: SequenceModel, config: RunConfig, data: Data, path: Path) -> Any:
    """Figures of a model on the test requests, from the file where an interrupted call got so far."""
    from lgsid.generate.generating import measured, recommender_of, requests_to_answer

    if not path.exists():
        event_R = requests_to_answer(data, MOST_REQUESTS)
        recommender = recommender_of(model.eval(), data, config.generate)
        write_json(path, measured(recommender, data, config.generate, event_R).figures)
    return read_json(path)


def key_figures(rows: Mapping[str, Any]) -> dict[str, Any]:
    """The few numbers that a person wants to see first."""
    result: dict[str, Any] = {"requests": next(iter(rows.values()))["requests"]}
    for name, figures in rows.items():
        result[f"{name}_hit@5"] = figures["catalogue"]["all"]["hit@5"]
        result[f"{name}_reachable_hit@5"] = figures["reachable"]["all"]["hit@5"]
    return result
