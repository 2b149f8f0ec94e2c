"""Reasons in words: known facts, known words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lgsid.serve.reasons import Facts, Visited, kinds_of, popular_among, reason

PLAIN = Facts(visits=0, like=None, kind=None, popular=False, distance_km=0.25, minutes=4.1)


@pytest.mark.parametrize(
    ("changes", "english", "chinese"),
    [
        ({}, "4 minutes' walk", "步行4分钟"),
        ({"minutes": 0.2}, "1 minute's walk", "步行1分钟"),
        ({"visits": 1}, "visited before · 4 minutes' walk", "去过1次，步行4分钟"),
        ({"visits": 3}, "visited 3 times before · 4 minutes' walk", "去过3次，步行4分钟"),
        (
            {"like": "Lou's", "kind": "Pizza"},
            "Pizza, like Lou's · 4 minutes' walk",
            "与去过的“Lou's”同类：Pizza，步行4分钟",
        ),
        (
            {"visits": 2, "like": "Lou's", "kind": "Pizza"},
            "visited 2 times before · 4 minutes' walk",
            "去过2次，步行4分钟",
        ),
        ({"popular": True}, "popular near here · 4 minutes' walk", "附近热门，步行4分钟"),
        ({"mode": "bike"}, "4 minutes by bike", "骑行4分钟"),
        ({"mode": "car", "minutes": 1.0}, "1 minute by car", "驾车1分钟"),
        ({"mode": "transit"}, "4 minutes by public transport", "公共交通4分钟"),
        ({"minutes": 75.0, "distance_km": 4.62}, "4.6 km away", "距离4.6公里"),
    ],
)
def test_words(changes: dict[str, object], english: str, chinese: str) -> None:
    facts = replace(PLAIN, **changes)  # type: ignore[arg-type]
    assert reason(facts) == english
    assert reason(facts, "zh") == chinese


def test_kinds() -> None:
    assert kinds_of("Food > Pizza") == ["Pizza"]
    assert kinds_of("Bars | Food > Noodles; Karaoke") == ["Bars", "Noodles", "Karaoke"]
    assert kinds_of(None) == kinds_of("") == kinds_of(" | ") == []


def test_the_latest_visit_of_a_kind_is_named() -> None:
    rows = np.array([4, 7, 4])
    visited = Visited.of(rows, ["Old", "Lou's", "Old"], [["Pizza"], ["Pizza", "Bar"], ["Pizza"]])
    assert (visited.times[4], visited.times[7], visited.times[1]) == (2, 1, 0)
    assert visited.like(["Pizza"]) == ("Old", "Pizza")
    assert visited.like(["Gym", "Bar"]) == ("Lou's", "Bar")
    assert visited.like(["Gym"]) == (None, None)


def test_popular_are_few_and_visited() -> None:
    assert not popular_among(np.array([], dtype=np.int64)).any()
    assert not popular_among(np.zeros(30, dtype=np.int64)).any()
    visits = np.arange(40)
    assert np.flatnonzero(popular_among(visits)).tolist() == [36, 37, 38, 39]
    assert not popular_among(np.full(40, 5)).any()
    assert np.flatnonzero(popular_among(np.array([0, 0, 3]))).tolist() == [2]
    one_stands_out = np.full(40, 5)
    one_stands_out[3] = 9
    assert np.flatnonzero(popular_among(one_stands_out)).tolist() == [3]
