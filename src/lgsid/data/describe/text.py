"""A description on the terminal: rich tables, one for each question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lgsid.data.describe.description import Description
from lgsid.data.describe.distance import DistanceCurve, Rate
from lgsid.data.describe.measures import Activity, Geography, Level

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_TOP_SHOWN = 5


def print_description(description: Description, console: Console | None = None) -> None:
    """Print a description.

    Args:
        description: what to print.
        console: where; by default standard output.
    """
    if console is None:
        from rich.console import Console

        console = Console()
    for part in render(description):
        console.print(part)


def render(description: Description) -> list[RenderableType]:
    """The parts of a description that apply, as rich renderables."""
    from rich.padding import Padding

    parts: list[RenderableType] = [_overview(description)]
    if description.geography is not None:
        parts.append(_levels([*description.geography.levels, *filter(None, [description.categories])]))
    parts.append(_texts(description))
    if description.activity is not None:
        parts.append(_activity(description.activity, description.items))
    if description.distance is not None:
        parts += [_distance(description.distance), Padding(_explanation(description.distance), (0, 1, 1, 1))]
        parts += [_conversion(description.distance)] if description.distance.has_conversion else []
    if description.notes:
        parts.append(Padding("\n".join(f"Note: {note}." for note in description.notes), (0, 1)))
    return parts


def _table(title: str, *columns: str, left: int = 1) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right", overflow="fold")
    return table


def _pairs(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = _table(title, "", "", left=2)
    table.show_header = False
    for name, value in rows:
        table.add_row(name, value)
    return table


def _overview(description: Description) -> Table:
    rows = [("items", f"{description.items:,}")]
    if description.activity is not None:
        active = description.activity
        rows += [
            ("events", f"{active.events:,}{_kinds(active)}"),
            ("users", f"{active.users:,}"),
            ("time", f"{active.first:%Y-%m-%d %H:%M} to {active.last:%Y-%m-%d %H:%M} UTC ({active.days:,.0f} days)"),
        ]
    rows += _place(description.geography) if description.geography is not None else []
    rows.append(("columns", ", ".join(description.columns)))
    return _pairs(description.source or "Data", rows)


def _kinds(active: Activity) -> str:
    return f" ({', '.join(f'{count:,} {name}s' for name, count in active.kinds.items())})" if active.kinds else ""


def _place(place: Geography) -> list[tuple[str, str]]:
    box = f"{_lat(place.south_deg)} … {_lat(place.north_deg)}, {_lon(place.west_deg)} … {_lon(place.east_deg)}"
    centre = f"{_lat(place.centre_lat_deg)}, {_lon(place.centre_lon_deg)}; spread {place.spread_km:,.1f} km"
    rows = [("box", box), ("centre", centre)]
    if place.nearest_km:
        metres = " / ".join(f"{km * 1000:,.0f}" for km in place.nearest_km.values())
        levels = " / ".join(place.nearest_km)
        shares = f"{_percent(place.shared_share)} within 10 m, {_percent(place.alone_share)} have none within 1 km"
        rows.append(("nearest item", f"{metres} m away (at {levels}); {shares}"))
    return rows


def _lat(degrees: float) -> str:
    return f"{abs(degrees):.3f}° {'N' if degrees >= 0 else 'S'}"


def _lon(degrees: float) -> str:
    return f"{abs(degrees):.3f}° {'E' if degrees >= 0 else 'W'}"


def _percent(share: float) -> str:
    """A percentage that says 100 % and 0 % only where it is meant."""
    text = f"{share:.1%}"
    if (text == "100.0%" and share < 1) or (text == "0.0%" and share > 0):
        text = f"{share:.3%}"
    return text.replace("%", " %")


def _levels(levels: list[Level]) -> Table:
    table = _table("Geography and categories", "level", "known", "distinct", "effective", "largest")
    table.columns[-1].justify = "left"
    for level in levels:
        shown = " · ".join(f"{name} {count:,}" for name, count in level.top[:_TOP_SHOWN])
        more = " · …" if level.distinct > _TOP_SHOWN else ""
        table.add_row(level.name, _percent(level.share), f"{level.distinct:,}", f"{level.effective:,.1f}", shown + more)
    return table


def _texts(description: Description) -> Table:
    table = _table("Text", "column", "filled", "distinct", "mean length", "longest")
    for text in description.text:
        row = (_percent(text.share), f"{text.distinct:,}", f"{text.mean_chars:,.1f}", f"{text.max_chars:,}")
        table.add_row(text.column, *row)
    return table


def _activity(active: Activity, items: int) -> Table:
    table = _table(f"Activity (visits: {active.visits})", "", *active.per_user)
    table.add_row("visits per user", *(f"{value:,.0f}" for value in active.per_user.values()))
    table.add_row("visits per item", *(f"{value:,.0f}" for value in active.per_item.values()))
    unknown = f"; {active.unknown_items:,} events name items that are not in the table" if active.unknown_items else ""
    table.caption = (
        f"{active.items:,} of {items:,} items have events{unknown}. {_percent(active.repeat_share)} of visits are "
        f"repeats. The most visited 1 % of items get {_percent(active.top_1_percent_share)} of visits "
        f"(Gini {active.gini:.2f})."
    )
    table.caption_justify = "left"
    return table


def _distance(curve: DistanceCurve) -> Table:
    table = _table("Distance between user and item", "km", "visits", "share", "first visits", "random item", "ratio")
    for band in curve.bands_in_use:
        ratio = f"{band.share / band.reference_share:,.2f}" if band.reference_share else "–"
        shares = (_percent(share) for share in (band.share, band.first_share, band.reference_share))
        table.add_row(band.label, f"{band.visits:,}", *shares, ratio)
    return table


def _conversion(curve: DistanceCurve) -> Table:
    rates = ("clicks per impression", "orders per impression")
    table = _table("Conversion by distance (95 % Wilson intervals)", "km", "impressions", *rates)
    for band in curve.bands_in_use:
        if band.impressions:
            table.add_row(band.label, f"{band.impressions:,}", _rate(band.click_rate), _rate(band.order_rate))
    return table


def _rate(rate: Rate | None) -> str:
    return "–" if rate is None else f"{100 * rate.value:.2f} % ({100 * rate.low:.2f}–{100 * rate.high:.2f})"


def _explanation(curve: DistanceCurve) -> str:
    median, reference = curve.quantiles_km["50%"], curve.reference_quantiles_km["50%"]
    return (
        f"{curve.location[0].upper()}{curve.location[1:]} ({curve.from_coordinates:,} events with a recorded place, "
        f"{curve.from_visits:,} with an inferred one, {curve.unplaced:,} left out for want of either or of the item). "
        f"Half of the visits are within {median:,.2f} km; visits to random items from the same places would have their "
        f"median at {reference:,.2f} km (columns 'random item' and 'ratio')."
    )
