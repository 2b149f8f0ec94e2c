"""The map page when something is missing: items, a key, the map library, the server; and what others put into it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import CHROMIUM, Open, Server, answered, chromium, new_page, serving, shot, watched

pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page"), 300) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(server: Server, browser: Any) -> Iterator[Open]:
    with watched(server, browser) as open_page:
        yield open_page


def test_nothing_within_reach_says_what_to_do(opened: Open) -> None:
    page = opened()

    def far_away() -> None:
        page.fill("#coordinates", "40.3, -90.2")
        page.locator("#coordinates").blur()

    assert answered(page, far_away)["items"] == []
    assert "Nothing here" in page.inner_text("#results")
    assert "No item lies within" in page.inner_text("#results")
    page.locator("#legend", has_text="No items in view").wait_for()
    shot(page, "empty")
    told: dict[str, Any] = {"items": []}
    for _ in range(4):
        if not told["items"]:
            told = answered(page, lambda: page.click("#farther"))
    assert told["items"]


def test_titles_are_shown_as_they_are(opened: Open) -> None:
    page = opened()
    page.fill("#search-text", "onerror alert")
    page.wait_for_selector("#search-found button")
    page.locator("#search-found button").first.click()
    assert page.inner_text("#card h2") == "<img src=x onerror=alert(1)>"
    assert page.locator("img[src=x]").count() == 0


def settings_with(page: Any, **changes: Any) -> None:
    """Other settings than the server's, as an operator would set them."""

    def other(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, json={**response.json(), **changes})

    page.route("**/page.json", other)
    page.reload()


def test_a_key_is_asked_for_and_sent(opened: Open) -> None:
    page = opened()
    keys = []
    page.on("request", lambda request: keys.append(request.headers.get("x-api-key")) if "/v1/" in request.url else None)
    settings_with(page, key_needed=True)
    page.wait_for_selector("#key-text")
    assert "key is missing" in page.inner_text("#results")
    assert keys == []
    page.fill("#key-text", "a key for tests")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer li")
    assert page.locator("#key").is_hidden()
    assert set(keys) == {"a key for tests"}


def test_tiles_of_the_operator(opened: Open) -> None:
    page = opened()
    tile = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    asked = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(body=tile, content_type="image/png")

    page.route("**/tiles/**", answer)
    home = page.url.rstrip("/")
    settings_with(page, tiles_url=f"{home}/tiles/{{z}}/{{x}}/{{y}}.png", tiles_attribution="© Somebody")
    page.wait_for_selector(".leaflet-tile-loaded")
    assert asked
    assert "© Somebody" in page.inner_text(".leaflet-control-attribution")


def test_without_the_map_library_there_are_lists(server: Server, browser: Any) -> None:
    errors: list[str] = []
    with new_page(browser) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.route("**/leaflet.js", lambda route: route.fulfill(status=404))
        page.goto(server.url)
        page.wait_for_selector(".answer li")
        assert "pip install 'lgsid[serve]'" in page.inner_text("#map")
        page.click("[data-language=zh]")
        page.locator("#map", has_text="缺少地图库").wait_for()
        page.click("#tab-rankers")
        page.wait_for_selector(".side.second li")
    assert errors == []


def test_a_server_that_does_not_answer_or_has_too_much_to_do(server: Server, browser: Any) -> None:
    errors: list[str] = []
    with new_page(browser, viewport={"width": 1200, "height": 800}) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector(".answer li")
        page.context.set_offline(True)
        page.click("#go")
        page.wait_for_selector("#results [role=alert]")
        assert "does not answer" in page.inner_text("#results")
        assert "lgsid serve RUN" in page.inner_text("#results")
        assert "does not answer" in page.inner_text("#status")
        shot(page, "error")
        busy = {"error": {"code": "overloaded", "message": "too much", "fix": "later", "request_id": "r"}}
        page.context.set_offline(False)
        page.route("**/v1/recommend", lambda route: route.fulfill(status=503, json=busy))
        page.click("#again")
        page.locator("#results", has_text="too much to do").wait_for()
    assert errors == []
