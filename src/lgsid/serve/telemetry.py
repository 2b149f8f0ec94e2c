"""What operators see: metrics for Prometheus, one line of JSON a request, and an id by which both can be joined.

Neither holds user ids, item ids, histories, search texts or keys: requests are named by their route, not by their path.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

access_log = logging.getLogger("lgsid.access")
log = logging.getLogger("lgsid.serve")
METRICS_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass
class Trace:
    """What is known of a request while it is answered.

    Attributes:
        request_id: as sent in X-Request-ID, or a new one.
        key: name of the API key; None where none is needed or known.
        code: of the error, empty where there is none.
        steps: milliseconds of each step.
    """

    request_id: str
    key: str | None = None
    code: str = ""
    steps: Mapping[str, float] = field(default_factory=dict)


def trace_of(scope: Scope) -> Trace:
    """The trace that `Watch` keeps in a request's scope."""
    trace = scope["lgsid"]
    assert isinstance(trace, Trace)
    return trace


class Telemetry:
    """The metrics of one app."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        endpoint = ["endpoint", "method"]
        self._requests = Counter("lgsid_requests", "Requests answered.", [*endpoint, "status"], registry=registry)
        self._seconds = Histogram(
            "lgsid_request_seconds", "Time until the last byte.", endpoint, registry=registry, buckets=_SECONDS
        )
        self._steps = Histogram(
            "lgsid_step_seconds", "Time of a step.", ["endpoint", "step"], registry=registry, buckets=_SECONDS
        )
        self._errors = Counter("lgsid_errors", "Requests refused or failed.", ["endpoint", "code"], registry=registry)
        self._shed = Counter("lgsid_shed", "Requests refused because of load.", ["reason"], registry=registry)
        self._events = Counter("lgsid_events", "Events acknowledged.", ["kind"], registry=registry)
        self._waiting = Gauge("lgsid_queue_waiting", "Requests that wait for a thread.", ["lane"], registry=registry)
        self._busy = Gauge("lgsid_threads_busy", "Threads at work.", ["lane"], registry=registry)
        self._flight = Gauge("lgsid_requests_in_flight", "Requests not answered yet.", registry=registry)
        self._workers = Gauge("lgsid_workers", "Processes beside this one that recommend.", registry=registry)
        self._version = Gauge("lgsid_version", "1 for the version that answers.", ["version"], registry=registry)

    def watch_lane(self, name: str, waiting: Callable[[], float], busy: Callable[[], float]) -> None:
        """Read how full a lane is whenever metrics are asked for."""
        self._waiting.labels(name).set_function(waiting)
        self._busy.labels(name).set_function(busy)

    def watch_flight(self, in_flight: Callable[[], float]) -> None:
        """Read the number of requests in flight whenever metrics are asked for."""
        self._flight.set_function(in_flight)

    def watch_workers(self, workers: Callable[[], float]) -> None:
        """Read the number of processes that recommend whenever metrics are asked for."""
        self._workers.set_function(workers)

    def shed(self, reason: str) -> None:
        """A request was refused because of load: rate, in_flight, queue_full, queue_timeout or too_slow."""
        self._shed.labels(reason).inc()

    def events(self, received: int, new: int) -> None:
        """Events were acknowledged."""
        self._events.labels("new").inc(new)
        self._events.labels("known").inc(received - new)

    def answered(self, endpoint: str, method: str, status: int, seconds: float, trace: Trace) -> None:
        """A request is over."""
        method = method if method in _METHODS else "other"
        self._requests.labels(endpoint, method, str(status)).inc()
        self._seconds.labels(endpoint, method).observe(seconds)
        for step, milliseconds in trace.steps.items():
            self._steps.labels(endpoint, step).observe(milliseconds / 1e3)
        if trace.code:
            self._errors.labels(endpoint, trace.code).inc()

    def text(self, version: str) -> bytes:
        """All metrics in Prometheus' text format."""
        self._version.clear()
        self._version.labels(version).set(1)
        return generate_latest(self._registry)


class Watch:
    """Outermost layer: gives a request its id, times, counts and logs it, and turns a crash into a plain 500.

    Args:
        app: the layers below.
        telemetry: counts.
        headers: that every answer gets.
        log_clients: write client addresses to the log.
    """

    def __init__(self, app: ASGIApp, telemetry: Telemetry, headers: Mapping[str, str], log_clients: bool) -> None:
        self._app, self._telemetry, self._headers, self._log_clients = app, telemetry, headers, log_clients

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        trace = scope["lgsid"] = Trace(_request_id(Headers(scope=scope).get("x-request-id", "")))
        sent = _Sent(send, {**self._headers, "X-Request-ID": trace.request_id})
        try:
            await self._app(scope, receive, sent)
        except Exception:
            log.exception("request %s failed", trace.request_id)
            trace.code = "internal"
            if not sent.status:
                await _failed(trace)(scope, receive, sent)
        finally:
            self._record(scope, trace, sent, time.perf_counter() - started)

    def _record(self, scope: Scope, trace: Trace, sent: _Sent, seconds: float) -> None:
        endpoint = endpoint_of(scope)
        self._telemetry.answered(endpoint, scope["method"], sent.status, seconds, trace)
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": trace.request_id,
            "method": scope["method"],
            "endpoint": endpoint,
            "status": sent.status,
            "code": trace.code,
            "key": trace.key,
            "milliseconds": round(seconds * 1e3, 3),
            "steps": {step: round(milliseconds, 3) for step, milliseconds in trace.steps.items()},
            "bytes": sent.size,
        }
        if self._log_clients and scope.get("client"):
            line["client"] = scope["client"][0]
        access_log.info(json.dumps(line))


class _Sent:
    """Passes an answer on with more headers, and remembers its status and size."""

    def __init__(self, send: Send, headers: Mapping[str, str]) -> None:
        self._send, self._headers = send, headers
        self.status = self.size = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
        await self._send(message)


def endpoint_of(scope: Scope) -> str:
    """Route of a request, with the names of its parameters in place of their values."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str) and path:
        return path.replace(":path}", "}")
    return "page" if scope["method"] in ("GET", "HEAD") else "none"


def _request_id(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _failed(trace: Trace) -> Response:
    error = {"code": "internal", "message": "the service failed", "fix": "tell its operator the request_id"}
    return Response(json.dumps({"error": {**error, "request_id": trace.request_id}}), 500, None, "application/json")


def configure_logging() -> None:
    """Access log to standard output, all else to standard error, each line as it is."""
    for name, stream, form in (
        ("lgsid.access", sys.stdout, "%(message)s"),
        ("lgsid.serve", sys.stderr, "%(asctime)s %(levelname)s %(message)s"),
    ):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(form))
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
