"""The artefact: the policy's vectors in sentence-transformers, in peft and here; whole, the same bytes, no secrets."""

from __future__ import annotations

import json
import shutil
from importlib import util
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import write_bert, write_sentence_files
from tiny_policies import TEXTS, disturbed, load, write_gpt2

from lgsid.align.aligned import save_aligned
from lgsid.align.encoder import Encoder
from lgsid.align.models import find_model
from lgsid.align.policy import Policy
from lgsid.align.pooling import Pooling
from lgsid.arrays import FloatArray
from lgsid.config import LoraConfig
from lgsid.errors import ArtifactError

PAPER = LoraConfig(rank=8, alpha=16.0, modules="key_value")

CARD = "# Aligned\n\nKnows where things are."
PROMPTS = ["Shop: Pine Cone. Diner Location: De Forest, WI 53532", "a", "Café ÉTÉ", "word " * 300, "Bar. Reno, NV"]


def policy_of(folder: Path | str, head: bool = True, precision: str = "fp32", **lora: Any) -> Policy:
    """A policy that differs from its encoder."""
    encoder = load(folder, precision)
    generator = np.random.default_rng(0)
    start = np.eye(encoder.dim) + generator.normal(scale=0.5 / encoder.dim**0.5, size=(encoder.dim, encoder.dim))
    return disturbed(Policy(encoder, PAPER.model_copy(update=lora), start.astype(np.float32) if head else None, seed=0))


def by_sentence_transformers(folder: Path, texts: list[str]) -> FloatArray:
    """What others get from the folder."""
    if util.find_spec("sentence_transformers") is None:
        pytest.skip("the comparison needs the package sentence-transformers")
    from sentence_transformers import SentenceTransformer

    vectors: FloatArray = SentenceTransformer(str(folder), device="cpu").encode(texts, convert_to_numpy=True)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    return vectors


def difference(a: FloatArray, b: FloatArray) -> float:
    """Largest cosine difference."""
    assert a.shape == b.shape
    return float((1 - (a.astype(np.float64) * b).sum(axis=1)).max())


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(bert_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(bert_folder, tmp_path / "model"))


