"""One generator on the visits of a run: trained, made to recommend, measured.

Axes: N items, L tokens of a SID, R requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lgsid.arrays import CodeArray, DoubleArray, IntArray
from lgsid.config import GenerateConfig
from lgsid.generate.baselines import ItemCoVisits, PopularNearby, PopularWithinReach, Revisit
from lgsid.generate.harness import Evaluation, evaluate
from lgsid.generate.packing import Packer
from lgsid.generate.protocol import requests
from lgsid.rank.visits import TEST, TRAINING, VALIDATION, Visits

if TYPE_CHECKING:
    from lgsid.generate.base import Recommender, SequenceModel
    from lgsid.generate.recommending import Generated
    from lgsid.history import History

ROW_VISITS = 64
"""Visits of a packed row, where the history leaves room for as many targets again."""
WITHOUT_TRIE = 1_000
"""Test requests at most that are also answered without the trie, to see how often a model names nothing."""


@dataclass(frozen=True)
class Data:
    """What generators are trained and measured on.

    Attributes:
        lat_N, lon_N: places of the items, WGS-84 degrees.
        visits: of all periods.
        codes_NL: unique SIDs, int32; row n is item n.
        sizes: number of tokens of each level.
        amount_N: mean order value of each item in the training period, NaN where unknown; None where nobody asks for it
            or events do not tell.
    """

    lat_N: DoubleArray
    lon_N: DoubleArray
    visits: Visits
    codes_NL: CodeArray
    sizes: tuple[int, ...]
    amount_N: DoubleArray | None = None

    def packer(self, config: GenerateConfig, device: str = "cpu") -> Packer:
        """Makes rows of the visits."""
        length = max(ROW_VISITS, 2 * config.history)
        return Packer(self.lat_N, self.lon_N, self.visits, config.history, length, config.users, config.encoder, device)

    def count(self) -> IntArray:
        """Visits of each item in the training period."""
        visits = self.visits
        return np.bincount(visits.item_E[visits.period_E == TRAINING], minlength=len(self.lat_N))


def train(
    name: str, data: Data, config: GenerateConfig, seed: int, folder: Path | None = None, identity: str = ""
) -> tuple[SequenceModel, History]:
    """A generator with the parameters of its best validation, and the course of its training.

    Args:
        name: of the generator.
        data: to learn from.
        config: of the generator.
        seed: of the parameters and the order of the rows.
        folder: keeps checkpoints here.
        identity: of the data, for the checkpoints.
    """
    import torch

    from lgsid.generate.methods import make_generator
    from lgsid.generate.training import HeldOut, SequenceTraining, train_generator

    device = "cuda" if torch.cuda.is_available() else "cpu"
    packer = data.packer(config, device)
    model = make_generator(name, data.codes_NL, data.sizes, config, seed, data.count(), packer.xyz_N3).to(device)
    event_R = validation_requests(data)
    held = HeldOut(packer.requests(event_R), data.visits.item_E[event_R].astype(np.int64))
    training = SequenceTraining(model, recommender_of(model, data, config), packer, packer.training_rows(), held)
    return model, train_generator(training, config, seed, folder, identity)


def align(
    model: SequenceModel,
    ndcg: float,
    data: Data,
    config: GenerateConfig,
    seed: int,
    folder: Path | None = None,
    identity: str = "",
    interest: SequenceModel | None = None,
) -> dict[str, Any]:
    """Align a trained OneRec to a reward (`lgsid.generate.preference`); the course of that.

    Args:
        model: OneRec.
        ndcg: its best validation score.
        data, config, seed, identity: as of `train`.
        folder: keeps checkpoints here, and those of the SASRec that tells interest in ``sasrec`` beside it. It is the
            one that `train` gives for this seed, so that one which has been trained there is not trained again.
        interest: a SASRec that has been trained otherwise.
    """
    from lgsid.generate.onerec import OneRec
    from lgsid.generate.preference import Writer
    from lgsid.generate.preference import align as align_to
    from lgsid.generate.rewards import Rewards
    from lgsid.generate.sasrec import SasRec

    if config.preference.interest and interest is None:
        interest, _ = train("sasrec", data, config, seed, folder.with_name("sasrec") if folder else None, identity)
    assert isinstance(model, OneRec)
    assert interest is None or isinstance(interest, SasRec)
    places_N = data.lat_N, data.lon_N
    rewards = Rewards(config.preference, places_N, config.reach_km, interest, data.amount_N)
    writer = Writer(model, data.packer(config, str(next(model.parameters()).device)), rewards)
    return align_to(writer, validation_requests(data), ndcg, seed, folder, identity)


def recommender_of(model: SequenceModel, data: Data, config: GenerateConfig) -> Recommender:
    """What names items by a model: itself, or beams in the trie of the catalogue."""
    from lgsid.generate.base import Generator
    from lgsid.generate.recommending import Generated
    from lgsid.generate.trie import Trie

    if isinstance(model, Generator):
        return Generated(model, Trie(data.codes_NL), config.beams)
    return cast("Recommender", model)  # SASRec scores items itself


def baselines(data: Data, config: GenerateConfig) -> Mapping[str, Recommender]:
    """Recommenders without training, by name."""
    items = len(data.lat_N)
    found = {
        "popular_within_reach": PopularWithinReach(data.lat_N, data.lon_N, config.reach_km),
        "popular_nearby": PopularNearby(data.lat_N, data.lon_N),
        "item_co_visits": ItemCoVisits(items),
        "revisit": Revisit(items),
    }
    return {name: baseline.fit(data.visits) for name, baseline in found.items()}


def measured(
    recommender: Recommender, data: Data, config: GenerateConfig, event_R: IntArray, ks: Sequence[int] = (5, 10)
) -> Evaluation:
    """Figures of a recommender on some test requests; of a generator also how often it names nothing by itself."""
    from lgsid.generate.recommending import Generated

    device = "cpu"
    if isinstance(recommender, Generated):
        device = str(next(recommender.generator.parameters()).device)
    packer = data.packer(config, device)
    found = evaluate(recommender, packer, event_R, config.reach_km, ks)
    if isinstance(recommender, Generated):
        found.figures["invalid_share_without_trie"] = _invalid_share(
            recommender, packer, event_R[:WITHOUT_TRIE], max(ks)
        )
    return found


def _invalid_share(generated: Generated, packer: Packer, event_R: IntArray, k: int) -> float:
    """Share of the k most likely SIDs that no item has, where nothing keeps the model to those that are there."""
    invalid = 0.0
    for place_B, packed in packer.bucketed(event_R, 256):
        invalid += generated.unconstrained(packed, k)[1] * len(place_B)
    return invalid / len(event_R)


def validation_requests(data: Data) -> IntArray:
    """The validation visits that parameters are chosen by, the same every time."""
    from lgsid.generate.training import some_of

    return some_of(requests(data.visits, VALIDATION), seed=0)


def requests_to_answer(data: Data, most: int | None = None) -> IntArray:
    """The test visits that can be predicted, or so many of them drawn at random, the same every time."""
    from lgsid.generate.training import some_of

    event_R = requests(data.visits, TEST)
    return event_R if most is None else some_of(event_R, seed=1, most=most)
