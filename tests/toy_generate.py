"""Small sets of visits for the tests of generative recommenders, and strategies that draw them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from hypothesis import strategies as st

from lgsid.arrays import DoubleArray
from lgsid.rank.visits import TEST, TRAINING, VALIDATION, Visits

ITEMS = 12
START = 1_700_000_000


def places(items: int = ITEMS, seed: int = 0) -> tuple[DoubleArray, DoubleArray]:
    """Two towns some 50 km apart, the items of each within a few kilometres."""
    rng = np.random.default_rng(seed)
    town = np.arange(items) % 2
    return 40.0 + 0.45 * town + rng.uniform(-0.02, 0.02, items), -74.0 + rng.uniform(-0.02, 0.02, items)


def visits_of(rows: Sequence[tuple[int, int, int]], cuts: tuple[int, int] = (1 << 40, 1 << 40)) -> Visits:
    """Visits by user, item and seconds since `START`, computed in the plainest way.

    Args:
        rows: in the order of the file; users are numbered as they are.
        cuts: last second of the training and of the validation period.
    """
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    user, item, time = (np.array([row[k] for row in rows]) for k in range(3))
    first = [min(o for o, other in enumerate(rows) if other[0] == row[0]) for row in rows]
    earlier = [[o for o, other in enumerate(rows) if other[0] == row[0] and other[2] < row[2]] for row in rows]
    numbers = np.unique(user).astype(np.int32)
    return Visits(
        user_E=user.astype(np.int32),
        item_E=item.astype(np.int32),
        time_E=time.astype(np.int64) + START,
        period_E=np.where(time <= cuts[0], TRAINING, np.where(time <= cuts[1], VALIDATION, TEST)).astype(np.int8),
        first_E=np.array(first, dtype=np.int32),
        stop_E=np.array([f + len(e) for f, e in zip(first, earlier, strict=True)], dtype=np.int32),
        new_E=np.array([all(rows[o][1] != row[1] for o in e) for row, e in zip(rows, earlier, strict=True)]),
        lat_E=None,
        lon_E=None,
        users=pl.DataFrame({"user": numbers.astype(np.uint64) * 977, "number": numbers}),
    )


@st.composite
def some_visits(draw: st.DrawFn) -> Visits:
    """Up to five users with up to thirty visits each, many of them at one second; any two cuts."""
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    rows = []
    for user, length in enumerate(lengths):
        items, times = rng.integers(0, ITEMS, length), np.cumsum(rng.integers(0, 4, length))
        rows += [(user, item, second) for item, second in zip(items.tolist(), times.tolist(), strict=True)]
    cuts = sorted(draw(st.lists(st.integers(0, 60), min_size=2, max_size=2)))
    return visits_of(rows, (cuts[0], cuts[1]))
