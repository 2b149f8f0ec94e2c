"""RQ-VAE: codes of the encoder's output, decoded by the decoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import RqVaeConfig, SidConfig
from lgsid.errors import ArtifactError, DataError
from lgsid.sid.quality import level_use, squared_errors, variance
from lgsid.sid.rqvae import RqVaeTokenizer
from lgsid.sid.stage import unique_codes
from lgsid.sid.unique import code_keys

SMALL = SidConfig(
    method="rqvae",
    levels=3,
    codes=8,
    rqvae=RqVaeConfig(hidden=(64,), latent=8, steps=100, warm_steps=50, batch=64, learning_rate=1e-2),
)


@pytest.fixture(scope="module")
def city() -> tuple[pl.DataFrame, FloatArray]:
    return toy_city()


@pytest.fixture(scope="module")
def fitted(city: tuple[pl.DataFrame, FloatArray]) -> RqVaeTokenizer:
    return RqVaeTokenizer(config=SMALL).fit(*city)


def test_every_level_lowers_the_error(fitted: RqVaeTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    errors = squared_errors(emb, fitted.transform(items, emb), fitted.decode) / variance(emb)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.2


def test_codes_live_in_the_latent_space(fitted: RqVaeTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    z = fitted.project(items, emb)
    codes = fitted.transform(items, emb)
    assert z.shape == (len(items), 8)
    assert all(book.shape == (8, 8) for book in fitted.books)
    assert np.array_equal(fitted.last_level_distances(z, codes).argmin(1), codes[:, -1])
    assert fitted.decode(codes).shape == emb.shape


def test_no_code_is_dead(fitted: RqVaeTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    codes = fitted.transform(*city)
    assert all(level_use(codes[:, level], 8)["utilisation"] == 1.0 for level in range(3))


def test_sids_become_unique(fitted: RqVaeTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    unique = unique_codes(fitted, fitted.transform(items, emb), items, emb)
    assert len(np.unique(code_keys(unique.codes))) == len(items)


def test_half_precision_is_taken(fitted: RqVaeTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    half = fitted.transform(items, emb.astype(np.float16))  # type: ignore[arg-type]
    assert (half == fitted.transform(items, emb)).mean() > 0.97


def test_embeddings_of_another_width_are_refused(fitted: RqVaeTokenizer, city: tuple[pl.DataFrame, FloatArray]) -> None:
    items, emb = city
    with pytest.raises(DataError, match="got embeddings of 10 dimensions, expected the 16 of fitting"):
        fitted.transform(items, emb[:, :10])


def test_a_folder_of_another_network_is_refused(fitted: RqVaeTokenizer, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["config"]["rqvae"]["hidden"] = [16]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ArtifactError, match="do not fit"):
        RqVaeTokenizer.from_pretrained(tmp_path)
