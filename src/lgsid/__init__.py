"""Geographic semantic IDs: short hierarchical codes that know what an item is and where it is."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import Any

__version__ = version("lgsid")

_PUBLIC = {
    "Encoder": "lgsid.align.encoder",
    "HierarchicalTokenizer": "lgsid.sid.hierarchical",
    "KMeans": "lgsid.sid.kmeans",
    "load_tokenizer": "lgsid.sid.methods",
    "assign_in_run": "lgsid.sid.assign",
    "sid_catalogue": "lgsid.sid.catalogue",
    "make_tokenizer": "lgsid.sid.methods",
    "RunConfig": "lgsid.config",
    "load_run_config": "lgsid.config",
    "RunFolder": "lgsid.artifact",
    "execute": "lgsid.pipeline",
    "LgsidError": "lgsid.errors",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import public names on first use: ``import lgsid`` itself must not cost seconds."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'lgsid' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
