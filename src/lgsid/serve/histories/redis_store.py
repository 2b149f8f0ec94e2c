"""Histories in a Redis server, shared by several instances.

For each user a list of events and the set of their ids, changed together by a script. Durable means on the server's
disk: with `appendonly yes`, either `WAITAOF` (Redis 7.2, Valkey) waits until it is, or `appendfsync always` does so
before every answer. A server that is set up otherwise is refused, or warned about. A full disk makes a server with
`appendfsync always` stop; others answer with an error.

One server, with replicas if you like; no cluster. What was forgotten stays in the append-only file until that is
rewritten, which Redis does by itself (or `BGREWRITEAOF`).
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry

from lgsid.config.serve import HistoryConfig
from lgsid.serve.base import Event, Health, StoreError, StoreFullError, StoreUnavailableError, check_id

_APPEND = """
local new = 0
for i = 2, #ARGV, 2 do
  if redis.call('SADD', KEYS[2], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[1], ARGV[i + 1])
    new = new + 1
  end
end
local over = math.max(redis.call('LLEN', KEYS[1]) - tonumber(ARGV[1]), 0)
if over > 0 then
  for _, event in ipairs(redis.call('LRANGE', KEYS[1], 0, over - 1)) do
    redis.call('SREM', KEYS[2], cjson.decode(event)[1])
  end
  redis.call('LTRIM', KEYS[1], over, -1)
end
if new ~= over then
  redis.call('INCRBY', KEYS[3], new - over)
