"""All tokenisers on real catalogues, aligned and not: one file a cell in ``results/quality/``.

    python benchmarks/tokenizer_quality.py [--configs …] [--embeddings …] [--methods …] [--seeds …]

A cell is CATALOGUE-EMBEDDING-METHOD-SEED. Items, visits and vectors come from a run of the catalogue with seed 0
(``runs/NAME-seed0``: the encoder as it is; ``runs/NAME-aligned0``: aligned), which this script never makes; it prints
the command where one is missing. Tokenisers are fitted with the catalogue's configuration, the method and the seed.

Three fits make a cell: its own; that of another seed, and one with its seed on a random 95 % of the items, for what
changes. Each runs in a process of its own on ``--threads`` threads, so that time and peak memory are its own, and is
kept in the run's ``quality-cache/``: the other seed's fit is the own fit of another cell. Seeds are compared in a ring
of three (0 with 1, 1 with 2, 2 with 0). ``--codes`` makes the own fits alone, and writes ``results/codes/``.
Cells and fits of the same configuration and inputs are not made again; ``--again`` forgets the chosen ones first,
which a change of a tokeniser's code asks for. To share the work among processes, split it by ``--configs``,
``--embeddings`` or ``--methods``, not by seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalogues import EMBEDDINGS, REPOSITORY, codes_path, config_of, is_made, rounded, run_of, write_codes

from lgsid.artifact import (
    RunFolder,
    atomic_path,
    peak_memory_mib,
    read_json,
    sha256_file,
    sha256_json,
    versions,
    write_json,
)
from lgsid.config import RunConfig
from lgsid.errors import LgsidError
from lgsid.sid.methods import METHODS

RESULTS = REPOSITORY / "results" / "quality"
CATALOGUES = ("fsq-nyc", "gowalla-nyc", "yelp-3states")
PROTOCOL = 1
"""Counts changes of what is measured; part of every cell's hash."""
NEW_SHARE = 0.05
SLOW = ("rqvae", "rqvae_ngram", "unified", "gnpr")
"""Networks, a minute a fit: what 5 % new items change is measured with seed 0 alone."""
UNIQUE = ("extra_token", "reassign")
Inputs = tuple[Any, Any, Any]
"""Items, embeddings (N, D), visits of the training period or None."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    catalogue: str
    embedding: str
    method: str
    seed: int

    @property
    def target(self) -> Path:
        return RESULTS / f"{self.catalogue}-{self.embedding}-{self.method}-{self.seed}.json"

    @property
    def run(self) -> RunFolder:
        return run_of(self.catalogue, self.embedding)

    @property
    def config(self) -> RunConfig:
        overrides = [f"sid.method={self.method}", f"seed={self.seed}"]
        return config_of(self.catalogue, overrides)

    @property
    def other(self) -> Cell:
        """The cell of the seed that this one is compared with."""
        seed = self.seed - 2 if self.seed % 3 == 2 else self.seed + 1
        return Cell(self.catalogue, self.embedding, self.method, seed)

    def digest(self) -> str:
        """Hash of everything that the cell's figures depend on but the code."""
        files = [("1_data", "items.parquet"), ("1_data", "events.parquet"), ("2_align", "embeddings.safetensors")]
        paths = [self.run.path(*file) for file in files]
        inputs = [sha256_file(path) if path.exists() else None for path in paths]
        return sha256_json([PROTOCOL, self.config.sid.model_dump(mode="json"), self.seed, inputs])

    @property
    def sees_new_items(self) -> bool:
        """Whether the fit on 95 % of the items is made too."""
        return self.seed == 0 or self.method not in SLOW

    def cached(self, part: str, ending: str) -> Path:
        """File of a fit: on "all" items or on the "old" 95 %."""
        return self.run.path("quality-cache", f"{self.method}-{self.seed}-{part}.{ending}")


def load(cell: Cell, part: str) -> Inputs:
    """What a fit sees: everything, or the items that are not held back as new, and their visits."""
    from lgsid.sid.stage import load_inputs, training_visits

    items, emb_ND = load_inputs(cell.run)
    events = training_visits(cell.run, cell.config.sid)
    if part == "old":
        rows = old_rows(len(items), cell.seed)
        items, emb_ND = items[rows], emb_ND[rows]
        events = None if events is None else events.filter(events["item_id"].is_in(items["item_id"].implode()))
    return items, emb_ND, events


