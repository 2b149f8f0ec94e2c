"""Reading any CSV, JSON-lines or Parquet file in batches of rows, columns as they are named in the file.

Columns of text files stay text (empty is null); those of Parquet files keep their types. Every batch has the column
`ROW` besides.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from lgsid.data.importers.base import RAW, ROW, Sink, reject_frame
from lgsid.data.importers.streams import LineBatch, Source, line_batches, open_source
from lgsid.errors import ConfigError, DataError
from lgsid.progress import Advance

Format = Literal["csv", "jsonl", "parquet"]
_SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".json": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
_BLOCK_BYTES = 4 << 20
_PARQUET_ROWS = 65_536
_LINES_IN_A_ROW = 100
"""A row with the wrong number of fields that runs over more lines than this has an unclosed quotation mark."""


@dataclass(frozen=True)
class TableSource:
    """A file to be read as a table.

    Attributes:
        path: the file.
        format: csv, jsonl or parquet; None: by the file's name.
        delimiter: between the fields of a CSV file; None: a tab for ``.tsv``, else a comma.
        encoding: of a CSV file.
        header: column names of a CSV file that has no header line.
    """

    path: Path
    format: Format | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"
    header: tuple[str, ...] | None = None

    @property
    def kind(self) -> Format:
        """The format, from the configuration or the file's name.

        Raises:
            ConfigError: the name says nothing.
        """
        suffixes = [suffix.lower() for suffix in self.path.suffixes if suffix.lower() != ".gz"]
        found = self.format or (_SUFFIXES.get(suffixes[-1]) if suffixes else None)
        if found is None:
            raise ConfigError(f"{self.path}: cannot tell the format from the name", "set format: csv, jsonl or parquet")
        return found

    def separator(self) -> str:
        """The delimiter of a CSV file."""
        return self.delimiter or ("\t" if ".tsv" in [suffix.lower() for suffix in self.path.suffixes] else ",")


def column_names(source: TableSource) -> list[str]:
    """Names of the columns of a file (of a JSON-lines file: of its first 1,000 records).

    Raises:
        DataError: the file is empty, is not of its format, or has a column name twice.
    """
    if source.kind == "parquet":
        names = list(_parquet(source.path).schema_arrow.names)
    elif source.kind == "jsonl":
        names = _json_names(source.path)
    else:
        names = list(source.header) if source.header else _csv_header(source)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{source.path}: column {twice[0]!r} stands twice", "rename one of them")
    if not any(names):
        raise DataError(f"{source.path} is empty")
    if any("\n" in name for name in names):
        raise DataError(f"{source.path}: a column name has a line break", "write the header on one line")
    return names


def read_batches(source: TableSource, columns: list[str], sink: Sink, advance: Advance) -> Iterator[pl.DataFrame]:
    """The rows of a file in batches; lines that are no rows are rejected.

    Args:
        source: the file.
        columns: names of the columns to read.
        sink: takes the rejects.
        advance: moves the progress bar.

    Raises:
        DataError: the file is damaged or not of its format.
        TableError: a line is wrong and the import is strict.
    """
    if source.kind == "parquet":
        return _read_parquet(source.path, columns, advance)
    if source.kind == "jsonl":
        return _read_json(source.path, columns, sink, advance)
    return _read_csv(source, columns, sink, advance)


# --- CSV ------------------------------------------------------------------------------------------------------------


def _csv_header(source: TableSource) -> list[str]:
    with open_source(source.path, lambda steps: None) as file:
        head = file.read(1 << 20)
    if b"\0" in head[:4096]:
        raise DataError(f"{source.path} is not a text file", "set format, or convert it to CSV or Parquet")
    try:
        content = head.decode(source.encoding, errors="replace").removeprefix("\ufeff")
        return next(csv.reader(io.StringIO(content), delimiter=source.separator()), [])
    except (csv.Error, LookupError) as error:
        raise DataError(f"{source.path}: the header cannot be read: {error}") from error


def _read_csv(source: TableSource, columns: list[str], sink: Sink, advance: Advance) -> Iterator[pl.DataFrame]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names, skipped = column_names(source), 0 if source.header else 1
    ragged: list[Any] = []

    def skip(row: Any) -> str:
        ragged.append(row)
        return "skip"

    with open_source(source.path, advance) as file:
        try:
            reader = arrow_csv.open_csv(
                pa.PythonFile(_Readable(file), mode="r"),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, encoding=_arrow_name(source.encoding),
                    column_names=names, skip_rows=skipped,
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=source.separator(), newlines_in_values=True, invalid_row_handler=skip
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types={name: pa.binary() for name in names}, include_columns=columns,
                    strings_can_be_null=True, null_values=[""],
                ),
            )  # fmt: skip
            yield from _csv_batches(reader, ragged, source, skipped, sink)
        except (pa.ArrowInvalid, UnicodeDecodeError, LookupError) as error:
            raise DataError(
                f"{source.path} cannot be read as CSV: {error}",
                f"look for an unclosed quotation mark, or set delimiter (now {source.separator()!r}) or encoding",
            ) from error


def _arrow_name(encoding: str) -> str:
    return "utf8" if encoding.lower().replace("-", "") == "utf8" else encoding


class _Readable(io.RawIOBase):
    """What pyarrow wants of a Python file."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._source.read(size)


