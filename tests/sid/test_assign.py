"""New, changed and closed items: nobody loses a SID, nobody gets one that somebody has, and a kill loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import toy_city
from toy_alignment import catalogue
from toy_run import toy_run

from lgsid.artifact import MANIFEST, RunFolder, sha256_file
from lgsid.config import SidConfig
from lgsid.errors import ArtifactError, ConfigError, DataError, TableError
from lgsid.sid.assign import assign_in_run, assign_new
from lgsid.sid.catalogue import FOLDER, NEXT, OLD, current_catalogue, map_embeddings, read_assigned, sid_catalogue
from lgsid.sid.hierarchical import HierarchicalTokenizer
from lgsid.sid.stage import unique_codes
from lgsid.sid.table import sid_table
from lgsid.sid.unique import Method


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of the first 200 items of the toy catalogue."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGSID_CACHE", str(folder / "cache"))
        toy_run(folder, catalogue().head(200))
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A copy of the run, to be changed."""
    monkeypatch.setenv("LGSID_CACHE", str(made / "cache"))
    shutil.copytree(made / "run", tmp_path / "run")
    return RunFolder(tmp_path / "run")


def later() -> pl.DataFrame:
    """The items of the toy catalogue that are not in the run."""
    return catalogue().tail(56)


def known(ids: list[str]) -> pl.DataFrame:
    return catalogue().filter(pl.col("item_id").is_in(ids))


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def stages(run: RunFolder) -> dict[str, str]:
    """All files but those of `lgsid assign`."""
    return {name: value for name, value in hashes(run.root).items() if not name.startswith((FOLDER, ".lock"))}


def assigned(run: RunFolder) -> pl.DataFrame:
    return pl.read_parquet(run.path(FOLDER, "sids.parquet"))


# --- The core ---------------------------------------------------------------------------------------------------------
CITY, CITY_EMB = toy_city(32)
TOKENIZERS = {
    method: HierarchicalTokenizer(config=SidConfig(levels=3, codes=4, epochs=1, unique=method)).fit(CITY, CITY_EMB)
    for method in ("reassign", "extra_token")
}


@settings(deadline=None, max_examples=12)
@given(
    st.permutations(range(128)),
    st.lists(st.integers(1, 32), min_size=1, max_size=4),
    st.sampled_from(["reassign", "extra_token"]),
)
def test_any_sequence_of_batches_keeps_sids_unique_and_unchanged(
    order: list[int], sizes: list[int], method: Method
) -> None:
    tokenizer = TOKENIZERS[method]
    raw_NL = tokenizer.transform(CITY, CITY_EMB)
    fitted = unique_codes(tokenizer, raw_NL, CITY, CITY_EMB)
    table = sid_table(CITY["item_id"], fitted.codes, fitted.collides, 3)
    start = 0
    for size in sizes:
        rows = np.array(order[start : start + size], dtype=np.int64)
        start += size
        unique = assign_new(table, tokenizer, CITY[rows], CITY_EMB[rows])  # as if items just like these came
        assert np.array_equal(unique.codes[:, :2], raw_NL[rows, :2])
        names = pl.Series([f"{start}-{row}" for row in rows], dtype=pl.String)
        more = sid_table(names, unique.codes, unique.collides, 3)
        before = table
        table = pl.concat([table, more], how="diagonal").with_columns(pl.selectors.starts_with("token_").fill_null(0))
        assert table["sid"].n_unique() == len(table)
        assert table.head(len(before))["sid"].equals(before["sid"])


def test_no_items_need_no_sids() -> None:
    none = assign_new(pl.DataFrame(schema={"sid": pl.String}), TOKENIZERS["reassign"], CITY.clear(), CITY_EMB[:0])
    assert none.codes.shape == (0, 3)


