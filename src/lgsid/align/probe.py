"""A linear geographic probe: the directions of an embedding space that say where an item is.

Ridge regression from embeddings to nearness at several scales. The nearness of an item at scale s is the vector of
exp(-d / s) to a sample of landmarks; its leading principal axes are the targets. One closed form instead of many epochs
of gradient descent, and from all items' own prompts, which cost nothing: on real catalogues it lifts the reward's
held-out pair-order accuracy more than any change of its network.

Shapes: X embeddings, D dimensions, M landmarks, P probe dimensions.
"""

from __future__ import annotations

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray
from lgsid.geo import haversine_km

SCALES_KM = (1.0, 4.0, 16.0, 64.0)
"""From a neighbourhood to a metropolitan region."""
_AXES = 96
"""Targets a scale: more are noise."""
_LANDMARKS = 512
_RIDGE = 3.0
_MOST = 40_000
"""Embeddings that are looked at; a linear map of some hundred dimensions needs no more."""


def fit_probe(
    emb_XD: FloatArray, lat_deg: DoubleArray, lon_deg: DoubleArray, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Fit the probe, ``read = (embedding - mean) @ probe``.

    Args:
        emb_XD: unit vectors of X prompts.
        lat_deg, lon_deg: where the places in these prompts are.
        seed: for the sample and the landmarks.

    Returns:
        the probe (D, P), the `SCALES_KM` one after another with an equal number of dimensions and unit variance each;
        and the mean (D,).
    """
    rng = np.random.default_rng([seed, 0x9E0])
    chosen = np.sort(rng.permutation(len(emb_XD))[:_MOST])
    emb, lat, lon = emb_XD[chosen].astype(np.float64), lat_deg[chosen], lon_deg[chosen]
    mean_D = emb.mean(axis=0)
    emb -= mean_D
    gram_DD = emb.T @ emb + _RIDGE * np.eye(emb.shape[1])
    landmark_M = np.sort(rng.permutation(len(emb))[:_LANDMARKS])
    apart_km = haversine_km(lat[:, None], lon[:, None], lat[landmark_M], lon[landmark_M]).astype(np.float32)
    parts = []
    for scale_km in SCALES_KM:
        near_XM = np.exp(-apart_km / scale_km)
        read_DA = np.linalg.solve(gram_DD, emb.T @ _leading_axes(near_XM))
        spread = (emb @ read_DA).std()
        parts.append(read_DA / (spread if spread > 1e-9 else 1.0))
    return np.concatenate(parts, axis=1).astype(np.float32), mean_D.astype(np.float32)


def _leading_axes(near_XM: FloatArray) -> DoubleArray:
    """Coordinates on the leading principal axes, shape (X, A); zero columns where there are fewer landmarks than A."""
    centred_XM = (near_XM - near_XM.mean(axis=0)).astype(np.float64)
    _, axes_MM = np.linalg.eigh(centred_XM.T @ centred_XM)
    coordinates_XA = centred_XM @ axes_MM[:, ::-1][:, :_AXES]
    missing = _AXES - coordinates_XA.shape[1]
    return np.pad(coordinates_XA, ((0, 0), (0, max(missing, 0))))
