"""One loaded version of a run: reach first, then interest, then words.

What is served is one immutable state. A request takes it once and works with it; new items make another state, and
whoever still works with the old one sees that whole.

Axes: C candidates, K items of an answer, N items served.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, Self
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.config.serve import ReachConfig, ServeConfig, TravelMode
from lgsid.errors import ArtifactError
from lgsid.geo import haversine_km
from lgsid.serve import reach
from lgsid.serve.artefacts import Artefacts, load_artefacts
from lgsid.serve.asked import Asked, History, history_of
from lgsid.serve.base import MOST_TIMESTAMP_MS, Event, RequestError
from lgsid.serve.catalogue import Catalogue, values_at
from lgsid.serve.contract import Answer, Ask, Filters, Found, Meaning, Place, Reach, Recommended, Written
from lgsid.serve.filters import Wanted
from lgsid.serve.interest import Models, best
from lgsid.serve.meaning import meaning_of
from lgsid.serve.notes import note
from lgsid.serve.reasons import Facts, Visited, kinds_of, popular_among, reason
from lgsid.serve.schemas import write
from lgsid.serve.search import SearchIndex
from lgsid.serve.similar import Vectors
from lgsid.sid.catalogue import CLOSED, fit_digest, read_assigned

MOST_K, MOST_CANDIDATES = 1_000, 10_000
_GARBAGE = 20_000
"""New objects after which Python looks for circles among them: some fifty answers."""
NEAR_KM = 5.0
"""Search: an item so far away counts half of one that is here."""


@dataclass(frozen=True)
class State:
    """All that answers: the catalogue, the models over it, its words, and the encoder's own vectors."""

    catalogue: Catalogue
    models: Models
    words: SearchIndex
    before: Vectors | None


