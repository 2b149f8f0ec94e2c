"""Keys, rates, sizes, times, queues: what is refused, with which status, and what still gets through."""

from __future__ import annotations

import asyncio
import hmac
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_service import (
    ADMIN_KEY,
    ASK,
    KEY,
    FakeEngine,
    FakeHolder,
    MemoryStore,
    call,
    config,
    digest,
    error_of,
    service,
)

from lgsid.config.serve_limits import LimitConfig, PageConfig
from lgsid.errors import ConfigError
from lgsid.serve.app import make_app
from lgsid.serve.failures import Refusal
from lgsid.serve.limits import Buckets, Keys, Lane, with_environment
from lgsid.serve.run import checked
from lgsid.serve.telemetry import Telemetry

KEYS = {"keys_sha256": {"shop": digest(KEY), "app": digest("other")}, "admin_sha256": digest(ADMIN_KEY)}


def test_only_known_keys_get_in() -> None:
    with service(config(**KEYS)) as client:
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"authorization": "bearer other"}):
            assert client.get("/v1/versions", headers=headers).status_code == 200
            assert client.get("/metrics", headers=headers).status_code == 200
        for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": digest(KEY)}, {"Authorization": f"Basic {KEY}"}):
            for path in ("/v1/versions", "/metrics", "/v1/none"):
                response = client.get(path, headers=headers)
                assert error_of(response, 401)["code"] == "key"
                assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/v1/versions", headers={"X-API-Key": ADMIN_KEY}).status_code == 401
        for path in ("/healthz", "/readyz", "/openapi.json", "/", "/page.json"):
            assert client.get(path).status_code == 200
        assert client.get("/page.json").json()["key_needed"] is True


def test_a_wrong_key_is_refused_before_its_body_is_looked_at() -> None:
    with service(config(**KEYS)) as client:
        response = client.post("/v1/recommend", content=b"{", headers={"content-type": "application/json"})
        assert error_of(response, 401)


def test_guessing_keys_is_slowed_down() -> None:
    with service(config(requests_per_second=10, burst=100, **KEYS)) as client:
        statuses = [client.get("/v1/versions", headers={"X-API-Key": str(n)}).status_code for n in range(30)]
        assert statuses[:11] == [401] * 11
        assert 429 in statuses
        assert client.get("/v1/versions", headers={"X-API-Key": KEY}).status_code == 200


