"""The contracts of serving: events, the stores that keep them, and what can go wrong.

LgsidError
├── RequestError                a request cannot be answered as it stands
│   └── EventError              an event is wrong
└── StoreError                  a store cannot be used: wrong file, wrong server, wrong settings
    ├── StoreUnavailableError   for now: try again later, with the same event ids
    │   └── StoreBusyError      more appends are waiting than may
    └── StoreFullError          no space is left, on the disk or in the server's memory
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from lgsid.errors import LgsidError

MOST_CHARS = 512
"""Of an identifier."""
MOST_TIMESTAMP_MS = 4_102_444_800_000
"""2100-01-01."""


class RequestError(LgsidError):
    """A request cannot be answered as it stands."""


class EventError(RequestError):
    """An event is wrong."""


class StoreError(LgsidError):
    """A store of histories cannot be used as it is."""


class StoreUnavailableError(StoreError):
    """A store does not answer for now; events of the call may be stored or not: send them again with the same ids."""


class StoreBusyError(StoreUnavailableError):
    """More appends wait for the store than may; nothing of this call is stored."""


class StoreFullError(StoreError):
    """The store has no space left; nothing that was acknowledged before is lost."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a user did with an item.

    Attributes:
        event_id: chosen by whoever reports the event; the same id of the same user is the same event, stored once.
        user_id, item_id: as in the tables.
        timestamp_ms: when it happened, milliseconds since 1970 UTC.
        kind: such as click or order; None where events have no kind.

    Raises:
        EventError: an attribute is not what it has to be.
    """

    event_id: str
    user_id: str
    item_id: str
    timestamp_ms: int
    kind: str | None = None

    @classmethod
    def stored(cls, event_id: str, user_id: str, item_id: str, timestamp_ms: int, kind: str | None) -> Event:
        """An event that a store took, and that was checked before it did: histories are read at every request."""
        event, put = object.__new__(cls), object.__setattr__
        put(event, "event_id", event_id)
        put(event, "user_id", user_id)
        put(event, "item_id", item_id)
        put(event, "timestamp_ms", timestamp_ms)
        put(event, "kind", kind)
        return event

    def __post_init__(self) -> None:
        for name in ("event_id", "user_id", "item_id"):
            check_id(name, getattr(self, name))
        if self.kind is not None:
            check_id("kind", self.kind)
        if type(self.timestamp_ms) is not int or not 0 <= self.timestamp_ms < MOST_TIMESTAMP_MS:
            raise EventError(
                f"timestamp_ms {self.timestamp_ms!r} of event {self.event_id!r}: "
                "expected whole milliseconds since 1970 UTC, before the year 2100"
            )


def check_id(name: str, value: object) -> str:
    """An identifier that every store can hold.

    Raises:
        EventError: it is no text, empty, too long, or holds what cannot be written as UTF-8.
    """
    if type(value) is str and 0 < len(value) <= MOST_CHARS and value.isascii() and "\0" not in value:
        return value  # nearly always
    if not isinstance(value, str) or not 0 < len(value) <= MOST_CHARS:
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
        raise EventError(f"{name} {shown}: expected text of 1 to {MOST_CHARS} characters")
    if "\0" in value or not _encodable(value):
        raise EventError(f"{name} {value!r:.80}: expected text without NUL characters and lone surrogates")
    return value


def _encodable(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Health:
    """State of a store.

    Attributes:
        ok: events can be read and appended.
        detail: why not, or what it is.
        milliseconds: how long the answer took.
    """

    ok: bool
    detail: str
    milliseconds: float


class HistoryStore(Protocol):
    """Keeps the latest events of every user; all methods may be called from any thread.

    Order: a user's history is in the order in which the store took the events, whatever their timestamps say. A clock
    that jumps, here or at whoever reports an event, moves nothing; `timestamp_ms` comes back as it was given, so gaps
    between neighbours may be negative.

    Durability: when `append` returns, its events survive a killed process and a power cut, as far as disks keep their
    word.
    """

    def append(self, events: Sequence[Event]) -> int:
        """Store events, in the order given for each user, and return when they are durable.

        An event whose id the user's kept history already holds is not stored again; the first one stands.

        Returns:
            how many of them were new.

        Raises:
            StoreUnavailableError, StoreFullError: not acknowledged; all, some or none may be stored.
        """

    def recent(self, user_id: str, most: int) -> list[Event]:
        """The latest events of a user, ``most`` at most, oldest first; none of an unknown user.

        Raises:
            StoreUnavailableError: no answer.
        """

    def forget(self, user_id: str) -> int:
        """Remove everything of a user, durably.

        Returns:
            how many events there were.

        Raises:
            StoreUnavailableError, StoreFullError: not acknowledged.
        """

    def count(self, user_id: str | None = None) -> int:
        """Number of events kept of a user, or of all.

        Raises:
            StoreUnavailableError: no answer.
        """

    def health(self) -> Health:
        """Whether events can be read and appended now; never raises."""

    def close(self) -> None:
        """Finish what was begun and let go of files and connections; later calls raise `StoreError`."""


class Clock:
    """Milliseconds since 1970 that never go back, for events without a timestamp: a clock set back stands still."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last_ms = 0

    def now_ms(self) -> int:
        """The time, or the latest one given so far."""
        with self._lock:
            self._last_ms = max(self._last_ms, time.time_ns() // 1_000_000)
            return self._last_ms
