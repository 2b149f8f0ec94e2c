"""Mapped reading and writing of safetensors files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lgsid.errors import ArtifactError
from lgsid.mapped import map_tensor, write_tensors


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "small_I": rng.integers(0, 9, 5).astype(np.int32),
        "wide_ID": rng.normal(size=(3, 2)),
        "time_I": rng.integers(0, 9, 7),
        "emb_ND": rng.normal(size=(3, 4)).astype(np.float32),
        "none_N": np.zeros((0, 3), dtype=np.int32),
    }


def test_what_is_written_can_be_mapped_and_read_by_the_library(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import load_file

    write_tensors(tmp_path / "t.safetensors", tensors)
    loaded = load_file(tmp_path / "t.safetensors")
    assert set(loaded) == set(tensors)
    for name, expected in tensors.items():
        mapped = map_tensor(tmp_path / "t.safetensors", name, expected.dtype)
        for found in (loaded[name], mapped):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
        assert mapped.size == 0 or (isinstance(mapped, np.memmap) and not mapped.flags.writeable)


def test_equal_tensors_are_equal_files(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    for name in "ab":
        write_tensors(tmp_path / name, tensors)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_cannot_be_mapped_is_said_with_its_remedy(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    path = tmp_path / "t.safetensors"
    write_tensors(path, tensors)
    with pytest.raises(ArtifactError, match=r"no tensor other_N[\s\S]*fix: lgsid rank RUN"):
        map_tensor(path, "other_N", np.int32, "lgsid rank RUN")
    with pytest.raises(ArtifactError, match="emb_ND holds F32, expected F64"):
        map_tensor(path, "emb_ND", np.float64)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ArtifactError, match="cannot be read"):
        map_tensor(path, "small_I", np.int32)
    for content in (b"", b"\x05\0\0\0\0\0\0\0[1,2]", b"not a header at all", b"\xff" * 20):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match="cannot be read"):
            map_tensor(path, "small_I", np.int32)
    with pytest.raises(ArtifactError, match="cannot be read"):
        map_tensor(tmp_path / "missing", "small_I", np.int32)
