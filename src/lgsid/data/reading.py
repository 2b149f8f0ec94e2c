"""Reading tables as they are: CSV and Parquet become batches of raw rows, nothing interpreted and nothing lost.

A batch is a polars frame with the file's own columns plus `ROW` (1-based data row of the file) and `MALFORMED` (what is
wrong with the row's shape, null for a well-formed row). CSV cells are text; Parquet columns keep their types, except
that text is verified. Bytes that are not UTF-8 are kept readable: `BROKEN` followed by two hex digits.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import polars as pl
import pyarrow as pa

from lgsid.errors import DataError

ROW = "__row"
MALFORMED = "__malformed"
BROKEN = "\ufdd0"
"""A noncharacter, which no text may contain, so that it can mark a byte that is not UTF-8."""

_BLOCK_BYTES = 8 << 20
_SEPARATORS = (",", ";", "\t", "|")
_CSV_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")
_PARQUET_ENDINGS = (".parquet", ".pq")


class Table(ABC):
    """A table on disk.

    Attributes:
        path: the file.
        columns: its column names, in the file's order.
        blank_lines: lines of a CSV file without any value that have been passed over so far; they are not rows.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path = path
        self.columns = columns
        self.blank_lines = 0
        twice = sorted({name for name in columns if columns.count(name) > 1})
        if twice:
            raise DataError(f"{path} has the column {twice[0]!r} twice", "rename or drop one of them")

    @abstractmethod
    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        """The table's rows in order, about ``rows`` of them at a time, in memory proportional to ``rows``.

        Raises:
            DataError: the file is cut off, corrupt, or has a quote that is never closed.
        """


def open_table(path: Path) -> Table:
    """Open a Parquet or CSV file (also .gz, with or without byte order mark, separated by ``, ; | `` or tab).

    Raises:
        DataError: the file is missing, empty, of another kind, not UTF-8 at its header, or has a column twice.
    """
    if path.is_dir() or not path.exists():
        raise DataError(f"{path} is a folder, expected one file" if path.is_dir() else f"no file {path}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes)")
    name = path.name.lower()
    if name.endswith(_PARQUET_ENDINGS):
        return _ParquetTable(path)
    if name.endswith(_CSV_ENDINGS):
        return _CsvTable(path)
    raise DataError(
        f"{path}: unknown kind of file, expected {', '.join((*_PARQUET_ENDINGS, *_CSV_ENDINGS))}",
        "export it as CSV or Parquet, or see `lgsid import --help`",
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError, csv.Error, OSError, EOFError, zlib.error) as error:
        hint = "a row is longer than 8 MB: is a quote opened and never closed?" if "straddl" in str(error) else error
        raise DataError(f"{path} cannot be read: {hint}", "write the file again; it is cut off or corrupt") from error


# --- Parquet ----------------------------------------------------------------------------------------------------------
class _ParquetTable(Table):
    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        with _reading(path):
            # buffered column chunks: one row group may hold the whole file and still must not be held in memory
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=4 << 20)
        super().__init__(path, list(self._file.schema_arrow.names))

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        first = 1
        with _reading(self.path):
            for batch in self._file.iter_batches(rows):
                columns = [_column(name, batch.column(name)) for name in self.columns]
                yield _with_rows(pl.DataFrame(columns), np.arange(first, first + batch.num_rows))
                first += batch.num_rows


def _column(name: str, array: Any) -> pl.Series:
    """A polars column; text is verified first, since polars trusts Arrow to hold UTF-8 and Parquet writers may not."""
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    kind = array.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        array.validate(full=True)
        return pl.Series(name, pl.from_arrow(array))
    raw = pl.Series(name, pl.from_arrow(array.cast(pa.binary_view()).cast(pa.large_binary())))
    try:
        return raw.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series(name, [None if cell is None else _escape(cell) for cell in raw], dtype=pl.String)


def _escape(raw: bytes) -> str:
    return _mark(raw.decode("utf-8", errors="surrogateescape"))


