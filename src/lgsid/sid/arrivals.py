"""Items that arrive after the fit: read, checked, completed and embedded in the way of the run they join.

Everything is done with the run's own configuration: the same checks, the same datum, regions filled from the same
catalogue, the same prompt, the same encoder. That the encoder is the same is verified on items of the run.

Axes: N items, D embedding dimensions.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray
from lgsid.artifact import RunFolder
from lgsid.config import RunConfig
from lgsid.data.checks import ITEM_TEXTS
from lgsid.data.regions import LEVELS, fill_regions
from lgsid.data.tables import TableReport, check_items
from lgsid.errors import ArtifactError, DataError
from lgsid.sid.catalogue import Fit

CONTENT = (*ITEM_TEXTS, "lat_deg", "lon_deg")
"""Columns of content and place: an item in which one of them differs has changed."""
SAME_DEG = 1e-7
"""Coordinates that differ less (1 cm) are the same."""
PROBES = 8
"""Items of the run by which prompts and encoder are verified …"""
LEAST_COSINE = 0.99
"""… by this cosine at least: bf16 and fp32 of one encoder agree to 0.999."""


@dataclass(frozen=True)
class Arrivals:
    """Checked items of a file.

    Attributes:
        items: columns as in ``1_data/items.parquet``; items that the run knows keep what the file does not say.
        rejects: bad rows, in lenient mode.
        report: counts of the checks; None where there is no file.
    """

    items: pl.DataFrame
    rejects: pl.DataFrame | None
    report: TableReport | None


def read_arrivals(config: RunConfig, source: Path | pl.DataFrame | None, known: pl.DataFrame) -> Arrivals:
    """Read and check items, and fill their regions from the run's catalogue.

    Args:
        config: of the run.
        source: an items table (Parquet or CSV), or a frame of one.
        known: items of the run, closed ones included, as last seen.

    Raises:
        DataError, TableError: see `check_items`.
    """
    if source is None:
        return Arrivals(known.clear(), None, None)
    if isinstance(source, pl.DataFrame):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "items.parquet"
            source.write_parquet(path)
            return read_arrivals(config, path, known)
    checked = check_items(source, config.data)
    items = _as_known(checked.items, known, _columns_of(source))
    if config.data.fill_regions:
        items = _with_regions(items, known)
    return Arrivals(items, checked.rejects if config.data.lenient else None, checked.report)


def _columns_of(path: Path) -> list[str]:
    from lgsid.data.reading import open_table

    return open_table(path).columns


def _as_known(items: pl.DataFrame, known: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
    """Items that the run knows keep what the file has no column for, and regions that it leaves open at their place."""
    before = known.select("item_id", *(pl.col(name).alias(f"was_{name}") for name in CONTENT))
    both = items.join(before, on="item_id", how="left", maintain_order="left")
    stays = same_coordinates("lat_deg", "was_lat_deg") & same_coordinates("lon_deg", "was_lon_deg")
    filled = [
        pl.when(pl.lit(name not in columns) | stays).then(pl.coalesce(name, f"was_{name}")).otherwise(name).alias(name)
        for name in ITEM_TEXTS[1:]
        if name not in columns or name in LEVELS
    ]
    return both.with_columns(filled).select(items.columns)


def same_coordinates(one: str, other: str) -> pl.Expr:
    """Whether two columns of degrees are the same."""
    return (pl.col(one) - pl.col(other)).abs() <= SAME_DEG


def _with_regions(items: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Fill regions as stage 1 does, with the run's catalogue as neighbours."""
    lacking = items.select(pl.any_horizontal(pl.col(level).is_null() for level in LEVELS).any()).item()
    if not lacking:
        return items
    needed = ["item_id", "title", "lat_deg", "lon_deg", *LEVELS]
    others = known.filter(~pl.col("item_id").is_in(items["item_id"].implode()))
    filled = fill_regions(pl.concat([items.select(needed), others.select(needed)])).items.head(len(items))
    return items.with_columns(filled.select(LEVELS).get_columns())


def embed_arrivals(config: RunConfig, run: RunFolder, items: pl.DataFrame, base: Fit) -> FloatArray:
    """Embeddings of items, (N, D), by the encoder that made the run's.

    Args:
        config, run: the run.
        items: to embed.
        base: what was fitted: its first items verify the encoder.

    Raises:
        ArtifactError: the configuration no longer gives the prompts or the embeddings of the run.
        EncoderError, MissingDependencyError: see `Encoder.load`.
    """
    from lgsid.align.cache import EmbeddingCache
    from lgsid.align.embed import embed
    from lgsid.align.encoder import Encoder
    from lgsid.align.prompts import prompts
    from lgsid.align.stage import ENCODER, FOLDER, PROMPTS

    probes = prompts(base.items.head(PROBES), config.align.prompt).to_list()
    stored = pl.read_parquet(run.require(FOLDER, PROMPTS, f"lgsid align {run.root}"), n_rows=len(probes))
    if probes != stored["prompt"].to_list():
        raise ArtifactError(
            f"the configuration of {run.root} gives other prompts than the run has: {probes[0]!r}",
            f"lgsid align {run.root}",
        )
    encoder_config = config.align.encoder
    if run.path(FOLDER, ENCODER).is_dir():  # the aligned one
        encoder_config = encoder_config.model_copy(update={"model": str(run.path(FOLDER, ENCODER))})
    encoder = Encoder.load(encoder_config)
    texts = [*probes, *prompts(items, config.align.prompt).to_list()]
    emb = embed(encoder, texts, EmbeddingCache(encoder.fingerprint, encoder.dim)).emb
    _same_encoder(emb[: len(probes)], base.emb_ND[: len(probes)], encoder.name, run)
    return emb[len(probes) :]


def _same_encoder(found_PD: FloatArray, stored_PD: FloatArray, name: str, run: RunFolder) -> None:
    cosine = float((found_PD * stored_PD).sum(axis=1).min()) if found_PD.shape == stored_PD.shape else 0.0
    if cosine < LEAST_COSINE:
        raise ArtifactError(
            f"the encoder {name} is not the one that made the embeddings of {run.root}: it gives vectors of "
            f"{found_PD.shape[1]} dimensions with a cosine of {cosine:.3f} to them",
            f"restore the encoder, or lgsid align {run.root}",
        )


def read_ids(source: Path | pl.Series | None) -> pl.Series:
    """Distinct item ids of a Parquet or CSV file with a column ``item_id``, or of a series.

    Raises:
        DataError: the file cannot be read, lacks the column, or an id is missing.
    """
    from lgsid.data.reading import open_table

    if source is None:
        return pl.Series("item_id", [], dtype=pl.String)
    if isinstance(source, pl.Series):
        ids = source
    else:
        table = open_table(source)
        if "item_id" not in table.columns:
            raise DataError(
                f"{source} lacks the column item_id (it has {', '.join(table.columns)})",
                "name its column of ids item_id",
            )
        parts = [batch["item_id"] for batch in table.batches(1_000_000)]
        ids = pl.concat(parts) if parts else pl.Series("item_id", [], dtype=pl.String)
    if ids.dtype.is_float() and (ids == ids.floor()).all():
        ids = ids.cast(pl.Int64)
    ids = ids.cast(pl.String)
    blank = np.flatnonzero((ids.is_null() | (ids.str.strip_chars() == "")).to_numpy())
    if len(blank):
        raise DataError(f"the closed items have no item_id in row {blank[0] + 1}", "write the id, or drop the row")
    return ids.unique(maintain_order=True).alias("item_id")
