"""The lists a reward model learns from: an anchor, its negatives nearest first, and soft labels by distance.

After LGSID (arXiv 2511.14221), list-wise geographic reward: the list of item i is its true prompt followed by prompts
with its content and the locations of its negatives ("prompt mismatch").

Shapes: N items, A anchors, K negatives, J = K + 1 members of a list (the anchor itself comes first).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lgsid.align.negatives import density_aware, multiscale, uniform
from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.config import RewardConfig

_LEAST_SCALE_KM = 1e-3
_SAMPLERS = {"multiscale": multiscale, "density": density_aware, "uniform": uniform}


@dataclass(frozen=True)
class Lists:
    """A lists of J items.

    Attributes:
        item_AJ: rows of the items, the anchor first.
        km_AJ: their distances from the anchor, 0 first.
    """

    item_AJ: IntArray
    km_AJ: FloatArray

    def __len__(self) -> int:
        return len(self.item_AJ)

    @property
    def anchors(self) -> IntArray:
        """Rows of the anchors."""
        anchors: IntArray = self.item_AJ[:, 0]
        return anchors


def draw_lists(
    lat_deg: DoubleArray, lon_deg: DoubleArray, anchor_A: IntArray, pool_M: IntArray, config: RewardConfig, seed: int
) -> Lists:
    """Lists of some anchors, with negatives from a pool of items only.

    Args:
        lat_deg, lon_deg: N WGS-84 coordinates.
        anchor_A: rows of the anchors, all of them in the pool.
        pool_M: rows the negatives are drawn from, ascending.
        config: sampling, number of negatives and far share.
        seed: same seed, same lists.

    Raises:
        DataError: the pool has no more than ``config.negatives`` items.
    """
    sampler = _SAMPLERS[config.sampling]
    index_AK, km_AK = sampler(
        lat_deg[pool_M],
        lon_deg[pool_M],
        np.searchsorted(pool_M, anchor_A),
        negatives=config.negatives,
        far_share=config.far_share,
        seed=seed,
    )
    zero_A1 = np.zeros((len(anchor_A), 1))
    return Lists(
        np.concatenate([anchor_A[:, None], pool_M[index_AK]], axis=1),
        np.concatenate([zero_A1, km_AK], axis=1).astype(np.float32),
    )


def soft_labels(km_AJ: npt.ArrayLike, kind: Literal["kernel", "rank"]) -> FloatArray:
    """Soft labels p_ij of the members of each list: 1 at distance 0, falling with distance, equal where it is equal.

    Args:
        km_AJ: distances from the anchor, in any order; the smallest K of J = K + 1 need not be distinct.
        kind: "kernel" is exp(-d / scale) with the list's own median distance of its negatives as scale, so that a list
            in a city centre spans the same labels as one in a sparse county; "rank" is 1 - (members nearer) / K.
    """
    km = np.asarray(km_AJ, dtype=np.float64)
    if kind == "rank":
        nearer_AJ = (km[:, None, :] < km[:, :, None]).sum(axis=2)
        rank_AJ: FloatArray = (1 - nearer_AJ / (km.shape[1] - 1)).astype(np.float32)
        return rank_AJ
    scale_A1 = np.median(np.sort(km, axis=1)[:, 1:], axis=1, keepdims=True)
    kernel_AJ: FloatArray = np.exp(-km / np.maximum(scale_A1, _LEAST_SCALE_KM)).astype(np.float32)
    return kernel_AJ
