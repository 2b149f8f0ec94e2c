"""A finished small run of the toy catalogue with a tiny encoder: stages 1 to 3, within a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import yaml
from toy_alignment import catalogue, visits, write_encoder

from lgsid.artifact import RunFolder
from lgsid.config import load_run_config
from lgsid.pipeline import SID, execute


def toy_run(
    folder: Path, items: pl.DataFrame | None = None, data: dict[str, Any] | None = None, **sid: Any
) -> RunFolder:
    """A run of the given items (the toy catalogue), without alignment.

    Args:
        folder: gets the tables, the encoder, the configuration ``toy.yaml`` and the run ``run``.
        items: the catalogue.
        data: further options of stage 1.
        sid: options of stage 3.
    """
    items = catalogue() if items is None else items
    items.write_parquet(folder / "items.parquet")
    visits(items).write_parquet(folder / "events.parquet")
    encoder = {"model": str(write_encoder(folder / "encoder")), "precision": "fp32", "device": "cpu"}
    config = {
        "data": {
            "items": "items.parquet",
            "events": "events.parquet",
            "fill_regions": False,
            "find_swapped": False,
            **(data or {}),
        },
        "align": {"encoder": encoder, "alignment": {"objective": "none"}},
        "sid": {"codes": 8, "epochs": 1, **sid},
        "report": {"neighbours": [3]},
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(config))
    run = RunFolder(folder / "run")
    execute(load_run_config(folder / "toy.yaml", ()), run, last=SID)
    return run
