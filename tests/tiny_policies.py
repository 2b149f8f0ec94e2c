"""Tiny policies: encoders with updates that change their vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import WORDS, write_tokenizer

from lgsid.align.encoder import Encoder
from lgsid.align.policy import Policy
from lgsid.config import EncoderConfig

TEXTS = [" ".join(WORDS[: 1 + n % 19]) for n in range(45)] + ["", "shop pine cone location main st phoenix az 85018"]
GPT2: dict[str, Any] = {"vocab_size": 30, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}


def load(folder: Path | str, precision: str = "fp32") -> Encoder:
    """An encoder on the CPU."""
    return Encoder.load(EncoderConfig.model_validate({"model": str(folder), "precision": precision, "device": "cpu"}))


def disturbed(policy: Policy) -> Policy:
    """A policy whose parameters are no longer those of its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.named().values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return policy


def write_gpt2(folder: Path) -> Path:
    """A decoder whose maps are Conv1D, with transposed weights, and whose attention is fused."""
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    GPT2Model(GPT2Config(**GPT2)).save_pretrained(folder)
    write_tokenizer(folder, pad=False, special=False)
    return folder
