"""Training a ranker at the paper's scale: 50 million samples, 2,325,266 items, 19 million users, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/rank_scale.py --folder BIG [--seconds 600]

Six steps, each in a process of its own. Their figures are kept in ``BIG/STEP.json``, and a step that has its file is
not done again; a training that was killed goes on from its checkpoint, unless it is to end after ``--seconds``.

A world is simulated; its items get codes; the samples are written, with the first fifth of the training file beside
them; DIN goes once through the fifth, then once through all of it; both are tested. Whether a training's memory grows
with its samples is seen from the two: *anonymous* memory is what the process holds, *mapped* are pages of the files,
which the system takes back when it needs them.

What is simulated, and what is not:

- Each simulated person is ten users (``--accounts``): what they do on every tenth day is one user's. Rankers have no
  embedding of a user, so users are histories; people would each take 650 bytes while they are simulated.
- A page shows two shops and four of five pages have a click; clicks are the visits. Impressions are left
  out, as in a check-in log: all four negatives of a visit are drawn, from within reach and from the city.
- Embeddings are random vectors of an item's category and brand with noise; HGIT's codes of them bear place and kind.

Cell: ``results/bench/rank_scale.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lgsid.artifact import peak_memory_mib, read_json, sha256_json, versions, write_json

if TYPE_CHECKING:
    import polars as pl

    from lgsid.arrays import FloatArray
    from lgsid.config import RankConfig, SampleConfig
    from lgsid.rank.base import Ranker
    from lgsid.rank.features import ItemFeatures
    from lgsid.rank.loader import Requests, SampleFolder

RESULTS = Path(__file__).resolve().parents[1] / "results" / "bench" / "rank_scale.json"
STEPS = ("world", "codes", "samples", "train_fifth", "train", "test")
SLATE, CLICK_RATE, ORDER_RATE, NEGATIVES, REACH_KM = 2, 0.8, 0.01, 4, 5.0
TRAINING_SHARE, VALIDATION_SHARE = 0.9, 0.02
DIM, FITTED, TESTED_GROUPS = 64, 100_000, 1_024
"""Of the embeddings; items the tokeniser is fitted on; groups of the test file that are scored."""


class Memory:
    """Watches what a process holds (anonymous memory) and what it has mapped of files, in MiB.

    The system keeps no peak of the one without the other, so a thread looks twice a second.
    """

    def __init__(self) -> None:
        self.peak = held_mib()
        threading.Thread(target=self._watch, daemon=True).start()

    def figures(self) -> dict[str, float]:
        """Peaks so far."""
        return {f"peak_{name}_mib": value for name, value in self.peak.items()}

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            self.peak = {name: max(value, self.peak[name]) for name, value in held_mib().items()}


def held_mib() -> dict[str, float]:
    """Anonymous and mapped memory of this process now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return {"anonymous": held["RssAnon"], "mapped": held["RssFile"]}


def sample_config() -> SampleConfig:
    """How samples are drawn."""
    from lgsid.config import SampleConfig

    return SampleConfig(negatives=NEGATIVES, reach_km=REACH_KM, validation_share=VALIDATION_SHARE, kinds=("click",))


def rank_config() -> RankConfig:
    """One pass of DIN, as it comes."""
    from lgsid.config import RankConfig

    return RankConfig(epochs=1, least_updates=1, validations=1, samples=sample_config())


def pages_for(users: int, positives: int) -> int:
    """Pages that make so many training requests: clicks that are not their user's first.

    People's activity is log-normal with spread 1, a session has 1, 2, … pages with probability ½, ¼, …
    """
    import numpy as np

    activity = np.random.default_rng(0).lognormal(size=100_000)
    activity /= activity.mean()
    no_click = 0.5 * (1 - CLICK_RATE) / (1 - 0.5 * (1 - CLICK_RATE))
    low, high = 0.0, 1_000.0  # sessions of a user
    for _ in range(60):
        sessions = (low + high) / 2
        active = 1 - np.exp(-TRAINING_SHARE * sessions * (1 - no_click) * activity).mean()
        enough = users * (TRAINING_SHARE * sessions * 2 * CLICK_RATE - active) > positives
        low, high = (low, sessions) if enough else (sessions, high)
    return round(users * high * 2)


