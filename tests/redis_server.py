"""A real Redis server in a folder of its own, for tests."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest


class Server:
    """A `redis-server` on a free port of this machine; durable unless told otherwise."""

    def __init__(self, folder: Path, **settings: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.settings = {"appendonly": "yes", "appendfsync": "always", "save": "", **settings}
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, **settings: str) -> None:
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), **self.settings, **settings}
        command = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", value))]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(200):
            if self.process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError((self.folder / "redis.log").read_text())

    def kill(self) -> None:
        """As a crash would: no chance to write anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None


def require_redis() -> None:
    """Skip where there is no Redis to test with."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server found; apt-get install redis-server")
    pytest.importorskip("redis", reason="no Redis client found; pip install 'lgsid[serve]'")
