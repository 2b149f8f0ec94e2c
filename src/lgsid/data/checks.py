"""What is wrong with the rows of a table: one declarative check per mistake.

A check is evaluated on a frame that holds the interpreted columns (`item_id`, `lat_deg` …) beside the raw ones under
`raw(name)`; it says for every row whether it is wrong, in which column, why, and with which evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

from lgsid.config import DataConfig
from lgsid.data.reading import BROKEN, MALFORMED, ROW
from lgsid.data.timestamps import FIRST_YEAR, LAST_YEAR, in_range
from lgsid.errors import BadRow

ITEM_TEXTS = ("title", "category", "brand", "description", "province", "city", "district", "street")
KINDS = ("impression", "click", "order")
MAX_ID_CHARS = 512
NULL_ISLAND_DEG = 0.1
"""A point this close to (0, 0) is a failed geocoding; the place itself is open sea."""

FIRST_ROW, SWAP_EVIDENCE, ITEM_STATE, NON_UTC = "__first_row", "__swap_evidence", "__item_state", "__non_utc"
EXAMPLES_PER_REASON = 3

MALFORMED_ROW = "wrong number of fields"
BROKEN_UTF8 = "broken UTF-8"
CONTROL = "control characters"
SPREADSHEET_ERROR = "spreadsheet error in place of a value"
DUPLICATE = "duplicate item_id"
EMPTY_TITLE = "empty title"
EMPTY_TITLE_AND_CATEGORY = "empty title and no category"
MISSING_COORDINATE = "missing coordinate"
NOT_A_NUMBER = "not a number"
SWAPPED = "latitude and longitude swapped"
NULL_ISLAND = "(0, 0) coordinates"
NON_UTC_TIME = "timestamp is not UTC"
UNREADABLE_TIME = "timestamp not understood"
UNKNOWN_ITEM = "unknown item"

_FIXES = {
    EMPTY_TITLE: "--set data.empty_title=category, if places without a name are meant",
    NON_UTC_TIME: "`lgsid import` with `timezone` in the mapping, which converts to UTC",
    UNREADABLE_TIME: "`lgsid import` with `timezone` in the mapping, or write times as 2026-01-31T18:00:09Z",
    BROKEN_UTF8: "iconv -f GB18030 -t UTF-8 FILE (or whichever encoding it is), if the whole file has another encoding",
    SPREADSHEET_ERROR: "export the table without opening it in a spreadsheet, which reads -A1 or =A1 as a formula",
    SWAPPED: "--set data.find_swapped=false, if these places are real",
}


@dataclass(frozen=True)
class Check:
    """One kind of mistake.

    Attributes:
        reason: what is wrong, in words that many rows can share; the key of all counts.
        column: the column that is wrong.
        bad: boolean expression, true (not null) where a row is wrong.
        detail: text expression with the evidence of one row.
    """

    reason: str
    column: str
    bad: pl.Expr
    detail: pl.Expr = field(default_factory=lambda: pl.lit(None, dtype=pl.String))


def raw(name: str) -> str:
    """Name of the raw column beside the interpreted one."""
    return f"raw:{name}"


def _filled(name: str, dtype: pl.DataType) -> pl.Expr:
    """Whether the raw column has a value at all."""
    column = pl.col(raw(name))
    return column.is_not_null() & (column.str.strip_chars() != "") if dtype == pl.String else column.is_not_null()


def spreadsheet_error(column: pl.Expr) -> pl.Expr:
    """Whether a cell is what a spreadsheet shows for a broken formula."""
    return column.str.contains(r"^#(?:NAME\?|N/A|REF!|VALUE!|DIV/0!|NULL!|NUM!)$")


def _id_checks(name: str, table: pl.Schema) -> list[Check]:
    return [
        Check(SPREADSHEET_ERROR, name, spreadsheet_error(pl.col(name))),
        Check(f"missing {name}", name, ~_filled(name, table[raw(name)])),
        Check("identifier is no exact whole number", name, pl.col(name).is_null() & _filled(name, table[raw(name)])),
        Check(f"identifier longer than {MAX_ID_CHARS} characters", name, pl.col(name).str.len_chars() > MAX_ID_CHARS),
    ]


def _number_checks(name: str, table: pl.Schema, non_negative: bool = False) -> list[Check]:
    checks = [
        Check(NOT_A_NUMBER, name, pl.col(name).is_nan() | (pl.col(name).is_null() & _filled(name, table[raw(name)])))
    ]
    if non_negative:
        checks += [
            Check("infinite", name, pl.col(name).is_infinite()),
            Check("negative", name, pl.col(name).is_finite() & (pl.col(name) < 0)),
        ]
    return checks


def _coordinate_checks(lat: str, lon: str, table: pl.Schema, required: bool) -> list[Check]:
    lat_filled, lon_filled = _filled(lat, table[raw(lat)]), _filled(lon, table[raw(lon)])
    # the one that is missing is named; for an event both may be
    lat_missing, lon_missing = (~lat_filled, ~lon_filled) if required else (
        lon_filled & ~lat_filled, lat_filled & ~lon_filled
    )  # fmt: skip
    lat_deg, lon_deg = pl.col(lat), pl.col(lon)
    turned = (lat_deg.abs() > 90) & (lat_deg.abs() <= 180) & (lon_deg.abs() <= 90)
    island = (lat_deg.abs() < NULL_ISLAND_DEG) & (lon_deg.abs() < NULL_ISLAND_DEG)
    both = pl.format("latitude {}, longitude {}", lat_deg, lon_deg)
    evidence = pl.coalesce(pl.format("{}; {}", both, pl.col(SWAP_EVIDENCE)), both)
    return [
        Check(MISSING_COORDINATE, lat, lat_missing),
        Check(MISSING_COORDINATE, lon, lon_missing),
        *_number_checks(lat, table),
        *_number_checks(lon, table),
        Check(SWAPPED, lat, turned.fill_null(False) | pl.col(SWAP_EVIDENCE).is_not_null(), evidence),
        Check("latitude outside -90 to 90", lat, (lat_deg.abs() > 90) & ~turned.fill_null(False) & ~lat_deg.is_nan()),
        Check("longitude outside -180 to 180", lon, (lon_deg.abs() > 180) & ~lon_deg.is_nan()),
        Check(NULL_ISLAND, lat, island),
    ]


def _text_checks(columns: Sequence[str]) -> list[Check]:
    """Checks of every text column of the file, known to lgsid or not."""
    checks = []
    for name in columns:
        column = pl.col(raw(name))
        checks.append(Check(BROKEN_UTF8, name, column.str.contains(BROKEN, literal=True)))
        checks.append(Check(CONTROL, name, column.str.contains(r"[\x00-\x08\x0e-\x1f]")))
    return checks


def _vector_checks(name: str) -> Check:
    """Vectors must be complete, finite, and as long as the first."""
    vector = pl.col(name)
    length = vector.list.len()
    uneven = (length != length.drop_nulls().first()) | (length == 0)
    # a sum shows infinities and NaN without a copy of the vectors, but passes over missing entries
    broken = ~vector.list.sum().is_finite() | (vector.list.drop_nulls().list.len() != length)
    return Check("vector of another length or with a value that is no finite number", name, uneven | broken)


def item_checks(table: pl.Schema, texts: Sequence[str], vectors: Sequence[str], config: DataConfig) -> list[Check]:
    """All checks of an items table.

    Args:
        table: columns of the frame to be checked.
        texts: its text columns.
        vectors: its `vector_*` columns.
    """
    title = pl.col("title").is_null()
    by_category = config.empty_title == "category"
    limits = {"title": config.max_title_chars, "description": config.max_description_chars}
    limits["category"] = config.max_description_chars
    checks = [
        Check(MALFORMED_ROW, texts[0] if texts else "item_id", pl.col(MALFORMED).is_not_null(), pl.col(MALFORMED)),
        *_text_checks(texts),
        *_id_checks("item_id", table),
        Check(
            DUPLICATE, "item_id", pl.col(FIRST_ROW).is_not_null(), pl.format("first in row {}", pl.col(FIRST_ROW))
        ),
        Check(SPREADSHEET_ERROR, "title", spreadsheet_error(pl.col("title"))),
        Check(EMPTY_TITLE_AND_CATEGORY if by_category else EMPTY_TITLE, "title", title),
    ]  # fmt: skip
    for name in ITEM_TEXTS:
        if raw(name) in table:
            limit = limits.get(name, config.max_title_chars)
            checks.append(_length_check(name, limit))
    checks += _coordinate_checks("lat_deg", "lon_deg", table, required=True)
    if raw("price") in table:
        checks += _number_checks("price", table, non_negative=True)
    return checks + [_vector_checks(name) for name in vectors]


def _length_check(name: str, limit: int) -> Check:
    length = pl.col(name).str.len_chars()
    return Check(f"{name} longer than {limit} characters", name, length > limit, pl.format("{} characters", length))


def event_checks(table: pl.Schema, texts: Sequence[str]) -> list[Check]:
    """All checks of an events table; see `item_checks`."""
    time = pl.col("timestamp")
    time_filled = _filled("timestamp", table[raw("timestamp")])
    state = pl.col(ITEM_STATE)
    checks = [
        Check(MALFORMED_ROW, texts[0] if texts else "user_id", pl.col(MALFORMED).is_not_null(), pl.col(MALFORMED)),
        *_text_checks(texts),
        *_id_checks("user_id", table),
        *_id_checks("item_id", table),
        Check(UNKNOWN_ITEM, "item_id", pl.col("item_id").is_not_null() & (state != "kept"), state),
        Check("missing timestamp", "timestamp", ~time_filled),
        Check(NON_UTC_TIME, "timestamp", pl.col(NON_UTC)),
        Check(UNREADABLE_TIME, "timestamp", time.is_null() & time_filled & ~pl.col(NON_UTC)),
        Check(f"timestamp outside {FIRST_YEAR} to {LAST_YEAR}", "timestamp", ~in_range(time) & ~pl.col(NON_UTC)),
    ]
    if raw("kind") in table:
        known = pl.col("kind").is_in(KINDS)
        checks.append(Check(f"kind is none of {', '.join(KINDS)}", "kind", ~known))
    if raw("amount") in table:
        checks += _number_checks("amount", table, non_negative=True)
    if raw("user_lat_deg") in table:
        checks += _coordinate_checks("user_lat_deg", "user_lon_deg", table, required=False)
    return checks


class Verdict:
    """Which rows of a frame fail which checks.

    Args:
        checks: what to evaluate.
        frame: interpreted and raw columns of the rows.
    """

    def __init__(self, checks: Sequence[Check], frame: pl.DataFrame) -> None:
        self._checks = checks
        self._frame = frame
        shaped = pl.col(MALFORMED).is_null()
        self._flags = frame.lazy().select(
            # a row of the wrong shape has its values under the wrong columns: one reason is enough
            (check.bad.fill_null(False) & (shaped if check.reason != MALFORMED_ROW else pl.lit(True))).alias(str(i))
            for i, check in enumerate(checks)
        ).collect()  # fmt: skip
        self.bad: pl.Series = self._flags.select(pl.any_horizontal(pl.all())).to_series()

    def counts(self) -> dict[str, int]:
        """Number of rows by reason; a row with two reasons counts for each."""
        columns: dict[str, list[str]] = {}
        for i, check in enumerate(self._checks):
            columns.setdefault(check.reason, []).append(str(i))
        sums = self._flags.select(pl.any_horizontal(names).sum().alias(reason) for reason, names in columns.items())
        return {reason: int(count) for reason, count in sums.row(0, named=True).items() if count}

    def examples(self, file: str, enough: dict[str, int]) -> list[BadRow]:
        """The first wrong rows of each reason; ``enough`` says how many of a reason have been shown already."""
        found = []
        for i, check in enumerate(self._checks):
            missing = EXAMPLES_PER_REASON - enough.get(check.reason, 0)
            rows = self._flags[str(i)].arg_true().head(max(missing, 0))
            part = self._frame[rows]
            enough[check.reason] = enough.get(check.reason, 0) + len(rows)
            details = part.select(ROW, check.detail.alias("detail"))["detail"] if len(rows) else ()
            values = self._values(part, check.column)
            for row, value, detail in zip(part[ROW], values, details, strict=True):
                reason = check.reason if detail is None else f"{check.reason}: {detail}"
                found.append(BadRow(file, int(row), check.column, value, reason))
        return found

    def _values(self, part: pl.DataFrame, column: str) -> list[str]:
        return [value or "" for value in as_text(part[raw(column)])] if part.height else []

    def rejects(self, columns: Sequence[str]) -> pl.DataFrame:
        """The wrong rows as text, with `row`, `reason`, `column`, `detail`; several reasons are joined by ``"; "``."""
        flags, part = self._flags.filter(self.bad), self._frame.filter(self.bad)
        details = part.select(check.detail.cast(pl.String).alias(f"d{i}") for i, check in enumerate(self._checks))
        both = pl.concat([flags, details], how="horizontal")
        label = {
            "reason": [pl.when(str(i)).then(pl.lit(check.reason)) for i, check in enumerate(self._checks)],
            "column": [pl.when(str(i)).then(pl.lit(check.column)) for i, check in enumerate(self._checks)],
            "detail": [pl.when(str(i)).then(f"d{i}") for i in range(len(self._checks))],
        }
        labels = both.select(
            pl.concat_str(parts, separator="; ", ignore_nulls=True).alias(name) for name, parts in label.items()
        )
        taken = {"row", *label}
        originals = [as_text(part[raw(name)]).alias(f"{name}_" if name in taken else name) for name in columns]
        return pl.DataFrame([part[ROW].alias("row"), *labels.get_columns(), *originals])


def fix_of(reasons: Sequence[str]) -> str:
    """What mends a table with these reasons, a line for each that has a remedy of its own."""
    hints = [f"{reason}: {_FIXES[reason]}" for reason in reasons if reason in _FIXES]
    general = "mend the rows, or drop them into a reject file with --set data.lenient=true"
    return "\n       ".join([general, *hints])


def as_text(values: pl.Series) -> pl.Series:
    """Values as a person would read them in the file; bytes that are not UTF-8 as ``<0xff>``."""
    if values.dtype == pl.String:
        return values.str.replace_all(f"{BROKEN}([0-9a-f]{{2}})", "<0x${1}>")
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Duration):
        return pl.Series(values.name, [None if value is None else str(value) for value in values.to_list()], pl.String)
    return values.cast(pl.String)
