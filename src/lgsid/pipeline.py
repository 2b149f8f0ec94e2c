"""The stages of a run, in the order data flows, and the function that executes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from lgsid.artifact import RunFolder, Stage, is_current, run_stage, write_text
from lgsid.config import RunConfig
from lgsid.errors import ConfigError, DataError

Report = Callable[[str, str, Mapping[str, Any]], None]
"""Called with a stage's folder, what happened to it ("run" or "kept") and its key figures."""


def _lazily(module: str, function: str) -> Callable[[RunConfig, RunFolder], Mapping[str, Any]]:
    """A stage function whose module, and the libraries behind it, are imported only when it runs."""

    def call(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
        result: Mapping[str, Any] = getattr(import_module(module), function)(config, run)
        return result

    return call


def _tables(config: RunConfig) -> tuple[Path, ...]:
    """The tables a run reads from outside its folder.

    Raises:
        DataError: one of them does not exist.
    """
    paths = tuple(path for path in (config.data.items, config.data.events) if path is not None)
    for path in paths:
        if not path.is_file():
            raise DataError(f"no table {path}", "correct data.items and data.events in the configuration")
    return paths


def _encoder_files(config: RunConfig) -> tuple[Path, ...]:
    """The encoder's files, where it is a local one: a model that changes on disk makes new embeddings."""
    from lgsid.align.models import local_files

    return tuple(local_files(config.align.encoder.model))


def _no_tables(config: RunConfig) -> tuple[Path, ...]:
    """Nothing from outside the run folder.

    Raises:
        ConfigError: rankers are wanted, and nothing says what people chose: found before the stages in front run.
    """
    return _wants_events(config, "rank", config.rank.models)


def _no_tables_either(config: RunConfig) -> tuple[Path, ...]:
    """The same for generators."""
    return _wants_events(config, "generate", config.generate.models)


def _wants_events(config: RunConfig, stage: str, models: Sequence[str]) -> tuple[Path, ...]:
    if models and config.data.world is None and config.data.events is None:
        raise ConfigError(
            f"{stage}.models asks for {', '.join(models)}, which learn from what people chose, and there is no events "
            "table",
            f"set data.events, or leave {stage}.models empty",
        )
    return ()


DATA = Stage("1_data", (), ("data",), _lazily("lgsid.data.stage", "prepare_data"), _tables)
ALIGN = Stage(
    "2_align",
    ("1_data",),
    ("align",),
    _lazily("lgsid.align.stage", "align_items"),
    _encoder_files,
    _lazily("lgsid.align.stage", "align_along"),
)
SID = Stage("3_sid", ("1_data", "2_align"), ("sid",), _lazily("lgsid.sid.stage", "tokenize_items"))
RANK = Stage(
    "4_rank", ("1_data", "3_sid"), ("rank", "sid"), _lazily("lgsid.rank.stage", "rank_items"), _no_tables,
    _lazily("lgsid.rank.stage", "rank_along"),
)  # fmt: skip
GENERATE = Stage(
    "4_generate", ("1_data", "3_sid"), ("generate", "rank.samples", "sid"),
    _lazily("lgsid.generate.stage", "generate_items"), _no_tables_either,
    _lazily("lgsid.generate.stage", "generate_along"),
)  # fmt: skip
REPORT = Stage(
    "5_report",
    ("1_data", "2_align", "3_sid", "4_rank", "4_generate"),
    ("name", "report"),
    _lazily("lgsid.evaluate.stage", "write_report"),
)
STAGES = (DATA, ALIGN, SID, RANK, GENERATE, REPORT)
COMMANDS = {"data": DATA, "align": ALIGN, "tokenize": SID, "rank": RANK, "generate": GENERATE, "report": REPORT}
"""Stages by the name of their own command."""


def plan(config: RunConfig, run: RunFolder) -> list[tuple[str, str]]:
    """What `execute` would do, without doing it: (stage folder, "run" or "kept") in order."""
    steps: list[tuple[str, str]] = []
    for stage in STAGES:
        stage.sources(config)  # a table that does not exist is found now, not after an hour
        upstream_kept = all(what == "kept" for name, what in steps if name in stage.needs)
        steps.append((stage.folder, "kept" if upstream_kept and is_current(stage, config, run) else "run"))
    return steps


def estimate_of(config: RunConfig, run: RunFolder, steps: Mapping[str, str]) -> dict[str, Any]:
    """What the alignment in a plan would take, from a few timed steps; empty where there is none to run."""
    if config.align.alignment.objective == "none" or steps.get(ALIGN.folder) != "run":
        return {}
    from lgsid.align.estimate import estimate_alignment

    return estimate_alignment(config, run).to_json()


def execute(
    config: RunConfig, run: RunFolder, report: Report = lambda *_: None, last: Stage = REPORT, force: bool = False
) -> dict[str, dict[str, Any]]:
    """Run the stages in order up to ``last``, skipping those whose result is already there.

    A run that was killed goes on where it stopped and ends with the same files, byte for byte. Under `torchrun` the
    processes train together; everything else is done, and everything is written, by the first of them.

    Args:
        config: the run's configuration; also written to ``config.yaml`` in the run folder.
        run: the run's folder.
        report: told about each finished stage.
        last: the last stage to run.
        force: run ``last`` even if its result is there.

    Returns:
        key figures by stage folder.
    """
    stages = STAGES[: STAGES.index(last) + 1]
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from lgsid.distributed import distributed, is_main

        with distributed():
            if not is_main():
                _go_along(config, run, stages)
                return {}
            return _execute(config, run, report, stages, force)
    return _execute(config, run, report, stages, force)


def _execute(
    config: RunConfig, run: RunFolder, report: Report, stages: Sequence[Stage], force: bool
) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    for stage in stages:
        stage.sources(config)  # what is missing is found now, not after an hour
    with run.lock():
        write_text(run.root / "config.yaml", config_yaml(config))
        for stage in stages:
            forced = force and stage is stages[-1]
            _announce(stage, forced or not is_current(stage, config, run))
            metrics, ran = run_stage(stage, config, run, force=forced)
            figures[stage.folder] = metrics
            report(stage.folder, "run" if ran else "kept", metrics)
    return figures


def _announce(stage: Stage, runs: bool) -> None:
    """Tell the other processes of a `torchrun` whether their help is wanted."""
    if stage.companion is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from lgsid.distributed import share

        share(runs)


def _go_along(config: RunConfig, run: RunFolder, stages: Sequence[Stage]) -> None:
    """What a process other than the first does: its part of the stages that are trained together."""
    from lgsid.distributed import share

    for stage in stages:
        if stage.companion is not None and share(False):
            stage.companion(config, run)


def config_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML, every key written out."""
    import yaml

    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)


def config_of(run: RunFolder) -> Path:
    """Path of a run's own configuration.

    Raises:
        ConfigError: the folder is not a run.
    """
    path = run.root / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run.root} is not a run folder: it has no config.yaml", "lgsid run CONFIG --out RUN")
    return path
