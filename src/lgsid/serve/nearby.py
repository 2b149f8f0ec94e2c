"""The first stage of an answer: items within reach that meet the filters, nearest first, and why there are so few.

Axes: M items found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from lgsid.config.serve import ReachConfig
from lgsid.serve.base import RequestError
from lgsid.serve.filters import Filters, Step, Wanted
from lgsid.serve.hours import local_time
from lgsid.serve.reach import Area, Circle, Found, Place, Polygon, ReachIndex


@dataclass(frozen=True)
class Nearby:
    """What the first stage found.

    Attributes:
        found: items within reach that meet all filters, nearest first.
        reachable: items within reach, whatever the filters say.
        left: those of them that meet the filters; more than were found where there was a limit.
        steps: what each filter did.
        nearest_km: where nothing is within reach, how far the nearest item is; None if it is beyond the largest
            radius, or something is.
        area, wanted: what was asked for.
    """

    found: Found
    reachable: int
    left: int
    steps: tuple[Step, ...]
    nearest_km: float | None
    area: Area
    wanted: Wanted


@dataclass(frozen=True)
class Shelf:
    """A catalogue at one moment: places and filters of the same items; never changes.

    Attributes:
        reach: by place.
        filters: by everything else.
        config: limits.
    """

    reach: ReachIndex
    filters: Filters
    config: ReachConfig

    @classmethod
    def of(cls, items: pl.DataFrame, config: ReachConfig, file: str = "items") -> Shelf:
        """Of a checked items table.

        Raises:
            TableError: opening hours that are not understood.
        """
        return cls(ReachIndex(items["lat_deg"], items["lon_deg"]), Filters(items, file), config)

    def plus(self, items: pl.DataFrame) -> Shelf:
        """The same with more items, whose rows follow the ones before.

        Raises:
            TableError: opening hours that are not understood.
            RequestError: coordinates out of range.
        """
        filters = self.filters.plus(items)
        return Shelf(self.reach.plus(items["lat_deg"], items["lon_deg"], self.config.tail), filters, self.config)

    def search(self, place: Place, area: Area, wanted: Wanted | None = None, most: int | None = None) -> Nearby:
        """Items of an area around a place that are as wanted.

        Args:
            most: number of items at most; None for the configured one.

        Raises:
            RequestError: an area beyond the configured limits, or a filter on a column that no item has a value of.
        """
        self._check(area)
        wanted = wanted or Wanted()
        if wanted.open_at is not None:
            wanted = replace(wanted, open_at=local_time(wanted.open_at, self.config.time_zone))
        reachable = self.reach.within(place, area)
        kept = self.filters.keep(wanted, reachable.rows_M)
        left = reachable.where(kept.kept_M) if kept.steps else reachable
        found = left.nearest(self.config.candidates if most is None else most)
        nearest_km = None
        if not len(reachable):
            nearest = self.reach.nearest(place, self.config.most_radius_km)
            nearest_km = float(nearest.distance_km_M[0]) if len(nearest) else None
        return Nearby(found, len(reachable), len(left), kept.steps, nearest_km, area, wanted)

    def _check(self, area: Area) -> None:
        most_km, most_vertices = self.config.most_radius_km, self.config.most_vertices
        if isinstance(area, Circle) and area.radius_km > most_km:
            raise RequestError(f"radius of {area.radius_km:g} km: at most {most_km:g} km are allowed")
        if isinstance(area, Polygon) and len(area.lat_V) > most_vertices:
            raise RequestError(f"polygon of {len(area.lat_V)} corners: at most {most_vertices} are allowed")