def test_every_key_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def spy(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return real(one, other)

    monkeypatch.setattr("lgsid.serve.limits.hmac.compare_digest", spy)
    keys = Keys({name: digest(name) for name in "abc"})
    assert [keys.name_of(name) for name in ("a", "c", "x", "", "\udc80")] == ["a", "c", None, None, None]
    assert len(compared) == 5 * 3
    assert {len(part) for pair in compared for part in pair} == {32}


def test_keys_come_from_the_environment_too() -> None:
    both = {"LGSID_API_KEYS_SHA256": f"web={digest('w')}, ", "LGSID_ADMIN_KEY_SHA256": digest("a")}
    limits = with_environment(LimitConfig(keys_sha256={"app": digest("o")}), both)
    assert limits.keys_sha256 == {"app": digest("o"), "web": digest("w")}
    assert limits.admin_sha256 == digest("a")
    assert with_environment(limits, {}) == limits
    for wrong in ("web", "web=plain", f"app={digest('w')}", f"b d={digest('w')}"):
        with pytest.raises(ConfigError, match="LGSID_API_KEYS_SHA256"):
            with_environment(LimitConfig(keys_sha256={"app": digest("o")}), {"LGSID_API_KEYS_SHA256": wrong})
    with pytest.raises(ConfigError):
        with_environment(LimitConfig(), {"LGSID_ADMIN_KEY_SHA256": "plain"})


def test_no_open_door_by_mistake() -> None:
    with pytest.raises(ConfigError, match="no API keys"):
        checked(LimitConfig(), "0.0.0.0")
    with pytest.raises(ConfigError, match="no API keys"):
        checked(LimitConfig(), "shop.example.org")
    assert checked(LimitConfig(open_to_all=True), "0.0.0.0").hosts == ()
    assert checked(LimitConfig(keys_sha256={"a": digest("a")}), "::").hosts == ()
    for host in ("127.0.0.1", "localhost", "::1", "[::1]"):
        assert checked(LimitConfig(), host).hosts == ("localhost", "127.0.0.1", "[::1]")


def test_a_page_from_elsewhere_cannot_reach_this_machine_under_its_name() -> None:
    with service(config(hosts=("localhost", "[::1]"))) as client:
        for host in ("localhost", "localhost:8000", "LOCALHOST", "[::1]:80"):
            assert client.get("/v1/versions", headers={"host": host}).status_code == 200
        for host in ("evil.example", "localhost.evil.example", "", "[::2]", "[::1"):
            assert error_of(client.get("/v1/versions", headers={"host": host}), 421)["code"] == "wrong_host"


def test_rates_are_kept_for_each_key() -> None:
    with service(config(requests_per_second=0.5, burst=3, **KEYS)) as client:
        statuses = [client.get("/v1/versions", headers={"X-API-Key": KEY}).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429]
        refused = client.get("/v1/versions", headers={"X-API-Key": KEY})
        assert error_of(refused, 429)["code"] == "rate"
        assert refused.headers["retry-after"] == "2"
        assert client.get("/v1/versions", headers={"X-API-Key": "other"}).status_code == 200
        assert client.get("/healthz").status_code == 200


@given(st.floats(0.1, 100), st.integers(1, 50), st.lists(st.floats(0, 2), min_size=1, max_size=100))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(rate: float, burst: int, pauses: list[float]) -> None:
    now = 0.0
    buckets = Buckets(rate, burst, now=lambda: now)
    taken = 0
    for pause in pauses:
        now += pause
        wait = buckets.take("a")
        taken += wait == 0
        assert taken <= burst + rate * now + 1e-6
        if wait:
            now += wait * 1.000001 + 1e-9
            assert buckets.take("a") == 0  # the promise of Retry-After
            taken += 1
    assert buckets.take("b") == 0


def test_buckets_do_not_pile_up() -> None:
    buckets = Buckets(1, 1, most=10, now=lambda: 0.0)
    assert [buckets.take(str(number)) for number in range(100)] == [0] * 100
    assert buckets.take("99") == 1.0
    assert len(buckets._levels) == 10


def test_bodies_have_a_size() -> None:
    json_type = {"content-type": "application/json"}

    def chunks() -> Iterator[bytes]:
        yield from [b"x" * 600] * 2

    with service(config(most_body_bytes=1_000)) as client:
        assert error_of(client.post("/v1/events", content=b"x" * 1_001, headers=json_type), 413)["code"] == "too_large"
        error_of(client.post("/v1/events", content=chunks(), headers=json_type), 413)
        error_of(client.post("/v1/events", content=b"x" * 1_000, headers=json_type), 400)
        error_of(client.post("/v1/events", content=b"", headers={**json_type, "content-length": "9" * 30}), 413)
        assert client.post("/v1/recommend", json=ASK).status_code == 200


def test_bodies_have_a_time() -> None:
    app = make_app(FakeHolder(), MemoryStore(), config(body_seconds=0.05))

    async def post(app: Any, messages: list[dict[str, Any]]) -> int:
        return (await call(app, "POST", b"/v1/events", messages))[0]

    begun = {"type": "http.request", "body": b"{", "more_body": True}
    assert asyncio.run(post(app, [dict(begun)])) == 408
    assert asyncio.run(post(app, [dict(begun), {"type": "http.disconnect"}])) == 400


def test_what_does_not_fit_into_the_queue_is_refused_and_the_rest_is_answered() -> None:
    go = threading.Event()
    holder = FakeHolder(FakeEngine(before=lambda: go.wait(20)))
    with service(config(threads=1, queue=2), holder) as client, ThreadPoolExecutor(8) as pool:
        sent = [pool.submit(client.post, "/v1/recommend", json=ASK) for _ in range(8)]
        while sum(future.done() for future in sent) < 5:
            time.sleep(0.01)
        shed = [future.result() for future in sent if future.done()]
        metrics = client.get("/metrics").text
        go.set()
        statuses = sorted(future.result().status_code for future in sent)
    assert statuses == [200] * 3 + [503] * 5
    for response in shed:
        assert error_of(response, 503)["code"] == "overloaded"
        assert response.headers["retry-after"] == "1"
    assert 'lgsid_queue_waiting{lane="ask"} 2.0' in metrics
    assert 'lgsid_threads_busy{lane="ask"} 1.0' in metrics
    assert 'lgsid_shed_total{reason="queue_full"} 5.0' in metrics


def test_what_waited_too_long_is_not_begun() -> None:
    holder = FakeHolder(FakeEngine(before=lambda: time.sleep(0.3)))
    with service(config(threads=1, queue=5, queue_seconds=0.1), holder) as client, ThreadPoolExecutor(3) as pool:
        statuses = list(pool.map(lambda _: client.post("/v1/recommend", json=ASK).status_code, range(3)))
    assert sorted(statuses) == [200, 503, 503]
    assert len(holder.current.asked) == 1


def test_an_answer_that_takes_too_long_is_given_up_and_its_thread_still_counts() -> None:
    go = threading.Event()
    holder = FakeHolder(FakeEngine(before=lambda: go.wait(20)))
    with service(config(threads=1, queue=0, request_seconds=0.1), holder) as client:
        assert error_of(client.post("/v1/recommend", json=ASK), 503)["message"].endswith("no answer within 0.1 s")
        assert "are in work" in error_of(client.post("/v1/recommend", json=ASK), 503)["message"]
        go.set()
        until = time.monotonic() + 5
        while client.post("/v1/recommend", json=ASK).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.01)


