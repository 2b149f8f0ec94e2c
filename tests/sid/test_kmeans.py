"""K-means and residual codebooks against brute force and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as ReferenceKMeans

from lgsid.errors import ConfigError, DataError, NotFittedError
from lgsid.sid.kmeans import KMeans, revive
from lgsid.sid.residual import Training, decode, encode, fit_residual


def blobs(n: int = 600, dim: int = 5, centres: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        10 * rng.standard_normal((centres, dim))[rng.integers(0, centres, n)] + rng.standard_normal((n, dim))
    ).astype(np.float32)


def test_finds_well_separated_blobs() -> None:
    x = blobs()
    model = KMeans(6).fit(x)
    error = ((x - model.centroids_KD[model.predict(x)]) ** 2).sum(1).mean()
    assert error == pytest.approx(5.0, rel=0.1)  # five dimensions of unit noise


def test_as_good_as_scikit_learn() -> None:
    x = np.random.default_rng(1).standard_normal((4000, 12)).astype(np.float32)
    ours = KMeans(64, iterations=25).fit(x)
    theirs = ReferenceKMeans(64, n_init=1, max_iter=25, random_state=0).fit(x)
    error = ((x - ours.centroids_KD[ours.predict(x)]) ** 2).sum()
    assert error < 1.01 * theirs.inertia_


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(1, 8))
@settings(deadline=None, max_examples=30)
def test_prediction_is_the_nearest_centroid(seed: int, n: int, codes: int) -> None:
    rng = np.random.default_rng(seed)
    model = KMeans(codes)
    model.centroids_KD = rng.standard_normal((codes, 3)).astype(np.float32)
    x = rng.standard_normal((n, 3)).astype(np.float32)
    distance = ((x[:, None] - model.centroids_KD) ** 2).sum(-1)
    chosen = distance[np.arange(n), model.predict(x)]
    assert np.allclose(chosen, distance.min(1), atol=1e-5)


def test_no_code_is_dead_even_with_repeated_points() -> None:
    x = np.repeat(np.eye(8, dtype=np.float32), 50, axis=0)
    assert len(np.unique(KMeans(8).fit(x).predict(x))) == 8
    more_codes_than_points = KMeans(12).fit(x)
    assert np.isfinite(more_codes_than_points.centroids_KD).all()
    assert len(np.unique(more_codes_than_points.predict(x))) == 8


def test_revived_codes_move_to_the_worst_points() -> None:
    x = torch.tensor([[0.0], [0.1], [9.0]])
    centroids = revive(x, torch.tensor([0, 0, 0]), torch.tensor([[0.0], [-50.0]]))
    assert centroids.tolist() == [[0.0], [9.0]]


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="3 points cannot fill 8 codes"):
        KMeans(8).fit(np.zeros((3, 2), dtype=np.float32))
    with pytest.raises(DataError, match=r"row 1 .* NaN"):
        KMeans(1).fit(np.array([[0.0], [np.inf]], dtype=np.float32))
    with pytest.raises(DataError, match="shape"):
        KMeans(1).fit(np.zeros(3, dtype=np.float32))
    with pytest.raises(NotFittedError):
        KMeans(1).predict(np.zeros((1, 1), dtype=np.float32))


@given(st.integers(0, 1000), st.integers(1, 4), st.booleans())
@settings(deadline=None, max_examples=30)
def test_encoding_is_greedy_nearest_on_the_residual(seed: int, levels: int, given_first: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20, 6, generator=generator)
    books = [torch.randn(7, 6, generator=generator) for _ in range(levels)]
    first = torch.randint(7, (20,), generator=generator) if given_first else None
    codes = encode(x, books, first)
    residual = x.clone()
    for level, book in enumerate(books):
        distance = torch.cdist(residual, book)
        if level == 0 and first is not None:
            assert torch.equal(codes[:, 0], first)
        else:
            assert torch.allclose(
                distance.gather(1, codes[:, level : level + 1])[:, 0], distance.min(1).values, atol=1e-4
            )
        residual = residual - book[codes[:, level]]
    assert torch.allclose(decode(codes, books), x - residual, atol=1e-5)


def test_joint_training_lowers_the_error_and_keeps_a_frozen_level() -> None:
    x = torch.from_numpy(blobs(3000, 8, 40, seed=3))
    first = (torch.randn(16, 8), torch.randint(16, (3000,), generator=torch.Generator().manual_seed(0)))
    errors = {}
    for epochs in (0, 15):
        training = Training(epochs, 256, 0.05, 0.0)
        books = fit_residual(x, 3, 16, training, torch.Generator().manual_seed(0), first)
        assert torch.equal(books[0], first[0])
        errors[epochs] = float(((x - decode(encode(x, books, first[1]), books)) ** 2).sum(1).mean())
    assert errors[15] < 0.9 * errors[0]
