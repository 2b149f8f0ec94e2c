"""Tensors of a safetensors file as memory-mapped arrays: rows are read from disk as they are used.

The library's own reader holds a tensor in memory; what is mapped may be larger than that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lgsid.arrays import AnyArray
from lgsid.artifact import atomic_path
from lgsid.errors import ArtifactError

_TYPES = {"<i8": "I64", "<f8": "F64", "<i4": "I32", "<f4": "F32"}


def map_tensor(
    path: Path, name: str, dtype: npt.DTypeLike, fix: str = "run the stage that writes it again"
) -> AnyArray:
    """A tensor as a read-only memory-mapped array.

    Args:
        path: a safetensors file.
        name: of the tensor.
        dtype: what it must hold: integers or floats of 4 or 8 bytes.
        fix: the command that writes the file.

    Raises:
        ArtifactError: the file is missing or cut off, or holds no such tensor of that type.
    """
    wanted = np.dtype(dtype).newbyteorder("<")
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            entry = json.loads(file.read(size))[name]
        if entry["dtype"] != _TYPES[wanted.str]:
            raise ValueError(f"{name} holds {entry['dtype']}, expected {_TYPES[wanted.str]}")
        shape, offset = tuple(entry["shape"]), 8 + size + entry["data_offsets"][0]
        if 0 in shape:  # nothing can be mapped
            return np.zeros(shape, dtype=wanted)
        return np.memmap(path, dtype=wanted, mode="r", offset=offset, shape=shape)
    except KeyError:
        raise ArtifactError(f"{path} holds no tensor {name}", fix) from None
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", fix) from error


def write_tensors(path: Path, tensors: Mapping[str, AnyArray]) -> None:
    """Write a safetensors file atomically: equal tensors give equal files, and each of them can be mapped.

    The header is written here because the library's own puts names in another order every time.
    """
    # the widest first: so each starts on a multiple of its width, without the holes that the format forbids
    little = {name: np.ascontiguousarray(x, dtype=x.dtype.newbyteorder("<")) for name, x in tensors.items()}
    little = dict(sorted(little.items(), key=lambda named: -named[1].itemsize))
    header: dict[str, Any] = {}
    end = 0
    for name, x in little.items():
        start, end = end, end + x.nbytes
        header[name] = {"dtype": _TYPES[x.dtype.str], "shape": list(x.shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)  # the data starts on a multiple of 8 bytes
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for x in little.values():
            file.write(x.data)