def test_requests_in_flight_are_bounded() -> None:
    begun, go = threading.Event(), threading.Event()
    holder = FakeHolder(FakeEngine(before=lambda: (begun.set(), go.wait(20))))
    with service(config(most_in_flight=1), holder) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/recommend", json=ASK)
        assert begun.wait(20)
        assert error_of(client.get("/v1/versions"), 503)["code"] == "overloaded"
        assert client.get("/healthz").status_code == 200
        assert 'lgsid_shed_total{reason="in_flight"} 1.0' in client.get("/metrics").text
        go.set()
        assert first.result().status_code == 200
        assert client.get("/v1/versions").status_code == 200


def test_a_lane_closes_when_its_work_is_done() -> None:
    async def work() -> tuple[bool, list[Any], bool]:
        lane = Lane("a", 1, 5, 5, 5, Telemetry())
        begun = [
            asyncio.ensure_future(lane.run(lambda number=number: (time.sleep(0.05), number)[1])) for number in range(3)
        ]
        await asyncio.sleep(0.01)
        finished = await lane.close(5)
        results = [(await future)[0] for future in begun]
        stuck = Lane("b", 1, 5, 5, 0.01, Telemetry())
        with pytest.raises(Refusal):
            await stuck.run(lambda: time.sleep(0.3))
        return finished, results, await stuck.close(0.05)

    assert asyncio.run(work()) == (True, [0, 1, 2], False)


@pytest.mark.parametrize(
    "url", ["https://t.org/{z}/{x}", "ftp://t.org/{z}/{x}/{y}", "https://{z}{x}{y}/", "https://a;b/{z}/{x}/{y}"]
)
def test_tiles_come_from_one_place(url: str) -> None:
    with pytest.raises(ValueError, match="expected http"):
        PageConfig(tiles_url=url)
