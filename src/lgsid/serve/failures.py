"""What goes wrong, as clients get to know it: a status, a code for programs, words for people, and never a trace."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from lgsid.serve.base import (
    RequestError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
)
from lgsid.serve.telemetry import trace_of

log = logging.getLogger("lgsid.serve")
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "not_json", 400: "bad_request"}
_FIXES = {404: "GET /openapi.json lists the paths", 405: "GET /openapi.json lists the methods"}


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request that is not answered.

    Attributes:
        status: of HTTP.
        code: for programs; never changes its meaning.
        message: what was got and what was expected.
        fix: what to do.
        retry_seconds: when to try again, where that helps.
        fields: name and problem of each wrong field.
    """

    status: int
    code: str
    message: str
    fix: str | None = None
    retry_seconds: float | None = None
    fields: tuple[tuple[str, str], ...] = ()

    def response(self, request_id: str) -> Response:
        """As JSON, with Retry-After."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "fix": self.fix, "request_id": request_id}
        if self.fields:
            error["fields"] = [{"field": name, "message": problem} for name, problem in self.fields]
        headers = {} if self.retry_seconds is None else {"Retry-After": str(max(1, math.ceil(self.retry_seconds)))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # ASCII: what a client sent may hold lone surrogates, which UTF-8 cannot say
        return Response(json.dumps({"error": error}), self.status, headers, "application/json")


def refusal_of(error: Exception) -> Refusal:
    """What a client is told about an error; what it is not told goes to the log."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        code, words = _CODES.get(error.status_code, f"http_{error.status_code}"), str(error.detail)
        return Refusal(error.status_code, code, words, _FIXES.get(error.status_code))
    if isinstance(error, RequestError):
        return Refusal(422, "invalid", error.message, error.fix)
    if isinstance(error, StoreError):
        return _store(error)
    log.error("not answered: %s", error, exc_info=error)
    return Refusal(500, "internal", "the service failed", "tell its operator the request_id")


def _store(error: StoreError) -> Refusal:
    log.warning("%s: %s", type(error).__name__, error.message)  # its words may name files and servers
    if isinstance(error, StoreFullError):
        return Refusal(507, "store_full", "no space is left for events; nothing of this request was acknowledged",
                       "tell the operator to make space, then send it again with the same event ids")  # fmt: skip
    if isinstance(error, StoreBusyError):
        return Refusal(503, "store_busy", "too many events wait to be stored; nothing of this request was stored",
                       "send it again later", 1)  # fmt: skip
    if isinstance(error, StoreUnavailableError):
        return Refusal(503, "store_unavailable", "the store of histories does not answer for now",
                       "send it again later, events with the same ids", 1)  # fmt: skip
    return Refusal(503, "store", "the store of histories cannot be used", "tell the operator the request_id")


def invalid(problems: Sequence[Any]) -> Refusal:
    """From a validation's problems, as pydantic lists them, without the values that were sent."""
    fields = tuple((_name(problem.get("loc", ())), _words(problem)) for problem in problems[:20])
    shown = "; ".join(f"{name}: {words}" for name, words in fields[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    status = 400 if any(problem.get("type") == "json_invalid" for problem in problems) else 422
    code = "not_json" if status == 400 else "invalid"
    return Refusal(status, code, shown + more, "GET /openapi.json has the fields, limits and examples", fields=fields)


def _name(loc: Sequence[Any]) -> str:
    parts = [str(part)[:80] for part in loc if part not in ("body", "query", "path", "header")]
    return ".".join(parts) or "body"


def _words(problem: Any) -> str:
    kind, words = str(problem.get("type")), str(problem.get("msg"))
    if kind == "extra_forbidden":
        return "no such field"
    if kind == "json_invalid":
        return "not JSON"
    if kind in ("model_attributes_type", "dict_type", "model_type"):
        return "expected a JSON object, with Content-Type: application/json"
    return words.removeprefix("Value error, ")


async def answer_error(request: Request, error: Exception) -> Response:
    """Exception handler of the app."""
    refusal = refusal_of(error)
    trace = trace_of(request.scope)
    trace.code = refusal.code
    response = refusal.response(trace.request_id)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update({name: value for name, value in error.headers.items() if name.lower() == "allow"})
    return response
