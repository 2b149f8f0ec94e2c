"""Redis histories when things go wrong: killed, stopped, full, badly set up and closed servers."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_server import Server, require_redis
from toy_service import ASK, error_of, service

from lgsid.config.serve import HistoryConfig
from lgsid.serve.base import Event, StoreError, StoreFullError, StoreUnavailableError

redis = pytest.importorskip("redis", reason="no Redis client found; pip install 'lgsid[serve]'")
from lgsid.serve.histories.redis_store import DurabilityWarning, RedisStore, _weakness  # noqa: E402


def event(number: int, user: str = "anna") -> Event:
    return Event(f"e{number}", user, "item", number)


def configured(server: Server, **changes: Any) -> HistoryConfig:
    return HistoryConfig(**{"url": server.url, "most_events": 1_000_000, "timeout_seconds": 2.0, **changes})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    require_redis()
    started = Server(tmp_path)
    yield started
    started.stop()


class Load:
    """Threads that append all the time, and remember what was acknowledged and what went wrong."""

    def __init__(self, store: RedisStore) -> None:
        self.store, self.acknowledged, self.errors = store, set[str](), list[Exception]()
        self.going = True
        self.threads = [threading.Thread(target=self._write, args=(writer,)) for writer in range(3)]
        for thread in self.threads:
            thread.start()

    def _write(self, writer: int) -> None:
        number = 0
        while self.going:
            one = Event(f"{writer}-{number}", f"u{writer}", "item", number)
            try:
                self.store.append([one])
            except Exception as error:
                self.errors.append(error)
                time.sleep(0.01)  # the same event again, under the same id
            else:
                self.acknowledged.add(one.event_id)
                number += 1

    def wait_for(self, more: int) -> None:
        goal, end = len(self.acknowledged) + more, time.monotonic() + 20
        while len(self.acknowledged) < goal and time.monotonic() < end:
            time.sleep(0.01)
        assert len(self.acknowledged) >= goal

    def stop(self) -> None:
        self.going = False
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_restart_mid_load_loses_nothing(server: Server, how: str) -> None:
    store = RedisStore(configured(server))
    load = Load(store)
    load.wait_for(150)
    getattr(server, how)()
    time.sleep(0.1)
    down = store.health()
    with pytest.raises(StoreUnavailableError, match=f"Redis at 127.0.0.1:{server.port} does not answer"):
        store.recent("u0", 1)
    server.start()
    load.wait_for(150)  # the same store, as if nothing had been
    load.stop()
    assert not down.ok
    assert load.errors
    assert not [error for error in load.errors if type(error) is not StoreUnavailableError]
    kept = [one.event_id for writer in range(3) for one in store.recent(f"u{writer}", 10**6)]
    assert load.acknowledged <= set(kept)
    assert len(set(kept)) == len(kept) == store.count()
    for writer in range(3):
        numbers = [one.timestamp_ms for one in store.recent(f"u{writer}", 10**6)]
        assert numbers == sorted(numbers)
    store.close()


def test_clients_of_the_service_see_a_restart_as_503_and_lose_nothing(server: Server) -> None:
    acknowledged: list[str] = []

    def send(client: Any, number: int) -> int:
        one = {"event_id": f"e-{number}", "user_id": "u", "item_id": f"i-{number % 10}"}
        response = client.post("/v1/events", json={"events": [one]})
        if response.status_code == 200:
            acknowledged.append(one["event_id"])
        else:
            assert error_of(response, 503)["code"] == "store_unavailable"
        return int(response.status_code)

    store = RedisStore(configured(server))
    with service(store=store) as client:
        assert [send(client, number) for number in range(20)] == [200] * 20
        server.kill()
        assert {send(client, number) for number in range(20, 25)} == {503}
        assert client.get("/readyz").status_code == 503
        assert error_of(client.post("/v1/recommend", json={**ASK, "user_id": "u"}), 503)["code"] == "store_unavailable"
        assert client.post("/v1/recommend", json={**ASK, "history": ["i-3"]}).status_code == 200  # needs no store
        server.start()
        assert [send(client, number) for number in range(20, 40)] == [200] * 20
        assert client.get("/readyz").status_code == 200
        kept = [one.event_id for one in store.recent("u", 100)]
    assert kept == acknowledged


def test_two_instances_share_a_history(server: Server) -> None:
    with service(store=RedisStore(configured(server))) as one, service(store=RedisStore(configured(server))) as other:
        wanted = {**ASK, "user_id": "u", "k": 1}
        assert other.post("/v1/recommend", json=wanted).json()["items"][0]["item_id"] == "i-0"
        events = [{"event_id": "e", "user_id": "u", "item_id": "i-0"}]
        assert one.post("/v1/events", json={"events": events}).json() == {"received": 1, "new": 1}
        assert other.post("/v1/recommend", json=wanted).json()["items"][0]["item_id"] == "i-1"
        assert other.post("/v1/events", json={"events": events}).json() == {"received": 1, "new": 0}


def test_a_server_that_comes_back_forgetful_is_refused(server: Server) -> None:
    store = RedisStore(configured(server))
    store.append([event(0)])
    server.stop()
    with pytest.raises(StoreUnavailableError):
        store.append([event(1)])
    server.start(appendonly="no")
    with pytest.raises(StoreError, match="may lose acknowledged events: appendonly is off") as caught:
        store.append([event(1)])
    assert "CONFIG SET appendonly yes" in str(caught.value.fix)
    store.close()


def test_health_notices_settings_that_change(server: Server) -> None:
    store, client = RedisStore(configured(server)), redis.Redis.from_url(server.url)
    if "WAITAOF" in store.health().detail or store._waits:
        pytest.skip("this server needs no appendfsync always")
    client.config_set("appendfsync", "everysec")
    assert not store.health().ok
    with pytest.raises(StoreError, match="appendfsync is everysec"):
        store.append([event(0)])
    client.config_set("appendfsync", "always")
    store.append([event(0)])
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert "removes histories" in store.health().detail
    client.close()
    store.close()


def test_a_forgetful_server_can_be_put_up_with(server: Server) -> None:
    server.stop()
    server.start(appendonly="no")
    with pytest.raises(StoreError, match="appendonly is off"):
        RedisStore(configured(server))
    with pytest.warns(DurabilityWarning, match="appendonly is off"):
        store = RedisStore(configured(server, durability="warn"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.append([event(0)]) == 1  # it was said once
        assert store.health().detail.endswith("appendonly is off")
    store.close()


def test_memory_that_is_full_is_said(server: Server) -> None:
    store, client = RedisStore(configured(server)), redis.Redis.from_url(server.url)
    store.append([event(0)])
    client.config_set("maxmemory", "1")
    with pytest.raises(StoreFullError, match="no memory left"):
        store.append([event(1)])
    assert [one.event_id for one in store.recent("anna", 9)] == ["e0"]
    client.config_set("maxmemory", "0")
    assert store.append([event(1)]) == 1
    client.close()
    store.close()


def test_a_replica_is_unavailable(server: Server) -> None:
    store, client = RedisStore(configured(server)), redis.Redis.from_url(server.url)
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailableError, match="is a replica"):
        store.append([event(0)])
    client.close()
    store.close()


def test_a_disk_that_is_full_is_said(server: Server) -> None:
    store = RedisStore(configured(server))
    error = redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device")
    assert isinstance(store._refused(error), StoreFullError)
    assert "No space left on device" in store._refused(error).message
    store.close()


def test_passwords_are_asked_for_and_not_told(server: Server) -> None:
    server.stop()
    server.start(requirepass="sesame")
    with pytest.raises(StoreError, match="does not let us in"):
        RedisStore(configured(server))
    with pytest.raises(StoreError, match="does not let us in") as caught:
        RedisStore(configured(server, url=server.url.replace("//", "//:secret@")))
    assert "secret" not in str(caught.value)
    store = RedisStore(configured(server, url=server.url.replace("//", "//:sesame@")))
    assert store.append([event(0)]) == 1
    assert "sesame" not in store.name
    store.close()


def test_nobody_there() -> None:
    require_redis()
    with pytest.raises(StoreUnavailableError, match=r"Redis at 127\.0\.0\.1:1 does not answer"):
        RedisStore(HistoryConfig(url="redis://127.0.0.1:1/0"))


@pytest.mark.parametrize(
    ("server_says", "settings", "waits", "weakness"),
    [
        ({"aof_enabled": 0}, {}, False, "appendonly is off"),
        ({"aof_enabled": 1}, {"appendfsync": "always", "no-appendfsync-on-rewrite": "no"}, False, ""),
        ({"aof_enabled": 1}, {"appendfsync": "everysec"}, False, "appendfsync is everysec"),
        ({"aof_enabled": 1}, {"appendfsync": "everysec"}, True, ""),
        ({"aof_enabled": 1}, {"appendfsync": "always", "no-appendfsync-on-rewrite": "yes"}, False, "on-rewrite is on"),
        ({"aof_enabled": 1}, {}, False, "may not be read"),
        ({"aof_enabled": 1}, {}, True, ""),
        ({"aof_enabled": 1}, {"maxmemory": "9", "maxmemory-policy": "allkeys-lfu"}, True, "removes histories"),
        ({"aof_enabled": 1}, {"maxmemory": "9", "maxmemory-policy": "volatile-lru"}, True, ""),
    ],
)
def test_what_makes_a_server_forgetful(
    server_says: dict[str, int], settings: dict[str, str], waits: bool, weakness: str
) -> None:
    found = _weakness(server_says, settings, waits)
    assert weakness in found
    assert bool(found) == bool(weakness)


class Waiting:
    """A client of Redis 7.2 whose disk took (or did not take) what was written."""

    def __init__(self, on_disk: int) -> None:
        self.on_disk, self.asked = on_disk, list[tuple[Any, ...]]()

    def info(self, section: str) -> dict[str, Any]:
        return {"redis_version": "7.2.4"} if section == "server" else {"aof_enabled": 1}

    def config_get(self, *names: str) -> dict[str, str]:
        raise redis.exceptions.NoPermissionError("may not read settings")

    def pipeline(self, transaction: bool) -> Waiting:
        assert not transaction  # in one, WAITAOF would not wait
        return self

    def eval(self, *call: Any) -> None:
        self.asked.append(("EVAL", *call[2:]))

    def execute_command(self, *call: Any) -> None:
        self.asked.append(call)

    def execute(self) -> list[Any]:
        return [1] * (len(self.asked) - 1) + [[self.on_disk, 0]]


@pytest.mark.parametrize("on_disk", [0, 1])
def test_newer_servers_are_waited_for(server: Server, on_disk: int) -> None:
    store = RedisStore(configured(server))
    store.close()
    store._client, store._closed, store._sound = Waiting(on_disk), False, False
    if on_disk:
        assert store.append([event(0), event(0, "ben")]) == 2
    else:
        with pytest.raises(StoreUnavailableError, match="not on its disk within 2 s"):
            store.append([event(0), event(0, "ben")])
    assert [call[0] for call in store._client.asked] == ["EVAL", "EVAL", "WAITAOF"]
    assert store._client.asked[-1] == ("WAITAOF", 1, 0, 1800)
