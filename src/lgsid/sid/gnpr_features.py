"""What is known of a place, as sparse blocks: category, region, hours and visitors (for `lgsid.sid.gnpr`).

Axes: N items, n of them, I columns of all blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import AnyArray, FloatArray, IntArray
from lgsid.config import GnprConfig
from lgsid.data.labels import SEPARATORS
from lgsid.errors import DataError
from lgsid.hashing import mixed

HOURS = 24
MOST_HASH = 2**63 - 1


@dataclass(frozen=True)
class Columns:
    """Which column a name has: its own while they are few, else one shared by hash.

    Attributes:
        known: sorted hashes of the names that have a column each; none where columns are shared.
        width: number of columns.
    """

    known: IntArray
    width: int

    @classmethod
    def of(cls, hashes: IntArray, most: int) -> Columns:
        """Columns of these names, ``most`` at most."""
        known = np.unique(hashes)
        return cls(known, len(known)) if len(known) <= most else cls(known[:0], most)

    def __call__(self, hashes: IntArray) -> IntArray:
        """Column of each name; -1 for one that was not there when there was a column for each."""
        if len(self.known) == 0:
            return hashes % self.width if self.width else np.full(len(hashes), -1)
        at = np.searchsorted(self.known, hashes).clip(max=len(self.known) - 1)
        return np.where(self.known[at] == hashes, at, -1)


@dataclass(frozen=True)
class Entries:
    """Sparse rows: item ``row`` has ``value`` in ``column``; sorted by row.

    Attributes:
        start_N1: where each item's entries start, and where the last one's end.
        column, value: of each entry.
    """

    start_N1: IntArray
    column: IntArray
    value: FloatArray

    @classmethod
    def of(cls, items: int, row: IntArray, column: IntArray, weight: AnyArray) -> Entries:
        """Rows of unit length; entries of one place are added, those with column -1 left out."""
        table = pl.DataFrame({"row": row, "column": column, "weight": weight}).filter(pl.col("column") >= 0)
        table = table.group_by("row", "column").agg(pl.col("weight").sum()).sort("row", "column")
        row, value = table["row"].to_numpy(), table["weight"].to_numpy()
        length_N = np.sqrt(np.bincount(row, value.astype(np.float64) ** 2, items)).clip(1e-12)
        start = np.searchsorted(row, np.arange(items + 1))
        return cls(start.astype(np.int64), table["column"].to_numpy(), (value / length_N[row]).astype(np.float32))

    def dense(self, rows: IntArray, width: int) -> FloatArray:
        """The chosen rows in full, (n, width)."""
        counts = self.start_N1[rows + 1] - self.start_N1[rows]
        within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        entry = np.repeat(self.start_N1[rows], counts) + within
        full = np.zeros((len(rows), width), dtype=np.float32)
        full[np.repeat(np.arange(len(rows)), counts), self.column[entry]] = self.value[entry]
        return full


@dataclass(frozen=True)
class PlaceFeatures:
    """The four blocks; which names have which columns is learned by `fit`."""

    columns: Mapping[str, Columns]
    region_deg: float

    @classmethod
    def fit(cls, items: pl.DataFrame, events: pl.DataFrame | None, config: GnprConfig) -> PlaceFeatures:
        """Learn the columns.

        Raises:
            DataError: a column is missing.
        """
        users = hashes(visits(items, events)["user_id"].unique(maintain_order=True))
        return cls(
            {
                "category": Columns.of(hashes(categories(items)["category"].unique()), config.categories),
                "region": Columns.of(cells(items, config.region_deg), config.regions),
                "visitors": Columns.of(users, config.visitors),
            },
            config.region_deg,
        )

    @property
    def width(self) -> int:
        """I, all blocks together."""
        return sum(columns.width for columns in self.columns.values()) + HOURS

    def transform(self, items: pl.DataFrame, events: pl.DataFrame | None) -> Entries:
        """Features of the items."""
        rows, places, blocks = [], [], []
        start = 0
        for row, column, weight, width in self._blocks(items, events):
            block = Entries.of(len(items), row, column, weight)
            rows.append(np.repeat(np.arange(len(items)), np.diff(block.start_N1)))
            places.append(block.column + start)
            blocks.append(block.value)
            start += width
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")
        edges = np.searchsorted(row[order], np.arange(len(items) + 1)).astype(np.int64)
        return Entries(edges, np.concatenate(places)[order], np.concatenate(blocks)[order])

    def _blocks(
        self, items: pl.DataFrame, events: pl.DataFrame | None
    ) -> Iterator[tuple[IntArray, IntArray, AnyArray, int]]:
        """Row, column and weight of each entry of each block, and the block's width."""
        known = categories(items)
        row = known["row"].to_numpy()
        columns = self.columns["category"]
        yield row, columns(hashes(known["category"])), np.ones(len(row)), columns.width
        row = np.arange(len(items))
        columns = self.columns["region"]
        yield row, columns(cells(items, self.region_deg)), np.ones(len(row)), columns.width
        # what was not there in fitting means nothing to the network
        visited = visits(items, events if self.columns["visitors"].width else None)
        hourly = visited.group_by("row", "hour").len().sort("row", "hour")
        yield hourly["row"].to_numpy(), hourly["hour"].to_numpy(), np.sqrt(hourly["len"].to_numpy()), HOURS
        columns = self.columns["visitors"]
        pairs = visited.select("row", "user_id").unique().sort("row", "user_id")
        yield pairs["row"].to_numpy(), columns(hashes(pairs["user_id"])), np.ones(len(pairs)), columns.width


