"""The stage: prompts and embeddings of a run, in the order of the items, whatever was cached."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy_alignment import align_config, catalogue, neighbours_in_district, visits, write_encoder

from lgsid.align.distil import Distil
from lgsid.align.encoder import Encoder
from lgsid.align.prompts import content_text
from lgsid.align.stage import align_items
from lgsid.artifact import RunFolder, read_json, run_stage
from lgsid.config import AlignConfig, AlignmentConfig, EncoderConfig, PromptConfig, RunConfig
from lgsid.errors import ArtifactError, ConfigError
from lgsid.pipeline import ALIGN

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
            alignment=AlignmentConfig(objective="none"),
        )
    )


def read(run: RunFolder, name: str = "embeddings") -> tuple[np.ndarray, dict[str, str]]:
    from safetensors import safe_open

    with safe_open(run.path("2_align", f"{name}.safetensors"), framework="numpy") as file:
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


TOY = catalogue()
ENCODER_FILES = {"config.json", "model.safetensors", "tokenizer.json", "modules.json", "README.md"}
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"}


@pytest.fixture(scope="module")
def toy_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("toy"))


def toy_run(folder: Path) -> RunFolder:
    """A run whose data stage is done, as the manifests want it."""
    run = RunFolder(folder)
    data = run.path("1_data")
    data.mkdir(parents=True)
    TOY.write_parquet(data / "items.parquet")
    visits(TOY).write_parquet(data / "events.parquet")
    (data / "manifest.json").write_text(json.dumps({"fingerprint": "", "outputs": {}, "metrics": {}}))
    return run


def aligning(folder: Path, **alignment: object) -> RunConfig:
    return RunConfig(name="toy", align=align_config(folder, **alignment))


def files(run: RunFolder) -> dict[str, bytes]:
    """The stage's files but its manifest, which holds the time."""
    folder = run.path("2_align")
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "manifest.json"}


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, toy_encoder: Path) -> tuple[RunFolder, dict[str, object]]:
    """A run that has been aligned, and its key figures."""
    folder = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGSID_CACHE", str(folder / "cache"))
        run = toy_run(folder / "run")
        return run, run_stage(ALIGN, aligning(toy_encoder), run)[0]


def test_an_alignment_s_files(aligned: tuple[RunFolder, dict[str, object]], toy_encoder: Path) -> None:
    run, figures = aligned
    written = files(run)
    assert {name for name in written if not name.startswith("encoder/")} == {
        "prompts.parquet", "embeddings.safetensors", "reference.safetensors", "content.safetensors",
        "without_location.safetensors", "split.parquet", "training.json",
    }  # fmt: skip
    assert {f"encoder/{name}" for name in ENCODER_FILES} <= set(written)
    assert {f"encoder/adapter/{name}" for name in ADAPTER_FILES} <= set(written)
    split = pl.read_parquet(run.path("2_align", "split.parquet"))
    assert split.columns == ["item_id", "part"]
    assert split["item_id"].to_list() == TOY["item_id"].to_list()
    assert set(split["part"]) == {"train", "validation", "test"}
    json.dumps(figures)
    assert figures["objective"] == "distil"
    assert figures["trained_on"] == (split["part"] == "train").sum()
    assert figures["training_steps"] == 21
    held, unaligned = figures["held_out_district"], figures["unaligned_district"]
    assert isinstance(held, float)
    assert isinstance(unaligned, float)
    assert held > unaligned + 0.2


def test_the_vectors_are_what_the_encoders_make_of_the_texts(
    aligned: tuple[RunFolder, dict[str, object]], toy_encoder: Path
) -> None:
    run, _ = aligned
    before = Encoder.load(aligning(toy_encoder).align.encoder)
    after = Encoder.load(EncoderConfig(model=str(run.path("2_align", "encoder")), precision="fp32", device="cpu"))
    texts = pl.read_parquet(run.path("2_align", "prompts.parquet"))["prompt"].to_list()
    contents = content_text(TOY, PromptConfig()).to_list()
    wanted = {
        "embeddings": (after, texts, "full"), "reference": (before, texts, "full"),
        "content": (before, contents, "content"), "without_location": (after, contents, "content"),
    }  # fmt: skip
    for name, (encoder, said, kind) in wanted.items():
        emb, metadata = read(run, name)
        assert emb.dtype == np.float32
        assert np.array_equal(emb, encoder.encode(said)), name
        assert (metadata["prompt"], metadata["fingerprint"]) == (kind, encoder.fingerprint)
        assert str(run.root) not in str(metadata)
    assert neighbours_in_district(TOY, read(run)[0]) > neighbours_in_district(TOY, read(run, "reference")[0]) + 0.2


