"""The measures of a description: text coverage, geography by level, and user activity."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, IntArray
from lgsid.data.describe.events import KIND_CODES, Events
from lgsid.geo import SpatialIndex, centre_deg, haversine_km

LEVELS = ("province", "city", "district")
TEXTS = ("title", "brand", "category", "description", "province", "city", "district", "street")
_TOP = 30
_BINS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


@dataclass(frozen=True)
class TextColumn:
    """How much text a column holds.

    Attributes:
        column: its name.
        share: share of items where it is not empty.
        distinct: number of different texts.
        mean_chars, max_chars: length where it is not empty.
    """

    column: str
    share: float
    distinct: int
    mean_chars: float
    max_chars: int


@dataclass(frozen=True)
class Level:
    """How items spread over the values of a column.

    Attributes:
        name: province, city, district or category.
        share: share of items with a value.
        distinct: number of different values (a district counts once for each city, a city for each province).
        effective: exp of the entropy: the number of values if all were equally large.
        top: the most frequent values with their number of items.
    """

    name: str
    share: float
    distinct: int
    effective: float
    top: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Geography:
    """Where the items are.

    Attributes:
        located: items with coordinates.
        south_deg, west_deg, north_deg, east_deg: smallest box that holds them; west > east across the date line.
        centre_lat_deg, centre_lon_deg: their centre on the sphere.
        spread_km: root mean square distance from the centre.
        nearest_km: distance to the nearest other item at 10, 50 and 90 %; empty where there is no other.
        alone_share: share of items without another within 1 km.
        shared_share: share of items with another within 10 m (the same building or mall).
        levels: province, city and district, where known.
    """

    located: int
    south_deg: float
    west_deg: float
    north_deg: float
    east_deg: float
    centre_lat_deg: float
    centre_lon_deg: float
    spread_km: float
    nearest_km: dict[str, float]
    alone_share: float
    shared_share: float
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Activity:
    """Who did what, when.

    Attributes:
        events, users, items: number of events, of users, and of items with an event.
        kinds: events by kind; empty where events have none.
        unknown_items: events whose item is not in the items table.
        first, last: time span (UTC); days: its length.
        visits: what counts as a visit, in words.
        per_user, per_item: visits per user and per item of the catalogue, at quantiles.
        per_user_counts, per_item_counts: number of users and of items by their number of visits.
        repeat_share: share of visits to an item that the user has visited before.
        gini: concentration of visits on items, 0 (even) to 1, items without visits included.
        top_1_percent_share: share of visits that the most visited 1 % of items get.
        period: day, week or month; by_period: events in each, by its first day.
    """

    events: int
    users: int
    items: int
    kinds: dict[str, int]
    unknown_items: int
    first: datetime
    last: datetime
    days: float
    visits: str
    per_user: dict[str, float]
    per_item: dict[str, float]
    per_user_counts: tuple[tuple[str, int], ...]
    per_item_counts: tuple[tuple[str, int], ...]
    repeat_share: float
    gini: float
    top_1_percent_share: float
    period: str
    by_period: tuple[tuple[date, int], ...]


def text_columns(items: pl.DataFrame) -> tuple[TextColumn, ...]:
    """Coverage of the contract's text columns, then of all other text columns."""
    others = [name for name, dtype in items.schema.items() if dtype == pl.String and name not in ("item_id", *TEXTS)]
    found = []
    for name in [*(name for name in TEXTS if name in items.columns), *others]:
        values = items[name].cast(pl.String).drop_nulls()
        length = values.str.len_chars()
        mean = float(length.mean() or 0)  # type: ignore[arg-type]
        longest = int(length.max() or 0)  # type: ignore[arg-type]
        found.append(TextColumn(name, len(values) / items.height, values.n_unique(), round(mean, 1), longest))
    return tuple(found)


