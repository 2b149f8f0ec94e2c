"""Options of stage 1: tables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from lgsid.config.base import Strict
from lgsid.config.world import WorldConfig


class DataConfig(Strict):
    """Stage 1: where the tables come from and how strictly they are checked."""

    world: WorldConfig | None = None
    """Simulate the data (the embedded default) …"""
    items: Path | None = None
    """… or read an items table (Parquet or CSV) …"""
    events: Path | None = None
    """… and, if there is one, an events table."""
    lenient: bool = False
    """Drop bad rows, count them and write them to a reject file, instead of stopping."""
    datum: Literal["wgs84", "gcj02", "bd09"] = "wgs84"
    """Coordinate system of the tables; GCJ-02 (Amap, Tencent) and BD-09 (Baidu) are converted to WGS-84."""
    empty_title: Literal["error", "category"] = "error"
    """What an empty title means: a bad row, or "named by its category" (for data in which many places have no name)."""
    fill_regions: bool = True
    """Fill missing province, city and district by reverse geocoding."""
    max_title_chars: int = Field(default=512, ge=1)
    """A longer title is a bad row: usually a column shift or a whole page pasted into a cell."""
    max_description_chars: int = Field(default=20_000, ge=1)
    """A longer description is a bad row."""
    find_swapped: bool = True
    """Look for swapped coordinates inside the valid range: points far from any place whose mirror is inhabited."""

    @model_validator(mode="after")
    def _one_source(self) -> DataConfig:
        if (self.world is None) == (self.items is None):
            raise ValueError("give exactly one of data.world and data.items")
        return self
