"""Search by words: an inverted index in memory over titles, brands, categories and addresses.

Text is compared in lower case, without accents and in one width. Words are runs of letters or digits; Chinese, which
has no spaces, is cut into pairs of characters, and the last one of a run alone. The last word of a query is also taken
as the beginning of one, so that results come while somebody types.

Axes: N items, W distinct words, P postings (a word in an item), Q postings that a query looks at.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from lgsid.arrays import DoubleArray, IntArray

FIELDS = {"title": 4, "brand": 3, "category": 2, "district": 1, "city": 1, "street": 1}
"""Columns that are searched, and what a word in each counts."""
BEGINNING = 0.7
"""What a word counts that only begins as asked."""
_HAN = r"\p{Han}"
_WORD = r"[\p{L}\p{N}--\p{Han}]+"
_PAIR = r"\p{Han}{2}"
_MOST_WORDS = 20


@dataclass(frozen=True)
class Hits:
    """Items that were found, best first, and how well each fits."""

    rows_M: IntArray
    score_M: DoubleArray


@dataclass(frozen=True)
class _Scored:
    """Items that hold any word of a query: their scores, and how many of the words they hold."""

    row_M: IntArray
    score_M: DoubleArray
    words_M: IntArray


_NOTHING = _Scored(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64))


class SearchIndex:
    """An index over N items; never changes, and may be asked from any thread.

    Args:
        items: table with any of `FIELDS`.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        self._items = len(items)
        self._words, key_P, self._weight_P = _postings(items)
        code_P, row_P = np.divmod(key_P, max(1, len(items)))
        self._row_P = row_P.astype(np.int32)
        self._start_W1 = np.searchsorted(code_P, np.arange(len(self._words) + 1))
        self._tail: SearchIndex | None = None
        self._tail_items = items.clear()

    def __len__(self) -> int:
        return self._items + len(self._tail_items)

    def plus(self, items: pl.DataFrame) -> SearchIndex:
        """The same with more items; the time it takes grows with the number of all items that were added so."""
        grown = SearchIndex.__new__(SearchIndex)
        grown.__dict__.update(self.__dict__)
        grown._tail_items = pl.concat([self._tail_items, items], how="diagonal_relaxed")
        grown._tail = SearchIndex(grown._tail_items)
        return grown

    def search(self, text: str, k: int, tie: Callable[[IntArray], DoubleArray] | None = None) -> Hits:
        """Items that hold as many of the words as any item does, best first.

        Args:
            text: words.
            k: how many items at most.
            tie: factors of the scores of rows, above 0, so that what is nearer or more popular comes first.
        """
        words = query_words(text)
        found = self._scored(words, len(self)) if words else _NOTHING
        if self._tail is not None and words:
            later = self._tail._scored(words, len(self))
            found = _Scored(
                np.concatenate([found.row_M, later.row_M + self._items]),
                np.concatenate([found.score_M, later.score_M]),
                np.concatenate([found.words_M, later.words_M]),
            )
        best = found.words_M == found.words_M.max(initial=0)
        rows, score = found.row_M[best], found.score_M[best]
        if tie is not None and len(rows):
            score = score * tie(rows)
        if k < len(score):
            least = np.partition(score, len(score) - k)[len(score) - k] if k else np.inf
            rows, score = rows[score >= least], score[score >= least]
        order = np.lexsort((rows, -score))[:k]
        return Hits(rows[order], score[order])

    def _scored(self, words: list[str], items: int) -> _Scored:
        """Items that hold any of the words; a rare word counts more than a common one."""
        score_N, words_N = np.zeros(self._items), np.zeros(self._items, dtype=np.int64)
        touched: list[IntArray] = []
        for number, word in enumerate(words):
            row_Q, weight_Q = self._of_word(word, beginning=number == len(words) - 1)
            score_N[row_Q] += weight_Q * np.log1p(items / max(1, len(row_Q)))
            words_N[row_Q] += 1
            touched.append(row_Q)
        few = sum(len(row_Q) for row_Q in touched) < self._items // 16
        row_M = np.unique(np.concatenate(touched)) if few else np.flatnonzero(words_N)
        return _Scored(row_M, score_N[row_M], words_N[row_M])

    def _of_word(self, word: str, beginning: bool) -> tuple[IntArray, DoubleArray]:
        """Rows that hold a word, or one that begins so, each once; and what it counts there."""
        first = int(self._words.search_sorted(word, side="left"))
        whole = int(first < len(self._words) and self._words[first] == word)
        last = int(self._words.search_sorted(word + "\U0010ffff", side="left")) if beginning else first + whole
        start, middle, end = (int(self._start_W1[place]) for place in (first, first + whole, last))
        row_Q, weight_Q = self._row_P[start:middle].astype(np.int64), self._weight_P[start:middle].astype(np.float64)
        if middle == end:
            return row_Q, weight_Q
        row_R, weight_R = self._row_P[middle:end], self._weight_P[middle:end]
        if end - start < self._items // 16:
            return _best_of_each(np.concatenate([row_Q, row_R]), np.concatenate([weight_Q, BEGINNING * weight_R]))
        best_N = np.zeros(self._items)
        for weight in np.flatnonzero(np.bincount(weight_R)):
            best_N[row_R[weight_R == weight]] = BEGINNING * weight
        best_N[row_Q] = np.maximum(best_N[row_Q], weight_Q)
        rows = np.flatnonzero(best_N)
        return rows, best_N[rows]