# --- New items --------------------------------------------------------------------------------------------------------
def test_new_items_get_sids_and_nothing_else_changes(run: RunFolder, tmp_path: Path) -> None:
    before, fitted = stages(run), pl.read_parquet(run.path("3_sid", "sids.parquet"))
    later().write_csv(tmp_path / "new.csv")
    result = assign_in_run(run, tmp_path / "new.csv")
    assert (result["new"], result["changed"], result["unchanged"]) == (56, 0, 0)
    assert stages(run) == before
    now = sid_catalogue(run)
    assert now["item_id"].to_list() == [*fitted["item_id"], *later()["item_id"]]
    assert now["sid"].head(200).equals(fitted["sid"])
    assert now["sid"].n_unique() == 256
    table = assigned(run)
    assert set(table["status"]) == {"new"}
    assert set(table["when"]) == {1}
    assert table.filter(~pl.col("collides")).select((pl.col("raw") == pl.col("sid")).all()).item()
    assert 0 < table["collides"].sum() < 56
    json.dumps(result)


def test_embeddings_are_those_of_a_run_that_had_all_items(run: RunFolder, tmp_path: Path) -> None:
    assign_in_run(run, later())
    (tmp_path / "whole").mkdir()
    whole = toy_run(tmp_path / "whole")
    expected = map_embeddings(whole.path("2_align", "embeddings.safetensors"))
    found = current_catalogue(run)
    assert np.array_equal(found.emb_ND, expected)
    assert found.items.equals(pl.read_parquet(whole.path("1_data", "items.parquet")))
    assert found.items["item_id"].equals(found.sids["item_id"])


def test_a_repeated_call_changes_nothing(run: RunFolder) -> None:
    first = assign_in_run(run, later(), pl.Series(["i3", "i4"]))
    before = hashes(run.root)
    again = assign_in_run(run, later(), pl.Series(["i3", "i4"]))
    assert hashes(run.root) == before
    assert first["written"]
    assert not again["written"]
    assert (again["new"], again["closed"], again["unchanged"]) == (0, 0, 56)
    assert again["drift"] == first["drift"]


def test_same_calls_same_bytes(run: RunFolder, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "other")
    other = RunFolder(tmp_path / "other")
    for each in (run, other):
        assign_in_run(each, later())
    assert hashes(run.path(FOLDER)) == hashes(other.path(FOLDER))


def test_batches_add_up(run: RunFolder) -> None:
    for part in (later().head(20), later().tail(36)):
        assign_in_run(run, part)
    table = assigned(run)
    assert table["when"].to_list() == [1] * 20 + [2] * 36
    assert table["item_id"].equals(later()["item_id"])
    assert sid_catalogue(run)["sid"].n_unique() == 256


def test_bad_rows_are_named_and_nothing_is_written(run: RunFolder, tmp_path: Path) -> None:
    bad = later().with_columns(lat_deg=pl.when(pl.col("item_id") == "i201").then(95.0).otherwise("lat_deg"))
    bad.write_csv(tmp_path / "new.csv")
    with pytest.raises(TableError, match=r"new\.csv, row 2, column 'lat_deg'"):
        assign_in_run(run, tmp_path / "new.csv")
    assert not run.path(FOLDER).exists()


