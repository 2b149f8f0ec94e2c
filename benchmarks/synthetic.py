"""Two synthetic sets of unit vectors on which quantisers differ, of any size.

`hourglass`: clusters with unshared sub-clusters and Zipf sizes; hard for residual codes, whose second level has nothing
shared to learn. `attributes`: sums of shared attributes, like brand, category and city; what such codes are made for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


def _zipf(n: int, exponent: float = 0.7) -> npt.NDArray[np.float64]:
    weight = 1 / np.arange(1, n + 1) ** exponent
    return weight / weight.sum()


def _unit(x: npt.NDArray[np.float64]) -> Vectors:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")


def hourglass(n: int = 20_000, d: int = 384, clusters: int = 200, subclusters: int = 20, seed: int = 0) -> Vectors:
    """Clusters with sub-clusters of their own."""
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((clusters, d)) / np.sqrt(d)
    offset = rng.standard_normal((clusters, subclusters, d)) / np.sqrt(d)
    c = rng.choice(clusters, n, p=_zipf(clusters))
    s = rng.integers(0, subclusters, n)
    return _unit(centre[c] + 0.6 * offset[c, s] + 0.5 * rng.standard_normal((n, d)) / np.sqrt(d))


def attributes(n: int = 20_000, d: int = 384, seed: int = 0) -> Vectors:
    """Sums of three shared attributes and noise."""
    rng = np.random.default_rng(seed)
    x = np.zeros((n, d))
    for weight in (1.0, 0.7, 0.5):
        table = rng.standard_normal((200, d)) / np.sqrt(d)
        x += weight * table[rng.choice(200, n, p=_zipf(200))]
    return _unit(x + 0.4 * rng.standard_normal((n, d)) / np.sqrt(d))


SETS = {"hourglass": hourglass, "attributes": attributes}
