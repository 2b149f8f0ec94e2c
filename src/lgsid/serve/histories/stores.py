"""Stores of histories by URL."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from lgsid.config.serve import HistoryConfig
from lgsid.errors import ConfigError, MissingDependencyError
from lgsid.serve.base import HistoryStore

_SQLITE = "sqlite:///"
_REDIS = ("redis://", "rediss://", "unix://")


def open_store(config: HistoryConfig, folder: Path | None = None) -> HistoryStore:
    """The store that a configuration names.

    Args:
        config: its `url` is `sqlite:///PATH`, with four slashes for an absolute path, or `redis://HOST:PORT/DATABASE`
            (also `rediss://` with TLS, and `unix://PATH` for a socket).
        folder: what a relative path starts from; None for the current folder.

    Raises:
        ConfigError: a URL of another kind.
        MissingDependencyError: Redis without its client.
        StoreError: the file or server cannot be used.
    """
    if config.url.startswith(_SQLITE) and len(config.url) > len(_SQLITE):
        from lgsid.serve.histories.sqlite_store import SqliteStore

        return SqliteStore((folder or Path()) / config.url.removeprefix(_SQLITE), config)
    if config.url.startswith(_REDIS):
        if find_spec("redis") is None:
            raise MissingDependencyError("redis", "A store of histories in Redis", "serve")
        from lgsid.serve.histories.redis_store import RedisStore

        return RedisStore(config)
    kind = config.url.partition(":")[0]
    raise ConfigError(
        f"no store of histories for a URL of the kind {kind!r}",
        "set serve.histories.url to sqlite:///PATH or redis://HOST:PORT/DATABASE",
    )
