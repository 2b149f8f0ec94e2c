"""One alignment: an encoder, an objective and the items it may learn from, as the training loop wants them.

Validation takes a small world of its own: held-out items as queries, and among the candidates training items too, as
in use. Its score weighs both ends, meaning squared because little of it may be lost:

    score = kept² · mean(P, C, T)@5     (regions that the catalogue does not know are left out)

Shapes: N items, B batch, A anchors, Q queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from torch import Tensor

from lgsid.align.base import Objective
from lgsid.align.policy import Policy
from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AlignmentConfig, TrainerConfig
from lgsid.data.labels import REGIONS, same_value_codes
from lgsid.geo import haversine_km
from lgsid.nearest import nearest_neighbours

_K = 5
_QUERIES, _CANDIDATES = 400, 1_200
"""Size of the validation's small world: a few seconds on a CPU."""
_RANDOM_PAIRS = 4_096


class Validator:
    """The small world on which a policy is validated.

    Args:
        items: all items.
        reference_ND: their unaligned unit vectors.
        queries_Q: rows of validation items; training items where there are none.
        others: rows of training items.
        seed: chooses among them where there are too many.
    """

    def __init__(
        self, items: pl.DataFrame, reference_ND: FloatArray, queries_Q: IntArray, others: IntArray, seed: int
    ) -> None:
        rng = np.random.default_rng([seed, 2])
        queries = np.sort(rng.permutation(queries_Q)[:_QUERIES])
        fill = np.setdiff1d(others, queries)
        candidates = np.sort(rng.permutation(fill)[: max(_CANDIDATES - len(queries), 0)])
        self.rows = np.concatenate([queries, candidates])
        self._queries_Q = np.arange(len(queries) or len(self.rows))
        self._reference_ND = reference_ND[self.rows]
        chosen = items[self.rows]
        self._codes = {name: code for name, code in same_value_codes(chosen).items() if name in REGIONS}
        self._place = [chosen[name].to_numpy() for name in ("lat_deg", "lon_deg")]
        self._pairs = rng.integers(0, len(self.rows), size=(2, _RANDOM_PAIRS))
        best_QK, _ = nearest_neighbours(self._reference_ND, self._queries_Q, _K)
        self._best = self._similarity(best_QK)

    def metrics(self, emb_ND: FloatArray) -> dict[str, float]:
        """Figures of the vectors of `rows`: kept, P/C/T@5, distance, score, and two signs of collapse."""
        index_QK, _ = nearest_neighbours(emb_ND, self._queries_Q, _K)
        kept = self._similarity(index_QK) / self._best
        shares = {}
        for name, code_N in self._codes.items():
            known = code_N[self._queries_Q] >= 0
            if known.any():
                same = code_N[index_QK] == code_N[self._queries_Q, None]
                shares[name] = float(same[known].mean())
        lat, lon = self._place
        apart = haversine_km(lat[self._queries_Q, None], lon[self._queries_Q, None], lat[index_QK], lon[index_QK])
        distance_km = float(apart.mean())
        geography = float(np.mean(list(shares.values()))) if shares else 1.0 / (1.0 + distance_km)
        return {
            "score": kept**2 * geography,
            "kept": kept,
            **shares,
            "distance_km": distance_km,
            **self._spread(emb_ND),
        }

    def _similarity(self, index_QK: IntArray) -> float:
        query = self._reference_ND[self._queries_Q]
        return float(np.einsum("qd,qkd->qk", query, self._reference_ND[index_QK]).mean())

    def _spread(self, emb_ND: FloatArray) -> dict[str, float]:
        first, second = self._pairs
        energy = np.linalg.eigvalsh((emb_ND.T @ emb_ND).astype(np.float64)).clip(1e-12)
        share = energy / energy.sum()
        return {
            "random_cosine": float((emb_ND[first] * emb_ND[second]).sum(axis=1).mean()),
            "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        }


class Alignment:
    """What the training loop trains: a policy under an objective.

    Args:
        policy: the encoder to align.
        objective: prepared.
        texts: true prompts of all items.
        training: rows of the training items; the objective counts them from 0.
        validator: judges the policy.
        config: options of alignment.
    """

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        texts: Sequence[str],
        training: IntArray,
        validator: Validator,
        config: AlignmentConfig,
    ) -> None:
        self._policy = policy
        self._objective = objective
        self._tokens = policy.tokens(texts)
        self._training = training
        self._validator = validator
        self._config = config
        self.examples = len(training)

    def parameters(self) -> list[dict[str, Any]]:
        """One group: updates and head."""
        return [{"params": list(self.named().values()), "lr": self._config.learning_rate, "weight_decay": 0.0}]

    def named(self) -> dict[str, Any]:
        """The policy's trainable parameters."""
        return self._policy.named()

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Encode what the objective asks for, once each, and take its loss."""
        rows_B = self._objective.batch(examples_B, generator)
        policy_BD = self._policy.forward(self._tokens, self._training[rows_B])
        losses = self._objective.loss(policy_BD, rows_B, examples_B)
        return losses.total, losses.parts

    def validate(self) -> dict[str, float]:
        """Figures on the validator's small world, and what the objective itself watches there."""
        return self.figures(self._policy.encode(self._tokens, self._validator.rows))

    def figures(self, emb_ND: FloatArray) -> dict[str, float]:
        """The same of any vectors of the validator's rows."""
        return {**self._validator.metrics(emb_ND), **self._objective.watch(emb_ND)}

    def train_mode(self, training: bool) -> None:
        """Switch the updates' dropout."""
        self._policy.train_mode(training)

    def vectors(self, rows_B: IntArray) -> FloatArray:
        """Unit vectors of some items under the policy as it is."""
        return self._policy.encode(self._tokens, rows_B)


def trainer_config(config: AlignmentConfig) -> TrainerConfig:
    """The training loop's options, from alignment's."""
    shared = ("epochs", "batch", "accumulate", "warmup_share", "validations", "patience")
    values: Mapping[str, Any] = {name: getattr(config, name) for name in shared}
    return TrainerConfig(**values, weight_decay=0.0, precision="bf16")
