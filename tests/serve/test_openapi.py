"""The description of the interface, and what the service does with requests that do not follow it."""

from __future__ import annotations

import asyncio
import copy
import json
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from toy_service import ASK, KEY, FakeHolder, MemoryStore, call, config, digest, service

from lgsid.config.serve import ServeConfig
from lgsid.serve.app import make_app

MALFORMED = 10_000
EVENTS = {"events": [{"event_id": "e", "user_id": "u", "item_id": "i-0", "timestamp_ms": 1, "kind": "click"}]}
BODIES: dict[str, Any] = {
    "/v1/recommend": {**ASK, "user_id": "u", "filters": {"category": "Food", "price_max": 3}, "mode": "both"},
    "/v1/events": EVENTS,
    "/admin/versions": {"run": "v2"},
    "/admin/items": {"items": [{"item_id": "n", "title": "N", "lat_deg": 1.0, "lon_deg": 2.0}]},
}
WRONG: list[Any] = [
    None, True, -1, 2**70, 1e308, float("nan"), float("inf"), "", "\0", "\ud800", "x" * 600, [], {}, [[]], {"a": {}},
    [None] * 3, "1", -0.5,
]  # fmt: skip


def settings(**limits: Any) -> ServeConfig:
    """Without limits on rates, and one key for everything."""
    keys = {"keys_sha256": {"all": digest(KEY)}, "admin_sha256": digest(KEY)}
    return config(requests_per_second=1e9, burst=10**9, **keys, **limits)


def schema() -> dict[str, Any]:
    return make_app(FakeHolder(), MemoryStore(), settings()).openapi()


def test_every_operation_is_described() -> None:
    document = schema()
    operations = {f"{method} {path}" for path, methods in document["paths"].items() for method in methods}
    assert operations == {
        "post /v1/recommend", "get /v1/items/{item_id}/similar", "get /v1/explain/{sid_or_item}", "get /v1/search",
        "post /v1/events", "delete /v1/users/{user_id}/history", "get /v1/versions", "get /healthz", "get /readyz",
        "get /metrics", "get /page.json", "post /admin/versions", "post /admin/rollback", "post /admin/items",
    }  # fmt: skip
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            if path.startswith(("/v1", "/admin")):
                problem = operation["responses"]["422"]["content"]["application/json"]["schema"]["$ref"]
                assert problem.endswith("/ProblemAnswer")
                assert operation["security"] == [{"key": []}, {"bearer": []}]


def test_every_number_has_limits_and_every_quantity_its_unit() -> None:
    for name, part in schema()["components"]["schemas"].items():
        if not name.endswith(("Given", "Request", "NewItem")):
            continue
        for field, described in part["properties"].items():
            for option in described.get("anyOf", [described]):
                if option.get("type") in ("number", "integer"):
                    assert {"minimum", "exclusiveMinimum"} & set(option), (name, field)
                    assert {"maximum", "exclusiveMaximum"} & set(option), (name, field)
                if option.get("type") == "array":
                    assert "maxItems" in option, (name, field)
                if option.get("type") == "string" and "enum" not in option and "const" not in option:
                    assert "maxLength" in option, (name, field)


def test_examples_of_the_description_work_as_they_are() -> None:
    document = schema()
    with service(settings(), headers={"X-API-Key": KEY}) as client:
        for path, name in (("/v1/recommend", "RecommendRequest"), ("/v1/events", "EventsRequest")):
            for example in document["components"]["schemas"][name]["examples"]:
                assert client.post(path, json=example).status_code == 200


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from _places(part, (*path, key))


def _spoiled(body: Any, chance: random.Random) -> Any:
    """A body with one thing wrong: a value, a missing field, or one too many."""
    body = copy.deepcopy(body)
    path = chance.choice(list(_places(body))[1:])
    parent = body
    for key in path[:-1]:
        parent = parent[key]
    how = chance.random()
    if how < 0.7:
        parent[path[-1]] = chance.choice(WRONG)
    elif how < 0.85 or not isinstance(parent, dict):
        del parent[path[-1]]
    else:
        parent[chance.choice(["zz", "\ud800", "", "__class__", "k" * 5_000])] = chance.choice(WRONG)
    return body


def _bytes(text: bytes, chance: random.Random) -> bytes:
    """Bytes of a request, some of them lost or changed."""
    data = bytearray(text)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(data) + 1)
        data[at : at + chance.randint(0, 4)] = chance.randbytes(chance.randint(0, 4))
    return bytes(data)


