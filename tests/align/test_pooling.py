"""Pooling: what model folders say, in old and new words, and the arithmetic on a known answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import write_sentence_files

from lgsid.align.pooling import load_dense, pool_states, read_layout
from lgsid.errors import EncoderError

HIDDEN_BTD = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [5.0, 5.0], [99.0, 99.0]]])
RIGHT_BT = torch.tensor([[1, 1, 1, 0]])
KNOWN: dict[str, list[float]] = {
    "cls": [1.0, 8.0],
    "lasttoken": [5.0, 5.0],
    "max": [5.0, 8.0],
    "mean": [3.0, 5.0],
    "mean_sqrt_len_tokens": [9 / 3**0.5, 15 / 3**0.5],
    "weightedmean": [(1 + 6 + 15) / 6, (8 + 4 + 15) / 6],
}


@pytest.mark.parametrize("pooling", list(KNOWN))
@pytest.mark.parametrize("side", ["right", "left"])
def test_known_answers_with_padding_on_either_side(pooling: Any, side: str) -> None:
    hidden, mask = HIDDEN_BTD, RIGHT_BT
    if side == "left":
        hidden, mask = hidden.roll(1, dims=1), mask.roll(1, dims=1)
    assert torch.allclose(pool_states(hidden, mask, (pooling,)), torch.tensor([KNOWN[pooling]]))


def test_several_poolings_are_concatenated_in_float32() -> None:
    pooled = pool_states(HIDDEN_BTD.bfloat16(), RIGHT_BT, ("cls", "mean"))
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[1.0, 8.0, 3.0, 5.0]]


def test_a_plain_encoder_is_averaged_and_a_plain_decoder_gives_its_last_token(
    bert_folder: Path, llama_folder: Path
) -> None:
    assert read_layout(bert_folder).poolings == ("mean",)
    assert read_layout(llama_folder).poolings == ("lasttoken",)


@pytest.fixture
def folder(bert_folder: Path, tmp_path: Path) -> Path:
    """A model folder that a test may change."""
    return Path(shutil.copytree(bert_folder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"word_embedding_dimension": 32, "pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}, ("lasttoken",)),
        ({"pooling_mode_cls_token": False}, ("mean",)),
        ({"embedding_dimension": 32, "pooling_mode": "max"}, ("max",)),
        ({"pooling_mode": ["mean", "max"], "include_prompt": True}, ("mean", "max")),
    ],
)
def test_old_and_new_key_formats(folder: Path, settings: dict[str, Any], expected: tuple[str, ...]) -> None:
    layout = read_layout(write_sentence_files(folder, settings))
    assert layout.poolings == expected
    assert (layout.max_tokens, layout.lower_case, layout.prefix) == (16, True, "")


def test_the_default_prompt_is_read(folder: Path) -> None:
    write_sentence_files(folder, {}, prompts={"query": "find: ", "document": ""}, default_prompt_name="query")
    assert read_layout(folder).prefix == "find: "
    write_sentence_files(folder, {}, prompts={"query": "find: "}, default_prompt_name=None)
    assert read_layout(folder).prefix == ""


@pytest.mark.parametrize(
    ("pooling", "settings", "message"),
    [
        ({"pooling_mode": "median"}, {}, r"pooling \['median'\] is not known"),
        ({"pooling_mode": "mean", "include_prompt": False}, {}, "leave out the prompt"),
        ({}, {"prompts": {}, "default_prompt_name": "query"}, "default prompt 'query' is not among"),
    ],
)
def test_what_is_not_supported_says_so(
    folder: Path, pooling: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    write_sentence_files(folder, pooling, **settings)
    with pytest.raises(EncoderError, match=message):
        read_layout(folder)


@pytest.mark.parametrize("kinds", [["Transformer", "LSTM"], ["WordEmbeddings"], ["Transformer", "Dense"], []])
def test_unsupported_modules_are_named(folder: Path, kinds: list[str]) -> None:
    write_sentence_files(folder, {})
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(EncoderError, match=r"not supported|expected a Transformer"):
        read_layout(folder)


def test_broken_files_are_errors(folder: Path) -> None:
    write_sentence_files(folder, {})
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(EncoderError, match="incomplete"):
        read_layout(folder)
    (folder / "modules.json").write_text("{}")
    with pytest.raises(EncoderError, match="not a list of modules"):
        read_layout(folder)


def write_dense(folder: Path, **settings: Any) -> Path:
    """A dense layer that adds its two inputs."""
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"in_features": 2, "out_features": 1, "bias": True, **settings}))
    tensors = {"linear.weight": torch.ones(1, 2), "linear.bias": torch.full((1,), 0.5)}
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_dense_layers_are_applied(tmp_path: Path) -> None:
    plain = write_dense(tmp_path / "a", activation_function="torch.nn.modules.linear.Identity")
    tanh = write_dense(tmp_path / "b")
    x_BD = torch.tensor([[1.0, 2.0]])
    with torch.inference_mode():
        values = [layer(x_BD).item() for layer in load_dense((plain, tanh))]
    assert [round(value, 4) for value in values] == [3.5, 0.9982]


@pytest.mark.parametrize("settings", [{"activation_function": "os.system"}, {"use_residual": True}])
def test_dense_layers_that_are_not_supported(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(EncoderError, match=r"is not one of|with a residual"):
        list(load_dense((write_dense(tmp_path / "a", **settings),)))
