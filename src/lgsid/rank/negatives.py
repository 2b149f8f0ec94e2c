"""Items that were not chosen: half from within reach of where the user is, half from the user's city.

Check-ins do not say what a user saw and left. What they could have had lies within reach, so half the negatives are
drawn from there, uniformly; the other half come from the user's city, so that a model must also tell near from far.
Every draw is a function of seed, user, time and item, whatever else is drawn before or beside it.

Axes: N items of the catalogue, P items of a pool, B requests, C candidates (the positive first), M listed items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.geo import SpatialIndex
from lgsid.hashing import WEYL, Bits, mixed, uniform
from lgsid.rank.reach import Circles, WithinReach

OPEN = -1
"""A candidate that is still to be drawn."""
_LISTED = 24  # places in a circle's runs up to which they are listed instead of drawn from
_TRIES = 16  # draws after which they are listed after all
_PAIRS = 4_000_000  # places listed at a time


@dataclass(frozen=True)
class Moments:
    """B requests as negatives see them.

    Attributes:
        lat_B, lon_B: where the user is, degrees.
        city_B: the city there, -1 where unknown.
        key_B: random bits of the request; see `request_keys`.
    """

    lat_B: DoubleArray
    lon_B: DoubleArray
    city_B: IntArray
    key_B: Bits

    def of(self, rows: IntArray) -> Moments:
        """Some of them."""
        return Moments(self.lat_B[rows], self.lon_B[rows], self.city_B[rows], self.key_B[rows])


def request_keys(seed: int, *parts_B: npt.NDArray[np.integer]) -> Bits:
    """Random bits (B,) that depend on seed and parts (user, time, item) alone."""
    key_B = np.full(parts_B[0].shape, seed % 2**64, dtype=np.uint64)
    for part_B in parts_B:
        key_B = mixed(key_B * np.uint64(WEYL) + mixed(part_B.astype(np.int64).astype(np.uint64)))
    return key_B


def _uniforms(key_B: Bits, column: int, attempt: int) -> DoubleArray:
    step = ((column << 32) + attempt + 1) * WEYL % 2**64
    return uniform(mixed(key_B + np.uint64(step)))


def _among(item_B: IntArray, candidates_BC: IntArray) -> BoolArray:
    among: BoolArray = (candidates_BC == item_B[:, None]).any(axis=1)
    return among


class Pool:
    """The items that negatives of some requests are drawn from: those that were visited in training, or the others.

    Args:
        rows_P: rows of the catalogue.
        lat_N, lon_N: coordinates of the catalogue, degrees.
        city_N: integers that are equal where the city is; -1 where it is unknown.
        reach_km: how far a user goes.
    """

    def __init__(
        self, rows_P: IntArray, lat_N: DoubleArray, lon_N: DoubleArray, city_N: IntArray, reach_km: float
    ) -> None:
        self._size = len(rows_P)
        self._near = _NearItems(rows_P, lat_N[rows_P], lon_N[rows_P], reach_km)
        self._city = _CityItems(rows_P, city_N)

    def __len__(self) -> int:
        return self._size

    def fill(self, candidates_BC: IntArray, moments: Moments) -> tuple[int, int]:
        """Draw the open candidates, in place: the first half of the negatives within reach, the rest in the city.

        Args:
            candidates_BC: the positive, then negatives that are known already or `OPEN`; all of the pool.
            moments: row for row.

        Returns:
            how many had to be taken from beyond reach, and how many from other cities.

        Raises:
            DataError: the pool has fewer than C items.
        """
        columns = candidates_BC.shape[1]
        if self._size < columns:
            raise DataError(
                f"{columns - 1} negatives need at least {columns} items to draw from, got {self._size}",
                f"--set rank.samples.negatives={max(1, self._size - 1)}, or bring more items",
            )
        beyond = self._near.fill(candidates_BC, range(1, 1 + columns // 2), moments)
        return beyond, self._city.fill(candidates_BC, moments)


class _NearItems:
    """Draws within reach; the nearest items where too few are."""

    def __init__(self, rows_P: IntArray, lat_P: DoubleArray, lon_P: DoubleArray, reach_km: float) -> None:
        self._rows_P = rows_P
        self._reach = WithinReach(lat_P, lon_P, reach_km)
        self._item_P = rows_P[self._reach.order_P]
        self._index = SpatialIndex(lat_P, lon_P)

    def fill(self, candidates_BC: IntArray, columns: Sequence[int], moments: Moments) -> int:
        """Draw the open ones of some columns, in place; returns how many came from beyond reach."""
        rows = np.flatnonzero((candidates_BC[:, columns] == OPEN).any(axis=1))
        rows = rows[np.argsort(self._reach.along(moments.lat_B[rows], moments.lon_B[rows]), kind="stable")]
        at, drawn_BC = moments.of(rows), candidates_BC[rows]
        circles = self._reach.circles(at.lat_B, at.lon_B)
        listed = np.flatnonzero(~self._draw(drawn_BC, columns, circles, at))
        beyond = 0
        for part in _parts(listed, circles.sizes[listed]):
            part_BC = drawn_BC[part]
            beyond += self._choose(part_BC, columns, circles.of(part), at.of(part))
            drawn_BC[part] = part_BC
        candidates_BC[rows] = drawn_BC
        return beyond

    def _draw(self, candidates_BC: IntArray, columns: Sequence[int], circles: Circles, at: Moments) -> BoolArray:
        """Draw until an item is inside and new; returns which rows are done.

        Whether a draw fails depends on how many items are inside, not on which, so draws stay uniform.
        """
        done_B = circles.sizes > _LISTED
        for column in columns:
            left = np.flatnonzero((candidates_BC[:, column] == OPEN) & done_B)
            for attempt in range(_TRIES):
                now = circles.of(left)
                place = now.pick(_uniforms(at.key_B[left], column, attempt))
                item = self._item_P[place]
                good = self._reach.inside(place, now.centre_B3) & ~_among(item, candidates_BC[left])
                candidates_BC[left[good], column] = item[good]
                left = left[~good]
                if not len(left):
                    break
            done_B[left] = False
        return done_B

    def _choose(self, candidates_BC: IntArray, columns: Sequence[int], circles: Circles, at: Moments) -> int:
        """List all items inside and draw from them; returns how many came from beyond reach."""
        row_M, place_M = circles.places()
        item_M = self._item_P[place_M]
        good = self._reach.inside(place_M, circles.centre_B3[row_M]) & ~_among(item_M, candidates_BC[row_M])
        row_M, item_M = row_M[good], item_M[good]
        size_B = np.bincount(row_M, minlength=len(candidates_BC))
        start_B = np.cumsum(size_B) - size_B
        short_B = (candidates_BC[:, columns] == OPEN).sum(axis=1) - size_B
        enough, few = np.flatnonzero(short_B <= 0), np.flatnonzero(short_B > 0)
        for column in columns:
            left = enough[candidates_BC[enough, column] == OPEN]
            _draw_from(item_M, start_B[left], size_B[left], candidates_BC, column, left, at.key_B, _TRIES)
        self._take_nearest(candidates_BC, columns, few, at)
        return int(short_B[few].sum())

    def _take_nearest(self, candidates_BC: IntArray, columns: Sequence[int], rows: IntArray, at: Moments) -> None:
        """Fill rows with the nearest items; those within reach are among them."""
        if not len(rows):
            return
        index_BC, _ = self._index.nearest(at.lat_B[rows], at.lon_B[rows], k=candidates_BC.shape[1])
        for item_B in self._rows_P[index_BC].T:
            open_BC = candidates_BC[rows][:, columns] == OPEN
            use = open_BC.any(axis=1) & ~_among(item_B, candidates_BC[rows])
            candidates_BC[rows[use], np.asarray(columns)[open_BC[use].argmax(axis=1)]] = item_B[use]


class _CityItems:
    """Draws from a city; from everywhere where it has too few or is unknown."""

    def __init__(self, rows_P: IntArray, city_N: IntArray) -> None:
        city_P = city_N[rows_P] + 1
        self._city_N = city_N
        self._item_P = rows_P[np.argsort(city_P, kind="stable")]
        self._size_K = np.bincount(city_P, minlength=int(city_N.max(initial=-1)) + 2)
        self._start_K = np.cumsum(self._size_K) - self._size_K

    def fill(self, candidates_BC: IntArray, at: Moments) -> int:
        """Draw all open candidates, in place; returns how many came from other cities."""
        elsewhere = 0
        for column in range(1, candidates_BC.shape[1]):
            rows = np.flatnonzero(candidates_BC[:, column] == OPEN)
            city, taken_BC = at.city_B[rows], candidates_BC[rows]
            taken = ((taken_BC != OPEN) & (self._city_N[taken_BC] == city[:, None])).sum(axis=1)
            used_up = (city >= 0) & (taken >= self._size_K[city + 1])
            elsewhere += int(used_up.sum())
            anywhere = used_up | (city < 0)
            start = np.where(anywhere, 0, self._start_K[city + 1])
            size = np.where(anywhere, len(self._item_P), self._size_K[city + 1])
            _draw_from(self._item_P, start, size, candidates_BC, column, rows, at.key_B, 0)
        return elsewhere


def _draw_from(
    item_M: IntArray,
    start_R: IntArray,
    size_R: IntArray,
    candidates_BC: IntArray,
    column: int,
    rows_R: IntArray,
    key_B: Bits,
    attempt: int,
) -> None:
    """Draw a column of some rows from ``item_M[start:start + size]`` each, where there is an item that is new."""
    left = np.arange(len(rows_R))
    while len(left):
        rows = rows_R[left]
        rank = (_uniforms(key_B[rows], column, attempt) * size_R[left]).astype(np.int64)
        item = item_M[start_R[left] + rank]
        good = ~_among(item, candidates_BC[rows])
        candidates_BC[rows[good], column] = item[good]
        left, attempt = left[~good], attempt + 1


def _parts(rows: IntArray, size: IntArray) -> list[IntArray]:
    """Rows in parts of bounded total size."""
    if not len(rows):
        return []
    return np.split(rows, np.flatnonzero(np.diff(np.cumsum(size) // _PAIRS)) + 1)
