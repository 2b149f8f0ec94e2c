"""What is asked of the service and what it answers, whatever carries it: the app turns JSON into these and back.

Axes: none; these are the objects of one request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lgsid.serve.base import Event

Mode = Literal["ranker", "generative", "both"]
"""Which models say how interesting an item is; of both, the mean of the two ranks decides."""


@dataclass(frozen=True)
class Place:
    """WGS-84 degrees."""

    lat_deg: float
    lon_deg: float


@dataclass(frozen=True)
class Reach:
    """What can be reached; exactly one of the three is given.

    Attributes:
        radius_km: as the crow flies.
        travel_minutes: with ``travel_mode``, by the documented speed model.
        polygon: corners, at least three.
    """

    radius_km: float | None = None
    travel_minutes: float | None = None
    travel_mode: Literal["walk", "bike", "car", "transit"] = "walk"
    polygon: tuple[Place, ...] | None = None


@dataclass(frozen=True)
class Filters:
    """What an item has to be; None does not ask.

    Attributes:
        category: path prefix, such as "Food" or "Food > Pizza".
        brand: exact.
        price_min, price_max: inclusive; items without a price are left out where either is given.
        open_at_ms: open at this moment (milliseconds since 1970 UTC) by the item's opening hours.
        new_only: not among the visits that the request is answered by, the user's history.
    """

    category: str | None = None
    brand: str | None = None
    price_min: float | None = None
    price_max: float | None = None
    open_at_ms: int | None = None
    new_only: bool = False


@dataclass(frozen=True)
class Ask:
    """A request for recommendations.

    Attributes:
        place: where the user is.
        reach: how far they go.
        k: items wanted.
        user_id: whose stored history to use; None where ``history`` is given, or nobody is known.
        history: item ids, oldest first, in place of the stored one.
        filters: see `Filters`.
        mode: see `Mode`.
        model: name of the ranker or generator; None is the version's default one of the mode.
        now_ms: when, milliseconds since 1970 UTC.
        candidates: most items that the interest stage looks at, the nearest ones.
        language: of the reasons and the note.
    """

    place: Place
    reach: Reach
    now_ms: int
    k: int = 20
    user_id: str | None = None
    history: tuple[str, ...] | None = None
    filters: Filters = Filters()
    mode: Mode = "ranker"
    model: str | None = None
    candidates: int = 200
    language: Literal["en", "zh"] = "en"


@dataclass(frozen=True)
class Recommended:
    """One item of an answer.

    Attributes:
        item_id, title, category, place: of the item.
        distance_km: from the user.
        sid: its semantic ID as text.
        score: of the interest stage; comparable within an answer alone.
        reason: in words.
    """

    item_id: str
    title: str
    category: str | None
    place: Place
    distance_km: float
    sid: str
    score: float
    reason: str


@dataclass(frozen=True)
class Answer:
    """Recommendations, best first.

    Attributes:
        items: at most k.
        version: of the run that answered.
        model: that ranked them.
        reachable: items within reach, before filters and the limit on candidates.
        candidates: items that the interest stage looked at.
        note: why there are fewer than k, and what of the request was not looked at, in words; empty where there are k
            and all of it was.
        milliseconds: wall time by step ("history", "reach", "interest", "words", "total").
    """

    items: tuple[Recommended, ...]
    version: str
    model: str
    reachable: int
    candidates: int
    note: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """An answer as JSON but for its last field, the times: its rest is known only when it is about to be sent.

    Attributes:
        begun: JSON up to where the times go.
        milliseconds: of the answer.
    """

    begun: bytes
    milliseconds: dict[str, float]


@dataclass(frozen=True)
class Meaning:
    """What a SID, or the beginning of one, stands for.

    Attributes:
        sid: as asked.
        tokens: one description a token.
        items: ids of items under it, some.
        count: how many there are.
    """

    sid: str
    tokens: tuple[str, ...]
    items: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class Found:
    """An item that was searched for, or is similar to one."""

    item_id: str
    title: str
    category: str | None
    place: Place
    sid: str
    score: float
    distance_km: float | None = None


class Engine(Protocol):
    """One loaded version of a run; all methods may be called from any thread."""

    version: str

    def recommend(self, ask: Ask, stored: Sequence[Event]) -> Answer:
        """Reach first, then interest.

        Args:
            ask: the request.
            stored: the user's latest events, oldest first; empty where unknown.

        Raises:
            RequestError: something in the request is wrong, in words that name the field.
        """

    def written(self, ask: Ask, stored: Sequence[Event]) -> Written:
        """The answer of `recommend` as JSON, wherever that is written."""

    def similar(self, item_id: str, k: int, aligned: bool = True) -> list[Found]:
        """Nearest neighbours by the aligned embedding, or by the encoder's own where kept.

        Raises:
            RequestError: no such item.
        """

    def explain(self, sid_or_item: str) -> Meaning:
        """What a SID, a prefix of one, or an item's SID means.

        Raises:
            RequestError: no such SID or item.
        """

    def search(self, text: str, k: int, near: Place | None = None) -> list[Found]:
        """Items whose title, brand, category or address holds the words, best first."""
