"""What the interest stage is asked: one user at a place and a moment, what they did, and what they can reach.

Axes: C candidates, T visits of the history, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.serve.base import Event
from lgsid.serve.contract import Ask
from lgsid.serve.reach import Place

DAY_SECONDS = 86_400


@dataclass(frozen=True)
class History:
    """A user's visits, oldest first.

    Attributes:
        rows_T: items; rows of the served catalogue.
        time_T: seconds since 1970.
        unknown: visits that are left out because their item is not served.
    """

    rows_T: IntArray
    time_T: IntArray
    unknown: int = 0

    def __len__(self) -> int:
        return len(self.rows_T)


def history_of(
    ask: Ask, stored: Sequence[Event], kinds: Collection[str], rows_of: Callable[[Sequence[str]], IntArray]
) -> History:
    """The history that a request is answered by: the one it brings, else the stored one.

    Item ids without times count as one visit a day, the last of them a day ago. Of stored events those are visits that
    have one of the ``kinds`` or none.
    """
    now_s = ask.now_ms // 1_000
    if ask.history is not None:
        ids: list[str] = list(ask.history)
        time_T = now_s - DAY_SECONDS * np.arange(len(ids), 0, -1)
    else:
        visits = [event for event in stored if event.kind is None or event.kind in kinds]
        ids = [event.item_id for event in visits]
        time_T = np.array([event.timestamp_ms // 1_000 for event in visits], dtype=np.int64)
    rows_T = rows_of(ids)
    known_T = rows_T >= 0
    return History(rows_T[known_T], time_T[known_T], int((~known_T).sum()))


@dataclass(frozen=True)
class Asked:
    """A request to the interest stage.

    Attributes:
        place: where the user is.
        now_s: when, seconds since 1970.
        user_id: who; None where nobody is known.
        rows_C: candidates, nearest first; rows of the served catalogue.
        distance_km_C: how far each one is.
        history: what the user did.
        nearest: the item that is nearest to the user's place; asked for by models that know regions alone.
        k: items wanted.
    """

    place: Place
    now_s: int
    user_id: str | None
    rows_C: IntArray
    distance_km_C: DoubleArray
    history: History
    nearest: Callable[[], int]
    k: int


class Interest(Protocol):
    """Says how interesting candidates are; may be asked from any thread."""

    def scores(self, asked: Asked) -> FloatArray:
        """A score for each candidate, (C,), the higher the better; -inf for one that it cannot judge."""