def old_rows(items: int, seed: int) -> Any:
    """Rows of the items that were there before the new ones came."""
    import numpy as np

    new = np.random.default_rng([seed, 95]).permutation(items)[: round(NEW_SHARE * items)]
    return np.setdiff1d(np.arange(items), new)


def fit(cell: Cell, part: str) -> None:
    """Fit, assign, make unique and measure, in this process; keep codes and figures."""
    import scipy.optimize
    import torch
    from safetensors.numpy import save_file

    from lgsid.sid import kmeans, residual
    from lgsid.sid.methods import make_tokenizer

    del scipy, torch, kmeans, residual  # imported so that their loading is not timed
    inputs = load(cell, part)
    before_mib, clock = peak_memory_mib(), Clock()
    tokenizer = make_tokenizer(cell.config.sid, cell.seed)
    tokenizer.fit(*inputs)
    clock.lap("fit")
    raw_NL = tokenizer.transform(*inputs)
    clock.lap("assign")
    figures: dict[str, Any] = {}
    codes = {"raw_NL": raw_NL}
    if part == "all":
        figures, codes["unique_NL"] = measured(tokenizer, raw_NL, inputs, clock)
    with atomic_path(cell.cached(part, "safetensors")) as path:
        save_file(codes, path)
    stored = {"before_mib": before_mib, "peak_mib": clock.peak_mib, **clock.seconds, **figures}
    write_json(cell.cached(part, "json"), {"digest": cell.digest(), "figures": stored})


class Clock:
    """Wall and CPU seconds of steps, and the peak memory at the end of the last one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib = 0.0
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """End a step."""
        self.seconds[f"{name}_seconds"] = time.perf_counter() - self._wall
        self.seconds[f"{name}_cpu_seconds"] = time.process_time() - self._cpu
        self.peak_mib = peak_memory_mib()
        self.start()


def measured(tokenizer: Any, raw_NL: Any, inputs: Inputs, clock: Clock) -> tuple[dict[str, Any], Any]:
    """Both ways to unique codes, the figures of `lgsid.sid.quality.measure` for the last of them, and its codes."""
    from lgsid.sid.quality import collision_rates, measure, squared_errors, variance
    from lgsid.sid.stage import unique_codes

    items, emb_ND, events = inputs
    levels, config, unique = len(tokenizer.books), tokenizer.config, {}
    for way in UNIQUE:
        tokenizer.config = config.model_copy(update={"unique": way})
        clock.start()
        codes = unique_codes(tokenizer, raw_NL, items, emb_ND, events)
        clock.lap(way)
        error = squared_errors(emb_ND, codes.codes[:, :levels], tokenizer.decode)[-1]
        unique[way] = {
            "relative_error": float(error / (variance(emb_ND) or 1.0)),
            "moved_share": float(codes.moved.mean()),
            "tokens": codes.codes.shape[1],
            "largest_extra_token": int(codes.codes[:, levels:].max(initial=0)),
            "collision_share": collision_rates(codes.codes)[0],
        }
    figures = measure(items, emb_ND, raw_NL, codes.codes, tokenizer, float(codes.moved.mean()))
    return {**figures, "events": 0 if events is None else len(events), "unique": unique}, codes.codes


def judge(cell: Cell) -> dict[str, Any]:
    """What other fits and the probe say of a cell whose fits are there."""
    from safetensors.numpy import load_file

    from lgsid.sid.probe import decodability
    from lgsid.sid.stability import changed_share

    def codes(of: Cell, part: str) -> Any:
        return load_file(of.cached(part, "safetensors"))["raw_NL"]

    items, _, _ = load(cell, "all")
    raw_NL = codes(cell, "all")
    sizes = [level["codes"] for level in read_json(cell.cached("all", "json"))["figures"]["levels"]]
    rows = old_rows(len(items), cell.seed)
    return {
        "decodability": decodability(items, raw_NL, cell.seed),
        "changed": {
            "other_seed": changed_share(raw_NL, codes(cell.other, "all"), sizes),
            "new_items": changed_share(codes(cell, "old"), raw_NL[rows], sizes) if cell.sees_new_items else None,
        },
    }


def measure_cell(cell: Cell, threads: int) -> dict[str, Any]:
    """Make the fits that are missing, and put the cell together."""
    for of, part in ((cell, "all"), (cell.other, "all"), *([(cell, "old")] if cell.sees_new_items else [])):
        make_fit(of, part, threads)
    judged = json.loads(job("judge", cell, "all", threads).splitlines()[-1])
    figures = read_json(cell.cached("all", "json"))["figures"]
    return {
        "experiment": "quality",
        "dataset": cell.catalogue,
        "embedding": cell.embedding,
        "method": cell.method,
        "model": cell.config.align.encoder.model,
        "seed": cell.seed,
        "metrics": rounded({**figures, **judged}),
        "seconds": rounded(figures["fit_seconds"] + figures["assign_seconds"]),
        "peak_mib": rounded(figures["peak_mib"]),
        "device": f"cpu, {threads} thread{'s' if threads > 1 else ''}",
        "config_sha256": cell.digest(),
        "versions": versions(),
    }


def make_fit(cell: Cell, part: str, threads: int) -> None:
    """Make a fit that is missing."""
    path = cell.cached(part, "json")
    if not (path.exists() and read_json(path)["digest"] == cell.digest()):
        job("fit", cell, part, threads)


def publish(cell: Cell, threads: int) -> None:
    """Make a cell's own fit where it is missing, and put its codes where other experiments look for them."""
    from safetensors.numpy import load_file

    make_fit(cell, "all", threads)
    path = codes_path(cell.catalogue, cell.embedding, cell.method, cell.seed)
    found = load_file(cell.cached("all", "safetensors"))
    write_codes(path, {"raw": found["raw_NL"], "unique": found["unique_NL"]})
    print(f"wrote {path.name}", flush=True)


