"""The admin endpoints: another version, the one before, new items. A key of their own opens them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import polars as pl
from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, JsonValue

from lgsid.errors import LgsidError
from lgsid.serve.base import MOST_CHARS
from lgsid.serve.endpoints import in_lane, json_of
from lgsid.serve.failures import Refusal
from lgsid.serve.schemas import Given, Id, Latitude, Longitude, Told
from lgsid.serve.service import Serving
from lgsid.serve.telemetry import trace_of

admin = APIRouter(prefix="/admin", tags=["admin"])
log = logging.getLogger("lgsid.serve")
MOST_NEW_ITEMS = 10_000


class RunGiven(Given):
    """Which run to load."""

    run: Annotated[str, Field(min_length=1, max_length=1_024, pattern=r"^[^\x00]*$", examples=["berlin-2026-11-28"])]
    """A run folder, by its path below the folder that runs may be loaded from."""


class NewItem(Given):
    """A row of the items table; more columns than these may be given, as in the table."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    item_id: Id
    title: Annotated[str, Field(min_length=1, max_length=MOST_CHARS)]
    lat_deg: Latitude
    lon_deg: Longitude


class NewItems(Given):
    """Items that are new, or changed."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MOST_NEW_ITEMS)]


class Done(Told):
    """What an operation did."""

    current: str
    """Version that answers now."""
    result: dict[str, Any]


@admin.post("/versions", response_model=Done)
async def load_version(given: RunGiven, request: Request, service: Serving) -> Response:
    """Load a run, check all its files against their hashes, and switch to it; no request is dropped.

    A run that is corrupt or does not fit is refused with 409, and the version before goes on answering.
    """
    run = _below(service.config.limits.runs_root, given.run)
    return await _operate(request, service, "load", lambda: service.holder.load(run))


@admin.post("/rollback", response_model=Done)
async def roll_back(request: Request, service: Serving) -> Response:
    """Switch to the version that answered before."""
    return await _operate(request, service, "roll back", service.holder.roll_back)


@admin.post("/items", response_model=Done)
async def add_items(given: NewItems, request: Request, service: Serving) -> Response:
    """Give new items their semantic IDs and recommend them from now on."""

    def work() -> Mapping[str, Any]:
        return service.holder.add_items(_table(given))

    return await _operate(request, service, "add items", work)


async def _operate(request: Request, service: Serving, name: str, work: Callable[[], Mapping[str, Any]]) -> Response:
    """One operation after the other; what the operator did wrong is told in full."""
    trace = trace_of(request.scope)
    try:
        result, _ = await in_lane(request, service.admin, work)
    except LgsidError as error:
        log.warning("%s refused (request %s): %s", name, trace.request_id, error.message)
        raise Refusal(409, "refused", error.message, error.fix) from None
    current = service.holder.current.version
    log.info("%s done (request %s): version %s answers", name, trace.request_id, current)
    return json_of(json.dumps({"current": current, "result": dict(result)}, default=str))


def _below(root: Path | None, run: str) -> Path:
    if root is None:
        raise Refusal(403, "no_runs_root", "there is no folder that runs may be loaded from", "set limits.runs_root")
    root = root.resolve()
    folder = (root / run).resolve()
    if not folder.is_relative_to(root):
        words = "run: not below the folder that runs may be loaded from"
        raise Refusal(422, "invalid", words, "give a path below limits.runs_root", fields=(("run", words[5:]),))
    return folder


def _table(given: NewItems) -> pl.DataFrame:
    rows = [{**item.model_dump()} for item in given.items]
    try:
        return pl.from_dicts(rows, infer_schema_length=None)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as error:
        words = "no table can be made of these values"
        raise Refusal(422, "invalid", f"items: {words}: {error}", fields=(("items", words),)) from None
