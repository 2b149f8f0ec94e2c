"""Yelp Open Dataset, JSON lines, in its early and its present form (yelp.com/dataset; Yelp's terms of use apply).

Files are told apart by what their first record holds, not by their names. Businesses become items; reviews and tips
become events. Check-ins are counts or dates without a user and become nothing; user and photo files are skipped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import polars as pl

from lgsid.data.importers.base import Sink, reject_frame
from lgsid.data.importers.streams import LineBatch, first_line, line_batches, reading
from lgsid.data.importers.yelp_text import (
    attributes_in_words,
    hours_in_words,
    literal,
    price_level,
    split_address,
    split_categories,
)
from lgsid.errors import DataError
from lgsid.progress import Advance

CATEGORY_JOIN = " | "
"""Between the categories of a business: Yelp gives a flat set, not a path."""

_ITEM_SCHEMA: dict[str, Any] = {
    "item_id": pl.String, "title": pl.String, "lat_deg": pl.Float64, "lon_deg": pl.Float64, "category": pl.String,
    "description": pl.String, "province": pl.String, "city": pl.String, "district": pl.String, "street": pl.String,
    "price": pl.Float64, "neighborhood": pl.String, "stars": pl.Float64, "review_count": pl.Int64,
    "is_open": pl.Boolean, "hours": pl.String,
}  # fmt: skip
_EVENT_SCHEMA: dict[str, Any] = {
    "user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC"), "stars": pl.Float64,
    "source": pl.String,
}  # fmt: skip

Record = Mapping[str, Any]


class _FieldError(Exception):
    """A field of a record is missing or wrong."""

    def __init__(self, column: str, value: Any, reason: str) -> None:
        self.column, self.value, self.reason = column, value, reason
        super().__init__(reason)


def import_yelp(files: Sequence[Path], sink: Sink) -> None:
    """Import Yelp Open Dataset files, in any order and number; one of them is the business file.

    Raises:
        DataError: a file is not one of Yelp's, or there is no business file.
        TableError: lines are wrong and the import is strict.
    """
    kinds = {file: _kind(file) for file in files}
    if "business" not in kinds.values():
        found = ", ".join(f"{file.name} ({kind})" for file, kind in kinds.items())
        raise DataError(f"no business file among {found}", "add yelp_academic_dataset_business.json to the files")
    order = ("business", "review", "tip", "checkin", "user", "photo")
    with reading(files) as advance:
        for file in sorted(files, key=lambda file: order.index(kinds[file])):
            _import_file(file, kinds[file], sink, advance)


def _kind(file: Path) -> str:
    """Which of Yelp's files this is, from the fields of its first record."""
    line = first_line(file)
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        record = None
    if isinstance(record, dict):
        for kind, fields in _KINDS:
            if fields <= record.keys():
                return kind
    shown = line[:60].decode("utf-8", errors="replace")
    raise DataError(
        f"{file} is not a Yelp file: its first line is {shown!r}, expected a JSON object with the fields of a "
        "business, review, tip, checkin, user or photo",
        "unpack the archive first (tar xf yelp_dataset.tar), and give the .json files",
    )


_KINDS: tuple[tuple[str, set[str]], ...] = (
    ("business", {"business_id", "name", "latitude", "longitude"}),
    ("review", {"business_id", "user_id", "stars", "date"}),
    ("photo", {"business_id", "photo_id"}),
    ("tip", {"business_id", "user_id", "text", "date"}),
    ("user", {"user_id", "name", "review_count"}),
    ("checkin", {"business_id", "checkin_info"}),
    ("checkin", {"business_id", "time"}),
    ("checkin", {"business_id", "date"}),
)


def _import_file(file: Path, kind: str, sink: Sink, advance: Advance) -> None:
    if kind in ("user", "photo"):
        advance(file.stat().st_size)
        sink.note(f"{file.name} was skipped: {kind}s are neither items nor events")
        return
    visits = dateless = 0
    for batch in line_batches(file, advance):
        if kind == "business":
            sink.items(pl.DataFrame(_rows(batch, _business, file, sink), schema=_ITEM_SCHEMA, orient="row"))
        elif kind == "checkin":
            visits += sum(_rows(batch, _visits, file, sink))
        else:
            rows = _rows(batch, _review if kind == "review" else _tip, file, sink)
            sink.events(frame := pl.DataFrame(rows, schema=_EVENT_SCHEMA, orient="row"))
            dateless += int((frame["timestamp"].dt.time() == time(0)).sum())
    _notes(file, kind, visits, dateless, sink)