def _mark(text: str) -> str:
    """Replace the surrogates that stand for undecodable bytes by `BROKEN` and the byte in hex."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\udc80-\udcff]", lambda found: f"{BROKEN}{ord(found[0]) - 0xDC00:02x}", text)
    return text


# --- CSV --------------------------------------------------------------------------------------------------------------
class _CsvTable(Table):
    def __init__(self, path: Path) -> None:
        with _reading(path), _open_bytes(path) as file:
            start = file.read(4)
        if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise DataError(f"{path} is UTF-16, expected UTF-8", f"iconv -f UTF-16 -t UTF-8 {path} > utf8.csv")
        if start == b"PAR1":
            raise DataError(f"{path} is a Parquet file with the name of a CSV file", f"mv {path} NAME.parquet")
        self._separator, header = self._header(path)
        super().__init__(path, [name.strip() or f"column_{i}" for i, name in enumerate(header, 1)])

    def _header(self, path: Path) -> tuple[str, list[str]]:
        with _reading(path), _open_bytes(path) as file:
            text = _ValidText(file).read(1 << 20).decode(errors="ignore")
            headers = {key: next(csv.reader(io.StringIO(text, newline=""), delimiter=key), []) for key in _SEPARATORS}
        if not text.strip():
            raise DataError(f"{path} is empty (no header, no rows)")
        separator = max(_SEPARATORS, key=lambda key: len(headers[key]))
        if any(BROKEN in name for name in headers[separator]):
            raise DataError(f"{path}: the header is not UTF-8", f"iconv -f GB18030 -t UTF-8 {path} > utf8.csv")
        return separator, headers[separator]

    def batches(self, rows: int) -> Iterator[pl.DataFrame]:
        with _reading(self.path), _open_bytes(self.path) as file:
            numbering = _Numbering(self)
            text = _ValidText(file)
            reader = self._reader(text, numbering)
            waiting: list[pl.DataFrame] = []
            for batch in reader:
                waiting.append(numbering.number(cast(pl.DataFrame, pl.from_arrow(batch))))
                if sum(frame.height for frame in waiting) >= rows:
                    yield pl.concat(waiting)
                    waiting = []
            waiting.append(numbering.rest())
            last = pl.concat(waiting)
            self._refuse_open_quote(last, text.quotes)
            if last.height:
                yield last

    def _reader(self, text: _ValidText, numbering: _Numbering) -> Any:
        from pyarrow import csv as arrow_csv

        return arrow_csv.open_csv(
            pa.PythonFile(text, mode="r"),
            # one thread: only then does Arrow know the number of a row that it skips
            arrow_csv.ReadOptions(
                use_threads=False, block_size=_BLOCK_BYTES, column_names=self.columns, skip_rows_after_names=1
            ),
            arrow_csv.ParseOptions(
                delimiter=self._separator,
                newlines_in_values=True,
                ignore_empty_lines=False,
                invalid_row_handler=numbering.skip,
            ),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(self.columns, pa.large_string())),
        )

    def _refuse_open_quote(self, last: pl.DataFrame, quotes: int) -> None:
        """A quote that is never closed swallows the rest of the file into one cell."""
        tail = last.tail(1).row(0, named=True) if last.height and quotes % 2 else {}
        if any(isinstance(cell, str) and "\n" in cell for cell in tail.values()):
            raise DataError(
                f"{self.path}, row {tail[ROW]}: a quote is opened here and never closed, so that the rest of the file "
                f"is one cell",
                "close the quote, or double it where it belongs to the text",
            )

    def split(self, text: str) -> tuple[list[str | None], str]:
        """Cells of a malformed row under the columns they would fall in, and what is wrong with it."""
        cells = next(csv.reader([text], delimiter=self._separator), [])
        wrong = f"{len(cells)} fields, expected {len(self.columns)}"
        surplus = cells[len(self.columns) :]
        if surplus:
            wrong += f", beyond the last column: {self._separator.join(surplus)}"
        filled: list[str | None] = [*cells[: len(self.columns)]]
        return filled + [None] * (len(self.columns) - len(filled)), wrong


class _Numbering:
    """Gives each row its number in the file, although Arrow leaves malformed rows out of its batches."""

    def __init__(self, table: _CsvTable) -> None:
        self._table = table
        self._next = 1
        self._skipped: dict[int, str] = {}

    def skip(self, row: Any) -> str:
        """Called by Arrow for a row with the wrong number of fields; Arrow counts the header as row 1."""
        self._skipped[row.number - 1] = row.text
        return "skip"

    def number(self, cells: pl.DataFrame) -> pl.DataFrame:
        """Number the next well-formed rows and put the malformed ones back between them."""
        candidates = np.arange(self._next, self._next + cells.height + len(self._skipped))
        numbers = candidates[~np.isin(candidates, list(self._skipped))][: cells.height]
        if len(numbers):
            self._next = int(numbers[-1]) + 1
        blank = pl.all_horizontal(pl.exclude(ROW, MALFORMED) == "")
        good = _with_rows(cells, numbers)
        kept = good.filter(~blank)
        self._table.blank_lines += good.height - kept.height
        return pl.concat([kept, self._take(self._next)]).sort(ROW)

    def rest(self) -> pl.DataFrame:
        """Malformed rows behind the last well-formed one."""
        return self._take(None)

    def _take(self, before: int | None) -> pl.DataFrame:
        rows = []
        skipped = list(self._skipped)  # Arrow parses ahead in a thread of its own and may add to it meanwhile
        for number in sorted(row for row in skipped if before is None or row < before):
            text = self._skipped.pop(number)
            if "\n" in text and text.count('"') % 2:
                raise DataError(
                    f"{self._table.path}, row {number}: a quote is opened here and never closed, so that the rest of "
                    f"the file is one row",
                    "close the quote, or double it where it belongs to the text",
                )
            cells, wrong = self._table.split(text)
            rows.append((*cells, number, wrong))
        schema = dict.fromkeys(self._table.columns, pl.String()) | {ROW: pl.Int64(), MALFORMED: pl.String()}
        return pl.DataFrame(rows, schema=schema, orient="row")


def _with_rows(cells: pl.DataFrame, numbers: Any) -> pl.DataFrame:
    return cells.with_columns(pl.Series(ROW, numbers, dtype=pl.Int64), pl.lit(None, dtype=pl.String).alias(MALFORMED))


def _open_bytes(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


class _ValidText:
    """A file object for Arrow: the bytes of a file as valid UTF-8, without byte order mark, broken bytes marked."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="surrogateescape")
        self._ready = b""
        self._ended = False
        self._last = b"\n"
        self.quotes = 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; fewer only at the end of the file."""
        while not self._ended and (size < 0 or len(self._ready) < size):
            block = self._file.read(_BLOCK_BYTES if size < 0 else size)
            self._ended = not block
            self.quotes += block.count(b'"')
            self._ready += _mark(self._decoder.decode(block, final=self._ended)).encode()
            if self._ended and self._last not in (b"\n", b"\r"):
                self._ready += b"\n"  # Arrow takes a header without a line end for a row that is too long
            self._last = block[-1:] or self._last
        size = len(self._ready) if size < 0 else size
        result, self._ready = self._ready[:size], self._ready[size:]
        return result

    def close(self) -> None:
        """Nothing to close: the file belongs to the caller."""
