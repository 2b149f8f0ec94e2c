"""A service over fakes: an engine whose answers are easy to predict, versions to switch between, a store in memory."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
from starlette.testclient import TestClient

from lgsid.config.serve import ServeConfig
from lgsid.config.serve_limits import LimitConfig
from lgsid.errors import ArtifactError
from lgsid.serve.app import make_app
from lgsid.serve.base import Event, Health, RequestError
from lgsid.serve.contract import Answer, Ask, Found, Meaning, Place, Recommended, Written
from lgsid.serve.schemas import write

KEY, ADMIN_KEY = "a key for tests", "another key for tests"
ASK: dict[str, Any] = {"place": {"lat_deg": 31.23, "lon_deg": 121.47}, "reach": {"radius_km": 3.0}, "k": 2}
HERE = Place(31.23, 121.47)


def digest(key: str) -> str:
    """SHA-256 as configurations have it."""
    return hashlib.sha256(key.encode()).hexdigest()


class FakeEngine:
    """Knows the items i-0 … i-9; recommends what the user has not seen; does ``before`` first."""

    def __init__(self, version: str = "v1", before: Callable[[], None] = lambda: None) -> None:
        self.version, self.before = version, before
        self.asked: list[Ask] = []
        self.stored: list[Sequence[Event]] = []
        self.items = [f"i-{number}" for number in range(10)]

    def recommend(self, ask: Ask, stored: Sequence[Event]) -> Answer:
        self.before()
        self.asked.append(ask)
        self.stored.append(stored)
        if ask.model not in (None, "din"):
            raise RequestError(f"model: no model {ask.model!r}; known: din")
        seen = ask.history or [event.item_id for event in stored]
        rows = [self._recommended(item) for item in self.items if item not in seen][: ask.k]
        steps = {"reach": 0.1, "interest": 0.2, "words": 0.1, "total": 0.4}
        note = "" if len(rows) == ask.k else "nothing else is near"
        return Answer(tuple(rows), self.version, "din", len(self.items), len(rows), note, steps)

    def written(self, ask: Ask, stored: Sequence[Event]) -> Written:
        return write(self.recommend(ask, stored))

    def similar(self, item_id: str, k: int, aligned: bool = True) -> list[Found]:
        self.before()
        if item_id not in self.items:
            raise RequestError(f"item_id: no item {item_id!r}")
        others = [item for item in self.items if item != item_id]
        return [self._found(item) for item in (others if aligned else others[::-1])][:k]

    def explain(self, sid_or_item: str) -> Meaning:
        if sid_or_item not in ("1-2-3", "i/slash"):
            raise RequestError(f"no SID or item {sid_or_item!r}", "give a SID such as 1-2-3")
        return Meaning(sid_or_item, ("food", "noodles", "in the north"), ("i-0",), 1)

    def search(self, text: str, k: int, near: Place | None = None) -> list[Found]:
        return [self._found(item, 0.5 if near else None) for item in self.items if text in item][:k]

    def _recommended(self, item: str) -> Recommended:
        return Recommended(item, f"Item {item}", "Food", HERE, 0.4, "1-2-3", 0.9, "0.4 km away")

    def _found(self, item: str, km: float | None = None) -> Found:
        return Found(item, f"Item {item}", None, HERE, "1-2-3", 0.5, km)


class FakeHolder:
    """Versions are names of folders; those with "corrupt" in theirs are refused."""

    def __init__(self, engine: FakeEngine | None = None) -> None:
        self.engines = [engine or FakeEngine()]

    @property
    def current(self) -> FakeEngine:
        return self.engines[-1]

    def listed(self) -> list[dict[str, Any]]:
        return [{"version": engine.version, "run": f"/secret/{engine.version}"} for engine in reversed(self.engines)]

    def load(self, run: Path) -> Mapping[str, Any]:
        if "corrupt" in run.name:
            raise ArtifactError(f"{run}/sids.parquet does not have its hash", "lgsid tokenize RUN")
        self.engines.append(FakeEngine(run.name))
        return {"seconds": 0.1}

    def roll_back(self) -> Mapping[str, Any]:
        if len(self.engines) == 1:
            raise ArtifactError("there is no version before this one")
        return {"left": self.engines.pop().version}

    def add_items(self, items: pl.DataFrame) -> Mapping[str, Any]:
        self.current.items += items["item_id"].to_list()
        return {"new": len(items), "columns": items.columns}


class MemoryStore:
    """A store that forgets at its end; raises ``fails`` where it is set."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        self.fails: Exception | None = None
        self.before: Callable[[], None] = lambda: None
        self.closed = False
        self._lock = threading.Lock()

    def append(self, events: Sequence[Event]) -> int:
        self._begin()
        with self._lock:
            new = 0
            for event in events:
                kept = self.events.setdefault(event.user_id, [])
                if event.event_id not in [other.event_id for other in kept]:
                    kept.append(event)
                    new += 1
            return new

    def recent(self, user_id: str, most: int) -> list[Event]:
        self._begin()
        return self.events.get(user_id, [])[-most:]

    def forget(self, user_id: str) -> int:
        self._begin()
        return len(self.events.pop(user_id, []))

    def count(self, user_id: str | None = None) -> int:
        return sum(len(events) for user, events in self.events.items() if user_id in (None, user))

    def health(self) -> Health:
        return Health(self.fails is None, "memory" if self.fails is None else "/secret/path is broken", 0.0)

    def close(self) -> None:
        self.closed = True

    def _begin(self) -> None:
        self.before()
        if self.fails is not None:
            raise self.fails


def config(**limits: Any) -> ServeConfig:
    """Configuration with some limits."""
    return ServeConfig(limits=LimitConfig(**limits))


@contextmanager
def service(
    settings: ServeConfig | None = None,
    holder: FakeHolder | None = None,
    store: Any = None,
    headers: Mapping[str, str] | None = None,
    web: Path = Path("/nonexistent"),
) -> Iterator[TestClient]:
    """A client of a running service; what a server would crash on comes back as 500."""
    app = make_app(holder or FakeHolder(), store or MemoryStore(), settings or config(), web)
    with TestClient(app, raise_server_exceptions=False, headers=dict(headers or {})) as client:
        yield client


async def call(
    app: Any, method: str, target: bytes, messages: list[dict[str, Any]], headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Status and body of a request that no client has tidied up; after the messages of its body there is silence."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = target.partition(b"?")
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": unquote(path.decode("latin-1")), "raw_path": path,
             "query_string": query, "headers": raw, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
             "scheme": "http", "root_path": "", "http_version": "1.1"}  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def error_of(response: Any, status: int) -> dict[str, Any]:
    """The error that a response has to be."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) - {"fields"} == {"code", "message", "fix", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return error
