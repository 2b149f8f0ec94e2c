"""Requests and answers as JSON: every field with its unit, limits and an example. OpenAPI is made from these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator

from lgsid.config.serve import ReachConfig
from lgsid.serve.base import MOST_CHARS, MOST_TIMESTAMP_MS, Event
from lgsid.serve.contract import Answer, Ask, Mode, Place, Reach, Written
from lgsid.serve.contract import Filters as Wanted

MOST_K = 200
MOST_CANDIDATES = 5_000
MOST_HISTORY = 2_000
MOST_EVENTS = 1_000
MOST_CORNERS = 500

Id = Annotated[str, Field(min_length=1, max_length=MOST_CHARS, pattern=r"^[^\x00]*$", examples=["item-17"])]
Words = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$", examples=["noodle bar"])]
Latitude = Annotated[float, Field(ge=-90, le=90, examples=[31.2304])]
Longitude = Annotated[float, Field(ge=-180, le=180, examples=[121.4737])]
Price = Annotated[float, Field(ge=0, le=1e12, examples=[25.0])]
TimestampMs = Annotated[int, Field(ge=0, lt=MOST_TIMESTAMP_MS, examples=[1_790_000_000_000])]
K = Annotated[int, Field(ge=1, le=MOST_K, examples=[20])]
Travel = Literal["walk", "bike", "car", "transit"]


class Given(BaseModel):
    """Base of what clients send: no unknown fields, no silent conversions, finite numbers."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Told(BaseModel):
    """Base of what clients get; made from the service's own objects."""

    model_config = ConfigDict(from_attributes=True, frozen=True, use_attribute_docstrings=True)


class PlaceGiven(Given):
    """A place, WGS-84."""

    lat_deg: Latitude
    """Degrees north."""
    lon_deg: Longitude
    """Degrees east."""


