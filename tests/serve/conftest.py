"""Stores to test, each fresh and empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import Server, require_redis

from lgsid.config.serve import HistoryConfig
from lgsid.serve.base import HistoryStore
from lgsid.serve.histories.stores import open_store


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not stop it."""
    require_redis()
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "redis"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> HistoryConfig:
    """Five events of each user, in a place that nothing else uses."""
    if request.param == "sqlite":
        return HistoryConfig(url=f"sqlite:///{tmp_path / 'histories.sqlite'}", most_events=5)
    server = request.getfixturevalue("redis_server")
    return HistoryConfig(url=server.url, most_events=5, prefix=f"test-{tmp_path.name}-{tmp_path.parent.name}")


@pytest.fixture
def store(config: HistoryConfig) -> Iterator[HistoryStore]:
    """An empty store."""
    opened = open_store(config)
    yield opened
    opened.close()
