"""Rankers behind all tokenisers on real visits: one file a cell in ``results/table1/``.

    python benchmarks/table1.py [--datasets …] [--models …] [--methods …] [--seeds …] [--distance …] [--most N]

A cell is DATASET-MODEL-METHOD-DISTANCE-SEED: a ranker trained on the visits of a catalogue, with the codes of a method
among what it knows of an item. All cells of a dataset have the same requests and negatives; the seed is that of the
tokeniser and of the ranker. The item side is the ID and the codes; "id" has no codes, "random" codes that say nothing.
"id+labels" and "lgsid+labels" also know category and brand, where the dataset has them.

Codes are those of ``benchmarks/tokenizer_quality.py --codes`` (``results/codes/``), as the tokenisers give them: the ID
tells apart what shares a code. Items and visits come from the data stage of ``runs/NAME-seed0``, which is made where it
is missing. Codes from another machine differ in their last bits, so cells are of other inputs there; ``--missing``
makes those alone that are not there at all. ``--most`` shrinks the training to so many random requests for
all methods alike, and is part of a cell's name.

The scores of a cell's test file are kept in ``runs/NAME-seed0/rank-cache``; ``--compare`` compares every method with
LGSID on them by a bootstrap over users. Work may be shared among processes by datasets, models or methods.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalogues import REPOSITORY, codes_path, config_of, data_of, is_made, read_codes, result, rounded, run_of

from lgsid.artifact import (
    RunFolder,
    atomic_path,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from lgsid.config import RankConfig, RunConfig
from lgsid.errors import LgsidError

RESULTS = REPOSITORY / "results" / "table1"
DATASETS = ("gowalla-nyc", "fsq-nyc")
MODELS = ("din", "dien", "sim", "twin", "eta")
CODES = {
    "random": ("random", "unaligned"),
    "res_kmeans": ("res_kmeans", "unaligned"),
    "rqvae": ("rqvae", "unaligned"),
    "unified": ("unified", "unaligned"),
    "rqvae_ngram": ("rqvae", "unaligned"),
    "gnpr": ("gnpr", "unaligned"),
    "geo_grid": ("geo_grid", "unaligned"),
    "hgit_unaligned": ("hgit", "unaligned"),
    "res_kmeans_aligned": ("res_kmeans", "aligned"),
    "first_token": ("hgit", "aligned"),
    "lgsid": ("hgit", "aligned"),
}
"""Tokeniser and vectors of each method; "first_token" has the first token alone."""
METHODS = ("id", *CODES)
LABELLED = ("id+labels", "lgsid+labels")
PROTOCOL = 1
"""Counts changes of what is measured; part of every cell's hash."""
LATER = {"least_updates"}
"""Options that came after the first cells and change nothing there."""
HISTORY = 300
"""Visits that SIM, TWIN and ETA search."""
SHORT = {"epochs": 1.0, "least_updates": 1, "validations": 2, "learning_rate": 0.012, "table_learning_rate": 0.02}
"""Training of all rankers but DIN, the same for every method: one pass over all requests, which is what two cores can
pay, at a higher learning rate, which makes up for most of it (docs/experiments.md). DIN has what the library does by
default, up to three passes with early stopping."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table."""

    dataset: str
    model: str
    method: str
    distance: bool
    seed: int
    most: int | None

    @property
    def name(self) -> str:
        size = f"-{self.most}" if self.most else ""
        return f"{self.dataset}-{self.model}-{self.method}-{'distance' if self.distance else 'plain'}{size}-{self.seed}"

    @property
    def target(self) -> Path:
        return RESULTS / f"{self.name}.json"

    @property
    def run(self) -> RunFolder:
        return run_of(self.dataset, "unaligned")

    @property
    def scores(self) -> Path:
        return self.run.path("rank-cache", f"{self.name}.safetensors")

    @property
    def config(self) -> RunConfig:
        return config_of(self.dataset, ["rank.models=[din]"])

    @property
    def rank(self) -> RankConfig:
        labels = self.method in LABELLED
        base = self.config.rank
        return base.model_copy(
            update={
                **({} if self.model == "din" else SHORT),
                "features": base.features if labels else ("id",),
                "sid": "none" if self.method.startswith("id") else "levels",
                "distance": self.distance,
                "most_requests": self.most,
                "search": base.search.model_copy(update={"history": HISTORY}),
            }
        )

    @property
    def codes(self) -> Path | None:
        """File of the codes; None where there are none."""
        if self.method.startswith("id"):
            return None
        tokenizer, vectors = CODES[self.method.removesuffix("+labels")]
        return codes_path(self.dataset, vectors, tokenizer, self.seed)

    def digest(self) -> str:
        """Hash of everything that the cell's figures depend on but the code."""
        samples = self.config.rank.samples.model_dump(mode="json")
        events = sha256_file(self.run.path("1_data", "events.parquet"))
        codes = sha256_file(self.codes) if self.codes else None
        options = self.rank.model_dump(mode="json", exclude=LATER)
        return sha256_json([PROTOCOL, self.model, self.method, options, self.seed, samples,
                            self.config.sid.training_share, events, codes])  # fmt: skip


