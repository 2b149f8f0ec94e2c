"""The optimizer of rankers: AdamW for the networks, row-wise Adagrad for the embedding tables.

Adagrad (Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization", JMLR
12, 2011) divides each step by the root of the sum of squared gradients so far, so that what is seen seldom moves far
when it is seen. Its row-wise form keeps one sum for each row of a table instead of each number (Gupta, Bengio and
Weston, "Training Highly Multiclass Classifiers", JMLR 15, 2014; ``EXACT_ROWWISE_ADAGRAD`` in FBGEMM):

    s ← s + mean(g²),    w ← w − rate · g / (√s + ε)

with g the gradient of a row w, summed over its occurrences in the batch.

Axes: N rows of a table, U rows with a gradient, D dimensions of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from lgsid.config import TrainerConfig
from lgsid.trainer import ParameterGroups

EPSILON = 1e-8
"""FBGEMM's, and AdamW's."""
SUM = "sum_of_squares"
"""Name of a table's memory."""


def rank_optimizer(groups: ParameterGroups, config: TrainerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model with embedding tables, for `lgsid.trainer.fit`.

    Args:
        groups: with ``"rowwise": True`` for tables (N, D), whose gradients may be sparse; all others are for AdamW.
        config: weight decay, for groups of AdamW that do not set their own. Rows have none: it would move rows that
            are not in the batch.
    """
    return AdamWithTables(groups, weight_decay=config.weight_decay)


class AdamWithTables(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) with its usual decays .9 and .999, and row-wise Adagrad for tables.

    It remembers N numbers of a table of N rows, and reads and writes those rows only that have a gradient.

    Args:
        groups: optimizer groups; see `rank_optimizer`.
        weight_decay: AdamW's.

    Raises:
        ValueError: a row-wise parameter is no table, or AdamW would get sparse gradients.
    """

    def __init__(self, groups: ParameterGroups, weight_decay: float) -> None:
        super().__init__(groups, {"rowwise": False})
        for group in self.param_groups:
            _check(group)
        dense = [group for group in self.param_groups if not group["rowwise"]]
        # completes the groups with its own options; fused, since rankers are many small parameters
        self._adam = (
            torch.optim.AdamW(dense, betas=(0.9, 0.999), eps=EPSILON, weight_decay=weight_decay, fused=True)
            if dense
            else None
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._adam is not None:
            # loading a state replaces groups and memory by new ones
            self._adam.param_groups = [group for group in self.param_groups if not group["rowwise"]]
            self._adam.state = self.state
            self._adam.step()
        for group in self.param_groups:
            if group["rowwise"]:
                for table_ND in group["params"]:
                    self._update_table(table_ND, float(group["lr"]))
        return loss

    def _update_table(self, table_ND: Tensor, rate: float) -> None:
        gradient = table_ND.grad
        if gradient is None:
            return
        memory = cast("dict[str, Tensor]", self.state[table_ND])
        if SUM not in memory:
            memory[SUM] = table_ND.new_zeros(len(table_ND))
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            _update_rows(table_ND, memory[SUM], gradient.indices()[0], gradient.values(), rate)
        else:
            # rows without a gradient move by nothing, which costs less than to look for them
            memory[SUM] += _mean_square(gradient)
            table_ND += gradient * _factor(memory[SUM], rate)


def _update_rows(table_ND: Tensor, sum_N: Tensor, rows_U: Tensor, gradient_UD: Tensor, rate: float) -> None:
    """Row-wise Adagrad of distinct rows, in place; the arithmetic is that of a dense gradient."""
    sum_U = sum_N.index_select(0, rows_U) + _mean_square(gradient_UD)
    sum_N.index_copy_(0, rows_U, sum_U)
    # index_add_ does the same, but goes through a CPU's rows one by one
    table_ND.scatter_add_(0, rows_U[:, None].expand_as(gradient_UD), gradient_UD * _factor(sum_U, rate))


def _mean_square(gradient_UD: Tensor) -> Tensor:
    return gradient_UD.square().mean(1)


def _factor(sum_U: Tensor, rate: float) -> Tensor:
    return (-rate / (sum_U.sqrt() + EPSILON))[:, None]


def _check(group: dict[str, Any]) -> None:
    shapes = [tuple(parameter.shape) for parameter in group["params"]]
    if group["rowwise"] and any(len(shape) != 2 for shape in shapes):
        raise ValueError(f"a row-wise group holds parameters of shapes {shapes}, expected tables (rows, dimensions)")
    if group.get("sparse", False) and not group["rowwise"]:
        raise ValueError(f"a group of AdamW ({shapes}) has the key 'sparse', expected 'rowwise' beside it")
