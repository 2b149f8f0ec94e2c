"""Picture of the map page over a finished run, in a real browser: docs/figures/serve_page.png of the README.

    python scripts/page_figure.py runs/demo [--out docs/figures/serve_page.png] [--mode both]

Needs Chromium and the dev extra.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE = {"width": 1400, "height": 880}


@contextmanager
def served(run: Path) -> Iterator[str]:
    """The address of a server that is stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        store = f"histories.url=sqlite:///{folder}/histories.sqlite"
        command = [sys.executable, "-m", "lgsid", "serve", str(run), "--port", "0", "--set", store]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "serving on" in line:
                    yield line.split()[-1]
                    return
            raise SystemExit(f"the server ended with {process.wait()}")
        finally:
            process.terminate()
            process.wait(60)


def picture(address: str, mode: str, out: Path) -> None:
    """Open the page, choose a mode, wait for the answer, take the picture."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, locale="en-US")
        page.goto(address)
        page.wait_for_selector(".answer li")
        if mode:
            page.select_option("#mode", mode)
            page.wait_for_selector("#view:not([aria-busy]) .answer li")
        page.wait_for_timeout(1_500)
        page.screenshot(path=str(out))
        browser.close()


def main() -> None:
    """Serve, look, stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "figures" / "serve_page.png")
    parser.add_argument("--mode", default="", help="ranker, generative or both; the page's own where it is not given")
    args = parser.parse_args()
    with served(args.run) as address:
        picture(address, args.mode, args.out)
    print(args.out)


if __name__ == "__main__":
    main()