def sample_folder(cell: Cell) -> Any:
    """The samples of a dataset; writes them where they are not there yet."""
    import polars as pl

    from lgsid.rank.loader import SampleFolder
    from lgsid.rank.samples import write_samples

    items = pl.read_parquet(data_of(cell.dataset).path("1_data", "items.parquet"))
    config, events = cell.config, cell.run.path("1_data", "events.parquet")
    asked = sha256_json([PROTOCOL, config.rank.samples.model_dump(mode="json"), config.sid.training_share,
                         sha256_file(events)])  # fmt: skip
    folder = cell.run.path("rank-cache", f"samples-{asked[:12]}")
    if not (folder / "counts.json").exists():
        counts = write_samples(
            items, pl.scan_parquet(events), config.rank.samples, config.sid.training_share, 0, folder
        )
        write_json(folder / "counts.json", counts)
    return SampleFolder(folder, items)


def code_rows(cell: Cell) -> Any:
    """The codes of a cell as rows of embedding tables; None where it has none."""
    import numpy as np

    from lgsid.config import NgramConfig
    from lgsid.rank.features import SidRows, sid_rows
    from lgsid.sid.ngram import prefix_ngrams

    if cell.codes is None:
        return None
    codes_NL = read_codes(cell.codes, "raw")
    sizes = [int(column.max()) + 1 for column in codes_NL.T]
    if cell.method == "first_token":
        codes_NL, sizes = codes_NL[:, :1], sizes[:1]
    if cell.method == "rqvae_ngram":
        rows_NL, tables = prefix_ngrams(codes_NL, sizes, NgramConfig().rows)
        return SidRows(rows_NL, tuple(tables))
    if cell.method == "unified":  # an id for each whole code, beside its tokens
        id_N = np.unique(codes_NL, axis=0, return_inverse=True)[1].reshape(-1, 1)
        return SidRows(np.concatenate([codes_NL, id_N], axis=1), (*sizes, int(id_N.max()) + 1))
    return sid_rows(codes_NL, sizes, "levels")


def measure_cell(cell: Cell, samples: Any) -> dict[str, Any]:
    """Train, score and measure."""
    from safetensors.numpy import save_file

    from lgsid.rank.features import item_features
    from lgsid.rank.ranking import MEASURED, figures, samples_of, score_files, train

    seen_N = samples.seen()
    features = item_features(samples.items, seen_N, code_rows(cell), cell.rank)
    ranker, history = train(cell.model, features, samples, cell.rank, cell.seed)
    scores = score_files(ranker, samples)
    with atomic_path(cell.scores) as path:
        save_file(scores, path)
    found = figures(scores, {name: samples_of(samples, name, seen_N) for name in MEASURED}, logits=True)
    assert history.best is not None
    found["validation"] = {"auc": history.best.score, "epoch": history.best.epoch}
    found["examples_per_second"] = 256 * (1 + cell.rank.samples.negatives) * history.examples / history.seconds
    return found


def measure_baselines(cell: Cell, samples: Any) -> dict[str, Any]:
    """Figures of the baselines, which need no training."""
    from lgsid.rank.ranking import MEASURED, baseline_scores, figures, samples_of

    seen_N = samples.seen()
    known = {name: samples_of(samples, name, seen_N) for name in MEASURED}
    found = baseline_scores(samples, cell.rank.samples.reach_km)
    return {name: figures(scores, known, logits=False) for name, scores in found.items()}


def described(cell: Cell, method: str) -> dict[str, Any]:
    """What a cell is a cell of."""
    return {
        "experiment": "table1",
        "dataset": cell.dataset,
        "method": method,
        "model": cell.model,
        "distance": cell.distance,
        "most_requests": cell.most,
        "seed": cell.seed,
    }


