"""The distance–conversion curve: how far from where a person is are the items that the person turns to.

Where events say where the user was, that place is taken. Where they do not, the centre of the user's up to ten most
recent earlier visits stands in: strictly earlier, so that an event never explains itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.data.describe.events import CLICK, IMPRESSION, ORDER, Events
from lgsid.geo import haversine_km, sphere_to_degrees, unit_sphere

BAND_EDGES_KM = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, np.inf)
"""Edges of the distance bands; a band holds its lower edge and not its upper one."""
RECENT_VISITS = 10
"""Earlier visits whose centre stands in for the user's place."""

_VISIT, _FIRST, _SLOTS = 4, 5, 6  # columns of counts after the kinds
_CHUNK_EVENTS = 1_000_000
_REFERENCE_PLACES, _REFERENCE_ITEMS = 20_000, 50
_Z_95 = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """A share of impressions with its 95 % Wilson interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Band:
    """One distance band.

    Attributes:
        low_km, high_km: its edges; no upper edge for the last.
        visits, share: visits in the band, and their share of all visits with a known distance.
        first_visits, first_share: the same for visits to items that the user has not visited before.
        reference_share: the share if every visit went to a random item of the catalogue.
        impressions, clicks, orders: events of these kinds in the band.
        click_rate, order_rate: clicks and orders per impression; None without impressions.
    """

    low_km: float
    high_km: float | None
    visits: int
    share: float
    first_visits: int
    first_share: float
    reference_share: float
    impressions: int
    clicks: int
    orders: int
    click_rate: Rate | None
    order_rate: Rate | None

    @property
    def label(self) -> str:
        """The band in km, as ``0.5–1`` or ``≥ 100``."""
        return f"≥ {self.low_km:g}" if self.high_km is None else f"{self.low_km:g}–{self.high_km:g}"


@dataclass(frozen=True)
class DistanceCurve:
    """Visits and conversion by the distance between user and item.

    Attributes:
        location: in words, which place of the user was taken.
        from_coordinates, from_visits: events whose user place is given, or is the centre of earlier visits.
        unplaced: events left out because the user has no earlier visit, or the item is not in the items table.
        quantiles_km: distance of visits at 10, 25, 50, 75 and 90 %.
        reference_quantiles_km: the same for random items of the catalogue.
        bands: the curve.
    """

    location: str
    from_coordinates: int
    from_visits: int
    unplaced: int
    quantiles_km: dict[str, float]
    reference_quantiles_km: dict[str, float]
    bands: tuple[Band, ...]

    @property
    def bands_in_use(self) -> tuple[Band, ...]:
        """The bands up to the farthest one that holds anything."""
        used = [
            i for i, band in enumerate(self.bands) if band.visits or band.impressions or band.reference_share > 1e-3
        ]
        return self.bands[: used[-1] + 1]

    @property
    def has_conversion(self) -> bool:
        """Whether there are impressions to convert."""
        return any(band.impressions for band in self.bands)


def wilson(hits: int, trials: int) -> Rate | None:
    """Share of hits with its 95 % interval (E. B. Wilson, 1927); None without trials or with more hits than trials."""
    if not trials or hits > trials:
        return None
    share, z2 = hits / trials, _Z_95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z_95 / (1 + z2 / trials) * np.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return Rate(share, max(0.0, float(middle - half)), min(1.0, float(middle + half)))


def user_places(
    events: Events, lat_deg: DoubleArray, lon_deg: DoubleArray
) -> tuple[DoubleArray, DoubleArray, BoolArray]:
    """Where the user is at each event.

    Args:
        events: sorted by user and time, whole users.
        lat_deg, lon_deg: place of each event's item, NaN where unknown, shape (E,).

    Returns:
        latitude and longitude in degrees (NaN where unknown), and whether they are given rather than inferred.
    """
    inferred_lat, inferred_lon = _centres_of_earlier_visits(events, lat_deg, lon_deg)
    if events.lat_deg is None or events.lon_deg is None:
        return inferred_lat, inferred_lon, np.zeros(len(events), dtype=np.bool_)
    given = np.isfinite(events.lat_deg) & np.isfinite(events.lon_deg)
    lat, lon = np.where(given, events.lat_deg, inferred_lat), np.where(given, events.lon_deg, inferred_lon)
    return lat, lon, given


def _centres_of_earlier_visits(
    events: Events, lat_deg: DoubleArray, lon_deg: DoubleArray
) -> tuple[DoubleArray, DoubleArray]:
    visit = events.visits & np.isfinite(lat_deg)
    sums_V3 = np.concatenate([np.zeros((1, 3)), np.cumsum(unit_sphere(lat_deg[visit], lon_deg[visit]), axis=0)])
    visits_before = np.concatenate([[0], np.cumsum(visit)])
    new_user = np.diff(events.user, prepend=-1) != 0
    new_moment = new_user | (np.diff(events.time_us, prepend=0) != 0)
    end = visits_before[_start_of_group(new_moment)]
    start = np.maximum(visits_before[_start_of_group(new_user)], end - RECENT_VISITS)
    lat, lon = sphere_to_degrees(sums_V3[end] - sums_V3[start])
    return np.where(end > start, lat, np.nan), np.where(end > start, lon, np.nan)


def _start_of_group(is_first: BoolArray) -> IntArray:
    rows = np.arange(len(is_first))
    starts: IntArray = np.maximum.accumulate(np.where(is_first, rows, 0))
    return starts


def distance_curve(items: pl.DataFrame, events: Events, seed: int = 0) -> DistanceCurve | None:
    """The curve, in memory that does not grow with the number of events beyond one number for each.

    Args:
        items: items table with lat_deg and lon_deg.
        events: all events.
        seed: of the random items of the reference.

    Returns:
        None where no event has a known distance.
    """
    rng = np.random.default_rng(seed)
    lat, lon = (np.append(items[name].fill_null(np.nan).to_numpy(), np.nan) for name in ("lat_deg", "lon_deg"))
    counts = np.zeros((len(BAND_EDGES_KM) - 1, _SLOTS), dtype=np.int64)
    given = inferred = 0
    distances, places = [], []
    keep = min(1.0, _REFERENCE_PLACES / max(int(events.visits.sum()), 1))
    for part in _whole_users(events):
        item_lat, item_lon = lat[part.item], lon[part.item]
        user_lat, user_lon, is_given = user_places(part, item_lat, item_lon)
        km = haversine_km(user_lat, user_lon, item_lat, item_lon)
        known = np.isfinite(km)
        band = np.searchsorted(BAND_EDGES_KM, km[known], side="right") - 1
        for slot, rows in ((_VISIT, part.visits), (_FIRST, _first_visits(part))):
            counts += _histogram(band[rows[known]], slot)
        counts += _histogram(band, part.kind[known])
        given, inferred = given + int((known & is_given).sum()), inferred + int((known & ~is_given).sum())
        visits = known & part.visits
        distances.append(km[visits].astype(np.float32))
        sampled = visits & (rng.random(len(part)) < keep)
        places.append(np.stack([user_lat[sampled], user_lon[sampled]]))
    if not given + inferred:
        return None
    reference = _reference_km(np.concatenate(places, axis=1), lat[:-1], lon[:-1], rng)
    return DistanceCurve(
        location=_location_in_words(given, inferred),
        from_coordinates=given,
        from_visits=inferred,
        unplaced=len(events) - given - inferred,
        quantiles_km=_quantiles(np.concatenate(distances)),
        reference_quantiles_km=_quantiles(reference),
        bands=_bands(counts, reference),
    )


def _histogram(band: IntArray, slot: IntArray | int) -> IntArray:
    shape = len(BAND_EDGES_KM) - 1, _SLOTS
    return np.bincount(band * _SLOTS + slot, minlength=shape[0] * shape[1]).reshape(shape)


def _first_visits(events: Events) -> BoolArray:
    """Visits to items that the user has not visited before."""
    rows = np.flatnonzero(events.visits)
    pairs = events.user[rows] * (int(events.item.max()) + 2) + events.item[rows] + 1
    mask = np.zeros(len(events), dtype=np.bool_)
    mask[rows[np.unique(pairs, return_index=True)[1]]] = True
    return mask


def _whole_users(events: Events) -> Iterator[Events]:
    """The events in parts that hold all events of each of their users."""
    start = 0
    while start < len(events):
        stop = min(start + _CHUNK_EVENTS, len(events))
        if stop < len(events):
            stop = int(np.searchsorted(events.user, events.user[stop - 1], side="right"))
        yield events.part(slice(start, stop))
        start = stop


def _reference_km(
    places_2P: DoubleArray, lat_deg: DoubleArray, lon_deg: DoubleArray, rng: np.random.Generator
) -> DoubleArray:
    """Distances from places where users were to random items."""
    located = np.flatnonzero(np.isfinite(lat_deg) & np.isfinite(lon_deg))
    if not places_2P.shape[1] or not len(located):
        return np.empty(0)
    item = located[rng.integers(0, len(located), (places_2P.shape[1], _REFERENCE_ITEMS))]
    return haversine_km(places_2P[0][:, None], places_2P[1][:, None], lat_deg[item], lon_deg[item]).ravel()


def _quantiles(km: DoubleArray) -> dict[str, float]:
    levels = (10, 25, 50, 75, 90)
    values = np.percentile(km, levels) if len(km) else np.full(len(levels), np.nan)
    return {f"{level}%": round(float(value), 3) for level, value in zip(levels, values, strict=True)}


def _bands(counts_BS: IntArray, reference_km: DoubleArray) -> tuple[Band, ...]:
    visits, first = counts_BS[:, _VISIT], counts_BS[:, _FIRST]
    reference = np.histogram(reference_km, bins=BAND_EDGES_KM)[0] / max(len(reference_km), 1)
    bands = []
    for i, (low, high) in enumerate(itertools.pairwise(BAND_EDGES_KM)):
        impressions, clicks, orders = (int(counts_BS[i, kind]) for kind in (IMPRESSION, CLICK, ORDER))
        bands.append(
            Band(
                low_km=low,
                high_km=None if np.isinf(high) else high,
                visits=int(visits[i]),
                share=float(visits[i] / max(int(visits.sum()), 1)),
                first_visits=int(first[i]),
                first_share=float(first[i] / max(int(first.sum()), 1)),
                reference_share=float(reference[i]),
                impressions=impressions,
                clicks=clicks,
                orders=orders,
                click_rate=wilson(clicks, impressions),
                order_rate=wilson(orders, impressions),
            )
        )
    return tuple(bands)


def _location_in_words(given: int, inferred: int) -> str:
    stand_in = f"the centre of the user's up to {RECENT_VISITS} most recent earlier visits"
    if not inferred:
        return "the user's place is the one recorded with the event"
    if not given:
        return f"the events do not say where the user was: {stand_in} stands in"
    return f"the user's place is the one recorded with the event; where it is missing, {stand_in} stands in"
