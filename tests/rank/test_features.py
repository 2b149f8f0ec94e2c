"""What models know of an item: labels, IDs, and rows of codes."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lgsid.config import RankConfig
from lgsid.errors import ConfigError
from lgsid.rank import features as module
from lgsid.rank.features import SidRows, item_features, sid_rows

ITEMS = pl.DataFrame({
    "item_id": ["a", "b", "c", "d"],
    "category": ["Food", None, "Bars", "Food"],
    "brand": pl.Series([None] * 4, dtype=pl.String),
})  # fmt: skip
SEEN = np.array([3, 0, 1, 7])
CODES = np.array([[0, 1, 2], [0, 1, 3], [1, 1, 2], [0, 1, 2]], dtype=np.int32)
SIZES = (2, 4, 8)


def test_features_by_hand() -> None:
    found = item_features(ITEMS, SEEN, sid_rows(CODES, SIZES, "levels"), RankConfig())
    assert found.names == ("id", "category", "sid_1", "sid_2", "sid_3"), "nobody has a brand"
    assert found.rows_NF[:, 0].tolist() == [0, 1, 2, 3]
    assert found.rows_NF[:, 1].tolist() == [2, 0, 1, 2], "0 where unknown"
    assert np.array_equal(found.rows_NF[:, 2:], CODES)
    assert found.sizes == (4, 3, 2, 4, 8)
    assert found.seen_N.tolist() == [3, 0, 1, 7]
    assert found.categories_N.tolist() == [1, -1, 0, 1]
    assert (found.rows_NF.dtype, found.seen_N.dtype, found.categories_N.dtype) == (np.int64, np.float32, np.int64)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"features": ("id",), "sid": "none"}, ("id",)),
        ({"features": ("brand", "category"), "sid": "none"}, ("category",)),
        ({"features": ()}, ("sid_1", "sid_2", "sid_3")),
        ({"features": ("category", "id")}, ("category", "id", "sid_1", "sid_2", "sid_3")),
    ],
)
def test_only_what_is_asked_for(options: dict[str, object], names: tuple[str, ...]) -> None:
    found = item_features(ITEMS, SEEN, sid_rows(CODES, SIZES, "levels"), RankConfig.model_validate(options))
    assert found.names == names
    assert found.rows_NF.shape == (4, len(names)) == (4, len(found.sizes))
    assert found.categories_N.tolist() == [1, -1, 0, 1], "for hard search, whatever the features"


def test_a_catalogue_without_labels() -> None:
    found = item_features(ITEMS.select("item_id"), SEEN, None, RankConfig(sid="none"))
    assert found.names == ("id",)
    assert found.categories_N.tolist() == [-1] * 4


def test_nothing_to_know_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"no item has a value in brand[\s\S]*fix: add id to rank.features"):
        item_features(ITEMS, SEEN, None, RankConfig(features=("brand",), sid="none"))
    with pytest.raises(ConfigError, match=r"asks for SIDs and there are none[\s\S]*fix: lgsid tokenize RUN"):
        item_features(ITEMS, SEEN, None, RankConfig())


@given(st.lists(st.tuples(*(st.integers(0, size - 1) for size in SIZES)), min_size=2, max_size=40))
def test_equal_rows_are_equal_tokens_or_equal_prefixes(codes: list[tuple[int, ...]]) -> None:
    codes_NL = np.array(codes, dtype=np.int32)
    for how in ("levels", "prefixes"):
        found = sid_rows(codes_NL, SIZES, how)
        assert found.rows_NL.dtype == np.int64
        for level, size in enumerate(found.sizes):
            start = 0 if how == "prefixes" else level
            rows_N = found.rows_NL[:, level]
            assert rows_N.min() >= 0
            assert rows_N.max() < size
            known: dict[tuple[int, ...], int] = {}
            for code, row in zip(codes, rows_N.tolist(), strict=True):
                assert known.setdefault(code[start : level + 1], row) == row
            assert len(set(known.values())) == len(known)
    assert found.sizes == (2, 8, 64)


def test_long_prefixes_are_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PREFIX_ROWS", 10)
    found = sid_rows(CODES, SIZES, "prefixes")
    assert found.sizes == (2, 8, 10)
    assert found.rows_NL[0, 2] == found.rows_NL[3, 2], "the same item code, the same row"
    assert found.rows_NL[:, 2].max() < 10


def test_rows_of_a_tokeniser_s_own_tables() -> None:
    """Tables need not be one a token."""
    rows = SidRows(np.array([[5], [6], [5], [0]]), (7,))
    found = item_features(ITEMS, SEEN, rows, RankConfig(features=()))
    assert (found.names, found.sizes) == (("sid_1",), (7,))
    assert np.array_equal(found.rows_NF, rows.rows_NL)
