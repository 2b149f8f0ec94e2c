"""The Python of docs/using.md runs as it stands there, on a small run folder."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.config import SidConfig
from lgsid.sid.methods import make_tokenizer
from lgsid.sid.stage import unique_codes
from lgsid.sid.table import sid_table

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "using.md"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``runs/mine`` under the working directory, as far as the page reads it."""
    items, emb = toy_city(16)
    rng = np.random.default_rng(0)
    visitors, visited = rng.integers(0, 12, 80), rng.integers(0, len(items), 80)
    events = pl.DataFrame({
        "user_id": [f"u{user}" for user in visitors],
        "item_id": [f"i{item}" for item in visited],
        "timestamp": [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(80)],
    })  # fmt: skip
    tokenizer = make_tokenizer(SidConfig(levels=3, codes=8, epochs=2, batch=64), 0).fit(items, emb)
    unique = unique_codes(tokenizer, tokenizer.transform(items, emb), items, emb)
    run = tmp_path / "runs" / "mine"
    for folder in ("1_data", "3_sid"):
        (run / folder).mkdir(parents=True)
    items.write_parquet(run / "1_data" / "items.parquet")
    events.write_parquet(run / "1_data" / "events.parquet")
    sid_table(items["item_id"], unique.codes, unique.collides, 3).write_parquet(run / "3_sid" / "sids.parquet")
    tokenizer.save_pretrained(run / "3_sid" / "tokenizer")
    monkeypatch.chdir(tmp_path)
    return run


def test_the_examples_run_and_do_what_they_say(mine: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks), DOCUMENT.name, "exec"), names)  # the blocks go on from one another
    items = set(pl.read_parquet(mine / "1_data" / "items.parquet")["item_id"])
    assert names["region_visits"]["visits_in_region"].sum() == 80
    assert names["features"].to_numpy().sum() == len(items)
    assert names["item_vectors"].shape == (len(items), 32)
    assert names["history_vector"].shape == (1, 32)
    assert set(names["recommended"]) <= items
    assert len(set(names["recommended"])) == 5
