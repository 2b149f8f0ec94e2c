"""The map library of the page: Leaflet's own files, out of a Python package, checked against their hashes.

The package holds the files of npm's leaflet 1.9.4 byte by byte, so nothing is fetched when the page is shown and
nothing of them is committed here.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from lgsid.errors import ArtifactError, LgsidError, MissingDependencyError

PACKAGE, MODULE = "django-js-lib-leaflet==1.9.4.1", "js_lib_leaflet"
SHA256 = {
    "leaflet.js": "db49d009c841f5ca34a888c96511ae936fd9f5533e90d8b2c4d57596f4e5641a",
    "leaflet.css": "a7837102824184820dfa198d1ebcd109ff6d0ff9a2672a074b9a1b4d147d04c6",
}
"""Files that the page loads, as npm's leaflet-1.9.4.tgz has them."""
TYPES = {"leaflet.js": "text/javascript; charset=utf-8", "leaflet.css": "text/css; charset=utf-8"}


def leaflet_folder() -> Path:
    """Where the package keeps the files.

    Raises:
        MissingDependencyError: it is not installed.
    """
    spec = find_spec(MODULE)  # found, not imported: there is nothing to run in it
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(PACKAGE, "the map page", "serve")
    return Path(next(iter(spec.submodule_search_locations))) / "static" / MODULE


def read_leaflet(folder: Path | None = None) -> dict[str, bytes]:
    """The files by name.

    Args:
        folder: where they are; None for the installed package.

    Raises:
        MissingDependencyError: the package is not installed.
        ArtifactError: a file is missing or is not the one that is expected.
    """
    folder = leaflet_folder() if folder is None else folder
    return {name: _read(folder / name, expected) for name, expected in SHA256.items()}


def _read(path: Path, expected: str) -> bytes:
    fix = f"pip install --force-reinstall --no-deps {PACKAGE}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or error}", fix) from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise ArtifactError(f"{path} has SHA-256 {found[:12]}…, expected {expected[:12]}… of Leaflet 1.9.4", fix)
    return content


def leaflet_or_reason(folder: Path | None = None) -> tuple[dict[str, bytes], LgsidError | None]:
    """The files, or none of them and why; the service answers without its map too."""
    try:
        return read_leaflet(folder), None
    except LgsidError as error:
        return {}, error