end
return new
"""
_FORGET = """
local events = redis.call('LLEN', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('DECRBY', KEYS[3], events)
return events
"""
_FIX = "redis-cli CONFIG SET appendonly yes, and CONFIG SET appendfsync always (not needed from Redis 7.2)"


class DurabilityWarning(UserWarning):
    """A server may lose acknowledged events."""


class RedisStore:
    """A `HistoryStore` in a server.

    Args:
        config: URL, limits, and whether a server that may lose events is refused.

    Raises:
        StoreError: the server may lose events, or does not let us in.
        StoreUnavailableError: it does not answer.
    """

    def __init__(self, config: HistoryConfig) -> None:
        self.config = config
        self._client: Any = redis.Redis.from_url(
            config.url,
            decode_responses=True,
            socket_timeout=config.timeout_seconds,
            socket_connect_timeout=config.timeout_seconds,
            retry=Retry(NoBackoff(), 0),  # a hidden second try would count no event as new
        )
        options = self._client.connection_pool.connection_kwargs
        where = options.get("path") or f"{options.get('host')}:{options.get('port')}"
        self.name = f"Redis at {where}"  # the URL may hold a password
        self._closed = self._sound = self._waits = self._warned = False
        with self._explained():
            self._inspect()

    def append(self, events: Sequence[Event]) -> int:
        """See `HistoryStore`."""
        calls: dict[str, list[str | int]] = {}
        for event in events:
            text = json.dumps([event.event_id, event.item_id, event.timestamp_ms, event.kind], ensure_ascii=False)
            calls.setdefault(event.user_id, [self.config.most_events]).extend((event.event_id, text))
        return self._run(_APPEND, calls) if calls else 0

    def forget(self, user_id: str) -> int:
        """See `HistoryStore`; the append-only file holds the events until it is rewritten."""
        return self._run(_FORGET, {check_id("user_id", user_id): []})

    def recent(self, user_id: str, most: int) -> list[Event]:
        """See `HistoryStore`."""
        if most <= 0:
            return []
        with self._explained():
            texts = self._client.lrange(self._keys(user_id)[0], -most, -1)
        fields = (json.loads(text) for text in texts)
        return [Event.stored(event, user_id, item, timestamp, kind) for event, item, timestamp, kind in fields]

    def count(self, user_id: str | None = None) -> int:
        """See `HistoryStore`."""
        events, _, total = self._keys(user_id or "")
        with self._explained():
            return int(self._client.get(total) or 0) if user_id is None else int(self._client.llen(events))

    def health(self) -> Health:
        """See `HistoryStore`; looks at the server's settings again."""
        started = time.perf_counter()
        try:
            with self._explained():
                ok, detail = True, self._inspect()
        except StoreError as error:
            self._sound = False
            ok, detail = False, error.message
        return Health(ok, detail, 1e3 * (time.perf_counter() - started))

    def close(self) -> None:
        """See `HistoryStore`."""
        self._closed = True
        self._client.close()

    def _keys(self, user_id: str) -> tuple[str, str, str]:
        prefix = self.config.prefix
        return f"{prefix}:events:{user_id}", f"{prefix}:ids:{user_id}", f"{prefix}:total"

    def _run(self, script: str, calls: dict[str, list[str | int]]) -> int:
        """Run a script for each user, wait until the disk has it, and add up the results."""
        with self._explained():
            if not self._sound:
                self._inspect()
            pipeline = self._client.pipeline(transaction=False)
            for user_id, arguments in calls.items():
                pipeline.eval(script, 3, *self._keys(user_id), *arguments)
            if self._waits:
                # of the same connection: it waits for what that one wrote
                pipeline.execute_command("WAITAOF", 1, 0, max(int(900 * self.config.timeout_seconds), 1))
            results = pipeline.execute()
        if self._waits and results.pop()[0] < 1:
            raise StoreUnavailableError(
                f"{self.name}: not on its disk within {self.config.timeout_seconds:g} s", "send again"
            )
        return sum(results)

    def _inspect(self) -> str:
        """See whether the server keeps what it acknowledges; what it is, in words."""
        server = {**self._client.info("server"), **self._client.info("persistence")}
        if server.get("loading"):  # until then it says that appendonly is off
            raise StoreUnavailableError(f"{self.name} is still reading its data", "send again")
        version = str(server["redis_version"])
        self._waits = bool(server["aof_enabled"]) and tuple(map(int, version.split(".")[:2])) >= (7, 2)
        found = _weakness(server, self._settings(), self._waits)
        if found and self.config.durability == "required":
            raise StoreError(f"{self.name} may lose acknowledged events: {found}", _FIX)
        if found and not self._warned:
            self._warned = True
            warnings.warn(f"{self.name} may lose acknowledged events: {found}", DurabilityWarning, stacklevel=2)
        self._sound = True
        return f"Redis {version}" + (f"; {found}" if found else "")

    def _settings(self) -> dict[str, str]:
        """Settings that matter; none where we may not read them."""
        try:
            settings: dict[str, str] = self._client.config_get(
                "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy"
            )
        except (ConnectionError, TimeoutError):
            raise
        except RedisError:  # managed servers do not let everyone see them
            return {}
        return settings

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of Redis as errors of the store."""
        if self._closed:
            raise StoreError(f"{self.name} is closed")
        try:
            yield
        except AuthenticationError as error:
            raise StoreError(f"{self.name} does not let us in: {error}", "see user and password in the URL") from error
        except (ConnectionError, TimeoutError) as error:
            self._sound = False  # what comes back may be set up in another way
            raise StoreUnavailableError(f"{self.name} does not answer: {error}", "start it, and send again") from error
        except RedisError as error:
            raise self._refused(error) from error

    def _refused(self, error: RedisError) -> StoreError:
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
            return StoreFullError(f"{self.name} has no memory left: {error}", "raise its maxmemory, and send again")
        if "MISCONF" in str(error):
            return StoreFullError(f"{self.name} cannot write to its disk: {error}", "make room there, and send again")
        if isinstance(error, ReadOnlyError) or "READONLY" in str(error):
            return StoreUnavailableError(f"{self.name} is a replica: {error}", "give the URL of its master")
        return StoreError(f"{self.name} refused: {error}")


def _weakness(server: dict[str, Any], settings: dict[str, str], waits: bool) -> str:
    """Why a server may lose what it acknowledged; empty where it does not."""
    if not server["aof_enabled"]:
        return "appendonly is off"
    if int(settings.get("maxmemory", 0)) and settings.get("maxmemory-policy", "").startswith("allkeys"):
        return f"maxmemory-policy {settings['maxmemory-policy']} removes histories when memory is short"
    if waits:
        return ""
    if not settings:
        return "its version has no WAITAOF, and its settings may not be read"
    if settings.get("appendfsync") != "always":
        return f"its version has no WAITAOF, and appendfsync is {settings.get('appendfsync')}"
    if settings.get("no-appendfsync-on-rewrite") == "yes":
        return "no-appendfsync-on-rewrite is on"
    return ""
