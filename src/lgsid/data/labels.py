"""Labels of items: region paths, category roots, and integers that are equal where the labels are."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, IntArray

REGIONS = ("province", "city", "district")
"""Administrative levels, coarse to fine."""
SEPARATORS = r"\s*[|;]\s*"
"""Between the entries of a flat list of categories."""


def region_path(items: pl.DataFrame, depth: int) -> pl.Series:
    """Province, "province > city" or "province > city > district"; null where the last of them is unknown.

    The path keeps namesakes apart: Springfield in Illinois is not Springfield in Ohio.
    """
    names = ("province", "city", "district")[:depth]
    columns = [pl.col(name) if name in items.columns else pl.lit(None, dtype=pl.String).alias(name) for name in names]
    parts = [column.fill_null("") for column in columns[:-1]]
    path = pl.when(columns[-1].is_not_null()).then(pl.concat_str([*parts, columns[-1]], separator=" > "))
    return items.with_columns(path.alias("path"))["path"]


def root_categories(items: pl.DataFrame) -> pl.Series:
    """Root category of each item as a list: "Food > Bar" is ["Food"], the flat "Bars | Food" is ["Bars", "Food"]."""
    if "category" not in items.columns:
        return pl.Series("category", [None] * len(items), dtype=pl.List(pl.String))
    flat = pl.col("category").str.replace_all(SEPARATORS, "|").str.split("|")
    return items.select(flat.list.eval(pl.element().str.split(">").list.first().str.strip_chars()).alias("category"))[
        "category"
    ]


def same_value_codes(items: pl.DataFrame) -> dict[str, IntArray]:
    """For each region level and for the category one integer per item, equal where path or category is; -1: unknown."""
    values = {level: region_path(items, depth + 1) for depth, level in enumerate(REGIONS)}
    values["category"] = items["category"]
    return {name: value.rank("dense").cast(pl.Int64).fill_null(-1).to_numpy() for name, value in values.items()}


def identity(name: str, kind: str, dim: int) -> DoubleArray:
    """The random unit vector of a name: a function of the name alone, the same in every catalogue and process."""
    digest = hashlib.sha256(f"{kind}\x00{name}".encode()).digest()
    vector = np.random.default_rng(int.from_bytes(digest[:16], "little")).standard_normal(dim)
    unit: DoubleArray = vector / np.linalg.norm(vector)
    return unit


def identities(names_N: pl.Series, kind: str, dim: int) -> DoubleArray:
    """Identity vectors (N, ``dim``) of names; zero, the mean of all, for an unknown one."""
    distinct = names_N.drop_nulls().unique(maintain_order=True)
    table = np.stack([np.zeros(dim), *(identity(name, kind, dim) for name in distinct)])
    if len(distinct) == 0:
        return np.zeros((len(names_N), dim))
    index = names_N.replace_strict(distinct, pl.Series(range(1, len(distinct) + 1), dtype=pl.Int64), default=None)
    rows: DoubleArray = table[index.fill_null(0).to_numpy()]
    return rows
