"""A service over fakes in a process of its own: python serving_process.py FOLDER DRAIN_SECONDS

Recommendations take as long as the file FOLDER/wait exists. Events go to FOLDER/histories.sqlite.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from toy_service import FakeEngine, FakeHolder, config

from lgsid.config.serve import HistoryConfig
from lgsid.serve.app import make_app
from lgsid.serve.histories.sqlite_store import SqliteStore
from lgsid.serve.run import run_app
from lgsid.serve.telemetry import configure_logging


def main(folder: Path, drain_seconds: float) -> bool:
    """Serve on a free port, whose address is written to FOLDER/address."""

    def wait() -> None:
        (folder / "begun").touch()
        while (folder / "wait").exists():
            time.sleep(0.01)

    def started(address: str) -> None:
        (folder / "address.part").write_text(address)
        (folder / "address.part").rename(folder / "address")

    configure_logging()
    store = SqliteStore(folder / "histories.sqlite", HistoryConfig())
    settings = config(drain_seconds=drain_seconds, shutdown_seconds=20, request_seconds=20)
    return run_app(make_app(FakeHolder(FakeEngine(before=wait)), store, settings), "127.0.0.1", 0, started)


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1]), float(sys.argv[2])) else 1)
