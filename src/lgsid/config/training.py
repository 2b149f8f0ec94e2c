"""Options of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lgsid.config.base import Strict


class TrainerConfig(Strict):
    """How the one training loop trains; a stage fills it from its own options."""

    epochs: float = Field(default=4.0, gt=0)
    """Passes over the training examples; may be fractional."""
    batch: int = Field(default=64, ge=1)
    """At most so many examples go through the model at once, on each process."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are added before an update."""
    warmup_share: float = Field(default=0.06, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it falls linearly to zero afterwards."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's, for parameter groups that do not set their own."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this length; infinity leaves them as they are."""
    validations: int = Field(default=4, ge=1)
    """How often the validation score is taken, evenly spaced, the last at the end; one more before the first step."""
    patience: int = Field(default=2, ge=1)
    """Stop after so many validations without a better score."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """A checkpoint is written this often, and at every validation: what a kill can cost."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 is autocast on a GPU; on a CPU training is always fp32."""
