"""How a ranker is trained and asked for scores.

Axes: as in `lgsid.rank.base`; S requests of a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lgsid.arrays import FloatArray, IntArray
from lgsid.config import RankConfig, TrainerConfig
from lgsid.rank.auc import auc
from lgsid.rank.base import Ranker
from lgsid.rank.loader import Batcher, SampleFile
from lgsid.rank.optimizer import rank_optimizer
from lgsid.rank.samples import GROUP
from lgsid.trainer import History, fit


class RankTraining:
    """A ranker and its samples, as the training loop wants them: its examples are groups of requests.

    Args:
        ranker: the model.
        train: samples to train on.
        validation: samples to choose the best parameters by.
        batcher: makes batches of both.
        config: learning rates.
    """

    def __init__(
        self, ranker: Ranker, train: SampleFile, validation: SampleFile, batcher: Batcher, config: RankConfig
    ) -> None:
        self.ranker, self.train, self.validation, self.batcher, self.config = ranker, train, validation, batcher, config

    @property
    def examples(self) -> int:
        """Groups of the training file, as many as are wanted: they are a random part."""
        wanted = self.config.most_requests
        return self.train.groups if wanted is None else min(self.train.groups, -(-wanted // GROUP))

    def parameters(self) -> Sequence[dict[str, Any]]:
        """Networks and small tables by Adam; large tables, whose gradients are sparse, by row-wise Adagrad."""
        large = list(self.ranker.items.large)
        of_tables = {id(table) for table in self.ranker.items.tables}
        rest = [parameter for parameter in self.ranker.parameters() if id(parameter) not in of_tables]
        small = [table for table in self.ranker.items.tables if all(table is not other for other in large)]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": self.config.learning_rate, "weight_decay": 0.0}]
        if small:
            groups.append({"params": small, "lr": self.config.table_learning_rate, "weight_decay": 0.0})
        if large:
            groups.append({"params": large, "lr": self.config.sparse_learning_rate, "rowwise": True, "sparse": True})
        return groups

    def named(self) -> Mapping[str, Tensor]:
        """All that is saved of the ranker: parameters, and what Dice counts and averages."""
        found: dict[str, Tensor] = self.ranker.state_dict(keep_vars=True)
        return found

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Binary cross-entropy of all candidates, and the model's own losses."""
        batch = self.batcher(self.train.read(examples_B))
        scores = self.ranker(batch)
        loss = functional.binary_cross_entropy_with_logits(scores.logit_BC, batch.label_BC)
        parts = {name: float(value.detach()) for name, value in scores.losses.items()}
        for extra in scores.losses.values():
            loss = loss + extra
        return loss, parts

    def validate(self) -> dict[str, float]:
        """AUC on the validation file."""
        logit_SC = predict(self.ranker, self.validation, self.batcher)
        label_SC = np.zeros(logit_SC.shape, dtype=bool)
        label_SC[:, 0] = True
        found = auc(logit_SC.ravel(), label_SC.ravel())
        return {"score": 0.5 if found is None else found}

    def train_mode(self, training: bool) -> None:
        """Switch dropout and Dice."""
        self.ranker.train(training)


def predict(ranker: Ranker, samples: SampleFile, batcher: Batcher) -> FloatArray:
    """Logits (S, C) of all requests of a file, in their order."""
    ranker.eval()
    with torch.inference_mode():
        parts = [ranker(batcher(requests)).logit_BC.float().cpu().numpy() for requests in samples.all(4)]
    return np.concatenate(parts) if parts else np.empty((0, 1), dtype=np.float32)


def train_ranker(
    training: RankTraining, config: RankConfig, seed: int, folder: Path | None = None, identity: str = ""
) -> History:
    """Train with early stopping on validation AUC; the ranker keeps its best parameters."""
    groups = max(1, round(config.batch / GROUP))
    trainer = TrainerConfig(
        epochs=max(config.epochs, config.least_updates * groups / max(1, training.examples)),
        batch=groups,
        warmup_share=0.02,
        validations=config.validations,
        patience=config.patience,
        max_grad_norm=float("inf"),
    )
    return fit(
        training, trainer, seed=seed, folder=folder, description=f"train {training.ranker.name}", identity=identity,
        optimizer=rank_optimizer,
    )  # fmt: skip
