"""Encode through the cache: only prompts that no earlier run has encoded cost anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lgsid.align.cache import EmbeddingCache, prompt_keys
from lgsid.align.encoder import Encoder
from lgsid.arrays import FloatArray, IntArray
from lgsid.progress import progress

FLUSH_SECONDS = 20.0
"""Finished embeddings are stored this often: what a kill can cost."""
FLUSH_BYTES = 64 * 2**20
"""… and whenever they reach this size, so that a fast GPU writes files that are handled easily."""


@dataclass(frozen=True)
class Embedded:
    """Embeddings of N prompts and how they came about.

    Attributes:
        emb: unit vectors of shape (N, D) in the order of the prompts, float32.
        distinct: distinct prompts.
        encoded: of these, encoded now; the others came from the cache.
        truncated: distinct prompts that are cut at the encoder's limit.
        mean_tokens: mean token count of the distinct prompts before cutting (0 if there are none).
        seconds: time spent encoding.
    """

    emb: FloatArray
    distinct: int
    encoded: int
    truncated: int
    mean_tokens: float
    seconds: float


def embed(
    encoder: Encoder, prompts: Sequence[str], cache: EmbeddingCache, flush_seconds: float = FLUSH_SECONDS
) -> Embedded:
    """Embeddings of prompts, from the cache where they are known, else encoded and stored.

    The result has the same bits whatever the cache held, so a killed run continues where it last stored.

    Args:
        encoder: used only for prompts that are not cached.
        prompts: N texts.
        cache: of this encoder's fingerprint.
        flush_seconds: how often finished work is stored.
    """
    distinct: dict[str, int] = {}
    inverse_N = [distinct.setdefault(prompt, len(distinct)) for prompt in prompts]
    texts = list(distinct)
    keys = prompt_keys(texts)
    found = cache.get(keys)
    emb, tokens = found.emb, found.tokens
    rows = np.flatnonzero(~found.known)
    started = time.perf_counter()
    with progress("encoding", float(len(rows)), "prompts") as advance:
        pending = _Pending(flush_seconds)
        for batch in encoder.batches([texts[row] for row in rows]):
            where = rows[batch.rows]
            emb[where] = batch.emb
            tokens[where] = batch.tokens
            advance(len(where))
            if pending.add(where, batch.emb.nbytes):
                cache.put(keys[pending.rows], emb[pending.rows], tokens[pending.rows])
                pending.clear()
        cache.put(keys[pending.rows], emb[pending.rows], tokens[pending.rows])
    return Embedded(
        emb=emb[inverse_N],
        distinct=len(texts),
        encoded=len(rows),
        truncated=int((tokens > encoder.max_tokens).sum()),
        mean_tokens=float(tokens.mean()) if len(tokens) else 0.0,
        seconds=time.perf_counter() - started,
    )


class _Pending:
    """Rows that are encoded but not stored yet."""

    def __init__(self, flush_seconds: float) -> None:
        self._flush_seconds = flush_seconds
        self.clear()

    def clear(self) -> None:
        self._batches: list[IntArray] = [np.empty(0, dtype=np.int64)]
        self._bytes = 0
        self._since = time.monotonic()

    def add(self, rows: IntArray, size: int) -> bool:
        """Keep a finished batch of ``size`` bytes in mind; True when it is time to store."""
        self._batches.append(rows)
        self._bytes += size
        return self._bytes >= FLUSH_BYTES or time.monotonic() - self._since >= self._flush_seconds

    @property
    def rows(self) -> IntArray:
        """All of them, in the order they were finished."""
        return np.concatenate(self._batches)