@pytest.mark.parametrize("modules", ["key_value", "all"])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_every_reader_gets_the_policys_vectors(
    name: str, head: bool, modules: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    policy = policy_of(request.getfixturevalue(f"{name}_folder"), head, modules=modules)
    texts = [text for text in TEXTS if text]
    expected = policy.encode(texts)
    assert difference(expected, policy.encoder.encode(texts)) > 1e-2
    save_aligned(tmp_path / "aligned", policy, CARD)
    assert difference(load(tmp_path / "aligned").encode(texts), expected) < 1e-5
    assert difference(by_sentence_transformers(tmp_path / "aligned", texts), expected) < 1e-5


def test_the_default_encoder_end_to_end(tmp_path: Path) -> None:
    policy = policy_of("minilm", rank=2)
    save_aligned(tmp_path / "aligned", policy, CARD)
    aligned = load(tmp_path / "aligned")
    assert aligned.max_tokens == policy.encoder.max_tokens == 256
    assert aligned.fingerprint != policy.encoder.fingerprint
    expected = policy.encode(PROMPTS)
    assert difference(expected, policy.encoder.encode(PROMPTS)) > 1e-2
    assert difference(aligned.encode(PROMPTS), expected) < 1e-5
    assert difference(by_sentence_transformers(tmp_path / "aligned", PROMPTS), expected) < 1e-5


def test_updates_of_a_bf16_policy_are_merged_into_float32_weights(bert_folder: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        policy = policy_of(bert_folder, precision=precision)
        with torch.no_grad():
            for place, parameter in enumerate(policy.named().values()):
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().reshape(parameter.shape) * (place + 1))
        save_aligned(tmp_path / precision, policy, CARD)
    assert bytes_of(tmp_path / "fp32") == bytes_of(tmp_path / "bf16")
    assert {weight.dtype for weight in load_file(tmp_path / "bf16" / "model.safetensors").values()} == {torch.float32}


def test_merging_is_the_formula(bert_folder: Path, tmp_path: Path) -> None:
    policy = policy_of(bert_folder, rank=4, alpha=6.0)
    save_aligned(tmp_path / "aligned", policy, CARD)
    before, after = load_file(bert_folder / "model.safetensors"), load_file(tmp_path / "aligned" / "model.safetensors")
    assert before.keys() == after.keys()
    adapted = {name.rpartition(".")[0] for name in policy.named() if name != "head"}
    assert len(adapted) == 4
    for name, weight in before.items():
        place, _, kind = name.rpartition(".")
        if kind == "weight" and place in adapted:
            a, b = (policy.named()[f"{place}.lora_{letter}"].detach() for letter in "AB")
            assert torch.allclose(after[name], weight + b @ a * 1.5, atol=1e-6)
        else:
            assert torch.equal(after[name], weight)


@pytest.mark.parametrize("pooling", [*((name,) for name in get_args(Pooling)), ("max", "mean"), ("mean", "cls")])
def test_every_pooling_survives(pooling: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    write_sentence_files(folder, {"pooling_mode": list(pooling)})
    policy = policy_of(folder, head=len(pooling) == 1)
    save_aligned(tmp_path / "aligned", policy, CARD)
    texts = [text for text in TEXTS[::6] if text]
    expected = policy.encode(texts)
    assert load(tmp_path / "aligned").layout.poolings == pooling
    assert difference(load(tmp_path / "aligned").encode(texts), expected) < 1e-5
    assert difference(by_sentence_transformers(tmp_path / "aligned", texts), expected) < 1e-5


def test_prompt_length_limit_and_lower_case_survive(folder: Path, tmp_path: Path) -> None:
    write_sentence_files(
        folder, {"pooling_mode": "mean"}, prompts={"d": "pine cone "}, default_prompt_name="d"
    )  # 16 tokens, lower-cased
    policy = policy_of(folder)
    save_aligned(tmp_path / "aligned", policy, CARD)
    texts = ["SHOP Bar", TEXTS[18], "location main"]
    aligned = load(tmp_path / "aligned")
    assert (aligned.layout.prefix, aligned.layout.lower_case, aligned.max_tokens) == ("pine cone ", True, 16)
    assert difference(aligned.encode(texts), policy.encode(texts)) < 1e-5
    assert difference(by_sentence_transformers(tmp_path / "aligned", texts), policy.encode(texts)) < 1e-5
    unlike = load(folder.parent / "aligned").encode(["bar"]) @ aligned.encode(["shop bar"]).T
    assert unlike.item() < 0.999


def test_the_encoders_own_dense_layers_stand_before_the_head(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    write_sentence_files(folder, {"pooling_mode": "mean"})
    entries = json.loads((folder / "modules.json").read_text())
    entries.insert(2, {"idx": 2, "name": "x", "path": "9_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "9_Dense").mkdir()
    (folder / "9_Dense" / "config.json").write_text(json.dumps({"in_features": 32, "out_features": 12, "bias": True}))
    weights = {"linear.weight": torch.randn(12, 32, generator=torch.Generator().manual_seed(0))}
    save_file(weights | {"linear.bias": torch.linspace(-1, 1, 12)}, folder / "9_Dense" / "model.safetensors")
    policy = policy_of(folder)
    save_aligned(tmp_path / "aligned", policy, CARD)
    assert policy.encoder.dim == 12
    kinds = [entry["path"] for entry in json.loads((tmp_path / "aligned" / "modules.json").read_text())]
    assert kinds == ["", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]
    assert difference(load(tmp_path / "aligned").encode(TEXTS), policy.encode(TEXTS)) < 1e-5
    assert difference(by_sentence_transformers(tmp_path / "aligned", TEXTS), policy.encode(TEXTS)) < 1e-5


def test_conv1d_weights_are_merged_the_right_way_round(tmp_path: Path) -> None:
    policy = policy_of(write_gpt2(tmp_path / "gpt2"), modules="all")
    save_aligned(tmp_path / "aligned", policy, CARD)
    texts = [text for text in TEXTS if text]
    assert difference(load(tmp_path / "aligned").encode(texts), policy.encode(texts)) < 1e-5
    assert difference(by_sentence_transformers(tmp_path / "aligned", texts), policy.encode(texts)) < 1e-5


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_opens_the_adapter(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    base_folder = request.getfixturevalue(f"{name}_folder")
    policy = policy_of(base_folder, modules="attention")
    save_aligned(tmp_path / "aligned", policy, CARD)
    base = AutoModel.from_pretrained(base_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path / "aligned" / "adapter").eval()
    ids = torch.tensor([[2, 4, 5, 6, 7, 3]])
    with torch.inference_mode():
        theirs, plain = model(input_ids=ids).last_hidden_state, policy.encoder.model(input_ids=ids).last_hidden_state
        ours = policy._aligned.model(input_ids=ids).last_hidden_state
    assert torch.allclose(theirs, ours, atol=1e-6)
    assert not torch.allclose(theirs, plain, atol=1e-2)
    assert policy.head is not None
    assert torch.equal(load_file(tmp_path / "aligned" / "adapter" / "head.safetensors")["head_DD"], policy.head.weight)


def test_equal_weights_are_equal_bytes_and_name_no_path(bert_folder: Path, tmp_path: Path) -> None:
    policy = policy_of(bert_folder)
    save_aligned(tmp_path / "a", policy, CARD)
    policy.encode(TEXTS)
    policy.encoder.encode([" ".join(TEXTS)])  # cuts, which a tokenizer remembers
    state = torch.get_rng_state()
    save_aligned(tmp_path / "deeper" / "b", policy, CARD)
    assert torch.equal(torch.get_rng_state(), state)
    ours = bytes_of(tmp_path / "a")
    assert ours == bytes_of(tmp_path / "deeper" / "b")
    assert not [name for name, content in ours.items() if str(tmp_path.parent).encode() in content]
    assert len({path.stat().st_mode for path in (tmp_path / "a").rglob("*") if path.is_file()}) == 1
    targets = json.loads(ours["adapter/adapter_config.json"])["target_modules"]
    assert targets == [f"encoder.layer.{block}.attention.self.{part}" for block in (0, 1) for part in ("key", "value")]


def test_weights_that_a_base_model_lacks_are_not_invented(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    base = write_bert(tmp_path / "base")
    weights = load_file(base / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if not name.startswith("pooler")}
    assert len(kept) < len(weights)
    save_file(kept, base / "model.safetensors", metadata={"format": "pt"})
    save_aligned(tmp_path / "aligned", policy_of(base), CARD)
    assert load_file(tmp_path / "aligned" / "model.safetensors").keys() == kept.keys()


def test_the_model_card(bert_folder: Path, tmp_path: Path) -> None:
    import yaml

    save_aligned(tmp_path / "aligned", policy_of(bert_folder), CARD)
    _, matter, text = (tmp_path / "aligned" / "README.md").read_text(encoding="utf-8").split("---\n")
    assert yaml.safe_load(matter)["library_name"] == "sentence-transformers"
    assert yaml.safe_load(matter)["base_model"] == bert_folder.name
    assert text.strip() == CARD


def test_an_older_artefact_is_replaced_whole_or_not_at_all(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "aligned"
    save_aligned(target, policy_of(bert_folder), CARD)
    save_aligned(target, policy_of(bert_folder, head=False), CARD)
    assert not (target / "2_Dense").exists()
    before = bytes_of(target)

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("lgsid.align.aligned._write_adapter", full)
    with pytest.raises(OSError, match="no space"):
        save_aligned(target, policy_of(bert_folder), CARD)
    assert bytes_of(target) == before
    assert [path.name for path in tmp_path.iterdir() if "aligned" in path.name] == ["aligned"]


def test_a_folder_of_something_else_is_left_alone(bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(ArtifactError, match="something else than an aligned encoder"):
        save_aligned(tmp_path, policy_of(bert_folder), CARD)
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_an_artefact_can_be_aligned_again(bert_folder: Path, tmp_path: Path) -> None:
    save_aligned(tmp_path / "once", policy_of(bert_folder), CARD)
    again = policy_of(tmp_path / "once")
    save_aligned(tmp_path / "twice", again, CARD)
    assert isinstance(again.encoder, Encoder)
    assert find_model(str(tmp_path / "twice")) == tmp_path / "twice"
    assert difference(load(tmp_path / "twice").encode(TEXTS), again.encode(TEXTS)) < 1e-5