def world(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Simulate items and events, block by block, into Parquet."""
    import polars as pl

    from lgsid.config import ChoiceConfig, WorldConfig
    from lgsid.data.world import simulate

    pages = pages_for(args.users, args.positives)
    config = WorldConfig(
        items=args.items, users=-(-args.users // args.accounts), cities=args.cities, slate=SLATE,
        events=round(pages * (0.97 * SLATE + CLICK_RATE * (1 + ORDER_RATE))),
        choice=ChoiceConfig(click_rate=CLICK_RATE, order_rate=ORDER_RATE),
    )  # fmt: skip
    simulate(config, 0, folder)
    shutil.rmtree(folder / "truth")  # several GiB that nobody reads here
    kinds = pl.scan_parquet(folder / "events.parquet").group_by("kind").len().collect(engine="streaming")
    return {"items": args.items, "users": args.users, "events": dict(kinds.iter_rows())}


def codes(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Embeddings of the items, a tokeniser fitted on some of them, and the codes of all."""
    import numpy as np

    from lgsid import HierarchicalTokenizer

    items = read_items(folder)
    rng = np.random.default_rng(0)
    labels = [items[name].rank("dense").fill_null(0).to_numpy().astype(np.int64) for name in ("category", "brand")]
    tables = [rng.standard_normal((int(label.max()) + 1, DIM)).astype(np.float32) for label in labels]
    emb = np.lib.format.open_memmap(folder / "emb.npy", mode="w+", dtype=np.float16, shape=(len(items), DIM))
    for begin in range(0, len(items), 65_536):
        rows = slice(begin, begin + 65_536)
        x = tables[0][labels[0][rows]] + 0.7 * tables[1][labels[1][rows]]
        emb[rows] = x + 0.4 * rng.standard_normal(x.shape, dtype=np.float32)
    fitted = np.sort(rng.permutation(len(items))[:FITTED])
    tokenizer = HierarchicalTokenizer().fit(items[fitted], emb[fitted].astype(np.float32))
    codes_NL = tokenizer.transform(items, np.load(folder / "emb.npy", mmap_mode="r"))
    np.save(folder / "codes.npy", codes_NL)
    tokenizer.save_pretrained(folder / "tokenizer")
    return {"distinct_sids": len(np.unique(codes_NL, axis=0)), "fitted_on": len(fitted)}


def samples(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write the samples, and beside them the same with a fifth of the training file."""
    import polars as pl

    from lgsid.rank.samples import write_samples

    events = pl.scan_parquet(folder / "events.parquet")
    account = (pl.col("timestamp").dt.epoch("d") % args.accounts).cast(pl.String)
    events = events.filter(pl.col("kind") == "click").with_columns(pl.concat_str("user_id", pl.lit("-"), account))
    counts = write_samples(read_items(folder), events, sample_config(), TRAINING_SHARE, 0, folder / "samples")
    cut_training(folder / "samples", folder / "fifth", args.positives // 5)
    sizes = {path.name: path.stat().st_size / 2**20 for path in sorted((folder / "samples").iterdir())}
    return {**counts, "file_mib": sizes}


def cut_training(whole: Path, part: Path, requests: int) -> None:
    """A folder with the same samples, but so many requests to train on."""
    import pyarrow.parquet as pq

    from lgsid.artifact import atomic_path
    from lgsid.rank.samples import GROUP

    part.mkdir(exist_ok=True)
    for path in whole.iterdir():
        link = part / path.name
        link.unlink(missing_ok=True)
        if path.stem != "train":
            link.symlink_to(path.resolve())
    file = pq.ParquetFile(whole / "train.parquet")
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    groups = min(file.num_row_groups, -(-requests // GROUP))
    with atomic_path(part / "train.parquet") as path, pq.ParquetWriter(path, file.schema_arrow, **options) as writer:
        for start in range(0, groups, 256):
            table = file.read_row_groups(range(start, min(start + 256, groups)))
            writer.write_table(table, row_group_size=GROUP)


class TimeOverError(Exception):
    """The training has had its time."""


def train(folder: Path, seconds: float) -> dict[str, Any]:
    """One pass of DIN over the samples of a folder, or as much of it as fits into the time."""
    memory = Memory()
    from lgsid.rank.loader import SampleFolder
    from lgsid.rank.methods import make_ranker
    from lgsid.rank.pretrained import save_ranker
    from lgsid.rank.samples import GROUP

    footer = open_file(folder / "train.parquet")
    items, config = read_items(folder.parent), rank_config()
    found = SampleFolder(folder, items)
    ranker = make_ranker("din", features_of(items, found, folder.parent, config), config, 0)
    groups, took, course = one_pass(ranker, found, config, None if seconds else folder, seconds)
    save_ranker(ranker, folder / "din")
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)
    requests = len(found.file("train"))
    trained = min(groups * GROUP, requests) * (1 + NEGATIVES)
    return {
        "requests": requests, "samples": trained, "training_seconds": took, "samples_per_second": trained / took,
        **footer, **course, "table_rows": [len(table) for table in ranker.items.tables],
        "tables_mib": sum(table.nbytes for table in ranker.items.tables) / 2**20, **memory.figures(),
    }  # fmt: skip


def one_pass(
    ranker: Ranker, found: SampleFolder, config: RankConfig, kept: Path | None, seconds: float
) -> tuple[int, float, dict[str, Any]]:
    """Train; returns how many groups were seen in how many seconds, and the course of the training."""
    from lgsid.rank.training import RankTraining, train_ranker

    class Timed(RankTraining):
        started, groups = 0.0, 0

        def loss(self, *args: Any) -> Any:
            self.started = self.started or time.perf_counter()
            if seconds and time.perf_counter() - self.started > seconds:
                raise TimeOverError
            self.groups += len(args[0])
            return super().loss(*args)

    batcher = found.batcher(ranker.history_length)
    training = Timed(ranker, found.file("train"), found.file("validation"), batcher, config)
    try:
        history = train_ranker(training, config, 0, kept, str(kept))
    except TimeOverError:
        return training.groups, seconds, {}
    course = {"validation_auc": [validation.score for validation in history.validations]}
    losses = [record.loss for record in history.records[:: max(1, len(history.records) // 20)]]
    return history.examples, history.seconds, {**course, "loss": losses}


def open_file(path: Path) -> dict[str, float]:
    """What the footer of a training file takes: bytes of the file, and time and memory when it is opened."""
    import pyarrow.parquet as pq

    before, started = held_mib()["anonymous"], time.perf_counter()
    metadata = pq.ParquetFile(path, memory_map=True).metadata
    took, held = time.perf_counter() - started, held_mib()["anonymous"] - before
    return {
        "groups": metadata.num_row_groups, "footer_mib": metadata.serialized_size / 2**20,
        "open_seconds": took, "open_mib": held,
    }  # fmt: skip


def test(folder: Path) -> dict[str, Any]:
    """AUC of both rankers on a random part of the test file, beside rows that need no training."""
    import numpy as np

    from lgsid.rank.baselines import PopularWithinReach, Revisit
    from lgsid.rank.loader import Requests, SampleFolder
    from lgsid.rank.metrics import Samples, measure
    from lgsid.rank.visits import TRAINING

    items = read_items(folder)
    found = SampleFolder(folder / "samples", items)
    file = found.file("test")
    groups = range(min(TESTED_GROUPS, file.groups))  # requests are in random order
    requests, seen_N = file.read(groups), found.seen()
    lat_N, lon_N = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    scores: dict[str, Any] = {}
    for name, part in (("din", "samples"), ("din_fifth", "fifth")):
        if (folder / part / "din").exists():
            scores[name] = scores_of(folder / part / "din", found, [Requests.joined([file.read([k])]) for k in groups])
    user_E, period_E = found.users_and_periods()
    for rival in (PopularWithinReach(lat_N, lon_N, REACH_KM), Revisit(len(items))):
        rival.fit(user_E, found.item_E, found.time_E, period_E == TRAINING)
        scores[rival.name] = rival.score(requests, found.item_E)
    known = Samples.of_requests(requests, lat_N, lon_N, seen_N)
    result = {}
    for name, score_BC in scores.items():
        figures = measure(np.ascontiguousarray(score_BC).ravel(), known, logits=name.startswith("din"))
        result[name] = {key: figures[key] for key in ("auc", "gauc", "first_visits", "revisits")}
    past = requests.stop - requests.first
    return {"tested_requests": len(requests), "mean_past": float(past.mean()), "test": result}


def scores_of(path: Path, found: SampleFolder, parts: list[Requests]) -> FloatArray:
    """Logits of a saved ranker."""
    import numpy as np
    import torch

    from lgsid.rank.pretrained import load_ranker

    ranker = load_ranker(path)
    batcher = found.batcher(ranker.history_length)
    with torch.inference_mode():
        return np.concatenate([ranker(batcher(part)).logit_BC.numpy() for part in parts])


def features_of(items: pl.DataFrame, found: SampleFolder, folder: Path, config: RankConfig) -> ItemFeatures:
    """What DIN knows of an item: ID, category, brand and three codes."""
    import numpy as np

    from lgsid.rank.features import item_features, sid_rows

    codes_NL = np.load(folder / "codes.npy")
    sid = sid_rows(codes_NL, [256] * codes_NL.shape[1], "levels")
    return item_features(items, found.seen(), sid, config)


def read_items(folder: Path) -> pl.DataFrame:
    """The catalogue, as the stages read it."""
    import polars as pl

    return pl.read_parquet(folder / "items.parquet")


def run_step(step: str, args: argparse.Namespace) -> dict[str, Any]:
    """One step in this process."""
    steps = {
        "world": lambda: world(args.folder, args),
        "codes": lambda: codes(args.folder, args),
        "samples": lambda: samples(args.folder, args),
        "train_fifth": lambda: train(args.folder / "fifth", args.seconds),
        "train": lambda: train(args.folder / "samples", args.seconds),
        "test": lambda: test(args.folder),
    }
    started, cpu = time.perf_counter(), time.process_time()
    figures = steps[step]()
    took = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    return {**figures, **took, "peak_mib": peak_memory_mib()}


def settings(args: argparse.Namespace) -> dict[str, int]:
    """What a folder holds."""
    return {name: getattr(args, name) for name in ("items", "users", "positives", "accounts", "cities")}


def cell(args: argparse.Namespace, metrics: dict[str, Any]) -> dict[str, Any]:
    """The result file."""
    return {
        "experiment": "bench", "dataset": f"world_{args.items}", "method": "lgsid", "model": "din", "seed": 0,
        "metrics": metrics, "seconds": sum(step["seconds"] for step in metrics.values()),
        "peak_mib": max(step["peak_mib"] for step in metrics.values()),
        "device": f"cpu, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}",
        "config": settings(args), "config_sha256": sha256_json([settings(args), args.seconds]), "versions": versions(),
    }  # fmt: skip


def main() -> None:
    """Each step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="everything is kept here: 15 GiB")
    parser.add_argument("--items", type=int, default=2_325_266)
    parser.add_argument("--users", type=int, default=19_000_000)
    parser.add_argument("--positives", type=int, default=10_000_000, help="training requests, about")
    parser.add_argument("--accounts", type=int, default=10, help="users of each simulated person")
    parser.add_argument("--cities", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=0.0, help="end each training after so long; 0: a whole pass")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.step:
        write_json(args.folder / f"{args.step}.json", run_step(args.step, args))
        return
    wanted = settings(args)
    kept = args.folder / "settings.json"
    if kept.exists() and read_json(kept) != wanted:
        parser.error(f"{args.folder} holds {read_json(kept)}, expected {wanted}: name another --folder")
    write_json(kept, wanted)
    metrics: dict[str, Any] = {}
    for step in STEPS:
        done = args.folder / f"{step}.json"
        if not done.exists():
            subprocess.run([sys.executable, __file__, "--step", step, *sys.argv[1:]], check=True)
        metrics[step] = read_json(done)
        print(step, json.dumps(metrics[step]), flush=True)
        write_json(args.out, cell(args, metrics))


if __name__ == "__main__":
    main()
