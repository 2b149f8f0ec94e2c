"""Metrics, access log and request ids: complete, and without anything about users."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from toy_service import ASK, KEY, FakeEngine, FakeHolder, config, digest, error_of, service

SECRETS = ("user-secret", "item-secret", "word-secret", "model-secret", KEY, digest(KEY))
EVENT = {"event_id": "e", "user_id": "user-secret", "item_id": "item-secret"}


def _busy(client: Any) -> None:
    """One request of each kind, good and bad, with secrets at every place."""
    client.post("/v1/recommend", json={**ASK, "user_id": "user-secret"})
    client.post("/v1/recommend", json={**ASK, "history": ["item-secret"]})
    client.post("/v1/recommend", json={**ASK, "model": "model-secret"})
    client.post("/v1/recommend", json={**ASK, "user-secret": 1})
    client.post("/v1/events", json={"events": [EVENT]})
    client.post("/v1/events", json={"events": [{**EVENT, "timestamp_ms": -1}]})
    client.get("/v1/items/item-secret/similar")
    client.get("/v1/search", params={"q": "word-secret"})
    client.get("/v1/search", params={"q": "x" * 300, "user-secret": 1})
    client.delete("/v1/users/user-secret/history")
    client.get("/user-secret")
    client.get("/v1/versions", headers={"X-API-Key": "wrong"})


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "lgsid.access")
    caplog.set_level(logging.INFO, "lgsid.serve")
    return caplog


def test_the_access_log_says_what_happened_and_nothing_of_users(lines: pytest.LogCaptureFixture) -> None:
    with service(config(keys_sha256={"shop": digest(KEY)}), headers={"X-API-Key": KEY}) as client:
        _busy(client)
    records = [json.loads(record.message) for record in lines.records if record.name == "lgsid.access"]
    assert len(records) == 12
    first = records[0]
    assert (first["method"], first["endpoint"], first["status"], first["key"]) == ("POST", "/v1/recommend", 200, "shop")
    assert {"queue", "history", "reach", "interest", "total"} <= set(first["steps"])
    assert first["milliseconds"] >= first["steps"]["total"] > 0
    assert first["bytes"] > 100
    assert [record["status"] for record in records] == [200, 200, 422, 422, 200, 422, 404, 200, 422, 200, 404, 401]
    assert [record["code"] for record in records[2:4]] == ["invalid", "invalid"]
    assert records[9]["endpoint"] == "/v1/users/{user_id}/history"
    assert len({record["request_id"] for record in records}) == 12
    assert not [secret for secret in SECRETS if secret in lines.text]
    assert "testclient" not in lines.text  # the client's address


def test_addresses_are_logged_on_demand(lines: pytest.LogCaptureFixture) -> None:
    with service(config(log_clients=True)) as client:
        client.get("/healthz")
    assert json.loads(lines.records[-1].message)["client"] == "testclient"


def test_metrics_count_by_route() -> None:
    with service(config(keys_sha256={"shop": digest(KEY)}), headers={"X-API-Key": KEY}) as client:
        _busy(client)
        response = client.get("/metrics")
    text = response.text
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["lgsid_requests_total", "/v1/recommend", "200", "POST"] == 2
    assert samples["lgsid_requests_total", "/v1/recommend", "422", "POST"] == 2
    assert samples["lgsid_request_seconds_count", "/v1/search", "GET"] == 2
    assert samples["lgsid_step_seconds_count", "/v1/recommend", "history"] == 2
    assert samples["lgsid_errors_total", "/v1/items/{item_id}/similar", "unknown"] == 1
    assert samples["lgsid_events_total", "new"] == 1
    assert samples["lgsid_version", "v1"] == 1
    assert samples["lgsid_requests_in_flight",] == 1
    assert samples["process_resident_memory_bytes",] > 1e6
    assert not [secret for secret in SECRETS if secret in text]


def test_odd_paths_and_methods_make_no_new_series() -> None:
    with service() as client:
        for number in range(50):
            client.get(f"/v1/nothing-{number}")
            client.request(f"ODD{number}", f"/{number}")
        text = client.get("/metrics").text
    assert len(re.findall(r"^lgsid_requests_total\{", text, re.MULTILINE)) <= 3


def test_request_ids() -> None:
    with service() as client:
        assert client.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
        for wrong in ("a b", "x" * 65, '"', ""):
            made = client.get("/healthz", headers={"X-Request-ID": wrong}).headers["x-request-id"]
            assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_a_crash_is_told_to_the_log_and_not_to_the_client(lines: pytest.LogCaptureFixture) -> None:
    def crash() -> None:
        raise ZeroDivisionError("inside")

    with service(holder=FakeHolder(FakeEngine(before=crash))) as client:
        response = client.post("/v1/recommend", json=ASK)
        error = error_of(response, 500)
    assert error["code"] == "internal"
    assert "inside" not in response.text
    assert "ZeroDivisionError: inside" in lines.text
    assert error["request_id"] in lines.text
