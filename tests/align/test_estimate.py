"""The estimate of a dry run: it counts what training would do, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_alignment import align_config, catalogue, write_encoder

from lgsid.align import estimate as estimate_module
from lgsid.align.align import align
from lgsid.align.encoder import Encoder
from lgsid.align.estimate import Estimate, estimate_alignment
from lgsid.align.prompts import prompts
from lgsid.artifact import RunFolder
from lgsid.config import DataConfig, PromptConfig, RunConfig, WorldConfig
from lgsid.errors import ConfigError, DataError
from lgsid.pipeline import estimate_of


@pytest.fixture(scope="module")
def toy_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("toy"))


def config(folder: Path, data: DataConfig | None = None, **alignment: object) -> RunConfig:
    return RunConfig(data=data or DataConfig(world=WorldConfig(items=1_000)), align=align_config(folder, **alignment))


def run_with_items(folder: Path, items_per_city: int = 64) -> RunFolder:
    run = RunFolder(folder)
    run.path("1_data").mkdir(parents=True)
    catalogue(items_per_city).write_parquet(run.path("1_data", "items.parquet"))
    return run


def test_it_counts_what_training_will_do(toy_encoder: Path, tmp_path: Path) -> None:
    run = run_with_items(tmp_path / "run")
    wanted = config(toy_encoder, unseen_share=0.1, accumulate=2, epochs=1.5, batch=16)
    found = estimate_alignment(wanted, run)
    items = catalogue()
    encoder = Encoder.load(wanted.align.encoder)
    reference = encoder.encode(prompts(items, PromptConfig()).to_list())
    aligned = align(encoder, items, None, reference, wanted.align, wanted.seed)
    assert found.items == len(items)
    assert found.trained_on == (aligned.part == "train").sum()
    assert found.steps == aligned.history.steps


def test_the_time_follows_from_the_speeds(toy_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate_module, "_seconds", lambda work: 0.25)  # 32 prompts: 128 a second
    run = run_with_items(tmp_path / "run")
    found = estimate_alignment(config(toy_encoder, most_items=160, epochs=4), run)
    assert (found.prompts_per_second, found.examples_per_second, found.trained_on) == (128, 128, 160)
    assert found.steps == 4 * 5
    assert found.minutes == pytest.approx((3 * 256 / 128 + 4 * 160 / 128) / 60)
    contrast = estimate_alignment(config(toy_encoder, objective="contrast"), run)
    assert contrast.examples_per_second == pytest.approx(128 / 3)
    reward = estimate_alignment(config(toy_encoder, objective="gdpo", reward={"anchors": 1_000}), run)
    assert reward.minutes > contrast.minutes / 3 + 1_000 * 15 / 128 / 60 / 2


def test_the_speeds_are_measured(toy_encoder: Path, tmp_path: Path) -> None:
    found = estimate_alignment(config(toy_encoder), run_with_items(tmp_path / "run", 12))
    assert found.prompts_per_second > 0
    assert found.examples_per_second > 0
    assert found.minutes > 0
    assert Estimate(1_000, 800, 9, 12.345, 6.789, 0.55).to_json() == {
        "items": 1_000, "trained_on": 800, "steps": 9, "prompts_per_second": 12.3, "examples_per_second": 6.8,
        "minutes": 0.6,
    }  # fmt: skip


def test_a_catalogue_that_has_not_been_read(toy_encoder: Path, tmp_path: Path) -> None:
    world = estimate_alignment(config(toy_encoder, most_items=500), RunFolder(tmp_path / "none"))
    assert (world.items, world.trained_on) == (1_000, 500)
    small = estimate_alignment(config(toy_encoder, validation_share=0.2), RunFolder(tmp_path / "none"))
    assert small.trained_on == 700
    table = DataConfig(items=tmp_path / "items.csv")
    unknown = estimate_alignment(config(toy_encoder, table, most_items=500), RunFolder(tmp_path / "none"))
    assert (unknown.items, unknown.trained_on) == (None, 500)  # an upper bound


def test_it_leaves_nothing_behind(toy_encoder: Path, tmp_path: Path, own_cache: Path) -> None:
    run = run_with_items(tmp_path / "run")
    estimate_alignment(config(toy_encoder), run)
    assert [path.name for path in run.root.rglob("*")] == ["1_data", "items.parquet"]
    assert not own_cache.exists()
    estimate_alignment(config(toy_encoder), RunFolder(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_only_an_alignment_that_would_run_is_estimated(toy_encoder: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "none")
    assert estimate_of(config(toy_encoder, objective="none"), run, {"2_align": "run"}) == {}
    assert estimate_of(config(toy_encoder), run, {"2_align": "kept"}) == {}
    assert estimate_of(config(toy_encoder), run, {"1_data": "run"}) == {}
    assert estimate_of(config(toy_encoder), run, {"2_align": "run"})["items"] == 1_000


def test_errors_of_the_alignment_are_found_by_the_estimate(toy_encoder: Path, tmp_path: Path) -> None:
    content = RunConfig(align=align_config(toy_encoder, prompt={"kind": "content"}))
    with pytest.raises(ConfigError, match="prompts of the kind 'content'"):
        estimate_alignment(content, RunFolder(tmp_path / "none"))
    with pytest.raises(DataError, match="at least 32"):
        estimate_alignment(config(toy_encoder), run_with_items(tmp_path / "few", 8))
