"""Importers: raw public files, and any table by a column mapping, into the two tables of the contract."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path

from lgsid.data.importers.base import Importer, ImportReport, run_importer
from lgsid.errors import ConfigError

SOURCES = {
    "yelp": "Yelp Open Dataset, JSON lines (business, review, tip files)",
    "foursquare": "Foursquare check-ins dataset_TSMC2014_*.txt",
    "gowalla": "SNAP loc-gowalla_totalCheckins.txt.gz (Brightkite has the same layout)",
    "table": "any CSV, JSON-lines or Parquet file, with --mapping FILE",
}
"""What `import_data` can read: name and description."""


def import_data(
    source: str, files: Sequence[Path], folder: Path, *, mapping: Path | None = None, lenient: bool = False
) -> ImportReport:
    """Import raw files into ``items.parquet``, ``events.parquet`` and ``import.json`` (and ``rejects.parquet``).

    Args:
        source: one of `SOURCES`.
        files: the raw files, gzip-compressed or not.
        folder: output folder.
        mapping: column mapping (YAML) of the source ``table``.
        lenient: drop wrong lines, count them and keep them in ``rejects.parquet``, instead of stopping.

    Raises:
        ConfigError: the source is unknown, or the mapping is missing or does not fit.
        DataError: a file is missing, damaged or of another kind.
        TableError: lines are wrong and the import is strict.
    """
    if not files:
        raise ConfigError("no files to import", f"lgsid import {source} FILE … --out DIR")
    return run_importer(source, _importer(source, mapping), files, folder, lenient)


def _importer(source: str, mapping: Path | None) -> Importer:
    if source not in SOURCES:
        near = difflib.get_close_matches(source.lower(), SOURCES, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else "any table can be imported with: lgsid import table --mapping FILE"
        )
        raise ConfigError(f"no importer {source!r}; known: {', '.join(SOURCES)}", hint)
    if (source == "table") != (mapping is not None):
        need = "needs a column mapping" if source == "table" else "takes no column mapping"
        raise ConfigError(f"the source {source!r} {need}", "lgsid import table FILE … --mapping MAP.yaml --out DIR")
    if source == "yelp":
        from lgsid.data.importers.yelp import import_yelp

        return import_yelp
    if source == "foursquare":
        from lgsid.data.importers.foursquare import import_foursquare

        return import_foursquare
    if source == "gowalla":
        from lgsid.data.importers.gowalla import import_gowalla

        return import_gowalla
    from lgsid.data.importers.mapped import import_mapped
    from lgsid.data.importers.mapping import load_mapping

    assert mapping is not None
    return functools.partial(import_mapped, mapping=load_mapping(mapping))
