"""G-DPO of LGSID (arXiv 2511.14221): preference optimisation of the encoder under the geographic reward.

    L_align = -E log σ( β [ (R(a, i⁺) - R(a, i⁻))_θ - (R(a, i⁺) - R(a, i⁻))_ref ] ),    L = L_align + λ L_sim

R is the frozen reward of `lgsid.align.reward`, on embeddings of the policy (θ) or of the frozen reference (ref); it
takes the anchor's embedding too, by the same encoder, unless it is point-wise. Which candidate of a pair is preferred,
and by how much already, the reward says on the reference embeddings. L_sim is `similarity_loss`.

Shapes: N items, A anchors, B items of a batch, P pairs, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lgsid.align.base import Losses, Material, Objective
from lgsid.align.pairs import Pairs, preference_pairs
from lgsid.align.reward import RewardModel, fit_reward
from lgsid.align.similarity import similarity_loss
from lgsid.arrays import BoolArray, FloatArray, IntArray
from lgsid.config import AlignmentConfig
from lgsid.errors import DataError
from lgsid.nearest import nearest_neighbours, sample_queries

_LEAST_MARGIN = 0.1
"""Pairs that the reward tells apart by less, in logits, are dropped: their order is noise."""
_PAIRS_PER_STEP = 1
"""Pairs an anchor brings into a step, drawn anew each time: three prompts; all four of its pairs would be nine."""
_CHUNK = 16_384
_WATCHED, _NEIGHBOURS = 512, 5


@dataclass(frozen=True)
class Preferences:
    """P pairs with their order, ascending by anchor.

    Attributes:
        anchor_P, preferred_P, other_P: rows of items.
        margin_P: reference reward of the preferred candidate minus that of the other, positive.
    """

    anchor_P: IntArray
    preferred_P: IntArray
    other_P: IntArray
    margin_P: FloatArray

    def of(self, anchors_A: IntArray) -> tuple[IntArray, IntArray]:
        """First pair number and number of pairs of each anchor."""
        first = np.searchsorted(self.anchor_P, anchors_A, side="left")
        return first, np.searchsorted(self.anchor_P, anchors_A, side="right") - first


class GDpo(Objective):
    """Geographic direct preference optimisation."""

    name = "gdpo"

    @classmethod
    def items_per_anchor(cls, config: AlignmentConfig) -> float:
        """An anchor and the candidates of its pairs."""
        return 1.0 + 2.0 * _PAIRS_PER_STEP

    @classmethod
    def prompts_to_prepare(cls, config: AlignmentConfig) -> int:
        """The mismatched prompts of the reward's lists."""
        return config.reward.anchors * config.reward.negatives

    def prepare(self, material: Material) -> Mapping[str, Any]:
        """Fit the reward, mine pairs, and order them by the reward on the reference embeddings.

        Raises:
            DataError: too few items, or the reward tells no pair apart.
        """
        self.reward, self.report = fit_reward(material, self.config.reward, self.seed)
        self._reference_ND = torch.from_numpy(material.reference)
        pairs = preference_pairs(material.items, material.events, self.config.pairs, self.seed)
        self.preferences, kept_P = order_pairs(self.reward, material.reference, pairs)
        if not kept_P.any():
            raise DataError(
                f"the reward tells none of {len(pairs)} preference pairs apart by {_LEAST_MARGIN} logits or more",
                "raise align.alignment.reward.anchors, or use align.alignment.objective: distil",
            )
        return {
            "reward": self.report.as_dict(),
            "pairs": pairs.figures(),
            "kept_pairs": int(kept_P.sum()),
            "median_margin": round(float(np.median(self.preferences.margin_P)), 4),
            "preferred_is_nearer": self._nearer_share(pairs, kept_P),
        }

    def save(self, folder: Path) -> None:
        """Write the reward model to ``folder/reward``."""
        self.reward.save(folder / "reward")

    def batch(self, anchors_A: IntArray, generator: np.random.Generator) -> IntArray:
        """The anchors and the candidates of a random pair of each, distinct and ascending."""
        first_A, count_A = self.preferences.of(anchors_A)
        some = count_A > 0
        drawn = generator.random((len(anchors_A), _PAIRS_PER_STEP))
        numbers = (first_A[:, None] + (drawn * count_A[:, None]).astype(np.int64))[some].ravel()
        chosen = (self.preferences.preferred_P[numbers], self.preferences.other_P[numbers])
        return np.unique(np.concatenate([anchors_A, *chosen]))

    def loss(self, policy_BD: Tensor, rows_B: IntArray, anchors_A: IntArray) -> Losses:
        """The loss over every pair of the anchors whose candidates are both in the batch."""
        reference_BD = self._reference_ND[torch.from_numpy(rows_B)].to(policy_BD.device)
        similar = similarity_loss(policy_BD, reference_BD)
        parts = {"similarity": float(similar.detach())}
        numbers_P, place_3P = self._pairs_within(rows_B, anchors_A)
        if len(numbers_P) == 0:
            return Losses(self.config.similarity_weight * similar, {"align": 0.0, **parts})
        anchor, preferred, other = (policy_BD[torch.from_numpy(place).to(policy_BD.device)] for place in place_3P)
        reward = self.reward.to(policy_BD.device)
        margin_P = reward.score(anchor, preferred) - reward.score(anchor, other)
        known_P = torch.from_numpy(self.preferences.margin_P[numbers_P]).to(policy_BD.device)
        align = -torch.nn.functional.logsigmoid(self.config.beta * (margin_P - known_P)).mean()
        parts |= {
            "align": float(align.detach()),
            "margin": float(margin_P.detach().mean()),
            "gained_margin": float((margin_P.detach() - known_P).mean()),
            "ordered": float((margin_P.detach() > 0).float().mean()),
        }
        return Losses(align + self.config.similarity_weight * similar, parts)

    def watch(self, emb_BD: FloatArray) -> dict[str, float]:
        """ "reward": mean logit of the policy's nearest neighbours, which should be near on the map, too."""
        queries_Q = sample_queries(len(emb_BD), _WATCHED, self.seed)
        index_QK, _ = nearest_neighbours(emb_BD, queries_Q, _NEIGHBOURS)
        device = next(self.reward.parameters()).device
        emb = torch.from_numpy(emb_BD)
        with torch.inference_mode():
            candidate = emb[torch.from_numpy(index_QK)].to(device)
            anchor = emb[torch.from_numpy(queries_Q)].to(device)[:, None].expand_as(candidate)
            return {"reward": float(self.reward.score(anchor, candidate).mean())}

    def _pairs_within(self, rows_B: IntArray, anchors_A: IntArray) -> tuple[IntArray, IntArray]:
        """Numbers of the pairs, and the places in ``rows_B`` of anchor, preferred and other, shape (3, P)."""
        first_A, count_A = self.preferences.of(anchors_A)
        numbers = np.repeat(first_A - np.cumsum(count_A) + count_A, count_A) + np.arange(count_A.sum())
        known = self.preferences
        wanted = np.stack([known.anchor_P[numbers], known.preferred_P[numbers], known.other_P[numbers]])
        order = np.argsort(rows_B, kind="stable")
        place = order[np.minimum(np.searchsorted(rows_B, wanted, sorter=order), len(rows_B) - 1)]
        inside = (rows_B[place] == wanted).all(axis=0)
        return numbers[inside], place[:, inside]

    def _nearer_share(self, pairs: Pairs, kept_P: BoolArray) -> float | None:
        """How often the preferred candidate is the nearer one on the map, among kept pairs of different distance."""
        first_nearer = (pairs.first_km_P < pairs.second_km_P)[kept_P]
        first_preferred = pairs.first_P[kept_P] == self.preferences.preferred_P
        differ = (pairs.first_km_P != pairs.second_km_P)[kept_P]
        return round(float((first_nearer == first_preferred)[differ].mean()), 4) if differ.any() else None


