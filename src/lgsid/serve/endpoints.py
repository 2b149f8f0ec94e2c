"""The endpoints that clients call, and those by which machines watch the service."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from lgsid.serve import schemas
from lgsid.serve.base import EventError, RequestError
from lgsid.serve.contract import Ask, Place, Written
from lgsid.serve.failures import Refusal
from lgsid.serve.limits import Lane, Result
from lgsid.serve.schemas import Id, Latitude, Longitude, Words
from lgsid.serve.service import Service, Serving
from lgsid.serve.telemetry import METRICS_TYPE, trace_of

api = APIRouter(prefix="/v1")
watch = APIRouter()
K = Annotated[int, Query(ge=1, le=schemas.MOST_K, description="Items wanted.")]


async def in_lane(request: Request, lane: Lane, work: Callable[[], Result]) -> tuple[Result, float]:
    """Work in a lane, with its time in the request's trace."""
    started = time.perf_counter()
    result, queue_ms = await lane.run(work)
    trace_of(request.scope).steps = {"queue": queue_ms, "total": (time.perf_counter() - started) * 1e3}
    return result, queue_ms


def json_of(body: str | bytes) -> Response:
    """An answer that is JSON already."""
    return Response(body, media_type="application/json")


@api.post("/recommend", response_model=schemas.RecommendAnswer, tags=["recommend"])
async def recommend(asked: schemas.RecommendRequest, request: Request, service: Serving) -> Response:
    """What a user can reach, the most interesting first. An acknowledged event counts from the next request on."""
    ask = asked.to_ask(service.config.reach, service.clock.now_ms())
    began = time.perf_counter()
    written, queue_ms = await in_lane(request, service.ask, lambda: _recommend(service, ask))
    total_ms = (time.perf_counter() - began) * 1e3
    steps = {"queue": queue_ms, **written.milliseconds, "total": total_ms}
    trace_of(request.scope).steps = steps
    return json_of(schemas.end(written, steps))


def _recommend(service: Service, ask: Ask) -> Written:
    started = time.perf_counter()
    stored = []
    if ask.user_id is not None:
        stored = service.store.recent(ask.user_id, service.config.histories.read_events)
    history_ms = (time.perf_counter() - started) * 1e3
    written = service.holder.current.written(ask, stored)
    return Written(written.begun, {**written.milliseconds, "history": history_ms})


@api.get("/items/{item_id:path}/similar", response_model=schemas.FoundAnswer, tags=["items"])
async def similar(
    item_id: Annotated[Id, Path(description="An item's id.")],
    request: Request,
    service: Serving,
    k: K = 10,
    aligned: Annotated[bool, Query(description="By the aligned embedding; false: by the encoder's own.")] = True,
) -> Response:
    """An item's nearest neighbours, by the embedding after or before alignment."""

    def work() -> bytes:
        engine = service.holder.current
        return schemas.found_json(_named(lambda: engine.similar(item_id, k, aligned)), engine.version)

    return json_of((await in_lane(request, service.ask, work))[0])


@api.get("/explain/{sid_or_item:path}", response_model=schemas.MeaningTold, tags=["items"])
async def explain(
    sid_or_item: Annotated[Id, Path(description="A SID such as 12-7-255, the beginning of one, or an item's id.")],
    request: Request,
    service: Serving,
) -> Response:
    """What the tokens of a SID stand for."""

    def work() -> str:
        meaning = _named(lambda: service.holder.current.explain(sid_or_item))
        return schemas.MeaningTold.model_validate(meaning).model_dump_json()

    return json_of((await in_lane(request, service.ask, work))[0])


@api.get("/search", response_model=schemas.FoundAnswer, tags=["items"])
async def search(
    q: Annotated[Words, Query(description="Words of a title, brand, category or address.")],
    request: Request,
    service: Serving,
    k: K = 10,
    lat_deg: Annotated[Latitude | None, Query(description="Where to measure distances from, degrees north.")] = None,
    lon_deg: Annotated[Longitude | None, Query(description="Degrees east.")] = None,
) -> Response:
    """Items by their words."""
    if (lat_deg is None) != (lon_deg is None):
        missing = "lat_deg" if lat_deg is None else "lon_deg"
        words = "give lat_deg and lon_deg, or neither"
        raise Refusal(422, "invalid", f"{missing}: {words}", fields=((missing, words),))
    near = None if lat_deg is None or lon_deg is None else Place(lat_deg, lon_deg)

    def work() -> bytes:
        engine = service.holder.current
        return schemas.found_json(engine.search(q, k, near), engine.version)

    return json_of((await in_lane(request, service.ask, work))[0])


