"""Recommenders that need no training: rows that every generator has to beat.

    popular_within_reach   what most visits of the training period went to, within reach of the user
    popular_nearby         what they went to, and how far users go: the gravity model (`lgsid.rank.decay`)
    item_co_visits         what follows the user's last items in the training period
    revisit                where the user has been before, most often and last

Each counts in the training period alone (`Baseline.fit`); at a request it looks at nothing but the packed row, as the
models do. Popularity decides between items that a baseline cannot tell apart, and fills lists that would end early.
Where the user is: at the last item of the row, unless the items within reach are given.

Axes: E visits, N items, B requests, T visits of a row, K items asked for, M pairs of a request and an item, Z pairs of
items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from lgsid.arrays import AnyArray, BoolArray, CodeArray, DoubleArray, FloatArray, IntArray
from lgsid.errors import DataError, NotFittedError
from lgsid.generate.base import Packed
from lgsid.generate.harness import Reach
from lgsid.generate.packing import ranges
from lgsid.geo import unit_sphere
from lgsid.rank.baselines import visits_of_items
from lgsid.rank.decay import Gravity
from lgsid.rank.visits import TRAINING, Visits


@dataclass(frozen=True)
class Scored:
    """M items that requests may be answered with, each once for a request.

    Attributes:
        request_M: number of the request.
        item_M: catalogue rows.
        score_M: the higher, the better.
    """

    request_M: IntArray
    item_M: IntArray
    score_M: DoubleArray

    def where(self, keep_M: BoolArray) -> Scored:
        """Some of them."""
        return Scored(self.request_M[keep_M], self.item_M[keep_M], self.score_M[keep_M])

    @classmethod
    def summed(cls, request_M: AnyArray, item_M: AnyArray, score_M: AnyArray, items: int) -> Scored:
        """Of pairs that may occur more than once: their scores add up."""
        key_M, of_M = np.unique(request_M.astype(np.int64) * items + item_M, return_inverse=True)
        return cls(key_M // items, key_M % items, np.bincount(of_M, score_M, len(key_M)).astype(np.float64))


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

    def fit(self, visits: Visits) -> Self:
        """Count in the training period; no other visit is looked at.

        Raises:
            DataError: an item is not in the catalogue.
        """
        training_E = visits.period_E == TRAINING
        user_E, item_E, time_E = visits.user_E[training_E], visits.item_E[training_E], visits.time_E[training_E]
        self.visits_N = visits_of_items(item_E, self.items)
        self._popular_N: IntArray = np.argsort(-self.visits_N, kind="stable")
        self._rank_N = np.empty(self.items, dtype=np.int64)
        self._rank_N[self._popular_N] = np.arange(self.items)
        self._fit(user_E, item_E, time_E)
        return self

    def top(self, requests: Packed, k: int, reach: Sequence[IntArray | CodeArray] | None = None) -> IntArray:
        """See `lgsid.generate.base.Recommender`.

        Raises:
            NotFittedError: before `fit`.
        """
        if not hasattr(self, "visits_N"):
            raise NotFittedError(f"{type(self).__name__} has counted no visits yet", "call fit first")
        scored = self._scored(_History.of(requests), k, reach)
        if reach is None:
            popular_BP = np.broadcast_to(self._popular_N[: 2 * k], (len(requests), min(2 * k, self.items)))
        else:
            key_A, bound_B1 = self._allowed(reach)
            scored = scored.where(_found(self._keys(scored.request_M, scored.item_M), key_A))
            popular_BP = self._first(key_A, bound_B1, 2 * k)
        return _filled(self._best(scored, len(requests), k), popular_BP)

    def _keys(self, request: AnyArray, item: AnyArray) -> IntArray:
        """Integers that sort by request, then popularity."""
        keys: IntArray = request.astype(np.int64) * self.items + self._rank_N[item]
        return keys

    def _allowed(self, reach: Sequence[AnyArray]) -> tuple[IntArray, IntArray]:
        """Sorted keys of what each request may be answered with, and where those of a request begin (B + 1,)."""
        count_B = np.array([len(rows) for rows in reach], dtype=np.int64)
        item_A = np.concatenate([np.empty(0, dtype=np.int64), *reach]).astype(np.int64)
        key_A = np.sort(self._keys(np.repeat(np.arange(len(reach)), count_B), item_A))
        return key_A, np.concatenate([[0], np.cumsum(count_B)])

    def _first(self, key_A: IntArray, bound_B1: IntArray, count: int) -> IntArray:
        """The first so many items (B, count) of each request's keys; -1 where there are no more."""
        place_BP = bound_B1[:-1, None] + np.arange(count)
        there_BP = place_BP < bound_B1[1:, None]
        if not len(key_A):
            return np.full(place_BP.shape, -1, dtype=np.int64)
        rank_BP = key_A[np.where(there_BP, place_BP, 0)] % self.items
        return np.where(there_BP, self._popular_N[rank_BP], -1)

    def _best(self, scored: Scored, requests: int, k: int) -> IntArray:
        """The k best items (B, K) of each request, by score, then popularity; -1 where there are no more."""
        order_M = np.lexsort((self._rank_N[scored.item_M], -scored.score_M, scored.request_M))
        request_M, item_M = scored.request_M[order_M], scored.item_M[order_M]
        column_M = ranges(np.zeros(requests, dtype=np.int64), np.bincount(request_M, minlength=requests))
        best_BK = np.full((requests, k), -1, dtype=np.int64)
        kept_M = column_M < k
        best_BK[request_M[kept_M], column_M[kept_M]] = item_M[kept_M]
        return best_BK

    # a baseline that needs no more than the visits of each item
    def _fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> None:  # noqa: B027
        """Count more of the training period than the visits of each item."""

    @abstractmethod
    def _scored(self, history: _History, k: int, reach: Sequence[AnyArray] | None) -> Scored:
        """Items with more for them than popularity; ``reach``, where it is told, cuts them down later."""


