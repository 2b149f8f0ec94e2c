"""Batches against a naive reference that looks at one request at a time; sample files read by groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.arrays import IntArray
from lgsid.errors import ArtifactError
from lgsid.geo import haversine_km
from lgsid.rank import loader
from lgsid.rank.base import Batch
from lgsid.rank.loader import BAND_EDGES_KM, Batcher, Requests, SampleFile, SampleFolder
from lgsid.rank.samples import GROUP

REGIONS = ("province", "city", "district")
MINUTE, DAY = 60, 86_400
T0 = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
"""A Monday, midnight."""


def catalogue(count: int, seed: int) -> pl.DataFrame:
    """Items within some 100 km, several at one place, whose regions share names and are not always known."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, max(1, count // 2), count)
    spread = np.array([0.001, 0.02, 0.5])[rng.integers(0, 3, count)]
    regions = {
        name: [[None, f"{name} 1", f"{name} 2", f"{name} 3"][k] for k in rng.integers(0, 4, count)] for name in REGIONS
    }
    lat, lon = 60 + spread * rng.uniform(-1, 1, count), 20 + spread * rng.uniform(-1, 1, count)
    return pl.DataFrame({
        "item_id": [str(k) for k in range(count)],
        "lat_deg": lat[place],
        "lon_deg": lon[place],
        "category": pl.Series([None] * count, dtype=pl.String),
        **{name: pl.Series([values[k] for k in place], dtype=pl.String) for name, values in regions.items()},
    })  # fmt: skip


def diary(items: int, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """User, item and time of visits, sorted; gaps from a second to thirty years."""
    rng = np.random.default_rng(seed)
    visits = [rng.integers(1, 12) for _ in range(rng.integers(1, 6))]
    user_E = np.repeat(np.arange(len(visits)), visits)
    time_E = np.concatenate([T0 + np.cumsum(10 ** rng.uniform(0, 9, n)).astype(np.int64) for n in visits])
    return user_E, rng.integers(0, items, len(user_E)).astype(np.int32), time_E


def requests_of(items: pl.DataFrame, seed: int, elsewhere: bool = False) -> tuple[Requests, IntArray, IntArray]:
    """One request at each visit (some without a past), and the visits; ``elsewhere``: half of them by the event."""
    user_E, item_E, time_E = diary(len(items), seed)
    rng = np.random.default_rng(seed)
    stop = np.arange(len(user_E))
    first = np.searchsorted(user_E, user_E)
    last = item_E[np.maximum(stop - 1, 0)]
    lat, lon = items["lat_deg"].to_numpy()[last].copy(), items["lon_deg"].to_numpy()[last].copy()
    away = (rng.random(len(lat)) < 0.5) & elsewhere
    lat[away] += rng.uniform(-0.3, 0.3, away.sum())
    requests = Requests(
        user=user_E,
        first=first,
        stop=stop,
        time=time_E + 1,
        here_lat_deg=lat,
        here_lon_deg=lon,
        candidates=rng.integers(0, len(items), (len(user_E), 3)),
        first_visit=np.zeros(len(user_E), dtype=bool),
    )
    return requests, item_E, time_E


def shared_regions(items: pl.DataFrame, one: int, other: int) -> int:
    """3 where two items share the district, 2 the city, 1 the province, with all that these are in."""
    a, b = (items.select(REGIONS).row(row) for row in (one, other))
    return max((depth for depth in (1, 2, 3) if a[:depth] == b[:depth] and a[depth - 1] is not None), default=0)


def check_band(items: pl.DataFrame, lat: float, lon: float, item: int, band: int) -> None:
    """The band holds the distance, give or take what float32 can tell."""
    km = float(haversine_km(lat, lon, items["lat_deg"][item], items["lon_deg"][item]))
    low, high = (-1.0, *BAND_EDGES_KM)[band], (*BAND_EDGES_KM, math.inf)[band]
    slack = 0.002 + 1e-5 * km
    assert low - slack <= km <= high + slack


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(1, 14), count=st.sampled_from([1, 8, 30, 4_000]))
def test_a_batch_is_what_one_request_at_a_time_says(seed: int, length: int, count: int) -> None:
    items = catalogue(count, seed)
    requests, item_E, time_E = requests_of(items, seed)
    batch = Batcher(items, item_E, time_E, length)(requests)
    distinct = batch.items_U.tolist()
    used = set(requests.candidates.ravel().tolist())
    for row in range(len(requests)):
        past = list(range(requests.first[row], requests.stop[row]))[-length:]
        width = batch.mask_BT.shape[1]
        assert batch.mask_BT[row].tolist() == [False] * (width - len(past)) + [True] * len(past)
        place = batch.mask_BT[row].nonzero().squeeze(1)
        assert [distinct[k] for k in batch.history_BT[row, place]] == item_E[past].tolist()
        assert [distinct[k] for k in batch.candidates_BC[row]] == requests.candidates[row].tolist()
        assert not batch.history_BT[row, ~batch.mask_BT[row]].any()
        minutes = [(requests.time[row] - time_E[visit]) / MINUTE for visit in past]
        assert batch.gap_BT[row, place].tolist() == [min(23, int(math.log2(max(1, m)))) for m in minutes]
        moment = datetime.fromtimestamp(int(requests.time[row]), UTC)
        assert (batch.hour_B[row], batch.day_B[row]) == (moment.hour, moment.weekday())
        assert batch.label_BC[row].tolist() == [1, 0, 0]
        used |= set(item_E[past].tolist())
    longest = min(length, int((requests.stop - requests.first).max()))
    assert batch.mask_BT.shape[1] == max(1, longest), "no longer than the longest history"
    assert sorted(distinct) == sorted(used), "each item that is asked for, once"
    assert batch.band_BC is batch.band_BT is batch.region_BC is batch.region_BT is None
    expected = {"label_BC": torch.float32, "mask_BT": torch.bool}
    for name, tensor in vars(batch).items():
        assert tensor is None or tensor.dtype == expected.get(name, torch.int64), name


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), elsewhere=st.booleans())
def test_distances_and_regions(seed: int, elsewhere: bool) -> None:
    items = catalogue(25, seed)
    requests, item_E, time_E = requests_of(items, seed, elsewhere)
    batch = Batcher(items, item_E, time_E, 5, distance=True)(requests)
    assert batch.band_BC is not None
    assert batch.band_BT is not None
    assert batch.region_BC is not None
    assert batch.region_BT is not None
    lat_N, lon_N = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    for row in range(len(requests)):
        lat, lon = float(requests.here_lat_deg[row]), float(requests.here_lon_deg[row])
        past = list(range(requests.first[row], requests.stop[row]))[-5:]
        last = int(item_E[past[-1]]) if past else -1
        if last < 0 or (lat_N[last], lon_N[last]) != (lat, lon):
            last = int(haversine_km(lat, lon, lat_N, lon_N).argmin())
        mask = batch.mask_BT[row]
        for band, region, rows in (
            (batch.band_BC[row], batch.region_BC[row], requests.candidates[row]),
            (batch.band_BT[row, mask], batch.region_BT[row, mask], item_E[past]),
        ):
            assert region.tolist() == [shared_regions(items, last, item) for item in rows.tolist()]
            for item, value in zip(rows.tolist(), band.tolist(), strict=True):
                check_band(items, lat, lon, item, value)


