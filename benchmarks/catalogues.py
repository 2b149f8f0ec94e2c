"""The runs of real catalogues that experiments start from, and what all of their cells have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lgsid.artifact import RunFolder, atomic_path, peak_memory_mib, read_json, versions
from lgsid.config import RunConfig, load_run_config
from lgsid.errors import LgsidError

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDINGS = {"unaligned": "seed0", "aligned": "aligned0"}
"""Endings of the runs' names: with seed 0, the encoder as it is, and aligned."""


def run_of(catalogue: str, embedding: str) -> RunFolder:
    """The run that a catalogue's vectors come from."""
    return RunFolder(REPOSITORY / "runs" / f"{catalogue}-{EMBEDDINGS[embedding]}")


def config_of(catalogue: str, overrides: list[str]) -> RunConfig:
    """The configuration of a catalogue, some keys changed."""
    return load_run_config(REPOSITORY / "configs" / f"{catalogue}.yaml", overrides)


def data_of(catalogue: str) -> RunFolder:
    """The unaligned run of a catalogue, its data stage made where it is missing."""
    from lgsid.pipeline import DATA, execute

    run = run_of(catalogue, "unaligned")
    if not run.path("1_data", "manifest.json").exists():
        execute(config_of(catalogue, []), run, last=DATA)
    return run


def codes_path(catalogue: str, embedding: str, method: str, seed: int) -> Path:
    """The codes of a tokeniser on all items of a catalogue: columns ``raw_1`` …, and ``unique_1`` … after reassignment.

    They are committed, so that experiments on them need neither the encoder nor the tokenisers again.
    """
    return REPOSITORY / "results" / "codes" / f"{catalogue}-{embedding}-{method}-{seed}.parquet"


def write_codes(path: Path, codes: dict[str, Any]) -> None:
    """Write "raw" and "unique" codes (N, L)."""
    import polars as pl

    columns = {
        f"{name}_{level}": column.astype("uint16")
        for name, codes_NL in codes.items()
        for level, column in enumerate(codes_NL.T, start=1)
    }
    with atomic_path(path) as temporary:
        pl.DataFrame(columns).write_parquet(temporary, compression="zstd", compression_level=19)


def read_codes(path: Path, name: str) -> Any:
    """The "raw" or "unique" codes of a file, int32 (N, L).

    Raises:
        LgsidError: there is no such file.
    """
    import numpy as np
    import polars as pl

    if not path.exists():
        raise LgsidError(f"no codes {path}", "python benchmarks/tokenizer_quality.py --codes")
    table = pl.read_parquet(path)
    return table.select(f"^{name}_.*$").to_numpy().astype(np.int32)


def is_made(target: Path, digest: str) -> bool:
    """Whether a cell is there, made of the same inputs."""
    return target.exists() and bool(read_json(target)["config_sha256"] == digest)


def result(known: dict[str, Any], metrics: Any, seconds: float, digest: str) -> dict[str, Any]:
    """The content of a cell's file: what it is a cell of, its figures, and what they were made with."""
    return {
        **known,
        "metrics": rounded(metrics),
        "seconds": rounded(seconds),
        "peak_mib": rounded(peak_memory_mib()),
        "device": device(),
        "config_sha256": digest,
        "versions": versions(),
    }


def device() -> str:
    """What cells run on."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def rounded(value: Any) -> Any:
    """The figures with six significant digits: cells are committed."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
