"""Options of stage 4b: generative recommenders."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from lgsid.config.base import Strict

GeneratorName = Literal["tiger", "onerec", "sasrec"]
"""Names of the generators; `lgsid.generate.methods` says where each one is. SASRec scores items and knows no codes."""


class SessionConfig(Strict):
    """OneRec: what is generated is the rest of a session, a list of items."""

    gap_hours: float = Field(default=8.0, gt=0)
    """A session ends where nothing follows for so long."""
    items: int = Field(default=3, ge=1)
    """Items of a list at most."""


class ExpertConfig(Strict):
    """OneRec: sparse mixture-of-experts feed-forward layers of the decoder."""

    experts: int = Field(default=4, ge=1)
    """Feed-forward networks of a layer."""
    active: int = Field(default=2, ge=1)
    """Experts that see a token."""
    balance_weight: float = Field(default=0.01, ge=0)
    """Weight of the loss that keeps the experts equally busy."""


class PreferenceConfig(Strict):
    """OneRec: iterative preference alignment, the model's own best list against its worst one by a reward."""

    rounds: int = Field(default=1, ge=0)
    """Times that lists are generated, judged and learned from; 0 leaves the model as it was trained."""
    share: float = Field(default=0.1, gt=0, le=1)
    """Share of the training requests for which lists are generated in a round."""
    beams: int = Field(default=16, ge=2)
    """Lists that are generated for a request."""
    beta: float = Field(default=0.1, gt=0)
    """Of DPO."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Highest one of a round."""
    epochs: float = Field(default=1.0, gt=0)
    """Passes over the pairs of a round."""
    likelihood_weight: float = Field(default=1.0, ge=0)
    """Weight of the next-token loss on what the user chose, so that learning to prefer is not unlearning to speak."""
    interest: float = Field(default=1.0, ge=0)
    """Weight of the user's interest in the list, by a reward model trained on the same visits."""
    reach: float = Field(default=1.0, ge=0)
    """Weight of the share of the list that the user can reach."""
    value: float = Field(default=0.0, ge=0)
    """Weight of the list's mean order value, in standard deviations of the catalogue; for events that have amounts."""


class GenerateConfig(Strict):
    """Stage 4b: models that write semantic IDs, and SASRec beside them."""

    models: tuple[GeneratorName, ...] = ()
    """What to train; none skips the stage."""
    protocol: Literal["global_time", "leave_one_out"] = "global_time"
    """Which visits are predicted: all after a moment, or each user's last one."""
    reach_km: float = Field(default=5.0, gt=0)
    """How far a user goes from where they are."""
    history: int = Field(default=20, ge=1)
    """Most recent visits that a model looks at."""
    encoder: Literal["causal", "full"] = "causal"
    """causal: a visit sees the ones before it, so that one pass serves all predictions of a row. full: TIGER's own, in
    which all visits of a history see each other and every prediction takes a pass of its own."""
    pointer: bool = True
    """Let generators copy tokens from earlier visits as well as choose among all; off is the published TIGER."""
    nearness: bool = True
    """Let generators know how far each token's items are from the user; off is the published TIGER."""
    dim: int = Field(default=64, ge=2)
    """Width of the models."""
    heads: int = Field(default=4, ge=1)
    """Of attention; they share the width."""
    feed_forward: int = Field(default=256, ge=1)
    """Width inside feed-forward layers."""
    encoder_layers: int = Field(default=2, ge=1)
    """Of the encoder; SASRec has as many."""
    decoder_layers: int = Field(default=2, ge=1)
    """Of the decoder."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of embeddings and layers."""
    users: int = Field(default=0, ge=0)
    """User tokens, shared by hashing; 0 leaves users anonymous."""
    time: bool = True
    """Tell the models the hour of the week and the time since the visit before, of visits and of requests."""
    distance: bool = True
    """Tell the models how far each visit was from the one before."""
    sessions: SessionConfig = SessionConfig()
    """OneRec's lists."""
    experts: ExpertConfig = ExpertConfig()
    """OneRec's decoder."""
    preference: PreferenceConfig = PreferenceConfig()
    """OneRec's last step."""
    epochs: float = Field(default=20.0, gt=0)
    """Passes over the training visits …"""
    least_updates: int = Field(default=1_000, ge=1)
    """… and more where that makes fewer updates; early stopping ends what does not help."""
    batch: int = Field(default=16, ge=1)
    """Packed rows per update."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Highest one, by AdamW; SASRec, which has a vector for each item to over-fit with, takes a tenth of it."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Of matrices; embeddings, biases and norms have none."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the target that is spread over all tokens."""
    validations: int = Field(default=10, ge=1)
    """How often validation NDCG@10 is taken; the parameters of the best one are kept."""
    patience: int = Field(default=3, ge=1)
    """Stop after so many validations without a better one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast on a GPU; on a CPU training is always fp32."""
    beams: int = Field(default=50, ge=1)
    """Of beam search."""

    @model_validator(mode="after")
    def _fitting(self) -> GenerateConfig:
        if self.dim % self.heads:
            raise ValueError(f"generate.dim {self.dim} is no multiple of generate.heads {self.heads}")
        if self.experts.active > self.experts.experts:
            raise ValueError(f"generate.experts.active {self.experts.active} is more than generate.experts.experts")
        return self
