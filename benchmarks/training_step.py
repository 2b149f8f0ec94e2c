"""A training step of alignment on a CPU, beside peft as it comes; and how long a large catalogue would take.

Both train LoRA of one rank on the same maps of the same MiniLM, on the same 64 prompts of a simulated catalogue,
forward and backward, taking turns in one process. The peer is ``peft.inject_adapter_in_model`` on transformers' default
attention, prompts padded to the longest. The estimate is what ``lgsid align RUN --dry-run`` prints for 100,000 items
and a decoder LLM (SmolLM2-135M), where that is installed.

    python benchmarks/training_step.py
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import polars as pl
import torch

from lgsid.align.encoder import Encoder
from lgsid.align.estimate import estimate_alignment
from lgsid.align.policy import Policy, lora_targets
from lgsid.align.prompts import prompts
from lgsid.artifact import RunFolder, peak_memory_mib, sha256_json, versions, write_json
from lgsid.config import AlignConfig, DataConfig, EncoderConfig, LoraConfig, PromptConfig, RunConfig, WorldConfig
from lgsid.data.world import simulate
from lgsid.errors import LgsidError

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench"
PROMPTS = 64


def texts() -> list[str]:
    """Prompts of a small simulated catalogue."""
    with tempfile.TemporaryDirectory() as folder:
        simulate(WorldConfig(items=PROMPTS, users=1, events=0, cities=2), 0, Path(folder))
        return prompts(pl.read_parquet(Path(folder) / "items.parquet"), PromptConfig()).to_list()


def ours(encoder: Encoder, said: list[str], lora: LoraConfig) -> Callable[[], None]:
    """The policy's step."""
    policy = Policy(encoder, lora, None, seed=0)
    tokens = policy.tokens(said)
    policy.train_mode(True)

    def step() -> None:
        policy.forward(tokens, np.arange(len(said))).square().sum().backward()

    return step


def theirs(encoder: Encoder, said: list[str], lora: LoraConfig) -> Callable[[], None]:
    """peft's step; the base model stays in evaluation mode, as ours does."""
    model = encoder.model
    peft.inject_adapter_in_model(
        peft.LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora_targets(model, lora.modules),
        ),
        model,
    )
    for name, module in model.named_modules():
        if name.endswith("lora_dropout.default"):
            module.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    tokens = encoder.tokenize(said)
    batch = encoder.collate(tokens, np.arange(len(said)), int(tokens.lengths.max()))

    def step() -> None:
        encoder.forward(batch).square().sum().backward()

    return step


def measure(precision: str, lora: LoraConfig, said: list[str], rounds: int) -> dict[str, Any]:
    """Median seconds of a step of each, taking turns after two steps of warming up."""
    steps = [make(Encoder.load(EncoderConfig(precision=precision)), said, lora) for make in (ours, theirs)]  # type: ignore[arg-type]
    seconds: list[list[float]] = [[], []]
    for turn in range(rounds + 2):
        for taken, step in zip(seconds, steps, strict=True):
            started = time.perf_counter()
            step()
            if turn >= 2:
                taken.append(time.perf_counter() - started)
    mine, peers = (statistics.median(taken) for taken in seconds)
    return {"ours_seconds": round(mine, 3), "peft_seconds": round(peers, 3), "ratio": round(peers / mine, 2)}


def estimate() -> dict[str, Any] | None:
    """The dry run of a large catalogue and a decoder LLM; None where the model is not installed."""
    config = RunConfig(
        data=DataConfig(world=WorldConfig(items=100_000)), align=AlignConfig(encoder=EncoderConfig(model="smollm2"))
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            found = estimate_alignment(config, RunFolder(Path(folder))).to_json()
        except LgsidError as error:
            print(f"no estimate: {error}")
            return None
        return {**found, "seconds_to_estimate": round(time.perf_counter() - started, 1)}


def main() -> None:
    """Measure and write the cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    said = texts()
    tokens = float(Encoder.load(EncoderConfig()).tokenize(said).lengths.mean())
    metrics: dict[str, Any] = {"prompts": PROMPTS, "mean_tokens": round(tokens, 1), "threads": torch.get_num_threads()}
    for precision in ("bf16", "fp32"):
        for dropout in (0.05, 0.0):
            found = measure(precision, LoraConfig(dropout=dropout), said, args.rounds)
            metrics[f"{precision}, dropout {dropout}"] = found
            print(precision, dropout, found, flush=True)
    metrics["estimate"] = estimate()
    write_json(RESULTS / "training_step.json", {
        "experiment": "bench", "dataset": "world", "method": "lgsid", "model": "minilm", "seed": 0, "metrics": metrics,
        "seconds": None, "peak_mib": round(peak_memory_mib()), "device": "cpu",
        "config_sha256": sha256_json([PROMPTS, args.rounds]), "versions": versions(),
    })  # fmt: skip


if __name__ == "__main__":
    main()
