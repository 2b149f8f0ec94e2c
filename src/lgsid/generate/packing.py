"""Packed rows: the visits of many users in few rows to train on, and one row a request.

A user's training visits are cut into *chunks* of at most T visits. All but a user's first chunk begin with ``history``
visits that are predicted elsewhere, so that every target finds its whole history in its row. Chunks are then put into
rows of T visits, the longest first, each where it leaves the least room (best-fit decreasing; "Efficient Sequence
Packing without Cross-contamination", arXiv 2107.02027). A layout is three numbers a chunk; visits are gathered when a
batch is asked for.

With ``encoder="full"`` a row is one target and the ``history`` visits before it.

*Ties.* What a model looks back at is decided by order, so a visit at the same second as the one before it is no target:
its order would tell it of something that is not in its past. It is still looked back at.

Axes: E visits, N items, C chunks, R rows, T places of a row, M visits of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from lgsid.arrays import AnyArray, BoolArray, CodeArray, DoubleArray, FloatArray, IntArray
from lgsid.errors import DataError
from lgsid.generate.base import BANDS, Packed
from lgsid.geo import km_to_chord, unit_sphere
from lgsid.hashing import mixed
from lgsid.rank.loader import BAND_EDGES_KM
from lgsid.rank.visits import TRAINING, Visits

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Layout:
    """R rows of C chunks.

    Attributes:
        first_C, target_C, stop_C: chunk c holds the visits ``first:stop``, of which those from ``target`` on are
            predicted; int32.
        bound_R1: row r has the chunks ``bound_R1[r]:bound_R1[r + 1]``.
    """

    first_C: CodeArray
    target_C: CodeArray
    stop_C: CodeArray
    bound_R1: CodeArray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.bound_R1) - 1


class Packer:
    """Makes packed rows of visits.

    Args:
        lat_N, lon_N: places of the items, WGS-84 degrees.
        visits: of all periods; see `lgsid.generate.protocol`.
        history: most recent visits that a prediction looks at.
        length: T, visits of a row.
        users: number of user tokens; 0 leaves users anonymous. A user's token depends on the hash of their id alone.
        encoder: see `lgsid.config.GenerateConfig`.
        device: where batches go.

    Attributes:
        xyz_N3: places of the items, on the unit sphere.
        past: most visits of a request. Behind a causal encoder the states of the last ``history`` visits depend on
            those before, and the last target of a row has seen ``length - 1``; so many are given.

    Raises:
        DataError: a row has no room for a target after its history, or the training visits of a user are not their
            first ones.
    """

    def __init__(
        self,
        lat_N: DoubleArray,
        lon_N: DoubleArray,
        visits: Visits,
        history: int,
        length: int = 64,
        users: int = 0,
        encoder: Literal["causal", "full"] = "causal",
        device: str | torch.device = "cpu",
    ) -> None:
        if length <= history:
            raise DataError(
                f"rows of {length} visits have no room for a target after its history of {history}",
                f"ask for rows of at least {history + 1} visits, or set generate.history lower",
            )
        self.lat_N, self.lon_N, self.visits = lat_N, lon_N, visits
        self.history, self.length, self.encoder, self.device = history, length, encoder, device
        self.past = length - 1 if encoder == "causal" else history
        self.xyz_N3: FloatArray = unit_sphere(lat_N, lon_N).astype(np.float32)
        self._edges = np.square(km_to_chord(BAND_EDGES_KM)).astype(np.float32)
        self._band_E = self._bands(visits.item_E)
        self._users = users
        self._token_U = self._user_tokens() if users else None
        self._target_E = self._targets()

    def _bands(self, item_E: AnyArray) -> npt.NDArray[np.uint8]:
        """Distance band of each visit from the one before, whoever made that."""
        band_E = np.zeros(len(item_E), dtype=np.uint8)
        for start in range(1, len(item_E), _BLOCK):
            here = self.xyz_N3[item_E[start : start + _BLOCK]]
            there = self.xyz_N3[item_E[start - 1 : start - 1 + len(here)]]
            found = np.searchsorted(self._edges, np.square(here - there).sum(axis=1)) + 1
            band_E[start : start + _BLOCK] = np.minimum(found, BANDS - 1)
        return band_E

    def tokens(self, hash_U: npt.NDArray[np.uint64]) -> IntArray:
        """Tokens of users by the hash of their ids, as in `Visits.users`; 0 for all where users are anonymous."""
        return (mixed(hash_U) % np.uint64(max(1, self._users))).astype(np.int64)

    def _user_tokens(self) -> CodeArray:
        users = self.visits.users
        token_U = np.zeros(int(self.visits.user_E.max(initial=-1)) + 1, dtype=np.int32)
        token_U[users["number"].to_numpy()] = self.tokens(users["user"].to_numpy())
        return token_U

    def _targets(self) -> BoolArray:
        visits = self.visits
        training_E = visits.period_E == TRAINING
        late = training_E[1:] & ~training_E[:-1] & (visits.user_E[1:] == visits.user_E[:-1])
        if late.any():
            raise DataError(
                f"{int(late.sum())} training visits come after a visit of another period of their user, "
                "expected each user's training visits to be their first ones"
            )
        alone_E = visits.stop_E == np.arange(len(visits), dtype=np.int32)  # no visit before it at its own second
        targets: BoolArray = training_E & alone_E & (visits.first_E < visits.stop_E)
        return targets

    # --- Rows to train on ---------------------------------------------------------------------------------------------
    @cached_property
    def training(self) -> Layout:
        """Rows with every target of the training period once; same visits, same layout."""
        first_C, target_C, stop_C = self._windows() if self.encoder == "full" else self._chunks()
        if self.encoder == "full":
            return Layout(first_C, target_C, stop_C, np.arange(len(first_C) + 1, dtype=np.int32))
        order_C, bound_R1 = pack((stop_C - first_C).astype(np.int64), self.length)
        return Layout(first_C[order_C], target_C[order_C], stop_C[order_C], bound_R1)

    def training_rows(self) -> IntArray:
        """Numbers of the rows to train on, for `rows`."""
        return np.arange(len(self.training))

    def _windows(self) -> tuple[CodeArray, CodeArray, CodeArray]:
        target_C = np.flatnonzero(self._target_E).astype(np.int32)
        first_C = np.maximum(self.visits.first_E[target_C], target_C - np.int32(self.history))
        return first_C, target_C, target_C + np.int32(1)

    def _chunks(self) -> tuple[CodeArray, CodeArray, CodeArray]:
        visits, step = self.visits, self.length - self.history
        start_U = np.flatnonzero(visits.first_E == np.arange(len(visits), dtype=np.int32))
        seen_E1 = np.concatenate([[0], np.cumsum(visits.period_E == TRAINING)])
        stop_U = start_U + seen_E1[np.append(start_U[1:], len(visits))] - seen_E1[start_U]
        count_U = np.maximum(1, -(-(stop_U - start_U - self.history) // step))
        number_C = ranges(np.zeros_like(count_U), count_U)
        first_C = np.repeat(start_U, count_U) + number_C * step
        target_C = first_C + np.where(number_C > 0, self.history, 0)
        stop_C = np.minimum(first_C + self.length, np.repeat(stop_U, count_U))
        targets_E1 = np.concatenate([[0], np.cumsum(self._target_E)])
        some_C = targets_E1[stop_C] > targets_E1[np.minimum(target_C, stop_C)]
        first_C, target_C, stop_C = (part[some_C].astype(np.int32) for part in (first_C, target_C, stop_C))
        return first_C, target_C, stop_C

    def rows(self, index_R: IntArray) -> Packed:
        """Some of the rows to train on, as wide as the longest of them."""
        layout = self.training
        count_R = layout.bound_R1[index_R + 1] - layout.bound_R1[index_R]
        chunk_C = ranges(layout.bound_R1[index_R], count_R)
        first_C, stop_C = layout.first_C[chunk_C], layout.stop_C[chunk_C]
        place = _Places.of(count_R, stop_C - first_C)
        event_M = ranges(first_C, stop_C - first_C)
        target_M = self._target_E[event_M] & (event_M >= np.repeat(layout.target_C[chunk_C], stop_C - first_C))
        nothing_R = np.zeros(len(index_R), dtype=np.int64), np.zeros((len(index_R), 3))
        return self._of_visits(event_M, place, target_M, self._here(event_M, place), *nothing_R)

    # --- Requests -----------------------------------------------------------------------------------------------------
    def requests(self, event_R: IntArray) -> Packed:
        """Requests at the moments of some visits: what their users did at earlier seconds, the latest `past` visits.

        Args:
            event_R: rows of `Visits`; nothing of these or of later visits is in the result but the moment.

        Raises:
            DataError: a user has no earlier visit.
        """
        length_R = self.request_lengths(event_R)
        if not length_R.all():
            raise DataError(
                f"{int((length_R == 0).sum())} of {len(length_R)} requests have no earlier visit of their user, "
                "expected at least one: see lgsid.generate.protocol.requests"
            )
        event_M = ranges(self.visits.stop_E[event_R] - length_R, length_R)
        place = _Places.of(np.ones(len(event_R), dtype=np.int64), length_R)
        here_R3 = unit_sphere(*user_places(self.visits, event_R, self.lat_N, self.lon_N))
        nothing_M = np.zeros(len(event_M), dtype=np.bool_), np.zeros((len(event_M), 3))
        return self._of_visits(event_M, place, *nothing_M, self.visits.time_E[event_R], here_R3)

    def request_lengths(self, event_R: IntArray) -> IntArray:
        """Visits that the row of each request has."""
        earlier_R = (self.visits.stop_E[event_R] - self.visits.first_E[event_R]).astype(np.int64)
        length_R: IntArray = np.minimum(earlier_R, self.past)
        return length_R

    def bucketed(self, event_R: IntArray, batch: int) -> Iterator[tuple[IntArray, Packed]]:
        """Batches of requests of about equal length, the longest first, with their places in ``event_R``."""
        order_R = np.argsort(-self.request_lengths(event_R), kind="stable")
        for start in range(0, len(order_R), batch):
            place_B = order_R[start : start + batch]
            yield place_B, self.requests(event_R[place_B])

    def from_histories(
        self,
        items: Sequence[AnyArray],
        times: Sequence[AnyArray],
        now_R: IntArray,
        user_R: IntArray | None = None,
        here_R: tuple[DoubleArray, DoubleArray] | None = None,
    ) -> Packed:
        """Requests of histories that are not among the visits, as a service gets them.

        Args:
            items: catalogue rows of each user's visits, oldest first, at least one each.
            times: seconds since 1970 of these visits.
            now_R: seconds since 1970 of the requests.
            user_R: user tokens, see `tokens`; None is token 0.
            here_R: latitude and longitude of the users; None is where they were last.

        Raises:
            DataError: a history is empty, is not in the order of time, goes beyond its request or names an item that
                does not exist, or there are not as many times as items.
        """
        _check_histories(items, times, now_R, len(self.lat_N))
        item_M = np.concatenate([np.asarray(row)[-self.past :] for row in items]).astype(np.int64)
        time_M = np.concatenate([np.asarray(row)[-self.past :] for row in times]).astype(np.int64)
        length_R = np.array([min(len(row), self.past) for row in items])
        place = _Places.of(np.ones(len(items), dtype=np.int64), length_R)
        token_R = np.zeros(len(items), dtype=np.int64) if user_R is None else user_R
        token_M, target_M = np.repeat(token_R, length_R), np.zeros(len(item_M), dtype=np.bool_)
        last_R3 = self.xyz_N3[item_M[np.cumsum(length_R) - 1]]
        here_M3, here_R3 = np.zeros((len(item_M), 3)), last_R3 if here_R is None else unit_sphere(*here_R)
        return self._packed(place, item_M, time_M, self._bands(item_M), token_M, target_M, here_M3, now_R, here_R3)

    # --- Both ---------------------------------------------------------------------------------------------------------
    def _of_visits(
        self,
        event_M: IntArray,
        place: _Places,
        target_M: BoolArray,
        here_M3: AnyArray,
        now_R: IntArray,
        here_R3: AnyArray,
    ) -> Packed:
        visits = self.visits
        user_M = np.zeros(1, dtype=np.int32) if self._token_U is None else self._token_U[visits.user_E[event_M]]
        item_M, time_M, band_M = visits.item_E[event_M], visits.time_E[event_M], self._band_E[event_M]
        return self._packed(place, item_M, time_M, band_M, user_M, target_M, here_M3, now_R, here_R3)

    def _here(self, event_M: IntArray, place: _Places) -> DoubleArray:
        """Where users were just before visits; 0 for the first ones of segments, which are never predicted."""
        here_M3 = np.zeros((len(event_M), 3))
        later_M = ~place.opens_M
        here_M3[later_M] = unit_sphere(*user_places(self.visits, event_M[later_M], self.lat_N, self.lon_N))
        return here_M3

    def _packed(
        self,
        place: _Places,
        item_M: AnyArray,
        time_M: AnyArray,
        band_M: AnyArray,
        user_M: AnyArray,
        target_M: AnyArray,
        here_M3: AnyArray,
        now_R: AnyArray,
        here_R3: AnyArray,
    ) -> Packed:
        shape = len(place.length_R), int(place.length_R.max(initial=0))

        def grid(value_M: AnyArray, fill: int | bool = 0) -> torch.Tensor:
            kind = value_M.dtype if value_M.dtype in (np.bool_, np.float32) else np.int64
            grid_RT: AnyArray = np.full((*shape, *value_M.shape[1:]), fill, dtype=kind)
            grid_RT[place.row_M, place.column_M] = value_M
            return torch.from_numpy(grid_RT).to(self.device)

        return Packed(
            item_RT=grid(item_M),
            segment_RT=grid(place.segment_M, -1),
            target_RT=grid(target_M, False),
            time_RT=grid(time_M),
            band_RT=grid(np.where(place.opens_M, 0, band_M)),
            user_RT=grid(user_M),
            length_R=torch.from_numpy(place.length_R).to(self.device),
            now_R=torch.from_numpy(np.asarray(now_R, dtype=np.int64)).to(self.device),
            here_RT3=grid(here_M3.astype(np.float32)),
            here_R3=torch.from_numpy(np.asarray(here_R3, dtype=np.float32)).to(self.device),
        )


def user_places(
    visits: Visits, event_R: IntArray, lat_N: DoubleArray, lon_N: DoubleArray
) -> tuple[DoubleArray, DoubleArray]:
    """Latitude and longitude of the users just before some visits, each of which has an earlier one."""
    last_R = visits.item_E[visits.stop_E[event_R] - 1]
    lat_R, lon_R = lat_N[last_R].astype(np.float64), lon_N[last_R].astype(np.float64)
    if visits.lat_E is not None and visits.lon_E is not None:
        own_lat_R, own_lon_R = visits.lat_E[event_R], visits.lon_E[event_R]
        told_R = np.isfinite(own_lat_R) & np.isfinite(own_lon_R)
        lat_R, lon_R = np.where(told_R, own_lat_R, lat_R), np.where(told_R, own_lon_R, lon_R)
    return lat_R, lon_R


@dataclass(frozen=True)
class _Places:
    """Where the visits of some rows go: row, column and segment of each, whether it opens its segment; visits a row."""

    row_M: IntArray
    column_M: IntArray
    segment_M: IntArray
    opens_M: BoolArray
    length_R: IntArray

    @classmethod
    def of(cls, count_R: AnyArray, length_C: AnyArray) -> _Places:
        """Of rows of so many chunks, each of at least one visit, and the lengths of these."""
        length_C = length_C.astype(np.int64)
        row_C = np.repeat(np.arange(len(count_R)), count_R)
        length_R = np.bincount(row_C, length_C, len(count_R)).astype(np.int64)
        segment_C = ranges(np.zeros(len(count_R), dtype=np.int64), count_R)
        opens_M = np.zeros(int(length_C.sum()), dtype=np.bool_)
        opens_M[np.cumsum(length_C) - length_C] = True
        column_M = ranges(np.zeros_like(length_R), length_R)
        return cls(np.repeat(row_C, length_C), column_M, np.repeat(segment_C, length_C), opens_M, length_R)


def pack(length_C: IntArray, capacity: int) -> tuple[IntArray, CodeArray]:
    """Chunks in rows of limited length: best-fit decreasing, all chunks of one length at a time.

    Args:
        length_C: from 1 to ``capacity``.

    Returns:
        the chunks in the order of their rows, and where each row begins (R + 1,), int32.
    """
    row_C = np.empty(len(length_C), dtype=np.int64)
    order_C = np.argsort(-length_C, kind="stable")
    bound = np.searchsorted(-length_C[order_C], -np.arange(capacity + 1), side="right")
    open_rows = [np.empty(0, dtype=np.int64) for _ in range(capacity + 1)]  # by the room that they have
    rows = 0
    for length in range(capacity, 0, -1):
        waiting = order_C[(0 if length == capacity else bound[length + 1]) : bound[length]]
        while len(waiting):
            room = next((room for room in range(length, capacity + 1) if len(open_rows[room])), None)
            if room is None:
                fresh = -(-len(waiting) // (capacity // length))
                open_rows[capacity], rows, room = np.arange(rows, rows + fresh), rows + fresh, capacity
            chosen, open_rows[room] = np.split(open_rows[room], [len(waiting)])
            row_C[waiting[: len(chosen)]] = chosen
            open_rows[room - length] = np.concatenate([open_rows[room - length], chosen])
            waiting = waiting[len(chosen) :]
    bound_R1 = np.concatenate([[0], np.cumsum(np.bincount(row_C, minlength=rows))]).astype(np.int32)
    return np.argsort(row_C, kind="stable"), bound_R1


def ranges(start_C: AnyArray, count_C: AnyArray) -> IntArray:
    """``start, start + 1, …``, so many of each, one after another."""
    count_C = count_C.astype(np.int64)
    before_C = np.cumsum(count_C) - count_C
    ranges: IntArray = np.arange(int(count_C.sum())) + np.repeat(start_C - before_C, count_C)
    return ranges


def _check_histories(items: Sequence[AnyArray], times: Sequence[AnyArray], now_R: AnyArray, catalogue: int) -> None:
    if not len(items) == len(times) == len(now_R) > 0:
        raise DataError(
            f"got {len(items)} histories, {len(times)} lists of times and {len(now_R)} moments, expected one for one"
        )
    for number, (item_T, time_T, now) in enumerate(zip(items, times, now_R, strict=True)):
        if not len(item_T) == len(time_T) > 0:
            raise DataError(
                f"history {number} has {len(item_T)} items and {len(time_T)} times, expected as many, and one at least"
            )
        if not 0 <= np.min(item_T) <= np.max(item_T) < catalogue:
            raise DataError(
                f"history {number} has items {np.min(item_T)} … {np.max(item_T)}, expected 0 … {catalogue - 1}"
            )
        if (np.diff(time_T) < 0).any() or time_T[-1] > now:
            raise DataError(f"history {number} is not in the order of time, oldest first and none after the request")
