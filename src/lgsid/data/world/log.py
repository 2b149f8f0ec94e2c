"""The event log: rows in the order of time, written in bounded memory beside the truth about each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lgsid.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.artifact import atomic_path

KINDS = ("impression", "click", "order")
ROW_GROUP = 262_144


@dataclass(frozen=True)
class Rows:
    """E rows of the log.

    Attributes:
        time_E: microseconds since 1970, UTC.
        user_E, item_E, kind_E: rows of the user, the item, and of `KINDS`.
        amount_E: amount of an order, NaN otherwise.
        lat_E, lon_E: where the user was.
        page_E: number of the page; all impressions of a page are one slate.
        utility_E, click_probability_E, order_probability_E, habit_E: the truth about the item on that page.
    """

    time_E: IntArray
    user_E: IntArray
    item_E: IntArray
    kind_E: IntArray
    amount_E: DoubleArray
    lat_E: DoubleArray
    lon_E: DoubleArray
    page_E: IntArray
    utility_E: FloatArray
    click_probability_E: FloatArray
    order_probability_E: FloatArray
    habit_E: BoolArray

    def __len__(self) -> int:
        return len(self.time_E)

    def take(self, rows: Any) -> Rows:
        """Some rows, by slice or row numbers."""
        return Rows(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: list[Rows]) -> Rows:
        """All rows of some parts."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class EventLog:
    """Sorts and writes rows: what is later than the horizon waits for the next block.

    Args:
        events, truth: open Parquet writers.
        user_ids, item_ids: ids by row.
    """

    def __init__(self, events: pq.ParquetWriter, truth: pq.ParquetWriter, user_ids: pa.Array, item_ids: pa.Array):
        self._events, self._truth = events, truth
        self._user_ids, self._item_ids = user_ids, item_ids
        self._kinds = pa.array(KINDS)
        self._waiting: list[Rows] = []
        self._ready: list[Rows] = []
        self._ready_rows = 0

    def add(self, rows: Rows, horizon_us: int) -> None:
        """Add a block; no later block has rows before the horizon."""
        rows = Rows.joined([*self._waiting, rows])
        rows = rows.take(np.argsort(rows.time_E, kind="stable"))
        split = int(np.searchsorted(rows.time_E, horizon_us))
        self._waiting = [rows.take(slice(split, None))]
        self._ready.append(rows.take(slice(split)))
        self._ready_rows += split
        if self._ready_rows >= ROW_GROUP:
            self._write(self._ready_rows // ROW_GROUP * ROW_GROUP)

    def close(self) -> None:
        """Write what is left."""
        self._ready += self._waiting
        self._waiting = []
        self._write(sum(len(rows) for rows in self._ready))

    def _write(self, count: int) -> None:
        if not count:
            return
        rows = Rows.joined(self._ready)
        head, tail = rows.take(slice(count)), rows.take(slice(count, None))
        self._events.write_table(self._event_table(head), row_group_size=ROW_GROUP)
        self._truth.write_table(_truth_table(head), row_group_size=ROW_GROUP)
        self._ready, self._ready_rows = [tail], len(tail)

    def _event_table(self, rows: Rows) -> pa.Table:
        columns = [
            self._user_ids.take(pa.array(rows.user_E)),
            self._item_ids.take(pa.array(rows.item_E)),
            pa.array(rows.time_E).cast(_EVENTS.field("timestamp").type),
            self._kinds.take(pa.array(rows.kind_E)),
            pa.array(rows.amount_E, from_pandas=True),  # NaN becomes null
            pa.array(rows.lat_E),
            pa.array(rows.lon_E),
        ]
        return pa.table(columns, schema=_EVENTS)


_EVENTS = pa.schema([
    ("user_id", pa.string()),
    ("item_id", pa.string()),
    ("timestamp", pa.timestamp("us", tz="UTC")),
    ("kind", pa.string()),
    ("amount", pa.float64()),
    ("user_lat_deg", pa.float64()),
    ("user_lon_deg", pa.float64()),
])  # fmt: skip

_TRUTH = pa.schema([
    ("page", pa.int64()),
    ("utility", pa.float32()),
    ("click_probability", pa.float32()),
    ("order_probability", pa.float32()),
    ("habit", pa.bool_()),
])  # fmt: skip


def _truth_table(rows: Rows) -> pa.Table:
    truth = [rows.page_E, rows.utility_E, rows.click_probability_E, rows.order_probability_E, rows.habit_E]
    return pa.table([pa.array(column) for column in truth], schema=_TRUTH)


@contextmanager
def event_log(folder: Path, user_ids: pa.Array, item_ids: pa.Array) -> Iterator[EventLog]:
    """Write ``events.parquet`` and, row by row beside it, ``truth/events.parquet``; both appear when all is written."""
    with ExitStack() as stack:
        events = stack.enter_context(parquet_writer(folder / "events.parquet", _EVENTS))
        truth = stack.enter_context(parquet_writer(folder / "truth" / "events.parquet", _TRUTH))
        log = EventLog(events, truth, user_ids, item_ids)
        yield log
        log.close()


@contextmanager
def parquet_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A Parquet file written in pieces, that takes its place when the block ends without an error."""
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        yield writer