def categories(items: pl.DataFrame) -> Level | None:
    """Top levels of category paths, or all labels where categories are sets joined by ``|``."""
    if "category" not in items.columns:
        return None
    labels = items["category"].cast(pl.String).str.split("|").explode().str.split(">").list.first().str.strip_chars()
    level = _level("category", labels.drop_nulls(), items.height)
    if level is None:
        return None
    share = 1 - items["category"].null_count() / items.height
    return Level(level.name, share, level.distinct, level.effective, level.top)


def _level(name: str, values: pl.Series, total: int) -> Level | None:
    if values.is_empty():
        return None
    counts = values.value_counts(name="count").sort(["count", values.name], descending=[True, False])
    share = counts["count"].to_numpy() / len(values)
    top = tuple((str(value), int(count)) for value, count in counts.head(_TOP).rows())
    effective = float(np.exp(-(share * np.log(share)).sum()))
    return Level(name, len(values) / total, counts.height, round(effective, 1), top)


def region_names(items: pl.DataFrame, level: str) -> pl.Series:
    """Name of each item's region with the regions above it ("Boston, MA"); null where it is unknown.

    A region with the name of the one above it is named once ("上海市", not "上海市, 上海市").
    """
    chain = [name for name in LEVELS[: LEVELS.index(level) + 1][::-1] if name in items.columns]
    texts = [pl.col(name).cast(pl.String) for name in chain]
    parts = texts[:1] + [pl.when(upper.ne_missing(lower)).then(upper) for lower, upper in itertools.pairwise(texts)]
    name = pl.when(texts[0].is_not_null()).then(pl.concat_str(parts, separator=", ", ignore_nulls=True))
    return items.select(name.alias(level)).to_series()


def geography(items: pl.DataFrame, notes: list[str]) -> Geography | None:
    """Where the items are; None where no item has coordinates. Says in the notes how many have none."""
    located = items.filter(pl.col("lat_deg").is_finite(), pl.col("lon_deg").is_finite())
    if located.height < items.height:
        notes.append(f"items without coordinates: {items.height - located.height:,}")
    if located.is_empty():
        return None
    lat, lon = located["lat_deg"].to_numpy(), located["lon_deg"].to_numpy()
    centre = centre_deg(lat, lon)
    west, east = _longitude_box(lon)
    nearest_km = SpatialIndex(lat, lon).nearest(lat, lon, 2)[1][:, 1:].ravel()  # empty where there is one item
    levels = (
        _level(name, region_names(items, name).drop_nulls(), items.height) for name in LEVELS if name in items.columns
    )
    return Geography(
        located=located.height,
        south_deg=float(lat.min()),
        west_deg=west,
        north_deg=float(lat.max()),
        east_deg=east,
        centre_lat_deg=round(centre[0], 5),
        centre_lon_deg=round(centre[1], 5),
        spread_km=round(float(np.sqrt((haversine_km(lat, lon, *centre) ** 2).mean())), 2),
        nearest_km=_quantiles(nearest_km, (10, 50, 90), digits=4),
        alone_share=1 - float((nearest_km <= 1).sum()) / located.height,
        shared_share=float((nearest_km <= 0.01).sum()) / located.height,
        levels=tuple(level for level in levels if level is not None),
    )


def _longitude_box(lon_deg: DoubleArray) -> tuple[float, float]:
    """West and east edge of the shortest arc that holds all longitudes."""
    sorted_lon = np.sort(lon_deg)
    gaps = np.diff(sorted_lon, append=sorted_lon[0] + 360)
    widest = int(np.argmax(gaps))
    return float(sorted_lon[(widest + 1) % len(gaps)]), float(sorted_lon[widest])


def _quantiles(values: DoubleArray | IntArray, levels: Sequence[int], digits: int = 2) -> dict[str, float]:
    if not len(values):
        return {}
    found = np.percentile(values, levels)
    return {f"{level}%": round(float(value), digits) for level, value in zip(levels, found, strict=True)}


