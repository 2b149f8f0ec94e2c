"""What the models know of an item: its ID, labels, and the rows of its SID in the embedding tables.

The same for every tokeniser but the SID. Labels and IDs are read from the items alone; the number of visits is that of
the training period.

Axes: N items, F features, L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.config import RankConfig
from lgsid.errors import ConfigError

PREFIX_ROWS = 1 << 20
"""Most rows of the table of a prefix; longer prefixes are hashed into so many."""


@dataclass(frozen=True)
class SidRows:
    """The SIDs of N items as rows of embedding tables: (N, tables), and each table's number of rows."""

    rows_NL: IntArray
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class ItemFeatures:
    """What models know of the items.

    Attributes:
        names: of the features, F.
        rows_NF: row of each item in each feature's table, int64.
        sizes: rows of each table.
        seen_N: visits of each item in the training period, float32.
        categories_N: category of each item as an integer, -1 where unknown, int64; for SIM's hard search.
    """

    names: tuple[str, ...]
    rows_NF: IntArray
    sizes: tuple[int, ...]
    seen_N: FloatArray
    categories_N: IntArray


def item_features(items: pl.DataFrame, seen_N: IntArray, sid: SidRows | None, config: RankConfig) -> ItemFeatures:
    """The features that a configuration asks for.

    Args:
        items: the catalogue.
        seen_N: visits of each item in the training period.
        sid: see `sid_rows`; None where the models are to do without.
        config: which features.

    Raises:
        ConfigError: the SIDs are asked for and not given, or nothing is left to know.
    """
    if config.sid != "none" and sid is None:
        raise ConfigError("rank.sid asks for SIDs and there are none", "lgsid tokenize RUN, or --set rank.sid=none")
    names: list[str] = []
    columns: list[IntArray] = []
    sizes: list[int] = []
    for name in config.features:
        rows_N = np.arange(len(items)) if name == "id" else _labels(items, name)
        if rows_N.max(initial=0) > 0:
            names.append(name)
            columns.append(rows_N)
            sizes.append(int(rows_N.max()) + 1)
    if sid is not None and config.sid != "none":
        for level, size in enumerate(sid.sizes, start=1):
            names.append(f"sid_{level}")
            columns.append(sid.rows_NL[:, level - 1])
            sizes.append(size)
    if not names:
        raise ConfigError(
            f"no item has a value in {', '.join(config.features)}, so the models would know nothing of an item",
            "add id to rank.features, or --set rank.sid=levels",
        )
    return ItemFeatures(
        tuple(names), np.stack(columns, axis=1), tuple(sizes), seen_N.astype(np.float32), _labels(items, "category") - 1
    )


def _labels(items: pl.DataFrame, name: str) -> IntArray:
    """Integers that are equal where a label is; 0 where it is unknown."""
    if name not in items.columns:
        return np.zeros(len(items), dtype=np.int64)
    rows_N: IntArray = items[name].rank("dense").cast(pl.Int64).fill_null(0).to_numpy()
    return rows_N


def sid_rows(codes_NL: CodeArray, sizes: Sequence[int], how: str) -> SidRows:
    """Rows of codes in embedding tables: one table a token ("levels"), or one a prefix ("prefixes").

    Args:
        codes_NL: codes of all items.
        sizes: how many values each token can take, L.
        how: `RankConfig.sid`.
    """
    from lgsid.sid.ngram import prefix_ngrams

    if how == "prefixes":
        rows_NL, tables = prefix_ngrams(codes_NL, sizes, PREFIX_ROWS)
        return SidRows(rows_NL, tuple(tables))
    return SidRows(codes_NL.astype(np.int64), tuple(sizes))
