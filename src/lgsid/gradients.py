"""Gradients of one update: completed, added up over processes, cut to a length; dense ones, and sparse ones of tables.

A sparse gradient (``functional.embedding(..., sparse=True)``) holds the rows of the batch only, so an update costs what
the batch touches and not what the table holds.

Axes: P processes, U rows with a gradient, D dimensions of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lgsid.distributed import gather_rows, gather_tensor, sum_in_place, world_size


class Gradients:
    """The gradients of all trained parameters.

    Args:
        groups: optimizer groups, in the same order on every process, all on one device; ``"sparse": True`` says that
            the gradients of a group are sparse.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self._dense: list[Tensor] = [p for group in groups if not group.get("sparse", False) for p in group["params"]]
        self._sparse: list[Tensor] = [p for group in groups if group.get("sparse", False) for p in group["params"]]
        size = sum(parameter.numel() for parameter in self._dense) + 1
        device = (self._dense or self._sparse)[0].device
        # one flat buffer, so that all dense gradients travel in one message
        self._flat = torch.empty(size if world_size() > 1 else 0, dtype=torch.float32, device=device)

    def clear(self) -> None:
        """Forget them."""
        for parameter in self._dense:
            parameter.grad = None
        for parameter in self._sparse:
            parameter.grad = None

    def sum(self, loss: float) -> float:
        """Replace every gradient by its sum over the processes; returns the sum of their losses.

        A parameter that had no part in the loss gets a gradient of zeros, or a sparse one without rows, so that one
        process and many do the same. Sparse gradients are coalesced afterwards: each row once, in ascending order.

        Raises:
            ValueError: a gradient is sparse where its group does not say so, or the other way round.
        """
        for parameter in self._dense:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif parameter.grad.is_sparse:
                raise ValueError(_surprise(parameter, "sparse", "dense", "give its group the key 'sparse'"))
        for parameter in self._sparse:
            parameter.grad = _coalesced(parameter)
        if world_size() == 1:
            return loss
        total = self._sum_dense(loss)
        if self._sparse:
            self._sum_sparse()
        return total

    def clip(self, max_norm: float) -> float:
        """Cut all gradients, as one vector, to a length; returns the length before.

        Args:
            max_norm: the longest; infinity leaves them as they are.
        """
        values_UD = [_gradient(parameter).values() for parameter in self._sparse]
        norm = torch.nn.utils.get_total_norm([*map(_gradient, self._dense), *values_UD])
        if math.isfinite(max_norm):
            torch.nn.utils.clip_grads_with_norm_(self._dense, max_norm, norm)
            if values_UD:
                factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)  # as torch's function does
                torch._foreach_mul_(values_UD, factor)
        return float(norm)

    def _sum_dense(self, loss: float) -> float:
        places = torch.split(self._flat[:-1], [parameter.numel() for parameter in self._dense])
        for parameter, place in zip(self._dense, places, strict=True):
            place.copy_(_gradient(parameter).reshape(-1))
        self._flat[-1] = loss
        sum_in_place(self._flat)
        for parameter, place in zip(self._dense, places, strict=True):
            _gradient(parameter).copy_(place.view_as(parameter))
        return float(self._flat[-1])

    def _sum_sparse(self) -> None:
        """Every process gets the rows of all of them, in order of rank, and adds up in that order: the same bits."""
        sizes = torch.tensor([_gradient(p)._nnz() for p in self._sparse], device=self._flat.device)
        for parameter, sizes_P in zip(self._sparse, gather_tensor(sizes).t().tolist(), strict=True):
            gradient = _gradient(parameter)
            rows_U = gather_rows(gradient.indices()[0], sizes_P)
            values_UD = gather_rows(gradient.values(), sizes_P)
            parameter.grad = _sparse(rows_U, values_UD, parameter, coalesced=False).coalesce()


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _coalesced(parameter: Tensor) -> Tensor:
    """A table's sparse gradient, each row once, in ascending order; without rows where there is none."""
    gradient = parameter.grad
    if gradient is None:
        no_rows = torch.empty(0, dtype=torch.int64, device=parameter.device)
        return _sparse(no_rows, parameter.new_empty(0, *parameter.shape[1:]), parameter, coalesced=True)
    if not gradient.is_sparse:
        raise ValueError(_surprise(parameter, "dense", "sparse", "look it up with sparse=True, and nowhere else"))
    if gradient.is_coalesced() or gradient.device.type != "cpu":
        return gradient.coalesce()
    # torch sorts, and adds one by one; a batch of distinct rows in order, the common case, needs neither
    rows_U = gradient._indices()[0]
    if bool((rows_U[1:] > rows_U[:-1]).all()):
        return _sparse(rows_U, gradient._values(), parameter, coalesced=True)
    return gradient.coalesce()


def _sparse(rows_U: Tensor, values_UD: Tensor, parameter: Tensor, *, coalesced: bool) -> Tensor:
    return torch.sparse_coo_tensor(
        rows_U[None], values_UD, parameter.shape, is_coalesced=coalesced, check_invariants=False
    )


def _surprise(parameter: Tensor, got: str, expected: str, fix: str) -> str:
    return (
        f"a parameter of shape {tuple(parameter.shape)} got a {got} gradient, expected a {expected} one as its group "
        f"says: {fix}"
    )
