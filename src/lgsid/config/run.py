"""A whole run: all stages together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lgsid.config.align import AlignConfig
from lgsid.config.base import Strict
from lgsid.config.data import DataConfig
from lgsid.config.generate import GenerateConfig
from lgsid.config.rank import RankConfig
from lgsid.config.sid import SidConfig
from lgsid.config.world import WorldConfig


class ReportConfig(Strict):
    """Stage 5: what the report shows."""

    neighbours: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(5, 10, 50), min_length=1)
    """The K of neighbour geography P/C/T@K; the smallest is the one of the key figures."""
    neighbour_sample: int = Field(default=10_000, ge=1)
    """Queries used for neighbour metrics; all items when there are fewer. Neighbours always come from all items."""
    map_points: int = Field(default=20_000, ge=1)
    """Most points drawn on one map."""
    machine_time: bool = False
    """Print wall time and peak memory of each stage; off, so that two runs of one configuration give one report."""


class RunConfig(Strict):
    """A whole run: what `lgsid run` reads from YAML."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(default=0, ge=0)
    data: DataConfig = DataConfig(world=WorldConfig())
    align: AlignConfig = AlignConfig()
    sid: SidConfig = SidConfig()
    rank: RankConfig = RankConfig()
    generate: GenerateConfig = GenerateConfig()
    report: ReportConfig = ReportConfig()