@dataclass(frozen=True)
class _History:
    """The visits of requests: number of the request, item, and how many visits ago (0 is the last), of each; and the
    last item of each request."""

    request_M: IntArray
    item_M: IntArray
    ago_M: IntArray
    last_B: IntArray

    @classmethod
    def of(cls, requests: Packed) -> _History:
        item_BT, length_B = requests.item_RT.cpu().numpy(), requests.length_R.cpu().numpy()
        if len(length_B) and length_B.min() < 1:
            raise DataError("a request has no visit, expected at least one: see lgsid.generate.packing")
        ago_BT = length_B[:, None] - 1 - np.arange(item_BT.shape[1])
        request_M, column_M = np.nonzero(ago_BT >= 0)
        last_B = item_BT[np.arange(len(item_BT)), length_B - 1]
        return cls(request_M, item_BT[request_M, column_M], ago_BT[request_M, column_M], last_B)


class PopularWithinReach(Baseline):
    """What most visits went to within ``reach_km`` of the user, or of what the request says is in reach; behind these,
    where they are too few and reach is not given, what most visits went to at all.

    Args:
        lat_N, lon_N: places of the items, WGS-84 degrees.
        reach_km: how far a user goes.
    """

    name = "popular_within_reach"

    def __init__(self, lat_N: DoubleArray, lon_N: DoubleArray, reach_km: float = 5.0) -> None:
        super().__init__(len(lat_N))
        self.lat_N, self.lon_N, self._reach = lat_N, lon_N, Reach(lat_N, lon_N, reach_km)

    def _scored(self, history: _History, k: int, reach: Sequence[AnyArray] | None) -> Scored:
        if reach is not None or not len(history.last_B):
            nothing = np.empty(0, dtype=np.int64)
            return Scored(nothing, nothing, np.empty(0))
        place_U, of_B = np.unique(history.last_B, return_inverse=True)
        key_A, bound_U1 = self._allowed(self._reach.of(self.lat_N[place_U], self.lon_N[place_U]))
        item_BK = self._first(key_A, bound_U1, k)[of_B]
        request_M, column_M = np.nonzero(item_BK >= 0)
        return Scored(request_M, item_BK[request_M, column_M], -column_M.astype(np.float64))


class PopularNearby(Baseline):
    """The gravity model: visits of an item times how visits thin out with its distance from the user, fitted to how far
    users went from one visit to the next.

    Args:
        lat_N, lon_N: places of the items, WGS-84 degrees.
    """

    name = "popular_nearby"

    def __init__(self, lat_N: DoubleArray, lon_N: DoubleArray) -> None:
        super().__init__(len(lat_N))
        self.xyz_N3 = unit_sphere(lat_N, lon_N)

    def _fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> None:
        self.gravity = Gravity.fit(self.xyz_N3, self.visits_N, user_E, item_E)

    def _scored(self, history: _History, k: int, reach: Sequence[AnyArray] | None) -> Scored:
        if reach is not None:
            return self._of(history.last_B, [rows.astype(np.int64) for rows in reach])
        last_U, of_B = np.unique(history.last_B, return_inverse=True)
        best_UK = np.full((len(last_U), k), -1, dtype=np.int64)
        for number, last in enumerate(last_U.tolist()):
            score_N = self.gravity.scores(self.xyz_N3[last], np.arange(self.items))
            order_K = _top(score_N, self._rank_N, min(k, self.items))
            best_UK[number, : len(order_K)] = order_K
        return self._of(history.last_B, [row_K[row_K >= 0] for row_K in best_UK[of_B]])

    def _of(self, last_B: AnyArray, rows: Sequence[IntArray]) -> Scored:
        """Scores of some items of each request."""
        request_M = np.repeat(np.arange(len(rows)), [len(of_request) for of_request in rows])
        item_M = np.concatenate([np.empty(0, dtype=np.int64), *rows])
        return Scored(request_M, item_M, self.gravity.scores(self.xyz_N3[last_B[request_M]], item_M))


class Revisit(Baseline):
    """Where the user has been before: a visit counts ``decay`` to the power of how many visits ago it was.

    Args:
        items: N, of the whole catalogue.
        decay: 1 is by number of visits alone, a small one by the last visit alone.
    """

    name = "revisit"

    def __init__(self, items: int, decay: float = 0.99) -> None:
        super().__init__(items)
        self.decay = decay

    def _scored(self, history: _History, k: int, reach: Sequence[AnyArray] | None) -> Scored:
        return Scored.summed(history.request_M, history.item_M, self.decay**history.ago_M, self.items)


