"""When and where people look: sessions of one or more pages, by the hour of their place and the day of the week."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from lgsid.arrays import AnyArray, DoubleArray, IntArray
from lgsid.config import WorldConfig
from lgsid.data.world.draws import GroupDraw
from lgsid.data.world.people import People
from lgsid.data.world.places import Places
from lgsid.data.world.seeds import stream
from lgsid.data.world.towns import Towns, shifted

HOME, WORK, OUT, TRIP = range(4)
_WEEKDAY_SHARE = np.array([0.95, 0.95, 1.0, 1.0, 1.1, 1.15, 1.05])  # Monday to Sunday
_PLACE_SHARE = {False: np.array([0.47, 0.30, 0.19, 0.04]), True: np.array([0.57, 0.05, 0.32, 0.06])}  # by weekend
# two peaks of local time per kind of place: hours, spread, share of the first
_HOURS = np.array([[19.8, 11.5], [12.1, 17.7], [18.8, 13.2], [18.5, 11.0]])
_HOUR_SPREAD = np.array([[1.8, 2.5], [1.0, 0.9], [1.8, 2.0], [2.2, 2.5]])
_FIRST_PEAK = np.array([0.6, 0.65, 0.55, 0.55])
_MOST_PAGES = 8
MEAN_PAGES = float(sum(0.5**k for k in range(_MOST_PAGES)))
"""Mean pages of a session: geometric with probability one half, cut at eight."""
_JITTER_KM, _OUT_SPREAD_KM = 0.15, 0.3
SECOND = 1_000_000


@dataclass(frozen=True)
class Pages:
    """P pages in the order of time.

    Attributes:
        user_P, city_P: who looks, and the city they are in.
        lat_P, lon_P: where they are, in degrees.
        time_P: start in microseconds since 1970, UTC.
    """

    user_P: IntArray
    city_P: IntArray
    lat_P: DoubleArray
    lon_P: DoubleArray
    time_P: IntArray

    def __len__(self) -> int:
        return len(self.user_P)

    def part(self, rows: slice) -> Pages:
        """Some of the pages."""
        return Pages(self.user_P[rows], self.city_P[rows], self.lat_P[rows], self.lon_P[rows], self.time_P[rows])


class Calendar:
    """Draws the pages of a day.

    Args:
        world, places, towns, people: the world.
        seed: the run's seed.
    """

    def __init__(self, world: WorldConfig, places: Places, towns: Towns, people: People, seed: int) -> None:
        self._world, self._places, self._towns, self._people, self._seed = world, places, towns, people, seed
        self._activity = np.cumsum(people.activity_U)
        self._centres = GroupDraw(places.city_R[towns.district_K], towns.size_K, len(places.cities))
        self._travel = np.cumsum(places.population_C)

    def date(self, day: int) -> date:
        """The date of a day of the simulation."""
        return self._world.start + timedelta(days=day)

    def midnight_us(self, day: int) -> int:
        """Start of a day (UTC) in microseconds since 1970."""
        moment = datetime.combine(self.date(day), time(), tzinfo=UTC)
        return int(moment.timestamp()) * SECOND

    def sessions_per_day(self, pages: float) -> list[int]:
        """How many sessions each day has, for so many pages in all."""
        weekdays = np.array([self.date(day).weekday() for day in range(self._world.days)])
        running = np.cumsum(_WEEKDAY_SHARE[weekdays])
        edges = np.round(running / running[-1] * pages / MEAN_PAGES).astype(np.int64)
        counts: list[int] = np.diff(edges, prepend=0).tolist()
        return counts

    def pages(self, day: int, sessions: int, purpose: str = "sessions") -> Pages:
        """The pages of so many sessions that start on a day (UTC), in the order of time."""
        rng = stream(self._seed, purpose, day)
        user = _draw(self._activity, rng.random(sessions))
        kind = np.searchsorted(np.cumsum(_PLACE_SHARE[self.date(day).weekday() >= 5])[:-1], rng.random(sessions))
        city, lat, lon = self._where(user, kind, rng)
        start = self.midnight_us(day) + self._time_of_day(day, city, kind, rng)
        count = np.minimum(rng.geometric(0.5, size=sessions), _MOST_PAGES)
        session = np.repeat(np.arange(sessions), count)
        pause = rng.integers(45_000, 240_000, size=len(session)) * 1000
        waited = np.cumsum(pause) - pause  # pauses of all earlier pages, of which the session's own count
        first = np.cumsum(count) - count
        moment = start[session] + waited - waited[first][session]
        order = np.argsort(moment, kind="stable")
        session = session[order]
        return Pages(user[session], city[session], lat[session], lon[session], moment[order])

    def _where(
        self, user: IntArray, kind: IntArray, rng: np.random.Generator
    ) -> tuple[IntArray, DoubleArray, DoubleArray]:
        people, towns = self._people, self._towns
        city = np.where(kind == TRIP, _draw(self._travel, rng.random(len(user))), people.city_U[user])
        centre = self._centres.draw(city, rng.random(len(user)))
        away = (kind == OUT) | (kind == TRIP)
        lat = np.where(away, towns.lat_K[centre], _at(kind, people.home_lat_U[user], people.work_lat_U[user]))
        lon = np.where(away, towns.lon_K[centre], _at(kind, people.home_lon_U[user], people.work_lon_U[user]))
        offset = rng.normal(size=(2, len(user))) * np.where(away, _OUT_SPREAD_KM, _JITTER_KM)
        return city, *shifted(lat, lon, offset[0], offset[1])

    def _time_of_day(self, day: int, city: IntArray, kind: IntArray, rng: np.random.Generator) -> IntArray:
        """Microseconds since midnight UTC: two peaks of local time for each kind of place."""
        peak = (rng.random(len(kind)) >= _FIRST_PEAK[kind]).astype(np.int64)
        hour = _HOURS[kind, peak] + _HOUR_SPREAD[kind, peak] * rng.normal(size=len(kind))
        offset_s = self._places.utc_offset_s(self.date(day))[city]
        milliseconds = np.floor((hour * 3600 - offset_s) * 1000).astype(np.int64) % 86_400_000
        return milliseconds * 1000


def _at(kind: IntArray, home: DoubleArray, work: DoubleArray) -> DoubleArray:
    return np.where(kind == HOME, home, work)


def _draw(running: AnyArray, uniform: DoubleArray) -> IntArray:
    """Rows by weight, from the running total of the weights."""
    found = np.searchsorted(running, uniform * running[-1], side="right")
    row: IntArray = np.minimum(found, len(running) - 1).astype(np.int64)
    return row
