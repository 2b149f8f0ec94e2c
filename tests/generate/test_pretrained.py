"""Generators on disk: the same output after loading, and what is said of files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_rows import SIZES, ToyRows, codes, make_generator, small, toy_requests

from lgsid.config import GenerateConfig
from lgsid.errors import ArtifactError, ConfigError
from lgsid.generate.base import Generator, SequenceModel
from lgsid.generate.methods import GENERATORS, generator_class
from lgsid.generate.pretrained import load_generator, save_generator


def made(name: str, seed: int = 0, **changes: Any) -> SequenceModel:
    return make_generator(name, small(**changes), seed).eval()


def saved(folder: Path, name: str = "sasrec") -> Path:
    save_generator(made(name), codes(), SIZES, folder)
    return folder


def change(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("options", [{}, {"users": 3, "time": True, "distance": True}], ids=["plain", "told"])
@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_the_same_output_after_loading(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = made(name, **options)
    save_generator(model, codes(), SIZES, tmp_path)
    loaded = load_generator(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    assert not loaded.training
    rows, (requests, _) = ToyRows(3).all, toy_requests(4)
    assert torch.equal(loaded.loss(rows)[0], model.loss(rows)[0])
    if isinstance(model, Generator):
        assert isinstance(loaded, Generator)
        assert torch.equal(loaded.codes_NL, model.codes_NL)
        assert torch.equal(loaded.decoder(requests).start()[0], model.decoder(requests).start()[0])
    else:
        assert np.array_equal(loaded.top(requests, 5), model.top(requests, 5))  # type: ignore[operator]


@pytest.mark.parametrize("users", [0, 3])
def test_user_tokens_of_another_polars_are_refused(users: int, tmp_path: Path) -> None:
    save_generator(made("tiger", users=users), codes(), SIZES, tmp_path)
    change(tmp_path, id_hash="0123456789abcdef")
    if users:
        with pytest.raises(ArtifactError, match="another release of polars"):
            load_generator(tmp_path)
    else:
        assert load_generator(tmp_path).name == "tiger"


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_same_seed_same_parameters(name: str) -> None:
    states = [made(name, seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())
    assert not all(torch.equal(tensor, states[2][key]) for key, tensor in states[0].items())
    assert generator_class(name).name == name


def test_unknown_generator() -> None:
    with pytest.raises(ConfigError, match="no generator 'bert4rec'; known: tiger, onerec, sasrec"):
        generator_class("bert4rec")


@pytest.mark.parametrize("name", ["config.json", "generator.safetensors"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    (saved(tmp_path) / name).unlink()
    with pytest.raises(ArtifactError, match=f"no file .*{name}(?s:.*)lgsid generate RUN"):
        load_generator(tmp_path)


@pytest.mark.parametrize("values", [{"format": 1}, {"model": "bert4rec"}, {"model": None}])
def test_a_description_of_something_else(values: dict[str, Any], tmp_path: Path) -> None:
    change(saved(tmp_path), **values)
    with pytest.raises(ArtifactError, match=r"config\.json does not describe a generator of format 2"):
        load_generator(tmp_path)


def test_a_description_that_is_cut_short(tmp_path: Path) -> None:
    path = saved(tmp_path) / "config.json"
    whole = json.loads(path.read_text())
    del whole["sizes"]
    path.write_text(json.dumps(whole))
    with pytest.raises(ArtifactError, match=r"config\.json says nothing of sizes"):
        load_generator(tmp_path)
    path.write_text("{")
    with pytest.raises(ArtifactError, match=r"config\.json is not JSON"):
        load_generator(tmp_path)


@pytest.mark.parametrize("length", [0, 7, 200, -3])
def test_corrupt_tensors(length: int, tmp_path: Path) -> None:
    path = saved(tmp_path) / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArtifactError, match=r"generator\.safetensors cannot be read"):
        load_generator(tmp_path)


@pytest.mark.parametrize("values", [
    {"model": "tiger"},
    {"items": 5},
    {"sizes": [3, 4]},
    {"config": {"dim": 8, "heads": 2}},
    {"config": {"dim": 7, "heads": 2}},
    {"config": {"unheard": 1}},
])  # fmt: skip
def test_files_that_do_not_fit_each_other(values: dict[str, Any], tmp_path: Path) -> None:
    change(saved(tmp_path), **values)
    with pytest.raises(ArtifactError, match=r"generator\.safetensors cannot be read, or does not fit .*config\.json"):
        load_generator(tmp_path)


def test_tensors_of_another_model(tmp_path: Path) -> None:
    path = saved(tmp_path) / "generator.safetensors"
    tensors = load_file(path)
    tensors.pop("codes_NL")
    save_file(tensors, path)
    with pytest.raises(ArtifactError, match="codes_NL"):
        load_generator(tmp_path)


def test_what_is_saved_is_no_more_than_is_needed(tmp_path: Path) -> None:
    """Buffers that follow from the SIDs or the training data are not there twice."""
    tensors = load_file(saved(tmp_path, "onerec") / "generator.safetensors")
    parameters = {f"model.{name}" for name, _ in made("onerec").named_parameters()}
    assert set(tensors) == parameters | {"codes_NL", "xyz_N3"}
    assert isinstance(load_generator(tmp_path).config, GenerateConfig)
