"""Generative recommenders behind all tokenisers on real visits: one file a cell in ``results/table2/``.

    python benchmarks/table2.py [--datasets …] [--models …] [--methods …] [--protocols …] [--seeds …] [--set …]

A cell is DATASET-PROTOCOL-MODEL-METHOD-SEED: a generator trained on the visits of a catalogue to write the SIDs of a
tokeniser, asked for the next item of each test request. All cells of a dataset and protocol have the same visits and
the same test requests, at most ``--requests`` of them, drawn at random; the seed is that of the tokeniser and of the
generator. SASRec, which knows no codes, and the baselines have cells of the method "none".

Codes are those of ``benchmarks/tokenizer_quality.py --codes`` (``results/codes/``), made unique by reassignment within
the last level; items and visits come from the data stage of ``runs/NAME-seed0``, made where it is missing.
RQ-VAE-ngram has RQ-VAE's codes: it is a way for rankers to read them, so a generator that writes codes is the same for
both, and the table says so. "unified" writes its codes and has no id beside them, since an id cannot be generated.

The ranked items of a cell are kept in ``runs/NAME-seed0/generate-cache``, to compare methods by, beside its model that
is not trained again for new figures (``--again``). Work may be shared among processes by datasets, models, methods,
protocols or seeds; OneRec's lists are judged by the SASRec of their dataset, protocol and seed, so make that one first.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from catalogues import REPOSITORY, codes_path, config_of, is_made, read_codes, result, run_of
from catalogues import data_of as run_data

from lgsid.artifact import (
    RunFolder,
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from lgsid.config import GenerateConfig, RunConfig
from lgsid.errors import LgsidError

RESULTS = REPOSITORY / "results" / "table2"
DATASETS = ("gowalla-nyc", "fsq-nyc")
PROTOCOLS = ("global_time", "leave_one_out", "next_poi")
MODELS = ("tiger", "onerec")
CODES = {
    "random": ("random", "unaligned"),
    "res_kmeans": ("res_kmeans", "unaligned"),
    "rqvae": ("rqvae", "unaligned"),
    "unified": ("unified", "unaligned"),
    "gnpr": ("gnpr", "unaligned"),
    "geo_grid": ("geo_grid", "unaligned"),
    "hgit_unaligned": ("hgit", "unaligned"),
    "lgsid": ("hgit", "aligned"),
}
"""Tokeniser and vectors of each method."""
PROTOCOL = 1
"""Counts changes of what is measured; part of every cell's hash."""
NONE = "none"
KS = (1, 5, 10)
SHORT = {
    "tiger": (
        "generate.epochs=3",
        "generate.least_updates=300",
        "generate.validations=3",
        "generate.learning_rate=0.016",
    ),
    "sasrec": ("generate.epochs=8", "generate.validations=8", "generate.dropout=0.4"),
    "onerec": (
        "generate.epochs=3",
        "generate.least_updates=300",
        "generate.validations=3",
        "generate.learning_rate=0.016",
        "generate.preference.share=0.01",
    ),
}
"""Training, the same for every method: what two cores can pay. Three passes of TIGER at a higher learning
rate, which do what eight do at .003 (docs/experiments.md). OneRec the same, and then one round of preference alignment
on 1 % of the requests. SASRec has what suits it best: more dropout and more passes, with early stopping."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    dataset: str
    protocol: str
    model: str
    method: str
    seed: int
    most: int
    sets: tuple[str, ...] = ()
    label: str = ""

    @property
    def name(self) -> str:
        label = f"-{self.label}" if self.label else ""
        return f"{self.dataset}-{self.protocol}-{self.model}-{self.method}{label}-{self.seed}"

    @property
    def target(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def run(self) -> RunFolder:
        return run_of(self.dataset, "unaligned")

    @property
    def ranked(self) -> Path:
        return self.run.path("generate-cache", f"{self.name}.safetensors")

    @property
    def model_folder(self) -> Path:
        return self.run.path("generate-cache", self.name)

    @cached_property
    def config(self) -> RunConfig:
        return config_of(self.dataset, list(self.sets))

    @property
    def generate(self) -> GenerateConfig:
        return self.config.generate

    @property
    def codes(self) -> Path | None:
        """File of the codes; None where there are none."""
        if self.method == NONE:
            return None
        tokenizer, vectors = CODES[self.method]
        return codes_path(self.dataset, vectors, tokenizer, self.seed)

    def digest(self) -> str:
        """Hash of everything that the cell's figures depend on but the code."""
        events = sha256_file(self.run.path("1_data", "events.parquet"))
        codes = sha256_file(self.codes) if self.codes else None
        options = self.generate.model_dump(mode="json", exclude={"models", "protocol"})
        shares = self.config.sid.training_share, self.config.rank.samples.validation_share
        judge = [SHORT["sasrec"]] if self.model == "onerec" else []
        return sha256_json([PROTOCOL, self.protocol, self.model, self.method, options, self.seed, shares, self.most,
                            events, codes, *judge])  # fmt: skip


