"""The one way in which all recommenders are measured, generators and baselines alike.

Where the user is: where the event itself says, else at the item they visited last before. A recommender is asked for
the whole catalogue, once more for what lies within reach of that place (*reachable-first*), and at first visits for
what of that the user has never visited (*new places*): otherwise the places of a list go to where the user has been,
mostly rightly so, and how well a recommender knows the others cannot be seen.

Axes: R requests, A of them that are asked, K ranked items, B requests of a batch, N items.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lgsid.arrays import AnyArray, CodeArray, DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.generate.base import Recommender
from lgsid.generate.metrics import measure, unnamed_share, unreachable_share
from lgsid.generate.packing import Packer, user_places
from lgsid.geo import haversine_km, km_to_chord, unit_sphere
from lgsid.rank.reach import WithinReach

Mode = Literal["catalogue", "reachable", "new"]
MODES: tuple[Mode, ...] = ("catalogue", "reachable", "new")
Allowed = Callable[[IntArray], list[IntArray]]
"""Catalogue rows that may be named, of requests by their number."""


@dataclass(frozen=True)
class Evaluation:
    """What a recommender was measured to do.

    Attributes:
        figures: ready for JSON, see `evaluate`.
        ranked: catalogue rows (R, K) by mode, int32, -1 where there is no item or nothing was asked; to compare
            recommenders by.
    """

    figures: dict[str, Any]
    ranked: dict[str, CodeArray]


class Reach:
    """Items within reach of any place.

    Args:
        lat_N, lon_N: places of the items, WGS-84 degrees.
        reach_km: how far a user goes.
    """

    def __init__(self, lat_N: DoubleArray, lon_N: DoubleArray, reach_km: float) -> None:
        self.items = len(lat_N)
        self._index = WithinReach(lat_N, lon_N, reach_km)
        self._order_P = self._index.order_P
        self._xyz_P3 = unit_sphere(lat_N, lon_N)[self._order_P]
        self._squared_chord = float(km_to_chord(reach_km)) ** 2 * (1 + 1e-12) + 1e-20

    def of(self, lat_B: DoubleArray, lon_B: DoubleArray) -> list[IntArray]:
        """Catalogue rows within reach of each place, in no particular order."""
        place_U, of_B = np.unique(np.stack([lat_B, lon_B]), axis=1, return_inverse=True)
        circles = self._index.circles(*place_U)
        count_US = np.diff(circles.total_BS, axis=1, prepend=0)
        runs = zip(circles.start_BS.tolist(), count_US.tolist(), circles.centre_B3, strict=True)
        within = [self._within(*run) for run in runs]
        return [within[number] for number in of_B]

    def _within(self, start_S: list[int], count_S: list[int], centre_3: DoubleArray) -> IntArray:
        """Rows within reach of one place; its runs are slices, so that nothing is gathered that lies beyond."""
        parts = [np.empty(0, dtype=np.int64)]
        for start, count in zip(start_S, count_S, strict=True):
            if count:
                away_P3 = self._xyz_P3[start : start + count] - centre_3
                near_P = np.einsum("px,px->p", away_P3, away_P3) <= self._squared_chord
                parts.append(self._order_P[start : start + count][near_P])
        return np.concatenate(parts)


def evaluate(
    recommender: Recommender,
    packer: Packer,
    event_R: IntArray,
    reach_km: float,
    ks: Sequence[int] = (5, 10),
    batch: int = 256,
    modes: Sequence[Mode] = MODES,
) -> Evaluation:
    """Measure a recommender.

    Args:
        recommender: asked for as many items as the largest k.
        packer: makes the requests of its visits.
        event_R: the visits to predict, see `lgsid.generate.protocol.requests`.
        reach_km: how far a user goes.
        ks: how far down the lists.
        batch: requests at once.
        modes: catalogue: any item may be named; reachable: only those within reach; new: only those within reach that
            the user has never visited, asked at first visits alone and left out where there are none.

    Returns:
        figures: requests, reach_km, target_within_reach_share, and of each mode what `metrics.measure` gives,
        unreachable_share (of the named items), unnamed_share (places without an item), and seconds_per_1000 requests:
        wall time of finding what is in reach, where that is asked for, and of `top`; not of packing.

    Raises:
        DataError: there are no requests, or the recommender gives lists of another shape, unknown items, or an item
            twice.
    """
    if not len(event_R):
        raise DataError("there are no requests to measure a recommender on", "see lgsid.generate.protocol.requests")
    asked, k = _Asked(packer, event_R, reach_km), max(ks)
    figures: dict[str, Any] = {
        "requests": len(event_R),
        "reach_km": reach_km,
        "target_within_reach_share": asked.target_within_reach_share(),
    }
    ranked: dict[str, CodeArray] = {}
    for mode in modes:
        place_A = asked.places(mode)
        if not len(place_A):
            continue
        ranked_AK, seconds = asked.answers(recommender, mode, place_A, k, batch)
        figures[mode] = asked.figures(ranked_AK, place_A, ks)
        figures[mode]["seconds_per_1000"] = seconds / len(place_A) * 1_000
        ranked[mode] = np.full((len(event_R), k), -1, dtype=np.int32)
        ranked[mode][place_A] = ranked_AK
    return Evaluation(figures, ranked)


class _Asked:
    """The requests of a measurement; arguments as of `evaluate`."""

    def __init__(self, packer: Packer, event_R: IntArray, reach_km: float) -> None:
        self._packer, self._event_R, self._reach_km = packer, event_R, reach_km
        self._places_N = packer.lat_N, packer.lon_N
        self._target_R, self._new_R = packer.visits.item_E[event_R], packer.visits.new_E[event_R]
        self._here_R = user_places(packer.visits, event_R, *self._places_N)
        self._reach = Reach(*self._places_N, reach_km)

    def target_within_reach_share(self) -> float:
        """How often what the user chose is within reach of where they were."""
        lat_N, lon_N = self._places_N
        away_R = haversine_km(*self._here_R, lat_N[self._target_R], lon_N[self._target_R])
        return float((away_R <= self._reach_km).mean())

    def places(self, mode: Mode) -> IntArray:
        """Numbers of the requests that are asked in a mode."""
        return np.flatnonzero(self._new_R) if mode == "new" else np.arange(len(self._event_R))

    def answers(
        self, recommender: Recommender, mode: Mode, place_A: IntArray, k: int, batch: int
    ) -> tuple[CodeArray, float]:
        """The lists of some of the requests, and the seconds that they took."""
        ranked_AK = np.full((len(place_A), k), -1, dtype=np.int32)
        seconds, allowed = 0.0, self._allowed(mode)
        for place_B, requests in self._packer.bucketed(self._event_R[place_A], batch):
            begin = time.perf_counter()
            found_BK = recommender.top(requests, k, None if allowed is None else allowed(place_A[place_B]))
            seconds += time.perf_counter() - begin
            _check(found_BK, len(place_B), k, len(self._packer.lat_N), type(recommender).__name__)
            ranked_AK[place_B, : found_BK.shape[1]] = found_BK
        return ranked_AK, seconds

    def figures(self, ranked_AK: CodeArray, place_A: IntArray, ks: Sequence[int]) -> dict[str, Any]:
        """How good the lists of some of the requests are."""
        here_A = self._here_R[0][place_A], self._here_R[1][place_A]
        return {
            **measure(ranked_AK, self._target_R[place_A], self._new_R[place_A], ks),
            "unreachable_share": unreachable_share(ranked_AK, here_A, *self._places_N, self._reach_km),
            "unnamed_share": unnamed_share(ranked_AK),
        }

    def _allowed(self, mode: Mode) -> Allowed | None:
        """What may be named; None is the whole catalogue."""
        if mode == "catalogue":
            return None
        return self._within if mode == "reachable" else self._never_visited

    def _within(self, number_B: IntArray) -> list[IntArray]:
        return self._reach.of(self._here_R[0][number_B], self._here_R[1][number_B])

    def _never_visited(self, number_B: IntArray) -> list[IntArray]:
        visits, found = self._packer.visits, []
        visited_N = np.zeros(len(self._packer.lat_N), dtype=np.bool_)
        for event, rows in zip(self._event_R[number_B].tolist(), self._within(number_B), strict=True):
            past = visits.item_E[visits.first_E[event] : visits.stop_E[event]]
            visited_N[past] = True
            found.append(rows[~visited_N[rows]])
            visited_N[past] = False
        return found


def _check(found_BK: AnyArray, requests: int, k: int, items: int, name: str) -> None:
    if found_BK.ndim != 2 or len(found_BK) != requests or found_BK.shape[1] > k:
        raise DataError(f"{name} gave lists {found_BK.shape} for {requests} requests, expected at most {k} items each")
    if found_BK.size and not -1 <= found_BK.min() <= found_BK.max() < items:
        raise DataError(f"{name} named the items {found_BK.min()} … {found_BK.max()}, expected -1 … {items - 1}")