def work(cells: list[Cell], missing: bool) -> Iterator[str]:
    """Make the cells that are not there, and unless ``missing`` those of other inputs; yields the failures."""
    folders: dict[str, Any] = {}
    for cell in cells:
        try:
            if is_made(cell.target, cell.digest()) or (missing and cell.target.exists()):
                print(f"kept {cell.name}")
                continue
            samples = folders.get(cell.dataset) or folders.setdefault(cell.dataset, sample_folder(cell))
            started = time.perf_counter()
            metrics = measure_cell(cell, samples)
            seconds = time.perf_counter() - started
            write_json(cell.target, result(described(cell, cell.method), metrics, seconds, cell.digest()))
        except (LgsidError, OSError) as error:
            print(f"FAIL {cell.name}: {error}", flush=True)
            yield cell.name
        else:
            print(f"ran  {cell.name}: AUC {metrics['auc']:.4f} in {seconds:.0f} s", flush=True)


def baselines(datasets: list[str]) -> None:
    """The rows without training."""
    for dataset in datasets:
        cell = Cell(dataset, "none", "id", False, 0, None)
        samples, started = sample_folder(cell), time.perf_counter()
        for name, metrics in measure_baselines(cell, samples).items():
            seconds = time.perf_counter() - started
            digest = sha256_file(samples.folder / "counts.json")
            write_json(RESULTS / f"{dataset}-none-{name}.json", result(described(cell, name), metrics, seconds, digest))
        write_json(RESULTS / f"{dataset}-samples.json", {
            "experiment": "table1-samples", "dataset": dataset,
            "metrics": rounded(read_json(samples.folder / "counts.json")),
        })  # fmt: skip


def compare(cells: list[Cell]) -> None:
    """LGSID against every other method on the same requests, seeds averaged, users drawn with replacement."""
    from safetensors.numpy import load_file

    from lgsid.rank.bootstrap import bootstrap_auc
    from lgsid.rank.ranking import samples_of

    def group(cell: Cell) -> tuple[str, str, bool, int]:
        return cell.dataset, cell.model, cell.distance, cell.most or 0

    for (dataset, model, distance, most), members in itertools.groupby(sorted(cells, key=group), key=group):
        by_method: dict[str, list[Any]] = {}
        first: dict[str, list[Any]] = {}
        there = [cell for cell in members if cell.scores.exists() and cell.target.exists()]
        if not any(cell.method == "lgsid" for cell in there):
            continue
        samples = sample_folder(there[0])
        known = samples_of(samples, "test", samples.seen())
        for cell in there:
            scores_S = load_file(cell.scores)["test"].ravel()
            by_method.setdefault(cell.method, []).append(scores_S)
            first.setdefault(cell.method, []).append(scores_S[known.first_visit_S])
        some = known.where(known.first_visit_S)
        rows: dict[str, Any] = {}
        for part, vectors, of in (("all", by_method, known), ("first_visits", first, some)):
            found = bootstrap_auc(vectors, of.label_S, of.user_S)
            rows[part] = {
                method: found.difference("lgsid", method).to_json() for method in vectors if method != "lgsid"
            }
        size = f"-{most}" if most else ""
        name = f"{dataset}-{model}-{'distance' if distance else 'plain'}{size}-compared.json"
        write_json(RESULTS / name, {
            "experiment": "table1-compared", "dataset": dataset, "model": model, "distance": distance,
            "most_requests": most or None, "metrics": rounded(rows),
        })  # fmt: skip
        print(f"compared {dataset} {model}")


def main() -> None:
    """Run the cells that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=[*METHODS, *LABELLED])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--distance", choices=["plain", "distance", "both"], default="plain")
    parser.add_argument("--most", type=int, default=None)
    parser.add_argument("--missing", action="store_true", help="keep cells that are there, whatever they were made of")
    parser.add_argument("--baselines", action="store_true", help="make the rows without training, and no others")
    parser.add_argument("--compare", action="store_true", help="compare finished cells, and make no others")
    args = parser.parse_args()
    if args.baselines:
        baselines(args.datasets)
        return
    distances = {"plain": [False], "distance": [True], "both": [False, True]}[args.distance]
    cells = [
        Cell(dataset, model, method, distance, seed, args.most)
        for distance, model, seed, dataset, method in itertools.product(
            distances, args.models, args.seeds, args.datasets, args.methods
        )
    ]
    if args.compare:
        compare(cells)
        return
    failed = list(work(cells, args.missing))
    if failed:
        raise SystemExit(f"{len(failed)} cells failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
