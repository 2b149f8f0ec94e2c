"""One ranker on the samples of a run: trained, asked for scores, measured.

Axes: as in `lgsid.rank.base`; R requests of a file, S = R · C samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.config import RankConfig
from lgsid.rank.baselines import Baseline, ItemCoVisits, PopularNearby, PopularWithinReach, Revisit
from lgsid.rank.features import ItemFeatures
from lgsid.rank.loader import Requests, SampleFolder
from lgsid.rank.metrics import Samples, measure
from lgsid.rank.visits import TRAINING

if TYPE_CHECKING:
    from lgsid.history import History
    from lgsid.rank.base import Ranker

MEASURED = ("test", "cold")
"""Files that rankers are measured on."""


def train(
    name: str,
    features: ItemFeatures,
    samples: SampleFolder,
    config: RankConfig,
    seed: int,
    folder: Path | None = None,
    identity: str = "",
) -> tuple[Ranker, History]:
    """A ranker with the parameters of its best validation, and the course of its training.

    Args:
        name: of the ranker.
        features: of the items.
        samples: to train and validate on.
        config: of the ranker.
        seed: of the parameters and the order of the samples.
        folder: keeps checkpoints here.
        identity: of the samples and features, for the checkpoints.
    """
    import torch

    from lgsid.rank.methods import make_ranker
    from lgsid.rank.training import RankTraining, train_ranker

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ranker = make_ranker(name, features, config, seed).to(device)
    batcher = samples.batcher(ranker.history_length, config.distance, device)
    training = RankTraining(ranker, samples.file("train"), samples.file("validation"), batcher, config)
    return ranker, train_ranker(training, config, seed, folder, identity)


def score_files(ranker: Ranker, samples: SampleFolder) -> dict[str, FloatArray]:
    """Logits (R, C) of a ranker on each file of `MEASURED`."""
    from lgsid.rank.training import predict

    device = next(ranker.parameters()).device
    batcher = samples.batcher(ranker.history_length, ranker.config.distance, device)
    return {name: predict(ranker, samples.file(name), batcher) for name in MEASURED}


def samples_of(samples: SampleFolder, name: str, seen_N: IntArray) -> Samples:
    """What is known of the samples of a file, for the metrics."""
    requests = Requests.joined(list(samples.file(name).all(1_024)))
    return Samples.of_requests(
        requests, samples.items["lat_deg"].to_numpy(), samples.items["lon_deg"].to_numpy(), seen_N
    )


def figures(
    scores: Mapping[str, FloatArray | DoubleArray], known: Mapping[str, Samples], logits: bool
) -> dict[str, Any]:
    """Figures of each file that has a sample; those of the test file stand by themselves, "cold" among them."""
    result = measure(scores["test"].ravel(), known["test"], logits)
    if len(known["cold"]):
        cold = measure(scores["cold"].ravel(), known["cold"], logits)
        result["cold"] = {key: cold[key] for key in ("auc", "gauc", "positives", "samples")}
    return result


def baseline_scores(samples: SampleFolder, reach_km: float) -> dict[str, dict[str, DoubleArray]]:
    """Scores of each baseline on each file of `MEASURED`."""
    lat_N, lon_N = samples.items["lat_deg"].to_numpy(), samples.items["lon_deg"].to_numpy()
    user_E, period_E = samples.users_and_periods()
    rows = len(samples.items)
    places: list[Baseline] = [PopularWithinReach(lat_N, lon_N, reach_km), PopularNearby(lat_N, lon_N)]
    found = [*places, Revisit(rows), ItemCoVisits(rows)]
    result: dict[str, dict[str, DoubleArray]] = {}
    for baseline in found:
        baseline.fit(user_E, samples.item_E, samples.time_E, period_E == TRAINING)
        result[baseline.name] = {
            name: np.concatenate(
                [baseline.score(requests, samples.item_E) for requests in samples.file(name).all(256)]
                or [np.empty((0, 0))]
            )
            for name in MEASURED
        }
    return result
