"""Checkpoints of training: one safetensors file, tensors and JSON together, so that no kill can tear them apart."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lgsid.artifact import atomic_path

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stood.

    Attributes:
        parameters: trained tensors by name.
        best: the same at the best validation so far.
        optimizer: the optimizer's tensors, ``NAME.KEY``.
        state: everything else, JSON.
    """

    parameters: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Write a checkpoint atomically in the place of an older one.

    Args:
        path: the file.
        checkpoint: what to keep.
        fingerprint: of everything the result depends on; only a run with the same one will continue from it.
    """
    from safetensors.torch import save_file

    groups = {"parameters": checkpoint.parameters, "best": checkpoint.best, "optimizer": checkpoint.optimizer}
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().contiguous()
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"fingerprint": fingerprint, "state": json.dumps(checkpoint.state)})


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of a run with this fingerprint; None, and a warning in the log, where there is none to use."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    groups: dict[str, dict[str, Tensor]] = {"parameters": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("fingerprint") != fingerprint:
                _log.warning("%s is of another configuration, seed or model: training starts anew", path)
                return None
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                group, _, name = key.partition("/")
                groups[group][name] = file.get_tensor(key)
    except SafetensorError as error:
        _log.warning("%s cannot be read (%s): training starts anew", path, error)
        return None
    return Checkpoint(**groups, state=json.loads(about["state"]))


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """What an optimizer remembers, as ``NAME.KEY``.

    Args:
        optimizer: AdamW, or another that keeps tensors or numbers for each parameter.
        names: of its parameters.
    """
    return {
        f"{names[parameter]}.{key}": torch.as_tensor(value)
        for parameter, memory in optimizer.state.items()
        for key, value in memory.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer back what `optimizer_tensors` took."""
    memories: dict[str, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        name, _, key = place.rpartition(".")
        memories.setdefault(name, {})[key] = tensor
    order = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    state = {index: memories[name] for index, name in enumerate(order) if name in memories}
    # torch puts every tensor on the device where the optimizer wants it
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
