"""The geographic teacher: for every item the vector an ideal encoder would give it.

No vectors can hold more neighbours of a region at the same kept meaning than those whose similarity is

    s(i, j) = original similarity(i, j) + Σ_level w_level · [same region at that level] + w_near · k(distance(i, j))

(the oracle of the geography–meaning frontier ranks by it). The teacher writes that similarity down as an inner product:
the leading principal axes of the original vectors keep the meaning, and the axes with the least variance, which hardly
carry any, are given to geography: a random unit vector for each region's name, so that two regions are nearly
orthogonal, and random Fourier features (Rahimi and Recht, NIPS 2007) of the position for the Gaussian kernel k.
Geography has two blocks of axes of its own, coarse (province, city) and fine (district, nearness), so that each can be
given more or less weight after training.

Shapes: N items, D dimensions, M of meaning, C coarse, F fine; D = M + C + F.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, FloatArray
from lgsid.config import TeacherConfig
from lgsid.data.labels import REGIONS, identities, region_path
from lgsid.geo import EARTH_RADIUS_KM, unit_sphere

_COARSE_SHARE, _FINE_SHARE = 1 / 10, 3 / 10
"""Shares of the dimensions. The rest is meaning: 230 of MiniLM's 384 keep 99.99 % of the neighbours' similarity."""


@dataclass(frozen=True)
class Teacher:
    """Targets of the training items, and the axes they stand on.

    Attributes:
        axes: orthonormal axes of the space, shape (D, D); the columns are meaning, coarse and fine geography.
        meaning, coarse, fine: which columns.
        targets: teacher vectors of the items it was fitted on, in the coordinates of ``axes``, (N, D), not normalised.
        config, seed: what the geographic blocks are made with.
    """

    axes: FloatArray
    meaning: slice
    coarse: slice
    fine: slice
    targets: FloatArray
    config: TeacherConfig
    seed: int

    def of(self, items: pl.DataFrame, reference_ND: FloatArray) -> FloatArray:
        """Targets of any items, in the coordinates of ``axes``: a region never seen has its own vector, too."""
        targets_ND = np.empty((len(items), len(self.axes)), dtype=np.float32)
        targets_ND[:, self.meaning] = reference_ND @ self.axes[:, self.meaning]
        targets_ND[:, self.coarse] = coarse_geography(items, _width(self.coarse), self.config)
        targets_ND[:, self.fine] = fine_geography(items, _width(self.fine), self.config, self.seed)
        return targets_ND

    def scales(self, coarse: float, fine: float) -> FloatArray:
        """A factor for every axis, shape (D,): the dials of coarse and fine geography."""
        scale_D = np.ones(len(self.axes), dtype=np.float32)
        scale_D[self.coarse], scale_D[self.fine] = coarse, fine
        return scale_D


def fit_teacher(items: pl.DataFrame, reference_ND: FloatArray, config: TeacherConfig, seed: int) -> Teacher:
    """The teacher of some items.

    Args:
        items: the N items (province, city, district, lat_deg, lon_deg; a region that is not known adds nothing).
        reference_ND: their unaligned unit vectors.
        config: the weights w.
        seed: for the Fourier features.
    """
    axes_DD = _principal_axes(reference_ND)
    dim = len(axes_DD)
    coarse, fine = (max(1, round(dim * share)) for share in (_COARSE_SHARE, _FINE_SHARE))
    blocks = (slice(0, dim - coarse - fine), slice(dim - coarse - fine, dim - fine), slice(dim - fine, dim))
    empty = Teacher(axes_DD, *blocks, axes_DD[:0], config, seed)
    return replace(empty, targets=empty.of(items, reference_ND))


def coarse_geography(items: pl.DataFrame, dim: int, config: TeacherConfig) -> DoubleArray:
    """Shape (N, ``dim``): inner products are the bonus of one province and of one city."""
    return _identities(items, 1, config.province, dim) + _identities(items, 2, config.city, dim)


def fine_geography(items: pl.DataFrame, dim: int, config: TeacherConfig, seed: int) -> DoubleArray:
    """Shape (N, ``dim``): inner products are the bonus of one district and of nearness."""
    near_NF: DoubleArray = np.sqrt(config.near) * _fourier_features(items, dim, config.near_km, seed)
    return _identities(items, 3, config.district, dim) + near_NF


def _identities(items: pl.DataFrame, depth: int, weight: float, dim: int) -> DoubleArray:
    vectors: DoubleArray = np.sqrt(weight) * identities(region_path(items, depth), REGIONS[depth - 1], dim)
    return vectors


def _width(block: slice) -> int:
    return int(block.stop - block.start)


def _principal_axes(emb_ND: FloatArray) -> FloatArray:
    """Principal axes of the vectors about the origin (cosine does not subtract a mean), by falling variance."""
    emb = emb_ND.astype(np.float64)
    _, axes_DD = np.linalg.eigh(emb.T @ emb)
    falling: FloatArray = np.ascontiguousarray(axes_DD[:, ::-1]).astype(np.float32)
    return falling


def _fourier_features(items: pl.DataFrame, dim: int, scale_km: float, seed: int) -> DoubleArray:
    """Features whose inner product is about exp(-distance² / (2 · scale²)), shape (N, ``dim``)."""
    xyz_N3 = EARTH_RADIUS_KM * unit_sphere(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy())
    half = dim // 2
    frequency = np.random.default_rng([seed, 1]).standard_normal((3, half)) / scale_km
    phase_NH = xyz_N3 @ frequency
    features = np.zeros((len(items), dim))
    features[:, : 2 * half] = np.concatenate([np.cos(phase_NH), np.sin(phase_NH)], axis=1) / np.sqrt(half)
    return features
