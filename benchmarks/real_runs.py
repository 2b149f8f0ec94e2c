"""The tokeniser on real catalogues and unaligned vectors, seed by seed; one file a cell in ``results/tokenizers/``.

    LGSID_DATA=/the/folder python benchmarks/real_runs.py --seeds 0 1 2

Each cell is one ``lgsid run configs/DATASET.yaml --set seed=S --set align.alignment.objective=none``; the run folders
stay in ``runs/``. A cell that exists
with the same configuration is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lgsid.artifact import RunFolder, read_json, sha256_json, versions, write_json
from lgsid.config import RunConfig, load_run_config
from lgsid.pipeline import execute

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results" / "tokenizers"
UNALIGNED = "align.alignment.objective=none"
STAGES = ("1_data", "2_align", "3_sid", "5_report")


def config_hash(config: RunConfig) -> str:
    """Hash of the configuration without the places of files."""
    content = json.loads(config.model_dump_json())
    content["data"].update(items=None, events=None)
    del content["align"]["alignment"]  # always "none"
    return sha256_json(content)


def measure_cell(name: str, seed: int) -> dict[str, Any]:
    """Run one configuration with one seed and gather its figures."""
    config = load_run_config(REPOSITORY / "configs" / f"{name}.yaml", [f"seed={seed}", UNALIGNED])
    run = RunFolder(REPOSITORY / "runs" / f"{name}-seed{seed}")
    figures = execute(config, run)
    sid = read_json(run.path("3_sid", "metrics.json"))
    manifests = [manifest for stage in STAGES if (manifest := run.manifest(stage))]
    shown = {"province_at_5", "city_at_5", "district_at_5", "distance_km_at_5"}
    return {
        "experiment": "tokenizers",
        "dataset": name,
        "method": "hgit",
        "model": config.align.encoder.model,
        "seed": seed,
        "metrics": {
            "items": sid["items"],
            "events": figures["1_data"].get("events", 0),
            **{key: value for key, value in figures["5_report"].items() if key in shown},
            "collision_share": sid["collision_share"],
            "collision_unique": sid["collision_unique"],
            "collision_share_final": sid["collision_share_final"],
            "moved_share": sid["moved_share"],
            "utilisation": [level["utilisation"] for level in sid["levels"]],
            "entropy_bits": [round(level["entropy_bits"], 3) for level in sid["levels"]],
            "gini": [round(level["gini"], 3) for level in sid["levels"]],
            "relative_error": sid["reconstruction"]["relative_by_level"],
            "relative_error_unique": sid["reconstruction"]["relative_after_unique"],
            **sid["first_token"],
        },
        "seconds": sum(manifest["wall_seconds"] for manifest in manifests),
        "peak_mib": max(manifest["peak_memory_mib"] for manifest in manifests),
        "device": "cpu",
        "config_sha256": config_hash(config),
        "versions": versions(),
    }


def main() -> None:
    """Run the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=["demo", "fsq-nyc", "gowalla-nyc", "yelp-3states"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    for name in args.configs:
        for seed in args.seeds:
            target = RESULTS / f"{name}-hgit-{seed}.json"
            config = load_run_config(REPOSITORY / "configs" / f"{name}.yaml", [f"seed={seed}", UNALIGNED])
            if target.exists() and read_json(target)["config_sha256"] == config_hash(config):
                print(f"kept {target.name}")
                continue
            write_json(target, measure_cell(name, seed))
            print(f"ran  {target.name}", flush=True)


if __name__ == "__main__":
    main()
