"""The map page in a real browser: what people click through, without a console error or a request to elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from page_browser import (
    CHROMIUM,
    Open,
    Server,
    answered,
    chromium,
    ids_and_titles,
    serving,
    set_reach,
    shot,
    still,
    watched,
)

pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
USEFUL_MS = 2_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("page")) as started:
        yield started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def opened(server: Server, browser: Any) -> Iterator[Open]:
    with watched(server, browser) as open_page:
        yield open_page


def test_first_useful_paint_with_five_thousand_items(opened: Open) -> None:
    """The best of some loads: a busy machine is not what is measured."""
    page = opened()
    times = []
    for _ in range(6):
        times.append(page.evaluate("performance.getEntriesByName('useful')[0].startTime"))
        if times[-1] < USEFUL_MS:
            break
        page.reload()
        page.wait_for_selector("html[data-ready]")
    assert min(times) < USEFUL_MS, times
    # the map may still be on its way; dots are read from a copy, as the browser warns of a canvas that is read often
    page.wait_for_function("""() => [...document.querySelectorAll('.leaflet-overlay-pane canvas')].some(canvas => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        return copy.getImageData(0, 0, canvas.width, canvas.height).data.some(byte => byte > 0);
    })""")


def test_place_user_reach_filters_and_model(opened: Open) -> None:
    page = opened()
    shot(page, "recommend")
    first = ids_and_titles(page)
    assert len(first) == 20
    assert page.locator(".pin").count() == 20
    assert "20 of" in page.inner_text("#status")
    told = answered(page, lambda: page.select_option("#city", label="Springfield"))
    assert all(abs(item["place"]["lat_deg"] - 40.0) < 0.1 for item in told["items"])
    assert [item["title"] for item in told["items"]] == ids_and_titles(page)
    far = told["reachable"]
    near = answered(page, lambda: set_reach(page, 20))["reachable"]
    assert 0 < near < far
    walk = answered(page, lambda: page.check("input[value=walk]", force=True))
    assert "walk" in walk["items"][0]["reason"]
    nobody = answered(page, lambda: page.select_option("#who", "nobody"))
    assert nobody["items"]
    page.click(".filters summary")
    pizza = answered(page, lambda: page.select_option("#category", "Food > Pizza"))
    assert {item["category"] for item in pizza["items"]} == {"Food > Pizza"}
    cheap = answered(page, lambda: page.locator("#price_max").fill("20") or page.locator("#price_max").blur())
    assert cheap["candidates"] < pizza["candidates"]
    model = answered(page, lambda: page.select_option("#model", "nearest"))
    distances = [item["distance_km"] for item in model["items"]]
    assert model["model"] == "nearest"
    assert distances == sorted(distances)
    before = page.input_value("#coordinates")
    box = page.locator("#map").bounding_box()
    answered(page, lambda: page.mouse.click(box["x"] + box["width"] * 0.97, box["y"] + box["height"] * 0.06))
    assert page.input_value("#coordinates") != before
    page.fill("#coordinates", "somewhere")
    page.locator("#coordinates").blur()
    assert "two numbers" in page.inner_text("#coordinates-wrong")


def test_new_places_only_are_asked_for_somebody(opened: Open) -> None:
    page = opened()
    page.click(".filters summary")
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "recommend" in request.url else None)
    answered(page, lambda: page.check("#new"))
    assert sent[-1]["filters"]["new_only"] is True
    assert sent[-1].get("history") or sent[-1].get("user_id")
    assert "1" in page.inner_text(".filters summary")
    shot(page, "new")
    nobody = answered(page, lambda: page.select_option("#who", "nobody"))
    assert nobody["items"]
    assert not page.locator("#new").count()
    assert sent[-1]["filters"]["new_only"] is False
    assert "1" not in page.inner_text(".filters summary")


def test_a_history_of_selected_items(opened: Open) -> None:
    page = opened()
    page.click(".answer li:nth-child(3) .title")
    title = page.inner_text("#card h2")
    page.wait_for_selector("#card .tokens li:nth-child(3)")
    assert "items" in page.inner_text("#card .tokens")
    shot(page, "card")
    sent = []
    page.on("request", lambda request: sent.append(request.post_data_json) if "recommend" in request.url else None)
    answered(page, lambda: page.click("#card-add"))
    assert page.input_value("#who") == "chosen"
    assert page.locator(".chips li").first.inner_text().startswith(title)
    assert len(sent[-1]["history"]) == page.locator(".chips li").count()
    answered(page, lambda: page.click(".visits .link"))
    assert "Select an item" in page.inner_text("#ask")


def test_tokens_are_told_on_hover_and_focus(opened: Open) -> None:
    page = opened()
    entry = page.locator("#legend li button").first
    entry.hover()
    label = entry.locator(".name").inner_text()
    tip = page.locator("#tip")
    assert label in tip.inner_text()
    assert "items" in tip.inner_text()
    shot(page, "token")
    page.mouse.move(700, 5)
    tip.wait_for(state="hidden")
    page.locator(".answer .sid").first.focus()
    assert "First token" in tip.inner_text()
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    pin = page.locator(".pin").last.bounding_box()
    page.locator(".pin").evaluate_all("pins => pins.forEach(pin => pin.remove())")
    page.mouse.move(pin["x"] + pin["width"] / 2, pin["y"] + pin["height"] / 2)
    tip.wait_for(state="visible")
    assert "First token" in tip.inner_text()


def test_neighbours_before_and_after_alignment(opened: Open) -> None:
    page = opened()
    page.click("#tab-neighbours")
    assert "Select an item" in page.inner_text("#results")
    page.click("#tab-recommend")
    page.click(".answer li:nth-child(1) .title")
    answered(page, lambda: page.click("#card-neighbours"), "aligned=true")
    page.wait_for_selector(".side.after li:nth-child(10)")
    shot(page, "neighbours")
    assert page.locator(".side.before li").count() == 10
    status = page.inner_text("#status")
    assert "before alignment" in status
    both = [page.locator(f".side.{name} .figure strong").first.inner_text() for name in ("before", "after")]
    metres = [float(text.split()[0].replace(",", "")) * (1_000 if "km" in text else 1) for text in both]
    assert metres[1] < metres[0]
    answered(page, lambda: page.click(".side.after li:nth-child(2) .title"), "aligned=true")


def test_two_rankers_beside_each_other(opened: Open) -> None:
    page = opened()
    page.click("#tab-rankers")
    page.wait_for_selector(".side.second li")
    shot(page, "rankers")
    assert [page.input_value(f"#model-{at}") for at in (0, 1)] == ["ranker:popularity_nearness", "ranker:nearest"]
    lists = [page.eval_on_selector_all(f".side.{name} .title", "nodes => nodes.map(node => node.textContent)")
             for name in ("first", "second")]  # fmt: skip
    shared = len(set(lists[0]) & set(lists[1]))
    assert page.inner_text("#results h2") == f"{shared} of 20 items in both"
    assert page.locator(".side.first .mark.only").count() == 20 - shared
    page.select_option("#model-0", "ranker:nearest")
    page.locator("#results h2", has_text="20 of 20").wait_for()


def test_search_and_the_keyboard_alone(opened: Open) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "search-text"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.type("Pizza")
    page.wait_for_selector("#search-found button")
    page.keyboard.press("ArrowDown")
    name = page.evaluate("document.activeElement.firstChild.textContent")
    page.keyboard.press("Enter")
    page.wait_for_selector("#card h2")
    assert page.evaluate("document.activeElement.textContent") == name
    page.keyboard.press("Escape")
    assert page.locator("#card").is_hidden()
    page.focus("#tab-recommend")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-neighbours", "aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".answer li")
    wanted = {"city", "coordinates", "who", "reach", "mode", "model", "go", "title", "sid", "map"}
    seen: set[str] = set()
    for _ in range(80):
        if wanted <= seen:
            break
        page.keyboard.press("Tab")
        seen |= set(page.evaluate("document.activeElement.id || document.activeElement.className").split())
    assert wanted <= seen
    page.focus("#map")
    still(page)
    before = page.input_value("#coordinates")
    page.keyboard.press("ArrowRight")
    still(page)
    answered(page, lambda: page.keyboard.press("Enter"))
    assert page.input_value("#coordinates") != before
    unnamed = page.evaluate("""() => [...document.querySelectorAll('button, input, select, a[href]')].filter(node =>
        node.offsetParent && !(node.ariaLabel || node.textContent.trim() || node.labels?.length))
        .map(node => node.outerHTML)""")
    assert unnamed == []


def test_chinese_and_dark(opened: Open) -> None:
    page = opened(color_scheme="dark")
    told = answered(page, lambda: page.click("[data-language=zh]"))
    assert "步行" in told["items"][0]["reason"]
    assert page.get_attribute("html", "lang") == "zh-Hans"
    assert page.inner_text("#tab-recommend") == "推荐"
    assert "可到达" in page.inner_text("#results h2")
    shot(page, "chinese_dark")
    page.reload()
    page.wait_for_selector(".answer li")
    assert page.inner_text("#tab-neighbours") == "近邻"
    light = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).every(part => part > 128)")
    assert not light
    answered(page, lambda: page.click("[data-language=en]"))


def test_a_phone(opened: Open) -> None:
    page = opened(390, 844, has_touch=True)
    for tab in ("recommend", "rankers", "neighbours"):
        page.tap(f"#tab-{tab}")
        page.wait_for_selector("#view:not([aria-busy])")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        shot(page, f"phone_{tab}")
    page.tap("#tab-recommend")
    page.wait_for_selector(".answer li")
    answered(page, lambda: page.tap("#go"))
    page.wait_for_timeout(1_000)
    assert page.locator(".answer li").first.bounding_box()["y"] < 844
    shot(page, "phone_list")
    page.tap(".answer li:nth-child(1) .title")
    box = page.locator("#card").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
