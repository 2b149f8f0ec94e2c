"""Histories in one SQLite file: nothing to install or start, and one machine.

The file is in WAL mode with `synchronous=FULL`: a commit returns after the disk has the log. One thread writes. It
takes all appends that wait, commits them together, and then tells those who wait for it: one write to the disk serves
many. Readers have connections of their own and are never held up. Several processes may share the file (not over a
network file system); they take turns at writing.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from lgsid.config.serve import HistoryConfig
from lgsid.serve.base import (
    Event,
    Health,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    check_id,
)

_APPLICATION = 0x6C677369  # "lgsi" in ASCII: marks the file as ours
_VERSION = 1
_SCHEMA = """
CREATE TABLE users (
    user_no INTEGER PRIMARY KEY,
    user_id TEXT NOT NULL UNIQUE,
    last INTEGER NOT NULL          -- sequence number of the user's latest event
);
CREATE TABLE events (
    user_no INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    event_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    kind TEXT,
    PRIMARY KEY (user_no, sequence)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_id ON events (user_no, event_id);
"""
_RECENT = """
SELECT event_id, item_id, timestamp_ms, kind FROM events
WHERE user_no = (SELECT user_no FROM users WHERE user_id = ?) ORDER BY sequence DESC LIMIT ?
"""
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE}
_LATER = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR}
_BROKEN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


class SqliteStore:
    """A `HistoryStore` in a file.

    Args:
        path: made where it does not exist, with its folder.
        config: limits.

    Raises:
        StoreError: the file is no store of histories, or of a later version, or cannot be written.
    """

    def __init__(self, path: Path, config: HistoryConfig) -> None:
        self.path, self.config = path, config
        self._idle: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._jobs: queue.Queue[_Job | None] = queue.Queue(config.queue)
        self._lock = threading.Lock()  # between closing and handing in a job
        self._closed = False
        self._writer = _Writer(path, config, self._jobs)
        self._writer.start()

    def append(self, events: Sequence[Event]) -> int:
        """See `HistoryStore`; `StoreBusyError` where the queue is full."""
        return self._write(lambda connection: _append(connection, events, self.config.most_events)) if events else 0

    def forget(self, user_id: str) -> int:
        """See `HistoryStore`; what is removed is overwritten, and the log emptied as soon as no reader needs it."""
        check_id("user_id", user_id)
        return self._write(lambda connection: _forget(connection, user_id), empty_log=True)

    def recent(self, user_id: str, most: int) -> list[Event]:
        """See `HistoryStore`."""
        with self._reader() as connection:
            rows = connection.execute(_RECENT, (user_id, max(most, 0))).fetchall()
        return [Event.stored(event, user_id, item, timestamp, kind) for event, item, timestamp, kind in reversed(rows)]

    def count(self, user_id: str | None = None) -> int:
        """See `HistoryStore`; of all events it takes a pass over their index."""
        of_user = "WHERE user_no = (SELECT user_no FROM users WHERE user_id = ?)"
        with self._reader() as connection:
            query, values = ("", ()) if user_id is None else (of_user, (user_id,))
            return int(connection.execute(f"SELECT count(*) FROM events {query}", values).fetchone()[0])

    def health(self) -> Health:
        """See `HistoryStore`; begins and ends a write, so a read-only or vanished disk shows."""
        started = time.perf_counter()
        try:
            self._write(lambda connection: 0)
            self.count("")
            ok, detail = True, f"SQLite {sqlite3.sqlite_version}"
        except StoreError as error:
            ok, detail = False, error.message
        return Health(ok, detail, 1e3 * (time.perf_counter() - started))

    def close(self) -> None:
        """See `HistoryStore`."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._jobs.put(None)
        self._writer.join()
        while not self._idle.empty():
            self._idle.get_nowait().close()

    def _write(self, work: Callable[[sqlite3.Connection], int], empty_log: bool = False) -> int:
        job = _Job(work, empty_log)
        with self._lock:
            self._open()
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                raise StoreBusyError(f"{self.path}: {self.config.queue:,} appends are waiting for the disk") from None
        try:
            return job.done.result(self.config.timeout_seconds)
        except TimeoutError:
            job.done.cancel()
            raise StoreUnavailableError(
                f"{self.path}: no acknowledgement within {self.config.timeout_seconds:g} s"
            ) from None

    def _open(self) -> None:
        if self._closed:
            raise StoreError(f"{self.path} is closed")

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection of one's own, from those that are idle; a failed one is not used again."""
        self._open()
        with _explained(self.path):
            try:
                connection = self._idle.get_nowait()
            except queue.Empty:
                connection = _connect(self.path, self.config, "rw")
                connection.execute("PRAGMA query_only = ON")
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
        with self._lock:
            if self._closed:
                connection.close()
            else:
                self._idle.put(connection)


class _Job:
    """Some writing, and its result or error once that is durable."""

    def __init__(self, work: Callable[[sqlite3.Connection], int], empty_log: bool) -> None:
        self.work, self.empty_log = work, empty_log
        self.done: Future[int] = Future()


class _Writer(threading.Thread):
    """Commits what waits, many at a time."""

    def __init__(self, path: Path, config: HistoryConfig, jobs: queue.Queue[_Job | None]) -> None:
        super().__init__(name=f"writer of {path.name}", daemon=True)
        self._path, self._config, self._jobs = path, config, jobs
        self._connection: sqlite3.Connection | None = _prepared(path, config)

    def run(self) -> None:
        """Work until there is a None among the jobs."""
        while (group := self._next())[0] is not None:
            jobs = [job for job in group if job is not None and job.done.set_running_or_notify_cancel()]
            self._commit(jobs)
            if group[-1] is None:
                break
        if self._connection is not None:
            self._connection.close()

    def _next(self) -> list[_Job | None]:
        group = [self._jobs.get()]
        while group[-1] is not None and len(group) < self._config.group:
            try:
                group.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return group

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            with _explained(self._path):
                results = self._in_transaction(jobs)
        except Exception as error:
            self._reopen_later()
            for job in jobs:
                job.done.set_exception(error)
        else:
            for job, result in zip(jobs, results, strict=True):
                job.done.set_result(result)

    def _in_transaction(self, jobs: list[_Job]) -> list[int]:
        if self._connection is None:
            self._connection = _prepared(self._path, self._config)
        self._connection.execute("BEGIN IMMEDIATE")
        results = [job.work(self._connection) for job in jobs]
        self._connection.execute("COMMIT")
        if any(job.empty_log for job in jobs):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return results

    def _reopen_later(self) -> None:
        """After an error nobody knows what the connection has cached: closing it rolls back, and the file decides."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None


# --- What the writer does ---------------------------------------------------------------------------------------------
def _append(connection: sqlite3.Connection, events: Sequence[Event], most: int) -> int:
    users: dict[str, tuple[int, int]] = {}
    new = 0
    for event in events:
        if event.user_id not in users:
            users[event.user_id] = _user(connection, event.user_id)
        user_no, last = users[event.user_id]
        values = user_no, last + 1, event.event_id, event.item_id, event.timestamp_ms, event.kind
        if connection.execute("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?)", values).rowcount:
            users[event.user_id] = user_no, last + 1
            new += 1
    for user_no, last in users.values():
        connection.execute("UPDATE users SET last = ? WHERE user_no = ?", (last, user_no))
        connection.execute("DELETE FROM events WHERE user_no = ? AND sequence <= ?", (user_no, last - most))
    return new


def _user(connection: sqlite3.Connection, user_id: str) -> tuple[int, int]:
    """Number and latest sequence number of a user, who is entered where unknown."""
    connection.execute("INSERT OR IGNORE INTO users (user_id, last) VALUES (?, 0)", (user_id,))
    user_no, last = connection.execute("SELECT user_no, last FROM users WHERE user_id = ?", (user_id,)).fetchone()
    return int(user_no), int(last)


def _forget(connection: sqlite3.Connection, user_id: str) -> int:
    whose = "WHERE user_no = (SELECT user_no FROM users WHERE user_id = ?)"
    forgotten = connection.execute(f"DELETE FROM events {whose}", (user_id,)).rowcount
    connection.execute("DELETE FROM users WHERE user_id = ?", (user_id,))
    return forgotten


# --- Connections and errors -------------------------------------------------------------------------------------------
def _prepared(path: Path, config: HistoryConfig) -> sqlite3.Connection:
    """A connection that writes, to a file that holds the schema."""
    with _explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path.parent} cannot be made: {error.strerror}") from error
        connection = _connect(path, config, "rwc")
        try:
            _set_up(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def _connect(path: Path, config: HistoryConfig, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=config.timeout_seconds,
        isolation_level=None,
        check_same_thread=False,
    )


def _set_up(connection: sqlite3.Connection, path: Path) -> None:
    journal = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if journal != "wal":
        raise StoreError(f"{path}: journal mode {journal}, expected wal", "put the file on a local disk")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("BEGIN IMMEDIATE")
    mark, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        for statement in filter(str.strip, _SCHEMA.split(";")):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    elif (mark, version) != (_APPLICATION, _VERSION):
        raise StoreError(
            f"{path} is no store of histories of version {_VERSION}: another database, or of version {version}",
            "set serve.histories.url to another path",
        )
    connection.execute("COMMIT")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of SQLite as errors of the store."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code in _FULL:
            raise StoreFullError(f"{path} cannot grow: {error}", "make room on its disk, and send again") from error
        if code & 0xFF in _LATER:
            raise StoreUnavailableError(f"{path} does not answer: {error}", "send again") from error
        if code & 0xFF in _BROKEN:
            raise StoreError(
                f"{path} is damaged, or no database: {error}", "restore it, or set another path"
            ) from error
        raise StoreError(f"{path} cannot be used: {error}", "see that it can be read and written") from error
