"""What an app is made of, so that its endpoints and its operations share it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Protocol

import polars as pl
from fastapi import Depends, Request

from lgsid.config.serve import ServeConfig
from lgsid.serve.base import Clock, HistoryStore
from lgsid.serve.contract import Engine
from lgsid.serve.limits import Lane
from lgsid.serve.telemetry import Telemetry


class EngineHolder(Protocol):
    """Keeps loaded versions of a run and says which one answers; all methods may be called from any thread.

    A request keeps the engine that it got from `current` until it is answered, whatever is switched meanwhile.
    """

    @property
    def current(self) -> Engine:
        """The engine that answers now."""

    def listed(self) -> Sequence[Mapping[str, Any]]:
        """What is known of each loaded version, the current one first."""

    def load(self, run: Path) -> Mapping[str, Any]:
        """Load a run, check it, and switch to it; on any error the current one goes on answering.

        Raises:
            LgsidError: the run is missing, corrupt or does not fit.
        """

    def roll_back(self) -> Mapping[str, Any]:
        """Switch to the version that answered before.

        Raises:
            LgsidError: there is none.
        """

    def add_items(self, items: pl.DataFrame) -> Mapping[str, Any]:
        """Give new items their SIDs and answer with them from now on.

        Raises:
            LgsidError: the rows are wrong.
        """


@dataclass
class Service:
    """One running service.

    Attributes:
        holder, store, config: as given to `make_app`.
        telemetry: metrics.
        ask, append, admin, check: lanes of recommendations and look-ups, of events, of operations, and of readiness.
        clock: never goes back.
        draining: a shutdown has begun; /readyz says no.
        unfinished: work was still running when the time for the shutdown was over.
    """

    holder: EngineHolder
    store: HistoryStore
    config: ServeConfig
    telemetry: Telemetry
    ask: Lane
    append: Lane
    admin: Lane
    check: Lane
    clock: Clock = field(default_factory=Clock)
    draining: bool = False
    unfinished: bool = False

    @classmethod
    def of(cls, holder: EngineHolder, store: HistoryStore, config: ServeConfig) -> Service:
        """With its lanes, as the limits say."""
        limits, telemetry = config.limits, Telemetry()
        telemetry.watch_workers(lambda: float(getattr(holder.current, "workers", 0)))

        def lane(name: str, threads: int, queue: int, seconds: float) -> Lane:
            return Lane(name, threads, queue, limits.queue_seconds, seconds, telemetry)

        return cls(
            holder,
            store,
            config,
            telemetry,
            ask=lane("ask", limits.threads, limits.queue, limits.request_seconds),
            append=lane("append", limits.event_threads, limits.queue, limits.request_seconds),
            admin=lane("admin", 1, 1, limits.admin_seconds),
            check=lane("check", 1, 8, min(2.0, limits.request_seconds)),
        )

    async def close(self) -> None:
        """Finish what was begun, then let go of the store."""
        seconds = self.config.limits.shutdown_seconds
        lanes = (self.ask, self.append, self.admin, self.check)
        finished = await asyncio.gather(*(lane.close(seconds) for lane in lanes))
        self.unfinished = not all(finished)
        await asyncio.to_thread(self.store.close)


async def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


Serving = Annotated[Service, Depends(service_of)]
