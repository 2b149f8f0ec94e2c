"""The drift report: quiet where nothing drifts, and one signal for each way in which a catalogue can drift."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import SidConfig
from lgsid.sid.catalogue import CHANGED, CLOSED, COLUMNS, NEW, Assigned, Fit
from lgsid.sid.drift import FAR_KM, LEAST_NEW, drift_report
from lgsid.sid.hierarchical import HierarchicalTokenizer
from lgsid.sid.ledger import assign_new
from lgsid.sid.stage import unique_codes
from lgsid.sid.table import sid_table

ITEMS, EMB = toy_city(128)
FITTED = 400
TOKENIZER = HierarchicalTokenizer(config=SidConfig(levels=3, codes=16, epochs=2)).fit(ITEMS.head(FITTED), EMB[:FITTED])


@pytest.fixture(scope="module")
def fit() -> Fit:
    items, emb = ITEMS.head(FITTED), EMB[:FITTED]
    unique = unique_codes(TOKENIZER, TOKENIZER.transform(items, emb), items, emb)
    return Fit(items, emb, sid_table(items["item_id"], unique.codes, unique.collides, 3), 3)


def arrived(fit: Fit, items: pl.DataFrame, emb: FloatArray) -> Assigned:
    unique = assign_new(fit.sids, TOKENIZER, items, emb)
    table = sid_table(items["item_id"], unique.codes, unique.collides, 3)
    if "token_4" not in table.columns:
        table = table.with_columns(pl.lit(0, dtype=pl.Int32).alias("token_4"))
    table = table.with_columns(
        pl.lit(NEW).alias("status"),
        pl.lit(1, dtype=pl.Int64).alias("when"),
        pl.col("sid").alias("raw"),
        sid_now=pl.col("sid"),
    ).with_columns(pl.lit(None, dtype=pl.Float64).alias("moved_km"))
    return Assigned(items, emb, table, pl.DataFrame(), 1)


def signals(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {signal["name"]: signal for signal in report["signals"]}


def due(report: dict[str, Any]) -> set[str]:
    return {name for name, signal in signals(report).items() if signal["due"]}


def test_more_of_the_same_is_no_drift(fit: Fit) -> None:
    report = drift_report(fit, arrived(fit, ITEMS.tail(-FITTED), EMB[FITTED:]), TOKENIZER, None)
    assert not due(report) & {"distance", "regions", "load", "overflow", "changed"}
    assert (report["fitted"], report["new"], report["closed"]) == (400, 112, 0)
    assert 0.5 < report["levels"][0]["distance_ratio"] < 1.5
    assert report["regions"]["unseen"]["city"] == {"items": 0, "names": {}}
    json.dumps(report)


def test_shares_of_a_handful_say_nothing(fit: Fit) -> None:
    few = ITEMS.tail(-FITTED).head(LEAST_NEW - 1)
    few = few.with_columns(province=pl.lit("Nowhere"), lat_deg=pl.lit(-40.0))
    report = drift_report(fit, arrived(fit, few, -EMB[FITTED : FITTED + len(few)]), TOKENIZER, None)
    assert set(signals(report)) == {"load", "overflow", "changed", "growth"}
    assert report["regions"]["unseen_or_far_share"] == 1
    if not report["refit_due"]:
        assert "29 new items are too few to judge" in report["verdict"]


def test_items_of_another_kind_lie_far_from_their_centroids(fit: Fit) -> None:
    rng = np.random.default_rng(0)
    odd = rng.standard_normal((112, EMB.shape[1])).astype(np.float32)
    odd /= np.linalg.norm(odd, axis=1, keepdims=True)
    report = drift_report(fit, arrived(fit, ITEMS.tail(-FITTED), odd), TOKENIZER, None)
    assert "distance" in due(report)
    assert report["levels"][2]["beyond_fitted_p99"] > 0.9
    assert report["verdict"].startswith("A refit is due: new items lie ")


def test_another_country_is_unseen_and_far(fit: Fit) -> None:
    away = ITEMS.tail(-FITTED).with_columns(
        province=pl.lit("South"), city=pl.lit("Emil"), lat_deg=pl.col("lat_deg") - 60.0
    )
    report = drift_report(fit, arrived(fit, away, EMB[FITTED:]), TOKENIZER, None)
    regions = report["regions"]
    assert "regions" in due(report)
    assert regions["unseen"]["province"] == {"items": 112, "names": {"South": 112}}
    assert regions["unseen"]["city"]["names"] == {"South > Emil": 112}
    assert regions["far_items"] == 112
    assert regions["farthest_km"] > FAR_KM
    assert regions["unseen_or_far_share"] == 1


def test_a_boom_in_one_street_overflows_a_token(fit: Fit) -> None:
    street = ITEMS.head(1)
    boom = pl.concat([street] * 112).with_columns(item_id=pl.Series([f"n{number}" for number in range(112)]))
    report = drift_report(fit, arrived(fit, boom, np.repeat(EMB[:1], 112, axis=0)), TOKENIZER, None)
    growth = report["levels"][0]["load"]["largest_growth"]
    assert {"load", "overflow"} <= due(report)
    assert growth["token"] == TOKENIZER.transform(street, EMB[:1])[0, 0]
    assert growth["now"] == growth["fitted"] + 112
    assert report["codes"]["taken_share_new"] == 1
    assert report["levels"][0]["load"]["gini_now"] > report["levels"][0]["load"]["gini_fitted"]


def test_changed_and_closed_items_count(fit: Fit) -> None:
    none = arrived(fit, ITEMS.clear(), EMB[:0])
    rows = fit.sids.head(60).with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in COLUMNS.items())
    rows = rows.with_columns(
        pl.lit(0, dtype=pl.Int32).alias("token_4"),
        status=pl.Series([CHANGED] * 40 + [CLOSED] * 20),
        when=pl.lit(1, dtype=pl.Int64),
        sid_now=pl.when(pl.int_range(60) < 30).then(pl.lit("0-0-0-9")).otherwise("sid"),
        moved_km=pl.lit(5.0),
    )
    report = drift_report(fit, replace(none, sids=rows.select(none.sids.columns)), TOKENIZER, None)
    assert (report["new"], report["changed"], report["closed"]) == (0, 40, 20)
    assert due(report) == {"changed"}
    assert report["changes"]["would_get_another_sid"] == 30
    assert report["changes"]["of_changed"] == 0.75
    assert report["changes"]["moved_km_median"] == 5.0
    assert report["levels"][0]["distance_new"] is None


def test_a_catalogue_that_grew_much_is_due(fit: Fit) -> None:
    more = ITEMS.tail(-FITTED)
    twice = pl.concat([more, more.with_columns(item_id=pl.col("item_id") + "b")])
    report = drift_report(fit, arrived(fit, twice, np.concatenate([EMB[FITTED:]] * 2)), TOKENIZER, None)
    assert signals(report)["growth"]["due"]
    assert "grew by 56.0%" in signals(report)["growth"]["words"]
