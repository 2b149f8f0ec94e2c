"""Alignment on real catalogues: the paper's ablation, the direct objectives, and the frontier beside the oracle's.

    LGSID_DATA=/the/folder python benchmarks/alignment.py --seeds 0 1 2 [--configs yelp-3states] [--methods gdpo distil]

One file a cell in ``results/ablation/``; a cell that exists with the same configuration is not run again, so the script
may be stopped at any time and started again. Queries are a quarter of the items, which training never saw. The methods
of the ablation get one sample of each catalogue and one budget of encoded items, with the same encoder, split and
regulariser; those that end in "-full" run on the whole catalogue, as shipped. ``scripts/tables.py`` makes the tables of
the cells and ``scripts/alignment_figures.py`` the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.align.align import Aligned, align, objective_class
from lgsid.align.aligned import save_aligned
from lgsid.align.cache import EmbeddingCache
from lgsid.align.distil import Distil
from lgsid.align.embed import embed
from lgsid.align.encoder import Encoder
from lgsid.align.prompts import content_text, prompts
from lgsid.align.split import rows_of
from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import RunFolder, peak_memory_mib, read_json, sha256_json, versions, write_json
from lgsid.config import AlignmentConfig, RunConfig, load_run_config
from lgsid.evaluate.alignment import alignment_figures
from lgsid.evaluate.oracle import efficiency_at, frontier_efficiency, oracle_frontier
from lgsid.pipeline import DATA, execute

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results" / "ablation"
K = 5
DIALS = [(coarse, fine) for coarse in (0.3, 1.0) for fine in (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0)]
"""Of coarse and fine geography."""
SAMPLE = 2_500
"""Items of the ablation."""
ENCODED_ITEMS = 6_000
"""Budget of each method of the ablation: items encoded in training."""
PROMPTS_PER_STEP = 64
PLAIN = {
    "reward.features": "plain", "reward.true_lists": 0, "reward.order_weight": 0.0, "reward.sampling": "density",
    "reward.labels": "kernel",
}  # fmt: skip
"""The reward as in the paper: one binary cross-entropy on the lists of mismatched prompts."""
GEOGRAPHIC = {"pairs.collaborative_share": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "none": {"objective": "none"},
    "none-full": {"objective": "none"},
    "pointwise": {
        "objective": "gdpo", "similarity_weight": 0.0, **PLAIN, **GEOGRAPHIC,
        "reward.form": "pointwise", "reward.sampling": "uniform",
    },
    "listwise": {
        "objective": "gdpo", "similarity_weight": 0.0, **PLAIN, **GEOGRAPHIC, "reward.sampling": "uniform",
    },
    "density": {"objective": "gdpo", "similarity_weight": 0.0, **PLAIN, **GEOGRAPHIC},
    "mixed": {"objective": "gdpo", "similarity_weight": 0.0, **PLAIN},
    "regularised": {"objective": "gdpo", **PLAIN},
    "gdpo": {"objective": "gdpo"},
    "contrast": {"objective": "contrast"},
    "distil": {"objective": "distil"},
    "distil-full": {"objective": "distil"},
}  # fmt: skip
PAPER_LORA = {"lora.rank": 8, "lora.alpha": 16.0, "lora.modules": "key_value", "learning_rate": 1e-3}
SHARED: dict[str, Any] = {
    "validation_share": 0.05,
    "test_share": 0.25,
    "unseen_share": 0.05,
    "validations": 2,
    "reward.anchors": 500,
}


def cell_config(dataset: str, method: str, seed: int, extra: list[str]) -> RunConfig:
    """The configuration of one cell."""
    options = {**SHARED, **METHODS[method]}
    if not method.endswith("-full"):
        options |= {**PAPER_LORA, **_budget(METHODS[method]["objective"])}
    sets = [f"align.alignment.{key}={json.dumps(value)}" for key, value in options.items()]
    return load_run_config(REPOSITORY / "configs" / f"{dataset}.yaml", [f"seed={seed}", *sets, *extra])


def _budget(objective: str) -> dict[str, Any]:
    """Epochs and batch that encode the same number of items whatever an anchor brings along."""
    if objective == "none":
        return {}
    options = AlignmentConfig(objective=objective)  # type: ignore[arg-type]
    an_anchor = objective_class(options).items_per_anchor(options)
    trained = SAMPLE * (1 - SHARED["validation_share"] - SHARED["test_share"] - SHARED["unseen_share"])
    return {"epochs": round(ENCODED_ITEMS / an_anchor / trained, 3), "batch": round(PROMPTS_PER_STEP / an_anchor)}


def measure_cell(dataset: str, method: str, config: RunConfig) -> dict[str, Any]:
    """Align and measure."""
    run = RunFolder(REPOSITORY / "runs" / f"{dataset}-ablation")
    execute(config, run, last=DATA)
    items = pl.read_parquet(run.path("1_data", "items.parquet"))
    if not method.endswith("-full"):
        items = items[np.sort(np.random.default_rng(0).permutation(len(items))[:SAMPLE])]
    events = run.path("1_data", "events.parquet")
    encoder = Encoder.load(config.align.encoder)
    cache = EmbeddingCache(encoder.fingerprint, encoder.dim)
    texts, content = (text(items, config.align.prompt).to_list() for text in (prompts, content_text))
    reference_ND, content_ND = (embed(encoder, some, cache).emb for some in (texts, content))
    started = time.perf_counter()
    if config.align.alignment.objective == "none":
        part = _part(items, config)
        return _figures(items, (reference_ND, reference_ND), (content_ND, content_ND), rows_of(part), config, None)
    aligned = align(
        encoder,
        items,
        pl.read_parquet(events, columns=["user_id", "item_id", "timestamp"]) if events.exists() else None,
        reference_ND,
        config.align,
        config.seed,
    )
    seconds = time.perf_counter() - started
    after = _encode_with_artefact(aligned, config, (texts, content))
    found = _figures(
        items, (reference_ND, after[0]), (content_ND, after[1]), rows_of(aligned.part), config, aligned.objective
    )
    return {**found, "training_seconds": round(seconds, 1), **_course(aligned)}


def _encode_with_artefact(aligned: Aligned, config: RunConfig, texts: tuple[list[str], ...]) -> Any:
    """Vectors by the saved encoder, in which the updates are merged: what a user gets, and faster."""
    with tempfile.TemporaryDirectory() as folder:
        save_aligned(Path(folder) / "encoder", aligned.policy, "")
        saved = config.align.encoder.model_copy(update={"model": str(Path(folder) / "encoder")})
        encoder = Encoder.load(saved)
        return tuple(encoder.encode(some) for some in texts)


def _part(items: pl.DataFrame, config: RunConfig) -> pl.Series:
    from lgsid.align.split import split_items

    return split_items(items, config.align.alignment, config.seed)


def _figures(
    items: pl.DataFrame,
    vectors: tuple[FloatArray, FloatArray],
    bare: tuple[FloatArray, FloatArray],
    rows: dict[str, IntArray],
    config: RunConfig,
    objective: Any,
) -> dict[str, Any]:
    """Figures by part, and where the vectors stand on the frontier of the test part."""
    reference_ND, aligned_ND = vectors
    parts = {name: rows[name] for name in ("train", "test", "unseen")}
    figures = alignment_figures(items, reference_ND, aligned_ND, parts, (5, 10, 50), bare[0], bare[1], config.seed)
    oracle = oracle_frontier(items, reference_ND, rows["test"], K)
    at = figures["parts"]["test"]["after"][str(K)]
    found = {
        **figures,
        "oracle": [[round(value, 5) for value in (p.weight, p.kept, p.province, p.city, p.district)] for p in oracle],
        "efficiency": frontier_efficiency(oracle, at["kept"], at["district"]),
    }
    if isinstance(objective, Distil):
        curve = [
            {
                "coarse": dial[0],
                "fine": dial[1],
                **_point(items, reference_ND, objective.turned(aligned_ND, *dial), rows),
            }
            for dial in DIALS
        ]
        found["dial"] = curve
        pairs = [(point["kept"], point["district"]) for point in curve]
        found["efficiency_at"] = {str(loss): value for loss, value in efficiency_at(pairs, oracle).items()}
    return found


def _point(
    items: pl.DataFrame, reference_ND: FloatArray, emb_ND: FloatArray, rows: dict[str, IntArray]
) -> dict[str, float]:
    from lgsid.evaluate.alignment import kept
    from lgsid.evaluate.neighbours import neighbour_geography
    from lgsid.nearest import nearest_neighbours

    queries_Q = rows["test"]
    index_QK, _ = nearest_neighbours(emb_ND, queries_Q, K)
    at = neighbour_geography(items, queries_Q, index_QK, (K,), 0)["at"][str(K)]
    shown = ("province", "city", "district", "category", "distance_km")
    return {"kept": kept(reference_ND, queries_Q, index_QK), **{name: at[name] for name in shown}}


def _course(aligned: Aligned) -> dict[str, Any]:
    figures = dict(aligned.figures)
    reward = figures.pop("reward", None)
    return {
        "prepared": figures,
        "reward": reward,
        "steps": aligned.history.steps,
        "best_step": aligned.history.best.step,
        "validations": [{"step": at.step, **at.metrics} for at in aligned.history.validations],
        "trained_on": int((aligned.part == "train").sum()),
    }


RELEVANT = {
    "none": (), "gdpo": ("similarity_weight", "beta", "reward", "pairs"), "contrast": ("similarity_weight", "contrast"),
    "distil": ("similarity_weight", "teacher"),
}  # fmt: skip
"""Options that one objective looks at and others do not."""


def config_hash(config: RunConfig) -> str:
    """Hash of what a cell depends on, without the places of files and the options of other objectives."""
    content = json.loads(config.model_dump_json())
    content["data"].update(items=None, events=None)
    options = content["align"]["alignment"]
    others = {key for keys in RELEVANT.values() for key in keys} - set(RELEVANT[options["objective"]])
    content["align"]["alignment"] = {key: value for key, value in options.items() if key not in others}
    return sha256_json([content["seed"], content["data"], content["align"], SAMPLE, ENCODED_ITEMS])


def main() -> None:
    """Run the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["yelp-3states", "fsq-nyc"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--label", default="", help="suffix of the cell's name, for variants made with --set")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    for seed in args.seeds:
        for dataset in args.configs:
            for method in args.methods:
                if (
                    method == "mixed"
                    and load_run_config(REPOSITORY / "configs" / f"{dataset}.yaml").data.events is None
                ):
                    print(f"skip {dataset}-mixed: without events it is density", flush=True)
                    continue
                target = RESULTS / f"{dataset}-{method}{args.label}-{seed}.json"
                config = cell_config(dataset, method, seed, args.sets)
                if target.exists() and read_json(target)["config_sha256"] == config_hash(config):
                    print(f"kept {target.name}", flush=True)
                    continue
                started = time.perf_counter()
                metrics = measure_cell(dataset, method, config)
                write_json(target, {
                    "experiment": "ablation", "dataset": dataset, "method": f"{method}{args.label}",
                    "model": config.align.encoder.model, "seed": seed, "metrics": _rounded(metrics),
                    "seconds": round(time.perf_counter() - started, 1), "peak_mib": round(peak_memory_mib()),
                    "device": "cpu", "config_sha256": config_hash(config), "versions": versions(),
                })  # fmt: skip
                at = metrics["parts"]["test"]["after"]["5"]
                shown = " ".join(f"{name} {at[name]:.3f}" for name in ("kept", "province", "city", "district"))
                print(f"ran  {target.name}: {shown} {metrics.get('efficiency_at', '')}", flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(float(value), 5) if isinstance(value, float | np.floating) else value


if __name__ == "__main__":
    main()
