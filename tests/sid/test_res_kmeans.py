"""Residual k-means: Lloyd level by level, and clusters of equal size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import ResKMeansConfig, SidConfig
from lgsid.errors import ConfigError
from lgsid.sid.kmeans import KMeans
from lgsid.sid.quality import gini, level_use
from lgsid.sid.res_kmeans import ResKMeansTokenizer, balanced_centroids, balanced_sweep, residual_kmeans


def config(codes: int = 8, **options: object) -> SidConfig:
    return SidConfig(method="res_kmeans", codes=codes, res_kmeans=ResKMeansConfig.model_validate(options))


def swept_one_by_one(x: FloatArray, centroids: FloatArray) -> list[int]:
    """Algorithm 1 of OneRec word for word: a cluster sorts the items that are left and takes the first of them."""
    taken, left = [-1] * len(x), list(range(len(x)))
    for cluster, centroid in enumerate(centroids):
        size = len(x) // len(centroids) + (cluster < len(x) % len(centroids))
        left.sort(key=lambda row: float(((x[row] - centroid) ** 2).sum()))
        for row in left[:size]:
            taken[row] = cluster
        left = left[size:]
    return taken


def test_two_levels_find_the_two_parts_of_sums() -> None:
    """Embeddings that are one of four far points plus one of four near offsets: both levels have a known answer."""
    rng = np.random.default_rng(0)
    far, near = 10 * np.eye(8)[:4], np.eye(8)[4:] - 0.25 * np.eye(8)[4:].sum(0)
    big, small = rng.integers(0, 4, 400), rng.integers(0, 4, 400)
    emb = (far[big] + near[small]).astype(np.float32)
    books = residual_kmeans(torch.from_numpy(emb), 2, 4, ResKMeansConfig(), torch.Generator().manual_seed(0))
    assert np.allclose(sorted(books[1][:, 4:].tolist()), sorted(near[:, 4:].tolist()), atol=0.15)
    items, _ = toy_city(100)
    tokenizer = ResKMeansTokenizer(config=config(4, iterations=30)).fit(items, emb)
    codes = tokenizer.transform(items, emb)
    for column, truth in ((codes[:, 0], big), (codes[:, 1], small)):
        assert len(set(zip(column.tolist(), truth.tolist(), strict=True))) == 4


def test_each_level_lowers_the_error_and_the_first_is_plain_k_means() -> None:
    items, emb = toy_city()
    tokenizer = ResKMeansTokenizer(config=config(), seed=3).fit(items, emb)
    assert np.array_equal(
        tokenizer.books[0], KMeans(8, iterations=20, sample_per_code=512, seed=3).fit(emb).centroids_KD
    )
    codes = tokenizer.transform(items, emb)
    errors = [float(((emb - tokenizer.decode(codes[:, :level])) ** 2).sum()) for level in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_geography_plays_no_part() -> None:
    items, emb = toy_city()
    shuffled = items.with_columns(pl.col("lat_deg", "lon_deg", "province", "city", "district").reverse())
    one, two = (ResKMeansTokenizer(config=config()).fit(table, emb) for table in (items, shuffled))
    assert np.array_equal(one.transform(items, emb), two.transform(shuffled, emb))


@given(st.integers(0, 1000), st.integers(1, 40), st.integers(0, 60))
@settings(deadline=None, max_examples=30)
def test_a_sweep_is_the_published_algorithm(seed: int, clusters: int, more: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((clusters + more, 3)).astype(np.float32)
    centroids = rng.standard_normal((clusters, 3)).astype(np.float32)
    taken = balanced_sweep(torch.from_numpy(x), torch.from_numpy(centroids))
    assert taken.tolist() == swept_one_by_one(x, centroids)
    sizes = np.bincount(taken.numpy(), minlength=clusters)
    assert sizes.max() - sizes.min() <= 1


def test_sweeps_of_separate_equal_blobs_end_in_their_centres() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[0, 0], [100, 0], [0, 100]], dtype=np.float32)
    x = np.repeat(centres, 20, axis=0) + rng.standard_normal((60, 2)).astype(np.float32)
    start = torch.from_numpy(x[[0, 20, 40]])
    found = balanced_centroids(torch.from_numpy(x), start, sweeps=10)
    assert np.allclose(found.numpy(), x.reshape(3, 20, 2).mean(axis=1), atol=1e-4)
    assert torch.equal(found, balanced_centroids(torch.from_numpy(x), start, sweeps=100))


def test_balanced_clusters_are_used_more_evenly_and_describe_worse() -> None:
    items, _ = toy_city(256)
    rng = np.random.default_rng(0)
    emb = (np.repeat(rng.standard_normal((16, 8)), 64, axis=0) * rng.pareto(1.5, (1024, 1))).astype(np.float32)
    use, error = {}, {}
    for balanced in (False, True):
        tokenizer = ResKMeansTokenizer(config=config(16, balanced=balanced)).fit(items, emb)
        codes = tokenizer.transform(items, emb)
        use[balanced] = gini(np.bincount(codes[:, 0], minlength=16).astype(np.float64))
        error[balanced] = float(((emb - tokenizer.decode(codes)) ** 2).sum())
    assert use[True] < use[False] - 0.1
    assert error[True] > error[False]


@pytest.mark.parametrize("balanced", [False, True])
def test_repeated_embeddings_are_no_error(balanced: bool) -> None:
    items, emb = toy_city()
    same = np.repeat(emb[:4], 64, axis=0)
    tokenizer = ResKMeansTokenizer(config=config(balanced=balanced)).fit(items, same)
    assert all(np.isfinite(book).all() for book in tokenizer.books)
    assert len(np.unique(tokenizer.transform(items, same), axis=0)) <= 4


@pytest.mark.parametrize("balanced", [False, True])
def test_too_few_items_are_refused(balanced: bool) -> None:
    items, emb = toy_city(1)
    with pytest.raises(ConfigError, match="4 points cannot fill 8 codes"):
        ResKMeansTokenizer(config=config(balanced=balanced)).fit(items, emb)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="iterations"):
        ResKMeansConfig(iterations=0)


@pytest.mark.real
def test_categories_of_three_states_share_tokens(real_data: Path) -> None:
    """Residual codes of category indicators of real shops: every code in use, most of the variance described."""
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["title", "category", "lon_deg"])[
        :3000
    ]
    words = items["category"].str.split("|").list.eval(pl.element().str.strip_chars())
    known = words.explode(empty_as_null=True).value_counts(sort=True)["category"][:64].to_list()
    emb = np.stack([words.list.contains(word).to_numpy() for word in known], axis=1).astype(np.float32)
    for balanced, worst in ((False, 0.2), (True, 0.6)):
        tokenizer = ResKMeansTokenizer(config=config(32, balanced=balanced)).fit(items, emb)
        codes = tokenizer.transform(items, emb)
        error = ((emb - tokenizer.decode(codes)) ** 2).sum() / ((emb - emb.mean(0)) ** 2).sum()
        assert error < worst
        assert level_use(codes[:, 0], 32)["utilisation"] == 1
