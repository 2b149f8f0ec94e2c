"""Scores that need no training: rows that every ranker has to beat.

    popular_within_reach   the visits of an item, for items the user can reach; all others come behind them
    popular_nearby         the visits of an item, and how far users go: the gravity model (`lgsid.rank.decay`)
    item_co_visits         how often the item is visited next to those the user visited last (and whether it is one)
    revisit                how often the user has visited the item before

Each counts in the training period alone (`Baseline.fit`). When a request is scored, its user's past is looked at, as
every ranker does: ``item_E[first:stop]``, which may reach beyond the training period but not to the request itself.

Scores are doubles whose order alone means something: no probability, no logit. Popularity decides between candidates
that a baseline cannot tell apart, whichever request they are of, and never outweighs what it can.

Axes: E visits, N items, B requests, C candidates of a request, T visits of a past.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, DoubleArray, IntArray
from lgsid.errors import DataError, NotFittedError
from lgsid.geo import haversine_km, unit_sphere
from lgsid.rank.decay import Gravity
from lgsid.rank.loader import Requests

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REQUESTS_PER_BLOCK = 4_096
VISITS_PER_BLOCK = 1 << 20
_STEP = 2.0**-20  # co-visit scores are rounded to it, and popularity adds less than one


def visits_of_items(item_E: AnyArray, items: int) -> IntArray:
    """Visits of each item, (N,).

    Raises:
        DataError: an item is not in the catalogue of so many.
    """
    if len(item_E) and not 0 <= item_E.min() <= item_E.max() < items:
        raise DataError(f"visits are of items {item_E.min()} … {item_E.max()}, expected 0 … {items - 1}")
    return np.bincount(item_E, minlength=items)


class Baseline(ABC):
    """Base of all baselines.

    Args:
        items: N, of the whole catalogue.

    Attributes:
        name: in result tables.
        visits_N: visits of each item in the training period, after `fit`.
    """

    name: ClassVar[str]
    visits_N: IntArray

    def __init__(self, items: int) -> None:
        self.items = items

    def fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray, training_E: BoolArray) -> Self:
        """Count in the training period.

        Args:
            user_E, item_E, time_E: user, item (row of the catalogue) and time (seconds) of each visit, sorted by user
                and time.
            training_E: whether the visit is of the training period; no other is looked at.

        Raises:
            DataError: an item is not in the catalogue.
        """
        user_E, item_E, time_E = user_E[training_E], item_E[training_E], time_E[training_E]
        self.visits_N = visits_of_items(item_E, self.items)
        self._fit(user_E, item_E, time_E)
        return self

    def score(self, requests: Requests, item_E: AnyArray) -> DoubleArray:
        """Scores (B, C) of the candidates.

        Args:
            requests: see `lgsid.rank.samples`.
            item_E: item of each visit, of all periods, which ``first`` and ``stop`` of the requests point into.

        Raises:
            NotFittedError: before `fit`.
        """
        if not hasattr(self, "visits_N"):
            raise NotFittedError(f"{type(self).__name__} has counted no visits yet", "call fit first")
        parts = [self._score(part, item_E) for part in self._blocks(requests)]
        return np.concatenate(parts) if parts else np.empty(requests.candidates.shape)

    def _blocks(self, requests: Requests) -> Iterator[Requests]:
        for start in range(0, len(requests), REQUESTS_PER_BLOCK):
            yield requests[start : start + REQUESTS_PER_BLOCK]

    def popularity(self, candidates_BC: IntArray) -> DoubleArray:
        """Visits in the training period, scaled to [0, 1)."""
        share: DoubleArray = self.visits_N[candidates_BC] / (self.visits_N.max(initial=0) + 1)
        return share

    # a baseline that needs no more than the visits of each item
    def _fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> None:  # noqa: B027
        """Count more of the training period than the visits of each item."""

    @abstractmethod
    def _score(self, requests: Requests, item_E: AnyArray) -> DoubleArray: ...


class PopularWithinReach(Baseline):
    """The visits of an item where it is at most ``reach_km`` from the user; below zero where it is not, so that the
    most popular item out of reach comes behind every item within. Where the user's place is unknown, nothing is within
    reach.

    Args:
        lat_deg_N, lon_deg_N: places of the items, WGS-84 degrees.
        reach_km: how far a user goes.
    """

    name = "popular_within_reach"

    def __init__(self, lat_deg_N: DoubleArray, lon_deg_N: DoubleArray, reach_km: float = 5.0) -> None:
        super().__init__(len(lat_deg_N))
        self.lat_deg_N, self.lon_deg_N, self.reach_km = lat_deg_N, lon_deg_N, reach_km

    def _score(self, requests: Requests, item_E: AnyArray) -> DoubleArray:
        item_BC = requests.candidates
        here = requests.here_lat_deg[:, None], requests.here_lon_deg[:, None]
        near_BC = haversine_km(*here, self.lat_deg_N[item_BC], self.lon_deg_N[item_BC]) <= self.reach_km
        return self.popularity(item_BC) - ~near_BC


class PopularNearby(Baseline):
    """The gravity model: visits of the item times how visits thin out with its distance from the user's place, fitted
    to how far users went from one visit to the next. Where the user's place is unknown, the visits alone.

    Args:
        lat_deg_N, lon_deg_N: places of the items, WGS-84 degrees.
    """

    name = "popular_nearby"

    def __init__(self, lat_deg_N: DoubleArray, lon_deg_N: DoubleArray) -> None:
        super().__init__(len(lat_deg_N))
        self.xyz_N3 = unit_sphere(lat_deg_N, lon_deg_N)

    def _fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> None:
        self.gravity = Gravity.fit(self.xyz_N3, self.visits_N, user_E, item_E)

    def _score(self, requests: Requests, item_E: AnyArray) -> DoubleArray:
        here_B3 = unit_sphere(requests.here_lat_deg, requests.here_lon_deg)
        return self.gravity.scores(here_B3[:, None], requests.candidates)


class Revisit(Baseline):
    """How often the user has visited the candidate before, over their whole past; then popularity."""

    name = "revisit"

    def _score(self, requests: Requests, item_E: AnyArray) -> DoubleArray:
        return _times_visited(requests, item_E) + self.popularity(requests.candidates)


class ItemCoVisits(Baseline):
    """Similarity of the candidate to the user's last visits, the latest counting most; then popularity.

    Two items are similar when they are visited one after the other: at most ``steps`` visits of one user apart, within
    ``within_hours``. The counts are normalised to cosines (count / √(visits of one × visits of the other)); an item is
    wholly similar to itself, so that a place the user has been to counts. A candidate's score is the sum of its
    similarities to the last ``last`` visits, each weighted by ``decay`` to the power of how many came after it. The
    defaults are near the best on the validation periods of two cities' check-ins; a narrower window costs more than one
    that is too wide.

    Args:
        items: N.
        last, decay, steps, within_hours: see above.
    """

    name = "item_co_visits"

    def __init__(
        self, items: int, last: int = 50, decay: float = 0.97, steps: int = 10, within_hours: float = 720.0
    ) -> None:
        super().__init__(items)
        self.last, self.decay, self.steps, self.within_hours = last, decay, steps, within_hours

    def _fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> None:
        from scipy.sparse import coo_matrix, csr_matrix, diags, identity

        count = csr_matrix((self.items, self.items), dtype=np.float32)
        for lag in range(1, self.steps + 1):
            one, other = self._pairs(lag, user_E, item_E, time_E)
            count += coo_matrix((np.ones(len(one), dtype=np.float32), (one, other)), shape=count.shape).tocsr()
        scale = diags(1 / np.sqrt(np.maximum(self.visits_N, 1)))
        self.similarity: csr_matrix = (scale @ (count + count.T) @ scale + identity(self.items)).tocsr()
        self.similarity.sort_indices()

    def _pairs(self, lag: int, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Different items that one user visited ``lag`` visits apart, within ``within_hours``."""
        close = (user_E[:-lag] == user_E[lag:]) & (item_E[:-lag] != item_E[lag:])
        close &= time_E[lag:] - time_E[:-lag] <= self.within_hours * 3_600
        return item_E[:-lag][close], item_E[lag:][close]

    def _score(self, requests: Requests, item_E: AnyArray) -> DoubleArray:
        item_BT, weight_BT = self._past(requests, item_E)
        candidates_BC = requests.candidates
        row_BCT, column_BCT = np.broadcast_arrays(item_BT[:, None], candidates_BC[:, :, None])
        found = np.asarray(self.similarity[row_BCT.ravel(), column_BCT.ravel()]).reshape(row_BCT.shape)
        score_BC = np.einsum("bct,bt->bc", found, weight_BT)
        rounded_BC: DoubleArray = np.round(score_BC / _STEP) * _STEP
        return rounded_BC + self.popularity(candidates_BC) * _STEP

    def _past(self, requests: Requests, item_E: AnyArray) -> tuple[IntArray, DoubleArray]:
        """Items of the last visits, latest first, and what each counts: 0 where there are no more."""
        width = max(1, min(self.last, int((requests.stop - requests.first).max(initial=0))))
        event_BT = requests.stop[:, None] - np.arange(1, width + 1)
        there_BT: BoolArray = event_BT >= requests.first[:, None]
        item_BT = np.where(there_BT, item_E[np.where(there_BT, event_BT, 0)], 0).astype(np.int64)
        return item_BT, there_BT * self.decay ** np.arange(width)


def _times_visited(requests: Requests, item_E: AnyArray) -> DoubleArray:
    """How often each candidate (B, C) occurs in its request's past."""
    length_B = requests.stop - requests.first
    times_BC = np.zeros(requests.candidates.shape)
    for rows in _of_moderate_length(length_B):
        length = length_B[rows]
        request = np.repeat(np.arange(len(length)), length)
        place = np.arange(len(request)) - np.repeat(np.cumsum(length) - length, length)
        past = item_E[requests.first[rows][request] + place]
        same = past[:, None] == requests.candidates[rows][request]
        for column in range(same.shape[1]):
            times_BC[rows, column] = np.bincount(request[same[:, column]], minlength=len(length))
    return times_BC


def _of_moderate_length(length_B: IntArray) -> Iterator[slice]:
    """Runs of requests whose pasts have about `VISITS_PER_BLOCK` visits together, or one request alone."""
    total_B = np.cumsum(length_B)
    start = 0
    while start < len(length_B):
        before = int(total_B[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(total_B, before + VISITS_PER_BLOCK, "right")))
        yield slice(start, stop)
        start = stop
