"""The embedding cache: exact, shared, and never trusted blindly; an interrupted run ends with the same bytes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lgsid.align.cache import EmbeddingCache, cache_folder, prompt_keys
from lgsid.align.embed import embed
from lgsid.align.encoder import Encoder
from lgsid.config import EncoderConfig

TEXTS = [f"shop {n} main st" for n in range(200)]


def vectors(count: int, dim: int = 4) -> np.ndarray:
    return np.random.default_rng(count).normal(size=(count, dim)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    """An empty cache of 4-dimensional vectors."""
    return EmbeddingCache("some-model", 4, tmp_path / "root")


def store(cache: EmbeddingCache, texts: list[str], emb: np.ndarray) -> None:
    """Each text with its length as its token count."""
    cache.put(prompt_keys(texts), emb, np.array([len(text) for text in texts], dtype=np.int64))


def only_shard(cache: EmbeddingCache) -> Path:
    (path,) = cache.folder.glob("*.safetensors")
    return path


def test_the_folder_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LGSID_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    assert EmbeddingCache("f", 4).folder == tmp_path / "here" / "embeddings" / "f"
    monkeypatch.delenv("LGSID_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lgsid"


def test_keys_are_the_documented_hash() -> None:
    import hashlib

    digest = hashlib.blake2b("Café".encode(), digest_size=16).digest()
    assert prompt_keys(["Café"]).astype("<u8").tobytes() == digest
    assert prompt_keys([]).shape == (0, 2)


def test_round_trip_over_several_shards_in_any_order(cache: EmbeddingCache) -> None:
    emb = vectors(200)
    for start in range(0, 150, 50):
        store(cache, TEXTS[start : start + 50], emb[start : start + 50])
    order = np.random.default_rng(0).permutation(200)
    answer = cache.get(prompt_keys([TEXTS[n] for n in order]))
    found, known = answer.emb, answer.known
    assert answer.tokens.tolist() == [len(TEXTS[n]) if n < 150 else 0 for n in order]
    assert np.array_equal(known, order < 150)
    assert np.array_equal(found[known], emb[order[known]])
    assert not found[~known].any()


def test_a_key_asked_twice_and_stored_twice(cache: EmbeddingCache) -> None:
    emb = vectors(2)
    store(cache, ["a", "b"], emb)
    store(cache, ["b", "a"], emb[::-1])
    answer = cache.get(prompt_keys(["b", "b", "a"]))
    assert answer.known.all()
    assert np.array_equal(answer.emb, emb[[1, 1, 0]])


def test_nothing_to_store_stores_nothing(cache: EmbeddingCache) -> None:
    store(cache, [], vectors(0))
    assert not cache.folder.exists()
    assert cache.get(prompt_keys(["a"])).known.tolist() == [False]


def test_encoders_do_not_see_each_other(cache: EmbeddingCache, tmp_path: Path) -> None:
    store(cache, ["a"], vectors(1))
    assert not EmbeddingCache("other-model", 4, tmp_path / "root").get(prompt_keys(["a"])).known.any()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other(path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"key_N2": np.zeros((3, 2), dtype=np.uint64), "emb_ND": vectors(3, dim=7), "tokens_N": np.zeros(3)}, path)


@pytest.mark.parametrize("damage", [truncate, flip, empty, other])
def test_a_damaged_shard_is_reported_removed_and_made_again(
    cache: EmbeddingCache, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    emb = vectors(3)
    store(cache, ["a", "b", "c"], emb)
    shard = only_shard(cache)
    damage(shard)  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        known = cache.get(prompt_keys(["a", "b", "c"])).known
    assert not known.any()
    assert not shard.exists()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(shard) in caplog.text
    store(cache, ["a", "b", "c"], emb)
    assert np.array_equal(cache.get(prompt_keys(["a", "b", "c"])).emb, emb)


def test_a_shard_of_another_layout_is_no_shard(cache: EmbeddingCache, caplog: pytest.LogCaptureFixture) -> None:
    from safetensors.numpy import save_file

    cache.folder.mkdir(parents=True)
    save_file({"something": np.zeros(3)}, cache.folder / "x.safetensors")
    assert not cache.get(prompt_keys(["a"])).known.any()
    assert "not a readable safetensors file" in caplog.text


def test_half_written_files_are_ignored_and_swept_when_old(cache: EmbeddingCache) -> None:
    store(cache, ["a"], vectors(1))
    old, new = cache.folder / ".x.safetensors.1.tmp", cache.folder / ".y.safetensors.2.tmp"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert cache.get(prompt_keys(["a"])).known.all()
    assert not old.exists()
    assert new.exists()


@pytest.fixture(scope="module")
def encoder(bert_folder: Path) -> Encoder:
    """A tiny encoder."""
    return Encoder.load(EncoderConfig(model=str(bert_folder), precision="fp32", device="cpu"))


def test_only_new_prompts_are_encoded_and_the_bits_are_those_of_a_cold_run(encoder: Encoder, tmp_path: Path) -> None:
    warm, cold = (EmbeddingCache(encoder.fingerprint, encoder.dim, tmp_path / name) for name in ("warm", "cold"))
    first = embed(encoder, TEXTS[:120:2], warm)
    second = embed(encoder, TEXTS, warm)
    third = embed(encoder, TEXTS[::-1], warm)
    expected = embed(encoder, TEXTS, cold)
    assert (first.encoded, second.encoded, third.encoded, expected.encoded) == (60, 140, 0, 200)
    assert np.array_equal(second.emb, expected.emb)
    assert np.array_equal(third.emb, expected.emb[::-1])
    assert np.array_equal(encoder.encode(TEXTS), expected.emb)


def test_equal_prompts_are_encoded_once(encoder: Encoder, tmp_path: Path) -> None:
    result = embed(encoder, ["bar", "shop", "bar"], EmbeddingCache(encoder.fingerprint, encoder.dim, tmp_path))
    assert (result.distinct, result.encoded) == (2, 2)
    assert np.array_equal(result.emb[0], result.emb[2])
    assert result.mean_tokens == 3.0


def test_finished_work_is_stored_along_the_way(encoder: Encoder, tmp_path: Path) -> None:
    cache = EmbeddingCache(encoder.fingerprint, encoder.dim, tmp_path)
    texts = [" ".join(["bar"] * (n % 20 + 1)) + f" {n}" for n in range(300)]
    embed(encoder, texts, cache, flush_seconds=0.0)
    assert len(list(cache.folder.glob("*.safetensors"))) > 5


KILLED = """
import sys, time
from pathlib import Path
from lgsid.align.cache import EmbeddingCache
from lgsid.align.embed import embed
from lgsid.align.encoder import Encoder
from lgsid.config import EncoderConfig

