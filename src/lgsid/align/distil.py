"""Distillation of the geographic teacher: the direct objective without a reward model.

Every item is drawn towards its own target vector (`lgsid.align.teacher`), so one item is a whole training example: no
pairs, no negatives, and no noise from what else is in the batch. The policy starts from a linear map fitted in closed
form (ridge regression from the unaligned vectors to the targets): an encoder's vectors already say where an item is,
only too softly, and what is left for LoRA is what a linear map cannot read.

    loss = λ · ‖v_meaning - t_meaning‖² + ‖v_place - t_place‖² + w · L_name

over unit vectors v and t in the teacher's axes. The first term is this objective's similarity regulariser: it keeps
every vector at its own reference. L_name is the cross-entropy of telling the item's city and its district from all
others, by the cosine of v's coarse and fine block to each region's mean target. Squared distances alone are content
with a vector between two districts, and learn the names several times slower (docs/experiments.md).

Meaning, coarse and fine geography stand on axes of their own, so after training the dials between them are two
numbers: `dial` scales the rows of the head that write them, and the whole frontier comes from one training.

Not from a paper; it stands beside G-DPO (LGSID, arXiv 2511.14221) in the ablation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lgsid.align.base import Losses, Material, Objective, Trained
from lgsid.align.teacher import Teacher, fit_teacher
from lgsid.arrays import DoubleArray, FloatArray, IntArray
from lgsid.data.labels import region_path

if TYPE_CHECKING:
    from torch import Tensor

_RIDGE = 0.1
"""Of the head that training starts from, relative to unit vectors; .1 to 1 start equally well."""
_RIDGES = (0.03, 0.3, 3.0)
"""Candidates after training."""
_MOST_NAMES = 4_096
"""Regions that one item is told from in a step."""
_TEMPERATURE = 0.1
"""Of the cosines between a vector's block and the regions."""