def job(what: str, cell: Cell, part: str, threads: int) -> str:
    """A step in a process of its own; its output.

    Raises:
        RuntimeError: it failed; the message is the end of what it said.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
    command = [
        sys.executable,
        __file__,
        "--job",
        what,
        cell.catalogue,
        cell.embedding,
        cell.method,
        str(cell.seed),
        part,
    ]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **dict.fromkeys(names, str(threads))}, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(f"{what} on {part} items, seed {cell.seed}: {result.stderr.strip()[-600:]}")
    return result.stdout


def ready(cell: Cell) -> bool:
    """Whether the run that the cell's vectors come from is there."""
    try:
        return cell.run.manifest("2_align") is not None
    except LgsidError:
        return False


def how_to_make(cell: Cell) -> str:
    """The command that makes the run."""
    unaligned = " --set align.alignment.objective=none" if cell.embedding == "unaligned" else ""
    return f"lgsid run configs/{cell.catalogue}.yaml --out runs/{cell.run.root.name}{unaligned}"


def forget(cells: list[Cell]) -> None:
    """Remove cells and their fits."""
    for cell in cells:
        cell.target.unlink(missing_ok=True)
        for part, ending in itertools.product(("all", "old"), ("json", "safetensors")):
            cell.cached(part, ending).unlink(missing_ok=True)


def work(cells: list[Cell], threads: int) -> Iterator[str]:
    """Make the cells that are missing; yields the failures."""
    for cell in cells:
        if is_made(cell.target, cell.digest()):
            print(f"kept {cell.target.name}")
            continue
        started = time.perf_counter()
        try:
            write_json(cell.target, measure_cell(cell, threads))
        except (LgsidError, RuntimeError) as error:
            print(f"FAIL {cell.target.name}: {error}", flush=True)
            yield cell.target.stem
        else:
            print(f"ran  {cell.target.name} in {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    """Run the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=list(CATALOGUES))
    parser.add_argument("--embeddings", nargs="+", default=list(EMBEDDINGS), choices=list(EMBEDDINGS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--codes", action="store_true", help="make codes for table1.py and table2.py, and no cells")
    parser.add_argument("--again", action="store_true", help="forget the chosen cells and their fits first")
    parser.add_argument("--job", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        what, *names, seed, part = args.job
        cell = Cell(*names, int(seed))
        if what == "judge":
            print(json.dumps(judge(cell)))
        else:
            fit(cell, part)
        return
    chosen = [Cell(*key) for key in itertools.product(args.configs, args.embeddings, args.methods, args.seeds)]
    for command in sorted({how_to_make(cell) for cell in chosen if not ready(cell)}):
        print(f"no vectors; make them with: {command}")
    cells = [cell for cell in chosen if ready(cell)]
    if args.again:
        forget(cells)
    if args.codes:
        for cell in cells:
            publish(cell, args.threads)
        return
    failed = list(work(cells, args.threads))
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