def activity(items: int, events: Events, rows: int, notes: list[str]) -> Activity | None:
    """Who did what, when; None without usable events. Says in the notes how many of the rows were not usable."""
    if rows > len(events):
        notes.append(f"events left out because they lack user, item or time: {rows - len(events):,}")
    if not len(events):
        return None
    visits = events.part(events.visits)
    known = visits.item[visits.item >= 0]
    per_item = np.bincount(known, minlength=items)
    per_user = np.bincount(visits.user, minlength=int(events.user[-1]) + 1)
    first, last = int(events.time_us.min()), int(events.time_us.max())
    period, by_period = _by_period(events.time_us, first, last)
    kinds = {name: int((events.kind == code).sum()) for name, code in KIND_CODES.items()}
    return Activity(
        events=len(events),
        users=int(events.user[-1]) + 1,
        items=len(np.unique(events.item[events.item >= 0])),
        kinds={name: count for name, count in kinds.items() if count},
        unknown_items=int((events.item < 0).sum()),
        first=_moment(first),
        last=_moment(last),
        days=round((last - first) / 86_400e6, 2),
        visits=_visits_in_words(kinds, events.has_clicks),
        per_user=_quantiles(per_user, (5, 25, 50, 75, 95, 99, 100)),
        per_item=_quantiles(per_item, (5, 25, 50, 75, 95, 99, 100)),
        per_user_counts=_counts(per_user),
        per_item_counts=_counts(per_item),
        repeat_share=_repeat_share(visits, items),
        gini=_gini(per_item),
        top_1_percent_share=float(np.sort(per_item)[-max(1, items // 100) :].sum() / max(len(known), 1)),
        period=period,
        by_period=by_period,
    )


def _counts(numbers: IntArray) -> tuple[tuple[str, int], ...]:
    """How many of the numbers lie in each of some bins that widen, from the first to the last that is not empty."""
    counts = np.histogram(numbers, bins=[*_BINS, np.inf])[0]
    labels = [str(low) if high == low + 1 else f"{low:,}–{high - 1:,}" for low, high in itertools.pairwise(_BINS)]
    filled = np.flatnonzero(counts)
    rows = zip([*labels, f"≥ {_BINS[-1]:,}"], counts.tolist(), strict=True)
    return tuple(rows)[filled[0] : filled[-1] + 1]


def _visits_in_words(kinds: dict[str, int], has_clicks: bool) -> str:
    if not any(kinds.values()):
        return "events"
    return "clicks" if has_clicks else "orders" if kinds["order"] else "events other than impressions"


def _moment(time_us: int) -> datetime:
    moment = pl.Series([time_us]).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")[0]
    assert isinstance(moment, datetime)
    return moment


def _repeat_share(visits: Events, items: int) -> float:
    known = visits.item >= 0
    pairs = visits.user[known] * items + visits.item[known]
    return float(1 - len(np.unique(pairs)) / len(pairs)) if len(pairs) else 0.0


def _gini(counts: IntArray) -> float:
    """Gini coefficient: half the mean absolute difference over the mean."""
    ordered, n = np.sort(counts).astype(np.float64), len(counts)
    if not ordered.sum():
        return 0.0
    return float((2 * (np.arange(1, n + 1) * ordered).sum() / (n * ordered.sum())) - (n + 1) / n)


def _by_period(time_us: IntArray, first: int, last: int) -> tuple[str, tuple[tuple[date, int], ...]]:
    days = (last - first) / 86_400e6
    period, every = ("day", "1d") if days <= 120 else ("week", "1w") if days <= 1100 else ("month", "1mo")
    start = pl.Series("start", time_us).cast(pl.Datetime("us")).dt.truncate(every).dt.date()
    counts = dict(start.value_counts(name="count").rows())
    earliest, latest = start.min(), start.max()
    assert isinstance(earliest, date)
    assert isinstance(latest, date)
    periods = pl.date_range(earliest, latest, every, eager=True)
    return period, tuple((day, int(counts.get(day, 0))) for day in periods.to_list())