class Distil(Objective):
    """Draw every item's vector towards the geographic teacher's."""

    name = "distil"

    def prepare(self, material: Material) -> Mapping[str, Any]:
        """Make the teacher of the training items, and the head to start from."""
        import torch

        self._teacher = fit_teacher(material.items, material.reference, self.config.teacher, self.seed)
        self._axes_DD = torch.from_numpy(self._teacher.axes)
        self._target_ND = torch.nn.functional.normalize(torch.from_numpy(self._teacher.targets), dim=1)
        blocks = ((2, self._teacher.coarse), (3, self._teacher.fine))
        self._naming = [_Naming(material.items, depth, block, self._teacher.targets) for depth, block in blocks]
        self._head_DD = starting_head(material.reference, self._teacher)
        return {
            "cities": self._naming[0].regions,
            "districts": self._naming[1].regions,
            "meaning_dimensions": self._teacher.meaning.stop,
            "dimensions": len(self._teacher.axes),
        }

    def head(self) -> FloatArray:
        """The closed-form start, in the encoder's own coordinates."""
        return self._head_DD

    def loss(self, policy_BD: Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
        """Squared distances to the targets, of meaning and of place."""
        import torch

        rows = torch.from_numpy(rows_B)
        axes_DD = self._axes_DD.to(policy_BD.device)
        target_BD = self._target_ND[rows].to(policy_BD.device)
        given_BD = policy_BD @ axes_DD
        gap_BD = (given_BD - target_BD) ** 2
        place = slice(self._teacher.coarse.start, None)
        meant, placed = gap_BD[:, self._teacher.meaning].sum(dim=1).mean(), gap_BD[:, place].sum(dim=1).mean()
        named = torch.stack([naming.loss(given_BD, rows) for naming in self._naming]).sum()
        total = self.config.similarity_weight * meant + placed + self.config.teacher.name_weight * named
        parts = {"meaning": float(meant.detach()), "place": float(placed.detach()), "name": float(named.detach())}
        return Losses(total, parts)

    def finish(self, trained: Trained, held: Trained) -> FloatArray:
        """Fit the head once more in closed form, on what the encoder has become, and turn the dials.

        The trained head is kept where no ridge comes nearer to the held-out items' targets. A fitted head is timid: it
        writes geography smaller than the teacher where it is not sure. The dials make up for that first, so that 1
        means the teacher's balance.
        """
        assert trained.head is not None  # this objective always starts with one
        aim_NT = self._teacher.of(trained.items, trained.reference)
        heads = [trained.head, *(self._ridge_head(trained.pooled, aim_NT, strength) for strength in _RIDGES)]
        judge = held if len(held.items) else trained
        wanted_ND = self._teacher.of(judge.items, judge.reference)
        given = [judge.pooled @ head_DD.T @ self._teacher.axes for head_DD in heads]
        best = int(np.argmin([_error(given_ND, wanted_ND) for given_ND in given])) if len(held.items) else 0
        timid = [_relative_size(wanted_ND, block, self._teacher) / _relative_size(given[best], block, self._teacher)
                 for block in (self._teacher.coarse, self._teacher.fine)]  # fmt: skip
        dials = self.config.teacher
        scale_D = self._teacher.scales(dials.coarse_dial * timid[0], dials.fine_dial * timid[1])
        axes_DD = self._teacher.axes
        head: FloatArray = ((axes_DD * scale_D) @ axes_DD.T @ heads[best]).astype(np.float32)
        return head

    def turned(self, emb_ND: FloatArray, coarse: float, fine: float) -> FloatArray:
        """Aligned vectors with the dials turned after the fact; what an encoder with the dialled head would give."""
        turned_ND = (emb_ND @ self._teacher.axes) * self._teacher.scales(coarse, fine)
        unit_ND: FloatArray = turned_ND / np.linalg.norm(turned_ND, axis=1, keepdims=True)
        return unit_ND @ self._teacher.axes.T

    def _ridge_head(self, pooled_ND: FloatArray, aim_NT: FloatArray, strength: float) -> FloatArray:
        read_DD = _ridge(pooled_ND, aim_NT, strength)
        head: FloatArray = (self._teacher.axes @ read_DD.T).astype(np.float32)
        return head


def _error(given_ND: FloatArray, wanted_ND: FloatArray) -> float:
    """Mean squared distance after the best common scale."""
    scale = float((given_ND * wanted_ND).sum() / max(float((given_ND * given_ND).sum()), 1e-12))
    return float(((scale * given_ND - wanted_ND) ** 2).sum(axis=1).mean())


def _ridge(emb_ND: FloatArray, target_NT: FloatArray, strength: float) -> DoubleArray:
    """Ridge regression, shape (D, T)."""
    emb = emb_ND.astype(np.float64)
    gram = emb.T @ emb + strength * np.eye(emb.shape[1])
    solution: DoubleArray = np.linalg.solve(gram, emb.T @ target_NT).astype(np.float64)
    return solution


def _relative_size(emb_ND: FloatArray, block: slice, teacher: Teacher) -> float:
    """Root-mean-square length of a block beside that of meaning, never 0."""
    length, beside = (float(np.square(emb_ND[:, part]).sum(axis=1).mean()) for part in (block, teacher.meaning))
    return max(float(np.sqrt(length / max(beside, 1e-12))), 1e-6)


class _Naming:
    """Telling regions of one level apart by one block of the vector.

    Attributes:
        regions: number R of regions.
    """

    def __init__(self, items: pl.DataFrame, depth: int, block: slice, targets_ND: FloatArray) -> None:
        import torch

        number_N = (region_path(items, depth).rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()
        self.regions = int(number_N.max(initial=-1)) + 1
        self._block = block
        self._number_N = torch.from_numpy(number_N.copy())
        known = torch.from_numpy(np.flatnonzero(number_N >= 0))
        total_RG = torch.zeros(self.regions, block.stop - block.start)
        total_RG.index_add_(0, self._number_N[known], torch.from_numpy(targets_ND[:, block])[known])
        self._prototype_RG = torch.nn.functional.normalize(total_RG, dim=1)

    def loss(self, given_BD: Tensor, rows: Tensor) -> Tensor:
        """Cross-entropy of each item's own region among all, or among the batch's and a sample where there are many."""
        import torch

        number_B = self._number_N[rows]
        known = number_B >= 0
        if self.regions < 2 or not bool(known.any()):
            return given_BD.sum() * 0.0
        among = torch.arange(self.regions)
        if self.regions > _MOST_NAMES:
            among = torch.unique(torch.cat([number_B[known], torch.randperm(self.regions)[:_MOST_NAMES]]))
        device = given_BD.device
        wanted = torch.searchsorted(among, number_B[known]).to(device)
        unit_BG = torch.nn.functional.normalize(given_BD[known.to(device), self._block], dim=1)
        logits_BR = unit_BG @ self._prototype_RG[among].to(device).T / _TEMPERATURE
        return torch.nn.functional.cross_entropy(logits_BR, wanted)


def starting_head(reference_ND: FloatArray, teacher: Teacher) -> FloatArray:
    """The linear map from unaligned vectors to teacher vectors: exact on meaning, ridge regression on place."""
    place_DG = _ridge(reference_ND, teacher.targets[:, teacher.coarse.start :], _RIDGE)
    read_DD = np.concatenate([teacher.axes[:, teacher.meaning], place_DG], axis=1)
    head: FloatArray = (teacher.axes @ read_DD.T).astype(np.float32)
    return head
