"""What every importer shares: the output tables, the streaming writer, and what becomes of lines that are wrong.

An importer is a function ``(files, sink) -> None``: it reads its files in batches and hands polars frames of contract
columns to the `Sink`, which writes them as Parquet row groups, so that memory depends on the batch and not on the file.
All files of an import appear together at its end; an import that stops with an error leaves what was there before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import polars as pl

from lgsid.artifact import atomic_path, peak_memory_mib, write_json
from lgsid.errors import BadRow, DataError, TableError

ITEM_TYPES: dict[str, pl.DataType] = {
    "item_id": pl.String(),
    "title": pl.String(),
    "lat_deg": pl.Float64(),
    "lon_deg": pl.Float64(),
    "brand": pl.String(),
    "category": pl.String(),
    "description": pl.String(),
    "province": pl.String(),
    "city": pl.String(),
    "district": pl.String(),
    "street": pl.String(),
    "price": pl.Float64(),
    "created_at": pl.Datetime("us", "UTC"),
}
"""Contract columns of an items table."""

EVENT_TYPES: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "timestamp": pl.Datetime("us", "UTC"),
    "kind": pl.String(),
    "amount": pl.Float64(),
    "user_lat_deg": pl.Float64(),
    "user_lon_deg": pl.Float64(),
}
"""Contract columns of an events table."""

KINDS = ("impression", "click", "order")
"""What an event can be."""

INTERNAL = "lgsid::"
"""Prefix of columns that a batch carries for the importer's own use and that are never written."""

ROW = f"{INTERNAL}row"
"""Column of a batch: number of the line or data row in its file, from 1."""
RAW = f"{INTERNAL}raw"
"""Column of a batch: the line as it stood in the file."""

_CHECK = f"{INTERNAL}check"
_EXAMPLES_PER_REASON = 3