class ItemCoVisits(Baseline):
    """What followed the user's last items in the training period.

    The weight of item b after item a is how often b was visited 1 … ``steps`` visits after a (a pair s steps apart
    counts 1 / s) at most ``within_hours`` later, over the visits of a; each item keeps its ``keep`` most frequent
    followers. An item that follows itself counts like any other. A request's score sums the weights after its ``last``
    visits, of which the one t visits ago counts ``decay`` to the power of t.

    Args:
        items: N, of the whole catalogue.
        last, decay, steps, within_hours, keep: see above.
    """

    name = "item_co_visits"

    def __init__(
        self,
        items: int,
        last: int = 20,
        decay: float = 0.9,
        steps: int = 10,
        within_hours: float = 720.0,
        keep: int = 200,
    ) -> None:
        super().__init__(items)
        self.last, self.decay, self.steps, self.within_hours, self.keep = last, decay, steps, within_hours, keep

    def _fit(self, user_E: AnyArray, item_E: AnyArray, time_E: AnyArray) -> None:
        from scipy.sparse import coo_matrix, csr_matrix

        followed = csr_matrix((self.items, self.items), dtype=np.float32)
        for lag in range(1, self.steps + 1):
            close = (user_E[:-lag] == user_E[lag:]) & (time_E[lag:] - time_E[:-lag] <= self.within_hours * 3_600)
            one, other = item_E[:-lag][close], item_E[lag:][close]
            weight = np.full(len(one), 1 / lag, dtype=np.float32)
            followed += coo_matrix((weight, (one, other)), shape=followed.shape).tocsr()
        kept_Z = self._most_frequent(followed.indptr, followed.indices, followed.data)
        one_Z = np.repeat(np.arange(self.items, dtype=np.int32), np.diff(followed.indptr))[kept_Z]
        self._bound_N1 = np.concatenate([[0], np.cumsum(np.bincount(one_Z, minlength=self.items))])
        self._other_Z: CodeArray = followed.indices[kept_Z]
        self._weight_Z: FloatArray = (followed.data[kept_Z] / self.visits_N[one_Z]).astype(np.float32)

    def _most_frequent(self, bound_N1: AnyArray, other_Z: AnyArray, count_Z: AnyArray) -> BoolArray:
        """Which followers each item keeps; only items that have too many are sorted."""
        kept_Z = np.ones(len(other_Z), dtype=np.bool_)
        many_N = np.flatnonzero(np.diff(bound_N1) > self.keep)
        length_N = np.diff(bound_N1)[many_N]
        place_Z = ranges(bound_N1[many_N], length_N)
        item_Z = np.repeat(many_N, length_N)
        order_Z = np.lexsort((self._rank_N[other_Z[place_Z]], -count_Z[place_Z], item_Z))
        kept_Z[place_Z[order_Z[ranges(np.zeros_like(length_N), length_N) >= self.keep]]] = False
        return kept_Z

    def _scored(self, history: _History, k: int, reach: Sequence[AnyArray] | None) -> Scored:
        recent_M = history.ago_M < self.last
        request_M, item_M = history.request_M[recent_M], history.item_M[recent_M]
        past = Scored.summed(request_M, item_M, self.decay ** history.ago_M[recent_M], self.items)
        count_M = self._bound_N1[past.item_M + 1] - self._bound_N1[past.item_M]
        place = ranges(self._bound_N1[past.item_M], count_M)
        score = np.repeat(past.score_M, count_M) * self._weight_Z[place]
        return Scored.summed(np.repeat(past.request_M, count_M), self._other_Z[place], score, self.items)


def _top(score_N: DoubleArray, rank_N: IntArray, k: int) -> IntArray:
    """The k items of the highest scores, of equal ones the more popular, best first."""
    least = np.partition(score_N, len(score_N) - k)[len(score_N) - k]
    some_X = np.flatnonzero(score_N >= least)
    found: IntArray = some_X[np.lexsort((rank_N[some_X], -score_N[some_X]))[:k]]
    return found


def _found(key_M: IntArray, key_A: IntArray) -> BoolArray:
    """Whether each key is among the sorted ones."""
    if not len(key_A):
        return np.zeros(len(key_M), dtype=np.bool_)
    found: BoolArray = key_A[np.minimum(np.searchsorted(key_A, key_M), len(key_A) - 1)] == key_M
    return found


def _filled(best_BK: IntArray, popular_BP: IntArray) -> IntArray:
    """Lists whose open places are taken, in their order, by popular items that they do not name."""
    k = best_BK.shape[1]
    open_BP = (popular_BP[:, :, None] != best_BK[:, None, :]).all(axis=2)
    both = np.concatenate([best_BK, np.where(open_BP, popular_BP, -1)], axis=1)
    first = np.argsort(both < 0, axis=1, kind="stable")[:, :k]
    filled: IntArray = np.take_along_axis(both, first, axis=1)
    return filled
