"""Maps of first tokens without a tile server: places, graticule, scale bar, and colours that tell neighbours apart.

A map is drawn on a plane of equal distances around its own centre: x is km east, y km north (equirectangular with the
cosine of the centre's latitude), which is true to a fraction of a percent within a city and good enough for a country.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.evaluate.plots import COLOURS, INK, MUTED, PAPER, WIDTH_IN, display_width, drawable, drawing, png, short
from lgsid.geo import EARTH_RADIUS_KM, Degrees, centre_deg, haversine_km

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KM_PER_DEG = float(np.radians(1.0) * EARTH_RADIUS_KM)
_LEGEND_TOKENS = 10
_MOST_PLACES, _TRIED_PLACES = 14, 80
_LEFT_IN, _RIGHT_IN, _TOP_IN, _TICKS_IN = 0.58, 0.12, 0.42, 0.3
_SPOTS = (((0, 11), "center"), ((0, -11), "center"), ((9, 0), "left"), ((-9, 0), "right"))
Window: TypeAlias = tuple[float, float, float, float]
"""Left, right, bottom and top of a map in km of its plane."""


@dataclass(frozen=True)
class Place:
    """A city, labelled at the centre of its items."""

    name: str
    lat_deg: float
    lon_deg: float
    items: int


@dataclass(frozen=True)
class TokenMap:
    """What the maps of one catalogue share.

    Attributes:
        lat_deg, lon_deg: coordinates of the N points drawn.
        token: first token of each point, shape (N,).
        colour: index into `COLOURS` of each of the K tokens (`token_colours`).
        names: what to call a token in the legend.
        places: cities, the largest first.
    """

    lat_deg: DoubleArray
    lon_deg: DoubleArray
    token: IntArray
    colour: IntArray
    names: dict[int, str]
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Plane:
    """Plane of equal distances around a centre; x in km east, y in km north."""

    lat_deg: float
    lon_deg: float

    def xy(self, lat_deg: Degrees, lon_deg: Degrees) -> tuple[DoubleArray, DoubleArray]:
        """Plane coordinates of points; the short way round the globe."""
        east = (np.asarray(lon_deg) - self.lon_deg + 180.0) % 360.0 - 180.0
        return east * self._km_per_lon(), (np.asarray(lat_deg) - self.lat_deg) * KM_PER_DEG

    def degrees(self, x: float, y: float) -> tuple[float, float]:
        """Latitude and longitude of a plane point (longitude not wrapped)."""
        return self.lat_deg + y / KM_PER_DEG, self.lon_deg + x / self._km_per_lon()

    def _km_per_lon(self) -> float:
        return KM_PER_DEG * max(float(np.cos(np.radians(self.lat_deg))), 0.01)


def token_colours(lat_K: DoubleArray, lon_K: DoubleArray, items_K: IntArray) -> IntArray:
    """A colour index for each token such that tokens of one colour lie far apart.

    Greedy, the largest token first: each takes the colour whose nearest holder is farthest away.

    Args:
        lat_K, lon_K: centres of the K tokens in degrees; NaN for a token without items (it gets colour 0).
        items_K: items of each token.
    """
    colours = np.zeros(len(items_K), dtype=np.int64)
    order = np.argsort(-items_K, kind="stable")
    done = order[:0]
    for token in order[items_K[order] > 0]:
        distance = haversine_km(lat_K[token], lon_K[token], lat_K[done], lon_K[done])
        nearest = np.full(len(COLOURS), np.inf)
        np.minimum.at(nearest, colours[done], distance)
        colours[token] = int(np.argmax(nearest))
        done = np.append(done, token)
    return colours


def overview_map(data: TokenMap, title: str) -> bytes:
    """All points, coloured by first token, with the largest tokens in the legend (PNG)."""
    plane = Plane(*centre_deg(data.lat_deg, data.lon_deg))
    x, y = plane.xy(data.lat_deg, data.lon_deg)
    return _draw(data, plane, _window(x, y, margin=0.06), title, point_size=7.0, territories=False)


def zoom_map(data: TokenMap, place: Place, title: str) -> bytes:
    """The surroundings of one place: every point in the window, the tokens' territories and numbers (PNG)."""
    plane = Plane(place.lat_deg, place.lon_deg)
    x, y = plane.xy(data.lat_deg, data.lon_deg)
    radius = _radius_of(np.hypot(x, y), place.items)
    near = np.hypot(x, y) <= radius
    return _draw(data, plane, _window(x[near], y[near], margin=0.04), title, point_size=9.0, territories=True)


def _radius_of(distance_N: DoubleArray, items: int) -> float:
    """Distance from a place's centre within which as many points lie as nine tenths of the place's own."""
    rank = min(len(distance_N), max(int(0.9 * items), 2)) - 1
    return max(float(np.partition(distance_N, rank)[rank]), 0.5)


