"""What every store of histories does: the same tests for SQLite and Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lgsid.config.serve import HistoryConfig
from lgsid.errors import ConfigError
from lgsid.serve.base import MOST_CHARS, Clock, Event, EventError, HistoryStore, StoreError
from lgsid.serve.histories.stores import open_store

MOMENT_MS = 1_790_000_000_000
_numbers = count()


def event(number: int, user: str = "anna", **changes: object) -> Event:
    fields = {"event_id": f"e{number}", "user_id": user, "item_id": f"i{number}", "timestamp_ms": MOMENT_MS + number}
    return Event(**{**fields, **changes})  # type: ignore[arg-type]


def ids(events: list[Event]) -> list[str]:
    return [one.event_id for one in events]


def test_events_come_back_as_they_were_oldest_first(store: HistoryStore) -> None:
    given_events = [event(0, kind="click"), event(1), event(2, kind="order")]
    assert store.append(given_events) == 3
    assert store.recent("anna", 10) == given_events
    assert store.recent("anna", 2) == given_events[1:]


def test_an_empty_append_and_an_unknown_user(store: HistoryStore) -> None:
    assert store.append([]) == 0
    assert store.recent("nobody", 10) == []
    assert store.count("nobody") == store.count() == store.forget("nobody") == 0


@pytest.mark.parametrize("most", [0, -3])
def test_none_are_asked_for(store: HistoryStore, most: int) -> None:
    store.append([event(0)])
    assert store.recent("anna", most) == []


def test_the_same_id_is_stored_once_and_the_first_stands(store: HistoryStore) -> None:
    assert store.append([event(0), event(0), event(1)]) == 2
    assert store.append([event(1, item_id="other"), event(2)]) == 1
    assert [one.item_id for one in store.recent("anna", 9)] == ["i0", "i1", "i2"]


def test_the_same_id_of_another_user_is_another_event(store: HistoryStore) -> None:
    assert store.append([event(0), event(0, "ben")]) == 2
    assert (store.count("anna"), store.count("ben"), store.count()) == (1, 1, 2)


def test_users_do_not_mix(store: HistoryStore) -> None:
    store.append([event(0), event(1, "ben"), event(2), event(3, "ben")])
    assert ids(store.recent("anna", 9)) == ["e0", "e2"]
    assert ids(store.recent("ben", 9)) == ["e1", "e3"]


def test_the_oldest_are_dropped_with_their_ids(store: HistoryStore) -> None:
    store.append([event(number) for number in range(4)])
    assert store.append([event(number) for number in range(3, 8)]) == 4
    assert ids(store.recent("anna", 99)) == ["e3", "e4", "e5", "e6", "e7"]
    assert store.count("anna") == store.count() == 5
    assert store.append([event(0)]) == 1  # its id was forgotten with it


def test_more_events_at_once_than_are_kept(store: HistoryStore) -> None:
    assert store.append([event(number) for number in range(12)]) == 12
    assert ids(store.recent("anna", 99)) == ["e7", "e8", "e9", "e10", "e11"]
    assert store.count() == 5


def test_forgotten_users_begin_anew(store: HistoryStore) -> None:
    store.append([event(0), event(1), event(2, "ben")])
    assert store.forget("anna") == 2
    assert store.recent("anna", 9) == []
    assert (store.count("anna"), store.count()) == (0, 1)
    assert store.append([event(1)]) == 1
    assert ids(store.recent("anna", 9)) == ["e1"]


def test_order_is_that_of_arrival_whatever_clocks_say(store: HistoryStore) -> None:
    times = [MOMENT_MS, MOMENT_MS - 3_600_000, MOMENT_MS + 5, 0]
    for number, moment in enumerate(times):
        store.append([event(number, timestamp_ms=moment)])
    assert [one.timestamp_ms for one in store.recent("anna", 9)] == times


def test_a_clock_that_jumps_back_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    nanoseconds = iter([5_000_000_000, 6_000_000_000, 2_000_000_000, 7_000_000_000])
    monkeypatch.setattr(time, "time_ns", lambda: next(nanoseconds))
    clock = Clock()
    assert [clock.now_ms() for _ in range(4)] == [5_000, 6_000, 6_000, 7_000]


def test_everything_is_there_after_opening_again(store: HistoryStore, config: HistoryConfig) -> None:
    store.append([event(0), event(1)])
    store.close()
    again = open_store(config)
    assert ids(again.recent("anna", 9)) == ["e0", "e1"]
    assert again.append([event(1), event(2)]) == 1
    again.close()


def test_two_stores_see_each_other(store: HistoryStore, config: HistoryConfig) -> None:
    other = open_store(config)
    store.append([event(0)])
    assert other.append([event(0), event(1)]) == 1
    assert ids(store.recent("anna", 9)) == ["e0", "e1"]
    other.close()


def test_many_writers_lose_nothing(config: HistoryConfig) -> None:
    stores = [open_store(config.model_copy(update={"most_events": 1_000})) for _ in range(2)]

    def write(writer: int) -> int:
        chosen = stores[writer % 2]
        # every event is sent by two writers: one of them stores it
        return sum(
            chosen.append([event(100 * (writer // 2) + number), event(number, f"u{writer}")]) for number in range(25)
        )

    with ThreadPoolExecutor(8) as pool:
        new = sum(pool.map(write, range(8)))
    assert new == 4 * 25 + 8 * 25 == stores[0].count()
    assert sorted(ids(stores[1].recent("anna", 999))) == sorted(f"e{100 * k + n}" for k in range(4) for n in range(25))
    in_order = [f"e{number}" for number in range(25)]
    assert all(ids(stores[0].recent(f"u{writer}", 99)) == in_order for writer in range(8))
    for one in stores:
        one.close()


def test_readers_see_whole_appends(store: HistoryStore) -> None:
    done = threading.Event()
    seen = set()

    def read() -> None:
        while not done.is_set():
            seen.add(len(store.recent("anna", 99)) % 2)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(0, 4, 2):
        store.append([event(number), event(number + 1)])
    done.set()
    reader.join()
    assert seen == {0}


def test_health_is_good_and_ends_with_the_store(store: HistoryStore) -> None:
    health = store.health()
    assert health.ok, health.detail
    assert health.milliseconds > 0
    store.close()
    assert not store.health().ok
    assert "closed" in store.health().detail


def test_a_closed_store_says_so(store: HistoryStore) -> None:
    store.close()
    store.close()
    for call in (lambda: store.append([event(0)]), lambda: store.recent("anna", 1), lambda: store.forget("anna")):
        with pytest.raises(StoreError, match="closed"):
            call()


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@pytest.fixture
def shared(config: HistoryConfig) -> Iterator[HistoryStore]:
    opened = open_store(config)
    yield opened
    opened.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user=names, item=names, name=names, kind=st.none() | names, moment=st.integers(0, MOMENT_MS))
def test_any_text_comes_back(
    shared: HistoryStore, user: str, item: str, name: str, kind: str | None, moment: int
) -> None:
    user = f"{next(_numbers)}{user}"
    told = Event(name, user, item, moment, kind)
    assert shared.append([told]) == 1
    assert shared.append([told]) == 0
    assert shared.recent(user, 5) == [told]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.integers(0, 12), max_size=8), max_size=6))
def test_histories_are_those_of_a_plain_list(shared: HistoryStore, batches: list[list[int]]) -> None:
    user = f"model-{next(_numbers)}"
    expected: list[str] = []
    for batch in batches:
        new = [f"e{number}" for number in dict.fromkeys(batch) if f"e{number}" not in expected]
        assert shared.append([event(number, user) for number in batch]) == len(new)
        expected = (expected + new)[-5:]
        assert ids(shared.recent(user, 99)) == expected
        assert shared.count(user) == len(expected)


@pytest.mark.parametrize("value", ["", "x" * (MOST_CHARS + 1), "a\0b", "\ud800", 7, None])
@pytest.mark.parametrize("name", ["event_id", "user_id", "item_id"])
def test_wrong_identifiers_are_named(name: str, value: object) -> None:
    with pytest.raises(EventError, match=f"{name}.*expected text"):
        event(0, **{name: value})


@pytest.mark.parametrize("moment", [-1, 1.5, True, "2026", 4_102_444_800_000])
def test_wrong_timestamps_are_named(moment: object) -> None:
    with pytest.raises(EventError, match=r"timestamp_ms .* of event 'e0': expected whole milliseconds"):
        event(0, timestamp_ms=moment)


def test_a_url_of_another_kind_is_refused(tmp_path: Path) -> None:
    for url in ("mysql://user:secret@host/db", "sqlite://", "sqlite:///", "histories.db"):
        with pytest.raises(ConfigError, match="no store of histories") as caught:
            open_store(HistoryConfig(url=url), tmp_path)
        assert "secret" not in str(caught.value)


def test_a_relative_path_starts_from_the_folder(tmp_path: Path) -> None:
    opened = open_store(HistoryConfig(url="sqlite:///deep/below.sqlite"), tmp_path)
    opened.close()
    assert (tmp_path / "deep" / "below.sqlite").is_file()