def test_bands_by_hand() -> None:
    """Items due north of the user, a hundredth beyond each edge and before it."""
    edges = np.array(BAND_EDGES_KM)
    km = np.concatenate([[0.0], edges * 0.99, edges * 1.01])
    items = pl.DataFrame({"lat_deg": km / 111.19508, "lon_deg": np.zeros(len(km))}).with_columns(
        pl.lit(None, dtype=pl.String).alias(name) for name in (*REGIONS, "category")
    )
    requests, item_E, time_E = requests_of(items, 0)
    one = replace(requests[1:2], here_lat_deg=np.zeros(1), candidates=np.arange(len(km))[None])
    batch = Batcher(items, item_E, time_E, 5, distance=True)(one)
    assert batch.band_BC is not None
    assert batch.region_BC is not None
    assert batch.band_BC[0].tolist() == [0, *range(15), *range(1, 16)]
    assert not batch.region_BC.any(), "regions that are not known are not shared"


def test_batches_do_not_depend_on_the_ones_before() -> None:
    """The places of the last batch's items are left over."""
    items = catalogue(30, 3)
    requests, item_E, time_E = requests_of(items, 3)
    used = Batcher(items, item_E, time_E, 5, distance=True)
    for k in range(len(requests)):
        used(requests[k : k + 1])
    again, fresh = used(requests[:4]), Batcher(items, item_E, time_E, 5, distance=True)(requests[:4])
    assert same_batch(again, fresh)


