"""Recommendations of workers are those of the engine; workers that die are replaced while requests go on."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from toy_serve import ask_at, copy_of, items_of, new_items, served_engine, served_run

from lgsid.config.serve import ServeConfig
from lgsid.errors import ArtifactError, ConfigError
from lgsid.serve.base import Event, RequestError
from lgsid.serve.schemas import RecommendAnswer, end
from lgsid.serve.worker import error_of, main
from lgsid.serve.workers import Pool, WorkerEngine, WorkerError


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerEngine]:
    """Two workers of a run that may be given items."""
    run = copy_of(served_run(), tmp_path_factory.mktemp("workers") / "run")
    made = WorkerEngine.with_workers(run.root, ServeConfig(), 2)
    yield made
    made.pool.close()


def pids(pool: Pool) -> list[int]:
    return [worker.process.pid for worker in pool._all]


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def alone(engine: WorkerEngine) -> WorkerEngine:
    """The same engine with no worker that it could ask."""
    other = object.__new__(WorkerEngine)
    other.__dict__.update(engine.__dict__)
    other.pool = Pool(Path(), ServeConfig(), 1)
    return other


def test_answers_are_those_of_the_engine(engine: WorkerEngine) -> None:
    items, own = items_of(served_run()), served_engine()
    events = [Event(f"e-{row}", "u", items["item_id"][row], row, "click") for row in range(3)]
    for row in range(0, 600, 60):
        ask = ask_at(items, row, user_id="u", k=7)
        expected, found = own.recommend(ask, events), engine.recommend(ask, events)
        assert replace(found, milliseconds={}) == replace(expected, milliseconds={})
        assert found.milliseconds.keys() == expected.milliseconds.keys()
        written = engine.written(ask, events)
        told = RecommendAnswer.model_validate_json(end(written, written.milliseconds))
        assert [item.item_id for item in told.items] == [item.item_id for item in expected.items]
        assert told.milliseconds == written.milliseconds
    assert engine.described() == {**own.described(), "run": str(engine.artefacts.run.root), "workers": 2}


def test_refusals_come_through_in_their_own_words(engine: WorkerEngine) -> None:
    wrong = ask_at(items_of(served_run()), model="none")
    with pytest.raises(RequestError) as expected:
        served_engine().recommend(wrong, [])
    for ask in (engine.recommend, engine.written):
        with pytest.raises(RequestError) as found:
            ask(wrong, [])
        assert str(found.value) == str(expected.value)
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*AttributeError"):
        engine.pool.ask("no_such_method")
    assert engine.workers == 2
    for kind in (ArtifactError, ConfigError, RequestError):
        error = error_of(kind, "words", "mend it")
        assert (type(error), error.message, error.fix) == (kind, "words", "mend it")
        assert str(error) == str(kind("words", "mend it"))


def test_killed_workers_are_replaced_and_no_request_fails(engine: WorkerEngine) -> None:
    items, stop, errors, answered = items_of(served_run()), threading.Event(), [], [0, 0, 0]

    def ask(place: int) -> None:
        while not stop.is_set():
            try:
                assert len(engine.recommend(ask_at(items, place, k=3), []).items) == 3
                answered[place] += 1
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    before = pids(engine.pool)
    try:
        for pid in before:  # the second one while the first is not there yet
            until(lambda: all(count > 5 for count in answered))
            os.kill(pid, signal.SIGKILL)
            until(lambda pid=pid: pid not in pids(engine.pool))
            answered[:] = [0, 0, 0]
        until(lambda: engine.workers == 2 and all(count > 5 for count in answered))
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert not errors
    assert not set(before) & set(pids(engine.pool))


class Dying:
    """Stands in for a worker whose process dies over what it is asked."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "60"])

    def do(self, method: str, *arguments: Any) -> Any:
        self.process.kill()
        raise EOFError

    def close(self) -> None:
        self.process.wait()


def test_a_request_that_kills_workers_is_not_tried_by_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Path(), ServeConfig(), 3)
    monkeypatch.setattr(pool, "_replace", lambda: None)
    pool._all = [Dying(), Dying(), Dying()]  # type: ignore[list-item]
    pool._idle = list(pool._all)
    with pytest.raises(RuntimeError, match="2 workers were lost over one request"):
        pool.ask("recommend")
    assert (pool.alive, len(pool._idle)) == (1, 1)
    pool._all[0].process.kill()
    pool.close()


def test_without_workers_the_engine_recommends_itself(engine: WorkerEngine) -> None:
    ask = ask_at(items_of(served_run()), k=4)
    expected = served_engine().recommend(ask, [])
    left = alone(engine)
    assert left.workers == 0
    assert left.recommend(ask, []).items == expected.items
    assert left.written(ask, []).begun == engine.written(ask, []).begun


def test_new_items_are_with_all_workers(engine: WorkerEngine) -> None:
    items = items_of(served_run())
    added = new_items(items, 4)
    assert engine.add_items(added)["served"] == 4
    asks = [ask_at(added, row, radius_km=0.05) for row in range(4)]
    for number, ask in enumerate(asks):
        for _ in range(2):  # the last one used is asked first, so both are taken before one is given back
            workers = [engine.pool._take(lambda _: True) for _ in range(2)]
            for worker in workers:
                assert worker is not None
                found = worker.do("recommend", ask, [])
                assert added["item_id"][number] in [item.item_id for item in found.items]
                engine.pool._give_back(worker)
    assert engine.search(added["title"][0], 5)


def test_workers_end_with_their_engine_and_are_not_replaced_by_another_version(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy_of(served_run(), tmp_path / "run")
    engine = WorkerEngine.with_workers(run.root, ServeConfig(), 2)
    ask, (first, second) = ask_at(items_of(run), k=3), [worker.process for worker in engine.pool._all]
    expected = engine.recommend(ask, [])
    run.path("4_rank", "manifest.json").unlink()  # another version: it has no rankers
    first.kill()
    for _ in range(3):
        assert engine.recommend(ask, []).items == expected.items
        engine.pool._idle.reverse()  # so that each is asked
    until(lambda: "has changed since it was loaded" in caplog.text)
    assert engine.workers == 1
    del engine
    gc.collect()
    assert (first.poll(), second.poll()) == (-signal.SIGKILL, 0)


def test_a_worker_that_dies_while_it_loads_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match="ended with exit status 1 while it loaded"):
        Pool(Path("run"), ServeConfig(), 2).start()


def test_what_goes_wrong_while_loading_is_replied() -> None:
    for root, kind, words in ((Path("no/such/run"), "refused", "no/such/run"), (None, "failed", "Traceback")):
        ours, theirs = Pipe()
        with ours, theirs:
            ours.send((root, ServeConfig()))
            main(theirs)
            told, value = ours.recv()
            assert (told, words in str(value)) == (kind, True)


def test_a_run_that_cannot_be_served_leaves_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copy_of(served_run(), tmp_path / "run")
    path = run.path("3_sid", "sids.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    started: list[Any] = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    with pytest.raises(ArtifactError, match="corrupt"):
        WorkerEngine.with_workers(run.root, ServeConfig(), 1)
    assert [process.poll() for process in started] == [0]