class RunEngine:
    """See `lgsid.serve.contract.Engine`; use `RunEngine.load`.

    Args:
        artefacts: a verified run.
        config: of serving.

    Attributes:
        version: of the run.

    Raises:
        ArtifactError: a model does not fit the run.
        TableError: opening hours that are not understood.
    """

    def __init__(self, artefacts: Artefacts, config: ServeConfig) -> None:
        self.version = artefacts.version
        self.artefacts, self.config = artefacts, config
        self._kinds = frozenset(artefacts.config.rank.samples.kinds)
        self._lock, self._digest = Lock(), fit_digest(artefacts.run)
        catalogue = Catalogue.of(artefacts, config.reach)
        before = None if artefacts.reference_ND is None else catalogue.vectors.like([artefacts.reference_ND])
        self._state = State(catalogue, Models.load(artefacts, catalogue), SearchIndex(catalogue.items), before)

    @classmethod
    def load(cls, root: Path, config: ServeConfig | None = None) -> Self:
        """Verify and load a run. Each request works in one thread, so torch is told to use one for the whole process.

        Raises:
            ArtifactError, ConfigError: see `load_artefacts`.
        """
        import torch

        torch.set_num_threads(1)
        return cls(load_artefacts(root), config or ServeConfig())

    @property
    def state(self) -> State:
        """What answers now."""
        return self._state

    def described(self) -> dict[str, Any]:
        """What is known of this version, as a JSON object."""
        state = self._state
        return {
            "version": self.version,
            "run": str(self.artefacts.run.root),
            "items": len(state.catalogue),
            "rankers": list(state.models.rankers),
            "generators": list(state.models.generators),
            "aligned": state.before is not None,
            "filters": list(state.catalogue.shelf.filters.known),
        }

    # --- Recommend ----------------------------------------------------------------------------------------------------
    def recommend(self, ask: Ask, stored: Sequence[Event]) -> Answer:
        """See `lgsid.serve.contract.Engine`."""
        clock = _Clock()
        _check(ask)
        state, config = self._state, self.config.reach
        name, model = state.models.chosen(ask)
        history = history_of(ask, stored, self._kinds, state.catalogue.ids.rows)
        clock.mark("history")
        place = reach.Place(ask.place.lat_deg, ask.place.lon_deg)
        shelf = state.catalogue.shelf
        wanted = _wanted(ask.filters, config, history)
        nearby = shelf.search(place, _area(ask.reach, config), wanted, ask.candidates)
        clock.mark("reach")
        rows_C, distance_C = nearby.found.rows_M, nearby.found.distance_km_M
        score_C: FloatArray = np.empty(0, dtype=np.float32)
        if len(rows_C):
            score_C = model.scores(Asked(
                place, ask.now_ms // 1_000, ask.user_id, rows_C, distance_C, history,
                lambda: int(shelf.reach.nearest(place).rows_M[0]), ask.k,
            ))  # fmt: skip
        place_K = best(score_C, ask.k)
        clock.mark("interest")
        mode: TravelMode = ask.reach.travel_mode if ask.reach.travel_minutes is not None else "walk"
        facts = _facts(state.catalogue, history, rows_C, distance_C, place_K, mode, config)
        items = _recommended(state.catalogue, rows_C[place_K], score_C[place_K], facts, ask)
        words = note(nearby, ask.k, len(items), history.unknown, ask.language)
        clock.mark("words")
        return Answer(items, self.version, name, nearby.reachable, len(rows_C), words, clock.milliseconds())

    def written(self, ask: Ask, stored: Sequence[Event]) -> Written:
        """See `lgsid.serve.contract.Engine`."""
        return write(self.recommend(ask, stored))

    # --- Look up ------------------------------------------------------------------------------------------------------
    def similar(self, item_id: str, k: int, aligned: bool = True) -> list[Found]:
        """See `lgsid.serve.contract.Engine`. Without an alignment both ways are the encoder's own embeddings."""
        _whole("k", k, MOST_K)
        state = self._state
        row = self._row(state.catalogue, item_id)
        vectors = state.catalogue.vectors if aligned or state.before is None else state.before
        query_D = vectors.of(row)
        if query_D is None:
            raise RequestError(f"item_id {item_id!r}: the encoder's own embedding of this item is not kept")
        rows, score = vectors.nearest(query_D, k, without=row)
        lat, lon = state.catalogue.items["lat_deg"][row], state.catalogue.items["lon_deg"][row]
        return _found(state.catalogue, rows, score.astype(np.float64), Place(lat, lon))

    def explain(self, sid_or_item: str) -> Meaning:
        """See `lgsid.serve.contract.Engine`; an item id wins where both would fit."""
        catalogue = self._state.catalogue
        row = int(catalogue.ids.rows([sid_or_item])[0])
        sid = sid_or_item if row < 0 else str(catalogue.sid_N[row])
        return meaning_of(sid, catalogue, self.artefacts.tokenizer.tokens)

    def search(self, text: str, k: int, near: Place | None = None) -> list[Found]:
        """See `lgsid.serve.contract.Engine`; of items that fit equally well the nearer, or the more visited, first."""
        _whole("k", k, MOST_K)
        state = self._state
        catalogue = state.catalogue
        if near is not None:
            reach.Place(near.lat_deg, near.lon_deg)
            lat_N, lon_N = (catalogue.items[f"{axis}_deg"].to_numpy() for axis in ("lat", "lon"))

        def tie(rows: IntArray) -> DoubleArray:
            if near is not None:
                away = haversine_km(near.lat_deg, near.lon_deg, lat_N[rows], lon_N[rows])
                return NEAR_KM / (NEAR_KM + away)
            return 1 + 0.01 * np.log1p(catalogue.visits_N[rows])

        hits = state.words.search(text, k, tie)
        return _found(catalogue, hits.rows_M, hits.score_M, near)

    @staticmethod
    def _row(catalogue: Catalogue, item_id: str) -> int:
        row = int(catalogue.ids.rows([item_id])[0])
        if row < 0:
            raise RequestError(f"item_id {item_id!r}: no such item")
        return row

    # --- New items ----------------------------------------------------------------------------------------------------
    def add_items(self, table: pl.DataFrame) -> Mapping[str, Any]:
        """Give new items their SIDs by the run's frozen codebooks, and recommend them from now on.

        They are written into ``RUN/assigned/`` first (see `lgsid.sid.assign`), so another instance of this run, or the
        next start, has them too. No SID that is given changes. Known items in the table whose content has changed are
        noted there, and served as they were until the version is loaded again.

        Args:
            table: rows of the items table.

        Returns:
            figures of the call, and ``served``: items that are new here.

        Raises:
            DataError, TableError: the rows are wrong; nothing is added then.
            ArtifactError: the run was fitted anew since it was loaded.
        """
        from lgsid.sid.assign import assign_in_run

        with self._lock:
            run = self.artefacts.run
            if fit_digest(run) != self._digest:
                raise ArtifactError(f"{run.root} has been fitted anew since it was loaded", "load the run again")
            figures = assign_in_run(run, table)
            return {**figures, "served": self._take_in()}

    def take_in(self) -> int:
        """Serve the items that were added to the run since it was loaded; returns how many are new here."""
        with self._lock:
            return self._take_in()

    def _take_in(self) -> int:
        assigned = read_assigned(self.artefacts.run)
        held = assigned.sids.filter(pl.col("status") != CLOSED)
        new_ids = assigned.items["item_id"].to_list()
        fresh_n = (self._state.catalogue.ids.rows(new_ids) < 0) & assigned.items["item_id"].is_in(
            held["item_id"].implode()
        ).to_numpy()
        fresh = np.flatnonzero(fresh_n)
        if len(fresh):
            self._grow(assigned.items[fresh], np.array(assigned.emb_ND[fresh]), held)
        return len(fresh)

    def _grow(self, items: pl.DataFrame, emb_ND: FloatArray, held: pl.DataFrame) -> None:
        """Serve more items: everything is made first, then it takes the old state's place at once."""
        state = self._state
        sids = items.select("item_id").join(held, on="item_id", how="left", maintain_order="left")
        catalogue = state.catalogue.plus(items, emb_ND, sids)
        models = state.models.serving(catalogue, items)
        self._state = State(catalogue, models, state.words.plus(items), state.before)