def test_a_user_without_a_past_gets_nothing_of_another_s() -> None:
    items = catalogue(30, 4)
    requests, item_E, time_E = requests_of(items, 4)
    none = replace(requests, first=requests.stop)[2:5]
    other = Batcher(items, (item_E + 1) % 30, time_E, 5, distance=True)
    assert same_batch(Batcher(items, item_E, time_E, 5, distance=True)(none), other(none))


def same_batch(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


# --- Files ------------------------------------------------------------------------------------------------------------
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(requests: int = 1_000, **changes: Any) -> Path:
        row = np.arange(requests)
        columns = {
            **{name: row * (k + 1) for k, name in enumerate(("user", "first", "stop", "time"))},
            "here_lat_deg": row / 100,
            "here_lon_deg": row / -100,
            "candidates": pl.Series(
                row.astype(np.int32)[:, None] + np.arange(5, dtype=np.int32), dtype=pl.Array(pl.Int32, 5)
            ),
            "first_visit": row % 3 == 0,
        }
        path = tmp_path / "train.parquet"
        pl.DataFrame({**columns, **changes}).write_parquet(path, row_group_size=GROUP)
        return path

    return written


def test_groups_in_any_order(write: Write) -> None:
    file = SampleFile(write(1_000))
    assert len(file) == 1_000
    assert file.groups == 4
    rows = np.concatenate([np.arange(k * 256, min(1_000, (k + 1) * 256)) for k in (3, 0, 2)])
    for _ in range(2):  # from the file, and from memory
        found = file.read([3, 0, 2])
        assert np.array_equal(found.user, rows)
        assert np.array_equal(found.time, 4 * rows)
        assert np.array_equal(found.candidates, rows[:, None] + np.arange(5))
        assert np.array_equal(found.first_visit, rows % 3 == 0)
        assert np.array_equal(found.here_lon_deg, rows / -100)
    assert found.candidates.dtype == np.int64
    assert np.array_equal(file.read(np.array([1])).first, 2 * np.arange(256, 512))
    for groups in (1, 3, 99):
        assert np.array_equal(Requests.joined(list(file.all(groups))).user, np.arange(1_000))
    assert np.array_equal(found[5:9].stop, 3 * rows[5:9])


def test_what_was_read_last_is_kept_and_no_more(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CACHE_GROUPS", 2)
    read: list[int] = []

    class Counting(SampleFile):
        def _decoded(self, group: int) -> Requests:
            read.append(group)
            return super()._decoded(group)

    file = Counting(write())
    for group in (0, 1, 0, 2, 0, 1, 1, 2):
        assert file.read([group]).user[0] == 256 * group
        assert len(file._cache) <= 2
    assert read == [0, 1, 2, 1, 2], "1 went when 2 came: 0 had been asked for since"
    before = list(file._cache)
    list(file.all())
    assert list(file._cache) == before, "a pass over everything keeps nothing"


def test_no_requests(write: Write) -> None:
    file = SampleFile(write(0))
    nothing = Requests.joined([])
    for found in (nothing, Requests.joined(list(file.all()))):
        assert len(found) == 0
        assert all(len(getattr(found, column.name)) == 0 for column in fields(found))
        assert found.candidates.ndim == 2


def test_damaged_files_are_named(write: Write, tmp_path: Path) -> None:
    def refused(path: Path, match: str, read: bool = False) -> None:
        opened = SampleFile(path) if read else None
        with pytest.raises(ArtifactError, match=match) as caught:
            list(opened.all() if opened else SampleFile(path).all())
        assert str(path) in caught.value.message
        assert caught.value.fix == "lgsid rank RUN"

    refused(tmp_path / "absent.parquet", "cannot be read")
    path = write()
    whole = path.read_bytes()
    for broken in (b"", whole[:-30], b"PAR1" + b"\x00" * 200):
        path.write_bytes(broken)
        refused(path, "cannot be read")
    path.write_bytes(whole[:200] + b"\xff" * 2_000 + whole[2_200:])
    refused(path, "cannot be read", read=True)
    pl.DataFrame({"user": [1], "time": [2], "first": [0]}).write_parquet(path)
    refused(path, "lacks the columns candidates, first_visit, here_lat_deg, here_lon_deg, stop")
    refused(write(user=pl.Series(["u"] * 1_000)), "user holds large_string, expected int64")
    refused(write(candidates=np.arange(1_000)), "candidates holds int64")
    with pytest.raises(ArtifactError, match=r"visits.safetensors cannot be read[\s\S]*fix: lgsid rank RUN"):
        SampleFolder(tmp_path, catalogue(3, 0))
