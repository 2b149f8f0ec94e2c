"""The page's server in a process of its own, a browser, and what both test modules of the page do with them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCRIPT = Path(__file__).parent / "serve" / "page_process.py"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 90
"""Longest wait for the page: test machines are busy."""
SHOTS = os.environ.get("LGSID_PAGE_SHOTS")
"""A folder for screenshots to look at."""
Open = Callable[..., Any]


class Server:
    """The page, in a process of its own."""

    def __init__(self, folder: Path, items: int = 5_000) -> None:
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(folder), str(items)], stdout=log, stderr=log
            )
        until = time.monotonic() + 2 * SECONDS
        while not (folder / "address").exists():
            assert self.process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.1)
        self.url = (folder / "address").read_text()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SECONDS)


@contextmanager
def serving(folder: Path, items: int = 5_000) -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(folder, items)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def new_page(browser: Any, **options: Any) -> Iterator[Any]:
    """A page that nothing is loaded into yet."""
    context = browser.new_context(locale="en-US", **options)
    context.set_default_timeout(SECONDS * 1_000)
    try:
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def watched(server: Server, browser: Any) -> Iterator[Open]:
    """Opens the page; at the end there must be no error in its console and no request to another machine."""
    problems: list[str] = []
    home = urlsplit(server.url).netloc

    def elsewhere(request: Any) -> None:
        if urlsplit(request.url).netloc not in ("", home):
            problems.append(request.url)

    def open_page(width: int = 1400, height: int = 900, **options: Any) -> Any:
        page = pages.enter_context(new_page(browser, viewport={"width": width, "height": height}, **options))
        page.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
        page.on("request", elsewhere)
        page.goto(server.url)
        page.wait_for_selector("html[data-ready]")
        page.wait_for_selector(".answer li")
        return page

    with ExitStack() as pages:
        yield open_page
    assert problems == []


def shot(page: Any, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(500)
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


def answered(page: Any, act: Callable[[], Any], path: str = "/v1/recommend") -> dict[str, Any]:
    """The answer that an action leads to, once it is on the page."""
    with page.expect_response(lambda response: path in response.url and response.ok) as caught:
        act()
    told: dict[str, Any] = caught.value.json()
    page.wait_for_selector("#view:not([aria-busy])")
    return told


def still(page: Any) -> None:
    """Once the map glides no more: Leaflet drops arrow keys while it does."""
    page.wait_for_selector(".leaflet-pan-anim, .leaflet-zoom-anim", state="detached")


def set_reach(page: Any, at: int) -> None:
    page.eval_on_selector(
        "#reach",
        "(node, at) => { node.value = at; node.dispatchEvent(new Event('input', { bubbles: true })); }",
        str(at),
    )


def ids_and_titles(page: Any) -> list[str]:
    titles: list[str] = page.eval_on_selector_all(".answer .title", "nodes => nodes.map(node => node.textContent)")
    return titles
