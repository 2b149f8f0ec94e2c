"""Reading big text files in batches of whole lines, gzip-compressed or not, with a progress bar over the bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import polars as pl

from lgsid.errors import DataError
from lgsid.progress import Advance, progress

BATCH_BYTES = 8 << 20
"""Text per batch: large enough to be fast, small enough to keep memory low."""
_LONGEST_LINE = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_LINE_FEED = ord("\n")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class LineBatch:
    """Consecutive lines of a file; empty lines are kept, so that numbers are true.

    Attributes:
        first: number of the first line, from 1.
        text: the lines, with line feeds between them (none after the last).
    """

    first: int
    text: bytes

    @property
    def lines(self) -> list[bytes]:
        """The lines without their line breaks."""
        return self.text.split(b"\n")

    def column(self) -> pl.Series:
        """The lines without their line breaks, as a column of text, made without a Python object for each.

        Raises:
            UnicodeDecodeError: the batch is not UTF-8.
        """
        import pyarrow as pa

        ends = np.flatnonzero(np.frombuffer(self.text, dtype=np.uint8) == _LINE_FEED)
        starts = np.concatenate([[0], ends + 1, [len(self.text) + 1]])
        data = pa.py_buffer(self.text + b"\n")
        buffers = [None, pa.py_buffer(starts.astype(np.int64)), data]
        lines = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) + 1, buffers)
        self.text.decode("utf-8")  # polars says that there are invalid bytes, but not which
        return pl.Series(pl.from_arrow(lines)).cast(pl.String).str.strip_suffix("\n")


class Source:
    """A file open for reading: plain bytes whether it is compressed or not, and how far it has been read."""

    def __init__(self, path: Path, raw: IO[bytes], stream: IO[bytes], advance: Advance) -> None:
        self.path, self._raw, self.stream, self._advance = path, raw, stream, advance
        self._told = 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes of uncompressed content.

        Raises:
            DataError: the compressed file is damaged or cut off.
        """
        try:
            data = self.stream.read(size)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{self.path} is damaged or cut off: {error}", "download it again") from error
        self.report()
        return data

    def report(self) -> None:
        """Move the progress bar to where the file stands."""
        position = self._raw.tell()
        self._advance(position - self._told)
        self._told = position


@contextmanager
def open_source(path: Path, advance: Advance) -> Iterator[Source]:
    """Open a file for reading; gzip is recognised by its first bytes, whatever the file is called."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        if not compressed:
            yield Source(path, raw, raw, advance)
            return
        with gzip.GzipFile(fileobj=raw) as stream:
            yield Source(path, raw, cast("IO[bytes]", stream), advance)


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[Advance]:
    """A progress bar over the bytes of several files."""
    with progress("reading", sum(file.stat().st_size for file in files), "bytes") as advance:
        yield advance


def line_batches(path: Path, advance: Advance, batch_bytes: int = BATCH_BYTES) -> Iterator[LineBatch]:
    """The lines of a file in batches of about ``batch_bytes``; ``\\n`` and ``\\r\\n`` both end a line.

    Raises:
        DataError: a compressed file is damaged, or there is no line break where a text file would have one.
    """
    with open_source(path, advance) as source:
        rest, number = source.read(len(_BOM)).removeprefix(_BOM), 1
        while chunk := source.read(batch_bytes):
            rest += chunk
            whole, found, tail = rest.rpartition(b"\n")
            if found:
                rest = tail
                yield _batch(number, whole)
                number += whole.count(b"\n") + 1
            elif len(rest) > _LONGEST_LINE:
                raise DataError(
                    f"{path}: no line break in {_LONGEST_LINE >> 20} MiB from line {number}: not a text file"
                )
        if rest:
            yield _batch(number, rest)


def _batch(first: int, text: bytes) -> LineBatch:
    return LineBatch(first, text.replace(b"\r\n", b"\n").removesuffix(b"\r") if b"\r" in text else text)


def first_line(path: Path) -> bytes:
    """The first line of a file that is not empty (b"" where there is none)."""
    for batch in line_batches(path, lambda steps: None, batch_bytes=64 << 10):
        for line in batch.lines:
            if line.strip():
                return line
    return b""
