"""Embeddings on disk, one key a prompt, so that an interrupted or repeated run encodes only what is new.

Layout: ``CACHE/embeddings/<model fingerprint>/<shard>.safetensors``, one immutable shard a finished chunk with the
tensors ``key_N2`` (two 64-bit halves of each prompt's BLAKE2b hash), ``emb_ND`` (float32) and ``tokens_N`` (int32), and
a checksum of all three in its metadata. Shards are written atomically and named by their content, so any number of
processes may share a cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from lgsid.arrays import AnyArray, BoolArray, FloatArray, IntArray
from lgsid.artifact import atomic_path

KeyArray = npt.NDArray[np.uint64]

_TENSORS = ("key_N2", "emb_ND", "tokens_N")
_LEFTOVER_SECONDS = 24 * 3600.0
_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where lgsid keeps what can be made again: ``$LGSID_CACHE``, or ``~/.cache/lgsid``."""
    named = os.environ.get("LGSID_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "lgsid"


def prompt_keys(prompts: Sequence[str]) -> KeyArray:
    """128-bit hash of each prompt's UTF-8 bytes, shape (N, 2)."""
    digests = b"".join(hashlib.blake2b(prompt.encode(), digest_size=16).digest() for prompt in prompts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2).astype(np.uint64)


@dataclass(frozen=True)
class Known:
    """What a cache knows of N prompts.

    Attributes:
        emb: embeddings of shape (N, D), zero where unknown.
        tokens: token counts of shape (N,), zero where unknown.
        known: which are known, shape (N,).
    """

    emb: FloatArray
    tokens: IntArray
    known: BoolArray


class EmbeddingCache:
    """The cached embeddings of one encoder.

    A shard that cannot be read, fails its checksum or has another shape is reported in the log, removed, and its
    prompts count as not cached.

    Args:
        fingerprint: of the encoder; vectors of different models, precisions or poolings never meet.
        dim: length D of a vector.
        root: the cache folder, `cache_folder` by default.
    """

    def __init__(self, fingerprint: str, dim: int, root: Path | None = None) -> None:
        self.folder = (root or cache_folder()) / "embeddings" / fingerprint
        self.dim = dim

    def get(self, keys_N2: KeyArray) -> Known:
        """Look up many prompts at once."""
        count = len(keys_N2)
        found = Known(
            emb=np.zeros((count, self.dim), dtype=np.float32),
            tokens=np.zeros(count, dtype=np.int64),
            known=np.zeros(count, dtype=np.bool_),
        )
        for shard, rows_M, wanted_M in self._located(keys_N2):
            try:
                emb_SD, tokens_S = self._read(shard)
            except ValueError as error:
                self._discard(shard, error)
                continue
            found.emb[wanted_M] = emb_SD[rows_M]
            found.tokens[wanted_M] = tokens_S[rows_M]
            found.known[wanted_M] = True
        return found

    def put(self, keys_N2: KeyArray, emb_ND: FloatArray, tokens_N: IntArray) -> None:
        """Store a finished chunk as one shard, atomically: keys, embeddings and token counts."""
        from safetensors.numpy import save_file

        if len(keys_N2) == 0:
            return
        given: dict[str, AnyArray] = {"key_N2": keys_N2, "emb_ND": emb_ND, "tokens_N": tokens_N.astype(np.int32)}
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in given.items()}
        path = self.folder / f"{hashlib.sha256(tensors['key_N2'].tobytes()).hexdigest()[:32]}.safetensors"
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"checksum": _checksum(tensors)})

    def _located(self, keys_N2: KeyArray) -> list[tuple[Path, IntArray, IntArray]]:
        """For each shard that holds wanted keys: its path, the rows in it, and the positions in ``keys_N2``."""
        shards, index = self._index()
        wanted = pl.DataFrame({"high": keys_N2[:, 0], "low": keys_N2[:, 1]}).with_row_index("wanted")
        found = wanted.join(index, on=["high", "low"], how="inner", maintain_order="left")
        parts = found.partition_by("shard", as_dict=True, maintain_order=True)
        return [
            (shards[int(shard)], part["row"].to_numpy().astype(np.int64), part["wanted"].to_numpy().astype(np.int64))
            for (shard,), part in parts.items()
        ]

    def _index(self) -> tuple[list[Path], pl.DataFrame]:
        """Every stored key once, with its shard and row."""
        self._sweep()
        shards: list[Path] = []
        frames: list[pl.DataFrame] = []
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                keys = self._read_keys(path)
            except FileNotFoundError:  # another process found it corrupt and removed it
                continue
            except ValueError as error:
                self._discard(path, error)
                continue
            rows = np.arange(len(keys), dtype=np.uint32)
            shard = np.full(len(keys), len(shards), dtype=np.uint32)
            frames.append(pl.DataFrame({"high": keys[:, 0], "low": keys[:, 1], "shard": shard, "row": rows}))
            shards.append(path)
        schema = {"high": pl.UInt64, "low": pl.UInt64, "shard": pl.UInt32, "row": pl.UInt32}
        index = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
        return shards, index.unique(["high", "low"], keep="first", maintain_order=True)

    def _read_keys(self, path: Path) -> KeyArray:
        """Keys of a shard.

        Raises:
            ValueError: it is not a shard of this cache.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                keys: KeyArray = file.get_tensor("key_N2")
                shape = list(file.get_slice("emb_ND").get_shape())
        except SafetensorError as error:
            raise ValueError(f"not a readable safetensors file ({error})") from error
        if keys.ndim != 2 or keys.dtype != np.uint64 or shape != [len(keys), self.dim]:
            raise ValueError(f"keys {keys.shape} and embeddings {shape} do not fit, expected D = {self.dim}")
        return keys

    def _read(self, path: Path) -> tuple[FloatArray, IntArray]:
        """Embeddings and token counts of a shard, checked against its checksum.

        Raises:
            ValueError: it is corrupt, or gone.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
                checksum = (file.metadata() or {}).get("checksum")
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"not a readable safetensors file ({error})") from error
        if checksum != _checksum(tensors):
            raise ValueError("its checksum does not match its content")
        return tensors["emb_ND"], tensors["tokens_N"].astype(np.int64)

    def _discard(self, path: Path, error: ValueError) -> None:
        _log.warning("removed the corrupt cache file %s: %s; its prompts are encoded again", path, error)
        path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what killed processes left half written, once it is surely not being written any more."""
        for path in self.folder.glob(".*.tmp"):
            try:
                if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its process finished meanwhile
                continue


def _checksum(tensors: Mapping[str, AnyArray]) -> str:
    digest = hashlib.sha256()
    for name in _TENSORS:
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
