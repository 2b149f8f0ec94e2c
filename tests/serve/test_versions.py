"""Exchanging versions: nothing is dropped, what fails changes nothing, and old ones are freed."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from toy_serve import ask_at, copy_of, items_of, served_run

from lgsid.config.serve import ServeConfig
from lgsid.errors import ArtifactError
from lgsid.serve.versions import VersionError, Versions, open_versions


class FakeEngine:
    """An engine that knows its version alone."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.added: list[pl.DataFrame] = []

    def described(self) -> dict[str, Any]:
        return {"items": 3}

    def add_items(self, items: pl.DataFrame) -> dict[str, Any]:
        self.added.append(items)
        return {"new": len(items)}


def load(run: Path) -> Any:
    if run.name == "corrupt":
        raise ArtifactError(f"{run} is corrupt", "lgsid run")
    return FakeEngine(run.name)


def test_switch_and_roll_back() -> None:
    versions = Versions(Path("a"), load)
    first = versions.current
    told = versions.load(Path("b"))
    assert (told["version"], told["switched"], told["items"]) == ("b", True, 3)
    assert versions.current.version == "b"
    assert [(one["version"], one["current"]) for one in versions.listed()] == [("b", True), ("a", False)]
    assert versions.roll_back()["left"] == "b"
    assert versions.current is first
    with pytest.raises(VersionError, match="no version to roll back to"):
        versions.roll_back()
    assert versions.current is first


def test_a_version_that_is_current_stays() -> None:
    versions = Versions(Path("a"), load)
    first = versions.current
    assert versions.load(Path("other/a"))["switched"] is False
    assert versions.current is first
    assert len(versions.listed()) == 1


def test_a_run_that_cannot_be_served_changes_nothing() -> None:
    versions = Versions(Path("a"), load)
    for _ in range(2):  # the second call finds no lock left behind
        with pytest.raises(ArtifactError, match="corrupt"):
            versions.load(Path("corrupt"))
    assert [one["version"] for one in versions.listed()] == ["a"]
    assert versions.load(Path("b"))["switched"]
    with pytest.raises(ArtifactError, match="corrupt"):
        Versions(Path("corrupt"), load)


def test_as_many_are_kept_as_asked_and_the_others_freed_when_their_requests_end() -> None:
    versions = Versions(Path("a"), load, kept=1)
    in_flight = versions.current
    freed = weakref.ref(in_flight)
    for name in "bcb":
        versions.load(Path(name))
    assert [one["version"] for one in versions.listed()] == ["b", "c"]
    gc.collect()
    assert freed() is in_flight  # a request still works with it
    assert in_flight.version == "a"
    del in_flight
    gc.collect()
    assert freed() is None


def test_one_change_at_a_time_while_requests_go_on() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(run: Path) -> Any:
        if run.name == "slow":
            begun.set()
            assert go_on.wait(10)
        return load(run)

    versions = Versions(Path("a"), slow)
    change = threading.Thread(target=versions.load, args=(Path("slow"),))
    change.start()
    assert begun.wait(10)
    assert versions.current.version == "a"
    for other in (lambda: versions.load(Path("b")), versions.roll_back, lambda: versions.add_items(pl.DataFrame())):
        with pytest.raises(VersionError, match="another version is being loaded"):
            other()
    go_on.set()
    change.join(10)
    assert versions.current.version == "slow"


def test_items_are_added_to_the_current_one() -> None:
    versions = Versions(Path("a"), load)
    versions.load(Path("b"))
    assert versions.add_items(pl.DataFrame({"item_id": ["x", "y"]})) == {"new": 2}
    current: Any = versions.current
    assert len(current.added) == 1


def test_real_runs_are_exchanged_under_load(tmp_path: Path) -> None:
    run = served_run()
    other = copy_of(run, tmp_path / "run")
    (other.path("4_rank", "manifest.json")).unlink()  # another version: it has no rankers
    items = items_of(run)
    versions = open_versions(run.root, ServeConfig())
    ask, seen, stop = ask_at(items, k=3), set(), threading.Event()
    errors: list[BaseException] = []

    def requests() -> None:
        while not stop.is_set():
            try:
                answer = versions.current.recommend(ask, [])
                assert len(answer.items) == 3
                seen.add((answer.version, answer.model))
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=requests) for _ in range(3)]
    for thread in threads:
        thread.start()
    first = versions.current.version
    second = versions.load(other.root)["version"]
    versions.roll_back()
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not errors
    assert first != second
    assert seen <= {(first, "din"), (second, "popularity_nearness")}
    assert (first, "din") in seen
    path = other.path("3_sid", "sids.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="corrupt"):
        versions.load(other.root)
    assert versions.current.version == first