def order_pairs(reward: RewardModel, reference_ND: FloatArray, pairs: Pairs) -> tuple[Preferences, BoolArray]:
    """Put the candidate with the higher reference reward first, and drop the pairs that it hardly tells apart.

    Returns:
        the preferences, and which of the P pairs they are.
    """
    margin_P = reference_scores(reward, reference_ND, pairs.anchor_P, pairs.first_P)
    margin_P -= reference_scores(reward, reference_ND, pairs.anchor_P, pairs.second_P)
    kept_P = np.abs(margin_P) >= _LEAST_MARGIN
    preferred_P = np.where(margin_P > 0, pairs.first_P, pairs.second_P)
    other_P = np.where(margin_P > 0, pairs.second_P, pairs.first_P)
    rows = (pairs.anchor_P[kept_P], preferred_P[kept_P], other_P[kept_P])
    return Preferences(*rows, np.abs(margin_P[kept_P])), kept_P


def reference_scores(reward: RewardModel, emb_ND: FloatArray, anchor_P: IntArray, candidate_P: IntArray) -> FloatArray:
    """Logits of pairs of items, shape (P,)."""
    scores_P = np.empty(len(anchor_P), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(anchor_P), _CHUNK):
            rows = slice(start, start + _CHUNK)
            anchor, candidate = (torch.from_numpy(emb_ND[which[rows]]) for which in (anchor_P, candidate_P))
            scores_P[rows] = reward.score(anchor, candidate).numpy()
    return scores_P
