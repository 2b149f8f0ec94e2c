"""What is known of items apart from their codes, as integers to compare and to predict."""

from __future__ import annotations

import numpy as np
import polars as pl

from lgsid.arrays import IntArray
from lgsid.data.labels import REGIONS, root_categories, same_value_codes

ATTRIBUTES = (*REGIONS, "main_category", "category")
"""Names of the attributes: regions by their whole path, the main category, and the whole text of the category."""


def attributes(items: pl.DataFrame) -> dict[str, IntArray]:
    """For each of `ATTRIBUTES` one integer per item (N,), equal where the attribute is; -1: unknown."""
    if "category" not in items.columns:
        items = items.with_columns(pl.lit(None, dtype=pl.String).alias("category"))
    codes = {**same_value_codes(items), "main_category": main_category_codes(items)}
    return {name: codes[name] for name in ATTRIBUTES}


def main_category_codes(items: pl.DataFrame) -> IntArray:
    """The commonest root category of each item as an integer (N,); -1: unknown.

    "Food > Bar" has one root, Food. The flat list "Mexican | Restaurants" has two entries, and more items of the
    catalogue are restaurants than are Mexican, so that Restaurants is the main one. Ties go to the first by name.
    """
    roots = (
        pl.DataFrame({"root": root_categories(items)})
        .with_row_index("row")
        .explode("root", empty_as_null=True)
        .filter(pl.col("root").is_not_null() & (pl.col("root") != ""))
    )
    main = (
        roots.with_columns(pl.len().over("root").alias("items"), pl.col("root").rank("dense").alias("name"))
        .sort(["row", "items", "name"], descending=[False, True, False])
        .unique("row", keep="first", maintain_order=True)
    )
    codes_N = np.full(len(items), -1, dtype=np.int64)
    codes_N[main["row"].to_numpy()] = main["name"].to_numpy().astype(np.int64)
    return codes_N