def hashes(names: pl.Series) -> IntArray:
    """A number of 63 bits for each name, the same everywhere and always."""
    distinct = names.unique(maintain_order=True)
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in distinct)
    numbers = [int.from_bytes(digest, "little") & MOST_HASH for digest in digests]
    result: IntArray = names.replace_strict(distinct, pl.Series(numbers, dtype=pl.Int64)).to_numpy()
    return result


def categories(items: pl.DataFrame) -> pl.DataFrame:
    """Row and category of each item, once for each of several."""
    if "category" not in items.columns:
        return pl.DataFrame(schema={"row": pl.Int64, "category": pl.String})
    flat = pl.col("category").str.replace_all(SEPARATORS, "|").str.split("|")
    table = items.select(pl.int_range(pl.len()).alias("row"), flat).drop_nulls()
    table = table.explode("category", empty_as_null=True).with_columns(pl.col("category").str.strip_chars())
    return table.filter(pl.col("category") != "")


def cells(items: pl.DataFrame, region_deg: float) -> IntArray:
    """Number of the grid cell of each item.

    Raises:
        DataError: a coordinate column is missing.
    """
    missing = [name for name in ("lat_deg", "lon_deg") if name not in items.columns]
    if missing:
        raise DataError(f"items have no column {missing[0]!r}; got {', '.join(items.columns)}")
    # at the pole and the date line the last cell holds the edge
    lat = np.floor((items["lat_deg"].to_numpy() + 90) / region_deg).astype(np.int64)
    lon = np.floor((items["lon_deg"].to_numpy() + 180) % 360 / region_deg).astype(np.int64)
    cell: IntArray = mixed((lat * 2**32 + lon).astype(np.uint64)).astype(np.int64) & MOST_HASH
    return cell


def visits(items: pl.DataFrame, events: pl.DataFrame | None) -> pl.DataFrame:
    """Visits of the items: row, user_id and hour of day by mean solar time, 0 to 23.

    Raises:
        DataError: a column is missing.
    """
    if events is None:
        return pl.DataFrame(schema={"row": pl.Int64, "user_id": pl.String, "hour": pl.Int64})
    missing = [name for name in ("user_id", "item_id", "timestamp") if name not in events.columns]
    if missing or "item_id" not in items.columns:
        raise DataError(f"no column {(missing or ['item_id'])[0]!r} to join visits and items by")
    places = items.select("item_id", "lon_deg", pl.int_range(pl.len()).alias("row"))
    minutes = pl.col("timestamp").dt.hour().cast(pl.Float64) * 60 + pl.col("timestamp").dt.minute()
    hour = ((minutes + pl.col("lon_deg") * 4) / 60).floor().cast(pl.Int64) % HOURS
    joined = events.select("user_id", "item_id", "timestamp").drop_nulls().join(places, on="item_id")
    return joined.select("row", pl.col("user_id").cast(pl.String), hour.alias("hour"))
