"""The admin endpoints: switching, rolling back, adding, and that nobody else gets to them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from toy_service import ADMIN_KEY, ASK, KEY, FakeEngine, FakeHolder, config, digest, error_of, service

from lgsid.config.serve import ServeConfig

ADMIN = {"X-API-Key": ADMIN_KEY}
ITEM = {"item_id": "new", "title": "New", "lat_deg": 1.0, "lon_deg": 2.0}


@pytest.fixture
def settings(tmp_path: Path) -> ServeConfig:
    (tmp_path / "runs").mkdir()
    return config(admin_sha256=digest(ADMIN_KEY), runs_root=tmp_path / "runs")


def test_a_new_version_answers_and_can_be_rolled_back(settings: ServeConfig) -> None:
    with service(settings) as client:
        loaded = client.post("/admin/versions", json={"run": "v2"}, headers=ADMIN)
        after = client.post("/v1/recommend", json=ASK).json()["version"]
        listed = client.get("/v1/versions").json()
        metrics = client.get("/metrics").text
        back = client.post("/admin/rollback", headers=ADMIN)
        none = client.post("/admin/rollback", headers=ADMIN)
        last = client.post("/v1/recommend", json=ASK).json()["version"]
    assert loaded.json() == {"current": "v2", "result": {"seconds": 0.1}}
    assert (after, last) == ("v2", "v1")
    assert [version["version"] for version in listed["versions"]] == ["v2", "v1"]
    assert 'lgsid_version{version="v2"} 1.0' in metrics
    assert 'version="v1"' not in metrics
    assert back.json() == {"current": "v1", "result": {"left": "v2"}}
    assert error_of(none, 409)["message"] == "there is no version before this one"


def test_a_corrupt_version_is_refused_and_the_one_before_goes_on(settings: ServeConfig) -> None:
    with service(settings) as client:
        error = error_of(client.post("/admin/versions", json={"run": "corrupt"}, headers=ADMIN), 409)
        assert error["code"] == "refused"
        assert "does not have its hash" in error["message"]
        assert error["fix"] == "lgsid tokenize RUN"
        assert client.post("/v1/recommend", json=ASK).json()["version"] == "v1"


@pytest.mark.parametrize("run", ["..", "../other", "/etc", "a/../../b", "link/x"])
def test_runs_come_from_one_folder(settings: ServeConfig, tmp_path: Path, run: str) -> None:
    (tmp_path / "runs" / "link").symlink_to("/etc")
    with service(settings) as client:
        error = error_of(client.post("/admin/versions", json={"run": run}, headers=ADMIN), 422)
        assert error["fields"][0]["field"] == "run"


def test_a_request_keeps_the_version_it_began_with(settings: ServeConfig) -> None:
    begun, go = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        go.wait(20)

    with service(settings, FakeHolder(FakeEngine(before=wait))) as client, ThreadPoolExecutor(1) as pool:
        old = pool.submit(client.post, "/v1/recommend", json=ASK)
        assert begun.wait(5)
        assert client.post("/admin/versions", json={"run": "v2"}, headers=ADMIN).status_code == 200
        assert client.post("/v1/recommend", json=ASK).json()["version"] == "v2"
        go.set()
        assert old.result().json()["version"] == "v1"


def test_new_items_are_recommended(settings: ServeConfig) -> None:
    with service(settings) as client:
        added = client.post("/admin/items", json={"items": [{**ITEM, "price": 3, "tags": ["a"]}]}, headers=ADMIN)
        answer = client.post("/v1/recommend", json={**ASK, "k": 50}).json()
    assert added.json()["result"] == {"new": 1, "columns": [*ITEM, "price", "tags"]}
    assert answer["items"][-1]["item_id"] == "new"


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "items"),
        ([{**ITEM, "lat_deg": 100}], "items.0.lat_deg"),
        ([{"item_id": "a"}], "items.0.title"),
        ([{**ITEM, "price": 1}, {**ITEM, "price": {"deep": []}}], "items"),
        ([{**ITEM, "price": 10**40}], "items"),
    ],
)
def test_wrong_items_are_refused(settings: ServeConfig, items: list[Any], field: str) -> None:
    with service(settings) as client:
        error = error_of(client.post("/admin/items", json={"items": items}, headers=ADMIN), 422)
        assert error["fields"][0]["field"] == field


def test_the_admin_key_opens_admin_alone_and_no_other_key_does(tmp_path: Path) -> None:
    keys = config(admin_sha256=digest(ADMIN_KEY), keys_sha256={"shop": digest(KEY)}, runs_root=tmp_path)
    with service(keys) as client:
        for path in ("/admin/versions", "/admin/rollback", "/admin/items", "/admin/none"):
            for headers in ({}, {"X-API-Key": KEY}, {"X-API-Key": digest(ADMIN_KEY)}):
                assert error_of(client.post(path, headers=headers), 401)["code"] == "key"
        assert error_of(client.get("/v1/versions", headers=ADMIN), 401)
        assert client.post("/admin/versions", json={"run": "v2"}, headers=ADMIN).status_code == 200
    with service(config(keys_sha256={"shop": digest(KEY)})) as client:
        assert error_of(client.post("/admin/rollback", headers={"X-API-Key": KEY}), 403)["code"] == "admin_off"
    with service(config(admin_sha256=digest(ADMIN_KEY))) as client:
        error = error_of(client.post("/admin/versions", json={"run": "v2"}, headers=ADMIN), 403)
        assert error["code"] == "no_runs_root"
