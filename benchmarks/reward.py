"""The reward model alone, without any encoder training: its forms and its sampling laws on real catalogues.

    LGSID_DATA=/the/folder python benchmarks/reward.py [--seeds 0 1 2] [--configs yelp-3states] [--forms default]

One file a cell in ``results/alignment/reward-DATASET-FORM-SAMPLING-SEED.json``; a cell that exists with the same
configuration is not run again, so the script may be stopped and started at any time. Anchors are training items of
the default split. Forms of one seed and sampling law learn from the same lists, whose prompts come from the embedding
cache. ``scripts/tables.py`` makes the table "rewards" of the cells.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import polars as pl

from lgsid.align.base import Material
from lgsid.align.cache import EmbeddingCache
from lgsid.align.embed import embed
from lgsid.align.encoder import Encoder
from lgsid.align.prompts import content_text, join, location_text, prompts
from lgsid.align.reward import fit_reward
from lgsid.align.split import rows_of, split_items
from lgsid.artifact import RunFolder, peak_memory_mib, read_json, sha256_json, versions, write_json
from lgsid.config import RunConfig, load_run_config
from lgsid.pipeline import DATA, execute

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results" / "alignment"
DATASETS = ("yelp-3states", "fsq-nyc")
SAMPLINGS = ("density", "multiscale")
ANCHORS = 1_000
PAPER_LOSS = {"features": "plain", "labels": "kernel", "true_lists": 0, "order_weight": 0.0}
FORMS: dict[str, dict[str, Any]] = {
    "pointwise": {"form": "pointwise", **PAPER_LOSS},
    "pairwise": {"form": "pairwise", **PAPER_LOSS},
    "default": {},
}


def cell_config(dataset: str, form: str, sampling: str, seed: int, extra: list[str]) -> RunConfig:
    """The configuration of one cell."""
    options = {**FORMS[form], "sampling": sampling, "anchors": ANCHORS}
    sets = [f"align.alignment.reward.{key}={json.dumps(value)}" for key, value in options.items()]
    return load_run_config(REPOSITORY / "configs" / f"{dataset}.yaml", [f"seed={seed}", *sets, *extra])


def config_hash(config: RunConfig) -> str:
    """Hash of what a cell depends on, without the places of files and the options of training."""
    content = json.loads(config.model_dump_json())
    content["data"].update(items=None, events=None)
    align = content["align"]
    options = align["alignment"]
    split = {key: options[key] for key in ("validation_share", "test_share", "unseen_share", "most_items")}
    return sha256_json([content["seed"], content["data"], align["prompt"], align["encoder"], split, options["reward"]])


def training_material(dataset: str, config: RunConfig) -> Material:
    """The training items of a catalogue and the unaligned vectors of their prompts."""
    run = RunFolder(REPOSITORY / "runs" / f"{dataset}-reward")
    execute(config, run, last=DATA)
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    items = items[rows_of(split_items(items, config.align.alignment, config.seed))["train"]]
    encoder = Encoder.load(config.align.encoder)
    cache = EmbeddingCache(encoder.fingerprint, encoder.dim)
    options = config.align.prompt
    return Material(
        items=items,
        events=None,
        content=content_text(items, options).to_list(),
        location=location_text(items, options).to_list(),
        join=lambda content, location: join(pl.Series(content), pl.Series(location), options).to_list(),
        reference=embed(encoder, prompts(items, options).to_list(), cache).emb,
        encode=lambda texts: embed(encoder, texts, cache).emb,
    )


def measure_cell(dataset: str, config: RunConfig) -> dict[str, Any]:
    """Fit a reward; what is known of it."""
    _, report = fit_reward(training_material(dataset, config), config.align.alignment.reward, config.seed)
    oracle = report.region_oracle
    return {**report.as_dict(), "region_oracle_accuracy": None if oracle is None else oracle.accuracy}


def run_cell(dataset: str, form: str, sampling: str, seed: int, args: argparse.Namespace) -> None:
    """Measure a cell and write it, unless it is there."""
    target = args.out / f"reward-{dataset}-{form}{args.label}-{sampling}-{seed}.json"
    config = cell_config(dataset, form, sampling, seed, args.sets)
    if target.exists() and read_json(target)["config_sha256"] == config_hash(config):
        print(f"kept {target.name}", flush=True)
        return
    started = time.perf_counter()
    metrics = measure_cell(dataset, config)
    write_json(target, {
        "experiment": "alignment", "dataset": dataset, "method": f"reward-{form}{args.label}-{sampling}",
        "model": config.align.encoder.model, "seed": seed, "metrics": metrics,
        "seconds": round(time.perf_counter() - started, 1), "peak_mib": round(peak_memory_mib()), "device": "cpu",
        "config_sha256": config_hash(config), "versions": versions(),
    })  # fmt: skip
    shown = " ".join(f"{part} {metrics[part]['accuracy']:.3f}" for part in ("train", "held_out", "held_out_true"))
    print(f"ran  {target.name}: {shown} oracle {metrics['region_oracle_accuracy']}", flush=True)


def main() -> None:
    """Run the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=list(DATASETS))
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=list(FORMS))
    parser.add_argument("--samplings", nargs="+", default=list(SAMPLINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the cells")
    parser.add_argument("--label", default="", help="suffix of the form's name, for variants made with --set")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    for seed in args.seeds:
        for dataset in args.configs:
            for sampling in args.samplings:
                for form in args.forms:
                    run_cell(dataset, form, sampling, seed, args)


if __name__ == "__main__":
    main()