class Slow(Encoder):
    def _encode_batch(self, *arguments):
        time.sleep(0.2)
        return super()._encode_batch(*arguments)

encoder = Slow.load(EncoderConfig(model=sys.argv[1], precision="fp32", device="cpu"))
texts = [" ".join(["bar"] * (n % 30 + 1)) + f" {n}" for n in range(600)]
embed(encoder, texts, EmbeddingCache(encoder.fingerprint, encoder.dim, Path(sys.argv[2])), flush_seconds=0.0)
"""


def test_a_killed_run_goes_on_where_it_stopped(encoder: Encoder, bert_folder: Path, tmp_path: Path) -> None:
    killed = EmbeddingCache(encoder.fingerprint, encoder.dim, tmp_path / "killed")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(bert_folder), str(tmp_path / "killed")])
    try:
        while process.poll() is None and len(list(killed.folder.glob("*.safetensors"))) < 3:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    texts = [" ".join(["bar"] * (n % 30 + 1)) + f" {n}" for n in range(600)]
    resumed = embed(encoder, texts, killed)
    fresh = embed(encoder, texts, EmbeddingCache(encoder.fingerprint, encoder.dim, tmp_path / "fresh"))
    assert 0 < resumed.encoded < fresh.encoded == 600
    assert resumed.emb.tobytes() == fresh.emb.tobytes()
