"""Visits of all users in order: what happened before a moment is a slice.

Events are read without keeping their strings: user and item ids become 64-bit hashes while the file is scanned, hashes
of items become rows of the catalogue, and users are numbered in the order of their first visit, so that no number
depends on what came later. (That any two of 19 million users share a hash, and so a history, has probability 10⁻⁵.)

Axes: E visits, N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, DoubleArray, IntArray
from lgsid.errors import DataError
from lgsid.hashing import id_hash
from lgsid.mapped import map_tensor, write_tensors

TRAINING, VALIDATION, TEST = 0, 1, 2
"""Periods."""


@dataclass(frozen=True)
class Visits:
    """E visits, sorted by user, then time, then order in the file.

    Attributes:
        user_E: number of the user.
        item_E: row of the item in the catalogue.
        time_E: seconds since 1970, UTC.
        period_E: `TRAINING`, `VALIDATION` or `TEST`.
        first_E, stop_E: the past of visit e, its user's visits at earlier times, is ``first_E[e]:stop_E[e]``.
        new_E: whether the item is not among them.
        lat_E, lon_E: where the user was, degrees, NaN where unknown; None where events do not say.
        users: hash of each user's id, and the number.
    """

    user_E: CodeArray
    item_E: CodeArray
    time_E: IntArray
    period_E: npt.NDArray[np.int8]
    first_E: CodeArray
    stop_E: CodeArray
    new_E: BoolArray
    lat_E: DoubleArray | None
    lon_E: DoubleArray | None
    users: pl.DataFrame

    def __len__(self) -> int:
        return len(self.user_E)


def only_visits(events: pl.LazyFrame, kinds: Sequence[str]) -> pl.LazyFrame:
    """The events that are visits: those of the given kinds, and those without a kind."""
    if "kind" not in events.collect_schema().names():
        return events
    return events.filter(pl.col("kind").is_in(list(kinds)) | pl.col("kind").is_null())


def read_visits(items: pl.DataFrame, events: pl.LazyFrame, kinds: Sequence[str], ends_us: Sequence[int]) -> Visits:
    """The visits among the events.

    Args:
        items: the catalogue.
        events: user_id, item_id, timestamp and, where known, kind, user_lat_deg, user_lon_deg.
        kinds: kinds of events that are visits; an event without a kind is one.
        ends_us: last moment of the training and of the validation period, microseconds since 1970.

    Raises:
        DataError: there are no visits, or one is of an item that is not in the catalogue.
    """
    chosen = only_visits(events, kinds)
    columns = chosen.collect_schema().names()
    here = [f"user_{axis}_deg" for axis in ("lat", "lon") if f"user_{axis}_deg" in columns]
    frame = chosen.select(*event_keys(), *(pl.col(name).cast(pl.Float64) for name in here)).collect(engine="streaming")
    if not len(frame):
        raise DataError(
            f"no event is of the kinds {', '.join(kinds)}, so nobody has chosen anything",
            "name kinds that the events have: --set rank.samples.kinds='[click]'",
        )
    frame = with_rows(items, frame, chosen)
    # the order of the first visits is the order of the users
    frame = frame.sort("us", maintain_order=True).with_row_index("order")
    number = pl.col("order").min().over("user").rank("dense").cast(pl.Int32) - 1
    frame = frame.with_columns(number.alias("number")).sort("number", "order")
    return _visits(frame, here, ends_us)


def _visits(frame: pl.DataFrame, here: Sequence[str], ends_us: Sequence[int]) -> Visits:
    us_E, user_E, item_E = (frame[name].to_numpy() for name in ("us", "number", "item"))
    time_E = us_E // 1_000_000
    changes = np.diff(user_E) != 0
    pairs = pl.DataFrame({"user": user_E, "item": item_E, "time": time_E})
    lat_E, lon_E = (frame[name].fill_null(np.nan).to_numpy() for name in here) if len(here) == 2 else (None, None)
    return Visits(
        user_E=user_E,
        item_E=item_E,
        time_E=time_E,
        period_E=(us_E > ends_us[0]).astype(np.int8) + (us_E > ends_us[1]).astype(np.int8),
        first_E=_run_starts(changes),
        stop_E=_run_starts(changes | (np.diff(time_E) != 0)),
        new_E=pairs.select(pl.col("time") == pl.col("time").min().over("user", "item")).to_series().to_numpy(),
        lat_E=lat_E,
        lon_E=lon_E,
        users=frame.select("user", "number").unique(),
    )


def _run_starts(change: BoolArray) -> CodeArray:
    """Where the run of each element starts, given between which neighbours a new one does."""
    start = np.zeros(len(change) + 1, dtype=np.int32)
    start[1:] = np.where(change, np.arange(1, len(change) + 1), 0)
    starts: CodeArray = np.maximum.accumulate(start)
    return starts


def event_keys() -> list[pl.Expr]:
    """What is kept of an event: hashes of user and item, and its time in microseconds since 1970."""
    return [
        id_hash("user_id").alias("user"),
        id_hash("item_id").alias("item"),
        pl.col("timestamp").dt.timestamp("us").alias("us"),
    ]


def with_rows(items: pl.DataFrame, frame: pl.DataFrame, events: pl.LazyFrame) -> pl.DataFrame:
    """Events with rows of the catalogue in place of hashes of items.

    Args:
        items: the catalogue.
        frame: see `event_keys`.
        events: the same events, row for row, to name one that is wrong.

    Raises:
        DataError: an item is not in the catalogue.
    """
    hashed = items.select(id_hash("item_id").alias("item"))
    rows = hashed.with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("row"))
    found = frame.join(rows, on="item", how="left", maintain_order="left")
    wrong = found["row"].is_null().arg_true()
    if len(wrong):
        example = events.select("item_id").slice(wrong[0], 1).collect().item()
        raise DataError(
            f"{len(wrong)} events are of items that are not in the catalogue, the first of item_id {example!r}",
            "lgsid data RUN, which checks events against items",
        )
    return found.with_columns(pl.col("row").alias("item")).drop("row")


def write_visits(path: Path, visits: Visits) -> None:
    """Write ``item_E``, ``time_E``, ``user_E`` and ``period_E`` as safetensors; int64 the time, int32 the others."""
    period_E = visits.period_E.astype(np.int32)
    write_tensors(
        path, {"item_E": visits.item_E, "time_E": visits.time_E, "user_E": visits.user_E, "period_E": period_E}
    )


def map_visits(path: Path, fix: str) -> tuple[CodeArray, IntArray]:
    """``item_E`` and ``time_E``, memory-mapped.

    Raises:
        ArtifactError: the file is missing or corrupt; ``fix`` is the command that writes it.
    """
    return map_tensor(path, "item_E", np.int32, fix), map_tensor(path, "time_E", np.int64, fix)
