"""Items and events tables: read, interpret, check, and keep the good rows.

Strict mode reads the whole table, then raises one `TableError` with every reason, its number of rows and its first
examples. Lenient mode drops the bad rows, counts them by reason and hands every one of them back as a reject, so that
kept rows and rejects together are always all rows of the file. Items are held in memory; events are streamed.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from lgsid.artifact import atomic_path
from lgsid.config import DataConfig
from lgsid.data import checks
from lgsid.data.checks import ITEM_STATE, ITEM_TEXTS, Verdict
from lgsid.data.interpret import (
    ABSENT,
    EVENT_COLUMNS,
    EVENT_REQUIRED,
    ITEM_REQUIRED,
    NAMED,
    interpret_events,
    interpret_items,
    to_wgs84,
)
from lgsid.data.reading import MALFORMED, Table, open_table
from lgsid.data.regions import SwapFinder
from lgsid.errors import BadRow, DataError, TableError
from lgsid.progress import progress

BATCH_ROWS = 400_000
"""Rows of events in memory at a time."""

_ALIASES = {
    "item_id": ("id", "business_id", "venue_id", "shop_id", "poi_id", "location_id"),
    "title": ("name", "shop_name", "venue_name", "item_name"),
    "lat_deg": ("lat", "latitude"),
    "lon_deg": ("lon", "lng", "long", "longitude"),
    "user_id": ("user", "uid", "member_id"),
    "timestamp": ("time", "ts", "date", "datetime", "event_time", "created_at"),
}


@dataclass
class TableReport:
    """What the checks of one table found.

    Attributes:
        path: the file.
        rows, kept: data rows of the file, and those that passed.
        reasons: number of bad rows by reason; a row with two reasons counts for each.
        examples: the first bad rows of each reason.
        notes: further counts: `blank_lines` of a CSV file, `titles_from_category`, unknown items by kind.
    """

    path: Path
    rows: int = 0
    kept: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[BadRow] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.path.name

    @property
    def rejected(self) -> int:
        """Number of bad rows."""
        return self.rows - self.kept

    def add(self, verdict: Verdict) -> None:
        """Count the rows of one batch."""
        self.rows += len(verdict.bad)
        self.kept += len(verdict.bad) - int(verdict.bad.sum())
        self.reasons = dict(Counter(self.reasons) + Counter(verdict.counts()))
        shown = Counter(reason for reason, _, _ in (row.reason.partition(": ") for row in self.examples))
        self.examples += verdict.examples(self.file, dict(shown))

    def close(self, lenient: bool) -> None:
        """Raise unless the table can be used.

        Raises:
            DataError: it has no rows.
            TableError: it has bad rows in strict mode, or no good ones in lenient mode.
        """
        if not self.rows:
            raise DataError(f"{self.path} has a header but no rows", "give a table with at least one row")
        if self.rejected and (not lenient or not self.kept):
            counts = dict(sorted(self.reasons.items(), key=lambda pair: -pair[1]))
            listed = ", ".join(f"{reason}: {count:,}" for reason, count in counts.items())
            left = "" if self.kept else ", no row is left"
            message = f"{self.path}: {self.rejected:,} of {self.rows:,} rows are wrong{left} ({listed})"
            raise TableError(message, counts, self.examples, checks.fix_of(list(counts)))

    def to_json(self) -> dict[str, Any]:
        """The report as JSON-able figures."""
        return {
            "file": self.file,
            "rows": self.rows,
            "kept": self.kept,
            "rejected": self.rejected,
            "rejected_by_reason": self.reasons,
            **self.notes,
        }


@dataclass(frozen=True)
class CheckedItems:
    """A checked catalogue.

    Attributes:
        items: kept rows in file order: `item_id`, `title`, `lat_deg`, `lon_deg` (WGS-84), `category`, `brand`,
            `description`, `province`, `city`, `district`, `street` (text, null where unknown), then all other columns.
        rejects: bad rows as text, with `row`, `reason`, `column` and `detail`.
        rejected_ids: item ids that stand in bad rows only.
        report: counts.
    """

    items: pl.DataFrame
    rejects: pl.DataFrame
    rejected_ids: pl.Series
    report: TableReport


def check_items(path: Path, config: DataConfig) -> CheckedItems:
    """Read and check an items table.

    Args:
        path: Parquet or CSV file.
        config: limits, datum, and whether bad rows are dropped.

    Raises:
        DataError: the file cannot be read, lacks a required column, or has no rows.
        TableError: rows are wrong (strict), or all of them are (lenient).
    """
    table = open_table(path)
    _require(table, ITEM_REQUIRED)
    report = TableReport(path)
    batches = list(table.batches(BATCH_ROWS))
    report.notes["blank_lines"] = table.blank_lines
    if not batches:
        report.close(config.lenient)
    cells = pl.concat(batches).rechunk()
    del batches
    frame = interpret_items(cells, path, config)
    vectors = [name for name in table.columns if name.startswith("vector_")]
    verdict = Verdict(checks.item_checks(frame.schema, _texts(cells), vectors, config), frame)
    report.add(verdict)
    report.close(config.lenient)
    good = frame.filter(~verdict.bad) if report.rejected else frame
    unnamed = good.select((~pl.col(NAMED)).sum()).item()
    report.notes["titles_from_category"] = int(unnamed)
    others = [name for name in table.columns if name not in (*ITEM_REQUIRED, *ITEM_TEXTS)]
    items = good.select(*ITEM_REQUIRED, *ITEM_TEXTS[1:], *others)
    bad_ids = frame.filter(verdict.bad)["item_id"].drop_nulls().unique(maintain_order=True)
    bad_ids = bad_ids.filter(~bad_ids.is_in(items["item_id"].implode()))
    return CheckedItems(
        to_wgs84(items, "lat_deg", "lon_deg", config), verdict.rejects(table.columns), bad_ids, report
    )  # fmt: skip


def check_events(
    path: Path, items: CheckedItems, config: DataConfig, kept_path: Path, rejects_path: Path | None = None
) -> TableReport:
    """Read and check an events table of any size, in bounded memory.

    Args:
        path: Parquet or CSV file.
        items: the catalogue that the events speak of.
        kept_path: Parquet file for the good rows, in file order; written only when the table can be used.
        rejects_path: Parquet file for the bad rows; None drops them.

    Raises:
        DataError, TableError: as `check_items`; nothing is written then.
    """
    table = open_table(path)
    _require(table, EVENT_REQUIRED)
    _require_together(table, "user_lat_deg", "user_lon_deg")
    report = TableReport(path)
    known = _item_states(items)
    catalogue = items.items["lat_deg"].to_numpy(), items.items["lon_deg"].to_numpy()
    swaps = SwapFinder(*catalogue) if config.find_swapped else None
    with ExitStack() as stack, progress(f"checking {path.name}", total=None, unit="rows") as advance:
        keep = stack.enter_context(_parquet_writer(kept_path))
        reject = stack.enter_context(_parquet_writer(rejects_path)) if rejects_path else None
        for cells in table.batches(BATCH_ROWS):
            frame = interpret_events(cells, known, swaps)
            verdict = Verdict(checks.event_checks(frame.schema, _texts(cells)), frame)
            report.add(verdict)
            _count_unknown(report, frame.filter(verdict.bad))
            keep(_kept_events(frame.filter(~verdict.bad), table, config))
            if reject is not None:
                reject(verdict.rejects(table.columns))
            advance(cells.height)
        report.notes["blank_lines"] = table.blank_lines
        report.close(config.lenient)
    return report


# --- Required columns -------------------------------------------------------------------------------------------------
def _require(table: Table, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table.columns]
    if not missing:
        return
    meant = "".join(f"; is {found!r} the {name}?" for name in missing if (found := _namesake(name, table.columns)))
    raise DataError(
        f"{table.path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)} "
        f"(it has {', '.join(table.columns)}){meant}",
        "rename the columns, or let `lgsid import` do it with a column mapping",
    )


def _namesake(name: str, columns: Sequence[str]) -> str | None:
    """The column that probably is the missing one under another name."""
    by_lower = {column.lower(): column for column in columns}
    usual = (by_lower[alias] for alias in _ALIASES.get(name, ()) if alias in by_lower)
    typo = difflib.get_close_matches(name, by_lower, n=1, cutoff=0.75)
    return next(usual, by_lower[typo[0]] if typo else None)


def _require_together(table: Table, one: str, other: str) -> None:
    if (one in table.columns) != (other in table.columns):
        there, missing = (one, other) if one in table.columns else (other, one)
        raise DataError(f"{table.path} has the column {there} without {missing}", f"add {missing}, or drop {there}")


def _texts(cells: pl.DataFrame) -> list[str]:
    return [name for name, dtype in cells.schema.items() if dtype == pl.String and name != MALFORMED]


# --- Events -----------------------------------------------------------------------------------------------------------
_REJECTED = "its row in the items table was rejected"


def _item_states(items: CheckedItems) -> pl.DataFrame:
    kept = items.items.select("item_id", pl.lit("kept").alias(ITEM_STATE))
    rejected = pl.DataFrame({"item_id": items.rejected_ids}).with_columns(pl.lit(_REJECTED).alias(ITEM_STATE))
    return pl.concat([kept, rejected])


def _count_unknown(report: TableReport, bad: pl.DataFrame) -> None:
    states = bad.filter(pl.col(MALFORMED).is_null(), pl.col("item_id").is_not_null())[ITEM_STATE]
    for name, state in (("unknown_items_rejected", _REJECTED), ("unknown_items_absent", ABSENT)):
        report.notes[name] = report.notes.get(name, 0) + int((states == state).sum())


def _kept_events(good: pl.DataFrame, table: Table, config: DataConfig) -> pl.DataFrame:
    known = [name for name in EVENT_COLUMNS if name in table.columns]
    others = [name for name in table.columns if name not in EVENT_COLUMNS]
    return to_wgs84(good.select(*known, *others), "user_lat_deg", "user_lon_deg", config)


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    """Write frames one after another into one Parquet file, which appears when the block ends without an error."""
    import pyarrow.parquet as pq

    writers: list[Any] = []

    with atomic_path(path) as temporary:

        def write(frame: pl.DataFrame) -> None:
            part = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
            if not writers:
                writers.append(pq.ParquetWriter(temporary, part.schema, compression="zstd"))
            if part.num_rows:
                writers[0].write_table(part)

        try:
            yield write
        finally:
            for writer in writers:
                writer.close()
