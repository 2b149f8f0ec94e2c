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


def sum_in_place(tensor: Tensor) -> None:
    """Replace a tensor by its sum over the processes."""
    if world_size() > 1:
        dist.all_reduce(tensor)


def gather_tensor(tensor: Tensor) -> Tensor:
    """Tensors of one shape, stacked in order of rank, on every process."""
    if world_size() == 1:
        return tensor[None]
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def gather_rows(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    """Tensors that differ in their number of rows, one after the other in order of rank, on every process.

    Args:
        tensor: this process's, (rows, …).
        sizes: rows of every process's tensor, in order of rank.
    """
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])  # a backend wants one shape of all
    padded[: len(tensor)] = tensor
    return torch.cat([part[:size] for part, size in zip(gather_tensor(padded), sizes, strict=True)])
