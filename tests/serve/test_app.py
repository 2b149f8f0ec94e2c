"""The endpoints, over fakes: what goes in reaches the engine, what comes out is what it said, errors name the field."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from toy_service import ASK, FakeEngine, FakeHolder, MemoryStore, config, error_of, service

from lgsid.config.serve import HistoryConfig
from lgsid.config.serve_limits import PageConfig
from lgsid.serve import contract, schemas
from lgsid.serve.base import StoreBusyError, StoreError, StoreFullError, StoreUnavailableError
from lgsid.serve.histories.sqlite_store import SqliteStore

EVENT = {"event_id": "e-1", "user_id": "u", "item_id": "i-0", "timestamp_ms": 5, "kind": "click"}


def test_recommend_answers_as_the_engine_did() -> None:
    holder = FakeHolder()
    with service(holder=holder) as client:
        response = client.post("/v1/recommend", json=ASK)
    answer = response.json()
    assert response.status_code == 200
    assert [item["item_id"] for item in answer["items"]] == ["i-0", "i-1"]
    assert answer["items"][0] == {
        "item_id": "i-0", "title": "Item i-0", "category": "Food", "place": {"lat_deg": 31.23, "lon_deg": 121.47},
        "distance_km": 0.4, "sid": "1-2-3", "score": 0.9, "reason": "0.4 km away",
    }  # fmt: skip
    assert (answer["version"], answer["model"], answer["reachable"], answer["candidates"]) == ("v1", "din", 10, 2)
    assert list(answer["milliseconds"]) == ["queue", "reach", "interest", "words", "total", "history"]
    assert answer["milliseconds"]["total"] >= answer["milliseconds"]["queue"] >= 0


def test_all_of_a_request_reaches_the_engine() -> None:
    holder = FakeHolder()
    corners = [{"lat_deg": 1, "lon_deg": 2}, {"lat_deg": 1, "lon_deg": 3}, {"lat_deg": 2, "lon_deg": 3}]
    filters = {"category": "Food", "brand": "B", "price_min": 1, "price_max": 2.5, "open_at_ms": 77}
    asked = {"place": {"lat_deg": 1, "lon_deg": 2}, "reach": {"polygon": corners}, "k": 7, "history": ["i-3"],
             "filters": filters, "mode": "both", "model": "din", "candidates": 9, "language": "zh"}  # fmt: skip
    with service(holder=holder) as client:
        assert client.post("/v1/recommend", json=asked).status_code == 200
        for reach in ({"travel_minutes": 12.5, "travel_mode": "bike"}, {}):
            assert client.post("/v1/recommend", json={**ASK, "reach": reach}).status_code == 200
        assert client.post("/v1/recommend", json={**ASK, "filters": {"open_now": True}}).status_code == 200
    given, timed, default, open_now = holder.current.asked
    polygon = tuple(contract.Place(corner["lat_deg"], corner["lon_deg"]) for corner in corners)
    assert given == contract.Ask(
        contract.Place(1, 2), contract.Reach(polygon=polygon), given.now_ms, 7, None, ("i-3",),
        contract.Filters("Food", "B", 1, 2.5, 77), "both", "din", 9, "zh",
    )  # fmt: skip
    assert timed.reach == contract.Reach(travel_minutes=12.5, travel_mode="bike")
    assert (default.reach, default.candidates) == (contract.Reach(radius_km=5.0), 200)
    assert open_now.filters.open_at_ms == open_now.now_ms
    assert abs(open_now.now_ms / 1e3 - time.time()) < 60


def test_an_acknowledged_event_counts_from_the_next_request_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "histories.sqlite", HistoryConfig())
    with service(store=store) as client:
        first = client.post("/v1/events", json={"events": [EVENT, {**EVENT, "event_id": "e-2", "item_id": "i-1"}]})
        again = client.post("/v1/events", json={"events": [EVENT]})
        answer = client.post("/v1/recommend", json={**ASK, "user_id": "u"}).json()
        removed = [client.delete("/v1/users/u/history").json() for _ in range(2)]
        after = client.post("/v1/recommend", json={**ASK, "user_id": "u"}).json()
    assert first.json() == {"received": 2, "new": 2}
    assert again.json() == {"received": 1, "new": 0}
    assert [item["item_id"] for item in answer["items"]] == ["i-2", "i-3"]
    assert removed == [{"removed": 2}, {"removed": 0}]
    assert [item["item_id"] for item in after["items"]] == ["i-0", "i-1"]
    with pytest.raises(StoreError):  # the service closed it
        store.recent("u", 1)


def test_an_event_without_a_time_gets_the_time_of_arrival() -> None:
    store = MemoryStore()
    with service(store=store) as client:
        client.post("/v1/events", json={"events": [{k: v for k, v in EVENT.items() if k != "timestamp_ms"}]})
    assert abs(store.events["u"][0].timestamp_ms / 1e3 - time.time()) < 60


def test_looking_things_up() -> None:
    with service() as client:
        similar = client.get("/v1/items/i-0/similar", params={"k": 2}).json()
        before = client.get("/v1/items/i-0/similar", params={"k": 2, "aligned": False}).json()
        meaning = client.get("/v1/explain/1-2-3").json()
        slash = client.get("/v1/explain/i%2Fslash").json()
        found = client.get("/v1/search", params={"q": "i-4", "lat_deg": 1, "lon_deg": 2}).json()
        versions = client.get("/v1/versions").json()
    assert [item["item_id"] for item in similar["items"]] == ["i-1", "i-2"]
    assert [item["item_id"] for item in before["items"]] == ["i-9", "i-8"]
    assert similar["version"] == "v1"
    assert meaning == {"sid": "1-2-3", "tokens": ["food", "noodles", "in the north"], "items": ["i-0"], "count": 1}
    assert slash["sid"] == "i/slash"
    assert [(item["item_id"], item["distance_km"]) for item in found["items"]] == [("i-4", 0.5)]
    assert versions == {"current": "v1", "versions": [{"version": "v1", "run": "v1"}]}


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"place": {"lat_deg": 91, "lon_deg": 0}}, "place.lat_deg"),
        ({"place": {"lat_deg": "31", "lon_deg": 0}}, "place.lat_deg"),
        ({"place": None}, "place"),
        ({"k": 0}, "k"),
        ({"k": True}, "k"),
        ({"k": 2.5}, "k"),
        ({"reach": {"radius_km": 1, "travel_minutes": 2}}, "reach"),
        ({"reach": {"polygon": [{"lat_deg": 1, "lon_deg": 1}]}}, "reach.polygon"),
        ({"filters": {"price_min": 3, "price_max": 2}}, "filters"),
        ({"filters": {"colour": "red"}}, "filters.colour"),
        ({"user_id": "u", "history": []}, "body"),
        ({"user_id": "a\0b"}, "user_id"),
        ({"history": ["x" * 513]}, "history.0"),
        ({"mode": "psychic"}, "mode"),
    ],
)
def test_wrong_fields_are_named(changed: dict[str, Any], field: str) -> None:
    with service() as client:
        error = error_of(client.post("/v1/recommend", json={**ASK, **changed}), 422)
    assert error["code"] == "invalid"
    assert [problem["field"] for problem in error["fields"]] == [field]
    assert field in error["message"]


@pytest.mark.parametrize(
    "body",
    ['{"place": {"lat_deg": NaN, "lon_deg": 0}}', '{"place": {"lat_deg": 1e999, "lon_deg": 0}}', "[]", '"\\ud800"'],
)
def test_json_that_is_no_request(body: str) -> None:
    with service() as client:
        response = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
        assert error_of(response, 422)["code"] == "invalid"


def test_bodies_that_are_not_json() -> None:
    bodies = [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"k": ' + b"9" * 5_000 + b"}", b'{"\\ud800": 1}']
    with service() as client:
        for body in bodies:
            response = client.post("/v1/recommend", content=body, headers={"content-type": "application/json"})
            error_of(response, response.status_code)
            assert response.status_code in (400, 422), body[:20]
        plain = client.post("/v1/recommend", content=b"{}", headers={"content-type": "text/plain"})
        assert "application/json" in error_of(plain, 422)["message"]


def test_what_is_not_there() -> None:
    with service() as client:
        assert error_of(client.get("/v1/items/none/similar"), 404)["message"] == "item_id: no item 'none'"
        assert error_of(client.get("/v1/explain/9"), 404)["fix"] == "give a SID such as 1-2-3"
        assert error_of(client.get("/v1/nothing"), 404)["code"] == "not_found"
        assert client.get("/v1/recommend").headers["allow"] == "POST"
        error = error_of(client.post("/v1/recommend", json={**ASK, "model": "x"}), 422)
        assert error["message"].startswith("model: ")
        assert (
            error_of(client.get("/v1/search", params={"q": "i", "lat_deg": 1}), 422)["fields"][0]["field"] == "lon_deg"
        )


@pytest.mark.parametrize(
    ("fails", "status", "code", "again"),
    [
        (StoreBusyError("x"), 503, "store_busy", True),
        (StoreUnavailableError("redis://secret"), 503, "store_unavailable", True),
        (StoreFullError("/secret"), 507, "store_full", False),
        (StoreError("/secret"), 503, "store", False),
        (RuntimeError("/secret"), 500, "internal", False),
    ],
)
def test_a_store_that_fails_is_no_acknowledgement(fails: Exception, status: int, code: str, again: bool) -> None:
    store = MemoryStore()
    store.fails = fails
    with service(store=store) as client:
        for response in (
            client.post("/v1/events", json={"events": [EVENT]}),
            client.post("/v1/recommend", json={**ASK, "user_id": "u"}),
            client.delete("/v1/users/u/history"),
        ):
            assert error_of(response, status)["code"] == code
            assert ("retry-after" in response.headers) == again
            assert "secret" not in response.text
        assert client.post("/v1/recommend", json=ASK).status_code == 200  # nobody's history is needed
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["store"]["ok"] is False
        assert "secret" not in ready.text
        assert client.get("/healthz").json() == {"ok": True}


def test_slow_work_does_not_hold_up_health_checks() -> None:
    go = threading.Event()
    settings = config(threads=2, queue=4)
    with service(settings, FakeHolder(FakeEngine(before=lambda: go.wait(20)))) as client, ThreadPoolExecutor(4) as pool:
        slow = [pool.submit(client.post, "/v1/recommend", json=ASK) for _ in range(4)]
        started = time.monotonic()
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/events", json={"events": [EVENT]}).status_code == 200
        assert time.monotonic() - started < 5
        assert not any(future.done() for future in slow)
        go.set()
        assert sorted(future.result().status_code for future in slow)[0] == 200


def test_headers_keep_the_page_at_home(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>map</title>")
    settings = config().model_copy(update={"page": PageConfig(tiles_url="https://t.example.org/{z}/{x}/{y}.png")})
    with service(settings, web=tmp_path) as client:
        page, missing, outside = client.get("/"), client.get("/none.js"), client.get("/..%2f..%2fetc/passwd")
        told = client.get("/page.json").json()
        odd = [client.get(path).status_code for path in ("/%00", "/" + "x" * 5_000, "/%ff")]
    assert page.text == "<title>map</title>"
    assert page.headers["cache-control"] == "no-cache"
    assert (told["tiles_url"], told["key_needed"], told["radius_km"]) == (settings.page.tiles_url, False, 5.0)
    error_of(missing, 404)
    assert outside.status_code == 404
    assert odd == [404, 404, 404]
    for response in (page, missing):
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "connect-src 'self' https://t.example.org;" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"


def test_cors_is_off_until_an_origin_is_named() -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    with service() as client:
        assert "access-control-allow-origin" not in client.get("/healthz", headers=asked).headers
        assert client.options("/v1/recommend", headers=asked).status_code == 405
    with service(config(origins=("https://a.example",))) as client:
        assert client.options("/v1/recommend", headers=asked).headers["access-control-allow-origin"] == asked["Origin"]
        other = client.options("/v1/recommend", headers={**asked, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (schemas.RecommendAnswer, contract.Answer),
        (schemas.RecommendedTold, contract.Recommended),
        (schemas.FoundTold, contract.Found),
        (schemas.MeaningTold, contract.Meaning),
    ],
)
def test_answers_have_the_fields_of_the_contract(told: Any, kept: Any) -> None:
    assert list(told.model_fields) == [field.name for field in dataclasses.fields(kept)]


def test_requests_cover_the_contract() -> None:
    asked = {field.name for field in dataclasses.fields(contract.Ask)} - {"now_ms"}
    assert asked == set(schemas.RecommendRequest.model_fields)
    filters = {field.name for field in dataclasses.fields(contract.Filters)}
    assert filters == set(schemas.FiltersGiven.model_fields) - {"open_now"}
    assert {field.name for field in dataclasses.fields(contract.Reach)} == set(schemas.ReachGiven.model_fields)


@pytest.mark.parametrize("asked", [{**ASK, "user_id": "u"}, {**ASK, "model": "none"}, {**ASK, "k": 0}, {"place": {}}])
def test_the_short_way_and_fastapis_answer_alike(asked: dict[str, Any]) -> None:
    """Only the plain media type goes the short way."""
    found = []
    with service() as client:
        for media_type in ("application/json", "application/json; charset=utf-8", "application/vnd.api+json"):
            headers = {"Content-Type": media_type, "X-Request-ID": "the-same-id"}
            response = client.post("/v1/recommend", content=json.dumps(asked), headers=headers)
            told = response.json()
            told.pop("milliseconds", None)
            found.append((response.status_code, told, response.headers["content-type"]))
        counts = client.get("/metrics").text
    assert found[0] == found[1] == found[2]
    assert 'endpoint="/v1/recommend"' in counts
    assert 'endpoint="none"' not in counts
