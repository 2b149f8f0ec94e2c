"""N-grams of codes: rows of embedding tables, exact where they can be, hashed well where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_city

from lgsid.arrays import CodeArray
from lgsid.config import NgramConfig, RqVaeConfig, SidConfig
from lgsid.errors import DataError
from lgsid.sid.ngram import NgramTokenizer, ngram_hash, plain_ngrams, prefix_ngrams
from lgsid.sid.rqvae import RqVaeTokenizer

NETWORK = RqVaeConfig(hidden=(16,), latent=4, steps=20, warm_steps=10, batch=64)


def all_codes(*sizes: int) -> CodeArray:
    """Every code there can be, once."""
    return np.indices(sizes).reshape(len(sizes), -1).T.astype(np.int32)


def test_prefixes_have_rows_of_their_own_where_there_is_room() -> None:
    codes = all_codes(3, 4, 5)
    rows, sizes = prefix_ngrams(codes, [3, 4, 5], rows=60)
    assert sizes == [3, 12, 60]
    assert np.array_equal(rows[:, 0], codes[:, 0])
    assert np.array_equal(rows[:, 1], codes[:, 0] * 4 + codes[:, 1])
    assert np.array_equal(rows[:, 2], np.arange(60))


def test_a_full_table_is_hashed_and_the_shorter_ones_stay_exact() -> None:
    codes = all_codes(3, 4, 5)
    rows, sizes = prefix_ngrams(codes, [3, 4, 5], rows=59)
    assert sizes == [3, 12, 59]
    assert rows[:, 2].max() < 59
    assert len(np.unique(rows[:, 1])) == 12


def test_plain_ngrams_cut_the_code_into_pieces() -> None:
    rows, sizes = plain_ngrams(np.array([[1, 2, 3], [1, 2, 4], [0, 2, 3]], dtype=np.int32), [5, 5, 5], 2, 100)
    assert sizes == [25, 5]
    assert rows.tolist() == [[7, 3], [7, 4], [2, 3]]
    assert plain_ngrams(all_codes(2, 2), [2, 2], 1, 100)[1] == [2, 2]


@given(st.integers(1, 4), st.integers(2, 300), st.integers(1, 5_000), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_rows_are_in_range_and_say_what_the_prefix_says(levels: int, codes: int, most: int, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(codes, size=(40, levels)).astype(np.int32)
    rows, sizes = prefix_ngrams(drawn, [codes] * levels, most)
    assert rows.shape == (40, levels)
    assert (rows >= 0).all()
    assert (rows < sizes).all()
    assert max(sizes) <= most
    for level in range(levels):
        _, prefix = np.unique(drawn[:, : level + 1], axis=0, return_inverse=True)
        pairs = np.unique(np.stack([prefix.ravel(), rows[:, level]]), axis=1).shape[1]
        assert pairs == len(np.unique(prefix))  # the same prefix, the same row
        if codes ** (level + 1) <= most:
            assert len(np.unique(rows[:, level])) == pairs  # another prefix, another row
    assert np.array_equal(prefix_ngrams(drawn[7:8], [codes] * levels, most)[0], rows[7:8])


def test_the_hash_spreads_neighbouring_codes_evenly() -> None:
    codes = all_codes(64, 64, 16)
    hashed = ngram_hash(codes, table=2)
    assert len(np.unique(hashed)) == len(codes)
    load = np.bincount((hashed % np.uint64(1024)).astype(np.int64), minlength=1024)
    chi_square = ((load - 64.0) ** 2 / 64.0).sum()
    assert 850 < chi_square < 1200  # 1,023 expected, deviation 45
    assert not np.array_equal(ngram_hash(codes, table=3), hashed)
    assert not np.array_equal(ngram_hash(codes[:, ::-1], table=2), hashed)


def test_codes_are_those_of_rqvae_and_tables_those_of_the_configuration() -> None:
    items, emb = toy_city(16)
    config = SidConfig(method="rqvae_ngram", codes=8, rqvae=NETWORK, ngram=NgramConfig(rows=100))
    tokenizer = NgramTokenizer(config=config).fit(items, emb)
    codes = tokenizer.transform(items, emb)
    assert np.array_equal(codes, RqVaeTokenizer(config=config).fit(items, emb).transform(items, emb))
    rows, sizes = tokenizer.embedding_rows(codes)
    assert sizes == [8, 64, 100]
    longer = np.concatenate([codes, np.zeros((len(codes), 1), dtype=np.int32)], axis=1)
    assert np.array_equal(tokenizer.embedding_rows(longer)[0][:, :3], rows)
    assert tokenizer.embedding_rows(longer)[1] == [8, 64, 100, 100]
    plain = config.model_copy(update={"ngram": NgramConfig(kind="plain", order=2)})
    assert NgramTokenizer(config=plain).fit(items, emb).embedding_rows(codes)[1] == [64, 8]
    with pytest.raises(DataError, match="expected 0 to 7"):
        tokenizer.embedding_rows(codes + 8)
