"""Our rankers beside torch-rechub's and FuxiCTR's, trained side by side on the same visits: test AUC and samples/s.

    pip install -c constraints.txt -e '.[peers]'
    OMP_NUM_THREADS=1 python benchmarks/rankers.py [--run runs/fsq-nyc-seed0] [--seeds 0 1 2] [--pairs din-fuxictr …]

Both sides of a pair see the same samples in the same order (whole requests: a visit and its negatives), and know the
same of them: the IDs of candidate and history, the hour and the day. They have the same sizes, the same Adam with the
same learning rate, and take turns step by step in one process on one thread; a step is forward, backward and update.
Ours also makes its batch from the visits within the timed step, peers get theirs ready-made. After each epoch both are
validated, and the test AUC is that of each one's best epoch.

The training is short, and the peers are mostly still improving when it ends: the AUC says how far each side gets with
so many samples, not where it would end.

Peers run as they come from the package index. What they are given their way:

- torch-rechub: padding (ID 0, a zero vector) behind the history, which its DIEN needs and its DIN does not mind; the
  negatives of DIEN's auxiliary loss are other visits of the batch, and the loss has our weight.
- FuxiCTR (the models of LongCTR, from its wheel): padding before the history as its loader does by default, but behind
  it for DIEN, which packs sequences from their start. Its DIEN has no auxiliary loss; its SIM multiplies scores by the
  mask before the search. Updates by its own ``train_step``.

Results go to ``results/bench/rankers.json``.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from lgsid.arrays import IntArray
from lgsid.artifact import read_json, sha256_json, versions, write_json
from lgsid.config import RankConfig, TrainerConfig, load_run_config
from lgsid.rank.auc import auc
from lgsid.rank.base import DAYS, HOURS, Batch
from lgsid.rank.features import item_features
from lgsid.rank.loader import Requests, SampleFolder
from lgsid.rank.methods import make_ranker
from lgsid.rank.optimizer import rank_optimizer
from lgsid.rank.samples import GROUP, write_samples

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results" / "bench" / "rankers.json"
DIM, HIDDEN, ATTENTION, HEADS, BITS, AUXILIARY = 32, (128, 64), (36,), 2, 32, 0.5
SHORT, LONG, KEEP = 30, 100, 30
"""Visits that DIN and DIEN see, those that SIM and ETA search, and those that these keep."""
CONTEXT = 8
"""Dimensions of the hour's and the day's embeddings."""


@dataclass(frozen=True)
class Data:
    """Requests by file, in blocks of 256, and the catalogue."""

    samples: SampleFolder
    seen_N: IntArray
    train: Sequence[Requests]
    validation: Sequence[Requests]
    test: Sequence[Requests]

    @property
    def items(self) -> int:
        return len(self.samples.items)


class Ours:
    """A ranker of this library that knows IDs, hour and day alone."""

    def __init__(self, model: str, data: Data, rate: float, seed: int) -> None:
        config = RankConfig.model_validate({
            "features": ("id",), "sid": "none", "gate": False, "dim": DIM, "history": SHORT, "hidden": HIDDEN,
            "attention_hidden": ATTENTION, "auxiliary_weight": AUXILIARY,
            "search": {"history": LONG, "keep": KEEP, "heads": HEADS, "hash_bits": BITS},
        })  # fmt: skip
        features = item_features(data.samples.items, data.seen_N, None, config)
        self.network = make_ranker(model, features, config, seed)
        self.batcher = data.samples.batcher(self.network.history_length)
        # peers do not see how long ago a visit was
        self.network.gap.weight.detach().zero_()
        self.network.gap.weight.requires_grad_(False)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = rank_optimizer([{"params": trained, "lr": rate, "weight_decay": 0.0}], TrainerConfig())

    def prepare(self, requests: Requests) -> Requests:
        return requests

    def step(self, requests: Requests) -> None:
        self.network.train()
        batch = self.batcher(requests)
        scores = self.network(batch)
        loss = functional.binary_cross_entropy_with_logits(scores.logit_BC, batch.label_BC)
        for extra in scores.losses.values():
            loss = loss + extra
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def scores(self, requests: Requests) -> Tensor:
        return self.network.eval()(self.batcher(requests)).logit_BC.flatten()


@dataclass(frozen=True)
class Flat:
    """A batch as peers want it: one row a sample, IDs from 1, 0 is padding."""

    item_S: Tensor
    history_ST: Tensor
    hour_S: Tensor
    day_S: Tensor
    label_S: Tensor

    @classmethod
    def of(cls, batch: Batch, behind: bool) -> Flat:
        candidates = batch.candidates_BC.shape[1]
        history_BT = (batch.items_U[batch.history_BT] + 1) * batch.mask_BT
        if behind:
            order_BT = batch.mask_BT.to(torch.int8).argsort(dim=1, descending=True, stable=True)
            history_BT = history_BT.gather(1, order_BT)
        return cls(
            (batch.items_U[batch.candidates_BC] + 1).flatten(),
            history_BT.repeat_interleave(candidates, 0),
            batch.hour_B.repeat_interleave(candidates),
            batch.day_B.repeat_interleave(candidates),
            batch.label_BC.flatten(),
        )


class Rechub:
    """torch-rechub 0.9: its models, and the step of its CTRTrainer without the progress bar."""

    def __init__(self, model: str, data: Data, rate: float, seed: int) -> None:
        from torch_rechub.basic.features import SequenceFeature, SparseFeature
        from torch_rechub.models.ranking import DIEN, DIN

        torch.manual_seed(seed)
        context = [SparseFeature("hour", HOURS, CONTEXT), SparseFeature("day", DAYS, CONTEXT)]
        target = [SparseFeature("item", data.items + 1, DIM, padding_idx=0)]
        history, others = (
            [SequenceFeature(name, data.items + 1, DIM, pooling="concat", shared_with="item", padding_idx=0)]
            for name in ("history", "others")
        )
        head: dict[str, Any] = {"dims": list(HIDDEN)}
        self.auxiliary = model == "dien"
        if self.auxiliary:
            self.network = DIEN(context, history, others, target, head, alpha=AUXILIARY)
        else:
            self.network = DIN(context, history, target, head, {"dims": list(ATTENTION)})
        self.batcher = data.samples.batcher(SHORT)
        self.generator = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate)
        self.criterion = torch.nn.BCELoss()

    def prepare(self, requests: Requests) -> tuple[dict[str, Tensor], Tensor]:
        flat = Flat.of(self.batcher(requests), behind=True)
        x = {"item": flat.item_S, "history": flat.history_ST, "hour": flat.hour_S, "day": flat.day_S}
        if self.auxiliary:
            visits = flat.history_ST[flat.history_ST > 0]
            drawn = torch.randint(len(visits), flat.history_ST.shape, generator=self.generator)
            x["others"] = visits[drawn] * (flat.history_ST > 0)
        return x, flat.label_S

    def step(self, batch: tuple[dict[str, Tensor], Tensor]) -> None:
        self.network.train()
        x, label_S = batch
        found = self.network(x)
        prediction_S, extra = found if self.auxiliary else (found, 0.0)
        loss = self.criterion(prediction_S, label_S) + extra
        self.network.zero_grad()
        loss.backward()
        self.optimizer.step()

    def scores(self, batch: tuple[dict[str, Tensor], Tensor]) -> Tensor:
        found = self.network.eval()(batch[0])
        return found[0] if self.auxiliary else found


class Fuxi:
    """FuxiCTR 2.3: the models of LongCTR and their own train_step."""

    def __init__(self, model: str, data: Data, rate: float, seed: int) -> None:
        from fuxictr.features import FeatureMap

        torch.manual_seed(seed)
        features = FeatureMap("visits", tempfile.gettempdir())
        features.features = OrderedDict(
            hour={"source": "context", "type": "categorical", "vocab_size": HOURS, "embedding_dim": CONTEXT},
            day={"source": "context", "type": "categorical", "vocab_size": DAYS, "embedding_dim": CONTEXT},
            item={
                "source": "item", "type": "categorical", "vocab_size": data.items + 1, "embedding_dim": DIM,
                "padding_idx": 0,
            },
        )  # fmt: skip
        features.labels, features.default_emb_dim = ["label"], DIM
        self.behind = model == "dien"
        self.batcher = data.samples.batcher(LONG if model in ("sim", "eta") else SHORT)
        self.network = self._class(model)(
            features, gpu=-1, embedding_dim=DIM, dnn_hidden_units=list(HIDDEN), dnn_activations="Dice",
            learning_rate=rate, optimizer="adam", loss="binary_crossentropy", metrics=["AUC"], verbose=0,
            model_root=tempfile.gettempdir(), **self._own(model),
        )  # fmt: skip
        self.network._batch_index, self.network._max_gradient_norm = 0, 10.0

    @staticmethod
    def _class(model: str) -> Any:
        from model_zoo.LongCTR.DIEN.DIEN import DIEN
        from model_zoo.LongCTR.DIN.DIN import DIN
        from model_zoo.LongCTR.ETA.ETA import ETA
        from model_zoo.LongCTR.SIM.SIM import SIM

        return {"din": DIN, "dien": DIEN, "sim": SIM, "eta": ETA}[model]

    @staticmethod
    def _own(model: str) -> dict[str, Any]:
        # of the short history it takes one visit less than it is told
        search: dict[str, Any] = {"attention_dim": DIM, "num_heads": HEADS, "short_seq_len": SHORT + 1, "topk": KEEP}
        options: dict[str, dict[str, Any]] = {
            "din": {"attention_hidden_units": list(ATTENTION), "attention_hidden_activations": "Dice"},
            "dien": {"batch_norm": False},
            "sim": search,
            "eta": search | {"hash_bits": BITS},
        }
        return options[model]

    def prepare(self, requests: Requests) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        flat = Flat.of(self.batcher(requests), self.behind)
        item_X = torch.cat([flat.history_ST, flat.item_S[:, None]], 1).flatten()
        return (
            {"hour": flat.hour_S, "day": flat.day_S, "label": flat.label_S},
            {"item": item_X},
            (flat.history_ST > 0).float(),
        )

    def step(self, batch: tuple[dict[str, Tensor], dict[str, Tensor], Tensor]) -> None:
        self.network.train()
        self.network.train_step(batch)

    def scores(self, batch: tuple[dict[str, Tensor], dict[str, Tensor], Tensor]) -> Tensor:
        return self.network.eval()(batch)["y_pred"].flatten()


PEERS: dict[str, Callable[[str, Data, float, int], Any]] = {"torch-rechub": Rechub, "fuxictr": Fuxi}
PAIRS = ("din-torch-rechub", "din-fuxictr", "dien-torch-rechub", "dien-fuxictr", "sim-fuxictr", "eta-fuxictr")


class Contender:
    """One side of a pair in training: its batches, the times of its steps, and the parameters of its best epoch."""

    def __init__(self, side: Any, data: Data) -> None:
        self.side = side
        self.train, self.validation, self.test = (
            [side.prepare(requests) for requests in part] for part in (data.train, data.validation, data.test)
        )
        self.seconds: list[float] = []
        self.score, self.epoch = 0.0, 0
        self.best: dict[str, Tensor] = {}

    def step(self, batch: int) -> None:
        started = time.perf_counter()
        self.side.step(self.train[batch])
        self.seconds.append(time.perf_counter() - started)

    def validate(self, data: Data, epoch: int) -> None:
        score = self._auc(self.validation, data.validation)
        if score > self.score:
            self.score, self.epoch = score, epoch
            self.best = {name: value.clone() for name, value in self.side.network.state_dict().items()}

    def measure(self, data: Data) -> dict[str, float]:
        samples = data.train[0].candidates.size
        self.side.network.load_state_dict(self.best)
        return {
            "test_auc": self._auc(self.test, data.test),
            "validation_auc": self.score,
            "epoch": self.epoch,
            "samples_per_second": samples / float(np.median(self.seconds[2:])),
            "fastest_samples_per_second": samples / min(self.seconds),
        }

    def _auc(self, batches: Sequence[Any], requests: Sequence[Requests]) -> float:
        with torch.no_grad():
            scores_S = torch.cat([self.side.scores(batch) for batch in batches]).numpy()
        label_S = np.concatenate([np.arange(part.candidates.size) % part.candidates.shape[1] == 0 for part in requests])
        found = auc(scores_S, label_S)
        assert found is not None
        return found


def compete(model: str, peer: str, data: Data, rate: float, epochs: int, seed: int) -> dict[str, Any]:
    """Train both sides step by step; test AUC and median seconds of a step of each."""
    sides = {
        "ours": Contender(Ours(model, data, rate, seed), data),
        "peer": Contender(PEERS[peer](model, data, rate, seed), data),
    }
    order = random.Random(seed)
    for epoch in range(1, epochs + 1):
        for batch in order.sample(range(len(data.train)), len(data.train)):
            for side in sides.values():
                side.step(batch)
        for side in sides.values():
            side.validate(data, epoch)
    return {name: side.measure(data) for name, side in sides.items()}


def load(run: Path, requests: int) -> Data:
    """A part of a dataset's samples; writes them to a temporary folder."""
    dataset = run.name.rsplit("-", 1)[0]
    config = load_run_config(REPOSITORY / "configs" / f"{dataset}.yaml", ["rank.models=[din]"])
    items = pl.read_parquet(run / "1_data" / "items.parquet")
    with tempfile.TemporaryDirectory() as name:
        folder, events = Path(name), pl.scan_parquet(run / "1_data" / "events.parquet")
        write_samples(items, events, config.rank.samples, config.sid.training_share, 0, folder)
        samples = SampleFolder(folder, items)

        def some(file: str, wanted: int) -> list[Requests]:
            groups = min(wanted // GROUP, len(samples.file(file)) // GROUP)
            return [samples.file(file).read([group]) for group in range(groups)]

        # what is mapped stays readable after the folder is gone
        return Data(samples, samples.seen(), some("train", requests), some("validation", 1_536), some("test", 4_096))


def summary(pair: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a pair over its seeds."""
    result: dict[str, Any] = {"pair": pair, "seeds": runs}
    for side in ("ours", "peer"):
        values = np.array([run[side]["test_auc"] for run in runs])
        result[side] = {
            "test_auc": float(values.mean()),
            "test_auc_deviation": float(values.std(ddof=1)) if len(values) > 1 else None,
            "samples_per_second": float(np.median([run[side]["samples_per_second"] for run in runs])),
        }
    speeds = [run["ours"]["samples_per_second"] / run["peer"]["samples_per_second"] for run in runs]
    result["speed_ratio"] = float(np.median(speeds))
    result["auc_difference"] = result["ours"]["test_auc"] - result["peer"]["test_auc"]
    return result


def show(row: dict[str, Any]) -> None:
    ours, peer = row["ours"], row["peer"]
    print(
        f"{row['pair']:20s} AUC {ours['test_auc']:.4f} vs {peer['test_auc']:.4f} ({row['auc_difference']:+.4f})   "
        f"samples/s {ours['samples_per_second']:7.0f} vs {peer['samples_per_second']:7.0f} "
        f"({row['speed_ratio']:.2f}x)",
        flush=True,
    )


def main() -> None:
    """Run the pairs, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=REPOSITORY / "runs" / "fsq-nyc-seed0")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=PAIRS)
    parser.add_argument("--requests", type=int, default=10_240)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load(args.run, args.requests)
    settings = {
        "run": args.run.name, "requests": len(data.train) * GROUP, "candidates": data.train[0].candidates.shape[1],
        "batch_samples": data.train[0].candidates.size, "epochs": args.epochs, "learning_rate": args.rate, "dim": DIM,
        "hidden": HIDDEN, "attention_hidden": ATTENTION, "history": SHORT, "long_history": LONG, "keep": KEEP,
        "heads": HEADS, "hash_bits": BITS, "auxiliary_weight": AUXILIARY, "threads": 1,
    }  # fmt: skip
    digest = sha256_json([settings, list(args.seeds)])
    known = read_json(args.out) if args.out.exists() else {}
    rows = known["rows"] if known.get("config_sha256") == digest else {}
    for pair in args.pairs:
        model, peer = pair.split("-", 1)
        rows[pair] = summary(pair, [compete(model, peer, data, args.rate, args.epochs, seed) for seed in args.seeds])
        show(rows[pair])
        write_json(args.out, {
            "experiment": "rankers", "settings": settings, "config_sha256": digest, "rows": rows,
            "versions": versions() | {name: metadata.version(name) for name in PEERS},
        })  # fmt: skip


if __name__ == "__main__":
    main()
