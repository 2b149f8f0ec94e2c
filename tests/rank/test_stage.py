"""Stage 4a on a small simulated world: its files and figures, and that it goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from toy_alignment import write_encoder
from toy_rank import TRAINING_SHARE, features_of, rank_config, toy_events, write_toy
from toy_tables import StoppedError
from typer.testing import CliRunner

from lgsid.artifact import RunFolder, read_json
from lgsid.cli import app
from lgsid.config import RankConfig, RunConfig, load_run_config
from lgsid.errors import ArtifactError, ConfigError, DataError
from lgsid.pipeline import RANK, SID, execute
from lgsid.rank import ranking
from lgsid.rank.loader import SampleFolder
from lgsid.rank.pretrained import load_ranker
from lgsid.rank.stage import rank_items, run_sid_rows, variants
from lgsid.rank.training import predict

QUICK = rank_config("everything", epochs=1, distance=True).model_dump(mode="json", exclude={"features", "sid", "gate"})


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration without rankers, and its run up to the codes."""
    folder = tmp_path_factory.mktemp("world")
    world = {"items": 300, "users": 40, "events": 6_000, "cities": 2, "days": 30}
    encoder = {"model": str(write_encoder(folder / "encoder")), "precision": "fp32", "device": "cpu"}
    config = {
        "data": {"world": world, "fill_regions": False},
        "align": {"encoder": encoder, "alignment": {"objective": "none"}},
        "sid": {"codes": 8, "epochs": 1},
        "rank": QUICK,
    }
    (folder / "world.yaml").write_text(yaml.safe_dump(config))
    execute(load_run_config(folder / "world.yaml", ()), RunFolder(folder / "run"), last=SID)
    return folder / "world.yaml"


def ranked(configured: Path, *changes: str) -> tuple[RunConfig, RunFolder]:
    return load_run_config(configured, changes), RunFolder(configured.parent / "run")


