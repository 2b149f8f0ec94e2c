"""Trained generators in a folder: ``config.json``, and ``generator.safetensors`` with the parameters, the SIDs
and, where a generator knows them, the places of the items.

A folder is complete in itself: it names items by their row in the catalogue it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lgsid.artifact import atomic_path, read_json, write_json
from lgsid.config import GenerateConfig
from lgsid.errors import ArtifactError
from lgsid.generate.methods import GENERATORS, make_generator
from lgsid.hashing import id_hash_mark

if TYPE_CHECKING:
    from lgsid.arrays import CodeArray
    from lgsid.generate.base import SequenceModel

FORMAT = 2
AGAIN = "lgsid generate RUN"
_CONFIG, _TENSORS, _CODES, _PLACES = "config.json", "generator.safetensors", "codes_NL", "xyz_N3"


def save_generator(model: SequenceModel, codes_NL: CodeArray, sizes: Sequence[int], folder: Path) -> None:
    """Write a generator's folder.

    Args:
        model: what is saved.
        codes_NL: SIDs of the catalogue, int32; row n is item n.
        sizes: number of tokens of each level.
        folder: is made where it is missing.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors[_CODES] = torch.from_numpy(codes_NL)
    if model.places is not None:
        tensors[_PLACES] = model.places.xyz_N3
    with atomic_path(folder / _TENSORS) as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    write_json(folder / _CONFIG, {
        "format": FORMAT,
        "model": model.name,
        "items": len(codes_NL),
        "sizes": list(sizes),
        "config": model.config.model_dump(mode="json"),
        "id_hash": id_hash_mark(),
    })  # fmt: skip


def load_generator(folder: Path) -> SequenceModel:
    """Read what `save_generator` wrote; in evaluation mode, in main memory.

    Raises:
        ArtifactError: a file is missing, corrupt, of another version, or does not fit the other one; or the model knows
            users by hashes of their IDs that this release of polars does not make.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    stored = _description(folder / _CONFIG)
    path = folder / _TENSORS
    if not path.is_file():
        raise ArtifactError(f"no file {path}", AGAIN)
    try:
        tensors = load_file(path)
        codes_NL = tensors.pop(_CODES).numpy()
        xyz_N3 = tensors.pop(_PLACES).numpy() if _PLACES in tensors else None
        if codes_NL.shape != (stored["items"], len(stored["sizes"])):
            raise ValueError(f"SIDs of shape {codes_NL.shape}, expected {stored['items']} × {len(stored['sizes'])}")
        config = GenerateConfig.model_validate(stored["config"])
        model = make_generator(stored["model"], codes_NL, tuple(stored["sizes"]), config, seed=0, xyz_N3=xyz_N3)
        model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path} cannot be read, or does not fit {folder / _CONFIG}: {error}", AGAIN) from error
    if config.users and stored.get("id_hash", id_hash_mark()) != id_hash_mark():
        import polars as pl

        raise ArtifactError(
            f"{folder} was trained with another release of polars than {pl.__version__}: its user tokens are hashes of"
            " user IDs, which this one hashes otherwise",
            f"{AGAIN}, or install the polars that 4_generate/manifest.json of its run names",
        )
    return model.eval()


def _description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"no file {path}", AGAIN)
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or stored.get("model") not in GENERATORS:
        raise ArtifactError(f"{path} does not describe a generator of format {FORMAT}", AGAIN)
    missing = {"items", "sizes", "config"} - stored.keys()
    if missing:
        raise ArtifactError(f"{path} says nothing of {', '.join(sorted(missing))}", AGAIN)
    return stored
