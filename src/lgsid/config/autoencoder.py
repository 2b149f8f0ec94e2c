"""Options of the tokenisers that quantise what an encoder network makes of an item."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lgsid.config.base import Strict


class AutoencoderConfig(Strict):
    """Encoder, residual codebooks and mirrored decoder, and how they are trained."""

    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the encoder's hidden layers; the decoder's are the same in reverse."""
    latent: int = Field(default=32, ge=1)
    """Dimensions of the space of the codebooks."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Behind every hidden layer, in training."""
    steps: int = Field(default=3_000, ge=1)
    """Updates in all, however large the catalogue is."""
    warm_steps: int = Field(default=1_000, ge=0)
    """The first of them train encoder and decoder alone, so that k-means of the codebooks finds something."""
    batch: int = Field(default=256, ge=1)
    """Items per update."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """AdamW's highest."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """AdamW's, of the network; codebooks have none."""
    commitment: float = Field(default=0.25, ge=0)
    """Weight of what pulls the encoder's output to its centroids, relative to the reconstruction error."""
    gradient: Literal["straight_through", "rotation"] = "straight_through"
    """How the decoder's gradient passes the codebooks: copied, or rotated and scaled (arXiv 2410.06424)."""
    codebook: Literal["gradient", "ema"] = "gradient"
    """Codebooks follow their members by gradient, or as exponential moving averages of them."""
    ema_decay: float = Field(default=0.99, gt=0, lt=1)
    """Of the moving averages."""
    diversity: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the soft code frequencies to uniform, summed over levels; it moves codebooks by
    gradient."""
    revive_steps: int = Field(default=50, ge=1)
    """A code that no item had for so many updates is moved onto an item."""
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the items, 2,048 at most, kept out of training: training ends where their reconstruction is best."""
    validations: int = Field(default=10, ge=1)
    """How often they are looked at."""
    patience: int = Field(default=3, ge=1)
    """Stop after so many looks without a better reconstruction."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.codebook == "ema" and self.diversity > 0:
            raise ValueError(
                f"got diversity {self.diversity:g} with codebook 'ema', which no gradient moves; "
                "expected diversity 0, or codebook 'gradient'"
            )
        return self


class RqVaeConfig(AutoencoderConfig):
    """RQ-VAE as TIGER describes it."""


class UnifiedConfig(AutoencoderConfig):
    """Unified semantic and ID representation."""

    hidden: tuple[int, ...] = (512, 256)
    """Widths of the encoder's hidden layers; the decoder's are the same in reverse."""
    latent: int = Field(default=64, ge=1)
    """Dimensions of the space of the codebooks."""


class NgramConfig(Strict):
    """How a recommender's embedding tables take the codes of `rqvae_ngram`."""

    kind: Literal["prefix", "plain"] = "prefix"
    """All prefixes of a code, one table each; or its pieces of ``order`` tokens, one table each."""
    order: int = Field(default=2, ge=1)
    """Tokens of a plain n-gram."""
    rows: int = Field(default=131_072, ge=1)
    """Most rows of a table: n-grams that can be more than this are hashed."""


class GnprConfig(AutoencoderConfig):
    """GNPR-SID: what is known of a place, not its text."""

    latent: int = Field(default=64, ge=1)
    """Dimensions of the space of the codebooks."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Behind every hidden layer, in training."""
    batch: int = Field(default=128, ge=1)
    """Items per update."""
    diversity: float = Field(default=0.05, ge=0)
    """Weight of the KL divergence from the soft code frequencies to uniform, summed over levels."""
    categories: int = Field(default=1_024, ge=1)
    """Most columns for categories; more categories than this are hashed into so many. The same for the next two."""
    regions: int = Field(default=1_024, ge=1)
    """Most columns for regions."""
    visitors: int = Field(default=2_048, ge=1)
    """Most columns for visitors."""
    region_deg: float = Field(default=0.05, gt=0, le=90)
    """Side of a region in degrees; 0.05 is a plus code of six characters."""