def _target(chance: random.Random) -> bytes:
    """A path and query of bytes that no client would send."""
    odd = bytes(chance.choice(b"%/.?#&=;\\ab01 \xe6\xbc\xa2\xff[]:@") for _ in range(chance.randint(0, 12)))
    odd += chance.choice([b"", b"%00", b"%ff", b"%2e%2e%2f", b"..//..", b"x" * 600, b"%ed%a0%80"])
    base = chance.choice(
        [b"/v1/items/{}/similar", b"/v1/explain/{}", b"/v1/search?q={}", b"/v1/search?k={}", b"/{}", b"/v1/{}",
         b"/admin/{}", b"/v1/items/i-0/similar?k={}", b"/v1/search?q=i&lat_deg={}&lon_deg=1", b"/v1/users/{}/history"]
    )  # fmt: skip
    return base.replace(b"{}", odd)


def _malformed(chance: random.Random) -> tuple[str, bytes, bytes]:
    """Method, target and body."""
    path = chance.choice(list(BODIES))
    kind = chance.random()
    if kind < 0.55:
        return "POST", path.encode(), json.dumps(_spoiled(BODIES[path], chance)).encode()
    if kind < 0.8:
        return "POST", path.encode(), _bytes(json.dumps(BODIES[path]).encode(), chance)
    method = chance.choice(["GET", "GET", "GET", "POST", "DELETE", "PUT", "PATCH", "TRACE", "FOO", "HEAD"])
    return method, _target(chance), b""


async def _send_malformed(app: Any) -> dict[int, int]:
    """Counts of statuses."""
    chance = random.Random(7)
    counts: dict[int, int] = {}
    headers = {"content-type": "application/json", "x-api-key": KEY, "host": "x"}
    for _ in range(MALFORMED):
        method, target, body = _malformed(chance)
        status, answer = await call(app, method, target, [{"type": "http.request", "body": body}], headers)
        assert status < 500, (method, target, body, answer)
        if status >= 400 and method != "HEAD":
            assert set(json.loads(answer)["error"]) >= {"code", "message", "fix", "request_id"}
        counts[status] = counts.get(status, 0) + 1
    good = {"type": "http.request", "body": json.dumps(ASK).encode()}
    assert (await call(app, "POST", b"/v1/recommend", [good], headers))[0] == 200
    return counts


def test_ten_thousand_malformed_requests_are_refused_and_crash_nothing(tmp_path: Path) -> None:
    """A spoiled request may be right by chance (a field that is optional was taken away); none may be a 5xx."""
    (tmp_path / "index.html").write_text("page")
    counts = asyncio.run(_send_malformed(make_app(FakeHolder(), MemoryStore(), settings(), tmp_path)))
    assert sum(counts.values()) == MALFORMED
    assert sum(number for status, number in counts.items() if status >= 400) > 0.8 * MALFORMED
    assert set(counts) <= {200, 307, 400, 403, 404, 405, 409, 413, 422}  # 307: a folder of the page without its last /


def test_schemathesis_finds_nothing() -> None:
    """Requests made from the description, right and wrong: no 5xx, and every answer is as described."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'lgsid[dev]'")
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as effort
    from hypothesis.errors import Unsatisfiable

    app = make_app(FakeHolder(), MemoryStore(), settings())
    described = schemathesis.openapi.from_asgi("/openapi.json", app)
    quick = effort(max_examples=6, deadline=None, derandomize=True, database=None,
                   phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck))  # fmt: skip
    # right by the description and refused all the same: OpenAPI cannot say "one of these fields", or "both"
    from schemathesis.specs.openapi.checks import positive_data_acceptance as unsaid

    tried = 0
    for operation in described.get_all_operations():
        for strategy in (
            operation.ok().as_strategy(),
            operation.ok().as_strategy(schemathesis.GenerationMode.NEGATIVE),
        ):

            @quick
            @given(case=strategy)
            def check(case: Any) -> None:
                nonlocal tried
                tried += 1
                case.call_and_validate(headers={"X-API-Key": KEY}, excluded_checks=[unsaid])

            with suppress(Unsatisfiable):  # an operation that takes nothing cannot be asked wrongly
                check()
    assert tried > 100
