"""Run folders: atomic writes, manifests, skip, resume, locks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lgsid.artifact import RunFolder, Stage, atomic_path, is_current, read_json, run_stage, sha256_file, write_json
from lgsid.config import load_run_config
from lgsid.errors import ArtifactError

CONFIG = load_run_config(None)


def counting_stage(
    calls: list[str], folder: str = "1_data", needs: tuple[str, ...] = (), source: Path | None = None
) -> Stage:
    def work(config: Any, run: RunFolder) -> Mapping[str, Any]:
        calls.append(folder)
        write_json(run.path(folder, "out.json"), {"codes": config.sid.codes})
        return {"codes": config.sid.codes}

    return Stage(folder, needs, ("sid",), work, lambda config: (source,) if source else ())


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file.json"
    write_json(target, {"old": True})

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(target) == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_a_finished_stage_is_skipped_until_something_changes(tmp_path: Path) -> None:
    calls: list[str] = []
    source = tmp_path / "source.csv"
    source.write_text("a")
    stage, run = counting_stage(calls, source=source), RunFolder(tmp_path / "run")
    assert run_stage(stage, CONFIG, run) == ({"codes": 256}, True)
    assert run_stage(stage, CONFIG, run) == ({"codes": 256}, False)
    other = load_run_config(None, ["sid.codes=16"])
    assert run_stage(stage, other, run) == ({"codes": 16}, True)
    unrelated = load_run_config(None, ["sid.codes=16", "report.map_points=7"])
    assert run_stage(stage, unrelated, run)[1] is False
    source.write_text("b")
    assert run_stage(stage, other, run)[1] is True
    assert run_stage(stage, load_run_config(None, ["sid.codes=16", "seed=1"]), run)[1] is True
    assert len(calls) == 4


def test_damaged_or_missing_outputs_are_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    stage, run = counting_stage(calls), RunFolder(tmp_path)
    run_stage(stage, CONFIG, run)
    run.path("1_data", "out.json").write_text("damaged")
    assert not is_current(stage, CONFIG, run)
    run_stage(stage, CONFIG, run)
    run.path("1_data", "out.json").unlink()
    run_stage(stage, CONFIG, run)
    assert len(calls) == 3
    assert is_current(stage, CONFIG, run)


def test_a_change_upstream_reaches_downstream(tmp_path: Path) -> None:
    calls: list[str] = []
    first, second = counting_stage(calls), counting_stage(calls, "3_sid", ("1_data",))
    run = RunFolder(tmp_path)
    with pytest.raises(ArtifactError, match="the stage 1_data is not complete"):
        run_stage(second, CONFIG, run)
    run_stage(first, CONFIG, run)
    run_stage(second, CONFIG, run)
    other = load_run_config(None, ["sid.codes=16"])
    run_stage(first, other, run)
    assert not is_current(second, CONFIG, run)


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run_stage(counting_stage([]), CONFIG, run)
    manifest = run.manifest("1_data")
    assert manifest is not None
    assert manifest["outputs"] == {"out.json": sha256_file(run.path("1_data", "out.json"))}
    assert manifest["config"]["sid"]["codes"] == 256
    assert {"python", "torch", "lgsid"} <= set(manifest["versions"])
    assert manifest["wall_seconds"] >= 0
    assert manifest["peak_memory_mib"] > 1


def test_partial_work_survives_only_for_the_same_inputs(tmp_path: Path) -> None:
    run, seen = RunFolder(tmp_path), []

    def interrupted(config: Any, run: RunFolder) -> Mapping[str, Any]:
        seen.append(run.path("1_data", ".partial/chunk").exists())
        run.path("1_data", ".partial/chunk").write_text("work")
        run.path("1_data", "half").write_text("half")
        raise KeyboardInterrupt

    stage = Stage("1_data", (), ("sid",), interrupted)
    for config in (CONFIG, CONFIG, load_run_config(None, ["sid.codes=16"])):
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, config, run)
        assert run.manifest("1_data") is None
    assert seen == [False, True, False]
    run_stage(counting_stage([]), CONFIG, run)
    assert sorted(path.name for path in run.path("1_data").iterdir()) == ["manifest.json", "out.json"]


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run_stage(counting_stage([]), CONFIG, run)
    run.path("1_data", "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="is not JSON"):
        run_stage(counting_stage([]), CONFIG, run)
    run.path("1_data", "manifest.json").write_text(json.dumps([1]))
    with pytest.raises(ArtifactError, match="is not a manifest"):
        run_stage(counting_stage([]), CONFIG, run)


HOLD = """
import sys, time
from pathlib import Path
from lgsid.artifact import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_per_run_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ArtifactError, match="another process"), RunFolder(tmp_path).lock():
            pass
        process.kill()  # the kernel frees the lock
        process.wait()
        with RunFolder(tmp_path).lock():
            pass


def test_others_may_read_what_a_library_wrote(tmp_path: Path) -> None:
    """Some writers replace the file by one of their own that nobody else may read."""
    with atomic_path(tmp_path / "private") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    (tmp_path / "usual").touch()
    assert (tmp_path / "private").stat().st_mode == (tmp_path / "usual").stat().st_mode
