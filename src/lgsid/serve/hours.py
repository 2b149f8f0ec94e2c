"""Opening hours: from text to one bit for each quarter of an hour of the week.

The format is the plain part of OpenStreetMap's `opening_hours`:

    Mo-Fr 09:00-18:00; Sa 10:00-14:00       days, times; rules are separated by semicolons
    Mo,We,Fr 09:00-12:00,13:00-17:30        lists of days, lists of times
    Fr-Su 20:00-02:00                       past midnight; a range of days may go over the week's end
    09:00-18:00                             every day
    Mo-Su 08:00-20:00; Su off               a later rule replaces what earlier ones said of its days; also "closed"
    24/7

Nothing else is understood: no months, holidays or sunsets. A quarter counts as open where all of it is.

Axes: N items, U distinct texts, Q quarters of the week from Monday 00:00.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, IntArray
from lgsid.errors import BadRow, TableError

COLUMN = "opening_hours"
DAYS = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
QUARTERS = 7 * 24 * 4
_EXAMPLES = 5
_FIX = f"write {COLUMN} like 'Mo-Fr 09:00-18:00; Sa 10:00-14:00' or '24/7', and leave it empty where it is unknown"
_DAY = f"(?:{'|'.join(DAYS)})"
_DAYS = rf"{_DAY}(?:-{_DAY})?(?:\s*,\s*{_DAY}(?:-{_DAY})?)*"
_TIME = r"\d{1,2}:\d{2}\s*-\s*\d{1,2}:\d{2}"
_RULE = re.compile(rf"(?P<days>{_DAYS})?\s*(?P<times>{_TIME}(?:\s*,\s*{_TIME})*|off|closed|24/7)", re.IGNORECASE)


@dataclass(frozen=True)
class OpeningHours:
    """Opening hours of N items; never changes.

    Attributes:
        code_of: distinct texts, and the number of each.
        code_N: which text each item has, -1 where its hours are unknown.
        open_UB: bits of the quarters of each distinct text, 84 bytes.
    """

    code_of: dict[str, int]
    code_N: CodeArray
    open_UB: np.ndarray[tuple[int, int], np.dtype[np.uint8]]

    @classmethod
    def of(cls, items: pl.DataFrame, file: str = "items") -> OpeningHours:
        """Of an items table; all unknown where it has no column `opening_hours`.

        Raises:
            TableError: texts that are not understood, with the row of each.
        """
        if COLUMN not in items.columns:
            return cls({}, np.full(len(items), -1, dtype=np.int32), np.empty((0, QUARTERS // 8), dtype=np.uint8))
        texts_N = items[COLUMN].cast(pl.String).str.strip_chars()
        texts_N = texts_N.set(texts_N == "", None)
        distinct = texts_N.drop_nulls().unique(maintain_order=True)
        weeks: list[BoolArray] = []
        reasons: dict[str, str] = {}
        for text in distinct:
            try:
                weeks.append(parse_hours(text))
            except ValueError as error:
                reasons[text] = str(error)
        if reasons:
            raise _wrong(texts_N, reasons, file)
        codes = pl.Series(range(len(distinct)), dtype=pl.Int32)
        code_N = texts_N.replace_strict(distinct, codes, default=None, return_dtype=pl.Int32).fill_null(-1).to_numpy()
        code_of = {text: code for code, text in enumerate(distinct)}
        return cls(code_of, code_N, np.packbits(np.array(weeks, dtype=np.bool_).reshape(-1, QUARTERS), axis=1))

    @property
    def known(self) -> bool:
        """Whether any item has opening hours."""
        return bool(len(self.open_UB))

    def open_at(self, quarter: int, rows: IntArray) -> tuple[BoolArray, BoolArray]:
        """Whether items are open, and whether that is known; both of the shape of ``rows``."""
        code = self.code_N[rows]
        known = code >= 0
        if not self.known:
            return np.zeros_like(known), known
        open_U = (self.open_UB[:, quarter // 8] >> (7 - quarter % 8)) & 1 == 1
        return known & open_U[code], known

    def plus(self, other: OpeningHours) -> OpeningHours:
        """These items followed by others."""
        code_of, moved_U = merged_codes(self.code_of, other.code_of)
        new_U = moved_U[:-1] >= len(self.code_of)
        open_UB = np.concatenate([self.open_UB, other.open_UB[new_U]])
        return OpeningHours(code_of, np.concatenate([self.code_N, moved_U[other.code_N]]), open_UB)


def merged_codes(codes: dict[str, int], others: dict[str, int]) -> tuple[dict[str, int], CodeArray]:
    """Numbers of the texts of both, and what each number of the others becomes; the last one, for -1, stays -1."""
    merged = dict(codes)
    moved = [merged.setdefault(text, len(merged)) for text in others]
    return merged, np.array([*moved, -1], dtype=np.int32)


def quarter_of(moment: datetime) -> int:
    """Quarter of the week of a moment, by its own clock; see `local_time`."""
    return (moment.weekday() * 24 + moment.hour) * 4 + moment.minute // 15


def local_time(moment: datetime, time_zone: str) -> datetime:
    """A moment on the clocks of a time zone; one without an offset is taken to be read off them already."""
    return moment if moment.tzinfo is None else moment.astimezone(ZoneInfo(time_zone))


def parse_hours(text: str) -> BoolArray:
    """Open quarters of the week, (Q,).

    Raises:
        ValueError: the text is not understood, with the part that is not.
    """
    # one day more than a week, for what goes past midnight on its last day
    open_DQ = np.zeros((7, 192), dtype=np.bool_)
    for rule in filter(None, (part.strip() for part in text.split(";"))):
        match = _RULE.fullmatch(rule)
        if match is None:
            raise ValueError(f"{rule!r} is not understood")
        days, times = match["days"], match["times"].lower()
        day_D = _days(days) if days else list(range(7))
        open_DQ[day_D] = times == "24/7" and np.arange(192) < 96
        if times not in ("off", "closed", "24/7"):
            for span in times.split(","):
                start, end = _span(span)
                open_DQ[day_D, start:end] = True
    today_Q, tomorrow_Q = open_DQ[:, :96].ravel(), np.roll(open_DQ[:, 96:], 1, axis=0).ravel()
    week: BoolArray = today_Q | tomorrow_Q
    return week


def _days(text: str) -> list[int]:
    days = []
    for part in text.replace(" ", "").split(","):
        ends = [DAYS.index(name.capitalize()) for name in part.split("-")]
        days += [(ends[0] + step) % 7 for step in range((ends[-1] - ends[0]) % 7 + 1)]
    return days


def _span(text: str) -> tuple[int, int]:
    """First quarter that is wholly open, and the one after the last."""
    start, end = (_minutes(clock) for clock in text.split("-"))
    if start >= 24 * 60:
        raise ValueError(f"{text.strip()!r} starts after the day's end")
    if end <= start:
        end += 24 * 60
    return -(-start // 15), min(end // 15, 192)


def _minutes(text: str) -> int:
    hour, minute = (int(part) for part in text.strip().split(":"))
    if minute > 59 or hour * 60 + minute > 24 * 60:
        raise ValueError(f"{text.strip()!r} is no time of day")
    return hour * 60 + minute


def _wrong(texts_N: pl.Series, reasons: dict[str, str], file: str) -> TableError:
    rows = texts_N.is_in(list(reasons)).arg_true().to_list()
    examples = [BadRow(file, row + 1, COLUMN, texts_N[row], reasons[texts_N[row]]) for row in rows[:_EXAMPLES]]
    message = f"{file}: {len(rows):,} of {len(texts_N):,} rows have opening hours that are not understood"
    return TableError(message, {"opening hours not understood": len(rows)}, examples, _FIX)
