"""Events as arrays of numbers, sorted by user and time: what the measures of activity and distance work on.

A visit is an event by which a user turns to an item: a click, or an event of no kind (a check-in, a review).
Impressions are what was shown and an order follows its click, so neither counts; in data without clicks the orders are
the visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from lgsid.arrays import BoolArray, DoubleArray, IntArray

OTHER, IMPRESSION, CLICK, ORDER = range(4)
KIND_CODES = {"impression": IMPRESSION, "click": CLICK, "order": ORDER}


@dataclass(frozen=True)
class Events:
    """Events as numbers, sorted by user and time. E events.

    Attributes:
        user: number of the user, shape (E,).
        item: row in the items table, -1 where it is not there, shape (E,).
        time_us: microseconds since 1970, shape (E,).
        kind: OTHER, IMPRESSION, CLICK or ORDER, shape (E,).
        lat_deg, lon_deg: where the user was, NaN where unknown, shape (E,); None where no event says it.
        has_clicks: whether there is a click among all events of the dataset.
    """

    user: IntArray
    item: IntArray
    time_us: IntArray
    kind: IntArray
    lat_deg: DoubleArray | None
    lon_deg: DoubleArray | None
    has_clicks: bool = False

    def __len__(self) -> int:
        return len(self.user)

    @property
    def visits(self) -> BoolArray:
        """Events by which a user turns to an item: clicks (orders where there are no clicks) and events of no kind."""
        mask: BoolArray = (self.kind == OTHER) | (self.kind == (CLICK if self.has_clicks else ORDER))
        return mask

    def part(self, rows: slice | BoolArray) -> Events:
        """Some of the events."""
        lat, lon = (None if values is None else values[rows] for values in (self.lat_deg, self.lon_deg))
        return Events(self.user[rows], self.item[rows], self.time_us[rows], self.kind[rows], lat, lon, self.has_clicks)


def as_numbers(items: pl.DataFrame, events: pl.LazyFrame) -> Events:
    """Events as numbers, sorted by user and time; events without user, item or time are left out.

    Args:
        items: items table, column item_id.
        events: events table.
    """
    names = events.collect_schema().names()
    placed = {"user_lat_deg", "user_lon_deg"} <= set(names)
    keys = ("user_id", "item_id", "timestamp")
    events = events.select(*keys, *(name for name in ("kind", "user_lat_deg", "user_lon_deg") if name in names))
    events = events.filter(pl.all_horizontal(pl.col(keys).is_not_null()))
    users = events.select(pl.col("user_id").unique()).sort("user_id").with_row_index("user")
    rows = items.lazy().select("item_id").with_row_index("item").unique("item_id", keep="first")
    kind = (
        pl.col("kind").replace_strict(KIND_CODES, default=OTHER, return_dtype=pl.Int8)
        if "kind" in names
        else pl.lit(OTHER)
    )
    coded = (
        events.join(users, on="user_id")
        .join(rows, on="item_id", how="left")
        .select(
            pl.col("user").cast(pl.Int64),
            pl.col("item").cast(pl.Int64).fill_null(-1),
            pl.col("timestamp").dt.timestamp("us").alias("time_us"),
            kind.cast(pl.Int64).alias("kind"),
            *(pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in _place_columns(placed)),
        )
        .sort("user", "time_us", "item", "kind")
        .collect()
    )
    numbers = {name: coded[name].to_numpy() for name in coded.columns}
    return Events(
        numbers["user"],
        numbers["item"],
        numbers["time_us"],
        numbers["kind"],
        numbers.get("user_lat_deg"),
        numbers.get("user_lon_deg"),
        has_clicks=bool((numbers["kind"] == CLICK).any()),
    )


def _place_columns(placed: bool) -> tuple[str, ...]:
    """Columns that say where a user was, if there are any."""
    return ("user_lat_deg", "user_lon_deg") if placed else ()
