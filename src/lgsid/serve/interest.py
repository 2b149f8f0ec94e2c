"""The second stage of an answer: how interesting the candidates are, by whichever models a version has.

A version without a trained ranker answers by popularity and nearness, and says so. With ``mode="both"`` a ranker and a
generator each put the candidates in order, and the mean of the two ranks decides.

Axes: C candidates, N items served.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray, IntArray
from lgsid.serve.artefacts import Artefacts
from lgsid.serve.asked import Asked, Interest
from lgsid.serve.base import RequestError
from lgsid.serve.catalogue import Catalogue
from lgsid.serve.contract import Ask, Mode
from lgsid.serve.rankers import Places, RankerInterest
from lgsid.sid.table import codes_of, without_idle_extra

FALLBACK = "popularity_nearness"
"""Name of `PopularNearby`."""


class PopularNearby:
    """What needs no model: (1 + visits) / (1 + distance in km).

    Args:
        visits_N: visits of each item served.
    """

    def __init__(self, visits_N: IntArray) -> None:
        self._visits_N = visits_N

    def scores(self, asked: Asked) -> FloatArray:
        """See `Interest`."""
        score_C: FloatArray = ((1 + self._visits_N[asked.rows_C]) / (1 + asked.distance_km_C)).astype(np.float32)
        return score_C


class Both:
    """Two models: the mean of their ranks, as a number from 1 (first of both) down to 0."""

    def __init__(self, one: Interest, other: Interest) -> None:
        self._models = one, other

    def scores(self, asked: Asked) -> FloatArray:
        """See `Interest`; -inf for what neither can judge."""
        score_2C = np.stack([model.scores(asked) for model in self._models])
        rank_2C = np.argsort(np.argsort(-score_2C, axis=1, kind="stable"), axis=1)
        share_C = 1 - rank_2C.mean(axis=0) / max(1, score_2C.shape[1])
        found: FloatArray = np.where(np.isneginf(score_2C).all(axis=0), -np.inf, share_C).astype(np.float32)
        return found


@dataclass(frozen=True)
class Models:
    """The models of a version over the items that it serves; never changes.

    Attributes:
        rankers, generators: by name, the default one first; the fallback stands behind the rankers.
        places: of the items; None where no model is given distances.
    """

    rankers: Mapping[str, Interest]
    generators: Mapping[str, Interest]
    places: Places | None

    @classmethod
    def load(cls, artefacts: Artefacts, catalogue: Catalogue) -> Models:
        """All models of a verified run.

        Raises:
            ArtifactError: a folder cannot be read, or does not fit the run.
        """
        from lgsid.rank.pretrained import load_ranker

        fit = artefacts.fit
        codes_NM = without_idle_extra(codes_of(fit.sids, fit.levels), fit.levels)
        trained = {
            name: RankerInterest(load_ranker(folder), fit.items, codes_NM, artefacts.tokenizer)
            for name, folder in artefacts.rankers.items()
        }
        generators: dict[str, Interest] = {}
        if artefacts.generators:
            from lgsid.generate.pretrained import load_generator
            from lgsid.serve.generators import GeneratorInterest

            for name, folder in artefacts.generators.items():
                generators[name] = GeneratorInterest(load_generator(folder), catalogue)
        places = Places(catalogue.items) if any(model.distance for model in trained.values()) else None
        return cls(_rankers(trained, catalogue, places), generators, places)

    def serving(self, catalogue: Catalogue, new: pl.DataFrame) -> Models:
        """The same models over a catalogue that has grown by ``new`` items."""
        trained = {name: model for name, model in self.rankers.items() if isinstance(model, RankerInterest)}
        places = None if self.places is None else self.places.plus(new)
        generators: dict[str, Interest] = {}
        if self.generators:
            from lgsid.serve.generators import GeneratorInterest

            for name, model in self.generators.items():
                assert isinstance(model, GeneratorInterest)
                generators[name] = GeneratorInterest(model.model, catalogue)
        return Models(_rankers(trained, catalogue, places), generators, places)

    def chosen(self, ask: Ask) -> tuple[str, Interest]:
        """Name and model that answer a request.

        Raises:
            RequestError: there is no such model, or none of that mode.
        """
        if ask.mode == "both":
            wanted = (ask.model or "+").partition("+")
            ranker, one = self._one("ranker", wanted[0] or None)
            generator, other = self._one("generative", wanted[2] or None)
            return f"{ranker}+{generator}", Both(one, other)
        return self._one(ask.mode, ask.model)

    def _one(self, mode: Mode, name: str | None) -> tuple[str, Interest]:
        known = self.rankers if mode == "ranker" else self.generators
        if not known:
            raise RequestError(
                "mode: this version has no generative model", "ask with mode ranker, or train one: lgsid generate RUN"
            )
        name = next(iter(known)) if name is None else name
        if name not in known:
            raise RequestError(f"model {name!r}: this version has {', '.join(known)} for mode {mode}")
        return name, known[name]


def _rankers(trained: Mapping[str, RankerInterest], catalogue: Catalogue, places: Places | None) -> dict[str, Interest]:
    found: dict[str, Interest] = {name: model.serving(catalogue, places) for name, model in trained.items()}
    return {**found, FALLBACK: PopularNearby(catalogue.visits_N)}


def best(score_C: FloatArray, k: int) -> IntArray:
    """Places of the k best candidates, best first; of equal ones the nearer. What has no score is left out."""
    order: IntArray = np.argsort(-score_C, kind="stable")[:k]
    return order[score_C[order] > -np.inf]
