"""Search by words: known answers, other scripts, and brute force."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsid.serve.search import BEGINNING, FIELDS, SearchIndex, query_words

ITEMS = pl.DataFrame({
    "title": ["Joe's Café", "老王火锅店", "Pizza Hut 12", "Hut of Pizza", "Ａｌｐｈａ Bar", "Old Gym", None],
    "category": ["Food > Coffee", "餐饮 > 火锅", "Food > Pizza", "Food > Pizza", "Food > Bar", "Sport", "Food"],
    "brand": [None, "老王", "Pizza Hut", None, None, None, None],
    "city": ["Alba", "成都市", "Alba", "Brio", "Brio", "Pizza Town", "Alba"],
})  # fmt: skip
INDEX = SearchIndex(ITEMS)


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("cafe", [0]),
        ("CAFÉ", [0]),
        ("joe caf", [0]),
        ("火锅", [1]),
        ("火", [1]),
        ("店", [1]),
        ("王火锅", [1]),
        ("成都", [1]),
        ("pizza hut", [2, 3]),
        ("pizza alba", [2]),
        ("alpha", [4]),
        ("12", [2]),
        ("piz", [2, 3, 5]),
        ("piz hut", [2, 3]),
        ("zebra", []),
        ("", []),
        ("!?", []),
    ],
)
def test_known_answers(query: str, rows: list[int]) -> None:
    assert INDEX.search(query, 10).rows_M.tolist() == rows


def test_words_of_a_query() -> None:
    assert query_words("Joe's  CAFÉ") == ["joe", "s", "cafe"]
    assert query_words("老王火锅 bar") == ["老王", "王火", "火锅", "bar"]
    assert query_words("店") == ["店"]
    assert len(query_words(" ".join(map(str, range(100))))) == 20


def test_only_the_last_word_may_be_a_beginning() -> None:
    assert INDEX.search("caf joe", 10).rows_M.tolist() == [0]  # as many words as any item holds: one
    assert INDEX.search("hut piz", 10).rows_M.tolist() == [2, 3]


def test_k_and_ties() -> None:
    assert INDEX.search("food", 2).rows_M.tolist() == [0, 2]
    assert INDEX.search("food", 0).rows_M.tolist() == []
    last_first = INDEX.search("food", 2, lambda rows: 1.0 + rows)
    assert last_first.rows_M.tolist() == [6, 4]


def test_added_items_are_found_with_the_others() -> None:
    grown = INDEX.plus(ITEMS[:2]).plus(ITEMS[2:])
    whole = SearchIndex(pl.concat([ITEMS, ITEMS]))
    assert len(grown) == len(whole) == 14
    for query in ("pizza hut", "火锅", "food", "p", "zebra"):
        assert sorted(grown.search(query, 20).rows_M) == sorted(whole.search(query, 20).rows_M)
    assert INDEX.search("cafe", 10).rows_M.tolist() == [0]


def test_no_items() -> None:
    empty = SearchIndex(ITEMS.clear())
    assert empty.search("pizza", 5).rows_M.tolist() == []
    assert empty.plus(ITEMS).search("cafe", 5).rows_M.tolist() == [0]
    assert SearchIndex(pl.DataFrame({"lat_deg": [0.0]})).search("x", 5).rows_M.tolist() == []


WORDS = ("aa", "ab", "abc", "b", "bc")


@given(
    titles=st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), min_size=1, max_size=40),
    cities=st.lists(st.sampled_from([*WORDS, None]), min_size=40, max_size=40),
    query=st.lists(st.sampled_from([*WORDS, "a"]), min_size=1, max_size=3),
)
def test_as_by_brute_force(titles: list[str], cities: list[str | None], query: list[str]) -> None:
    items = pl.DataFrame(
        {"title": titles, "city": cities[: len(titles)]}, schema=dict.fromkeys(("title", "city"), pl.String)
    )
    words = query_words(" ".join(query))
    weight_WN = np.zeros((len(words), len(titles)))
    for place, word in enumerate(words):
        for row, item in enumerate(items.iter_rows(named=True)):
            for field, text in item.items():
                for held in (text or "").split():
                    if held == word or (place == len(words) - 1 and held.startswith(word)):
                        fit = FIELDS[field] * (1 if held == word else BEGINNING)
                        weight_WN[place, row] = max(weight_WN[place, row], fit)
    rare_W = np.log1p(len(titles) / np.maximum(1, (weight_WN > 0).sum(1)))
    score_N, held_N = rare_W @ weight_WN, (weight_WN > 0).sum(0)
    expected = {row for row in range(len(titles)) if held_N[row] == held_N.max() > 0}
    hits = SearchIndex(items).search(" ".join(query), 100)
    assert set(hits.rows_M.tolist()) == expected
    assert hits.score_M.tolist() == pytest.approx([score_N[row] for row in hits.rows_M])
    assert (np.diff(hits.score_M) <= 1e-12).all()
