"""Several processes that train one model: what `torchrun` started, or just this one.

Everything here works, and costs nothing, in a single process.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")

_PATIENCE = timedelta(hours=6)
"""The others wait this long while the main process validates; torch's own ten minutes are too few for a catalogue."""


@contextmanager
def distributed() -> Iterator[None]:
    """Join the processes that `torchrun` started, for the length of the block; without torchrun do nothing.

    Tensors in main memory travel by gloo; those on a GPU by NCCL where every local process has a GPU of its own, else
    by gloo too.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys() or dist.is_initialized():
        yield
        return
    backend = "gloo"
    if torch.cuda.is_available() and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend, timeout=_PATIENCE)
    try:
        yield
        # whoever leaves first takes the store or a connection away from the others, whose threads then abort
        dist.barrier()
    finally:
        dist.destroy_process_group()
        gc.collect()  # a group kept alive by some cycle would abort the interpreter at its end


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that validates and writes."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def share(value: Value) -> Value:
    """The main process's value, on every process."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Value) -> list[Value]:
    """Every process's value, on every process, in order of rank."""
    if world_size() == 1:
        return [value]
    values: list[Value | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]  # every place has been filled


def share_in_place(tensors: Mapping[str, Tensor]) -> None:
    """Overwrite tensors that every process has with the main process's values."""
    if world_size() == 1:
        return
    for name in sorted(tensors):
        values = tensors[name].detach().contiguous()
        dist.broadcast(values, src=0)
        tensors[name].detach().copy_(values)


def share_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in main memory that only the main process has, on every process."""
    outline = share({name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()})
    here = (
        dict(tensors)
        if is_main()
        else {name: torch.empty(shape, dtype=kind) for name, (shape, kind) in outline.items()}
    )
    share_in_place(here)
    return here


class GradientSum:
    """Adds up the gradients of all processes through one flat buffer: one message an update.

    Args:
        parameters: the trained ones, on one device, in the same order on every process.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = list(parameters)
        size = sum(parameter.numel() for parameter in self._parameters) + 1
        device = self._parameters[0].device
        self._flat = torch.empty(size if world_size() > 1 else 0, dtype=torch.float32, device=device)

    def __call__(self, loss: float) -> float:
        """Replace every gradient by its sum over the processes; returns the sum of their losses.

        A parameter that had no part in the loss gets a gradient of zeros, so that one process and many do the same.
        """
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if world_size() == 1:
            return loss
        places = torch.split(self._flat[:-1], [parameter.numel() for parameter in self._parameters])
        for parameter, place in zip(self._parameters, places, strict=True):
            assert parameter.grad is not None
            place.copy_(parameter.grad.reshape(-1))
        self._flat[-1] = loss
        dist.all_reduce(self._flat)
        for parameter, place in zip(self._parameters, places, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(place.view_as(parameter))
        return float(self._flat[-1])
