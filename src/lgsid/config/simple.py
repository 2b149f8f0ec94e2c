"""Options of the simple rival tokenisers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lgsid.config.base import Strict


class ResKMeansConfig(Strict):
    """Residual k-means, as a method of its own and for the further tokens of `geo_grid` and `two_stream`."""

    balanced: bool = False
    """OneRec's variant: while learning, every cluster takes its equal share of the items in turn."""
    iterations: int = Field(default=20, ge=1)
    """At most so many Lloyd iterations, or balanced sweeps, per level."""


class GeoGridConfig(Strict):
    """First token a grid cell."""

    grid: Literal["h3", "geohash"] = "h3"
    """H3 hexagons (aperture 7), or GeoHash rectangles (32 per step)."""


class TwoStreamConfig(Strict):
    """Separate geographic and semantic tokens."""

    geographic_levels: int = Field(default=1, ge=1)
    """So many first tokens describe the place alone, the others what of the embedding the place does not explain; at
    least one must be left for those."""
    ridge: float = Field(default=0.01, gt=0)
    """Penalty of the regression of the embedding on the place, relative to the mean variance of the features."""
