"""Trained rankers in a folder: ``config.json``, and ``ranker.safetensors`` with the parameters and the item features.

A folder is complete in itself: it scores items by their row in the catalogue it was trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lgsid.artifact import atomic_path, read_json, write_json
from lgsid.config import RankConfig
from lgsid.errors import ArtifactError
from lgsid.rank.features import ItemFeatures
from lgsid.rank.methods import RANKERS, make_ranker

if TYPE_CHECKING:
    from lgsid.rank.base import Ranker

FORMAT = 1
AGAIN = "lgsid rank RUN"
_FEATURES = ("rows_NF", "seen_N", "categories_N")


def save_ranker(ranker: Ranker, folder: Path) -> None:
    """Write a ranker's folder."""
    from safetensors.torch import save_file

    tensors = {f"features.{name}": getattr(ranker.items, name) for name in _FEATURES}
    tensors |= {f"model.{name}": tensor for name, tensor in ranker.state_dict().items()}
    with atomic_path(folder / "ranker.safetensors") as path:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    write_json(folder / "config.json", {
        "format": FORMAT,
        "model": ranker.name,
        "features": list(ranker.items.names),
        "sizes": [len(table) for table in ranker.items.tables],
        "config": ranker.config.model_dump(mode="json"),
    })  # fmt: skip


def load_ranker(folder: Path) -> Ranker:
    """Read what `save_ranker` wrote; in evaluation mode, in main memory.

    Raises:
        ArtifactError: a file is missing, corrupt, or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "config.json"
    if not path.is_file():
        raise ArtifactError(f"no file {path}", AGAIN)
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("format") != FORMAT or stored.get("model") not in RANKERS:
        raise ArtifactError(f"{path} does not describe a ranker of format {FORMAT}", AGAIN)
    try:
        tensors = load_file(folder / "ranker.safetensors")
        known = {name: tensors.pop(f"features.{name}").numpy() for name in _FEATURES}
        features = ItemFeatures(tuple(stored["features"]), sizes=tuple(stored["sizes"]), **known)
        ranker = make_ranker(stored["model"], features, RankConfig.model_validate(stored["config"]), seed=0)
        ranker.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}", AGAIN) from error
    return ranker.eval()
