"""Stage 1 as a whole: the files it leaves, its key figures, and the simulated world's way through the same checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lgsid.artifact import RunFolder, read_json, run_stage
from lgsid.config import RunConfig, WorldConfig
from lgsid.data.stage import prepare_data
from lgsid.errors import TableError
from lgsid.pipeline import DATA

ITEMS = """\
item_id,title,lat_deg,lon_deg,category,province
1,Joe's Pizza,40.7306,-74.0021,Food > Pizza,NY
2,,40.7327,-74.0060,Food > Cafe,
3,Nowhere,0,0,Food,NY
4,Desert Diner,36.1699,-115.1398,Food,
"""
EVENTS = """\
user_id,item_id,timestamp,kind
u1,1,2026-01-05T10:00:00Z,click
u2,3,2026-01-05T10:01:00Z,click
u1,4,2026-01-05T10:02:00Z,order
"""


def run_config(folder: Path, **data: Any) -> RunConfig:
    (folder / "items.csv").write_text(ITEMS)
    (folder / "events.csv").write_text(EVENTS)
    tables = {"items": folder / "items.csv", "events": folder / "events.csv"}
    return RunConfig.model_validate({"data": tables | data})


def files(run: RunFolder) -> list[str]:
    folder = run.path("1_data")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_tables_become_the_stage_s_files(tmp_path: Path) -> None:
    config = run_config(tmp_path, lenient=True, empty_title="category")
    run = RunFolder(tmp_path / "run")
    figures, ran = run_stage(DATA, config, run)
    assert ran
    assert files(run) == ["checks.json", "events.parquet", "filled.parquet", "items.parquet", "manifest.json",
                          "rejects_events.parquet", "rejects_items.parquet"]  # fmt: skip
    assert figures == {
        "source": "tables", "items": 3, "events": 2, "users": 1,
        "rejected_items": 1, "rejected_items_by_reason": {"(0, 0) coordinates": 1},
        "rejected_events": 1, "rejected_events_by_reason": {"unknown item": 1},
        "titles_from_category": 1,
        "regions_filled": {"province": 2, "city": 3, "district": 3}, "rows_without_region": 0,
        "files": {"items": "items.csv", "events": "events.csv"},
    }  # fmt: skip
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    assert items.select("item_id", "title", "province").rows() == [
        ("1", "Joe's Pizza", "NY"),
        ("2", "Cafe", "NY"),
        ("4", "Desert Diner", "Nevada"),
    ]
    filled = pl.read_parquet(run.path("1_data", "filled.parquet"))
    assert filled.filter(column="province").rows() == [
        ("2", "province", "NY", "nearest row of the catalogue"),
        ("4", "province", "Nevada", "GeoNames"),
    ]
    assert read_json(run.path("1_data", "checks.json")) == {
        "items": {"file": "items.csv", "rows": 4, "kept": 3, "rejected": 1,
                  "rejected_by_reason": {"(0, 0) coordinates": 1}, "blank_lines": 0, "titles_from_category": 1},
        "events": {"file": "events.csv", "rows": 3, "kept": 2, "rejected": 1,
                   "rejected_by_reason": {"unknown item": 1}, "unknown_items_rejected": 1, "unknown_items_absent": 0,
                   "blank_lines": 0},
        "regions": {"filled": {"province": 2, "city": 3, "district": 3}, "rows_without_region": 0,
                    "sources": {"GeoNames": 7, "nearest row of the catalogue": 1}},
    }  # fmt: skip
    assert run_stage(DATA, config, run) == (figures, False), "nothing changed, nothing runs"


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    config = run_config(tmp_path, lenient=True, empty_title="category")
    outputs = []
    for name in ("a", "b"):
        run = RunFolder(tmp_path / name)
        run_stage(DATA, config, run)
        manifest = run.manifest("1_data")
        assert manifest is not None
        outputs.append(manifest["outputs"])
    assert outputs[0] == outputs[1]


def test_strict_mode_stops_before_anything_is_complete(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(TableError, match=r"2 of 4 rows are wrong \(empty title: 1, \(0, 0\) coordinates: 1\)"):
        run_stage(DATA, run_config(tmp_path), run)
    assert run.manifest("1_data") is None
    assert not run.path("1_data", "items.parquet").exists()


def test_without_events_and_without_filling(tmp_path: Path) -> None:
    config = run_config(tmp_path, lenient=True, fill_regions=False, events=None)
    run = RunFolder(tmp_path / "run")
    figures = prepare_data(config, run)
    assert (figures["items"], figures["events"]) == (2, 0)
    assert "users" not in figures
    assert "regions_filled" not in figures
    assert pl.read_parquet(run.path("1_data", "items.parquet"))["province"].to_list() == ["NY", None]
    assert pl.read_parquet(run.path("1_data", "filled.parquet")).rows() == []
    assert not run.path("1_data", "events.parquet").exists()


def test_a_simulated_world_goes_through_the_same_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(world: WorldConfig, seed: int, folder: Path) -> None:
        good = "\n".join(line for line in ITEMS.splitlines() if ",Nowhere," not in line and not line.startswith("2"))
        pl.read_csv(good.encode(), infer_schema=False).write_parquet(folder / "items.parquet")
        events = "\n".join(line for line in EVENTS.splitlines() if ",3," not in line)
        pl.read_csv(events.encode(), infer_schema=False).write_parquet(folder / "events.parquet")
        (folder / "truth").mkdir()
        (folder / "truth" / "choice.json").write_text(f'{{"seed": {seed}, "items": {world.items}}}')

    monkeypatch.setattr("lgsid.data.world.simulate", simulate, raising=False)
    config = RunConfig.model_validate({"seed": 7, "data": {"world": {"items": 2}}})
    run = RunFolder(tmp_path / "run")
    # what a killed run may have left behind
    left_over = run.path("1_data", ".partial") / "world" / "truth"
    left_over.mkdir(parents=True)
    (run.path("1_data", "truth") / "old").mkdir(parents=True)
    figures, _ = run_stage(DATA, config, run)
    assert (figures["source"], figures["items"], figures["events"], figures["users"]) == ("simulated world", 2, 2, 1)
    assert files(run) == [
        "checks.json", "events.parquet", "filled.parquet", "items.parquet", "manifest.json", "truth/choice.json"
    ]  # fmt: skip
    assert read_json(run.path("1_data", "truth/choice.json")) == {"seed": 7, "items": 2}
