"""From samples on disk to batches: histories, gaps and distances are looked up when they are needed.

A training file is read by groups of rows in any order and never loaded whole; what was read last is kept as long as it
fits (`CACHE_GROUPS`). The visits are mapped into memory.

Axes: as in `lgsid.rank.base`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, DoubleArray, FloatArray, IntArray
from lgsid.data.labels import same_value_codes
from lgsid.errors import ArtifactError
from lgsid.geo import SpatialIndex, km_to_chord, unit_sphere
from lgsid.mapped import map_tensor
from lgsid.rank.visits import TRAINING, map_visits

if TYPE_CHECKING:
    import torch

    from lgsid.rank.base import Batch

CACHE_GROUPS = 8_192
"""Groups that stay in memory: about 200 MiB."""
BAND_EDGES_KM = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 50.0)
"""Between the distance bands of `lgsid.rank.base`."""
_EDGES = np.square(km_to_chord(BAND_EDGES_KM)).astype(np.float32)
MADE_BY = "lgsid rank RUN"


@dataclass(frozen=True)
class Requests:
    """Rows of a sample file; see `lgsid.rank.samples` for the columns."""

    user: IntArray
    first: IntArray
    stop: IntArray
    time: IntArray
    here_lat_deg: DoubleArray
    here_lon_deg: DoubleArray
    candidates: IntArray
    first_visit: BoolArray

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, rows: slice) -> Requests:
        return Requests(*(getattr(self, column.name)[rows] for column in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Requests]) -> Requests:
        """Several in a row; of none, no requests."""
        if not parts:
            none, nowhere = np.empty(0, dtype=np.int64), np.empty(0)
            return cls(none, none, none, none, nowhere, nowhere, none[:, None], none.astype(np.bool_))
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(cls)))


_COLUMNS = {
    **dict.fromkeys(("user", "first", "stop", "time"), "int64"),
    **dict.fromkeys(("here_lat_deg", "here_lon_deg"), "double"),
    "candidates": "fixed_size_list",
    "first_visit": "bool",
}
"""Arrow types of a sample file's columns."""


