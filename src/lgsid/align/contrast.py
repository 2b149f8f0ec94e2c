"""The direct list-wise objective: a distance-softened contrast over the batch, without a reward model.

For every anchor of the batch the other items are a list. The target distribution over the list multiplies nearness by
meaning, and the policy's similarities are drawn towards it:

    q_ij ∝ exp(-d(i, j) / near_km + ref_i·ref_j / meaning_temperature)
    loss = -Σ_ij q_ij log softmax_j(v_i·v_j / temperature) + λ · L_sim

A batch made of random anchors would hardly hold two items of one street. So each anchor brings one of its nearest
items on the map and one of its nearest in meaning.

Not from a paper; the simplest thing that could replace G-DPO (LGSID, arXiv 2511.14221) in the ablation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lgsid.align.base import Losses, Material, Objective
from lgsid.align.similarity import similarity_loss
from lgsid.arrays import IntArray
from lgsid.config import AlignmentConfig
from lgsid.geo import EARTH_RADIUS_KM, SpatialIndex, unit_sphere
from lgsid.nearest import nearest_neighbours

if TYPE_CHECKING:
    from torch import Tensor

_COMPANIONS = 16
"""An anchor's companion is one of so many nearest items, on the map and in meaning."""
_TEMPERATURE = 0.05
"""Of the policy's similarities: the usual value of sentence encoders."""


class Contrast(Objective):
    """List-wise contrast softened by distance and, if wished, by meaning."""

    name = "contrast"

    @classmethod
    def items_per_anchor(cls, config: AlignmentConfig) -> float:
        """The anchor, a near and an alike item."""
        return 3.0

    def prepare(self, material: Material) -> Mapping[str, Any]:
        """Find every item's nearest items on the map and in meaning."""
        import torch

        lat_deg, lon_deg = (material.items[name].to_numpy() for name in ("lat_deg", "lon_deg"))
        count = min(_COMPANIONS, len(material.items) - 1)
        near_NK, _ = SpatialIndex(lat_deg, lon_deg).nearest(lat_deg, lon_deg, count + 1)
        alike_NK, _ = nearest_neighbours(material.reference, np.arange(len(material.items)), count)
        self._companions = (near_NK[:, 1:], alike_NK)  # the nearest of all is the item itself, or one at its spot
        self._xyz_N3 = torch.from_numpy(EARTH_RADIUS_KM * unit_sphere(lat_deg, lon_deg))
        self._reference_ND = torch.from_numpy(material.reference)
        return {"companions": count}

    def batch(self, anchors_A: IntArray, generator: np.random.Generator) -> IntArray:
        """The anchors, one near and one alike item for each."""
        chosen = [
            neighbours_NK[anchors_A, generator.integers(0, neighbours_NK.shape[1], len(anchors_A))]
            for neighbours_NK in self._companions
        ]
        return np.unique(np.concatenate([anchors_A, *chosen]))

    def loss(self, policy_BD: Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
        """Cross-entropy from the target distribution to the policy's, and the similarity regulariser."""
        import torch

        config = self.config.contrast
        rows = torch.from_numpy(rows_B)
        device = policy_BD.device
        reference_BD = self._reference_ND[rows].to(device)
        xyz_B3 = self._xyz_N3[rows]
        apart_BB = torch.cdist(xyz_B3, xyz_B3).float().to(device)  # a chord is a great circle to .01 % up to 300 km
        wanted_BB = -apart_BB / config.near_km + reference_BD @ reference_BD.T / config.meaning_temperature
        itself = torch.eye(len(rows_B), dtype=torch.bool, device=device)
        target_BB = wanted_BB.masked_fill(itself, -torch.inf).softmax(dim=1)
        logits_BB = (policy_BD @ policy_BD.T / _TEMPERATURE).masked_fill(itself, -torch.inf)
        align = -(target_BB * logits_BB.log_softmax(dim=1).masked_fill(itself, 0.0)).sum(dim=1).mean()
        similar = similarity_loss(policy_BD, reference_BD)
        total = align + self.config.similarity_weight * similar
        return Losses(total, {"align": float(align.detach()), "similarity": float(similar.detach())})