def _window(x: DoubleArray, y: DoubleArray, margin: float) -> Window:
    """Left, right, bottom, top in km: the points' box with a margin, never flatter or taller than a page likes."""
    span_x, span_y = max(float(np.ptp(x)), 0.5), max(float(np.ptp(y)), 0.5)
    span_x, span_y = max(span_x, span_y / 1.0), max(span_y, span_x * 0.5)
    span_x, span_y = span_x * (1 + 2 * margin), span_y * (1 + 2 * margin)
    mid_x, mid_y = (float(x.min()) + float(x.max())) / 2, (float(y.min()) + float(y.max())) / 2
    return mid_x - span_x / 2, mid_x + span_x / 2, mid_y - span_y / 2, mid_y + span_y / 2


def _draw(
    data: TokenMap,
    plane: Plane,
    window: Window,
    title: str,
    point_size: float,
    territories: bool,
) -> bytes:
    left, right, bottom, top = window
    x, y = plane.xy(data.lat_deg, data.lon_deg)
    inside = (x >= left) & (x <= right) & (y >= bottom) & (y <= top)
    tokens = _largest(data.token[inside])
    entries = [_entry(data, token) for token in tokens]
    columns = 2 if max(map(display_width, entries), default=0) <= 37 else 1
    map_height = (WIDTH_IN - _LEFT_IN - _RIGHT_IN) * (top - bottom) / (right - left)
    legend_height = 0.34 + 0.185 * -(-len(tokens) // columns)
    height = _TOP_IN + map_height + _TICKS_IN + legend_height
    with drawing(height, layout=None) as figure:
        axes = figure.add_axes((
            _LEFT_IN / WIDTH_IN, (_TICKS_IN + legend_height) / height,
            1 - (_LEFT_IN + _RIGHT_IN) / WIDTH_IN, map_height / height,
        ))  # fmt: skip
        axes.set(xlim=(left, right), ylim=(bottom, top), title=title)
        for spine in axes.spines.values():
            spine.set_visible(True)
        _graticule(axes, plane, window)
        if territories:
            _territories(axes, data, x, y, inside)
        colours = np.array(COLOURS)[data.colour[data.token[inside]]]
        axes.scatter(x[inside], y[inside], s=point_size, c=colours, alpha=0.75, linewidths=0, zorder=3)
        taken = [_scale_bar(axes, window, x[inside], y[inside])]
        figure.legend(
            handles=_handles(data, tokens, entries), loc="upper left", fontsize=9, ncols=columns, labelspacing=0.35,
            bbox_to_anchor=((_LEFT_IN - 0.08) / WIDTH_IN, legend_height / height), handletextpad=0.2,
            borderaxespad=0.0, alignment="left", title="Largest first tokens in view (items in all)",
            title_fontproperties={"weight": "bold", "size": 9},
        )  # fmt: skip
        if territories:
            _number_tokens(axes, data, tokens, x, y, inside, taken)
        _name_places(axes, data, plane, window, taken)
        return png(figure)


def _largest(token_N: IntArray) -> list[int]:
    count = np.bincount(token_N) if len(token_N) else np.zeros(0, dtype=np.int64)
    order = np.argsort(-count, kind="stable")[:_LEGEND_TOKENS]
    return [int(token) for token in order if count[token] > 0]


def _graticule(axes: Axes, plane: Plane, window: Window) -> None:
    """Meridians and parallels at round degrees, labelled on the frame."""
    from matplotlib.ticker import MaxNLocator

    left, right, bottom, top = window
    south, west = plane.degrees(left, bottom)
    north, east = plane.degrees(right, top)
    meridians = [d for d in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(west, east) if west <= d <= east]
    parallels = [d for d in MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(south, north) if south <= d <= north]
    east_km = [(d - plane.lon_deg) * (right - left) / (east - west) for d in meridians]
    axes.set_xticks(east_km, [_degree(d, "E", "W") for d in meridians])
    axes.set_yticks([(d - plane.lat_deg) * KM_PER_DEG for d in parallels], [_degree(d, "N", "S") for d in parallels])
    axes.tick_params(labelsize=8.5, length=0, labelcolor=MUTED)


def _degree(value: float, positive: str, negative: str) -> str:
    value = (value + 180.0) % 360.0 - 180.0 if positive == "E" else value
    return f"{abs(value):.4f}".rstrip("0").rstrip(".") + "°" + (positive if value >= 0 else negative)


def _scale_bar(axes: Axes, window: Window, x: DoubleArray, y: DoubleArray) -> Any:
    """A bar of round length in the emptiest corner; returns the box it takes on the canvas."""
    left, right, bottom, top = window
    width, height = right - left, top - bottom
    wanted = width / 5
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(step * power for step in (1, 2, 5) if step * power <= wanted)
    low, high = bottom + height * 0.035, top - height * 0.09
    near_side, far_side = left + width * 0.03, right - width * 0.03 - length
    corners = [(near_side, low), (far_side, low), (near_side, high), (far_side, high)]
    near = [int(((abs(x - a - length / 2) < length) & (abs(y - b) < height * 0.12)).sum()) for a, b in corners]
    start, level = corners[int(np.argmin(near))]
    axes.plot([start, start + length], [level, level], color=INK, linewidth=2.5, solid_capstyle="butt", zorder=6)
    text = f"{length:g} km" if length >= 1 else f"{length * 1000:g} m"
    label = axes.annotate(text, (start + length / 2, level), (0, 4), textcoords="offset points", ha="center",
                          fontsize=9, zorder=6)  # fmt: skip
    _halo(label)
    return label.get_window_extent().padded(6)


def _territories(axes: Axes, data: TokenMap, x: DoubleArray, y: DoubleArray, inside: BoolArray) -> None:
    """The convex hull of the nine tenths of each token's points that lie nearest its middle."""
    from matplotlib.patches import Polygon

    for token in np.unique(data.token[inside]):
        rows = np.flatnonzero(data.token == token)
        points = np.stack([x[rows], y[rows]], axis=1)
        away = np.hypot(*(points - np.median(points, axis=0)).T)
        hull = _hull(points[np.argsort(away, kind="stable")[: int(np.ceil(0.9 * len(rows)))]])
        if hull is not None:
            colour = COLOURS[data.colour[token]]
            axes.add_patch(Polygon(hull, facecolor=colour, edgecolor="none", alpha=0.13, zorder=1))
            axes.add_patch(Polygon(hull, facecolor="none", edgecolor=colour, alpha=0.5, linewidth=0.8, zorder=2))


def _hull(points: DoubleArray) -> DoubleArray | None:
    """Corners of the convex hull, or None where the points span no area."""
    from scipy.spatial import ConvexHull, QhullError

    if len(points) < 3:
        return None
    try:
        corners: DoubleArray = points[ConvexHull(points).vertices]
    except QhullError:  # all points on one line
        return None
    return corners


def _number_tokens(
    axes: Axes, data: TokenMap, tokens: list[int], x: DoubleArray, y: DoubleArray, inside: BoolArray, taken: list[Any]
) -> None:
    for token in tokens:
        rows = np.flatnonzero((data.token == token) & inside)
        spot = (float(np.median(x[rows])), float(np.median(y[rows])))
        _label(axes, str(token), spot, taken, (((0, 0), "center"), *_SPOTS), fontsize=9.5, fontweight="bold", zorder=7)


def _name_places(axes: Axes, data: TokenMap, plane: Plane, window: Window, taken: list[Any]) -> None:
    """Names of the largest places in the window, each where it touches no other label, or not at all."""
    left, right, bottom, top = window
    apart = (right - left) / 16
    named: list[tuple[float, float]] = []
    x, y = plane.xy([place.lat_deg for place in data.places], [place.lon_deg for place in data.places])
    inside = np.flatnonzero((x > left) & (x < right) & (y > bottom) & (y < top))
    for row in inside[:_TRIED_PLACES]:
        spot, name = (float(x[row]), float(y[row])), short(data.places[row].name, 24)
        crowded = any(np.hypot(spot[0] - a, spot[1] - b) < apart for a, b in named)
        if len(named) == _MOST_PLACES or crowded or not drawable(name):
            continue
        if _label(axes, name, spot, taken, _SPOTS, fontsize=9, color="#111827", style="italic", zorder=8):
            named.append(spot)


def _label(
    axes: Axes,
    name: str,
    spot: tuple[float, float],
    taken: list[Any],
    offsets: Sequence[tuple[tuple[int, int], str]],
    **style: Any,
) -> bool:
    """Write a label at the first offset where it stays inside the map and covers no other; False: there is none."""
    frame = axes.get_window_extent()
    text = axes.annotate(name, spot, (0, 0), textcoords="offset points", va="center", **style)
    _halo(text)
    for offset, align in offsets:
        text.set(position=offset, ha=align)
        box = text.get_window_extent().padded(2)
        if frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1) and box.count_overlaps(taken) == 0:
            taken.append(box)
            return True
    text.remove()
    return False


def _halo(text: Any) -> None:
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=2.5, foreground=PAPER, alpha=0.85)])


def _handles(data: TokenMap, tokens: list[int], entries: list[str]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], linestyle="none", marker="o", color=COLOURS[data.colour[token]], label=entry)
        for token, entry in zip(tokens, entries, strict=True)
    ]


def _entry(data: TokenMap, token: int) -> str:
    name = short(data.names.get(token, ""), 64)
    return f"{token}  {name}" if name and drawable(name) else f"token {token}"
