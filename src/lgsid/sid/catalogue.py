"""The catalogue of a run as it is now: the fitted items, and what `lgsid assign` has added, changed and closed since.

What came after the fit lies in ``RUN/assigned/``; the stages' own folders are never touched:

    items.parquet            content of every new and every changed item, as last seen
    embeddings.safetensors   their embeddings (``emb_ND``), row for row
    sids.parquet             one row for every item that is new, changed, closed or reopened; see `COLUMNS`
    retired.parquet          SIDs that an item gave up when it was recoded; they are not given to another one
    drift.json               what `lgsid.sid.drift` says of it all
    manifest.json            the fit it belongs to, number of calls, and hashes

The folder is written beside itself and changes places with its predecessor in one step.

Axes: N items, D embedding dimensions, L levels.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import MANIFEST, RunFolder, atomic_path, read_json, sha256_file, sha256_json, write_json
from lgsid.errors import ArtifactError
from lgsid.mapped import map_tensor
from lgsid.sid.table import token_columns

FOLDER, NEXT, OLD = "assigned", ".assigned.next", ".assigned.old"
FITTED, NEW, CHANGED, CLOSED, REOPENED = "fitted", "new", "changed", "closed", "reopened"
COLUMNS: dict[str, Any] = {"status": pl.String, "when": pl.Int64, "raw": pl.String, "sid_now": pl.String,
                           "moved_km": pl.Float64}  # fmt: skip
"""Columns of ``sids.parquet`` beside those of stage 3: status; number of the call that gave it; raw code by which the
SID was given; SID that the item would get if it were coded anew (another one only where its raw code has changed); and
how far the item moved when it last changed, in km."""


@dataclass(frozen=True)
class Assigned:
    """What came after the fit.

    Attributes:
        items, emb_ND: content and embeddings of new and changed items, row for row.
        sids: see `COLUMNS`.
        retired: item_id, token_1 …, sid, when.
        calls: number of calls that changed something.
    """

    items: pl.DataFrame
    emb_ND: FloatArray
    sids: pl.DataFrame
    retired: pl.DataFrame
    calls: int

    @property
    def closed(self) -> pl.Series:
        """Ids of the closed items."""
        return self.sids.filter(pl.col("status") == CLOSED)["item_id"]


@dataclass(frozen=True)
class Fit:
    """What stages 1 to 3 made: items, embeddings (memory-mapped) and SIDs, row for row."""

    items: pl.DataFrame
    emb_ND: FloatArray
    sids: pl.DataFrame
    levels: int


@dataclass(frozen=True)
class Catalogue:
    """The open items of a run, row for row.

    Attributes:
        items: fitted items in their order with their present content, then new ones in the order they came.
        emb_ND: their embeddings.
        sids: item_id, token_1 …, sid, collides, status ("fitted", "new", "changed", "reopened") and when (0: the fit).
    """

    items: pl.DataFrame
    emb_ND: FloatArray
    sids: pl.DataFrame


def sid_catalogue(run: RunFolder) -> pl.DataFrame:
    """The SIDs of all open items of a run: of stage 3, with what was assigned since; see `Catalogue.sids`.

    Raises:
        ArtifactError: stage 3 has not run, or what was assigned belongs to an earlier fit.
    """
    base = pl.read_parquet(run.require("3_sid", "sids.parquet", f"lgsid tokenize {run.root}"))
    return merged_sids(base, read_assigned(run).sids)


def current_catalogue(run: RunFolder) -> Catalogue:
    """Items, embeddings and SIDs of all open items of a run.

    Raises:
        ArtifactError: see `sid_catalogue`.
    """
    fit, assigned = read_fit(run), read_assigned(run)
    items, emb_ND = merged_content(fit, assigned)
    return Catalogue(items, emb_ND, merged_sids(fit.sids, assigned.sids))


def merged_sids(base: pl.DataFrame, later: pl.DataFrame) -> pl.DataFrame:
    """SIDs of the open items; a later row counts more than the fitted one."""
    fitted = base.with_columns(pl.lit(FITTED).alias("status"), pl.lit(0, dtype=pl.Int64).alias("when"))
    both = pl.concat([fitted, later.select(pl.exclude("raw", "sid_now", "moved_km"))], how="diagonal")
    both = both[last_rows(both["item_id"])].filter(pl.col("status") != CLOSED)
    tokens = [name for name in both.columns if name.startswith("token_")]
    both = both.with_columns(pl.col(tokens).fill_null(0))
    # an extra token that nobody needs is no column
    tokens = [name for name in tokens if name in base.columns or (both[name] > 0).any()]
    tokens.sort(key=lambda name: int(name.removeprefix("token_")))
    return both.select("item_id", *tokens, "sid", "collides", "status", "when")


def merged_content(fit: Fit, assigned: Assigned) -> tuple[pl.DataFrame, FloatArray]:
    """Items as they are now and their embeddings, closed ones left out."""
    both = pl.concat([fit.items, assigned.items], how="diagonal_relaxed")
    row_N = last_rows(both["item_id"])
    row_N = row_N[~both["item_id"].gather(row_N).is_in(assigned.closed.implode()).to_numpy()]
    emb_ND = np.empty((len(row_N), fit.emb_ND.shape[1]), dtype=np.float32)
    later = row_N >= len(fit.items)
    emb_ND[~later] = fit.emb_ND[row_N[~later]]
    emb_ND[later] = assigned.emb_ND[row_N[later] - len(fit.items)]
    return both[row_N], emb_ND


def last_rows(item_ids: pl.Series) -> IntArray:
    """The last row of each item, items in the order of their first one."""
    rows = pl.DataFrame({"item_id": item_ids}).with_row_index("row")
    last: IntArray = rows.group_by("item_id", maintain_order=True).agg(pl.col("row").last())["row"].to_numpy()
    return last.astype(np.int64)


# --- Reading ----------------------------------------------------------------------------------------------------------
def read_fit(run: RunFolder) -> Fit:
    """What stages 1 to 3 made.

    Raises:
        ArtifactError: a file is missing, or they do not fit each other.
    """
    fix = f"lgsid tokenize {run.root}"
    sids = pl.read_parquet(run.require("3_sid", "sids.parquet", fix))
    items = pl.read_parquet(run.require("1_data", "items.parquet", fix))
    emb_ND = map_embeddings(run.require("2_align", "embeddings.safetensors", fix))
    sizes = read_json(run.require("3_sid", "tokenizer/config.json", fix)).get("sizes", ())
    if not items["item_id"].equals(sids["item_id"]) or len(emb_ND) != len(items):
        raise ArtifactError(f"{run.root}: the items of 1_data, 2_align and 3_sid are not the same", fix)
    return Fit(items, emb_ND, sids, len(sizes))


def map_embeddings(path: Path) -> FloatArray:
    """``emb_ND`` of a safetensors file as a memory-mapped array: rows are read from disk as they are used.

    Raises:
        ArtifactError: the file is cut off, or holds no such tensor of float32.
    """
    return map_tensor(path, "emb_ND", np.float32)


def read_assigned(run: RunFolder) -> Assigned:
    """What came after the fit; nothing where `lgsid assign` has not run.

    Raises:
        ArtifactError: stage 3 is not complete, has been fitted anew since, or a file is missing or corrupt.
    """
    folder = _complete_folder(run)
    digest = fit_digest(run)
    if folder is None:
        dim = map_embeddings(run.require("2_align", "embeddings.safetensors", f"lgsid align {run.root}")).shape[1]
        none = pl.DataFrame(schema={"item_id": pl.String})
        tokens = dict.fromkeys(("item_id", "sid"), pl.String)
        sids = pl.DataFrame(schema={**tokens, "collides": pl.Boolean, **COLUMNS})
        return Assigned(
            none, np.zeros((0, dim), np.float32), sids, pl.DataFrame(schema={**tokens, "when": pl.Int64}), 0
        )
    manifest = read_json(folder / MANIFEST)
    if manifest.get("fit") != digest:
        raise ArtifactError(
            f"{folder} belongs to an earlier fit: 3_sid has been written again since",
            f"mv {folder} elsewhere and assign its items anew, or use lgsid refit instead of lgsid tokenize",
        )
    try:
        tables = [pl.read_parquet(folder / f"{name}.parquet") for name in ("items", "sids", "retired")]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{folder} cannot be read: {error}", f"restore {folder} from a copy") from error
    emb_ND = map_embeddings(folder / "embeddings.safetensors")
    if len(emb_ND) != len(tables[0]):
        raise ArtifactError(f"{folder} has {len(tables[0])} items and {len(emb_ND)} embeddings", f"restore {folder}")
    return Assigned(tables[0], emb_ND, tables[1], tables[2], int(manifest["calls"]))


def fit_digest(run: RunFolder) -> str:
    """Hash of the SIDs and the codebooks of stage 3, by its manifest.

    Raises:
        ArtifactError: the stage is not complete.
    """
    manifest = run.manifest("3_sid")
    if manifest is None:
        raise ArtifactError(f"the stage 3_sid is not complete in {run.root}", f"lgsid tokenize {run.root}")
    outputs = manifest["outputs"]
    return sha256_json([outputs.get("sids.parquet"), outputs.get("tokenizer/codebooks.safetensors")])


def _complete_folder(run: RunFolder) -> Path | None:
    """The folder, or what was to become it when a call was killed between taking the old one away and that."""
    for name in (FOLDER, NEXT):
        if (run.path(name) / MANIFEST).exists():
            return run.path(name)
    return None


# --- Writing ----------------------------------------------------------------------------------------------------------
def write_assigned(run: RunFolder, assigned: Assigned, drift: Mapping[str, Any], rejects: pl.DataFrame | None) -> None:
    """Replace the folder at once: a kill at any moment leaves the old or the new one.

    The caller holds the run's lock.
    """
    from lgsid.align.stage import write_embeddings

    recover(run)
    folder = run.path(NEXT)
    folder.mkdir()
    tables = {"items": assigned.items, "sids": assigned.sids, "retired": assigned.retired}
    if rejects is not None:
        tables["rejects_items"] = rejects
    for name, table in tables.items():
        with atomic_path(folder / f"{name}.parquet") as path:
            table.write_parquet(path)
    write_embeddings(folder / "embeddings.safetensors", assigned.emb_ND, {})
    write_json(folder / "drift.json", drift)
    outputs = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    manifest = {"stage": FOLDER, "fit": fit_digest(run), "calls": assigned.calls, "outputs": outputs}
    write_json(folder / MANIFEST, manifest)
    if run.path(FOLDER).exists():
        run.path(FOLDER).rename(run.path(OLD))
    folder.rename(run.path(FOLDER))
    shutil.rmtree(run.path(OLD), ignore_errors=True)


def recover(run: RunFolder) -> None:
    """Finish, or clear away, what a killed call left."""
    if not run.path(FOLDER).exists() and (run.path(NEXT) / MANIFEST).exists():
        run.path(NEXT).rename(run.path(FOLDER))
    shutil.rmtree(run.path(NEXT), ignore_errors=True)
    shutil.rmtree(run.path(OLD), ignore_errors=True)


def with_rows(table: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """The table with rows of the same ``item_id`` replaced, in their place, and new ones added at the end."""
    both = pl.concat([table, rows], how="diagonal_relaxed")
    return both[last_rows(both["item_id"])]


def token_table(table: pl.DataFrame, levels: int) -> pl.DataFrame:
    """The table with all tokens, the extra one included, as columns in their order behind ``item_id``."""
    names = token_columns(levels + 1)
    filled = [
        (pl.col(name).fill_null(0) if name in table.columns else pl.lit(0)).cast(pl.Int32).alias(name) for name in names
    ]
    others = [name for name in table.columns if name not in ("item_id", *names)]
    return table.select("item_id", *filled, *others)
