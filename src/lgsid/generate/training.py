"""Training of sequence models on packed rows, with early stopping on what they are for: the rank of the next item.

The validation score is NDCG@10 on the whole catalogue, of the same validation requests every time. The likelihood of
the targets would be cheaper, but turns down long before the ranking does, because a model that grows over-confident
pays for it in likelihood and not in ranks: of SASRec on Gowalla in New York, the mean loss rose from 8.7 after 200
updates to 10.5 after 600, while NDCG@10 rose from .08 to .12. So it would stop training far too early; it is watched
all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.arrays import IntArray
from lgsid.config import GenerateConfig, TrainerConfig
from lgsid.generate.base import Packed, Recommender, SequenceModel
from lgsid.trainer import History, fit

MOST_REQUESTS = 1_000
"""Validation requests at most: a standard error of about .01 on an NDCG of .1, and far less between two validations,
which see the same ones."""
CUTOFF = 10
_AT_ONCE = 128
"""Requests that are answered at once."""


class RowSource(Protocol):
    """Where packed rows come from."""

    def rows(self, index: IntArray) -> Packed:
        """Some rows."""


@dataclass(frozen=True)
class HeldOut:
    """Requests whose answers are known.

    Attributes:
        requests: one segment a row.
        item_R: what the user chose, catalogue rows.
    """

    requests: Packed
    item_R: IntArray


def on_device(rows: Packed, device: torch.device) -> Packed:
    """The same rows elsewhere."""
    return Packed(*(getattr(rows, field.name).to(device) for field in fields(Packed)))


def rows_of(rows: Packed, which: slice) -> Packed:
    """Some of the rows."""
    return Packed(*(getattr(rows, field.name)[which] for field in fields(Packed)))


def some_of(event_E: IntArray, seed: int, most: int = MOST_REQUESTS) -> IntArray:
    """At most so many of the events, drawn by a seed, in ascending order."""
    if len(event_E) <= most:
        return np.sort(event_E)
    return np.sort(np.random.default_rng(seed).choice(event_E, most, replace=False))


class SequenceTraining:
    """A sequence model and its rows, as the training loop wants them: its examples are packed rows.

    Args:
        model: what is trained.
        recommender: answers requests with it; the model itself where it can.
        source: of the rows to train on.
        examples: which rows of the source to train on.
        held: validation requests to choose the best parameters by.
        watch_loss: whether validation also takes the model's loss on these requests.
    """

    def __init__(
        self,
        model: SequenceModel,
        recommender: Recommender,
        source: RowSource,
        examples: IntArray,
        held: HeldOut,
        watch_loss: bool = True,
    ) -> None:
        self.model, self.recommender, self.source, self.held = model, recommender, source, held
        self._index = examples
        self._answered = answered(held) if watch_loss else None

    @property
    def examples(self) -> int:
        """Rows to train on."""
        return len(self._index)

    def parameters(self) -> Sequence[dict[str, Any]]:
        """Matrices with weight decay; embeddings, biases and norms without."""
        rate = self.model.config.learning_rate * self.model.pace
        tables = {id(module.weight) for module in self.model.modules() if isinstance(module, nn.Embedding)}
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for parameter in self.model.parameters():
            (decayed if parameter.ndim > 1 and id(parameter) not in tables else others).append(parameter)
        groups = [{"params": decayed, "lr": rate}, {"params": others, "lr": rate, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def named(self) -> Mapping[str, Tensor]:
        """The parameters."""
        return dict(self.model.named_parameters())

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """The model's loss on some rows."""
        return self.model.loss(on_device(self.source.rows(self._index[examples_B]), self.device))

    def validate(self) -> dict[str, float]:
        """NDCG@10 ("score") and Hit@10 of the held-out requests on the whole catalogue; their loss, if watched."""
        figures = dict(zip(("score", "hit"), ranking_figures(self.recommender, self.held), strict=True))
        if self._answered is not None and len(self._answered):
            figures["loss"] = self._mean_loss(self._answered)
        return figures

    def train_mode(self, training: bool) -> None:
        """Switch dropout."""
        self.model.train(training)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def _mean_loss(self, answered: Packed) -> float:
        total = 0.0
        for start in range(0, len(answered), _AT_ONCE):
            rows = rows_of(answered, slice(start, start + _AT_ONCE))
            total += float(self.model.loss(on_device(rows, self.device))[0].detach()) * len(rows)
        return total / len(answered)


def answered(held: HeldOut) -> Packed:
    """Rows to take the loss of: each request with its answer behind the history, as the only target."""
    requests = held.requests
    row_R = torch.arange(len(requests), device=requests.length_R.device)

    def behind(tensor_RT: Tensor, value_R: Tensor | bool | int) -> Tensor:
        fill = -1 if tensor_RT is requests.segment_RT else 0
        longer_RT = functional.pad(tensor_RT, (0, 0) * (tensor_RT.ndim - 2) + (0, 1), value=fill)
        longer_RT[row_R, requests.length_R] = value_R
        return longer_RT

    return Packed(
        item_RT=behind(requests.item_RT, torch.from_numpy(held.item_R).to(row_R.device)),
        segment_RT=behind(requests.segment_RT, 0),
        target_RT=behind(torch.zeros_like(requests.target_RT), True),
        time_RT=behind(requests.time_RT, requests.now_R),
        band_RT=behind(requests.band_RT, 0),
        user_RT=behind(requests.user_RT, requests.user_RT[:, 0]),
        length_R=requests.length_R + 1,
        now_R=requests.now_R,
        here_RT3=behind(requests.here_RT3, requests.here_R3),
        here_R3=requests.here_R3,
    )


def ranking_figures(recommender: Recommender, held: HeldOut, k: int = CUTOFF) -> tuple[float, float]:
    """NDCG@k and Hit@k on the whole catalogue, means over the requests; one right answer a request."""
    found = [
        recommender.top(rows_of(held.requests, slice(start, start + _AT_ONCE)), k)
        for start in range(0, len(held.requests), _AT_ONCE)
    ]
    if not found:
        return 0.0, 0.0
    hit_RK = np.concatenate(found) == held.item_R[:, None]
    discount_K = 1 / np.log2(np.arange(hit_RK.shape[1]) + 2)
    return float((hit_RK * discount_K).sum(axis=1).mean()), float(hit_RK.any(axis=1).mean())


def train_generator(
    training: SequenceTraining, config: GenerateConfig, seed: int, folder: Path | None = None, identity: str = ""
) -> History:
    """Train with early stopping on the validation score; the model keeps its best parameters.

    Args:
        training: what to train.
        config: for how long, at which rate and in which precision.
        seed: same seed, same parameters.
        folder: keeps a checkpoint here, and continues from it.
        identity: hash of the data.
    """
    trainer = TrainerConfig(
        epochs=max(config.epochs, config.least_updates * config.batch / max(1, training.examples)),
        batch=config.batch,
        weight_decay=config.weight_decay,
        validations=config.validations,
        patience=config.patience,
        precision=config.precision,
    )
    return fit(
        training, trainer, seed=seed, folder=folder, description=f"train {training.model.name}", identity=identity
    )