def settle() -> None:
    """Tell Python's collector that what is loaded now stays, and to look for garbage more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE)


# --- One request ------------------------------------------------------------------------------------------------------
class _Clock:
    """Wall time by step."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._steps: dict[str, float] = {}

    def mark(self, step: str) -> None:
        now = time.perf_counter()
        self._steps[step], self._last = (now - self._last) * 1e3, now

    def milliseconds(self) -> dict[str, float]:
        return {**self._steps, "total": (self._last - self._start) * 1e3}


def _check(ask: Ask) -> None:
    _whole("k", ask.k, MOST_K)
    _whole("candidates", ask.candidates, MOST_CANDIDATES)
    if ask.mode not in ("ranker", "generative", "both"):
        raise RequestError(f"mode {ask.mode!r}: expected ranker, generative or both")
    if ask.language not in ("en", "zh"):
        raise RequestError(f"language {ask.language!r}: expected en or zh")
    if not 0 <= ask.now_ms < MOST_TIMESTAMP_MS:
        raise RequestError(f"now_ms {ask.now_ms}: expected milliseconds since 1970 UTC, before the year 2100")


def _whole(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise RequestError(f"{name} {value}: expected a number from 1 to {most:,}")


def _area(asked: Reach, config: ReachConfig) -> reach.Area:
    given = [name for name in ("radius_km", "travel_minutes", "polygon") if getattr(asked, name) is not None]
    if len(given) != 1:
        got = " and ".join(given) or "none"
        raise RequestError(f"reach: got {got}, expected exactly one of radius_km, travel_minutes, polygon")
    if asked.radius_km is not None:
        return reach.Circle(asked.radius_km)
    if asked.travel_minutes is not None:
        return reach.travel_circle(asked.travel_minutes, asked.travel_mode, config)
    assert asked.polygon is not None
    return reach.Polygon([(corner.lat_deg, corner.lon_deg) for corner in asked.polygon])


def _wanted(asked: Filters, config: ReachConfig, history: History) -> Wanted:
    moment = None
    if asked.open_at_ms is not None:
        if not 0 <= asked.open_at_ms < MOST_TIMESTAMP_MS:
            raise RequestError(f"open_at_ms {asked.open_at_ms}: expected milliseconds since 1970 UTC")
        moment = datetime.fromtimestamp(asked.open_at_ms / 1_000, UTC).astimezone(ZoneInfo(config.time_zone))
    return Wanted(
        categories=() if asked.category is None else (asked.category,),
        brands=() if asked.brand is None else (asked.brand,),
        least_price=asked.price_min,
        most_price=asked.price_max,
        open_at=moment,
        without=tuple(np.unique(history.rows_T).tolist()) if asked.new_only else (),
    )


def _facts(
    catalogue: Catalogue,
    history: History,
    rows_C: IntArray,
    distance_C: DoubleArray,
    place_K: IntArray,
    mode: TravelMode,
    config: ReachConfig,
) -> list[Facts]:
    """What can be said of each item of an answer."""
    kinds_T = [kinds_of(category) for category in catalogue.column("category", history.rows_T)]
    visited = Visited.of(history.rows_T, catalogue.column("title", history.rows_T), kinds_T)
    popular_C = popular_among(catalogue.visits_N[rows_C])
    minutes_K = reach.travel_minutes(distance_C[place_K], mode, config)
    kinds_K = catalogue.column("category", rows_C[place_K])
    found = []
    for place, minutes, category in zip(place_K.tolist(), minutes_K.tolist(), kinds_K, strict=True):
        like, kind = visited.like(kinds_of(category))
        visits = visited.times[int(rows_C[place])]
        found.append(Facts(visits, like, kind, bool(popular_C[place]), float(distance_C[place]), minutes, mode))
    return found


def _recommended(
    catalogue: Catalogue, rows_K: IntArray, score_K: FloatArray, facts: Sequence[Facts], ask: Ask
) -> tuple[Recommended, ...]:
    return tuple(
        Recommended(item_id, title, category, place, known.distance_km, sid, score, reason(known, ask.language))
        for (item_id, title, category, place, sid), score, known in zip(
            _told(catalogue, rows_K), score_K.tolist(), facts, strict=True
        )
    )


def _told(catalogue: Catalogue, rows: IntArray) -> Iterator[tuple[str, str, str | None, Place, str]]:
    """What is told of items: item_id, title, category, place and SID."""
    places = map(Place, catalogue.column("lat_deg", rows), catalogue.column("lon_deg", rows))
    names = (catalogue.column(name, rows) for name in ("item_id", "title", "category"))
    return zip(*names, places, values_at(catalogue.sid_N, rows), strict=True)


def _found(catalogue: Catalogue, rows: IntArray, score: DoubleArray, near: Place | None) -> list[Found]:
    distance: list[float | None] = [None] * len(rows)
    if near is not None:
        lat, lon = catalogue.column("lat_deg", rows), catalogue.column("lon_deg", rows)
        distance = haversine_km(near.lat_deg, near.lon_deg, lat, lon).tolist()
    told = _told(catalogue, rows)
    return [Found(*what, fit, km) for what, fit, km in zip(told, score.tolist(), distance, strict=True)]
