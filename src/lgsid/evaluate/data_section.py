"""The data: what was read, what was rejected and why, what is known about the items, and how people behave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lgsid.data.describe.description import Description, describe
from lgsid.data.describe.distance import DistanceCurve
from lgsid.data.describe.measures import Activity, Geography, Level
from lgsid.evaluate.distance_charts import conversion_chart, reach_chart
from lgsid.evaluate.document import Block, Figure, Section, kilometres, number, percent, table, text
from lgsid.evaluate.results import Results

_SHOWN = 5
_LEVELS_READ = (
    "Regions count by their whole path: a district name that occurs in two cities is two districts. Effective is the "
    "number of equally large ones that would be as varied (2 to the entropy in bits)."
)


def data_section(results: Results, seed: int) -> Section:
    """Rows, rejects, text coverage, geography, events, and distance and conversion."""
    data = describe(results.items, results.events, seed=seed)
    levels = [*(data.geography.levels if data.geography else ()), *([data.categories] if data.categories else [])]
    blocks: list[Block] = [
        *_row_blocks(results.checks),
        _text_table(data, results.checks.get("regions", {}).get("filled", {})),
        *_lost_regions(results.checks),
        *([_level_table(levels), text(_LEVELS_READ)] if levels else []),
        *([_geography_words(data.geography)] if data.geography else []),
        *(_activity_blocks(data.activity) if data.activity else [_no_events(results)]),
        *(_distance_blocks(data.distance) if data.distance else []),
        *(text(f"Note: {note}.") for note in data.notes),
    ]
    return Section("data", "Data", tuple(blocks))


def _row_blocks(checks: Mapping[str, Any]) -> list[Block]:
    reports = {name: checks[name] for name in ("items", "events") if isinstance(checks.get(name), Mapping)}
    rows = [
        [name, *(number(report.get(key)) for key in ("rows", "kept", "rejected"))] for name, report in reports.items()
    ]
    if not rows:
        return []
    blocks: list[Block] = [
        table("Rows of the tables", ["table", "read", "kept", "rejected"], rows, ["read", "kept", "rejected"])
    ]
    reasons = [
        [name, reason, number(count)]
        for name, report in reports.items()
        for reason, count in sorted(report.get("rejected_by_reason", {}).items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    if reasons:
        blocks.append(table("Rejected rows by reason", ["table", "reason", "rows"], reasons, ["rows"]))
        blocks.append(text("A row with two reasons counts for each. The rows themselves are kept in the reject files."))
    return blocks


def _text_table(data: Description, filled: Mapping[str, int]) -> Block:
    columns = ["column", "known", "different values", "mean length", "filled by reverse geocoding"]
    rows = [
        [
            column.column,
            percent(column.share),
            number(column.distinct) if column.share else "–",
            f"{column.mean_chars:.0f}" if column.share else "–",
            number(filled.get(column.column) or None),
        ]
        for column in data.text
    ]
    return table("What is known about the items", columns, rows, columns[1:])


def _lost_regions(checks: Mapping[str, Any]) -> list[Block]:
    lost = checks.get("regions", {}).get("rows_without_region")
    return [text(f"{lost:,} items lie too far from any known place and still lack a region.")] if lost else []


def _level_table(levels: Sequence[Level]) -> Block:
    columns = ["level", "known", "different", "effective", "largest"]
    rows = [
        [
            "top category" if level.name == "category" else level.name,
            percent(level.share),
            number(level.distinct),
            number(level.effective),
            " · ".join(f"{name} ({count:,})" for name, count in level.top[:_SHOWN]),
        ]
        for level in levels
    ]
    return table("Regions and categories", columns, rows, columns[1:4])


def _geography_words(place: Geography) -> Block:
    nearest = place.nearest_km
    return text(
        f"The nearest other item is {kilometres(nearest['50%'])} away (median; {kilometres(nearest['10%'])} to "
        f"{kilometres(nearest['90%'])} for the middle four fifths). {percent(place.shared_share)} of the items have "
        f"another within 10 m, {percent(place.alone_share)} have none within 1 km."
    )


def _no_events(results: Results) -> Block:
    if results.events is None:
        return text("There are no events: the catalogue alone makes the SIDs.")
    return text("The events table holds no usable event.")


def _activity_blocks(active: Activity) -> list[Block]:
    kinds = ", ".join(f"{name} {count:,}" for name, count in active.kinds.items())
    rows = [
        ["events", number(active.events) + (f" ({kinds})" if kinds else "")],
        ["users", number(active.users)],
        ["items with events", number(active.items)],
        ["time (UTC)", f"{active.first:%Y-%m-%d} to {active.last:%Y-%m-%d}, {number(active.days)} days"],
        ["visits per user (median, 95 %, most)", _quantiles(active.per_user)],
        ["visits per item (median, 95 %, most)", _quantiles(active.per_item)],
        ["visits to an item the user has visited before", percent(active.repeat_share)],
        ["visits that the most visited 1 % of items get", percent(active.top_1_percent_share)],
    ]
    return [table("Events (a visit is every event but an impression)", ["measure", "value"], rows, ["value"])]


def _quantiles(values: Mapping[str, float]) -> str:
    return " / ".join(f"{values[name]:,.0f}" for name in ("50%", "95%", "100%"))


def _distance_blocks(curve: DistanceCurve) -> list[Block]:
    near, random = curve.quantiles_km["50%"], curve.reference_quantiles_km["50%"]
    words = f"Half of the visits go at most {kilometres(near)}; a random item is {kilometres(random)} away (median)."
    blocks: list[Block] = [
        text(
            f"How far do visits go? {curve.location[0].upper()}{curve.location[1:]}. {words} {curve.unplaced:,} events "
            "are left out, because the place of the user or of the item is unknown."
        ),
        Figure("distance", reach_chart(curve), f"Share of visits by distance between user and item. {words}",
               f"Bar chart of the share of visits by distance band. {words}"),
    ]  # fmt: skip
    if curve.has_conversion:
        caption = "Clicks and orders per impression by distance between user and item, with 95 % intervals (Wilson)."
        blocks.append(Figure("conversion", conversion_chart(curve), caption, f"Line chart. {caption}"))
    return blocks
