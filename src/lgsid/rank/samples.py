"""What rankers are trained and measured on: requests, each a visit and items that were not chosen.

``RUN/4_rank/samples/`` holds

    visits.safetensors   ``item_E`` int32 (row of the catalogue), ``time_E`` int64 (seconds since 1970, UTC), ``user_E``
                         int32 and ``period_E`` int32 (see `lgsid.rank.visits`), sorted by user, time and order in the
                         file
    train.parquet, validation.parquet, test.parquet, cold.parquet
                         one row a request, in random order, in row groups of `GROUP`:

    user                          number of the user, int64
    first, stop                   the user's past is ``visits[first:stop]``: strictly earlier than ``time``
    time                          seconds since 1970, UTC, int64
    here_lat_deg, here_lon_deg    where the user is: by the event, where it says, else the place of their last visit
    candidates                    1 + negatives rows of the catalogue, int32, the positive first
    first_visit                   whether the user has never been there before

Training requests are the visits up to the end of the training period, by time; validation and test follow. All three
have positives and negatives that were visited in the training period ("warm"). ``cold.parquet`` has the other visits of
validation and test, with negatives that were not visited in training either: against warm ones the score of an
embedding that was never trained would decide.

Nothing of a request is from its own moment or later, except the positive and which items are warm.

Axes: as in `lgsid.rank.negatives`; E visits, N items.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, DoubleArray, IntArray
from lgsid.artifact import atomic_path
from lgsid.config import SampleConfig
from lgsid.data.labels import region_path
from lgsid.errors import DataError
from lgsid.geo import SpatialIndex
from lgsid.rank.impressions import KIND, not_chosen
from lgsid.rank.negatives import OPEN, Moments, Pool, request_keys
from lgsid.rank.visits import TEST, TRAINING, VALIDATION, Visits, read_visits, write_visits

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 256
"""Requests of a row group: what is read at once."""
BLOCK = 65_536
"""Requests whose negatives are drawn at once."""
PERIODS = {"train": (TRAINING,), "validation": (VALIDATION,), "test": (TEST,), "cold": (VALIDATION, TEST)}
"""The files and whose visits they have."""
VISITS = "visits.safetensors"


def write_samples(
    items: pl.DataFrame,
    events: pl.DataFrame | pl.LazyFrame,
    config: SampleConfig,
    training_share: float,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    """Write the samples of a catalogue and its events.

    Args:
        items: as in ``1_data/items.parquet``.
        events: as in ``1_data/events.parquet``; of a scanned file the strings are never all in memory.
        config: which events, how many negatives, from where.
        training_share: share of the events, by time, that may be learnt from.
        seed: same seed, same bytes.
        folder: gets the files above.

    Returns:
        figures: visits, users, warm items, requests and share of first visits of each file, share of the later visits
        that are cold, and of the negatives how many are impressions, from beyond reach and from another city.

    Raises:
        DataError: there are no events or no visits among them, an item of an event is unknown, a period has no
            request, or there are too few items.
    """
    events = events.lazy()
    ends_us = period_ends(events, training_share, config.validation_share)
    visits = read_visits(items, events, config.kinds, ends_us)
    catalogue = Catalogue.of(items, visits)
    requests = {name: request_rows(visits, catalogue.warm_N, config.min_past, name) for name in PERIODS}
    _check(requests, visits, config)
    cold_items = int((~catalogue.warm_N).sum())
    left_out = 0 if cold_items > config.negatives else len(requests["cold"])
    requests["cold"] = requests["cold"][: len(requests["cold"]) - left_out]
    shown_EK = _impressions(items, events, visits, catalogue, requests, config, seed)
    maker = _Requests(visits, catalogue, shown_EK, config, seed)
    write_visits(folder / VISITS, visits)
    for number, (name, rows) in enumerate(requests.items()):
        maker.write(folder / f"{name}.parquet", np.random.default_rng([seed, number]).permutation(rows), name)
    later = len(requests["validation"]) + len(requests["test"])
    cold = len(requests["cold"])
    return {
        "visits": len(visits),
        "users": len(visits.users),
        "warm_items": len(items) - cold_items,
        "requests": {name: len(rows) for name, rows in requests.items()},
        "first_visit_share": {name: _mean(visits.new_E[rows]) for name, rows in requests.items()},
        "cold_share": cold / max(1, later + cold),
        "cold_left_out": left_out,
        **maker.shares(),
    }


def period_ends(events: pl.LazyFrame, training_share: float, validation_share: float) -> tuple[int, int]:
    """Last moments of training and of validation, microseconds since 1970.

    The first is where `lgsid.sid.stage.training_visits` cuts, so that rankers and tokenisers learn from the same time.

    Raises:
        DataError: there are no events, or the shares leave nothing to test on.
    """
    shares = training_share, training_share + validation_share
    if shares[1] >= 1:
        raise DataError(
            f"sid.training_share {training_share} and rank.samples.validation_share {validation_share} leave nothing "
            "to test on",
            "--set sid.training_share=0.8 --set rank.samples.validation_share=0.1",
        )
    ends = [pl.col("timestamp").quantile(share, "lower").dt.timestamp("us").alias(str(share)) for share in shares]
    training, validation = events.select(ends).collect(engine="streaming").row(0)
    if training is None:
        raise DataError("there are no events, and rankers learn from events", "set data.events")
    return training, validation


def request_rows(visits: Visits, warm_N: BoolArray, min_past: int, name: str) -> IntArray:
    """The visits that are requests of a file, as rows of `Visits`."""
    enough = visits.stop_E - visits.first_E >= min_past
    warm = warm_N[visits.item_E]
    return np.flatnonzero(enough & (~warm if name == "cold" else warm) & np.isin(visits.period_E, PERIODS[name]))


def _check(requests: dict[str, IntArray], visits: Visits, config: SampleConfig) -> None:
    for name in ("train", "validation", "test"):
        if not len(requests[name]):
            raise DataError(
                f"no request for {name}.parquet: none of the {len(visits)} visits of that period has "
                f"{config.min_past} earlier ones of its user and an item that was visited in training",
                "bring more events, or change rank.samples.min_past, rank.samples.validation_share or "
                "sid.training_share",
            )


def _mean(values: BoolArray) -> float:
    return float(values.mean()) if len(values) else 0.0


@dataclass(frozen=True)
class Catalogue:
    """What samples need of N items.

    Attributes:
        lat_N, lon_N: degrees.
        city_N: integers that are equal where the city is; -1 where it is unknown.
        warm_N: visited in the training period.
    """

    lat_N: DoubleArray
    lon_N: DoubleArray
    city_N: IntArray
    warm_N: BoolArray

    @classmethod
    def of(cls, items: pl.DataFrame, visits: Visits) -> Catalogue:
        """Of the items and their visits."""
        city_N = region_path(items, 2).rank("dense").cast(pl.Int64).fill_null(0).to_numpy() - 1
        warm_N = np.zeros(len(items), dtype=np.bool_)
        warm_N[visits.item_E[visits.period_E == TRAINING]] = True
        return cls(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), city_N, warm_N)

    @cached_property
    def index(self) -> SpatialIndex:
        """Of all items."""
        return SpatialIndex(self.lat_N, self.lon_N)


def _impressions(
    items: pl.DataFrame,
    events: pl.LazyFrame,
    visits: Visits,
    catalogue: Catalogue,
    requests: dict[str, IntArray],
    config: SampleConfig,
    seed: int,
) -> CodeArray | None:
    if "kind" not in events.collect_schema().names() or KIND in config.kinds:
        return None
    asked_E = np.zeros(len(visits), dtype=np.bool_)
    for rows in requests.values():
        asked_E[rows] = True
    return not_chosen(items, events, visits, asked_E, catalogue.warm_N, config.negatives, seed)


class _Requests:
    """Makes and writes the rows of the files, and counts where negatives come from."""

    def __init__(
        self, visits: Visits, catalogue: Catalogue, shown_EK: CodeArray | None, config: SampleConfig, seed: int
    ) -> None:
        self._visits, self._catalogue, self._shown_EK = visits, catalogue, shown_EK
        self._config, self._seed = config, seed
        self._negatives = self._shown = self._beyond = self._elsewhere = 0

    def shares(self) -> dict[str, float]:
        """Shares of all negatives written so far."""
        total = max(1, self._negatives)
        counts = {"impression": self._shown, "beyond_reach": self._beyond, "other_city": self._elsewhere}
        return {f"{name}_share": count / total for name, count in counts.items()}

    def write(self, path: Path, rows: IntArray, name: str) -> None:
        """Write the requests of some visits in that order."""
        where, warm_N = self._catalogue, self._catalogue.warm_N
        pool_N = ~warm_N if name == "cold" else warm_N
        pool = Pool(np.flatnonzero(pool_N), where.lat_N, where.lon_N, where.city_N, self._config.reach_km)
        with _parquet(path, self._config.negatives) as write:
            for start in range(0, len(rows), BLOCK):
                write(self._table(rows[start : start + BLOCK], pool))

    def _table(self, rows_B: IntArray, pool: Pool) -> pa.Table:
        import pyarrow as pa

        visits = self._visits
        moments = self._moments(rows_B)
        candidates_BC = np.full((len(rows_B), 1 + self._config.negatives), OPEN, dtype=np.int64)
        candidates_BC[:, 0] = visits.item_E[rows_B]
        if self._shown_EK is not None:
            candidates_BC[:, 1:] = self._shown_EK[rows_B]
        self._negatives += candidates_BC[:, 1:].size
        self._shown += int((candidates_BC[:, 1:] != OPEN).sum())
        beyond, elsewhere = pool.fill(candidates_BC, moments)
        self._beyond += beyond
        self._elsewhere += elsewhere
        columns = [
            visits.user_E[rows_B], visits.first_E[rows_B], visits.stop_E[rows_B], visits.time_E[rows_B],
            moments.lat_B, moments.lon_B, pa.array(candidates_BC.astype(np.int32).ravel()), visits.new_E[rows_B],
        ]  # fmt: skip
        schema = _schema(self._config.negatives)
        columns[6] = pa.FixedSizeListArray.from_arrays(columns[6], type=schema.field(6).type)
        return pa.table(
            [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
        )

    def _moments(self, rows_B: IntArray) -> Moments:
        visits, where = self._visits, self._catalogue
        last_B = visits.item_E[visits.stop_E[rows_B] - 1]
        lat_B, lon_B, city_B = where.lat_N[last_B], where.lon_N[last_B], where.city_N[last_B]
        if visits.lat_E is not None and visits.lon_E is not None:
            own_lat_B, own_lon_B = visits.lat_E[rows_B], visits.lon_E[rows_B]
            told = np.flatnonzero(np.isfinite(own_lat_B) & np.isfinite(own_lon_B))
            lat_B[told], lon_B[told] = own_lat_B[told], own_lon_B[told]
            city_B[told] = where.city_N[where.index.nearest(lat_B[told], lon_B[told])[0][:, 0]] if len(told) else 0
        key_B = request_keys(self._seed, visits.user_E[rows_B], visits.time_E[rows_B], visits.item_E[rows_B])
        return Moments(lat_B, lon_B, city_B, key_B)


def _schema(negatives: int) -> pa.Schema:
    import pyarrow as pa

    integers = [(name, pa.int64()) for name in ("user", "first", "stop", "time")]
    places = [("here_lat_deg", pa.float64()), ("here_lon_deg", pa.float64())]
    # not null: what is read back is then one plain array
    items = pa.list_(pa.field("element", pa.int32(), nullable=False), 1 + negatives)
    return pa.schema([*integers, *places, ("candidates", items), ("first_visit", pa.bool_())])


@contextmanager
def _parquet(path: Path, negatives: int) -> Iterator[Any]:
    """Write tables one after another, in row groups of `GROUP`, into a file that appears when all are written."""
    import pyarrow.parquet as pq

    # statistics and dictionaries of 256 rows would outweigh them
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _schema(negatives), **options) as writer:
        yield lambda table: writer.write_table(table, row_group_size=GROUP)
