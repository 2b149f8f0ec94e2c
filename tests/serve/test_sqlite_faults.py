"""SQLite histories when things go wrong: killed writers, full disks, foreign files, locks."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lgsid.config.serve import HistoryConfig
from lgsid.serve.base import Event, StoreBusyError, StoreError, StoreUnavailableError
from lgsid.serve.histories.sqlite_store import SqliteStore

WRITER = Path(__file__).with_name("writer.py")
CONFIG = HistoryConfig(most_events=1_000_000)


def event(number: int, user: str = "anna", item: str = "item") -> Event:
    return Event(f"e{number}", user, item, number)


def write_with(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(WRITER), f"sqlite:///{path}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def sound(path: Path) -> bool:
    with sqlite3.connect(path) as connection:
        answer = connection.execute("PRAGMA integrity_check").fetchone()[0]
    connection.close()
    return bool(answer == "ok")


def kept_of(path: Path) -> set[str]:
    store = SqliteStore(path, CONFIG)
    kept = {one.event_id for writer in range(4) for one in store.recent(f"u{writer}", 10**6)}
    store.close()
    return kept


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    acknowledged: set[str] = set()
    with write_with(path) as process:
        assert process.stdout is not None
        for _ in range(300):
            acknowledged.add(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
        acknowledged |= {line.strip() for line in process.stdout.read().splitlines()}
    kept = kept_of(path)
    assert len(acknowledged) >= 300
    assert acknowledged <= kept
    assert len(kept - acknowledged) <= 4  # one under way for each thread
    assert sound(path)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    output, _ = write_with(path, "900000").communicate(timeout=60)
    lines = output.split("\n")[:-1]
    full = [line for line in lines if line.startswith("full")]
    assert len(full) >= 2
    assert all("h.sqlite cannot grow" in line for line in full)
    acknowledged = {line for line in lines if not line.startswith("full")}
    assert len(acknowledged) > 50
    assert lines[-1] in acknowledged  # with room again, the same store goes on
    assert acknowledged <= kept_of(path)
    assert sound(path)


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", CONFIG)
    connection = store._writer._connection
    assert connection is not None
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert found == ["wal", 2]
    store.close()


def test_appends_that_wait_share_a_commit(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", CONFIG)
    statements: list[str] = []
    assert store._writer._connection is not None
    store._writer._connection.set_trace_callback(statements.append)
    with locked(store.path), ThreadPoolExecutor(20) as pool:
        futures = [pool.submit(store.append, [event(number)]) for number in range(20)]
        time.sleep(0.3)
        unlock()
        assert [future.result() for future in futures] == [1] * 20
    assert statements.count("COMMIT") <= 3
    assert store.count() == 20
    store.close()


_lock: list[sqlite3.Connection] = []


class locked:  # noqa: N801
    """Another process, as it were, that writes and does not come to an end."""

    def __init__(self, path: Path) -> None:
        _lock.append(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
        _lock[-1].execute("BEGIN IMMEDIATE")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        unlock()


def unlock() -> None:
    while _lock:
        connection = _lock.pop()
        connection.execute("ROLLBACK")
        connection.close()


def test_a_locked_file_is_unavailable_and_recovers(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", HistoryConfig(timeout_seconds=0.3))
    store.append([event(0)])
    with locked(store.path):
        with pytest.raises(StoreUnavailableError, match=r"h\.sqlite"):
            store.append([event(1)])
        assert not store.health().ok
        assert [one.event_id for one in store.recent("anna", 9)] == ["e0"]  # readers are not held up
    time.sleep(0.4)
    store.append([event(1)])
    assert [one.event_id for one in store.recent("anna", 9)] == ["e0", "e1"]
    assert store.health().ok
    store.close()


def test_a_full_queue_is_refused_at_once(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", HistoryConfig(queue=2, group=1, timeout_seconds=5))
    with locked(store.path), ThreadPoolExecutor(3) as pool:
        first = pool.submit(store.append, [event(0)])
        time.sleep(0.2)  # the writer has it in hand
        others = [pool.submit(store.append, [event(number)]) for number in (1, 2)]
        time.sleep(0.2)
        with pytest.raises(StoreBusyError, match="2 appends are waiting"):
            store.append([event(3)])
        unlock()
        assert [future.result() for future in (first, *others)] == [1, 1, 1]
    store.close()


def test_what_waits_is_written_before_closing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", CONFIG)
    with locked(store.path), ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(store.append, [event(number)]) for number in range(5)]
        time.sleep(0.2)
        closing = threading.Thread(target=store.close)
        closing.start()
        unlock()
        closing.join()
        assert [future.result() for future in futures] == [1] * 5
    again = SqliteStore(store.path, CONFIG)
    assert again.count() == 5
    again.close()


def test_what_is_forgotten_is_overwritten(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", CONFIG)
    secret = "somebody-in-particular"
    store.append([event(number, secret, "a-telling-item") for number in range(100)])
    store.append([event(0, "anna")])
    assert any(secret.encode() in file.read_bytes() for file in tmp_path.iterdir())
    assert store.forget(secret) == 100
    left = b"".join(file.read_bytes() for file in sorted(tmp_path.iterdir()))
    assert secret.encode() not in left
    assert b"a-telling-item" not in left
    assert store.count() == 1
    store.close()


def test_files_that_are_no_store_are_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.sqlite"
    text.write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(StoreError, match=r"text\.sqlite is damaged, or no database"):
        SqliteStore(text, CONFIG)
    assert text.read_text().startswith("not a database")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE precious (x)")
    connection.close()
    with pytest.raises(StoreError, match="no store of histories of version 1"):
        SqliteStore(other, CONFIG)
    with pytest.raises(StoreError, match="cannot be used"):
        SqliteStore(tmp_path, CONFIG)
    with pytest.raises(StoreError, match="cannot be made"):
        SqliteStore(text / "below.sqlite", CONFIG)


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    SqliteStore(path, CONFIG).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(StoreError, match="of version 2"):
        SqliteStore(path, CONFIG)


def test_a_file_that_vanishes_is_said(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "h.sqlite", CONFIG)
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(StoreError, match=r"h\.sqlite cannot be used"):
        store.recent("anna", 1)
    store.close()
