"""Stage 1: from the user's tables, or a simulated world, to checked tables with their regions filled."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lgsid.artifact import RunFolder, atomic_path, write_json
from lgsid.config import DataConfig, RunConfig
from lgsid.data.regions import Filled, fill_regions
from lgsid.data.tables import CheckedItems, TableReport, check_events, check_items

STAGE = "1_data"


@dataclass(frozen=True)
class _Source:
    """Where the tables come from."""

    name: str
    items: Path
    events: Path | None
    truth: Path | None


def prepare_data(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Check the tables, fill their regions, and write the stage's files.

    Writes `items.parquet`, `events.parquet` if there are events, `filled.parquet`, `checks.json`, in lenient mode
    `rejects_items.parquet` and `rejects_events.parquet`, and of a simulated world `truth/`.

    Returns:
        the stage's key figures.

    Raises:
        DataError: a table cannot be used.
        TableError: rows of a table are wrong, in strict mode.
        MissingDependencyError: a Chinese catalogue needs the package cpca to fill its regions.
    """
    source = _source(config, run)
    checked = check_items(source.items, config.data)
    filled = fill_regions(checked.items) if config.data.fill_regions else None
    _write_items(checked, filled, config.data, run)
    events = _write_events(source.events, checked, config.data, run) if source.events else None
    _move_truth(source.truth, run.path(STAGE, "truth"))
    write_json(run.path(STAGE, "checks.json"), _checks(checked.report, events, filled))
    return _figures(source, checked.report, events, filled, run)


def _source(config: RunConfig, run: RunFolder) -> _Source:
    data = config.data
    if data.world is None:
        assert data.items is not None  # DataConfig has exactly one source
        return _Source("tables", data.items, data.events, None)
    from lgsid.data.world import simulate

    folder = run.path(STAGE, ".partial") / "world"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    simulate(data.world, config.seed, folder)
    events = folder / "events.parquet"
    return _Source("simulated world", folder / "items.parquet", events if events.exists() else None, folder / "truth")


def _write_items(checked: CheckedItems, filled: Filled | None, config: DataConfig, run: RunFolder) -> None:
    items = checked.items if filled is None else filled.items
    _write_parquet(items, run.path(STAGE, "items.parquet"))
    no_cells = pl.DataFrame(schema=dict.fromkeys(("item_id", "column", "value", "source"), pl.String))
    _write_parquet(no_cells if filled is None else filled.cells, run.path(STAGE, "filled.parquet"))
    if config.lenient:
        _write_parquet(checked.rejects, run.path(STAGE, "rejects_items.parquet"))


def _write_events(path: Path, items: CheckedItems, config: DataConfig, run: RunFolder) -> TableReport:
    rejects = run.path(STAGE, "rejects_events.parquet") if config.lenient else None
    return check_events(path, items, config, run.path(STAGE, "events.parquet"), rejects)


def _write_parquet(frame: pl.DataFrame, path: Path) -> None:
    with atomic_path(path) as temporary:
        frame.write_parquet(temporary)


def _move_truth(truth: Path | None, target: Path) -> None:
    if truth is not None and truth.exists():
        shutil.rmtree(target, ignore_errors=True)
        shutil.move(truth, target)


def _checks(items: TableReport, events: TableReport | None, filled: Filled | None) -> dict[str, Any]:
    report: dict[str, Any] = {"items": items.to_json()}
    if events is not None:
        report["events"] = events.to_json()
    if filled is not None:
        report["regions"] = {
            "filled": filled.counts,
            "rows_without_region": filled.unfilled,
            "sources": filled.sources,
        }
    return report


def _figures(
    source: _Source, items: TableReport, events: TableReport | None, filled: Filled | None, run: RunFolder
) -> dict[str, Any]:
    figures: dict[str, Any] = {"source": source.name, "items": items.kept, "events": events.kept if events else 0}
    if events is not None:
        users = pl.scan_parquet(run.path(STAGE, "events.parquet")).select(pl.col("user_id").n_unique())
        figures["users"] = int(users.collect(engine="streaming").item())
    figures["rejected_items"], figures["rejected_items_by_reason"] = items.rejected, items.reasons
    if events is not None:
        figures["rejected_events"], figures["rejected_events_by_reason"] = events.rejected, events.reasons
    figures["titles_from_category"] = items.notes["titles_from_category"]
    if filled is not None:
        figures["regions_filled"], figures["rows_without_region"] = filled.counts, filled.unfilled
    figures["files"] = {"items": source.items.name, "events": source.events.name if source.events else None}
    return figures