def data_of(cell: Cell) -> Any:
    """Visits and codes of a cell."""
    import numpy as np
    import polars as pl

    from lgsid.generate import protocol
    from lgsid.generate.generating import Data

    items = pl.read_parquet(run_data(cell.dataset).path("1_data", "items.parquet"))
    events, kinds = pl.scan_parquet(cell.run.path("1_data", "events.parquet")), cell.config.rank.samples.kinds
    if cell.protocol == "global_time":
        shares = cell.config.sid.training_share, cell.config.rank.samples.validation_share
        visits = protocol.global_time(items, events, kinds, *shares)
    else:
        visits = getattr(protocol, cell.protocol)(items, events, kinds)
    if cell.codes is None:
        codes_NL = np.arange(len(items), dtype=np.int32)[:, None]
    else:
        codes_NL = read_codes(cell.codes, "unique")
    sizes = tuple(int(column.max()) + 1 for column in codes_NL.T)
    return Data(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), visits, codes_NL, sizes)


def measure_cell(cell: Cell) -> dict[str, Any]:
    """Train, ask and measure."""
    from lgsid.generate.generating import measured, recommender_of, requests_to_answer

    data = data_of(cell)
    model, course = trained(cell, data)
    event_R = requests_to_answer(data, cell.most)
    found = measured(recommender_of(model, data, cell.generate), data, cell.generate, event_R, KS)
    keep(cell, data, event_R, found)
    return {**found.figures, **course}


def trained(cell: Cell, data: Any) -> tuple[Any, dict[str, Any]]:
    """The model of a cell and the course of its training, from its folder where it has been trained before."""
    from lgsid.generate.generating import train
    from lgsid.generate.pretrained import load_generator, save_generator

    folder, digest = cell.model_folder, cell.digest()
    if is_made(folder / "course.json", digest):
        return load_generator(folder), read_json(folder / "course.json")["metrics"]
    model, history = train(cell.model, data, cell.generate, cell.seed)
    assert history.best is not None
    alignment = align_to_reward(cell, model, history.best.score, data) if cell.model == "onerec" else {}
    model.eval()
    course = {
        **alignment,
        "validation": {"ndcg@10": history.best.score, "epoch": history.best.epoch},
        "epochs": history.validations[-1].epoch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "rows_per_second": history.examples / max(history.seconds, 1e-9),
        "training_seconds": history.seconds,
    }
    save_generator(model, data.codes_NL, data.sizes, folder)
    write_json(folder / "course.json", {"config_sha256": digest, "metrics": course})
    return model, course


def align_to_reward(cell: Cell, model: Any, ndcg: float, data: Any) -> dict[str, Any]:
    """Preference alignment, the last part of OneRec; what its rounds did to the validation figures.

    The SASRec that tells interest is that of the cell of this dataset, protocol and seed, trained once for all methods.
    """
    from lgsid.generate.generating import align

    judge = Cell(cell.dataset, cell.protocol, "sasrec", NONE, cell.seed, cell.most, SHORT["sasrec"])
    interest, _ = trained(judge, data_of(judge))
    started = time.perf_counter()
    course = align(model, ndcg, data, cell.generate, cell.seed, interest=interest)
    kept = ("requests", "pairs", "kept", "before", "after", "lists")
    rounds = [{name: done[name] for name in kept if name in done} for done in course["rounds"]]
    return {"alignment": {"rounds": rounds, "seconds": time.perf_counter() - started}}


