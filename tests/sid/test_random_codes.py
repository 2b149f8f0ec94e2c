"""Random codes: functions of the identifier alone, even, and with no meaning."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.config import SidConfig
from lgsid.data.labels import region_path
from lgsid.errors import ConfigError, DataError
from lgsid.sid.quality import collision_rates, purity
from lgsid.sid.random_codes import RandomTokenizer, hashed_codes


def config(codes: int = 8, levels: int = 3) -> SidConfig:
    return SidConfig(method="random", codes=codes, levels=levels)


def ids(count: int) -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"item {number}" for number in range(count)]})


def test_codes_are_the_hash_that_is_documented() -> None:
    """Saved SIDs must be the same in every version: recomputed from the definition."""
    codes = hashed_codes(pl.DataFrame({"item_id": ["a", "Zürich", ""]}), 3, 256, seed=7)
    for row, name in zip(codes, ("a", "Zürich", ""), strict=True):
        stream = hashlib.shake_128(f"7\x00{name}".encode()).digest(24)
        assert row.tolist() == [int.from_bytes(stream[at : at + 8], "little") % 256 for at in (0, 8, 16)]
    fewer_levels = hashed_codes(pl.DataFrame({"item_id": ["a"]}), 2, 256, seed=7)
    assert np.array_equal(fewer_levels[0], codes[0, :2])


def test_codes_depend_on_the_identifier_alone() -> None:
    items, emb = toy_city()
    tokenizer = RandomTokenizer(config=config()).fit(items, emb)
    codes = tokenizer.transform(items, emb)
    assert np.array_equal(tokenizer.transform(items[::-1], emb)[::-1], codes)
    assert np.array_equal(tokenizer.transform(items.select("item_id"), np.zeros_like(emb)), codes)
    renamed = items.with_columns(pl.col("item_id") + "x")
    assert (tokenizer.transform(renamed, emb) == codes).mean() == pytest.approx(1 / 8, abs=0.06)
    fewer = RandomTokenizer(config=config()).fit(items[:100], emb[:100])
    assert np.array_equal(fewer.transform(items, emb), codes)


def test_numbers_as_identifiers_are_their_text() -> None:
    numbers = pl.DataFrame({"item_id": [1, 22, 333]})
    assert np.array_equal(hashed_codes(numbers, 3, 64, 0), hashed_codes(numbers.cast(pl.String), 3, 64, 0))


def test_codes_are_even_and_levels_and_seeds_independent() -> None:
    codes = hashed_codes(ids(32_768), 3, 64, seed=0)
    other = hashed_codes(ids(32_768), 3, 64, seed=1)
    pairs = [codes[:, 0], codes[:, 1], codes[:, 2], other[:, 0]]
    for column in pairs:
        chi2 = ((np.bincount(column, minlength=64) - 512) ** 2 / 512).sum()
        assert 63 - 5 * np.sqrt(126) < chi2 < 63 + 5 * np.sqrt(126)
    for left, right in ((0, 1), (1, 2), (0, 2), (0, 3)):
        assert (pairs[left] == pairs[right]).mean() == pytest.approx(1 / 64, abs=0.004)


def test_collisions_are_those_of_balls_thrown_into_bins() -> None:
    items = ids(20_000)
    share, _ = collision_rates(hashed_codes(items, 2, 256, seed=0))
    assert share == pytest.approx(1 - np.exp(-(len(items) - 1) / 256**2), abs=0.01)


def test_vectors_are_the_mean_residuals_of_their_items() -> None:
    items, emb = toy_city()
    tokenizer = RandomTokenizer(config=config()).fit(items, emb)
    codes, residual = tokenizer.transform(items, emb), emb.copy()
    for level, book in enumerate(tokenizer.books):
        for code in range(8):
            assert np.allclose(book[code], residual[codes[:, level] == code].mean(axis=0), atol=1e-5)
        residual -= book[codes[:, level]]
    assert np.allclose(tokenizer.decode(codes), emb - residual, atol=1e-5)


def test_a_code_of_no_item_stands_for_all() -> None:
    items, emb = toy_city(16)
    tokenizer = RandomTokenizer(config=config(codes=64)).fit(items, emb)
    unused = sorted(set(range(64)) - set(tokenizer.transform(items, emb)[:, 0].tolist()))
    assert unused
    assert np.allclose(tokenizer.books[0][unused], emb.mean(axis=0), atol=1e-6)


def test_tokens_say_nothing_about_place_or_kind() -> None:
    items, emb = toy_city(512)
    first = RandomTokenizer(config=config()).fit(items, emb).transform(items, emb)[:, 0]
    assert purity(first, region_path(items, 2)) < 0.33  # a quarter is chance
    assert purity(first, items["category"]) < 0.33


def test_bad_input_is_refused() -> None:
    items, emb = toy_city()
    with pytest.raises(ConfigError, match="5 points cannot fill 8 codes"):
        RandomTokenizer(config=config()).fit(items[:5], emb[:5])
    with pytest.raises(DataError, match="no column 'item_id'"):
        RandomTokenizer(config=config()).fit(items.drop("item_id"), emb)
