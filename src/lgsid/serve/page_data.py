"""What the map page shows of a version: its items as columns, its first tokens in words, its places and people.

Everything has a bound, so that an answer stays small whatever the catalogue's size.

Axes: N items served, P items shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import IntArray
from lgsid.data.labels import SEPARATORS
from lgsid.rank.visits import only_visits
from lgsid.serve.catalogue import Catalogue
from lgsid.sid.describe import TokenMeaning
from lgsid.sid.explain import TokenBook, region_names

MOST_POINTS = 20_000
"""Items of one answer; of more, every n-th is shown."""
MOST_TOKENS = 1_024
MOST_NAMES = 200
"""Categories, brands, cities, and districts: those with the most items."""
MOST_USERS = 12
MOST_HISTORY = 40
LEAST_HISTORY = 5
MOST_TITLE = 120
"""Characters of a title or an example; longer ones end in …"""
_SHOWN = 3


@dataclass(frozen=True)
class Box:
    """A part of the map in degrees; west above east goes over the 180th meridian."""

    south: float
    west: float
    north: float
    east: float


def points(catalogue: Catalogue, box: Box | None = None) -> dict[str, Any]:
    """Items as columns.

    Args:
        catalogue: what is served.
        box: items of this part alone.

    Returns:
        ``total`` items served, ``inside`` the box, and of those shown: item_id, title, lat_deg, lon_deg (5 decimals:
        about a metre), token (the first; -1 without one), sid, category (number in ``categories``; -1 without one).
    """
    rows_P = _inside(catalogue.items, box)
    inside = len(rows_P)
    rows_P = rows_P[:: -(-inside // MOST_POINTS) or 1]
    items = catalogue.items[rows_P]
    names = _text(items, "category")
    categories = names.drop_nulls().unique(maintain_order=True)
    number = names.replace_strict(categories, pl.Series(range(len(categories)), dtype=pl.Int64), default=-1,
                                  return_dtype=pl.Int64)  # fmt: skip
    return {
        "total": len(catalogue),
        "inside": inside,
        "item_id": items["item_id"].to_list(),
        "title": [shortened(title) for title in items["title"]],
        "lat_deg": items["lat_deg"].round(5).to_list(),
        "lon_deg": items["lon_deg"].round(5).to_list(),
        "token": catalogue.codes_NM[rows_P, 0].tolist(),
        "sid": catalogue.sid_N[rows_P].to_list(),
        "category": number.fill_null(-1).to_list(),
        "categories": categories.to_list(),
    }


def _inside(items: pl.DataFrame, box: Box | None) -> IntArray:
    if box is None:
        return np.arange(len(items))
    lat_N, lon_N = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    east_N = (lon_N >= box.west) | (lon_N <= box.east) if box.west > box.east else (
        (lon_N >= box.west) & (lon_N <= box.east)
    )  # fmt: skip
    return np.flatnonzero((lat_N >= box.south) & (lat_N <= box.north) & east_N)


def shortened(text: str) -> str:
    """At most `MOST_TITLE` characters."""
    return text if len(text) <= MOST_TITLE else text[: MOST_TITLE - 1] + "…"


def first_tokens(catalogue: Catalogue, book: TokenBook) -> list[dict[str, Any]]:
    """Meanings of the first tokens that served items have, those of the most items first."""
    first_N = catalogue.codes_NM[:, 0]
    codes, counts = np.unique(first_N[first_N >= 0], return_counts=True)
    order = np.lexsort((codes, -counts))[:MOST_TOKENS]
    meanings = book.meanings.get(1, {})
    return [_token(int(codes[at]), int(counts[at]), meanings.get(int(codes[at]))) for at in order]


def _token(code: int, count: int, meaning: TokenMeaning | None) -> dict[str, Any]:
    if meaning is None:  # no item had it when the codebooks were fitted
        return {"code": code, "items": count, "label": None}
    return {
        "code": code,
        "items": count,
        "label": shortened(meaning.label),
        "place": meaning.place,
        "centre": [round(value, 4) for value in meaning.centre],
        "radius_km": round(meaning.radius_km, 2),
        "regions": {level: _shares(shares) for level, shares in region_names(meaning.regions).items()},
        **{name: _shares(getattr(meaning, name)) for name in ("categories", "brands", "words")},
        "examples": [shortened(title) for title in meaning.examples[:_SHOWN]],
    }


def _shares(pairs: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(shortened(name), round(share, 3)) for name, share in pairs[:_SHOWN]]


def choices(catalogue: Catalogue) -> dict[str, Any]:
    """What the page offers to choose from: categories with those above them, brands, prices, places."""
    items = catalogue.items
    paths = _text(items, "category").str.replace_all(SEPARATORS, "|").str.split("|").explode()
    parts = paths.drop_nulls().str.split(">").list.eval(pl.element().str.strip_chars())
    above = [parts.list.head(depth).list.join(" > ").filter(parts.list.len() >= depth) for depth in (1, 2, 3)]
    price = items["price"].cast(pl.Float64) if "price" in items.columns else pl.Series([], dtype=pl.Float64)
    price = price.drop_nulls().drop_nans()
    return {
        "categories": _commonest(pl.concat(above)),
        "brands": _commonest(_text(items, "brand").drop_nulls()),
        "price": [price.min(), price.max()] if len(price) else None,
        "cities": _places(items, "city", "province"),
        "districts": _places(items, "district", "city"),
        "bounds": [[items[f"{axis}_deg"].quantile(share) for axis in ("lat", "lon")] for share in (0.01, 0.99)],
    }


def _text(items: pl.DataFrame, name: str) -> pl.Series:
    return items[name].cast(pl.String) if name in items.columns else pl.Series(name, [None] * len(items), pl.String)


def _commonest(names: pl.Series) -> list[str]:
    counts = names.filter(names != "").rename("name").value_counts(name="items")
    found: list[str] = counts.sort(["items", "name"], descending=[True, False]).head(MOST_NAMES)["name"].to_list()
    return found


def _places(items: pl.DataFrame, level: str, above: str) -> list[dict[str, Any]]:
    """Name, the region above, the middle and the number of items of the places with the most of them."""
    table = pl.DataFrame({
        "name": _text(items, level), "above": _text(items, above), "lat_deg": items["lat_deg"],
        "lon_deg": items["lon_deg"],
    }).filter(pl.col("name").is_not_null() & (pl.col("name") != ""))  # fmt: skip
    middle = [pl.col(f"{axis}_deg").median().round(5) for axis in ("lat", "lon")]
    grouped = table.group_by("name", "above").agg(*middle, pl.len().alias("items"))
    return grouped.sort(["items", "name", "above"], descending=[True, False, False]).head(MOST_NAMES).to_dicts()


def sample_users(events: Path, kinds: Sequence[str], catalogue: Catalogue) -> list[dict[str, Any]]:
    """Some users of a simulated world: their latest visits, and where the middle of these is.

    Args:
        events: a run's events table.
        kinds: of events that count as visits.
        catalogue: what is served.

    Returns:
        user_id, history (item ids, oldest first), lat_deg, lon_deg.
    """
    if not events.is_file():
        return []
    table = only_visits(pl.scan_parquet(events).head(1_000_000), kinds)
    visits = table.select("user_id", "item_id").group_by("user_id", maintain_order=True).agg("item_id").collect()
    busy = visits.filter(pl.col("item_id").list.len() >= LEAST_HISTORY).sort("user_id")
    chosen = busy[np.unique(np.linspace(0, len(busy) - 1, min(MOST_USERS, len(busy))).round().astype(np.int64))]
    users = [_user(row, catalogue) for row in chosen.iter_rows(named=True)] if len(busy) else []
    return [user for user in users if user["history"]]


def _user(row: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    ids: list[str] = row["item_id"][-MOST_HISTORY:]
    rows = catalogue.ids.rows(ids)
    known = [name for name, place in zip(ids, rows.tolist(), strict=True) if place >= 0]
    home = _middle_one(catalogue.items.select("lat_deg", "lon_deg")[rows[rows >= 0]])
    return {"user_id": row["user_id"], "history": known, **home}


def _middle_one(places: pl.DataFrame) -> dict[str, Any]:
    """The place that is nearest to the medians: these alone may lie between two cities, where nothing is."""
    away = sum((pl.col(name) - pl.col(name).median()) ** 2 for name in places.columns)
    return places.top_k(1, by=-away).row(0, named=True) if len(places) else {}
