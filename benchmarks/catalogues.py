"""The runs of real catalogues that experiments start from, and what all of their cells have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lgsid.artifact import RunFolder
from lgsid.config import RunConfig, load_run_config

REPOSITORY = Path(__file__).resolve().parents[1]
EMBEDDINGS = {"unaligned": "seed0", "aligned": "aligned0"}
"""Endings of the runs' names: with seed 0, the encoder as it is, and aligned."""


def run_of(catalogue: str, embedding: str) -> RunFolder:
    """The run that a catalogue's vectors come from."""
    return RunFolder(REPOSITORY / "runs" / f"{catalogue}-{EMBEDDINGS[embedding]}")


def config_of(catalogue: str, overrides: list[str]) -> RunConfig:
    """The configuration of a catalogue, some keys changed."""
    return load_run_config(REPOSITORY / "configs" / f"{catalogue}.yaml", overrides)


def rounded(value: Any) -> Any:
    """The figures with six significant digits: cells are committed."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
