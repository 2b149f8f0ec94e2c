"""Random streams of the simulated world: one per purpose and block, so that no part's draws shift another's."""

from __future__ import annotations

import zlib

import numpy as np


def stream(seed: int, purpose: str, *block: int) -> np.random.Generator:
    """The generator of one purpose ("shops", "sessions" …) and block (a day, a chunk of rows)."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())], spawn_key=block))
