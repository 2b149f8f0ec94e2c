"""Stage 4b on a small simulated world: its files and figures, its section, and that it goes on where it was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy_alignment import write_encoder
from toy_tables import StoppedError

from lgsid.artifact import RunFolder, read_json
from lgsid.config import RunConfig, load_run_config
from lgsid.errors import ConfigError, DataError
from lgsid.evaluate.document import Table, percent
from lgsid.evaluate.generate_section import generate_section, generate_verdicts
from lgsid.generate import generating
from lgsid.generate.generating import recommender_of, requests_to_answer
from lgsid.generate.harness import MODES
from lgsid.generate.pretrained import load_generator
from lgsid.generate.stage import generate_items, run_data
from lgsid.pipeline import GENERATE, SID, execute

NAMES = ["tiger", "sasrec"]
BASELINES = ["popular_within_reach", "popular_nearby", "item_co_visits", "revisit"]


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration without generators, and its run up to the codes."""
    folder = tmp_path_factory.mktemp("world")
    world = {"items": 200, "users": 40, "events": 4_000, "cities": 2, "days": 30}
    encoder = {"model": str(write_encoder(folder / "encoder")), "precision": "fp32", "device": "cpu"}
    small = {"dim": 16, "heads": 2, "feed_forward": 32, "encoder_layers": 1, "decoder_layers": 1, "history": 8}
    config = {
        "data": {"world": world, "fill_regions": False},
        "align": {"encoder": encoder, "alignment": {"objective": "none"}},
        "sid": {"codes": 8, "epochs": 1},
        "generate": {**small, "epochs": 1, "least_updates": 20, "validations": 2, "beams": 10},
    }
    (folder / "world.yaml").write_text(yaml.safe_dump(config))
    execute(load_run_config(folder / "world.yaml", ()), RunFolder(folder / "run"), last=SID)
    return folder / "world.yaml"


def generated(configured: Path, *changes: str) -> tuple[RunConfig, RunFolder]:
    return load_run_config(configured, changes), RunFolder(configured.parent / "run")


@pytest.fixture(scope="module")
def finished(configured: Path) -> tuple[RunConfig, RunFolder, dict[str, Any]]:
    """The run with two models, and the stage's key figures."""
    config, run = generated(configured, f"generate.models={NAMES}")
    return config, run, execute(config, run, last=GENERATE)["4_generate"]


def test_files(finished: tuple[RunConfig, RunFolder, dict[str, Any]]) -> None:
    folder = finished[1].path("4_generate")
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    models = {f"{name}/{file}" for name in NAMES for file in ("config.json", "generator.safetensors")}
    assert found == {*models, "metrics.json", "manifest.json"}


def test_figures(finished: tuple[RunConfig, RunFolder, dict[str, Any]]) -> None:
    _, run, key = finished
    metrics = read_json(run.path("4_generate", "metrics.json"))
    assert list(metrics["recommenders"]) == [*NAMES, *BASELINES]
    assert list(metrics["training"]) == NAMES
    for name, figures in metrics["recommenders"].items():
        assert figures["reachable"]["unreachable_share"] in (0.0, None)
        assert 0 <= figures["catalogue"]["all"]["ndcg@5"] <= figures["catalogue"]["all"]["hit@5"] <= 1
        assert key[f"{name}_hit@5"] == figures["catalogue"]["all"]["hit@5"]
    assert 0 <= metrics["recommenders"]["tiger"]["invalid_share_without_trie"] <= 1
    assert "invalid_share_without_trie" not in metrics["recommenders"]["sasrec"]


def test_the_report_tells_of_generators(finished: tuple[RunConfig, RunFolder, dict[str, Any]]) -> None:
    config, run, _ = finished
    metrics = read_json(run.path("4_generate", "metrics.json"))
    section = generate_section(config, metrics)
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [row[0] for row in tables[0].rows] == [
        "TIGER", "SASRec (no codes)", "popular within reach", "popular nearby", "item co-visits", "visited before",
    ]  # fmt: skip
    hit = metrics["recommenders"]["tiger"]["reachable"]["all"]["hit@5"]
    assert tables[1].rows[0][1] == percent(hit)
    verdicts = {verdict.question: verdict for verdict in generate_verdicts(metrics)}
    assert verdicts["Can everything that is recommended be reached?"].status == "good"


