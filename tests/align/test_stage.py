"""The stage: prompts and embeddings of a run, in the order of the items, whatever was cached."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lgsid.align.stage import align_items
from lgsid.artifact import RunFolder
from lgsid.config import AlignConfig, EncoderConfig, PromptConfig, RunConfig
from lgsid.errors import ArtifactError

ITEMS = pl.DataFrame(
    {
        "item_id": ["3", "1", "2", "4"],
        "title": ["bar pine", "shop cone", "bar pine", "grill"],
        "city": ["phoenix", None, "phoenix", "madison"],
        "province": ["az", None, "az", "wi"],
    }
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run whose data stage is done."""
    run = RunFolder(tmp_path / "run")
    path = run.path("1_data", "items.parquet")
    path.parent.mkdir(parents=True)
    ITEMS.write_parquet(path)
    return run


def config(folder: Path, **prompt: object) -> RunConfig:
    return RunConfig(
        align=AlignConfig(
            prompt=PromptConfig.model_validate(prompt),
            encoder=EncoderConfig(model=str(folder), precision="fp32", device="cpu", max_tokens=10),
        )
    )


def read(run: RunFolder) -> tuple[np.ndarray, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(run.path("2_align", "embeddings.safetensors"), framework="numpy") as file:
        return file.get_tensor("emb_ND"), file.metadata()


def test_files_and_key_figures(run: RunFolder, bert_folder: Path) -> None:
    figures = dict(align_items(config(bert_folder), run))
    written = pl.read_parquet(run.path("2_align", "prompts.parquet"))
    assert written.columns == ["item_id", "prompt"]
    assert written.rows()[:2] == [("3", "Shop: bar pine. Location: phoenix, az"), ("1", "Shop: shop cone.")]
    emb, metadata = read(run)
    assert emb.shape == (4, 32)
    assert emb.dtype == np.float32
    assert np.allclose(np.linalg.norm(emb, axis=1), 1, atol=1e-6)
    assert np.array_equal(emb[0], emb[2])
    assert metadata["prompt"] == "full"
    json.dumps(figures)
    expected = {"items": 4, "distinct_prompts": 3, "dim": 32, "encoded": 3, "from_cache": 0, "without_location": 1}
    assert expected.items() <= figures.items()
    assert (figures["precision"], figures["device"]) == ("fp32", "cpu")


def test_a_second_run_writes_the_same_bytes_from_the_cache(run: RunFolder, bert_folder: Path) -> None:
    align_items(config(bert_folder), run)
    names = ("prompts.parquet", "embeddings.safetensors")
    first = [run.path("2_align", name).read_bytes() for name in names]
    for _ in range(8):  # the safetensors library writes metadata in a random order; equal by luck once is not enough
        figures = align_items(config(bert_folder), run)
        assert (figures["encoded"], figures["from_cache"], figures["prompts_per_second"]) == (0, 3, None)
        assert [run.path("2_align", name).read_bytes() for name in names] == first


def test_prompt_kinds(run: RunFolder, bert_folder: Path) -> None:
    align_items(config(bert_folder, kind="location"), run)
    prompts = pl.read_parquet(run.path("2_align", "prompts.parquet"))["prompt"]
    assert prompts.to_list() == ["Location: phoenix, az", "", "Location: phoenix, az", "Location: madison, wi"]
    assert read(run)[1]["prompt"] == "location"


def test_cut_prompts_are_counted_and_said(run: RunFolder, bert_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    ITEMS.with_columns(description=pl.lit("pine cone " * 20)).write_parquet(run.path("1_data", "items.parquet"))
    with caplog.at_level(logging.WARNING):
        figures = align_items(config(bert_folder), run)
        again = align_items(config(bert_folder), run)
    assert figures["truncated"] == again["truncated"] == 3  # cached prompts are cut ones all the same
    assert figures["mean_tokens"] == again["mean_tokens"] > 40
    assert "3 of 3 prompts are longer than the encoder's 10 tokens" in caplog.text


def test_the_data_stage_must_have_run(tmp_path: Path, bert_folder: Path) -> None:
    with pytest.raises(ArtifactError, match="1_data"):
        align_items(config(bert_folder), RunFolder(tmp_path / "empty"))