class SampleFile:
    """A Parquet file of requests, read by groups.

    Args:
        path: one of the files that `lgsid.rank.samples` writes.

    Raises:
        ArtifactError: it is missing, corrupt, or has other columns.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{path} cannot be read: {error}", MADE_BY) from error
        held = {field.name: str(field.type) for field in self._file.schema_arrow}
        missing = _COLUMNS.keys() - held.keys()
        if missing:
            raise ArtifactError(f"{path} lacks the columns {', '.join(sorted(missing))}", MADE_BY)
        for name, wanted in _COLUMNS.items():
            if not held[name].startswith(wanted):
                raise ArtifactError(f"{path}: {name} holds {held[name]}, expected {wanted}", MADE_BY)
        self._cache: OrderedDict[int, Requests] = OrderedDict()

    def __len__(self) -> int:
        """Number of requests."""
        return int(self._file.metadata.num_rows)

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self._file.num_row_groups)

    def read(self, groups: Sequence[int] | IntArray) -> Requests:
        """The requests of some groups."""
        return Requests.joined([self._group(int(group)) for group in groups])

    def all(self, groups: int = 16) -> Iterator[Requests]:
        """All requests in their order, some groups at a time."""
        for start in range(0, self.groups, groups):
            yield Requests.joined([self._decoded(k) for k in range(start, min(start + groups, self.groups))])

    def _group(self, group: int) -> Requests:
        found = self._cache.pop(group, None) or self._decoded(group)
        self._cache[group] = found
        if len(self._cache) > CACHE_GROUPS:
            self._cache.popitem(last=False)
        return found

    def _decoded(self, group: int) -> Requests:
        import pyarrow as pa

        try:
            table = self._file.read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise ArtifactError(f"{self.path} cannot be read: group {group}: {error}", MADE_BY) from error
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        candidates = columns["candidates"]
        values = candidates.flatten().to_numpy().astype(np.int64).reshape(len(candidates), -1)
        arrays = {
            column.name: values if column.name == "candidates" else columns[column.name].to_numpy(zero_copy_only=False)
            for column in fields(Requests)
        }
        return Requests(**arrays)


class SampleFolder:
    """The samples of a run.

    Args:
        folder: what `lgsid.rank.samples.write_samples` has written.
        items: the catalogue.
    """

    def __init__(self, folder: Path, items: pl.DataFrame) -> None:
        self.folder, self.items = folder, items
        self.item_E, self.time_E = map_visits(folder / "visits.safetensors", MADE_BY)
        self._files: dict[str, SampleFile] = {}

    def file(self, name: str) -> SampleFile:
        """The file "train", "validation", "test" or "cold"."""
        if name not in self._files:
            self._files[name] = SampleFile(self.folder / f"{name}.parquet")
        return self._files[name]

    def users_and_periods(self) -> tuple[CodeArray, CodeArray]:
        """User and period of each visit, memory-mapped; see `lgsid.rank.visits`."""
        path = self.folder / "visits.safetensors"
        return map_tensor(path, "user_E", np.int32, MADE_BY), map_tensor(path, "period_E", np.int32, MADE_BY)

    def seen(self) -> IntArray:
        """Visits of each item in the training period."""
        _, period_E = self.users_and_periods()
        seen_N: IntArray = np.bincount(self.item_E[period_E == TRAINING], minlength=len(self.items))
        return seen_N

    def batcher(self, history: int, distance: bool = False, device: str | torch.device = "cpu") -> Batcher:
        """Makes batches of these samples."""
        return Batcher(self.items, self.item_E, self.time_E, history, distance, device)


class Batcher:
    """Makes batches of requests.

    Args:
        items: the catalogue.
        item_E: item of each visit, see `lgsid.rank.samples`.
        time_E: its time.
        history: most visits of a batch's histories.
        distance: whether batches hold distances and regions.
        device: where batches go.
    """

    def __init__(
        self,
        items: pl.DataFrame,
        item_E: CodeArray,
        time_E: IntArray,
        history: int,
        distance: bool = False,
        device: str | torch.device = "cpu",
    ) -> None:
        self.item_E, self.time_E = item_E, time_E
        self.history, self.distance, self.device = history, distance, device
        self._place_N = np.full(len(items), -1, dtype=np.int64)
        if distance:
            self._lat_N, self._lon_N = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
            self._xyz_N3: FloatArray = unit_sphere(self._lat_N, self._lon_N).astype(np.float32)
            codes = same_value_codes(items)
            self._region_N3: IntArray = np.stack([codes[name] for name in ("province", "city", "district")], axis=1)

    def __call__(self, requests: Requests) -> Batch:
        """The batch of some requests."""
        import torch

        from lgsid.rank.base import Batch

        history_BT, mask_BT, gap_BT = self._histories(requests)
        candidates_BC = requests.candidates
        items_U = self._distinct(candidates_BC, history_BT, mask_BT)
        label_BC = np.zeros(candidates_BC.shape, dtype=np.float32)
        label_BC[:, 0] = 1
        hour_B, day_B = hour_and_day(requests.time)
        arrays = {
            "items_U": items_U,
            "candidates_BC": self._place_N[candidates_BC],
            "history_BT": np.where(mask_BT, self._place_N[history_BT], 0),
            "mask_BT": mask_BT,
            "gap_BT": gap_BT,
            "hour_B": hour_B,
            "day_B": day_B,
            "label_BC": label_BC,
        }
        if self.distance:
            arrays |= self._distances(requests, history_BT)
        return Batch(**{name: torch.from_numpy(array).to(self.device) for name, array in arrays.items()})

    def _histories(self, requests: Requests) -> tuple[IntArray, BoolArray, IntArray]:
        """Items, mask and gap buckets (B, T) of the last visits, as many as the longest history has."""
        length = np.minimum(requests.stop - requests.first, self.history)
        width = max(1, int(length.max(initial=0)))
        event_BT = requests.stop[:, None] + np.arange(-width, 0)
        mask_BT = event_BT >= (requests.stop - length)[:, None]
        event_BT = np.where(mask_BT, event_BT, 0)
        history_BT = np.where(mask_BT, self.item_E[event_BT], 0).astype(np.int64)
        gap_BT = gap_buckets(requests.time[:, None] - self.time_E[event_BT])
        return history_BT, mask_BT, np.where(mask_BT, gap_BT, 0)

    def _distinct(self, candidates_BC: IntArray, history_BT: IntArray, mask_BT: BoolArray) -> IntArray:
        """The distinct items of a batch; leaves their places in ``_place_N``."""
        asked = np.concatenate([candidates_BC.ravel(), history_BT[mask_BT]])
        # no sort: a mark for each asked item, and one pass over those that were ever marked
        self._place_N[asked] = -2
        items_U: IntArray = (
            np.unique(asked) if len(self._place_N) > 50 * len(asked) else np.flatnonzero(self._place_N == -2)
        )
        self._place_N[items_U] = np.arange(len(items_U))
        return items_U

    def _distances(self, requests: Requests, history_BT: IntArray) -> dict[str, IntArray]:
        here_B3 = unit_sphere(requests.here_lat_deg, requests.here_lon_deg).astype(np.float32)
        place_B = self._places(requests)
        result: dict[str, IntArray] = {}
        for axis, item in (("BC", requests.candidates), ("BT", history_BT)):
            result[f"band_{axis}"] = distance_bands(self._xyz_N3[item], here_B3[:, None])
            result[f"region_{axis}"] = shared_regions(self._region_N3[item], self._region_N3[place_B][:, None])
        return result

    def _places(self, requests: Requests) -> IntArray:
        """The items (B,) whose regions are those of the users' places: the last visit's or, of users who are elsewhere
        by what the event says, the nearest one."""
        lat_B, lon_B = requests.here_lat_deg, requests.here_lon_deg
        place_B: IntArray = self.item_E[np.maximum(requests.stop - 1, 0)].astype(np.int64)
        elsewhere = np.flatnonzero((self._lat_N[place_B] != lat_B) | (self._lon_N[place_B] != lon_B))
        if len(elsewhere):
            place_B[elsewhere] = self._index.nearest(lat_B[elsewhere], lon_B[elsewhere])[0][:, 0]
        return place_B

    @cached_property
    def _index(self) -> SpatialIndex:
        return SpatialIndex(self._lat_N, self._lon_N)


# --- What a batch says of times and places ----------------------------------------------------------------------------
def hour_and_day(time_B: IntArray) -> tuple[IntArray, IntArray]:
    """Hour of the day, and day of the week from Monday, of moments in seconds since 1970."""
    return time_B % 86_400 // 3_600, (time_B // 86_400 + 3) % 7


def gap_buckets(seconds: IntArray) -> IntArray:
    """Bucket of the time since a visit, below `lgsid.rank.base.GAPS`: whole powers of two of minutes."""
    from lgsid.rank.base import GAPS

    bucket: IntArray = np.log2(np.maximum(seconds / 60, 1)).astype(np.int64)
    return np.minimum(bucket, GAPS - 1)


def distance_bands(there_3: FloatArray, here_3: FloatArray) -> IntArray:
    """Distance band of points of the unit sphere, float32 (…, 3), from others that broadcast against them: (…)."""
    bands: IntArray = np.searchsorted(_EDGES, np.square(there_3 - here_3).sum(-1)).astype(np.int64)
    return bands


def shared_regions(there_3: IntArray, here_3: IntArray) -> IntArray:
    """The finest region that two places share: 0 none, 1 the province, 2 the city, 3 the district.

    Args:
        there_3, here_3: codes of province, city and district, (…, 3); -1 where unknown. They are of whole paths, so
            the finest shared level decides, whatever is unknown above it.
    """
    same = (here_3 == there_3) & (here_3 >= 0)
    shared: IntArray = (same * np.arange(1, 4)).max(-1)
    return shared
