"""Options of stage 3: semantic IDs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lgsid.config.autoencoder import GnprConfig, NgramConfig, RqVaeConfig, UnifiedConfig
from lgsid.config.base import Strict
from lgsid.config.simple import GeoGridConfig, ResKMeansConfig, TwoStreamConfig


class GeoFeatureConfig(Strict):
    """Weights of the feature blocks of the first token's k-means; each block has unit spread before its weight."""

    province: float = Field(default=6.0, ge=0)
    """Province identity; high, because a token that spans two provinces is reachable from neither."""
    city: float = Field(default=2.0, ge=0)
    """City identity within the province."""
    district: float = Field(default=1.0, ge=0)
    """District identity within the city."""
    cell: float = Field(default=0.25, ge=0)
    """Identity of the grid cell (H3 or GeoHash)."""
    globe: float = Field(default=1.0, ge=0)
    """Position on the unit sphere, scaled by the catalogue's own spread."""
    regional: float = Field(default=4.0, ge=0)
    """Position relative to the province's centre, scaled by the province's own spread."""
    local: float = Field(default=2.0, ge=0)
    """Position relative to the city's centre, scaled by the city's own spread."""
    content: float = Field(default=0.3, ge=0)
    """Coarse content: the top level of the category, and the brand."""
    grid: Literal["h3", "geohash"] = "h3"
    """Which grid the cell block uses."""
    grid_resolution: int = Field(default=7, ge=0, le=15)
    """H3 resolution (7: about 5 km²) or GeoHash length."""


Method = Literal["hgit", "res_kmeans", "rqvae", "rqvae_ngram", "unified", "gnpr", "two_stream", "geo_grid", "random"]
"""Names of the tokenisers; `lgsid.sid.methods` says where each one is."""


class SidConfig(Strict):
    """Stage 3: from embeddings to geographic semantic IDs."""

    method: Method = "hgit"
    """Which tokeniser; all but the default are rivals to compare with."""

    levels: int = Field(default=3, ge=2)
    """Tokens per SID, the geographic one included."""
    codes: int = Field(default=256, ge=2)
    """Codes per level."""
    features: GeoFeatureConfig = GeoFeatureConfig()
    collision_target: float = Field(default=0.045, ge=0, le=1)
    """Share of items that may share their raw code: above it, HGIT's last token also looks at where an item stands."""
    epochs: int = Field(default=20, ge=0)
    """Passes of joint training of the residual codebooks after their k-means start."""
    batch: int = Field(default=2_048, ge=1)
    """Items per training step."""
    learning_rate: float = Field(default=0.05, gt=0)
    """Step size of joint training, relative to the residual's own scale."""
    entropy_weight: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the soft code frequencies to uniform, relative to the residual energy."""
    res_kmeans: ResKMeansConfig = ResKMeansConfig()
    """Of residual k-means, alone or behind a first token that is no k-means."""
    geo_grid: GeoGridConfig = GeoGridConfig()
    two_stream: TwoStreamConfig = TwoStreamConfig()
    rqvae: RqVaeConfig = RqVaeConfig()
    """Of `rqvae` and `rqvae_ngram`."""
    ngram: NgramConfig = NgramConfig()
    unified: UnifiedConfig = UnifiedConfig()
    gnpr: GnprConfig = GnprConfig()
    training_share: float = Field(default=0.8, gt=0, le=1)
    """Tokenisers that look at visits see only the earliest share of them, by time."""
    unique: Literal["reassign", "extra_token"] = "reassign"
    """Make SIDs unique by moving items to free last-level codes at the least cost, or by one more token."""
