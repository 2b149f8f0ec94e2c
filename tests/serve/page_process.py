"""The page in a process of its own: python page_process.py FOLDER ITEMS

Its address is written to FOLDER/address.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from toy_page import page_engine
from toy_service import FakeHolder

from lgsid.config.serve import HistoryConfig, ServeConfig
from lgsid.serve.app import make_app
from lgsid.serve.histories.sqlite_store import SqliteStore
from lgsid.serve.run import run_app
from lgsid.serve.telemetry import configure_logging


def main(folder: Path, items: int) -> bool:
    """Serve on a free port."""

    def started(address: str) -> None:
        (folder / "address.part").write_text(address)
        (folder / "address.part").rename(folder / "address")

    configure_logging()
    store = SqliteStore(folder / "histories.sqlite", HistoryConfig())
    holder = FakeHolder(page_engine(folder / "run", items))  # type: ignore[arg-type]
    return run_app(make_app(holder, store, ServeConfig()), "127.0.0.1", 0, started)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), int(sys.argv[2])) else 1)