@pytest.fixture(scope="module")
def finished(configured: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The run with two rankers, and the stage's key figures."""
    config, run = ranked(configured, "rank.models=[din, eta]")
    return run, execute(config, run, last=RANK)["4_rank"]


NAMES = ["din", "din_without_sid", "eta", "eta_without_sid"]


def test_files(finished: tuple[RunFolder, dict[str, Any]]) -> None:
    run, _ = finished
    folder = run.path("4_rank")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    rankers = {f"{name}/{file}" for name in NAMES for file in ("config.json", "ranker.safetensors")}
    samples = {f"samples/{name}.parquet" for name in ("train", "validation", "test", "cold")}
    scores = {"scores/test.parquet", "scores/cold.parquet"}
    assert found == {*rankers, *samples, *scores, "samples/visits.safetensors", "metrics.json", "manifest.json"}


def test_figures(finished: tuple[RunFolder, dict[str, Any]]) -> None:
    run, key = finished
    metrics = read_json(run.path("4_rank", "metrics.json"))
    assert list(metrics["rankers"]) == NAMES
    assert len(metrics["baselines"]) == 4
    for name, figures in {**metrics["rankers"], **metrics["baselines"]}.items():
        assert 0 < figures["auc"] < 1
        assert key[f"{name}_auc"] == figures["auc"]
        assert 0 < figures["cold"]["auc"] < 1
    assert key["training_requests"] == metrics["samples"]["requests"]["train"] > 300
    for model in ("din", "eta"):
        gain = metrics["gain_of_sid"][model]
        assert gain["low"] < gain["difference"] < gain["high"]
        with_, without = (metrics["rankers"][name]["auc"] for name in (model, f"{model}_without_sid"))
        assert gain["difference"] == pytest.approx(with_ - without, abs=1e-9)
        assert key[f"{model}_gain_of_sid"] == [gain["difference"], gain["low"], gain["high"]]
    course = metrics["training"]["din"]
    assert course["validations"][0]["step"] == 0 < course["steps"]
    assert json.loads(json.dumps(key)) == key


def test_the_saved_rankers_give_the_saved_scores(finished: tuple[RunFolder, dict[str, Any]]) -> None:
    run, _ = finished
    samples = SampleFolder(run.path("4_rank", "samples"), pl.read_parquet(run.path("1_data", "items.parquet")))
    for name in NAMES:
        ranker = load_ranker(run.path("4_rank", name))
        assert ranker.name == name.split("_")[0]
        assert any(feature.startswith("sid") for feature in ranker.items.names) == ("without" not in name)
        for file in ("test", "cold"):
            stored = pl.read_parquet(run.path("4_rank", f"scores/{file}.parquet"))[name].to_numpy()
            found = predict(ranker, samples.file(file), samples.batcher(ranker.history_length, distance=True))
            assert found.shape == (len(samples.file(file)), 5)
            assert np.array_equal(found, stored)


def test_negatives_are_what_was_shown_and_not_chosen(finished: tuple[RunFolder, dict[str, Any]]) -> None:
    run, _ = finished
    metrics = read_json(run.path("4_rank", "metrics.json"))
    assert metrics["samples"]["impression_share"] > 0.8
    events = pl.read_parquet(run.path("1_data", "events.parquet"))
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    shown = set(events.filter(pl.col("kind") == "impression")["item_id"])
    train = pl.read_parquet(run.path("4_rank", "samples/train.parquet"))
    negatives = items["item_id"].gather(train["candidates"].to_numpy()[:, 1:].ravel())
    assert negatives.is_in(list(shown)).mean() > 0.95


def test_the_stage_is_skipped_when_nothing_has_changed(
    configured: Path, finished: tuple[RunFolder, dict[str, Any]]
) -> None:
    run, key = finished
    config, _ = ranked(configured, "rank.models=[din, eta]")
    happened: dict[str, str] = {}
    again = execute(config, run, lambda stage, what, _: happened.update({stage: what}), last=RANK)
    assert set(happened.values()) == {"kept"}
    assert again["4_rank"] == key


def test_an_interrupted_call_goes_on_and_ends_alike(
    configured: Path, finished: tuple[RunFolder, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, key = finished
    config, _ = ranked(configured, "rank.models=[din, eta]")
    before = outputs(run)
    train, trained = ranking.train, []

    def stopping(name: str, *rest: Any) -> Any:
        if len(trained) == 2:
            raise StoppedError
        trained.append(name)
        return train(name, *rest)

    monkeypatch.setattr(ranking, "train", stopping)
    with pytest.raises(StoppedError):
        execute(config, run, last=RANK, force=True)
    assert run.manifest("4_rank") is None
    assert trained == ["din", "din"]
    trained[:] = [""]
    with pytest.raises(StoppedError):
        execute(config, run, last=RANK)
    trained[:] = [""]
    again = execute(config, run, last=RANK)
    assert trained == ["", "eta"], "each of the four is trained once"
    assert again["4_rank"] == key
    assert outputs(run) == before


def outputs(run: RunFolder) -> dict[str, str]:
    manifest = run.manifest("4_rank")
    assert manifest is not None
    return dict(manifest["outputs"])


def test_the_command(configured: Path) -> None:
    run = configured.parent / "run"
    options = ["--set", "rank.models=[din]", "--set", "rank.sid=none", "--set", "rank.epochs=0.1", "--json"]
    result = CliRunner().invoke(app, ["rank", str(run), *options])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["stages"]["4_rank"]
    assert 0 < figures["din_auc"] < 1
    assert not any(key.endswith("gain_of_sid") for key in figures), "there is nothing to compare with"
    assert not (run / "4_rank" / "din_without_sid").exists()


def test_without_rankers_there_is_nothing_to_do(configured: Path) -> None:
    config, run = ranked(configured)
    assert execute(config, run, last=RANK)["4_rank"] == {"models": 0}
    assert {path.name for path in run.path("4_rank").iterdir()} == {"manifest.json"}


def test_what_is_missing_is_said(configured: Path, tmp_path: Path) -> None:
    config, run = ranked(configured, "rank.models=[din]")
    with pytest.raises(ArtifactError, match=r"no .*items.parquet[\s\S]*fix: lgsid data"):
        rank_items(config, RunFolder(tmp_path))
    (tmp_path / "1_data").symlink_to(run.path("1_data"))
    with pytest.raises(ArtifactError, match=r"no .*sids.parquet[\s\S]*fix: lgsid tokenize"):
        rank_items(config, RunFolder(tmp_path))
    (tmp_path / "1_data").unlink()
    (tmp_path / "1_data").mkdir()
    (tmp_path / "1_data" / "items.parquet").symlink_to(run.path("1_data", "items.parquet"))
    with pytest.raises(DataError, match=r"has no events[\s\S]*fix: set data.events, or leave rank.models empty"):
        rank_items(config, RunFolder(tmp_path))
    pl.read_parquet(run.path("1_data", "items.parquet")).write_parquet(tmp_path / "items.parquet")
    alone = load_run_config(
        configured, ("data.world=null", f"data.items={tmp_path / 'items.parquet'}", "rank.models=[din]")
    )
    with pytest.raises(ConfigError, match=r"no events table[\s\S]*fix: set data.events"):
        execute(alone, RunFolder(tmp_path / "run"), last=RANK)
    assert not (tmp_path / "run" / "1_data").exists(), "found before anything runs"


def test_rows_of_the_run_s_codes(configured: Path) -> None:
    _, run = ranked(configured)
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    sids = pl.read_parquet(run.path("3_sid", "sids.parquet"))
    assert sids["item_id"].equals(items["item_id"])
    tokens = [name for name in sids.columns if name.startswith("token_")]
    levels = run_sid_rows(run, items, RankConfig())
    prefixes = run_sid_rows(run, items, RankConfig(sid="prefixes"))
    for found in (levels, prefixes):
        assert len(found.rows_NL) == len(items)
        assert (found.rows_NL.max(0) < found.sizes).all()
        assert (found.rows_NL >= 0).all()
    for level in range(3):
        for found, start in ((levels, level), (prefixes, 0)):
            together = sids.with_columns(row=pl.Series(found.rows_NL[:, level]))
            pairs = together.select(pl.struct(tokens[start : level + 1]).alias("code"), "row").unique()
            assert len(pairs) == pairs["code"].n_unique() == pairs["row"].n_unique()


def test_variants() -> None:
    both = variants(RankConfig(models=("din", "sim")))
    assert list(both) == ["din", "din_without_sid", "sim", "sim_without_sid"]
    assert [config.sid for config in both.values()] == ["levels", "none"] * 2
    assert list(variants(RankConfig(models=("din",), features=()))) == ["din"], "without codes nothing is left to see"
    assert list(variants(RankConfig(models=("din",), sid="none"))) == ["din"]


def test_no_cold_items(tmp_path: Path) -> None:
    """Every item is visited in training: the file of cold ones is empty, and all else goes on."""
    events = toy_events()
    training = events.head(int(TRAINING_SHARE * len(events)))["item_id"].unique().to_list()
    samples = write_toy(tmp_path / "samples", events.filter(pl.col("item_id").is_in(training)))
    assert len(samples.file("cold")) == 0
    config = rank_config("id", most_requests=256)
    ranker, _ = ranking.train("din", features_of(samples, config), samples, config, seed=0)
    scores = ranking.score_files(ranker, samples)
    known = {name: ranking.samples_of(samples, name, samples.seen()) for name in ranking.MEASURED}
    assert len(scores["cold"]) == len(known["cold"]) == 0
    found = ranking.figures(scores, known, logits=True)
    assert found["cold"] == {"auc": None, "positives": 0, "negatives": 0}
    assert found["auc"] is not None
    for by_file in ranking.baseline_scores(samples, 5.0).values():
        assert ranking.figures(by_file, known, logits=False)["auc"] is not None


def test_training_leaves_the_ranker_ready(toy: SampleFolder) -> None:
    config = rank_config("id", most_requests=256)
    ranker, history = ranking.train("din", features_of(toy, config), toy, config, seed=0)
    assert not ranker.training
    assert history.examples == 1
    assert all(torch.isfinite(parameter).all() for parameter in ranker.parameters())
