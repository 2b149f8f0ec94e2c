"""Small diaries, and the samples that are made of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lgsid.config import SampleConfig
from lgsid.rank.samples import PERIODS, VISITS, write_samples
from lgsid.rank.visits import map_visits

START = datetime(2024, 5, 1, tzinfo=UTC)
SHARE = 0.6
CONFIG = SampleConfig(negatives=4, reach_km=8.0, validation_share=0.2)


def events_of(rows: list[tuple[str, str, float]], **columns: Any) -> pl.DataFrame:
    """Events by user, item and seconds since `START`."""
    users, names, seconds = zip(*rows, strict=True)
    times = pl.Series([START + timedelta(seconds=second) for second in seconds], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"user_id": users, "item_id": names, "timestamp": times, **columns})


def history(items: int, events: int, seed: int = 0, users: int = 9) -> pl.DataFrame:
    """Events of people who each stay in one city of `toy_city`, in the order of time, a minute apart."""
    rng = np.random.default_rng(seed)
    rows = [(f"u{k % users}", f"i{k}", 60.0 * k) for k in range(items)]  # first, everything is visited once
    for k in range(items, events):
        user = int(rng.integers(users))
        rows.append((f"u{user}", f"i{4 * int(rng.integers(items // 4)) + user % 4}", 60.0 * k))
    return events_of(rows)


def samples(
    items: pl.DataFrame, events: pl.DataFrame, folder: Path, config: SampleConfig = CONFIG, seed: int = 0
) -> dict[str, pl.DataFrame]:
    write_samples(items, events, config, SHARE, seed, folder)
    return {name: pl.read_parquet(folder / f"{name}.parquet") for name in PERIODS}


def seconds_of(when: int) -> float:
    return when - START.timestamp()


def past_of(row: dict[str, Any], folder: Path) -> list[tuple[int, int]]:
    item_E, time_E = map_visits(folder / VISITS, "")
    return list(
        zip(item_E[row["first"] : row["stop"]].tolist(), time_E[row["first"] : row["stop"]].tolist(), strict=True)
    )


def with_impressions(events: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Six impressions before each visit, among them the visited item."""
    rng = np.random.default_rng(seed)
    shown = []
    for user, item, time in events.select("user_id", "item_id", "timestamp").iter_rows():
        city = int(item[1:]) % 4
        slate = [item, *(f"i{4 * k + city}" for k in rng.choice(40, 5, replace=False))]
        shown += [(user, name, time - timedelta(seconds=5 + 0.1 * k)) for k, name in enumerate(slate)]
    columns = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Datetime("us", "UTC")}
    table = pl.DataFrame(shown, schema=columns, orient="row").with_columns(kind=pl.lit("impression"))
    return pl.concat([table, events]).sort("timestamp", maintain_order=True)


def facts(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """All that a model can learn from a request."""
    return {**{name: row[name] for name in row if name not in ("first", "stop")}, "past": past_of(row, folder)}


def request_at(folder: Path, user: int, time: int, item: int) -> dict[str, Any]:
    """Facts of one request."""
    table = pl.concat(pl.read_parquet(folder / f"{name}.parquet") for name in PERIODS)
    asked = (pl.col("user") == user) & (pl.col("time") == time) & (pl.col("candidates").arr.first() == item)
    (row,) = table.filter(asked).iter_rows(named=True)
    return facts(row, folder)
