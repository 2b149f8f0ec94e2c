"""An engine whose recommendations are made in processes beside the service.

Threads of one Python wait for each other; processes do not. The process that listens keeps the whole engine as well:
it looks things up, takes new items, and recommends itself while no worker is there to do it. A worker that dies is
replaced, and what it was asked is asked once more elsewhere, so nobody sees it but the log and the metrics.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, Self

import polars as pl

from lgsid.config.serve import ServeConfig
from lgsid.errors import ArtifactError, LgsidError
from lgsid.serve.base import Event as UserEvent
from lgsid.serve.contract import Answer, Ask, Written
from lgsid.serve.engine import RunEngine
from lgsid.serve.schemas import write
from lgsid.serve.worker import FAILED, REFUSED, error_of

log = logging.getLogger("lgsid.serve")
_AGAIN_SECONDS = 10.0
"""Until a worker that could not be replaced is tried again."""
_TRIES = 2
"""Workers that a request may lose before it is taken for the reason."""
_END_SECONDS = 10.0
"""A worker that has not ended by itself after so long is killed."""


class WorkerError(LgsidError):
    """A worker cannot be started."""


class WorkerEngine(RunEngine):
    """A `RunEngine` that has its recommendations made by workers; use `WorkerEngine.with_workers`.

    The workers end when nothing refers to the engine any more.

    Attributes:
        pool: the workers.
    """

    pool: Pool

    @classmethod
    def with_workers(cls, root: Path, config: ServeConfig, workers: int) -> Self:
        """Verify and load a run, here and in ``workers`` processes at the same time.

        Raises:
            ArtifactError, ConfigError: see `load_artefacts`.
            WorkerError: a worker ended while it loaded the run.
        """
        pool = Pool(root, config, workers)
        try:
            with ThreadPoolExecutor(1) as starting:
                started = starting.submit(pool.start)
                engine = cls.load(root, config)
                if (version := started.result()) != engine.version:
                    raise ArtifactError(f"{root} changed while it was loaded: {version}, expected {engine.version}")
        except BaseException:
            pool.close()
            raise
        engine.pool = pool
        weakref.finalize(engine, pool.close)
        return engine

    def recommend(self, ask: Ask, stored: Sequence[UserEvent]) -> Answer:
        """See `lgsid.serve.contract.Engine`."""
        answer: Answer | None = self.pool.ask("recommend", ask, stored)
        return super().recommend(ask, stored) if answer is None else answer

    def written(self, ask: Ask, stored: Sequence[UserEvent]) -> Written:
        """See `lgsid.serve.contract.Engine`; the worker writes it."""
        written: Written | None = self.pool.ask("written", ask, stored)
        return write(super().recommend(ask, stored)) if written is None else written

    def add_items(self, table: pl.DataFrame) -> Mapping[str, Any]:
        """See `RunEngine.add_items`; all workers have the items when it returns."""
        figures = super().add_items(table)
        self.pool.refresh()
        return figures

    def described(self) -> dict[str, Any]:
        """What is known of this version, as a JSON object."""
        return {**super().described(), "workers": self.workers}

    @property
    def workers(self) -> int:
        """Workers that answer now."""
        return self.pool.alive


class _Worker:
    """A process and the connection to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "lgsid.serve.worker", str(theirs.fileno())]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._connection = Connection(ours.detach())
        self.generation = 0

    def load(self, root: Path, config: ServeConfig) -> str:
        """Load a run; returns its version."""
        version: str = self._exchange((root, config))
        return version

    def do(self, method: str, *arguments: Any) -> Any:
        """What a method of its engine returns.

        Raises:
            EOFError, OSError: it is dead.
            LgsidError: as the method does.
            RuntimeError: anything else that was raised there, with its traceback.
        """
        return self._exchange((method, arguments))

    def _exchange(self, message: Any) -> Any:
        self._connection.send(message)
        kind, value = self._connection.recv()
        if kind == REFUSED:
            raise error_of(*value)
        if kind == FAILED:
            raise RuntimeError(f"in a worker:\n{value}")
        return value

    def close(self) -> None:
        """Let it end."""
        self._connection.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Pool:
    """Workers of one run; all methods may be called from any thread.

    Args:
        root: folder of the run.
        config: of serving.
        count: workers wanted.
    """

    def __init__(self, root: Path, config: ServeConfig, count: int) -> None:
        self._root, self._config, self._count = root, config, count
        self._version = ""
        self._generation = 0  # of the items: how often some were added
        self._all: list[_Worker] = []
        self._idle: list[_Worker] = []  # the last one is the one whose caches are warm
        self._turns: deque[object] = deque()  # who waits for a worker
        self._changed, self._closed = Condition(), Event()

    @property
    def alive(self) -> int:
        """Workers that answer."""
        return len(self._all)

    def start(self) -> str:
        """Start all workers, and wait until they answer; returns the version of the run that they have loaded.

        Raises:
            LgsidError: the run cannot be served.
        """
        with ThreadPoolExecutor(self._count) as starting:
            for version in starting.map(lambda _: self._add(), range(self._count)):
                self._version = version
        return self._version

    def _add(self) -> str:
        generation = self._generation  # before the items are read
        worker = _Worker()
        try:
            version = worker.load(self._root, self._config)
            if self._version not in ("", version):
                problem = f"{self._root} has changed since it was loaded: {version}, expected {self._version}"
                raise ArtifactError(problem, "load the run again")
        except (EOFError, OSError) as error:
            worker.close()
            problem = f"a worker ended with exit status {worker.process.returncode} while it loaded {self._root}"
            raise WorkerError(problem, "fewer --workers or more memory, if the system killed it") from error
        except BaseException:
            worker.close()
            raise
        worker.generation = generation
        with self._changed:
            if not self._closed.is_set():
                self._all.append(worker)
                self._idle.append(worker)
                self._changed.notify_all()
                return version
        worker.close()
        return version

    def ask(self, method: str, *arguments: Any) -> Any:
        """What a method of a worker's engine returns; None where there is no worker.

        Raises:
            LgsidError, RuntimeError: as the method does.
        """
        for _ in range(_TRIES):
            if (worker := self._take(lambda _: True)) is None:
                return None
            try:
                return worker.do(method, *arguments)
            except (EOFError, OSError) as error:
                self._lose(worker, error)
            finally:
                self._give_back(worker)
        raise RuntimeError(f"{_TRIES} workers were lost over one request, so it is not tried here")

    def refresh(self) -> None:
        """Have all workers serve the items that were added to the run."""
        with self._changed:
            self._generation += 1
            wanted = self._generation
        while (worker := self._take(lambda worker: worker.generation < wanted)) is not None:
            try:
                worker.do("take_in")
                worker.generation = wanted
            except (EOFError, OSError, LgsidError, RuntimeError) as error:
                self._lose(worker, error)
            finally:
                self._give_back(worker)

    def _take(self, fits: Callable[[_Worker], bool]) -> _Worker | None:
        """An idle worker that fits, to whoever asked first; waits for one, and is None where none fits, idle or not."""
        turn = object()
        with self._changed:
            self._turns.append(turn)
            try:
                while any(map(fits, self._all)):
                    if self._turns[0] is turn and (worker := next(filter(fits, reversed(self._idle)), None)):
                        self._idle.remove(worker)
                        return worker
                    self._changed.wait()
                return None
            finally:
                self._turns.remove(turn)
                self._changed.notify_all()

    def _give_back(self, worker: _Worker) -> None:
        with self._changed:
            if worker in self._all:
                self._idle.append(worker)
            self._changed.notify_all()

    def _lose(self, worker: _Worker, error: BaseException) -> None:
        """Do without a worker, and get another one in its place."""
        with self._changed:
            if worker not in self._all:
                return
            self._all.remove(worker)
        worker.process.kill()
        worker.close()
        if not self._closed.is_set():
            log.error("a worker is lost (exit status %s) and is replaced: %s", worker.process.returncode, str(error))
            Thread(target=self._replace, name="lgsid-worker", daemon=True).start()

    def _replace(self) -> None:
        while not self._closed.is_set():
            try:
                self._add()
            except (OSError, LgsidError, RuntimeError) as error:
                log.error("a worker could not be replaced, next try in %g s: %s", _AGAIN_SECONDS, str(error))
                self._closed.wait(_AGAIN_SECONDS)
            else:
                log.warning("a worker was replaced")
                return

    def close(self) -> None:
        """Let all workers end."""
        self._closed.set()
        with self._changed:
            workers, self._all, self._idle = self._all, [], []
            self._changed.notify_all()
        for worker in workers:
            worker.close()