@dataclass(frozen=True)
class Check:
    """One thing that can be wrong with a row of a batch.

    Attributes:
        column: name of the source column that is to blame.
        value: expression of the value to show.
        bad: expression that is true where the row is wrong (null counts as false).
        reason: what is wrong, in words that do not depend on the row.
    """

    column: str
    value: pl.Expr
    bad: pl.Expr
    reason: str


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        source: name of the importer.
        files: the files written.
        items, events: rows written.
        rejects: dropped lines by reason (lenient imports only; they stand in ``rejects.parquet``).
        notes: what a user of the tables must know about how they came about.
        seconds, peak_memory_mib: wall time, and highest resident memory of the process.
    """

    source: str
    files: tuple[str, ...]
    items: int
    events: int
    rejects: Mapping[str, int]
    notes: tuple[str, ...]
    seconds: float
    peak_memory_mib: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def __str__(self) -> str:
        rejects = "".join(f"\nreject: {reason}: {count:,}" for reason, count in self.rejects.items())
        notes = "".join(f"\nnote: {note}" for note in self.notes)
        files = "".join(f"\nwrote: {file}" for file in self.files)
        counts = f"{self.items:,} items, {self.events:,} events in {self.seconds:.1f} s"
        return f"{self.source}: {counts}{rejects}{notes}{files}"


class Importer(Protocol):
    """Reads source files and gives their rows to the sink."""

    def __call__(self, files: Sequence[Path], sink: Sink) -> None: ...


class TableWriter:
    """Appends frames to one Parquet file, each as a row group. The first frame sets columns and types.

    Args:
        path: where to write (a temporary path, in general).
        label: name of the table in errors.
    """

    def __init__(self, path: Path, label: str) -> None:
        self._path, self._label = path, label
        self._writer: Any = None
        self._schema: pl.Schema | None = None
        self.rows = 0

    def write(self, frame: pl.DataFrame) -> None:
        """Append the rows of a frame.

        Raises:
            DataError: its columns or types differ from those of the first frame.
        """
        import pyarrow.parquet as pq

        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._schema is None:
            self._schema = frame.schema
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        elif frame.schema != self._schema:
            raise DataError(_schema_difference(self._label, self._schema, frame.schema))
        self._writer.write_table(table)
        self.rows += frame.height

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


def _schema_difference(label: str, expected: pl.Schema, got: pl.Schema) -> str:
    lost = [name for name in expected if name not in got]
    new = [name for name in got if name not in expected]
    changed = [f"{name} ({expected[name]} → {got[name]})" for name in got if expected.get(name, got[name]) != got[name]]
    parts = [("missing", lost), ("additional", new), ("of another type", changed)]
    detail = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
    return f"the files of the {label} table do not have the same columns ({detail or 'another order'})"


@dataclass
class Sink:
    """Where importers put rows: the tables, the rejects and the notes of one import.

    Args:
        folder: output folder.
        lenient: drop and keep wrong lines in ``rejects.parquet`` instead of stopping at the first batch with one.
    """

    folder: Path
    lenient: bool = False
    rejects: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)
    _writers: dict[str, TableWriter] = field(default_factory=dict)

    def items(self, frame: pl.DataFrame) -> None:
        """Append rows to ``items.parquet``; contract columns first, in their order."""
        self._append("items", _contract_order(frame, ITEM_TYPES))

    def events(self, frame: pl.DataFrame) -> None:
        """Append rows to ``events.parquet``; contract columns first, in their order."""
        self._append("events", _contract_order(frame, EVENT_TYPES))

    def rows(self, table: str) -> int:
        """Rows written to a table so far."""
        writer = self._writers.get(table)
        return 0 if writer is None else writer.rows

    def note(self, text: str) -> None:
        """Say something that a user of the tables must know (once)."""
        if text not in self.notes:
            self.notes.append(text)

    def keep_good(self, batch: pl.DataFrame, checks: Sequence[Check], file: Path) -> pl.DataFrame:
        """The rows of a batch that pass all checks; the others are rejected for the first check they fail.

        Args:
            batch: rows with the column `ROW`, and `RAW` where rejects shall hold something else than their columns.
            checks: in order of precedence.
            file: where the rows come from.

        Raises:
            TableError: a row is wrong and the import is strict.
        """
        failing = [pl.when(check.bad.fill_null(False)).then(pl.lit(i)) for i, check in enumerate(checks)]
        found = batch.with_columns(pl.coalesce(failing).alias(_CHECK))
        if found[_CHECK].null_count() == found.height:
            return batch
        bad = [
            _as_rejects(rows.drop(_CHECK), check, file)
            for i, check in enumerate(checks)
            if (rows := found.filter(pl.col(_CHECK) == i)).height
        ]
        self.reject(pl.concat(bad).sort("row"))
        return batch.filter(found[_CHECK].is_null())

    def reject(self, bad: pl.DataFrame) -> None:
        """Reject rows given as a frame of file, row, column, value, reason and raw.

        Raises:
            TableError: the import is strict.
        """
        counts = {str(reason): int(count) for reason, count in bad.group_by("reason", maintain_order=True).len().rows()}
        if not self.lenient:
            raise _strict_error(bad, counts)
        self.rejects.update(counts)
        self._append("rejects", bad)

    def _append(self, table: str, frame: pl.DataFrame) -> None:
        if frame.is_empty():
            return
        if table not in self._writers:
            path = self._stack.enter_context(atomic_path(self.folder / f"{table}.parquet"))
            self._writers[table] = TableWriter(path, table)
            self._stack.callback(self._writers[table].close)
        self._writers[table].write(frame)

    def __enter__(self) -> Sink:
        self._stack.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


def _contract_order(frame: pl.DataFrame, types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    known = [pl.col(name).cast(dtype) for name, dtype in types.items() if name in frame.columns]
    extra = [name for name in frame.columns if name not in types and not name.startswith(INTERNAL)]
    return frame.select(*known, *extra)


def _as_rejects(rows: pl.DataFrame, check: Check, file: Path) -> pl.DataFrame:
    return rows.select(
        pl.lit(str(file)).alias("file"),
        pl.col(ROW).cast(pl.Int64).alias("row"),
        pl.lit(check.column).alias("column"),
        check.value.cast(pl.String).fill_null("").alias("value"),
        pl.lit(check.reason).alias("reason"),
        _raw(rows).alias("raw"),
    )


def _raw(rows: pl.DataFrame) -> pl.Expr:
    if RAW in rows.columns:
        return pl.col(RAW)
    shown = [name for name, dtype in rows.schema.items() if not dtype.is_nested() and not name.startswith(INTERNAL)]
    return pl.struct(pl.col(shown).cast(pl.String, strict=False)).struct.json_encode()


def reject_frame(rows: Sequence[tuple[str, int, str, str, str, str]]) -> pl.DataFrame:
    """The frame that `Sink.reject` takes, from tuples of file, row, column, value, reason and raw."""
    names = ("file", "row", "column", "value", "reason", "raw")
    types = {name: pl.Int64() if name == "row" else pl.String() for name in names}
    return pl.DataFrame(list(rows), schema=types, orient="row")


def _strict_error(bad: pl.DataFrame, counts: dict[str, int]) -> TableError:
    first = bad.group_by("reason", maintain_order=True).head(_EXAMPLES_PER_REASON)
    examples = [
        BadRow(row["file"], row["row"], row["column"], row["value"] or "", row["reason"])
        for row in first.iter_rows(named=True)
    ]
    total = sum(counts.values())
    reasons = ", ".join(f"{count:,} × {reason}" for reason, count in counts.items())
    return TableError(
        f"import stopped: {total:,} wrong {'line' if total == 1 else 'lines'} in the batch just read ({reasons})",
        counts,
        examples,
        "mend the file, or import with --lenient: wrong lines are then dropped, counted and kept in rejects.parquet",
    )


def run_importer(
    source: str, importer: Importer, files: Sequence[Path], folder: Path, lenient: bool = False
) -> ImportReport:
    """Run one importer over files and write ``items.parquet``, ``events.parquet`` and ``import.json`` to a folder.

    Args:
        source: name for the report.
        importer: the function that reads the files.
        files: what to read.
        folder: where to write; made where it does not exist.
        lenient: keep going over wrong lines; they are counted and written to ``rejects.parquet``.

    Raises:
        DataError: a file is missing, is not what the importer reads, or holds no usable row.
        TableError: lines are wrong and the import is strict.
    """
    started = time.perf_counter()
    for file in files:
        if not file.is_file():
            raise DataError(f"no file {file}", f"ls {file.parent}")
    folder.mkdir(parents=True, exist_ok=True)
    with Sink(folder, lenient) as sink:
        importer(files, sink)
        if not sink.rows("items") and not sink.rows("events"):
            raise DataError(f"nothing to import in {', '.join(map(str, files))}: {_nothing(sink)}")
    written = [table for table in ("items", "events", "rejects") if sink.rows(table)]
    for table in {"items", "events", "rejects"} - set(written):  # left by an earlier import
        (folder / f"{table}.parquet").unlink(missing_ok=True)
    report = ImportReport(
        source=source,
        files=tuple(str(folder / f"{table}.parquet") for table in written),
        items=sink.rows("items"),
        events=sink.rows("events"),
        rejects=dict(sink.rejects),
        notes=tuple(sink.notes),
        seconds=round(time.perf_counter() - started, 2),
        peak_memory_mib=round(peak_memory_mib(), 1),
    )
    write_json(folder / "import.json", report.to_dict())
    return report


def _nothing(sink: Sink) -> str:
    if sink.rejects:
        return "every line was rejected: " + ", ".join(
            f"{count:,} × {reason}" for reason, count in sink.rejects.items()
        )
    return "the files are empty"
