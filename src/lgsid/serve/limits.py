"""Who may ask and how much is taken on: keys, token buckets, lanes of work with bounded queues, sizes and times."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lgsid.config.reading import parse
from lgsid.config.serve_limits import LimitConfig
from lgsid.errors import ConfigError
from lgsid.serve.failures import Refusal
from lgsid.serve.telemetry import Telemetry, trace_of

Result = TypeVar("Result")
KEYS_VARIABLE = "LGSID_API_KEYS_SHA256"
ADMIN_VARIABLE = "LGSID_ADMIN_KEY_SHA256"
HASH_COMMAND = "printf %s THE_KEY | sha256sum"
_MOST_BUCKETS = 10_000
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d*)?")
_METRICS = "/metrics"
_CHECKS = ("/healthz", "/readyz")


def with_environment(config: LimitConfig, environment: Mapping[str, str]) -> LimitConfig:
    """The configuration with the keys of the environment added.

    Raises:
        ConfigError: a variable that is not written as expected, or a name that stands in both.
    """
    keys = dict(config.keys_sha256)
    for pair in filter(None, (part.strip() for part in environment.get(KEYS_VARIABLE, "").split(","))):
        name, equals, digest = pair.partition("=")
        if not equals or name in keys:
            problem = f"{name!r} stands twice" if equals else "a part without ="
            raise ConfigError(f"{KEYS_VARIABLE}: {problem}; expected name=hash,name=hash", HASH_COMMAND)
        keys[name] = digest
    admin = environment.get(ADMIN_VARIABLE) or config.admin_sha256
    changed = {**config.model_dump(), "keys_sha256": keys, "admin_sha256": admin}
    return parse(LimitConfig, changed, f"{KEYS_VARIABLE} or {ADMIN_VARIABLE}")


class Keys:
    """Knows keys by their SHA-256; takes the same time whether and wherever one fits."""

    def __init__(self, digests: Mapping[str, str]) -> None:
        self._digests = {name: bytes.fromhex(digest) for name, digest in digests.items()}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def name_of(self, key: str) -> str | None:
        """Name of a key, None of an unknown one."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, digest in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = name
        return found


@dataclass
class Buckets:
    """Token buckets by name. The least recently used are dropped, which gives them back their full burst.

    Used from the event loop alone, so there is no lock.

    Attributes:
        rate: tokens a second.
        burst: most tokens.
        most: buckets kept.
        now: a clock that never goes back, seconds.
    """

    rate: float
    burst: int
    most: int = _MOST_BUCKETS
    now: Callable[[], float] = time.monotonic
    _levels: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, name: str) -> float:
        """Take a token: 0 where there is one, else the seconds until there is."""
        now = self.now()
        level, since = self._levels.pop(name, (float(self.burst), now))
        level = min(float(self.burst), level + (now - since) * self.rate)
        wait = 0.0 if level >= 1 else (1 - level) / self.rate
        self._levels[name] = (level if wait else level - 1, now)
        if len(self._levels) > self.most:
            self._levels.popitem(last=False)
        return wait