def _best_of_each(row_Q: IntArray, weight_Q: DoubleArray) -> tuple[IntArray, DoubleArray]:
    """Each row once, with the largest of its weights."""
    order = np.lexsort((-weight_Q, row_Q))
    row_Q, weight_Q = row_Q[order], weight_Q[order]
    once = np.ones(len(row_Q), dtype=np.bool_)
    once[1:] = row_Q[1:] != row_Q[:-1]
    return row_Q[once], weight_Q[once]


def query_words(text: str) -> list[str]:
    """The distinct words of a query, as they stand in the index; at most 20."""
    words: list[str] = []
    for run in re.findall(r"[㐀-䶿一-鿿豈-﫿]+|[^\W_㐀-䶿一-鿿豈-﫿]+", _plain(text)):
        pairs = [run[at : at + 2] for at in range(len(run) - 1)] if "㐀" <= run[0] <= "﫿" else []
        words += pairs or [run]
    return list(dict.fromkeys(words))[:_MOST_WORDS]


def _plain(text: str) -> str:
    """Lower case, without accents, in one width."""
    folded = unicodedata.normalize("NFKD", text.lower())
    return "".join(letter for letter in folded if not unicodedata.combining(letter))


def _postings(items: pl.DataFrame) -> tuple[pl.Series, IntArray, npt.NDArray[np.uint8]]:
    """Every word of every item once: the W words, sorted, keys (word · N + row), sorted, and the weight of the best
    field that holds the word."""
    columns = sorted((name for name in FIELDS if name in items.columns), key=lambda name: -FIELDS[name])
    fields = [_of_field(items[name]) for name in columns]
    none = pl.Series("word", [], dtype=pl.String)
    words = pl.concat([none, *(words["word"] for _, words in fields)]).unique().sort()
    places = pl.DataFrame({"word": words, "place": np.arange(len(words))})
    keys, weights = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.uint8)]
    for name, (text_N, cut) in zip(columns, fields, strict=True):
        code_w = cut.join(places, on="word", how="left", maintain_order="left")["place"].to_numpy()
        count_t = np.bincount(cut["text"].to_numpy(), minlength=int(text_N.max(initial=-1)) + 1)
        row_n = np.flatnonzero(text_N >= 0)
        count_n = count_t[text_N[row_n]]
        first_n = (np.cumsum(count_t) - count_t)[text_N[row_n]]
        place_P = np.arange(int(count_n.sum())) + np.repeat(first_n - (np.cumsum(count_n) - count_n), count_n)
        keys.append(code_w[place_P] * len(items) + np.repeat(row_n, count_n))
        weights.append(np.full(len(place_P), FIELDS[name], dtype=np.uint8))
    key_P, first_P = np.unique(np.concatenate(keys), return_index=True)  # the first one is of the best field
    return words, key_P, np.concatenate(weights)[first_P]


def _of_field(values_N: pl.Series) -> tuple[IntArray, pl.DataFrame]:
    """Number of each item's text, -1 for none, and (text, word) of each distinct text in the order of the numbers."""
    texts = values_N.cast(pl.String).drop_nulls().unique(maintain_order=True).to_frame("value")
    numbers = texts.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("text"))
    joined = values_N.cast(pl.String).to_frame("value").join(numbers, on="value", how="left", maintain_order="left")
    text_N: IntArray = joined["text"].fill_null(-1).to_numpy()
    plain = pl.col("value").str.to_lowercase().str.normalize("NFKD").str.replace_all(r"\p{Mn}", "").alias("plain")
    cut = numbers.with_columns(plain)
    words = [pl.col("plain").str.extract_all(_WORD)]
    if cut["plain"].str.contains(_HAN).any():
        shifted = pl.col("plain").str.replace_all(rf"{_HAN}({_HAN}+)", "$1")  # the pairs that start one later
        last = pl.col("plain").str.extract_all(rf"{_HAN}+").list.eval(pl.element().str.slice(-1))
        words += [pl.col("plain").str.extract_all(_PAIR), shifted.str.extract_all(_PAIR), last]
    listed = cut.select("text", pl.concat_list(words).list.unique(maintain_order=True).alias("word"))
    return text_N, listed.explode("word", empty_as_null=True).drop_nulls("word")