@pytest.mark.parametrize("name", NAMES)
def test_the_saved_model_gives_the_measured_figures(
    name: str, finished: tuple[RunConfig, RunFolder, dict[str, Any]]
) -> None:
    config, run, _ = finished
    data, model = run_data(config, run), load_generator(run.path("4_generate", name))
    event_R = requests_to_answer(data, None)
    found = generating.measured(recommender_of(model, data, config.generate), data, config.generate, event_R)
    stored = read_json(run.path("4_generate", "metrics.json"))["recommenders"][name]
    for mode in MODES:
        assert found.figures[mode]["all"] == stored[mode]["all"]


def test_it_goes_on_where_it_was_stopped(configured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run = generated(configured, "generate.models=[tiger]", "generate.epochs=0.5")
    whole = execute(config, run, last=GENERATE, force=True)
    parameters = {name: tensor.clone() for name, tensor in model_of(run).items()}
    real = generating.measured

    def stopped(*_: Any, **__: Any) -> None:
        raise StoppedError

    monkeypatch.setattr(generating, "measured", stopped)
    with pytest.raises(StoppedError):
        execute(config, run, last=GENERATE, force=True)
    monkeypatch.setattr(generating, "measured", real)
    assert execute(config, run, last=GENERATE) == whole
    assert all(torch.equal(tensor, parameters[name]) for name, tensor in model_of(run).items())


def model_of(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_generator(run.path("4_generate", "tiger")).state_dict()


def test_without_models_nothing_happens(configured: Path) -> None:
    config, run = generated(configured)
    assert generate_items(config, run) == {"models": 0}


def test_without_events_the_error_says_so_before_anything_runs(configured: Path, tmp_path: Path) -> None:
    config, run = generated(configured, "generate.models=[tiger]")
    items = tmp_path / "items.parquet"
    shutil.copy(run.path("1_data", "items.parquet"), items)
    config = config.model_copy(update={"data": config.data.model_copy(update={"world": None, "items": items})})
    with pytest.raises(ConfigError, match=r"generate\.models asks for tiger"):
        execute(config, RunFolder(tmp_path / "run"), last=GENERATE)
    run.path("1_data", "events.parquet").rename(tmp_path / "events.parquet")
    with pytest.raises(DataError, match="has no events"):
        run_data(config, run)
    (tmp_path / "events.parquet").rename(run.path("1_data", "events.parquet"))


def test_leave_one_out_predicts_the_last_visit_of_every_user(configured: Path) -> None:
    config, run = generated(configured, "generate.protocol=leave_one_out")
    visits = run_data(config, run).visits
    event_R = requests_to_answer(run_data(config, run), None)
    last_E = np.append(visits.user_E[1:] != visits.user_E[:-1], True)
    assert last_E[event_R].all()
    assert len(event_R) > 20


def test_verdicts_ask_for_a_look_where_baselines_win_or_reach_is_left() -> None:
    def figures(hit: float, beyond: float) -> dict[str, Any]:
        found = {"all": {"hit@5": hit}, "unreachable_share": beyond}
        return {"catalogue": found, "reachable": found}

    rows = {"tiger": figures(0.1, 0.02), "revisit": figures(0.2, 0.0)}
    rising = [{"step": step, "epoch": step / 2, "metrics": {"score": step / 10}} for step in range(3)]
    course = {"stopped_early": False, "validations": rising}
    found = list(generate_verdicts({"recommenders": rows, "training": {"tiger": course}}))
    assert [verdict.status for verdict in found] == ["look"] * 3
    assert list(generate_verdicts({"recommenders": {"revisit": figures(0.2, 0.0)}, "training": {}})) == []


def test_the_report_tells_of_preference_alignment(finished: tuple[RunConfig, RunFolder, dict[str, Any]]) -> None:
    config, run, _ = finished
    metrics = read_json(run.path("4_generate", "metrics.json"))
    figures = {"before": {"reward": -1.0, "ndcg": 0.1}, "after": {"reward": 0.5, "ndcg": 0.11}}
    rounds = [{"pairs": 30, "kept": True, **figures}, {"pairs": 0, "kept": False}]
    onerec = {**metrics["training"]["tiger"], "alignment": {"rounds": rounds}}
    section = generate_section(config, {**metrics, "training": {"onerec": onerec}})
    (found,) = (block for block in section.blocks if isinstance(block, Table) and "alignment" in block.caption)
    assert found.rows == (
        ("1", "30", "-1", "0.5", "0.1", "0.11", "yes"),
        ("2", "0", "–", "–", "–", "–", "no"),
    )