def test_sentence_transformers_opens_the_encoder(aligned: tuple[RunFolder, dict[str, object]]) -> None:
    from sentence_transformers import SentenceTransformer

    run, _ = aligned
    texts = pl.read_parquet(run.path("2_align", "prompts.parquet"))["prompt"].to_list()
    model = SentenceTransformer(str(run.path("2_align", "encoder")), device="cpu")
    assert np.allclose(model.encode(texts), read(run)[0], atol=1e-5)


def test_training_json_and_the_model_card(aligned: tuple[RunFolder, dict[str, object]], toy_encoder: Path) -> None:
    run, figures = aligned
    training = read_json(run.path("2_align", "training.json"))
    assert list(training) == ["objective", "validations", "steps", "stopped_early", "best_step", "prepared"]
    assert [at["step"] for at in training["validations"]] == [0, 10, 21]
    assert {"score", "kept", "province", "city", "district", "distance_km"} <= training["validations"][0].keys()
    assert [at["step"] for at in training["steps"]] == list(range(1, 22))
    assert {"loss", "meaning", "place", "name"} <= training["steps"][0].keys()
    assert training["best_step"] in (0, 10, 21)
    assert training["prepared"]["districts"] == 8
    card = run.path("2_align", "encoder/README.md").read_text(encoding="utf-8")
    before, after = figures["unaligned_district"], figures["held_out_district"]
    assert f"| neighbours in the same district (T@5) | {before:.3f} | {after:.3f} |" in card
    assert f"train {figures['trained_on']}" in card
    assert str(run.root) not in card
    assert str(toy_encoder) not in card


def test_two_runs_give_the_same_bytes(
    aligned: tuple[RunFolder, dict[str, object]], toy_encoder: Path, tmp_path: Path
) -> None:
    again = toy_run(tmp_path / "again")
    run_stage(ALIGN, aligning(toy_encoder), again)
    assert files(again) == files(aligned[0])


def test_a_killed_alignment_continues_to_the_same_bytes(
    aligned: tuple[RunFolder, dict[str, object]], toy_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run(tmp_path / "killed")
    calls: list[int] = []
    loss = Distil.loss

    def mortal(self: Distil, *arguments: object) -> object:
        calls.append(0)
        if len(calls) == 15:
            raise KeyboardInterrupt
        return loss(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Distil, "loss", mortal)
    with pytest.raises(KeyboardInterrupt):
        run_stage(ALIGN, aligning(toy_encoder), run)
    assert run.manifest("2_align") is None
    run_stage(ALIGN, aligning(toy_encoder), run)
    assert len(calls) == 15 + 11  # from the validation at step 10 on
    assert files(run) == files(aligned[0])


def test_a_reward_leaves_its_report(toy_encoder: Path, tmp_path: Path) -> None:
    run = toy_run(tmp_path / "run")
    small = {"reward": {"anchors": 40, "epochs": 3, "hidden": 16}, "pairs": {"per_anchor": 2}, "epochs": 1}
    align_items(aligning(toy_encoder, objective="gdpo", **small), run)
    assert read_json(run.path("2_align", "reward.json"))
    assert "reward" not in read_json(run.path("2_align", "training.json"))["prepared"]
    assert run.path("2_align", "reward/reward.safetensors").is_file()


@pytest.mark.parametrize("kind", ["content", "location"])
def test_half_prompts_cannot_be_aligned(kind: str, toy_encoder: Path, tmp_path: Path, own_cache: Path) -> None:
    run = toy_run(tmp_path / "run")
    config = RunConfig(align=align_config(toy_encoder, prompt={"kind": kind}))
    with pytest.raises(ConfigError, match=f"prompts of the kind '{kind}'") as caught:
        align_items(config, run)
    assert "align.prompt.kind: full" in str(caught.value.fix)
    assert not run.path("2_align").exists()  # said before anything is encoded
    assert not own_cache.exists()