@api.post("/events", response_model=schemas.EventsAnswer, tags=["histories"])
async def append_events(given: schemas.EventsRequest, request: Request, service: Serving) -> Response:
    """Store events. The answer comes when they are durable; without one, send them again with the same ids."""
    now_ms = service.clock.now_ms()
    events = []
    for row, event in enumerate(given.events):
        try:
            events.append(event.to_event(now_ms))
        except EventError as error:
            raise EventError(f"events.{row}: {error.message}", error.fix) from None
    new, _ = await in_lane(request, service.append, lambda: service.store.append(events))
    service.telemetry.events(len(events), new)
    return json_of(schemas.EventsAnswer(received=len(events), new=new).model_dump_json())


@api.delete("/users/{user_id:path}/history", response_model=schemas.Forgotten, tags=["histories"])
async def forget(
    user_id: Annotated[Id, Path(description="A user's id.")], request: Request, service: Serving
) -> Response:
    """Remove everything that is stored of a user, durably."""
    removed, _ = await in_lane(request, service.append, lambda: service.store.forget(user_id))
    return json_of(schemas.Forgotten(removed=removed).model_dump_json())


@api.get("/versions", response_model=schemas.VersionsAnswer, tags=["operations"])
async def versions(request: Request, service: Serving) -> Response:
    """Which version answers, which models it has, and what is loaded beside it."""

    def work() -> str:
        listed = [_without_path(version) for version in service.holder.listed()]
        told = schemas.VersionsAnswer(current=service.holder.current.version, versions=listed)
        return told.model_dump_json()

    return json_of((await in_lane(request, service.ask, work))[0])


@watch.head("/healthz", include_in_schema=False)
@watch.get("/healthz", response_model=schemas.Alive, tags=["operations"])
async def healthz() -> Response:
    """The process runs and answers."""
    return json_of(schemas.Alive(ok=True).model_dump_json())


@watch.head("/readyz", include_in_schema=False)
@watch.get("/readyz", response_model=schemas.ReadyAnswer, tags=["operations"],
           responses={503: {"model": schemas.ReadyAnswer}})  # fmt: skip
async def readyz(service: Serving) -> Response:
    """Requests can be answered: a version is loaded, the store takes events, and no shutdown has begun."""
    try:
        health, _ = await service.check.run(service.store.health)
        store = schemas.Check(ok=health.ok, detail=health.detail if health.ok else "no answer, see the log")
    except Refusal as refusal:
        store = schemas.Check(ok=False, detail=refusal.message)
    engine = schemas.Check(ok=not service.draining, detail="shutting down" if service.draining else "loaded")
    ready = engine.ok and store.ok
    body = schemas.ReadyAnswer(ready=ready, engine=engine, store=store).model_dump_json()
    return Response(body, 200 if ready else 503, media_type="application/json")


@watch.get("/metrics", tags=["operations"], response_class=Response, responses={200: {"content": {METRICS_TYPE: {}}}})
async def metrics(service: Serving) -> Response:
    """Counts and times in Prometheus' text format."""
    return Response(service.telemetry.text(service.holder.current.version), media_type=METRICS_TYPE)


@watch.get("/page.json", response_model=schemas.PageSettings, tags=["page"])
async def page_settings(service: Serving) -> Response:
    """What the map page has to know before it asks anything."""
    config = service.config
    told = schemas.PageSettings(
        key_needed=bool(config.limits.keys_sha256),
        tiles_url=config.page.tiles_url,
        tiles_attribution=config.page.tiles_attribution,
        radius_km=config.reach.radius_km,
        most_radius_km=config.reach.most_radius_km,
    )
    return json_of(told.model_dump_json())


def _without_path(version: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a version, with its folder's name in place of where it lies."""
    return {**version, "run": pathlib.Path(version["run"]).name} if "run" in version else dict(version)


def _named(work: Callable[[], Result]) -> Result:
    """Work on what a path names: where it is refused, the path leads nowhere."""
    try:
        return work()
    except RequestError as error:
        raise Refusal(404, "unknown", error.message, error.fix) from None