def test_lenient_runs_keep_the_rejects(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGSID_CACHE", str(made / "cache"))
    run = toy_run(tmp_path, catalogue().head(200), data={"lenient": True})
    bad = later().with_columns(lat_deg=pl.when(pl.col("item_id") == "i201").then(95.0).otherwise("lat_deg"))
    result = assign_in_run(run, bad, pl.Series(["nobody", "i1"]))
    assert (result["new"], result["rejected"], result["closed"], result["unknown_closed"]) == (55, 1, 1, 1)
    assert pl.read_parquet(run.path(FOLDER, "rejects_items.parquet"))["item_id"].to_list() == ["i201"]


def test_regions_are_filled_from_the_catalogue(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LGSID_CACHE", str(made / "cache"))
    run = toy_run(tmp_path, catalogue().head(200), data={"fill_regions": True})
    bare = later().with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ("province", "city", "district"))
    assign_in_run(run, bare)
    found = read_assigned(run).items
    assert found["city"].equals(later()["city"])
    assert found["province"].equals(later()["province"])
    again = assign_in_run(run, pl.concat([bare, known(["i7"]).with_columns(city=None, district=None)]))
    assert (again["new"], again["changed"], again["unchanged"]) == (0, 0, 57)


# --- Changed items ----------------------------------------------------------------------------------------------------
def moved() -> pl.DataFrame:
    """Two items of Alba that have moved to Cora, and one that has a new name."""
    cora = catalogue().filter(pl.col("city") == "Cora").row(0, named=True)
    place = ("lat_deg", "lon_deg", "province", "city", "district")
    away = known(["i0", "i4"]).with_columns(pl.lit(cora[name]).alias(name) for name in place)
    return pl.concat([away, known(["i1"]).with_columns(title=pl.lit("old old old Gym house"))])


def test_changed_items_keep_their_sid_and_are_reported(run: RunFolder) -> None:
    before = sid_catalogue(run)
    result = assign_in_run(run, moved())
    assert (result["new"], result["changed"], result["recoded"]) == (0, 3, 0)
    assert sid_catalogue(run)["sid"].equals(before["sid"])
    table = assigned(run)
    assert table["item_id"].to_list() == ["i0", "i1", "i4"]
    assert set(table["status"]) == {"changed"}
    assert table["moved_km"][0] > 5000
    assert table["moved_km"][1] == 0
    assert (table["sid_now"] != table["sid"]).to_list()[::2] == [True, True]
    assert {change["item_id"] for change in result["changes"][:2]} == {"i0", "i4"}
    assert not set(table.filter(pl.col("sid") != pl.col("sid_now"))["sid_now"]) & set(before["sid"])
    content = current_catalogue(run)
    assert content.items.filter(pl.col("item_id") == "i0")["city"].to_list() == ["Cora"]
    assert len(content.items) == 200


def test_recoding_gives_the_proposed_sids_and_retires_the_old_ones(run: RunFolder) -> None:
    proposed = {change["item_id"]: change for change in assign_in_run(run, moved())["changes"]}
    before = sid_catalogue(run)
    result = assign_in_run(run, moved(), recode_changed=True)
    assert result["recoded"] == len(proposed) >= 2
    after = sid_catalogue(run)
    other = before["sid"] != after["sid"]
    assert set(after.filter(other)["item_id"]) == set(proposed)
    for item_id, sid in after.filter(other).select("item_id", "sid").iter_rows():
        assert sid == proposed[item_id]["sid_now"]
    retired = pl.read_parquet(run.path(FOLDER, "retired.parquet"))
    assert set(retired["sid"]) == {change["sid"] for change in proposed.values()}
    assert not assign_in_run(run, moved(), recode_changed=True)["written"]
    # an item just like the one that left does not get its SID
    twin = known(["i0"]).with_columns(item_id=pl.lit("twin"))
    assign_in_run(run, twin)
    assert sid_catalogue(run).filter(pl.col("item_id") == "twin")["sid"][0] not in set(retired["sid"])


def test_an_item_that_changes_back_would_keep_its_sid(run: RunFolder) -> None:
    assign_in_run(run, moved())
    result = assign_in_run(run, known(["i0", "i4", "i1"]))
    assert (result["changed"], result["would_get_another_sid"]) == (3, 0)
    table = assigned(run)
    assert table["sid_now"].equals(table["sid"].alias("sid_now"))


def test_a_file_without_a_column_changes_nothing_in_it(run: RunFolder) -> None:
    few = known(["i5", "i6"]).select("item_id", "title", "lat_deg", "lon_deg")
    assert assign_in_run(run, few)["unchanged"] == 2
    renamed = few.with_columns(title=pl.lit("red red red Pizza house"))
    assert assign_in_run(run, renamed)["changed"] == 2
    assert read_assigned(run).items["category"].to_list() == known(["i5", "i6"])["category"].to_list()


# --- Closed items -----------------------------------------------------------------------------------------------------
def test_closed_items_keep_their_row_and_their_sid(run: RunFolder, tmp_path: Path) -> None:
    before = sid_catalogue(run)
    pl.DataFrame({"item_id": ["i0", "i8"]}).write_csv(tmp_path / "closed.csv")
    result = assign_in_run(run, None, tmp_path / "closed.csv")
    assert (result["closed"], result["items"]) == (2, 198)
    after = sid_catalogue(run)
    assert after.equals(before.filter(~pl.col("item_id").is_in(["i0", "i8"])))
    table = assigned(run)
    assert table["status"].to_list() == ["closed", "closed"]
    was = before.filter(pl.col("item_id") == "i0")["sid"][0]
    assert table["sid"][0] == was
    twin = known(["i0"]).with_columns(item_id=pl.lit("twin"))
    assign_in_run(run, twin)
    assert sid_catalogue(run).filter(pl.col("item_id") == "twin")["sid"][0] != was


def test_a_closed_sid_is_reused_on_request_only(run: RunFolder) -> None:
    table = sid_catalogue(run)
    item_id, was = next((row["item_id"], row["sid"]) for row in table.filter(~pl.col("collides")).iter_rows(named=True))
    twin = known([item_id]).with_columns(item_id=pl.lit("twin"))
    assign_in_run(run, twin, pl.Series([item_id]), reuse_closed=True)
    assert sid_catalogue(run).filter(pl.col("item_id") == "twin")["sid"].to_list() == [was]
    # the closed one comes back and finds its SID given away
    result = assign_in_run(run, known([item_id]))
    assert result["reopened"] == 1
    after = sid_catalogue(run)
    assert after["sid"].n_unique() == len(after) == 201
    assert after.filter(pl.col("item_id") == "twin")["sid"].to_list() == [was]
    assert after.filter(pl.col("item_id") == item_id)["sid"][0] != was


def test_a_closed_item_that_comes_back_is_open_with_its_sid(run: RunFolder) -> None:
    before = sid_catalogue(run)
    assign_in_run(run, later(), pl.Series(["i0"]))
    assign_in_run(run, None, pl.Series(["i230"]))
    result = assign_in_run(run, known(["i0", "i230"]))
    assert (result["reopened"], result["changed"], result["unchanged"]) == (2, 0, 0)
    after = sid_catalogue(run)
    assert after["sid"].head(200).equals(before["sid"])
    assert len(after) == 256
    assert set(assigned(run).filter(pl.col("item_id").is_in(["i0", "i230"]))["status"]) == {"reopened"}


@pytest.mark.parametrize(
    ("items", "closed", "message"),
    [
        (None, None, "neither new items nor closed ones"),
        (None, pl.Series(["nobody"]), "'nobody' first"),
        (None, pl.Series(["i1", ""]), "no item_id in row 2"),
        (known(["i1"]), pl.Series(["i1"]), "among the closed ones, 'i1' first"),
        (None, Path("absent.csv"), "no file"),
    ],
)
def test_bad_calls_are_refused(run: RunFolder, items: Any, closed: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        assign_in_run(run, items, closed)
    assert not run.path(FOLDER).exists()


def test_a_list_of_closed_items_needs_their_ids(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "closed.csv").write_text("shop\ni1\n")
    with pytest.raises(DataError, match="lacks the column item_id"):
        assign_in_run(run, None, tmp_path / "closed.csv")
    (tmp_path / "numbers.csv").write_text("item_id\n7\n")
    with pytest.raises(DataError, match="'7' first"):
        assign_in_run(run, None, tmp_path / "numbers.csv")


# --- The folder -------------------------------------------------------------------------------------------------------
def test_any_sequence_of_calls_keeps_sids_unique(run: RunFolder) -> None:
    rng = np.random.default_rng(0)
    everything = catalogue()
    held: dict[str, str] = dict(sid_catalogue(run).select("item_id", "sid").iter_rows())
    ever = dict(held)
    for number in range(6):
        rows = everything[rng.choice(256, 40, replace=False)]
        open_ids = sid_catalogue(run)["item_id"]
        closing = open_ids.filter(~open_ids.is_in(rows["item_id"].implode())).sample(10, seed=number)
        rows = rows.with_columns(
            title=pl.when(pl.Series(rng.random(40) < 0.3)).then(pl.lit("new blue Pizza house")).otherwise("title")
        )
        assign_in_run(run, rows, closing)
        now = sid_catalogue(run)
        assert now["sid"].n_unique() == len(now)
        assert not set(now["item_id"]) & set(closing)
        for item_id, sid in now.select("item_id", "sid").iter_rows():
            assert ever.setdefault(item_id, sid) == sid  # closed or not, changed or not
    assert len(set(ever.values())) == len(ever)


def test_a_folder_of_another_fit_is_refused(run: RunFolder) -> None:
    assign_in_run(run, later())
    manifest = json.loads(run.path("3_sid", MANIFEST).read_text())
    manifest["outputs"]["sids.parquet"] = "0"
    run.path("3_sid", MANIFEST).write_text(json.dumps(manifest))
    for call in (lambda: sid_catalogue(run), lambda: assign_in_run(run, later())):
        with pytest.raises(ArtifactError, match="belongs to an earlier fit"):
            call()


def test_runs_that_are_not_complete_are_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration"):
        assign_in_run(RunFolder(tmp_path / "nothing"), later())
    run.path("3_sid", MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="3_sid is not complete"):
        assign_in_run(run, later())


def test_another_encoder_or_prompt_is_noticed(run: RunFolder, tmp_path: Path) -> None:
    from tiny_models import write_bert
    from toy_alignment import WORDS

    text = (run.root / "config.yaml").read_text()
    other = write_bert(tmp_path / "other", seed=1, words=WORDS)
    encoder = next(line for line in text.splitlines() if "encoder" in line and "model:" in line)
    (run.root / "config.yaml").write_text(text.replace(encoder, f"    model: {other}"))
    with pytest.raises(ArtifactError, match="is not the one that made"):
        assign_in_run(run, later())
    (run.root / "config.yaml").write_text(text.replace("kind: full", "kind: content"))
    with pytest.raises(ArtifactError, match="gives other prompts"):
        assign_in_run(run, later())
    assert not run.path(FOLDER).exists()


def test_a_kill_between_two_renames_loses_nothing(run: RunFolder) -> None:
    assign_in_run(run, later().head(20))
    first = sid_catalogue(run)
    shutil.copytree(run.path(FOLDER), run.root / "kept")
    assign_in_run(run, later())
    second = sid_catalogue(run)
    # the old folder has been taken away, the new one not yet put in its place
    run.path(FOLDER).rename(run.path(NEXT))
    (run.root / "kept").rename(run.path(OLD))
    assert sid_catalogue(run).equals(second)
    assert not assign_in_run(run, later())["written"]
    assert run.path(FOLDER).is_dir()
    assert not run.path(NEXT).exists()
    assert not run.path(OLD).exists()
    # the new one is not complete yet
    shutil.copytree(run.path(FOLDER), run.path(NEXT))
    (run.path(NEXT) / MANIFEST).unlink()
    assert sid_catalogue(run).equals(second)
    assert len(first) == 220


def test_killed_at_any_moment_the_old_or_the_new_folder_stands(run: RunFolder, tmp_path: Path) -> None:
    later().write_parquet(tmp_path / "new.parquet")
    code = (
        "import sys; from pathlib import Path; from lgsid.artifact import RunFolder; from lgsid.sid import catalogue\n"
        "from lgsid.sid.assign import assign_in_run\n"
        "import lgsid.sid.catalogue as c\n"
        "real = c.write_json\n"
        "def slow(path, value):\n"
        "    if path.name == 'manifest.json': print('ready', flush=True); import time; time.sleep(60)\n"
        "    real(path, value)\n"
        "c.write_json = slow\n"
        "assign_in_run(RunFolder(Path(sys.argv[1])), Path(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, str(run.root), str(tmp_path / "new.parquet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    time.sleep(0)
    assert len(sid_catalogue(run)) == 200
    assert assign_in_run(run, tmp_path / "new.parquet")["new"] == 56
    assert sid_catalogue(run)["sid"].n_unique() == 256
    assert not [path for path in run.root.iterdir() if path.name.startswith(".assigned")]
