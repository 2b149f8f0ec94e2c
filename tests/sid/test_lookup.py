"""`lgsid explain` on a run: items, SIDs and prefixes, items that were assigned later, and what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file
from toy import toy_city

from lgsid.artifact import RunFolder, write_json
from lgsid.config import RunConfig, SidConfig
from lgsid.errors import ArtifactError, DataError
from lgsid.sid.catalogue import Assigned, read_fit, write_assigned
from lgsid.sid.lookup import explain_in_run
from lgsid.sid.stage import tokenize_items
from lgsid.sid.table import token_columns

CONFIG = RunConfig(name="toy", sid=SidConfig(levels=3, codes=8, epochs=1, unique="extra_token"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of the toy city, tokenised by the stage itself."""
    folder = RunFolder(tmp_path_factory.mktemp("lookup"))
    items, emb_ND = toy_city()
    for name in ("1_data", "2_align", "3_sid"):
        folder.path(name).mkdir()
    items.write_parquet(folder.path("1_data", "items.parquet"))
    save_file({"emb_ND": emb_ND}, folder.path("2_align", "embeddings.safetensors"))
    tokenize_items(CONFIG, folder)
    write_json(folder.path("3_sid", "manifest.json"), {"stage": "3_sid", "fingerprint": "0", "outputs": {}})
    return folder


def test_an_item_is_told_with_its_place_its_prefixes_and_how_typical_it_is(run: RunFolder) -> None:
    told = explain_in_run(run, "i0")
    assert told.item is not None
    assert told.item["title"] == "Noodles house 0"
    first = told.tokens[0]
    assert first is not None
    assert first.label.startswith("Alba, East")
    assert len(told.typical) == 3
    assert 0 < told.typical[0].distance_km < 15
    # each token explains a part of the rest
    assert told.typical[0].distance > told.typical[1].distance > told.typical[2].distance > 0
    assert all(0 <= typical.farther_share < 1 for typical in told.typical)


def test_the_sid_of_an_item_and_the_item_tell_the_same(run: RunFolder) -> None:
    told = explain_in_run(run, "i17")
    assert explain_in_run(run, told.sid) == told


def test_a_prefix_is_told_by_the_items_that_share_it(run: RunFolder) -> None:
    fit = read_fit(run)
    (first, second), _ = fit.sids.select(token_columns(2)).rows()[0], None
    same = ((fit.sids["token_1"] == first) & (fit.sids["token_2"] == second)).arg_true()
    told = explain_in_run(run, f"{first}-{second}")
    meaning = told.prefixes[f"{first}-{second}"]
    assert told.item is None
    assert told.typical == []
    assert meaning.items == len(same) > 1
    assert set(meaning.examples) <= set(fit.items["title"].gather(same))
    counted = fit.items["city"].gather(same).value_counts(sort=True)
    assert meaning.regions["city"][0][1] == pytest.approx(counted["count"][0] / len(same), abs=1e-4)


def test_an_outlier_is_less_typical_than_the_item_next_to_the_centroid(run: RunFolder) -> None:
    fit = read_fit(run)
    token = int(fit.sids["token_1"][0])
    rows = (fit.sids["token_1"] == token).arg_true().to_numpy()
    share = {row: explain_in_run(run, fit.items["item_id"][int(row)]).typical[0] for row in rows[:8]}
    nearest, farthest = (pick(share.values(), key=lambda typical: typical.distance) for pick in (min, max))
    assert nearest.farther_share > farthest.farther_share


def test_what_is_not_there_is_said(run: RunFolder, tmp_path: Path) -> None:
    for what in ("no such thing", "99-1", "1-", "", "-"):
        with pytest.raises(DataError, match="neither an item id nor a SID"):
            explain_in_run(run, what)
    with pytest.raises(ArtifactError, match=r"tokens\.json"):
        explain_in_run(RunFolder(tmp_path), "i0")


def test_an_item_assigned_later_is_told_like_all_others(run: RunFolder) -> None:
    fit = read_fit(run)
    new = fit.items.head(1).with_columns(item_id=pl.lit("later"), title=pl.lit("A later place"))
    codes = fit.sids.head(1).select(token_columns(3))
    extra = 77
    sids = codes.with_columns(
        pl.lit(extra, dtype=pl.Int32).alias("token_4"), item_id=pl.lit("later"), collides=pl.lit(True),
        sid=pl.concat_str(*token_columns(3), pl.lit(str(extra)), separator="-"), status=pl.lit("new"),
        when=pl.lit(1, dtype=pl.Int64), raw=pl.lit(""), sid_now=pl.lit(""), moved_km=pl.lit(0.0),
    )  # fmt: skip
    retired = pl.DataFrame(schema={"item_id": pl.String, "sid": pl.String, "when": pl.Int64})
    write_assigned(run, Assigned(new, np.array(fit.emb_ND[:1]), sids, retired, 1), {}, None)
    told = explain_in_run(run, "later")
    assert told.item is not None
    assert told.item["title"] == "A later place"
    assert told.tokens[3] is None
    assert told.typical == explain_in_run(run, "i0").typical  # the same vector and codes
    shared = told.prefixes["-".join(map(str, codes.row(0)))]
    assert "A later place" in shared.examples