class Lane:
    """Threads for one kind of work and a bounded queue before them, so that the event loop is never blocked.

    Args:
        name: for metrics and refusals.
        threads, queue: how much is worked on, and how much may wait.
        queue_seconds: what waited longer is not begun.
        seconds: longest time until an answer. Work that takes longer is finished, and holds its thread until then.
        telemetry: told of refusals, and reads how full the lane is.
    """

    def __init__(
        self, name: str, threads: int, queue: int, queue_seconds: float, seconds: float, telemetry: Telemetry
    ) -> None:
        self.name, self.busy, self.inside, self._counting = name, 0, 0, Lock()
        self._room, self._queue_seconds, self._seconds = threads + queue, queue_seconds, seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"lgsid-{name}")
        self._telemetry = telemetry
        telemetry.watch_lane(name, lambda: self.inside - self.busy, lambda: self.busy)

    async def run(self, work: Callable[[], Result]) -> tuple[Result, float]:
        """Do work in a thread.

        Returns:
            its result, and the milliseconds that it waited for the thread.

        Raises:
            Refusal: 503, for a full queue, too long a wait for a thread, or too long a wait altogether.
        """
        if self.inside >= self._room:
            raise self._shed("queue_full", f"{self.inside} requests are in work or waiting")
        self._count(inside=1)
        future = self._pool.submit(self._do, work, time.monotonic())
        future.add_done_callback(lambda _: self._count(inside=-1))
        try:
            async with asyncio.timeout(self._seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise self._shed("too_slow", f"no answer within {self._seconds:g} s") from None

    def _do(self, work: Callable[[], Result], submitted: float) -> tuple[Result, float]:
        waited = time.monotonic() - submitted
        if waited > self._queue_seconds:
            raise self._shed("queue_timeout", f"no thread was free within {self._queue_seconds:g} s")
        self._count(busy=1)
        try:
            return work(), waited * 1e3
        except TimeoutError as error:  # not to be taken for the lane's own
            raise RuntimeError(f"the work timed out: {error}") from error
        finally:
            self._count(busy=-1)

    def _count(self, inside: int = 0, busy: int = 0) -> None:
        with self._counting:  # not through the event loop: each of its wake-ups costs more than all of this
            self.inside += inside
            self.busy += busy

    def _shed(self, reason: str, words: str) -> Refusal:
        self._telemetry.shed(reason)
        return Refusal(503, "overloaded", f"too much to do: {words}", "send the request again later", 1)

    async def close(self, seconds: float) -> bool:
        """Finish what was begun or queued; False where that took longer than it may."""
        until = time.monotonic() + seconds
        while self.inside and time.monotonic() < until:
            await asyncio.sleep(0.01)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return not self.inside


class Guard:
    """Lets a request through to the app, body in hand, or refuses it before anything is read or worked on.

    In this order: host name, requests in flight, key, rate, size, time. /healthz and /readyz pass without key and
    rate; files of the page and /openapi.json without key.
    """

    def __init__(self, app: ASGIApp, config: LimitConfig, telemetry: Telemetry) -> None:
        self._app, self._config, self._telemetry = app, config, telemetry
        self._keys = Keys(config.keys_sha256)
        self._admin = Keys({"admin": config.admin_sha256} if config.admin_sha256 else {})
        self._buckets = Buckets(config.requests_per_second, config.burst)
        self._wrong = Buckets(config.requests_per_second / 10, 1 + config.burst // 10)
        self._in_flight = 0
        telemetry.watch_flight(lambda: self._in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request of ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._in_flight += 1
        try:
            self._admit(scope, Headers(scope=scope))
            body = await self._body(scope, Headers(scope=scope), receive)
        except Refusal as refusal:
            trace_of(scope).code = refusal.code
            await refusal.response(trace_of(scope).request_id)(scope, receive, send)
        else:
            await self._app(scope, replay(body, receive), send)
        finally:
            self._in_flight -= 1

    def _admit(self, scope: Scope, headers: Headers) -> None:
        path: str = scope["path"]
        self._check_host(headers)
        if path in _CHECKS:
            return
        if self._in_flight > self._config.most_in_flight and path != _METRICS:  # which tell of overload
            self._telemetry.shed("in_flight")
            raise Refusal(503, "overloaded", "too many requests at the same time", "send the request again later", 1)
        trace = trace_of(scope)
        address = scope["client"][0] if scope.get("client") else "unknown"
        trace.key = self._holder(path, headers, address)
        self._rate(self._buckets, f"key {trace.key}" if trace.key else f"address {address}")

    def _check_host(self, headers: Headers) -> None:
        if not self._config.hosts:
            return
        host = _HOST.fullmatch(headers.get("host", "").lower())
        if host is None or host["name"] not in self._config.hosts:
            raise Refusal(
                421, "wrong_host", "the service does not answer to that host name", "limits.hosts has the names"
            )

    def _holder(self, path: str, headers: Headers, address: str) -> str | None:
        """Name of the key that opens a path; None where none is needed."""
        admin = path == "/admin" or path.startswith("/admin/")
        if admin and not self._admin:
            words = f"set {ADMIN_VARIABLE}, or limits.admin_sha256, to the key's SHA-256: {HASH_COMMAND}"
            raise Refusal(403, "admin_off", "there is no admin key, so the admin endpoints are off", words)
        keys = self._admin if admin else self._keys
        if not keys or not (admin or path.startswith("/v1/") or path == _METRICS):
            return None
        name = keys.name_of(_key(headers))
        if name is None:
            self._rate(self._wrong, address)
            problem = "not known" if _key(headers) else "missing"
            kind = "admin key" if admin else "API key"
            raise Refusal(401, "key", f"the {kind} is {problem}", "send it as X-API-Key or Authorization: Bearer KEY")
        return name

    def _rate(self, buckets: Buckets, name: str) -> None:
        if wait := buckets.take(name):
            self._telemetry.shed("rate")
            words = f"more than {buckets.rate:g} requests a second, after {buckets.burst} at once"
            raise Refusal(429, "rate", words, "wait as long as Retry-After says", wait)

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        admin = scope["path"].startswith("/admin/")
        most = self._config.most_admin_body_bytes if admin else self._config.most_body_bytes
        length = headers.get("content-length", "0")
        if len(length) > 19 or (length.isdecimal() and int(length) > most):
            raise _too_large(most)
        try:
            async with asyncio.timeout(self._config.body_seconds):
                return await _read(receive, most)
        except TimeoutError:
            words = f"the body did not arrive within {self._config.body_seconds:g} s"
            raise Refusal(408, "slow_body", words, "send smaller batches") from None


def _key(headers: Headers) -> str:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")


def _too_large(most: int) -> Refusal:
    return Refusal(413, "too_large", f"the body has more than {most:,} bytes", "send smaller batches")


async def _read(receive: Receive, most: int) -> bytes:
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "bad_request", "the connection closed before the body was complete")
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
        if size > most:
            raise _too_large(most)
    return b"".join(chunks)


def replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read again, and then what comes after it."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