def keep(cell: Cell, data: Any, event_R: Any, found: Any) -> None:
    """Keep the ranked items, to compare by."""
    import numpy as np
    from safetensors.numpy import save_file

    tensors = {mode: np.ascontiguousarray(ranked_RK) for mode, ranked_RK in found.ranked.items()}
    tensors |= {"event_R": event_R, "user_R": data.visits.user_E[event_R], "target_R": data.visits.item_E[event_R],
                "new_R": data.visits.new_E[event_R].astype(np.int32)}  # fmt: skip
    with atomic_path(cell.ranked) as path:
        save_file(tensors, path)


def described(cell: Cell) -> dict[str, Any]:
    """What a cell is a cell of."""
    return {
        "experiment": "table2",
        "dataset": cell.dataset,
        "protocol": cell.protocol,
        "method": cell.method,
        "model": cell.model,
        "label": cell.label,
        "seed": cell.seed,
    }


def work(cells: list[Cell], again: bool) -> Iterator[str]:
    """Make the cells that are missing, or all of them once more; yields the failures."""
    for cell in cells:
        try:
            if is_made(cell.target, cell.digest()) and not again:
                print(f"kept {cell.name}")
                continue
            started = time.perf_counter()
            metrics = measure_cell(cell)
            seconds = time.perf_counter() - started
            write_json(cell.target, result(described(cell), metrics, seconds, cell.digest()))
        except (LgsidError, OSError) as error:
            print(f"FAIL {cell.name}: {error}", flush=True)
            yield cell.name
        else:
            hit = metrics["catalogue"]["all"]["hit@5"]
            print(f"ran  {cell.name}: Hit@5 {hit:.4f} in {seconds:.0f} s", flush=True)


def baselines(cells: list[Cell]) -> None:
    """The rows without training."""
    from lgsid.generate.generating import baselines as fitted
    from lgsid.generate.generating import measured, requests_to_answer

    for cell in cells:
        data = data_of(cell)
        event_R = requests_to_answer(data, cell.most)
        for name, recommender in fitted(data, cell.generate).items():
            started = time.perf_counter()
            of = Cell(cell.dataset, cell.protocol, name, NONE, 0, cell.most)
            found = measured(recommender, data, cell.generate, event_R, KS)
            keep(of, data, event_R, found)
            write_json(of.target, result(described(of), found.figures, time.perf_counter() - started, cell.digest()))
            print(f"ran  {of.name}: Hit@5 {found.figures['catalogue']['all']['hit@5']:.4f}", flush=True)


def main() -> None:
    """Run the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--protocols", nargs="+", default=list(PROTOCOLS[:2]), choices=list(PROTOCOLS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=[*MODELS, "sasrec"])
    parser.add_argument("--methods", nargs="+", default=list(CODES), choices=list(CODES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--requests", type=int, default=4_000, help="test requests of a cell, at most")
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--label", default="", help="part of the cells' names, for variants made with --set")
    parser.add_argument("--baselines", action="store_true", help="make the rows without training, and no others")
    parser.add_argument("--again", action="store_true", help="measure cells that are there again, as for new figures")
    args = parser.parse_args()
    keys = itertools.product(args.seeds, args.datasets, args.protocols, args.models, args.methods)
    cells = [
        Cell(dataset, protocol, model, NONE if model == "sasrec" else method, seed, args.requests,
             (*SHORT[model], *args.sets), args.label)
        for seed, dataset, protocol, model, method in keys
    ]  # fmt: skip
    cells = list(dict.fromkeys(cells))
    if args.baselines:
        baselines([Cell(dataset, protocol, "sasrec", NONE, 0, args.requests)
                   for dataset, protocol in itertools.product(args.datasets, args.protocols)])  # fmt: skip
        return
    failed = list(work(cells, args.again))
    if failed:
        raise SystemExit(f"{len(failed)} cells failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
