"""Stage 2: from checked items to prompts and embeddings."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.prompts import location_text, prompts
from lgsid.arrays import FloatArray
from lgsid.artifact import RunFolder, atomic_path
from lgsid.config import RunConfig

FOLDER = "2_align"
PROMPTS = "prompts.parquet"
EMBEDDINGS = "embeddings.safetensors"
_log = logging.getLogger(__name__)


def embed_items(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Write one prompt and one embedding an item, in the order of ``1_data/items.parquet``.

    Writes ``prompts.parquet`` (item_id, prompt) and ``embeddings.safetensors`` (``emb_ND`` float32, unit length).

    Returns:
        key figures: counts, speed, precision and device.

    Raises:
        ArtifactError: the data stage has not run.
        EncoderError, MissingDependencyError: see `Encoder.load`.
    """
    from lgsid.align.cache import EmbeddingCache
    from lgsid.align.embed import embed
    from lgsid.align.encoder import Encoder

    items = pl.read_parquet(run.require("1_data", "items.parquet", "lgsid run CONFIG, which runs the stages in order"))
    texts = prompts(items, config.align.prompt)
    encoder = Encoder.load(config.align.encoder)
    result = embed(encoder, texts.to_list(), EmbeddingCache(encoder.fingerprint, encoder.dim))
    if result.truncated:
        _log.warning(
            "%d of %d prompts are longer than the encoder's %d tokens and were cut: their location may be lost; "
            "fix: lower align.prompt.max_description_chars",
            result.truncated,
            result.distinct,
            encoder.max_tokens,
        )
    with atomic_path(run.path(FOLDER, PROMPTS)) as path:
        items.select("item_id", texts.alias("prompt")).write_parquet(path)
    name = Path(encoder.name).name
    made_by = {"encoder": name, "fingerprint": encoder.fingerprint, "prompt": config.align.prompt.kind}
    write_embeddings(run.path(FOLDER, EMBEDDINGS), result.emb, made_by)
    places = location_text(items, config.align.prompt)
    return {
        "items": len(items),
        "distinct_prompts": result.distinct,
        "without_location": int((places == "").sum()),
        "dim": encoder.dim,
        "encoder": encoder.name,
        "encoded": result.encoded,
        "from_cache": result.distinct - result.encoded,
        "truncated": result.truncated,
        "mean_tokens": round(result.mean_tokens, 1),
        "prompts_per_second": round(result.encoded / result.seconds, 1) if result.encoded else None,
        "precision": encoder.precision,
        "device": encoder.device.type,
    }


def write_embeddings(path: Path, emb_ND: FloatArray, metadata: Mapping[str, str]) -> None:
    """Write ``emb_ND`` atomically as safetensors, with metadata on what made it.

    The header is written here because the safetensors library puts metadata in another order every time, and equal
    embeddings must be equal files.
    """
    emb = np.ascontiguousarray(emb_ND, dtype="<f4")
    header = json.dumps({
        "__metadata__": dict(metadata),
        "emb_ND": {"dtype": "F32", "shape": list(emb.shape), "data_offsets": [0, emb.nbytes]},
    }).encode()  # fmt: skip
    header += b" " * (-len(header) % 8)  # the data starts on a multiple of 8 bytes
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(emb.data)
