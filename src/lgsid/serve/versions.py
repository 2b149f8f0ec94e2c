"""Loaded versions of a run: which one answers, how it is exchanged, and the ones to roll back to.

A request takes `Versions.current` once and keeps that engine until it is answered: a switch is one assignment, drops
nothing, and an engine that no longer answers is freed when its last request is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import polars as pl

from lgsid.config.serve import ServeConfig
from lgsid.errors import LgsidError
from lgsid.serve.contract import Engine
from lgsid.serve.engine import RunEngine
from lgsid.serve.workers import WorkerEngine

KEPT = 1
"""Versions before the current one that stay in memory."""


class VersionError(LgsidError):
    """A version cannot be loaded or rolled back to now."""


@dataclass(frozen=True)
class Loaded:
    """A version in memory.

    Attributes:
        engine: that answers by it.
        run: its folder.
        loaded_at: seconds since 1970.
    """

    engine: Engine
    run: Path
    loaded_at: float

    def told(self, current: bool) -> dict[str, Any]:
        """As a JSON object."""
        described: dict[str, Any] = getattr(self.engine, "described", dict)()
        return {
            "version": self.engine.version,
            "run": str(self.run),
            "current": current,
            "loaded_at": self.loaded_at,
            **described,
        }


class Versions:
    """Holds the engine that answers and those before it; all methods may be called from any thread.

    Args:
        run: the first version's folder.
        load: makes an engine of a run folder; raises `LgsidError` where it cannot be served.
        kept: versions before the current one that stay in memory.

    Raises:
        LgsidError: as ``load`` does.
    """

    def __init__(self, run: Path, load: Callable[[Path], Engine], kept: int = KEPT) -> None:
        self._load, self._kept = load, kept
        self._change = Lock()
        self._stack: tuple[Loaded, ...] = (self._loaded(run),)  # the current one first; replaced whole, never changed

    @property
    def current(self) -> Engine:
        """The engine that answers now."""
        return self._stack[0].engine

    def listed(self) -> list[dict[str, Any]]:
        """What is known of each version in memory, the current one first."""
        return [loaded.told(place == 0) for place, loaded in enumerate(self._stack)]

    def load(self, run: Path) -> Mapping[str, Any]:
        """Load a run and switch to it; on any error the current one goes on answering.

        A run whose version is the current one already is left as it is.

        Raises:
            VersionError: another change is under way.
            LgsidError: the run cannot be served.
        """
        with _Changing(self._change):
            loaded, before = self._loaded(run), self._stack
            if loaded.engine.version == before[0].engine.version:
                return {**before[0].told(True), "switched": False}
            others = [old for old in before if old.engine.version != loaded.engine.version]
            self._stack = (loaded, *others[: self._kept])
            return {**loaded.told(True), "switched": True}

    def roll_back(self) -> Mapping[str, Any]:
        """Switch to the version that answered before; the one that is left is not kept.

        Raises:
            VersionError: there is none, or another change is under way.
        """
        with _Changing(self._change):
            if len(self._stack) < 2:
                raise VersionError("there is no version to roll back to: only one was loaded", "load a run")
            left, *rest = self._stack
            self._stack = tuple(rest)
            return {**rest[0].told(True), "left": left.engine.version}

    def add_items(self, items: pl.DataFrame) -> Mapping[str, Any]:
        """Give new items their SIDs and answer with them from now on; see `RunEngine.add_items`.

        Raises:
            VersionError: another change is under way.
            LgsidError: the rows are wrong.
        """
        with _Changing(self._change):
            engine = self._stack[0].engine
            add: Callable[[pl.DataFrame], Mapping[str, Any]] | None = getattr(engine, "add_items", None)
            if add is None:
                raise VersionError(f"version {engine.version} takes no new items")
            return add(items)

    def _loaded(self, run: Path) -> Loaded:
        return Loaded(self._load(run), run, time.time())


class _Changing:
    """One change at a time; a second one is refused, not queued: it was decided on by what was there before."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise VersionError("another version is being loaded, or items are being added", "try again when it is done")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def open_versions(run: Path, config: ServeConfig, workers: int = 0) -> Versions:
    """Load the first version of a service.

    Args:
        run: its folder.
        config: of serving.
        workers: processes of each version that recommend; 0: this process does.

    Raises:
        ArtifactError, ConfigError: it cannot be served.
    """
    if workers:
        return Versions(run, lambda root: WorkerEngine.with_workers(root, config, workers))
    return Versions(run, lambda root: RunEngine.load(root, config))