def _csv_batches(
    reader: Any, ragged: list[Any], source: TableSource, header_rows: int, sink: Sink
) -> Iterator[pl.DataFrame]:
    good, reported = 0, 0
    for batch in reader:
        raw = pl.DataFrame(pl.from_arrow(batch))
        frame = _row_numbers(raw, good, [row.number - header_rows for row in ragged])
        good += frame.height
        seen = len(ragged)  # the reader parses ahead in a thread of its own: more may come while these are reported
        if seen > reported:
            sink.reject(_ragged_rejects(ragged[reported:seen], source, header_rows))
            reported = seen
        yield _decoded(frame, source.path, sink)
    if len(ragged) > reported:
        sink.reject(_ragged_rejects(ragged[reported:], source, header_rows))


def _row_numbers(raw: pl.DataFrame, good_before: int, ragged_rows: list[int]) -> pl.DataFrame:
    """Number the rows as they stand in the file: the reader leaves out ragged rows, so count them in."""
    ordinal = np.arange(good_before + 1, good_before + raw.height + 1, dtype=np.int64)
    good_before_ragged = np.asarray(ragged_rows, dtype=np.int64) - np.arange(len(ragged_rows))
    number = ordinal + np.searchsorted(good_before_ragged, ordinal, side="right")
    return raw.with_columns(pl.Series(ROW, number))


def _ragged_rejects(rows: list[Any], source: TableSource, header_rows: int) -> pl.DataFrame:
    for row in rows:
        if row.text.count("\n") > _LINES_IN_A_ROW:
            raise DataError(
                f"{source.path}, row {row.number - header_rows}: a quotation mark is opened and not closed "
                f"(got {row.text[:80]!r}…)",
                "close it, or double it if it belongs to the text",
            )
    return reject_frame([
        (
            str(source.path), row.number - header_rows, "line", str(row.text),
            f"{row.actual_columns} fields, expected {row.expected_columns}", str(row.text),
        )
        for row in rows
    ])  # fmt: skip


def _decoded(frame: pl.DataFrame, path: Path, sink: Sink) -> pl.DataFrame:
    """Bytes as text; rows with invalid UTF-8 are rejected."""
    texts = pl.col(pl.Binary).cast(pl.String)
    try:
        return frame.with_columns(texts)
    except pl.exceptions.ComputeError:  # says that there are such rows, not which
        wrong = [row for row in frame.iter_rows(named=True) if any(map(_is_broken, row.values()))]
    sink.reject(reject_frame([_undecodable(row, path) for row in wrong]))
    return frame.filter(~pl.col(ROW).is_in([row[ROW] for row in wrong])).with_columns(texts)


def _is_broken(cell: Any) -> bool:
    if not isinstance(cell, bytes):
        return False
    try:
        cell.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _undecodable(row: dict[str, Any], path: Path) -> tuple[str, int, str, str, str, str]:
    cells = {name: cell for name, cell in row.items() if isinstance(cell, bytes)}
    column = next(name for name, cell in cells.items() if _is_broken(cell))
    texts = {name: cell.decode("utf-8", errors="backslashreplace") for name, cell in cells.items()}
    return str(path), row[ROW], column, texts[column], "not UTF-8", json.dumps(texts, ensure_ascii=False)


# --- JSON lines -----------------------------------------------------------------------------------------------------


def _json_names(path: Path) -> list[str]:
    names: dict[str, None] = {}
    for batch in line_batches(path, lambda steps: None, batch_bytes=256 << 10):
        for line in batch.lines[:1000]:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            names.update(dict.fromkeys(record if isinstance(record, dict) else ()))
        break
    if not names:
        raise DataError(f"{path} holds no JSON objects, expected one a line", "set format, or convert it to JSON lines")
    return list(names)


def _read_json(path: Path, columns: list[str], sink: Sink, advance: Advance) -> Iterator[pl.DataFrame]:
    for batch in line_batches(path, advance):
        rows, bad = _json_rows(batch, columns, path)
        if bad:
            sink.reject(reject_frame(bad))
        schema: dict[str, Any] = {ROW: pl.Int64, RAW: pl.String} | dict.fromkeys(columns, pl.String)
        yield pl.DataFrame(rows, schema=schema, orient="row")


def _json_rows(batch: LineBatch, columns: list[str], path: Path) -> tuple[list[Any], list[Any]]:
    rows, bad = [], []
    for number, line in enumerate(batch.lines, start=batch.first):
        if not line.strip():
            continue
        raw = line.decode("utf-8", errors="replace")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            bad.append((str(path), number, "line", raw, "not JSON in UTF-8", raw))
            continue
        if isinstance(record, dict):
            rows.append((number, raw, *(_as_text(record.get(name)) for name in columns)))
        else:
            bad.append((str(path), number, "line", raw, "not a JSON object", raw))
    return rows, bad


def _as_text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- Parquet --------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {error}", "set format, or download it again") from error


def _read_parquet(path: Path, columns: list[str], advance: Advance) -> Iterator[pl.DataFrame]:
    file, size, row = _parquet(path), path.stat().st_size, 1
    for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
        frame = pl.DataFrame(pl.from_arrow(batch))
        rows = pl.int_range(row, row + frame.height, dtype=pl.Int64, eager=True).alias(ROW)
        row += frame.height
        advance(size * frame.height / max(file.metadata.num_rows, 1))
        yield frame.with_columns(rows)
