"""The Python of docs/using.md, docs/rank.md and docs/generate.md runs as it stands there, on a small run folder."""

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

DOCS = Path(__file__).resolve().parents[1] / "docs"


def write_mine(folder: Path, items_per_city: int, visits: int) -> Path:
    """``runs/mine`` in a folder, as far as the pages read it."""
    items, emb = toy_city(items_per_city)
    rng = np.random.default_rng(0)
    visitors, visited = rng.integers(0, 12, visits), rng.integers(0, len(items), visits)
    events = pl.DataFrame({
        "user_id": [f"u{user}" for user in visitors],
        "item_id": [f"i{item}" for item in visited],
        "timestamp": [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in range(visits)],
    })  # fmt: skip
    tokenizer = make_tokenizer(SidConfig(levels=3, codes=8, epochs=2, batch=64), 0).fit(items, emb)
    unique = unique_codes(tokenizer, tokenizer.transform(items, emb), items, emb)
    run = folder / "runs" / "mine"
    for stage in ("1_data", "3_sid"):
        (run / stage).mkdir(parents=True)
    items.write_parquet(run / "1_data" / "items.parquet")
    events.write_parquet(run / "1_data" / "events.parquet")
    sid_table(items["item_id"], unique.codes, unique.collides, 3).write_parquet(run / "3_sid" / "sids.parquet")
    tokenizer.save_pretrained(run / "3_sid" / "tokenizer")
    return run


def run_examples(document: str, blocks: int) -> dict[str, Any]:
    """The names that a page's Python leaves behind; the blocks go on from one another."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == blocks
    names: dict[str, Any] = {}
    exec(compile("\n".join(found), document, "exec"), names)
    return names


def test_the_examples_of_using_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_mine(tmp_path, items_per_city=16, visits=80)
    monkeypatch.chdir(tmp_path)
    names = run_examples("using.md", 4)
    items = set(pl.read_parquet(run / "1_data" / "items.parquet")["item_id"])
    assert names["region_visits"]["visits_in_region"].sum() == 80
    assert names["features"].to_numpy().sum() == len(items)
    assert names["item_vectors"].shape == (len(items), 32)
    assert names["history_vector"].shape == (1, 32)
    assert set(names["recommended"]) <= items
    assert len(set(names["recommended"])) == 5


def test_the_examples_of_rank_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mine(tmp_path, items_per_city=16, visits=900)
    monkeypatch.chdir(tmp_path)
    names = run_examples("rank.md", 4)
    assert names["counts"]["requests"]["train"] > 600
    assert names["scores"]["test"].shape == (names["counts"]["requests"]["test"], 5)
    assert names["known"].label_S.sum() == names["counts"]["requests"]["test"]
    assert names["found"].low <= names["found"].difference <= names["found"].high
    assert names["vectors"].shape == (256, 5, 32 + 3 * 16)
    assert "True" in capsys.readouterr().out.splitlines()  # the ranker that was saved and loaded scores the same


def test_the_example_of_generate_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_mine(tmp_path, items_per_city=16, visits=900)
    (run / "config.yaml").write_text("generate: {dim: 16, feed_forward: 32, encoder_layers: 1, decoder_layers: 1}\n")
    monkeypatch.chdir(tmp_path)
    names = run_examples("generate.md", 1)
    assert 50 < len(names["asked"]) <= 100
    assert names["found"].figures["reachable"]["unreachable_share"] == 0
    named = names["found"].ranked["reachable"]
    assert named.shape == (len(names["asked"]), 10)
    assert -1 <= named.min() <= named.max() < len(names["data"].lat_N)
