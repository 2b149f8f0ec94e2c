"""Unified semantic and ID codes: angle at the first levels, distance at the last, an id for every whole code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import SidConfig, UnifiedConfig
from lgsid.sid.stage import unique_codes
from lgsid.sid.unified import UnifiedTokenizer

SMALL = SidConfig(
    method="unified",
    levels=3,
    codes=8,
    unified=UnifiedConfig(hidden=(64,), latent=8, steps=100, warm_steps=50, batch=64, learning_rate=1e-2),
)


@pytest.fixture(scope="module")
def city() -> tuple[pl.DataFrame, FloatArray]:
    return toy_city()


@pytest.fixture(scope="module")
def fitted(city: tuple[pl.DataFrame, FloatArray]) -> UnifiedTokenizer:
    return UnifiedTokenizer(config=SMALL).fit(*city)


def test_levels_choose_as_they_should(fitted: UnifiedTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    residual = fitted.project(*city)
    codes = fitted.transform(*city)
    differs = []
    for level, book in enumerate(fitted.books):
        by_angle = (residual @ (book / np.linalg.norm(book, axis=1, keepdims=True)).T).argmax(1)
        by_distance = ((residual[:, None] - book) ** 2).sum(2).argmin(1)
        expected, other = (by_angle, by_distance) if level < 2 else (by_distance, by_angle)
        assert (codes[:, level] == expected).mean() > 0.99  # but for rounding
        differs.append((codes[:, level] != other).any())
        residual = residual - book[codes[:, level]]
    assert any(differs[:2])
    assert differs[2]


def test_the_first_token_does_not_depend_on_length(
    fitted: UnifiedTokenizer, city: tuple[pl.DataFrame, FloatArray]
) -> None:
    z = fitted.project(*city)
    assert np.array_equal(fitted._codes(3 * z, None)[:, 0], fitted._codes(z, None)[:, 0])


def test_every_item_has_an_id_of_its_own(fitted: UnifiedTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    raw = fitted.transform(items, emb)
    unique = unique_codes(fitted, raw, items, emb).codes
    rows, sizes = fitted.embedding_rows(unique)
    assert rows.dtype == np.int64
    assert sizes == [8, 8, 8, len(items)]
    assert np.array_equal(rows[:, :3], unique[:, :3])
    assert sorted(rows[:, 3].tolist()) == list(range(len(items)))
    shared, sizes = fitted.embedding_rows(raw)
    assert sizes[3] == len(np.unique(raw, axis=0)) < len(items)
    assert len(np.unique(shared, axis=0)) == sizes[3]


def test_an_extra_token_is_part_of_the_id(fitted: UnifiedTokenizer) -> None:
    rows, sizes = fitted.embedding_rows(np.array([[1, 2, 3, 0], [1, 2, 3, 1], [0, 0, 0, 0]], dtype=np.int32))
    assert sizes == [8, 8, 8, 3]
    assert rows.tolist() == [[1, 2, 3, 1], [1, 2, 3, 2], [0, 0, 0, 0]]


def test_saved_and_loaded_it_still_chooses_by_angle(
    fitted: UnifiedTokenizer, city: tuple[pl.DataFrame, FloatArray], tmp_path: Path
) -> None:
    fitted.save_pretrained(tmp_path)
    loaded = UnifiedTokenizer.from_pretrained(tmp_path)
    assert np.array_equal(loaded.transform(*city), fitted.transform(*city))