class ReachGiven(Given):
    """How far the user goes: one of radius_km, travel_minutes and polygon, or none for the service's default radius."""

    radius_km: Annotated[float, Field(gt=0, le=20_040, examples=[5.0])] | None = None
    """Kilometres as the crow flies; operators may allow less than the schema."""
    travel_minutes: Annotated[float, Field(gt=0, le=1_440, examples=[20.0])] | None = None
    """Minutes on the way, by travel_mode's speed."""
    travel_mode: Travel = "walk"
    """How the user goes; counts with travel_minutes alone."""
    polygon: Annotated[list[PlaceGiven], Field(min_length=3, max_length=MOST_CORNERS)] | None = None
    """Corners of an area, in order."""

    @model_validator(mode="after")
    def _one(self) -> ReachGiven:
        given = [name for name in ("radius_km", "travel_minutes", "polygon") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of radius_km, travel_minutes and polygon, not {' and '.join(given)}")
        return self

    def to_reach(self, config: ReachConfig) -> Reach:
        """With the default radius where nothing is given."""
        if self.polygon is not None:
            return Reach(polygon=tuple(Place(corner.lat_deg, corner.lon_deg) for corner in self.polygon))
        if self.travel_minutes is not None:
            return Reach(travel_minutes=self.travel_minutes, travel_mode=self.travel_mode)
        return Reach(radius_km=config.radius_km if self.radius_km is None else self.radius_km)


class FiltersGiven(Given):
    """What every recommended item has to be; a filter that is left out does not ask."""

    category: Annotated[str, Field(min_length=1, max_length=MOST_CHARS, examples=["Food > Noodles"])] | None = None
    """A category, or the beginning of its path."""
    brand: Annotated[str, Field(min_length=1, max_length=MOST_CHARS, examples=["Lanzhou"])] | None = None
    """Exact."""
    price_min: Price | None = None
    """In the catalogue's currency, inclusive."""
    price_max: Price | None = None
    """In the catalogue's currency, inclusive."""
    open_now: bool = False
    """Open at the time of the request."""
    open_at_ms: TimestampMs | None = None
    """Open at this time, milliseconds since 1970 UTC; in place of open_now."""
    new_only: bool = False
    """Only places that are not in the user's history."""

    @model_validator(mode="after")
    def _sensible(self) -> FiltersGiven:
        if self.open_now and self.open_at_ms is not None:
            raise ValueError("give open_now or open_at_ms, not both")
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise ValueError(f"price_min {self.price_min:g} is above price_max {self.price_max:g}")
        return self

    def to_filters(self, now_ms: int) -> Wanted:
        """With the time put in for "now"."""
        at_ms = now_ms if self.open_now else self.open_at_ms
        return Wanted(self.category, self.brand, self.price_min, self.price_max, at_ms, self.new_only)


_RECOMMEND: dict[str, JsonValue] = {
    "place": {"lat_deg": 31.2304, "lon_deg": 121.4737},
    "reach": {"radius_km": 3.0},
    "user_id": "user-5",
    "k": 10,
    "filters": {"category": "Food", "open_now": True},
}


class RecommendRequest(Given):
    """Who asks, from where, for what."""

    model_config = ConfigDict(json_schema_extra={"examples": [_RECOMMEND]})

    place: PlaceGiven
    """Where the user is."""
    reach: ReachGiven = ReachGiven()
    """How far the user goes."""
    k: K = 20
    """Items wanted."""
    user_id: Id | None = None
    """Whose stored history to use; without it and history, nobody is known."""
    history: Annotated[list[Id], Field(max_length=MOST_HISTORY)] | None = None
    """Item ids, oldest first, in place of a stored history."""
    filters: FiltersGiven = FiltersGiven()
    """What items have to be."""
    mode: Mode = "ranker"
    """Which models say how interesting an item is."""
    model: Annotated[str, Field(min_length=1, max_length=100, examples=["din"])] | None = None
    """Name of a model, see /v1/versions; the default of the mode without it."""
    candidates: Annotated[int, Field(ge=1, le=MOST_CANDIDATES)] | None = None
    """Most items within reach that the models look at, the nearest ones; the service's default without it."""
    language: Literal["en", "zh"] = "en"
    """Of the reasons and the note."""

    @model_validator(mode="after")
    def _one_history(self) -> RecommendRequest:
        if self.user_id is not None and self.history is not None:
            raise ValueError("give user_id or history, not both")
        return self

    def to_ask(self, config: ReachConfig, now_ms: int) -> Ask:
        """As the engine wants it."""
        return Ask(
            place=Place(self.place.lat_deg, self.place.lon_deg),
            reach=self.reach.to_reach(config),
            now_ms=now_ms,
            k=self.k,
            user_id=self.user_id,
            history=None if self.history is None else tuple(self.history),
            filters=self.filters.to_filters(now_ms),
            mode=self.mode,
            model=self.model,
            candidates=self.candidates or config.candidates,
            language=self.language,
        )


class PlaceTold(Told):
    """A place, WGS-84."""

    lat_deg: float
    """Degrees north."""
    lon_deg: float
    """Degrees east."""


class RecommendedTold(Told):
    """One recommended item."""

    item_id: str
    title: str
    category: str | None
    place: PlaceTold
    distance_km: float
    """From the user, as the crow flies."""
    sid: str
    """Its geographic semantic ID."""
    score: float
    """Comparable within this answer alone."""
    reason: str
    """In words."""


class RecommendAnswer(Told):
    """Recommendations, best first; every item is within reach and meets the filters."""

    items: list[RecommendedTold]
    version: str
    """Version of the run that answered."""
    model: str
    """Model that ranked the items."""
    reachable: int
    """Items within reach, before filters."""
    candidates: int
    """Items that the model looked at."""
    note: str
    """Why there are fewer items than asked for; empty where there are as many."""
    milliseconds: dict[str, float]
    """Time of each step: queue, history, reach, interest, words, total."""


class FoundTold(Told):
    """An item that was searched for, or is similar to one."""

    item_id: str
    title: str
    category: str | None
    place: PlaceTold
    sid: str
    score: float
    """Comparable within this answer alone."""
    distance_km: float | None
    """From the place or item asked about; null where there is none."""


class FoundAnswer(Told):
    """Items, best first."""

    items: list[FoundTold]
    version: str


class MeaningTold(Told):
    """What a SID, or the beginning of one, stands for."""

    sid: str
    tokens: list[str]
    """One description a token."""
    items: list[str]
    """Ids of some items under it."""
    count: int
    """How many items are under it."""


class EventGiven(Given):
    """What a user did with an item."""

    event_id: Id
    """Chosen by you; the same id of the same user is stored once, so an event may be sent again safely."""
    user_id: Id
    item_id: Id
    timestamp_ms: TimestampMs | None = None
    """When, milliseconds since 1970 UTC; the time of arrival without it."""
    kind: Annotated[str, Field(min_length=1, max_length=MOST_CHARS, examples=["click"])] | None = None
    """Such as click or order."""

    def to_event(self, now_ms: int) -> Event:
        """With the time put in where there is none."""
        at_ms = now_ms if self.timestamp_ms is None else self.timestamp_ms
        return Event(self.event_id, self.user_id, self.item_id, at_ms, self.kind)


_EVENT: dict[str, JsonValue] = {"event_id": "e-1", "user_id": "user-5", "item_id": "item-17", "kind": "click"}


class EventsRequest(Given):
    """Events, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"events": [_EVENT]}]})

    events: Annotated[list[EventGiven], Field(min_length=1, max_length=MOST_EVENTS)]


class EventsAnswer(Told):
    """All events of the request are durable."""

    received: int
    new: int
    """Those whose ids were not known yet."""


class Forgotten(Told):
    """A user's history is removed."""

    removed: int
    """Events that there were."""


class VersionsAnswer(Told):
    """What answers now, and what is loaded beside it."""

    current: str
    versions: list[dict[str, Any]]
    """What is known of each loaded version, the current one first."""


class Check(Told):
    """State of a part of the service."""

    ok: bool
    detail: str


class ReadyAnswer(Told):
    """Whether requests can be answered now."""

    ready: bool
    engine: Check
    store: Check


class Alive(Told):
    """The process runs."""

    ok: bool


class PageSettings(Told):
    """What the map page has to know."""

    key_needed: bool
    tiles_url: str | None
    tiles_attribution: str
    radius_km: float
    most_radius_km: float


class FieldProblem(Told):
    """A wrong field."""

    field: str
    message: str


class Problem(Told):
    """Why a request was not answered."""

    code: str
    """For programs; never changes its meaning."""
    message: str
    """What was got and what was expected."""
    fix: str | None
    """What to do."""
    request_id: str
    """Names the request in the service's logs."""
    fields: list[FieldProblem] = []
    """Each wrong field, for code invalid."""


class ProblemAnswer(Told):
    """Body of every answer that is not 2xx."""

    error: Problem


_ANSWER, _TIMES = TypeAdapter(Answer), TypeAdapter(dict[str, float])


def write(answer: Answer) -> Written:
    """A `RecommendAnswer` as JSON: written as it is, since what the engine gives needs no check."""
    whole = _ANSWER.dump_json(replace(answer, milliseconds={}))
    return Written(whole.removesuffix(b"{}}"), answer.milliseconds)


def end(written: Written, milliseconds: dict[str, float]) -> bytes:
    """The whole JSON, with its times."""
    return written.begun + _TIMES.dump_json(milliseconds) + b"}"


def found_json(found: Sequence[Any], version: str) -> bytes:
    """Items as JSON."""
    items = [FoundTold.model_validate(item) for item in found]
    return FoundAnswer(items=items, version=version).model_dump_json().encode()
