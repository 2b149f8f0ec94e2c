"""SIDs as a table and as text.

A table has the columns ``item_id``, ``token_1`` … ``token_L``, where some item needs it ``token_{L+1}`` (the extra
token, 0 for all others), ``sid`` and ``collides``. As text an extra token of 0 is not written: see `lgsid.sid.unique`.

Axes: N items, L levels.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, CodeArray
from lgsid.artifact import RunFolder
from lgsid.sid.unique import split_extra


def token_columns(levels: int) -> list[str]:
    """Names of the columns of the first ``levels`` tokens."""
    return [f"token_{level}" for level in range(1, levels + 1)]


def sid_table(item_ids: pl.Series, codes_NM: CodeArray, collides_N: BoolArray, levels: int) -> pl.DataFrame:
    """The table of ``sids.parquet``.

    Args:
        item_ids: of the N items.
        codes_NM: unique codes, (N, L) or (N, L + 1).
        collides_N: whether an item's raw code was not its alone.
        levels: L.
    """
    names = token_columns(codes_NM.shape[1])
    tokens = pl.DataFrame(np.ascontiguousarray(codes_NM), schema=dict.fromkeys(names, pl.Int32))
    sid, collides = sid_texts(codes_NM, levels), pl.Series("collides", collides_N, dtype=pl.Boolean)
    return pl.DataFrame([item_ids.alias("item_id"), *tokens.get_columns(), sid, collides])


def sid_texts(codes_NM: CodeArray, levels: int) -> pl.Series:
    """SIDs as text, such as "12-7-255", or "12-7-255-1" with an extra token of 1."""
    codes_NL, extra_N = split_extra(codes_NM, levels)
    tokens = pl.DataFrame(np.ascontiguousarray(codes_NL), schema=dict.fromkeys(token_columns(levels), pl.Int32))
    text = pl.concat_str(pl.all().cast(pl.String), separator="-")
    extra = pl.Series("extra", extra_N, dtype=pl.Int32)
    numbered = pl.format("{}-{}", "sid", "extra")
    texts = tokens.select(text.alias("sid")).with_columns(extra)
    return texts.select(pl.when(pl.col("extra") > 0).then(numbered).otherwise("sid").alias("sid")).to_series()


def codes_of(table: pl.DataFrame, levels: int) -> CodeArray:
    """Unique codes of a table, int32 (N, L + 1): always with the extra token."""
    names = token_columns(levels + 1)
    columns = [pl.col(name) if name in table.columns else pl.lit(0).alias(name) for name in names]
    codes_NM: CodeArray = table.select(column.fill_null(0).cast(pl.Int32) for column in columns).to_numpy()
    return np.ascontiguousarray(codes_NM)


def run_codes(run: RunFolder) -> CodeArray:
    """Unique codes of a run's items in their order, int32 (N, L), or (N, L + 1) where some item needs the extra token.

    Raises:
        ArtifactError: stage 3 has not run.
    """
    table = pl.read_parquet(run.require("3_sid", "sids.parquet", f"lgsid tokenize {run.root}"))
    tokens = [name for name in table.columns if name.startswith("token_")]
    codes_NM: CodeArray = table.select(tokens).fill_null(0).to_numpy().astype(np.int32)
    return codes_NM


def without_idle_extra(codes_NM: CodeArray, levels: int) -> CodeArray:
    """The codes without their extra token where no item needs it."""
    codes_NL, extra_N = split_extra(codes_NM, levels)
    return codes_NM if extra_N.any() else codes_NL
