"""What new items do to a catalogue's SIDs: the drift report, and what a refit keeps, warm and cold.

A part of a finished run's items is held back, a tokeniser is fitted on the others, and the part comes in as new items:
a random 5 or 20 %, or all items of one region. The drift report judges how they fit; then the tokeniser is fitted again
on everything, from nothing and from the old codebooks, both renumbered by the same matching. Prints one line each, and
adds the cells to ``results/bench/refit.json``.

    python benchmarks/refit.py runs/yelp-3states-seed0:5%,20%,WI,Henderson runs/fsq-nyc-seed0:5% [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, FloatArray
from lgsid.artifact import RunFolder, read_json, versions, write_json
from lgsid.config import RunConfig, SidConfig
from lgsid.sid.assign import assign_new
from lgsid.sid.catalogue import COLUMNS, NEW, Assigned, Fit, token_table
from lgsid.sid.drift import drift_report
from lgsid.sid.hierarchical import HierarchicalTokenizer
from lgsid.sid.quality import first_token_geography, squared_errors, variance
from lgsid.sid.refit import kept_shares, mapping, refit_tokenizer
from lgsid.sid.stage import load_inputs, unique_codes
from lgsid.sid.table import sid_table

RESULT = Path(__file__).resolve().parents[1] / "results" / "bench" / "refit.json"


def held_back(items: pl.DataFrame, what: str, seed: int) -> BoolArray:
    """Which items are new: a random share ("5%"), or those of a province or city."""
    if what.endswith("%"):
        new = np.zeros(len(items), dtype=np.bool_)
        count = round(len(items) * float(what[:-1]) / 100)
        new[np.random.default_rng(seed).choice(len(items), count, replace=False)] = True
        return new
    here = (pl.col("province") == what) | (pl.col("city") == what)
    return items.select(here.fill_null(False)).to_series().to_numpy()


def table_of(tokenizer: HierarchicalTokenizer, items: pl.DataFrame, emb_ND: FloatArray) -> pl.DataFrame:
    """SIDs of a catalogue fitted as a whole."""
    unique = unique_codes(tokenizer, tokenizer.transform(items, emb_ND), items, emb_ND)
    return sid_table(items["item_id"], unique.codes, unique.collides, unique.levels)


def arrived(fit: Fit, tokenizer: HierarchicalTokenizer, items: pl.DataFrame, emb_ND: FloatArray) -> Assigned:
    """New items with the SIDs that the frozen codebooks give them."""
    unique = assign_new(fit.sids, tokenizer, items, emb_ND)
    table = token_table(sid_table(items["item_id"], unique.codes, unique.collides, unique.levels), fit.levels)
    blank = (pl.lit(None, dtype=dtype).alias(name) for name, dtype in COLUMNS.items())
    return Assigned(items, emb_ND, table.with_columns(blank).with_columns(
        pl.lit(NEW).alias("status"), pl.col("sid").alias("sid_now"), pl.lit(1, dtype=pl.Int64).alias("when")
    ), pl.DataFrame(), 1)  # fmt: skip


def cell(run: RunFolder, what: str, seed: int) -> dict[str, Any]:
    """One catalogue, one part held back, one seed."""
    items, emb_ND = load_inputs(run)
    new = held_back(items, what, seed)
    order = np.concatenate([np.flatnonzero(~new), np.flatnonzero(new)])
    items, emb_ND, fitted = items[order], emb_ND[order], int((~new).sum())
    config = RunConfig(seed=seed, sid=SidConfig())
    old = HierarchicalTokenizer(config=config.sid, seed=seed).fit(items[:fitted], emb_ND[:fitted])
    fit = Fit(items[:fitted], emb_ND[:fitted], table_of(old, items[:fitted], emb_ND[:fitted]), len(old.books))
    assigned = arrived(fit, old, items[fitted:], emb_ND[fitted:])
    report = drift_report(fit, assigned, old, None)
    sids = pl.concat([fit.sids, assigned.sids.select(pl.exclude(*COLUMNS))], how="diagonal")
    made = {"run": run.root.name, "new": what, "seed": seed, "new_items": len(items) - fitted}
    made["drift"] = {signal["name"]: signal["value"] for signal in report["signals"]}
    made["refit_due"] = report["refit_due"]
    for name in ("cold", "warm"):
        tokenizer = refit_tokenizer(old, config, items, emb_ND, sids, warm=name == "warm")
        table = mapping(fit.sids, table_of(tokenizer, items, emb_ND), fit.levels)
        codes_NL = tokenizer.transform(items, emb_ND)
        error = squared_errors(emb_ND, codes_NL, tokenizer.decode)[-1] / variance(emb_ND)
        place = first_token_geography(codes_NL[fitted:, 0], items[fitted:])
        made[name] = {
            **kept_shares(table, fit.levels),
            "relative_error": float(error),
            "first_tokens_of_new": len(np.unique(codes_NL[fitted:, 0])),
            "radius_km_median_of_new": place["radius_km_median"],
        }
    return made


def main() -> None:
    """Measure the chosen cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN:PART,…")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    cells: list[dict[str, Any]] = read_json(RESULT)["cells"] if RESULT.exists() else []
    for each in chosen.runs:
        folder, _, parts = each.rpartition(":")
        for what in parts.split(","):
            for seed in chosen.seeds if what == "5%" else chosen.seeds[:1]:
                made = cell(RunFolder(Path(folder)), what, seed)
                cells = [other for other in cells if any(other[key] != made[key] for key in ("run", "new", "seed"))]
                cells.append(made)
                print(made["run"], what, "seed", seed, {key: round(value, 3) for key, value in made["drift"].items()})
                for name in ("cold", "warm"):
                    print("   ", name, made[name], flush=True)
                write_json(RESULT, {"cells": cells, "versions": versions()})


if __name__ == "__main__":
    main()
