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
from lgsid.rank.visits import Visits

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
    visits, lat_N, lon_N = packer.visits, packer.lat_N, packer.lon_N
    target_R, here_R = visits.item_E[event_R], user_places(visits, event_R, lat_N, lon_N)
    within_R = haversine_km(*here_R, lat_N[target_R], lon_N[target_R]) <= reach_km
    figures: dict[str, Any] = {
        "requests": len(event_R),
        "reach_km": reach_km,
        "target_within_reach_share": float(within_R.mean()),
    }
    ranked: dict[str, CodeArray] = {}
    reach = Reach(lat_N, lon_N, reach_km) if set(modes) - {"catalogue"} else None
    for mode in modes:
        place_A = np.flatnonzero(visits.new_E[event_R]) if mode == "new" else np.arange(len(event_R))
        if not len(place_A):
            continue
        allowed = _allowed(mode, visits, event_R, here_R, reach)
        ranked_AK, seconds = _ask(recommender, packer, event_R, place_A, max(ks), allowed, batch)
        here_A = here_R[0][place_A], here_R[1][place_A]
        figures[mode] = {
            **measure(ranked_AK, target_R[place_A], visits.new_E[event_R[place_A]], ks),
            "unreachable_share": unreachable_share(ranked_AK, here_A, lat_N, lon_N, reach_km),
            "unnamed_share": unnamed_share(ranked_AK),
            "seconds_per_1000": seconds / len(place_A) * 1_000,
        }
        ranked[mode] = np.full((len(event_R), max(ks)), -1, dtype=np.int32)
        ranked[mode][place_A] = ranked_AK
    return Evaluation(figures, ranked)


def _allowed(
    mode: Mode, visits: Visits, event_R: IntArray, here_R: tuple[DoubleArray, DoubleArray], reach: Reach | None
) -> Allowed | None:
    """What may be named; None is the whole catalogue."""
    if mode == "catalogue" or reach is None:
        return None
    visited_N = np.zeros(reach.items, dtype=np.bool_)

    def within(number_B: IntArray) -> list[IntArray]:
        return reach.of(here_R[0][number_B], here_R[1][number_B])

    def never_visited(number_B: IntArray) -> list[IntArray]:
        found = []
        for event, rows in zip(event_R[number_B].tolist(), within(number_B), strict=True):
            past = visits.item_E[visits.first_E[event] : visits.stop_E[event]]
            visited_N[past] = True
            found.append(rows[~visited_N[rows]])
            visited_N[past] = False
        return found

    return within if mode == "reachable" else never_visited


def _ask(
    recommender: Recommender,
    packer: Packer,
    event_R: IntArray,
    place_A: IntArray,
    k: int,
    allowed: Allowed | None,
    batch: int,
) -> tuple[CodeArray, float]:
    """The lists of some of the requests, and the seconds that they took."""
    ranked_AK = np.full((len(place_A), k), -1, dtype=np.int32)
    seconds = 0.0
    for place_B, requests in packer.bucketed(event_R[place_A], batch):
        begin = time.perf_counter()
        found_BK = recommender.top(requests, k, None if allowed is None else allowed(place_A[place_B]))
        seconds += time.perf_counter() - begin
        _check(found_BK, len(place_B), k, len(packer.lat_N), type(recommender).__name__)
        ranked_AK[place_B, : found_BK.shape[1]] = found_BK
    return ranked_AK, seconds


def _check(found_BK: AnyArray, requests: int, k: int, items: int, name: str) -> None:
    if found_BK.ndim != 2 or len(found_BK) != requests or found_BK.shape[1] > k:
        raise DataError(f"{name} gave lists {found_BK.shape} for {requests} requests, expected at most {k} items each")
    if found_BK.size and not -1 <= found_BK.min() <= found_BK.max() < items:
        raise DataError(f"{name} named the items {found_BK.min()} … {found_BK.max()}, expected -1 … {items - 1}")
