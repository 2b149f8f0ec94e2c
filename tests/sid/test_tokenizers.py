"""Conformance suite: what every tokeniser does; it runs every method named in `lgsid.sid.methods.METHODS`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import SidConfig
from lgsid.errors import ArtifactError, ConfigError, DataError, NotFittedError
from lgsid.sid.base import Tokenizer
from lgsid.sid.methods import METHODS, load_tokenizer, make_tokenizer, tokenizer_class
from lgsid.sid.quality import squared_errors

NETWORK = {
    "hidden": (64,), "latent": 8, "steps": 100, "warm_steps": 50, "batch": 64, "learning_rate": 1e-2, "validations": 2,
}  # fmt: skip
SMALL: dict[str, Any] = {
    "levels": 3, "codes": 8, "epochs": 3, "batch": 64, "rqvae": NETWORK, "unified": NETWORK, "gnpr": NETWORK,
}  # fmt: skip
LARGEST_ERROR = {"random": 1.01}
"""Relative reconstruction error allowed; 0.25 where nothing else is said."""
Make = Callable[..., Tokenizer]


@pytest.fixture(params=sorted(METHODS))
def make(request: pytest.FixtureRequest) -> Make:
    return lambda seed=0: make_tokenizer(SidConfig(method=request.param, **SMALL), seed)


@pytest.fixture(scope="module")
def city() -> tuple[pl.DataFrame, FloatArray]:
    return toy_city()


def test_codes_are_in_range_and_of_the_right_shape(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    codes = make().fit(*city).transform(*city)
    assert codes.shape == (len(city[0]), 3)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < 8


def test_same_seed_same_bits_other_seed_other_codes(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    one, two, other = (make(seed=seed).fit(*city) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one.books, two.books, strict=True))
    assert np.array_equal(one.transform(*city), two.transform(*city))
    assert not all(np.array_equal(a, b) for a, b in zip(one.books, other.books, strict=True))


def test_alone_equals_in_a_batch(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    tokenizer = make().fit(items, emb)
    together = tokenizer.transform(items, emb)
    for row in (0, 17, len(items) - 1):
        assert np.array_equal(tokenizer.transform(items[row : row + 1], emb[row : row + 1]), together[row : row + 1])


def test_saved_and_loaded_gives_the_same(make: Make, city: tuple[pl.DataFrame, FloatArray], tmp_path: Path) -> None:
    fitted = make().fit(*city)
    fitted.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(fitted)
    codes = fitted.transform(*city)
    assert np.array_equal(loaded.transform(*city), codes)
    assert np.array_equal(loaded.decode(codes), fitted.decode(codes))
    assert str(loaded.explain(codes[0])) == str(fitted.explain(codes[0]))
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pt", ".bin")]


def test_decode_is_near_the_embedding(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    tokenizer = make().fit(items, emb)
    decoded = tokenizer.decode(tokenizer.transform(items, emb))
    error = ((decoded - emb) ** 2).sum(1).mean() / ((emb - emb.mean(0)) ** 2).sum(1).mean()
    assert decoded.dtype == np.float32
    assert error < LARGEST_ERROR.get(tokenizer.method, 0.25)


def test_explanations_cover_every_token_in_use(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    tokenizer = make().fit(*city)
    codes = tokenizer.transform(*city)
    for level in range(codes.shape[1]):
        assert set(tokenizer.tokens.meanings[level + 1]) == set(codes[:, level].tolist())
        assert sum(token.items for token in tokenizer.tokens.meanings[level + 1].values()) == len(codes)
    assert all(tokenizer.explain(codes[5]).tokens)


def test_bad_input_is_refused(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    with pytest.raises(NotFittedError, match="before fit"):
        make().transform(items, emb)
    with pytest.raises(NotFittedError, match="before fit"):
        make().decode(np.zeros((1, 3), dtype=np.int32))
    with pytest.raises(DataError, match="256 items and 10 embeddings"):
        make().fit(items, emb[:10])
    holed = emb.copy()
    holed[3, 2] = np.nan
    with pytest.raises(DataError, match=r"row 3 .* NaN"):
        make().fit(items, holed)
    with pytest.raises(ConfigError, match="5 points cannot fill 8 codes"):
        make().fit(items[:5], emb[:5])
    fitted = make().fit(items, emb)
    with pytest.raises(DataError, match="expected 0 to 7"):
        fitted.decode(np.full((1, 3), 8, dtype=np.int32))


def test_damaged_folders_are_refused(make: Make, city: tuple[pl.DataFrame, FloatArray], tmp_path: Path) -> None:
    fitted = make().fit(*city)
    with pytest.raises(ArtifactError, match="no file"):
        type(fitted).from_pretrained(tmp_path / "nothing")
    fitted.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "method": "another"}))
    with pytest.raises(ArtifactError, match="does not hold"):
        type(fitted).from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "sizes": [8, 8, 16]}))
    with pytest.raises(ArtifactError, match="do not fit"):
        type(fitted).from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "codebooks.safetensors").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="cannot be read"):
        type(fitted).from_pretrained(tmp_path)


def test_fit_does_not_change_its_input(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    before = emb.copy()
    make().fit(items, emb).transform(items, emb)
    assert np.array_equal(emb, before)


def test_embeddings_on_disk_in_half_precision_and_in_chunks(
    make: Make, city: tuple[pl.DataFrame, FloatArray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items, emb = city
    half = emb.astype(np.float16)
    np.save(tmp_path / "half.npy", half)
    on_disk = np.load(tmp_path / "half.npy", mmap_mode="r")
    tokenizer = make().fit(items, half.astype(np.float32))
    whole = tokenizer.transform(items, half.astype(np.float32))
    monkeypatch.setattr("lgsid.sid.base.CHUNK", 100)
    assert np.array_equal(tokenizer.transform(items, on_disk), whole)


def test_first_tokens_can_be_decoded_and_more_tokens_say_more(
    make: Make, city: tuple[pl.DataFrame, FloatArray]
) -> None:
    items, emb = city
    tokenizer = make().fit(items, emb)
    codes = tokenizer.transform(items, emb)
    errors = squared_errors(emb, codes, tokenizer.decode)
    assert errors.shape == (3,)
    assert errors[2] <= errors[0] * 1.05
    extra = np.column_stack([codes, np.arange(len(codes), dtype=np.int32)])
    assert np.array_equal(tokenizer.decode(extra), tokenizer.decode(codes))


def test_the_last_level_costs_are_least_at_its_own_code(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    tokenizer = make().fit(items, emb)
    codes = tokenizer.transform(items, emb)
    distance = tokenizer.last_level_distances(tokenizer.project(items, emb), codes)
    assert distance.shape == (len(items), 8)
    if tokenizer.method != "random":  # whose codes have nothing to do with distance
        assert np.mean(distance.argmin(axis=1) == codes[:, 2]) > 0.99


def test_codes_find_their_rows_in_embedding_tables(make: Make, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    tokenizer = make().fit(items, emb)
    codes = tokenizer.transform(items, emb)
    rows, sizes = tokenizer.embedding_rows(codes)
    assert rows.dtype == np.int64
    assert rows.shape == (len(items), len(sizes))
    assert all(column.min() >= 0 and column.max() < size for column, size in zip(rows.T, sizes, strict=True))
    same = np.flatnonzero((codes == codes[0]).all(axis=1))
    assert (rows[same] == rows[0]).all()


def test_unknown_methods_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tokeniser 'hash'"):
        tokenizer_class("hash")
    (tmp_path / "config.json").write_text('{"method": "hash"}')
    with pytest.raises(ArtifactError, match="unknown method 'hash'"):
        load_tokenizer(tmp_path)
