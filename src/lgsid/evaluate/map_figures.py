"""Which maps a report shows: the whole catalogue, and its largest cities close up."""

from __future__ import annotations

import numpy as np
import polars as pl

from lgsid.evaluate.document import Figure
from lgsid.evaluate.maps import Place, TokenMap, overview_map, token_colours, zoom_map
from lgsid.evaluate.plots import drawable
from lgsid.evaluate.results import Results
from lgsid.geo import centre_deg, geohash_cells, haversine_km, sphere_to_degrees, unit_sphere
from lgsid.nearest import sample_queries

_MOST_ZOOMS = 3
_LEAST_ZOOM_SHARE, _LEAST_ZOOM_ITEMS, _APART_KM = 0.05, 30, 60.0


def map_figures(results: Results, most_points: int, seed: int) -> list[Figure]:
    """An overview and up to three close-ups, of cities that are large and far from each other.

    Args:
        most_points: items drawn at most on one map; the sample is the same for the same seed.
    """
    places = city_places(results.items)
    rows = sample_queries(len(results.items), most_points, seed)
    data = _token_map(results, rows, places)
    whose = f"{len(results.items):,} items" if len(rows) == len(results.items) else (
        f"{len(rows):,} of {len(results.items):,} items"
    )  # fmt: skip
    figures = [Figure(
        "first_tokens", overview_map(data, "First tokens on the map"),
        f"First tokens of {whose}: one dot per item, coloured by its first token; city names stand at the centre of "
        "their items.",
        f"Map of {whose}, coloured by first token.",
    )]  # fmt: skip
    for number, place in enumerate(zoom_places(results.items, places), start=1):
        where = f"in and around {place.name}" if drawable(place.name) else f"close up ({number})"
        figures.append(Figure(
            f"first_tokens_{number}", zoom_map(data, place, f"First tokens {where}"),
            f"First tokens around {place.name} ({place.items:,} items): shaded areas hold nine in ten of a token's "
            "items, numbers mark the largest tokens.",
            f"Map of the first tokens around {place.name}, with their territories.",
        ))  # fmt: skip
    return figures


def city_places(items: pl.DataFrame) -> tuple[Place, ...]:
    """Every city at the centre of its items, the largest first; cities are told apart by their province."""
    xyz_N3 = unit_sphere(items["lat_deg"], items["lon_deg"])
    table = items.select("province", "city").with_columns(
        pl.Series(axis, xyz_N3[:, i]) for i, axis in enumerate(("x", "y", "z"))
    )
    cities = (
        table.filter(pl.col("city").is_not_null())
        .group_by("province", "city", maintain_order=True)
        .agg(pl.col("x", "y", "z").mean(), pl.len().alias("items"))
        .sort("items", "city", "province", descending=[True, False, False], nulls_last=True)
    )
    lat, lon = sphere_to_degrees(cities.select("x", "y", "z").to_numpy().reshape(-1, 3))
    return tuple(
        Place(str(name), float(a), float(b), int(count))
        for name, a, b, count in zip(cities["city"], lat, lon, cities["items"], strict=True)
    )


def zoom_places(items: pl.DataFrame, places: tuple[Place, ...]) -> list[Place]:
    """The largest city, and further large ones far from those chosen; without cities, the densest area."""
    if not places:
        return [_densest_area(items)]
    chosen = [places[0]]
    for place in places[1:]:
        large = place.items >= max(_LEAST_ZOOM_SHARE * len(items), _LEAST_ZOOM_ITEMS)
        apart_km = min(
            float(haversine_km(place.lat_deg, place.lon_deg, other.lat_deg, other.lon_deg)) for other in chosen
        )
        if large and apart_km >= _APART_KM and len(chosen) < _MOST_ZOOMS:
            chosen.append(place)
    return chosen


def _densest_area(items: pl.DataFrame) -> Place:
    """The GeoHash cell of length 4 (some 20 by 40 km) with the most items."""
    cells = geohash_cells(items["lat_deg"], items["lon_deg"], 4)
    values, counts = np.unique(cells, return_counts=True)
    inside = cells == values[np.argmax(counts)]
    here = items.filter(pl.Series(inside))
    return Place("the densest area", *centre_deg(here["lat_deg"], here["lon_deg"]), int(inside.sum()))


def _token_map(results: Results, rows: np.ndarray, places: tuple[Place, ...]) -> TokenMap:
    tokens = results.tokens.get(1, {})
    codes_N = results.codes[:, 0]
    size = int(max(codes_N.max(), *tokens, 0)) + 1
    lat, lon = (results.items[name].to_numpy() for name in ("lat_deg", "lon_deg"))
    centres_K2 = _token_centres(codes_N, lat, lon, size)
    return TokenMap(
        lat_deg=lat[rows],
        lon_deg=lon[rows],
        token=codes_N[rows],
        colour=token_colours(centres_K2[:, 0], centres_K2[:, 1], np.bincount(codes_N, minlength=size)),
        names={code: f"{token.label} ({token.items:,})" for code, token in tokens.items()},
        places=places,
    )


def _token_centres(codes_N: np.ndarray, lat: np.ndarray, lon: np.ndarray, size: int) -> np.ndarray:
    """Latitude and longitude of the centre of each token's items, shape (K, 2); (0, 0) for a token without items."""
    xyz_N3 = unit_sphere(lat, lon)
    sums = np.stack([np.bincount(codes_N, xyz_N3[:, axis], size) for axis in range(3)], axis=1).astype(np.float64)
    return np.stack(sphere_to_degrees(sums), axis=1)
