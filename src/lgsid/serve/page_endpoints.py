"""What the map page asks for beside the endpoints that every client uses; may change with the page.

These are under /v1, so that they need a key where the others do. They are not in the OpenAPI description: they are a
part of the page, and clients have no use for them.
"""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import Callable
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, FastAPI, Query, Request, Response

from lgsid.serve.artefacts import DATA, Artefacts
from lgsid.serve.catalogue import Catalogue
from lgsid.serve.endpoints import in_lane, json_of
from lgsid.serve.failures import Refusal
from lgsid.serve.leaflet import TYPES, leaflet_or_reason
from lgsid.serve.page_data import Box, choices, first_tokens, points, sample_users
from lgsid.serve.schemas import Latitude, Longitude
from lgsid.serve.service import Service, Serving

page = APIRouter(prefix="/v1/page", include_in_schema=False)
log = logging.getLogger("lgsid.serve")
_Lat = Annotated[Latitude | None, Query()]
_Lon = Annotated[Longitude | None, Query()]


class State(Protocol):
    """What answers at a moment."""

    @property
    def catalogue(self) -> Catalogue:
        """The items served."""


class Shown(Protocol):
    """An engine that lets the page see its catalogue."""

    version: str
    artefacts: Artefacts

    @property
    def state(self) -> State:
        """What answers now."""

    def described(self) -> dict[str, Any]:
        """What is known of it."""


class Kept:
    """Answers that stay the same until items or the version change: made once for each state."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[weakref.ref[State], bytes]] = {}

    def get(self, name: str, state: State, make: Callable[[], Any]) -> bytes:
        """The answer of a name for a state, as JSON."""
        made = self._made.get(name)
        if made is None or made[0]() is not state:
            made = weakref.ref(state), as_json(make())
            self._made[name] = made
        return made[1]


def as_json(value: Any) -> bytes:
    """JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@page.get("/start")
async def start(request: Request, service: Serving) -> Response:
    """The models, and what there is to choose from."""

    def work() -> bytes:
        engine = _shown(service)
        state = engine.state
        return _kept(request).get("start", state, lambda: _start(engine, state, service))

    return json_of((await in_lane(request, service.ask, work))[0])


def _start(engine: Shown, state: State, service: Service) -> dict[str, Any]:
    known = engine.described()
    artefacts = engine.artefacts
    users = []
    if artefacts.config.data.world is not None:  # simulated people; nobody else's visits are shown
        events = artefacts.run.path(DATA, "events.parquet")
        users = sample_users(events, artefacts.config.rank.samples.kinds, state.catalogue)
    travel = {mode: speed.model_dump() for mode, speed in service.config.reach.travel.items()}
    shown = ("version", "items", "rankers", "generators", "aligned", "filters")
    return {**{name: known[name] for name in shown}, **choices(state.catalogue), "travel": travel, "users": users}


@page.get("/items")
async def items(
    request: Request, service: Serving, south: _Lat = None, west: _Lon = None, north: _Lat = None, east: _Lon = None
) -> Response:
    """Items as columns: all, or those of a part of the map; of too many every n-th."""
    sides = (south, west, north, east)
    if None in sides and any(side is not None for side in sides):
        raise Refusal(422, "invalid", "give south, west, north and east, or none of them")

    def work() -> bytes:
        state = _shown(service).state
        if south is None or west is None or north is None or east is None:
            return _kept(request).get("items", state, lambda: points(state.catalogue))
        return as_json(points(state.catalogue, Box(south, west, north, east)))

    return json_of((await in_lane(request, service.ask, work))[0])


@page.get("/tokens")
async def tokens(request: Request, service: Serving) -> Response:
    """What each first token means."""

    def work() -> bytes:
        engine = _shown(service)
        state, book = engine.state, engine.artefacts.tokenizer.tokens
        return _kept(request).get("tokens", state, lambda: first_tokens(state.catalogue, book))

    return json_of((await in_lane(request, service.ask, work))[0])


def _shown(service: Service) -> Shown:
    engine: Any = service.holder.current
    if not hasattr(engine, "state"):
        raise Refusal(404, "no_page", "this engine shows no catalogue")
    shown: Shown = engine
    return shown


def _kept(request: Request) -> Kept:
    kept: Kept = request.app.state.page
    return kept


def _warm(service: Service, kept: Kept) -> None:
    """What the first visitor would wait for is made at the start."""
    if hasattr(service.holder.current, "state"):
        engine = _shown(service)
        state = engine.state
        kept.get("start", state, lambda: _start(engine, state, service))
        kept.get("items", state, lambda: points(state.catalogue))
        kept.get("tokens", state, lambda: first_tokens(state.catalogue, engine.artefacts.tokenizer.tokens))


def add_page(app: FastAPI) -> None:
    """The endpoints of the page, and its map library out of memory."""
    app.state.page = Kept()
    app.include_router(page)
    _warm(app.state.service, app.state.page)
    files, reason = leaflet_or_reason()
    if reason is not None:
        log.warning("the page has no map, only lists: %s", reason)

    @app.api_route("/vendor/leaflet/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def leaflet(name: str) -> Response:
        if name not in files:
            raise Refusal(404, "not_found", "there is no such file", None if reason is None else reason.fix)
        return Response(files[name], media_type=TYPES[name], headers={"Cache-Control": "no-cache"})
