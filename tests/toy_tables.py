"""A small problem with an embedding table, whose gradients are dense or sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from lgsid.arrays import IntArray

ROWS, DIM = 12, 3


class StoppedError(Exception):
    """What an interrupted test run ends with."""


class Table:
    """Each row of a table, seen through one layer, is to give a target; rows come up several times in a batch.

    The last two rows are never asked for.

    Args:
        examples: training examples.
        sparse: how the table's gradients are.
        rowwise: whether its group says so.
        dropout: on the embeddings.
        calls: the loss raises `StoppedError` at this call.

    Attributes:
        count: calls of the loss.
        last: `flat` at the last of them.
    """

    def __init__(
        self, examples: int = 40, *, sparse: bool = True, rowwise: bool = True, dropout: float = 0.1, calls: int = -1
    ) -> None:
        self.examples, self.sparse, self.rowwise, self.dropout, self.calls = examples, sparse, rowwise, dropout, calls
        self.count = 0
        self.training = True
        generator = torch.Generator().manual_seed(3)
        self.row_E = torch.randint(ROWS - 2, (examples,), generator=generator)
        self.y_E = torch.linspace(-1, 1, ROWS)[self.row_E]
        self.table = torch.nn.Parameter(torch.randn(ROWS, DIM, generator=generator))
        self.weight = torch.nn.Parameter(torch.ones(DIM))

    def parameters(self) -> list[dict[str, Any]]:
        keys = {"sparse": True} if self.sparse else {}
        keys |= {"rowwise": True} if self.rowwise else {}
        return [{"params": [self.weight], "lr": 0.01}, {"params": [self.table], "lr": 0.2, **keys}]

    def named(self) -> dict[str, torch.nn.Parameter]:
        return {"table": self.table, "weight": self.weight}

    def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        if self.count == self.calls:
            raise StoppedError
        self.count += 1
        self.last = self.flat()
        e_BD = functional.embedding(self.row_E[examples_B], self.table, sparse=self.sparse)
        e_BD = functional.dropout(e_BD, self.dropout, self.training)
        return (e_BD @ self.weight - self.y_E[examples_B]).square().mean(), {}

    def validate(self) -> dict[str, float]:
        return {"score": -float((self.table[self.row_E] @ self.weight - self.y_E).square().mean())}

    def train_mode(self, training: bool) -> None:
        self.training = training

    def flat(self) -> Tensor:
        """All parameters in one row."""
        return torch.cat([self.table.detach().flatten(), self.weight.detach()])