def _notes(file: Path, kind: str, visits: int, midnights: int, sink: Sink) -> None:
    if kind == "business":
        sink.note("category holds all of a business's categories, joined by ' | ': Yelp gives a set, not a path")
        sink.note("price is Yelp's price range, 1 (cheap) to 4 (expensive); closed businesses are kept (is_open)")
    elif kind == "checkin":
        sink.note(f"{file.name}: {visits:,} check-ins name no user, so they are not events and were left out")
    else:
        sink.note("Yelp's dates are local times without a zone; they are stored as if they were UTC")
        sink.note("texts of reviews and tips are not kept")
        if midnights:
            sink.note(f"{file.name}: {midnights:,} dates have no time of day and stand at midnight")


def _rows(batch: LineBatch, convert: Callable[[Record], Any], file: Path, sink: Sink) -> list[Any]:
    """The converted records of a batch; lines that do not convert are rejected."""
    rows, bad = [], []
    for number, line in enumerate(batch.lines, start=batch.first):
        if not line.strip():
            continue
        try:
            rows.append(convert(_record(line)))
        except _FieldError as error:
            raw = line.decode("utf-8", errors="replace")
            bad.append((str(file), number, error.column, str(error.value), error.reason, raw))
    if bad:
        sink.reject(reject_frame(bad))
    return rows


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line)
    except UnicodeDecodeError:
        raise _FieldError("line", line.decode("utf-8", errors="replace"), "not UTF-8") from None
    except (json.JSONDecodeError, RecursionError):
        raise _FieldError("line", line.decode("utf-8"), "not JSON") from None
    if not isinstance(record, dict):
        raise _FieldError("line", line.decode("utf-8"), "not a JSON object")
    return record


def _business(record: Record) -> tuple[Any, ...]:
    neighbourhoods = [name for name in _list(record, "neighborhoods") if isinstance(name, str)]
    neighbourhoods = neighbourhoods or [name for name in [_text(record, "neighborhood")] if name]
    attributes = record.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise _FieldError("attributes", attributes, "attributes is not an object")
    street, postal = _text(record, "address"), _text(record, "postal_code")
    if "full_address" in record:
        city, state = _text(record, "city") or "", _text(record, "state") or ""
        street, postal = split_address(_text(record, "full_address") or "", city, state, neighbourhoods)
    return (
        _required(record, "business_id"),
        _text(record, "name"),
        _degrees(record, "latitude", 90),
        _degrees(record, "longitude", 180),
        CATEGORY_JOIN.join(split_categories(record.get("categories"))) or None,
        attributes_in_words(attributes),
        _text(record, "state"),
        _text(record, "city"),
        postal,
        street,
        price_level(attributes),
        ", ".join(neighbourhoods) or None,
        _number(record, "stars"),
        _integer(record, "review_count"),
        _is_open(record),
        hours_in_words(literal(record.get("hours"))),
    )


def _review(record: Record) -> tuple[Any, ...]:
    user, item, when = _required(record, "user_id"), _required(record, "business_id"), _date(record)
    return user, item, when, _number(record, "stars"), "review"


def _tip(record: Record) -> tuple[Any, ...]:
    return _required(record, "user_id"), _required(record, "business_id"), _date(record), None, "tip"


def _visits(record: Record) -> int:
    """Number of check-ins of a business: a list of dates, or counts by hour and weekday (early)."""
    _required(record, "business_id")
    if isinstance(record.get("date"), str):
        return len([date for date in record["date"].split(",") if date.strip()])
    counts = record.get("checkin_info", record.get("time"))
    if isinstance(counts, dict):
        inner = (value.values() if isinstance(value, dict) else [value] for value in counts.values())
        return sum(int(count) for values in inner for count in values if isinstance(count, int | float))
    return 0


def _required(record: Record, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _FieldError(name, value, f"{name} is missing or empty")
    return value


def _text(record: Record, name: str) -> str | None:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise _FieldError(name, value, f"{name} is not text")
    return value.strip() or None if value else None


def _list(record: Record, name: str) -> list[Any]:
    value = record.get(name) or []
    if not isinstance(value, list):
        raise _FieldError(name, value, f"{name} is not a list")
    return value


def _number(record: Record, name: str) -> float | None:
    value = record.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _FieldError(name, value, f"{name} is not a number")
    return float(value)


def _integer(record: Record, name: str) -> int | None:
    value = _number(record, name)
    return None if value is None else int(value)


def _degrees(record: Record, name: str, limit: float) -> float:
    value = _number(record, name)
    if value is None:
        raise _FieldError(name, value, f"{name} is missing")
    if abs(value) > limit:
        raise _FieldError(name, value, f"{name} is outside ±{limit}°")
    return value


def _is_open(record: Record) -> bool | None:
    value = record.get("is_open", record.get("open"))
    if value not in (None, 0, 1):
        raise _FieldError("is_open", value, "is_open is neither 0 nor 1")
    return None if value is None else bool(value)


def _date(record: Record) -> datetime:
    text = _required(record, "date")
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise _FieldError("date", text, "date does not parse") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
