"""What the page is given: bounded, as the catalogue says, and nobody's visits but those of simulated people."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from toy_page import CITIES, KINDS, NAUGHTY, page_engine, page_items
from toy_service import KEY, FakeHolder, MemoryStore, config, digest, error_of, service

from lgsid.errors import ArtifactError, MissingDependencyError
from lgsid.serve import leaflet, page_data
from lgsid.serve.app import WEB, make_app
from lgsid.serve.engine import RunEngine
from lgsid.serve.page_data import Box, choices, first_tokens, points

COUNT = 300


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> RunEngine:
    return page_engine(tmp_path_factory.mktemp("page") / "run", COUNT)


@pytest.fixture
def client(engine: RunEngine) -> Iterator[TestClient]:
    with service(holder=FakeHolder(engine), web=WEB) as opened:  # type: ignore[arg-type]
        yield opened


def test_items_are_told_whole_as_columns(client: TestClient) -> None:
    told = client.get("/v1/page/items").json()
    items = page_items(COUNT)
    assert (told["total"], told["inside"]) == (COUNT, COUNT)
    assert told["item_id"] == items["item_id"].to_list()
    assert told["title"] == items["title"].to_list()
    assert told["lat_deg"] == pytest.approx(items["lat_deg"].to_list(), abs=1e-5)
    assert told["lon_deg"] == pytest.approx(items["lon_deg"].to_list(), abs=1e-5)
    assert [told["categories"][number] for number in told["category"]] == items["category"].to_list()
    assert told["token"] == [int(sid.split("-")[0]) for sid in told["sid"]]


def test_items_of_a_box_are_those_in_it(client: TestClient) -> None:
    lat, lon = CITIES["Springfield"]
    box = {"south": lat - 0.2, "north": lat + 0.2, "west": lon - 0.2, "east": lon + 0.2}
    told = client.get("/v1/page/items", params=box).json()
    inside = page_items(COUNT).filter(
        (page_items(COUNT)["lat_deg"] - lat).abs() <= 0.2, (page_items(COUNT)["lon_deg"] - lon).abs() <= 0.2
    )
    assert 0 < told["inside"] < told["total"]
    assert told["item_id"] == inside["item_id"].to_list()
    assert "south, west" in error_of(client.get("/v1/page/items", params={"south": 1}), 422)["message"]
    error_of(client.get("/v1/page/items", params={**box, "north": 91}), 422)
    error_of(client.get("/v1/page/items", params={**box, "west": "nan"}), 422)


def test_a_box_over_the_180th_meridian(engine: RunEngine) -> None:
    catalogue = engine.state.catalogue
    moved = replace(catalogue, items=catalogue.items.with_columns(
        lon_deg=page_items(COUNT)["lon_deg"].sign() * 0 + np.where(np.arange(COUNT) % 2, 179.5, -179.5)))  # fmt: skip
    assert points(moved, Box(-90, 179, 90, -179))["inside"] == COUNT
    assert points(moved, Box(-90, 179, 90, 180))["inside"] == COUNT // 2
    assert points(moved, Box(-90, -179, 90, 179))["inside"] == 0


def test_answers_are_bounded(engine: RunEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MOST_POINTS": 40, "MOST_NAMES": 2, "MOST_TOKENS": 3, "MOST_TITLE": 6, "MOST_USERS": 4}.items():
        monkeypatch.setattr(page_data, name, value)
    told = points(engine.state.catalogue)
    assert told["inside"] == COUNT
    assert 20 < len(told["item_id"]) <= 40
    assert len(told["item_id"]) == len(set(told["item_id"])) == len(told["title"]) == len(told["sid"])
    assert max(map(len, told["title"])) == 6
    found = choices(engine.state.catalogue)
    assert [len(found[name]) for name in ("categories", "brands", "cities", "districts")] == [2, 2, 2, 2]
    assert len(first_tokens(engine.state.catalogue, engine.artefacts.tokenizer.tokens)) == 3
    users = page_data.sample_users(engine.artefacts.run.path("1_data", "events.parquet"), (), engine.state.catalogue)
    assert len(users) == 4


def test_tokens_say_what_they_mean(client: TestClient) -> None:
    told = client.get("/v1/page/tokens").json()
    items = client.get("/v1/page/items").json()
    assert {token["code"]: token["items"] for token in told} == {
        code: items["token"].count(code) for code in set(items["token"])
    }
    assert [token["items"] for token in told] == sorted((token["items"] for token in told), reverse=True)
    for token in told:
        assert token["place"]
        assert any(name in token["label"] for name in CITIES)
        assert {name for name, _ in token["regions"]["city"]} <= set(CITIES)


def test_a_token_that_came_after_the_fit_has_no_words(engine: RunEngine) -> None:
    codes_NM = engine.state.catalogue.codes_NM.copy()
    codes_NM[0, 0] = 999
    told = first_tokens(replace(engine.state.catalogue, codes_NM=codes_NM), engine.artefacts.tokenizer.tokens)
    assert {"code": 999, "items": 1, "label": None} in told


def test_start_offers_what_there_is(client: TestClient) -> None:
    told = client.get("/v1/page/start").json()
    assert (told["version"], told["items"], told["aligned"]) == ("page-1", COUNT, True)
    assert told["rankers"] == ["popularity_nearness", "nearest"]
    assert set(told["categories"]) == {*KINDS, *(kind.split(" > ")[0] for kind in KINDS)}
    assert {city["name"]: (round(city["lat_deg"], 1), round(city["lon_deg"], 1)) for city in told["cities"]} == CITIES
    assert told["price"] == [6.0, 44.0]
    assert told["travel"]["walk"] == {"speed_kmh": 4.8, "detour": 1.3}
    assert len(told["users"]) == page_data.MOST_USERS
    for user in told["users"]:
        assert page_data.LEAST_HISTORY <= len(user["history"]) <= page_data.MOST_HISTORY
        ask = {"place": {name: user[name] for name in ("lat_deg", "lon_deg")}, "history": user["history"]}
        assert client.post("/v1/recommend", json=ask).status_code == 200


def test_visits_of_real_people_are_not_shown(tmp_path: Path) -> None:
    engine = page_engine(tmp_path / "run", 50, world=False)
    with service(holder=FakeHolder(engine)) as client:  # type: ignore[arg-type]
        assert client.get("/v1/page/start").json()["users"] == []


def test_new_items_are_on_the_map_at_once(engine: RunEngine, client: TestClient) -> None:
    before, state = client.get("/v1/page/items").json(), engine.state
    catalogue = replace(state.catalogue, items=state.catalogue.items.with_columns(title=page_items(COUNT)["item_id"]))
    try:
        engine._state = replace(state, catalogue=catalogue)
        after = client.get("/v1/page/items").json()
    finally:
        engine._state = state
    assert before["title"][1] != after["title"][1] == "i-1"
    assert client.get("/v1/page/items").json() == before


def test_keys_guard_what_the_catalogue_says(engine: RunEngine) -> None:
    settings = config(keys_sha256={"one": digest(KEY)})
    with service(settings, FakeHolder(engine), web=WEB) as client:  # type: ignore[arg-type]
        for name in ("start", "items", "tokens"):
            error_of(client.get(f"/v1/page/{name}"), 401)
            assert client.get(f"/v1/page/{name}", headers={"X-API-Key": KEY}).status_code == 200
        for path in ("/", "/style.css", "/strings/zh.js", "/vendor/leaflet/leaflet.js", "/page.json"):
            assert client.get(path).status_code == 200, path


def test_an_engine_without_a_catalogue_has_no_page() -> None:
    with service() as client:
        assert error_of(client.get("/v1/page/start"), 404)["code"] == "no_page"


def test_titles_are_data_not_markup(client: TestClient) -> None:
    response = client.get("/v1/page/items")
    assert response.headers["content-type"] == "application/json"
    assert response.json()["title"][0] == NAUGHTY
    for script in WEB.rglob("*.js"):
        text = script.read_text()
        assert not any(word in text for word in ("innerHTML", "insertAdjacentHTML", "document.write", "eval(")), script


def test_the_page_names_no_other_machine() -> None:
    for path in WEB.rglob("*"):
        if path.is_file():
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert "http://" not in text, path
            assert "https://" not in text, path


def test_both_languages_have_the_same_words() -> None:
    keys = {}
    for name in ("en", "zh"):
        lines = (WEB / "strings" / f"{name}.js").read_text().splitlines()
        pairs = [line.strip().split(": ", 1) for line in lines if line.startswith("  ")]
        keys[name] = {
            key.strip('"'): sorted(part.split("}")[0] for part in words.split("{")[1:]) for key, words in pairs
        }
    assert keys["en"] == keys["zh"]


# --- Leaflet ----------------------------------------------------------------------------------------------------------
def test_leaflet_comes_from_its_package_byte_by_byte(client: TestClient) -> None:
    for name, expected in leaflet.SHA256.items():
        response = client.get(f"/vendor/leaflet/{name}")
        assert hashlib.sha256(response.content).hexdigest() == expected
        assert response.headers["content-type"] == leaflet.TYPES[name]
    assert client.head("/vendor/leaflet/leaflet.js").status_code == 200
    error_of(client.get("/vendor/leaflet/leaflet-src.js"), 404)
    error_of(client.get("/vendor/leaflet/..%2f..%2f__init__.py"), 404)


def test_other_files_under_its_name_are_refused(tmp_path: Path) -> None:
    for name in leaflet.SHA256:
        (tmp_path / name).write_text("alert(1)")
    with pytest.raises(ArtifactError, match=r"expected db49d009c841… of Leaflet 1\.9\.4\n  fix: pip install --force"):
        leaflet.read_leaflet(tmp_path)
    with pytest.raises(ArtifactError, match="cannot be read"):
        leaflet.read_leaflet(tmp_path / "nowhere")


def test_without_the_package_the_service_answers_and_says_what_to_do(
    engine: RunEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(name: str) -> Any:
        assert name == leaflet.MODULE

    monkeypatch.setattr(leaflet, "find_spec", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install 'lgsid\[serve\]'"):
        leaflet.leaflet_folder()
    app = make_app(FakeHolder(engine), MemoryStore(), config(), WEB)  # type: ignore[arg-type]
    assert "no map" in caplog.text
    assert "lgsid[serve]" in caplog.text
    with TestClient(app) as client:
        assert "lgsid[serve]" in error_of(client.get("/vendor/leaflet/leaflet.js"), 404)["fix"]
        assert client.get("/v1/page/items").status_code == 200
