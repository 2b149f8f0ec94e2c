"""Options of stage 4a: rankers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lgsid.config.base import Strict

RankerName = Literal["din", "dien", "sim", "twin", "eta"]
"""Names of the rankers; `lgsid.rank.methods` says where each one is."""


class SampleConfig(Strict):
    """What a ranker is trained and measured on: visits as they happened, and items that were not chosen."""

    negatives: int = Field(default=4, ge=1)
    """Negatives for each positive; the first half of them (rounded up) from within reach, the rest from the city."""
    reach_km: float = Field(default=5.0, gt=0)
    """How far a user goes from where they are."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the visits, by time, after those of training (`sid.training_share`)."""
    min_past: int = Field(default=1, ge=1)
    """A visit is a sample where its user has at least so many earlier ones: without one nobody knows where they are."""
    kinds: tuple[str, ...] = ("click", "order", "visit", "checkin")
    """Kinds of events that are positives; where events have no kind, all of them are."""


class SearchConfig(Strict):
    """Two-stage attention over long histories: SIM, TWIN, ETA."""

    history: int = Field(default=1_000, ge=1)
    """Most recent visits that are searched."""
    keep: int = Field(default=30, ge=1)
    """Visits that the first stage hands to the second."""
    heads: int = Field(default=2, ge=1)
    """Heads of target attention."""
    hard: bool = False
    """SIM: keep visits of the candidate's category (hard search) instead of the most similar ones (soft search)."""
    search_weight: float = Field(default=1.0, ge=0)
    """SIM: weight of the loss that trains the soft search."""
    hash_bits: int = Field(default=32, ge=1, le=63)
    """ETA: bits of a signature."""


class RankConfig(Strict):
    """Stage 4a: a ranker with the codes among its features."""

    models: tuple[RankerName, ...] = ()
    """Rankers to train; none skips the stage."""
    samples: SampleConfig = SampleConfig()
    search: SearchConfig = SearchConfig()
    features: tuple[Literal["id", "category", "brand"], ...] = ("id", "category", "brand")
    """What the models know of an item besides its SID; columns without a value are left out."""
    sid: Literal["none", "levels", "prefixes"] = "levels"
    """How SIDs become embeddings: not at all, one table a token, or one table a prefix."""
    gate: bool = True
    """Weigh an item's ID by how often the item was visited; one that never was has no ID of its own."""
    distance: bool = False
    """Give the models the distance between user and item in bands, and whether they share district, city, province."""
    dim: int = Field(default=32, ge=2)
    """Of the embeddings of IDs and labels, which are added up."""
    token_dim: int = Field(default=16, ge=2)
    """Of the embedding of each token, or prefix; an item's vector holds them one after the other."""
    history: int = Field(default=30, ge=1)
    """Most recent visits that DIN and DIEN, and the short-term part of the others, look at."""
    attention_hidden: tuple[int, ...] = (36,)
    """Hidden layers of DIN's attention."""
    hidden: tuple[int, ...] = (128, 64)
    """Hidden layers of the head."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the head's hidden layers."""
    auxiliary_weight: float = Field(default=0.5, ge=0)
    """DIEN: weight of the auxiliary loss."""
    most_requests: int | None = Field(default=None, ge=1)
    """Train on so many random requests at most; histories stay whole."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the training samples …"""
    least_updates: int = Field(default=600, ge=1)
    """… and more where that makes fewer updates; early stopping ends what does not help."""
    batch: int = Field(default=256, ge=1)
    """Positives per update, each with its negatives; rounded to a multiple of 256, which is what is read at once."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Of the networks, by Adam."""
    table_learning_rate: float = Field(default=5e-3, gt=0)
    """Of the embedding tables, by Adam."""
    sparse_learning_rate: float = Field(default=0.05, gt=0)
    """Of tables too large for Adam, by row-wise Adagrad."""
    validations: int = Field(default=6, ge=1)
    """How often validation AUC is taken; the parameters of the best one are kept."""
    patience: int = Field(default=2, ge=1)
    """Stop after so many validations without a better one."""

    @model_validator(mode="after")
    def _something_to_see(self) -> RankConfig:
        if not self.features and self.sid == "none":
            raise ValueError("rank.features and rank.sid: give the models an item's id, category, brand or SID to see")
        for name in ("dim", "token_dim"):
            if getattr(self, name) % self.search.heads:
                raise ValueError(f"rank.{name} {getattr(self, name)} is no multiple of rank.search.heads")
        return self
