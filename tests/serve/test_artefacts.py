"""What is served is what its manifests say: corrupt, incomplete and mismatched runs are refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from toy_serve import copy_of, items_of, new_items, served_run

from lgsid.artifact import RunFolder, read_json, sha256_file, write_json
from lgsid.errors import ArtifactError
from lgsid.serve.artefacts import load_artefacts
from lgsid.serve.engine import RunEngine
from lgsid.sid.assign import assign_in_run

FILES = {
    "1_data/items.parquet": "lgsid data",
    "1_data/events.parquet": "lgsid data",
    "2_align/embeddings.safetensors": "lgsid align",
    "3_sid/sids.parquet": "lgsid tokenize",
    "3_sid/tokenizer/codebooks.safetensors": "lgsid tokenize",
    "3_sid/tokenizer/tokens.json": "lgsid tokenize",
    "4_rank/din/ranker.safetensors": "lgsid rank",
    "4_rank/din/config.json": "lgsid rank",
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return copy_of(served_run(), tmp_path / "run")


def test_a_whole_run(run: RunFolder) -> None:
    found = load_artefacts(run.root)
    assert found.version == load_artefacts(served_run().root).version
    assert found.version.startswith("toy-")
    assert list(found.rankers) == ["din", "din_without_sid"]
    assert dict(found.generators) == {}
    assert found.reference_ND is None
    events = pl.read_parquet(run.path("1_data", "events.parquet"))
    visits = events.filter(pl.col("kind").is_in(["click", "order", "visit", "checkin"]))["item_id"].value_counts()
    expected = dict(visits.iter_rows())
    assert found.visits_N.tolist() == [expected.get(name, 0) for name in found.fit.items["item_id"]]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found(run: RunFolder, name: str) -> None:
    path = run.root / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="corrupt") as caught:
        load_artefacts(run.root)
    assert str(path) in caught.value.message
    assert caught.value.fix == f"{FILES[name]} {run.root}"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(run: RunFolder, name: str) -> None:
    (run.root / name).unlink()
    with pytest.raises(ArtifactError) as caught:
        load_artefacts(run.root)
    assert str(run.root / name) in caught.value.message
    assert caught.value.fix == f"{FILES[name]} {run.root}"


@pytest.mark.parametrize(("stage", "command"), [("1_data", "data"), ("2_align", "align"), ("3_sid", "tokenize")])
def test_an_unfinished_stage_is_found(run: RunFolder, stage: str, command: str) -> None:
    run.path(stage, "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="not complete") as caught:
        load_artefacts(run.root)
    assert caught.value.fix == f"lgsid {command} {run.root}"


@pytest.mark.parametrize(
    ("stage", "name", "later"),
    [("1_data", "items.parquet", "2_align"), ("3_sid", "sids.parquet", "4_rank"), ("2_align", None, "3_sid")],
)
def test_stages_that_do_not_belong_together_are_found(run: RunFolder, stage: str, name: str | None, later: str) -> None:
    """A file is changed and its own manifest with it, so that no hash is wrong but those that later stages saw."""
    manifest = read_json(run.path(stage, "manifest.json"))
    if name is None:
        manifest["outputs"]["further.txt"] = "0" * 64
    else:
        pl.read_parquet(run.path(stage, name)).reverse().write_parquet(run.path(stage, name))
        manifest["outputs"][name] = sha256_file(run.path(stage, name))
    write_json(run.path(stage, "manifest.json"), manifest)
    with pytest.raises(ArtifactError, match="does not fit") as caught:
        load_artefacts(run.root)
    assert str(run.path(later)) in caught.value.message


def test_a_ranker_of_another_configuration_is_found(run: RunFolder) -> None:
    manifest = read_json(run.path("4_rank", "manifest.json"))
    manifest["seed"] += 1
    write_json(run.path("4_rank", "manifest.json"), manifest)
    with pytest.raises(ArtifactError, match="4_rank does not fit"):
        load_artefacts(run.root)


def test_a_manifest_that_is_none(run: RunFolder) -> None:
    write_json(run.path("3_sid", "manifest.json"), {"fingerprint": "0", "outputs": {"sids.parquet": "0"}})
    with pytest.raises(ArtifactError, match="3_sid"):
        load_artefacts(run.root)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no config\.yaml"):
        load_artefacts(tmp_path)


def test_without_rankers_popularity_and_nearness_answer(run: RunFolder) -> None:
    shutil.rmtree(run.path("4_rank"))
    engine = RunEngine.load(run.root)
    assert engine.described()["rankers"] == ["popularity_nearness"]
    assert engine.version != load_artefacts(served_run().root).version


def test_what_was_assigned_is_verified_too(run: RunFolder) -> None:
    assign_in_run(run, new_items(items_of(run), 2))
    found = load_artefacts(run.root)
    assert len(found.assigned.items) == 2
    assert found.version != load_artefacts(served_run().root).version
    path = run.path("assigned", "sids.parquet")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match=r"sids\.parquet is corrupt"):
        load_artefacts(run.root)
