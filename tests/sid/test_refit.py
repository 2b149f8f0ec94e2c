"""A refit: few SIDs change, those that do are mapped, and the new run is a run like any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import toy_city
from toy_alignment import catalogue
from toy_run import toy_run

from lgsid.artifact import MANIFEST, RunFolder
from lgsid.config import RunConfig, SidConfig, load_run_config
from lgsid.errors import ConfigError, DataError
from lgsid.evaluate import plots
from lgsid.pipeline import SID, STAGES, execute, plan
from lgsid.sid.assign import assign_in_run, assign_new
from lgsid.sid.catalogue import current_catalogue, map_embeddings, sid_catalogue
from lgsid.sid.hierarchical import HierarchicalTokenizer
from lgsid.sid.methods import METHODS, load_tokenizer, make_tokenizer
from lgsid.sid.refit import kept_shares, mapping, refit_run, refit_tokenizer
from lgsid.sid.stage import unique_codes
from lgsid.sid.table import sid_table
from lgsid.sid.warm import follow

ITEMS, EMB = toy_city(128)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of 200 items to which 56 have been added, of which one is closed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LGSID_CACHE", str(folder / "cache"))
        run = toy_run(folder, catalogue().head(200), data={"datum": "gcj02"})
        assign_in_run(run, catalogue().tail(56), pl.Series(["i7"]))
    return folder


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("LGSID_CACHE", str(made / "cache"))
    return RunFolder(made / "run")


def test_the_new_run_is_complete_and_like_any_other(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "DPI", 60)  # no dot of the report is looked at
    out = RunFolder(tmp_path / "new")
    figures = refit_run(run, out, STAGES)
    before = current_catalogue(run)
    assert len(before.items) == 255
    assert pl.read_parquet(out.path("1_data", "items.parquet")).equals(before.items)
    assert np.array_equal(map_embeddings(out.path("2_align", "embeddings.safetensors")), before.emb_ND)
    assert "i7" not in pl.read_parquet(out.path("1_data", "events.parquet"))["item_id"]
    config = load_run_config(out.root / "config.yaml", ())
    assert {what for name, what in plan(config, out) if name not in ("4_rank", "4_generate", "5_report")} == {"kept"}
    assert load_tokenizer(out.path("3_sid", "tokenizer")).books
    assert figures["began_from_old_codebooks"]
    execute(config, out)  # and has its report
    assert out.path("5_report", MANIFEST).exists()
    again = assign_in_run(out, pl.read_parquet(out.path("catalogue", "items.parquet")))  # in the run's own datum
    assert (again["new"], again["changed"], again["unchanged"]) == (0, 0, 255)


def test_the_mapping_leads_from_old_to_new(run: RunFolder, tmp_path: Path) -> None:
    out = RunFolder(tmp_path / "new")
    figures = refit_run(run, out, STAGES)
    table = pl.read_parquet(figures["mapping"])
    old, new = sid_catalogue(run), sid_catalogue(out)
    assert set(table["item_id"]) == {*old["item_id"], "i7"}
    open_rows = table.filter(pl.col("item_id") != "i7").sort("item_id")
    assert open_rows["old_sid"].equals(old.sort("item_id")["sid"].alias("old_sid"))
    assert open_rows["new_sid"].equals(new.sort("item_id")["sid"].alias("new_sid"))
    assert open_rows["kept"].equals((open_rows["old_sid"] == open_rows["new_sid"]).alias("kept"))
    closed = table.filter(pl.col("item_id") == "i7").row(0, named=True)
    assert (closed["new_sid"], closed["kept"], closed["tokens_kept"]) == (None, False, 0)
    assert figures["sids_kept"] == open_rows["kept"].cast(pl.Float64).to_numpy().mean()
    assert new["sid"].n_unique() == 255


def test_a_refit_that_was_killed_goes_on(run: RunFolder, tmp_path: Path) -> None:
    whole, broken = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken")
    for out in (whole, broken):
        refit_run(run, out, STAGES)
    shutil.rmtree(broken.path("3_sid"))
    (broken.path("2_align", MANIFEST)).unlink()
    refit_run(run, broken, STAGES)
    for name in ("3_sid/sids.parquet", "3_sid/mapping.parquet", "2_align/embeddings.safetensors"):
        assert (broken.root / name).read_bytes() == (whole.root / name).read_bytes()


def test_neither_the_old_run_nor_another_is_overwritten(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="would overwrite"):
        refit_run(run, RunFolder(run.root), STAGES)
    shutil.copytree(run.root, tmp_path / "other")
    with pytest.raises(ConfigError, match="a run of its own"):
        refit_run(run, RunFolder(tmp_path / "other"), STAGES)


def test_warm_and_matched_keeps_more_than_cold_and_matched() -> None:
    config = RunConfig(sid=SidConfig(codes=16, epochs=4))
    fitted, emb = ITEMS.head(480), EMB[:480]
    old = HierarchicalTokenizer(config=config.sid).fit(fitted, emb)
    unique = unique_codes(old, old.transform(fitted, emb), fitted, emb)
    sids = sid_table(fitted["item_id"], unique.codes, unique.collides, 3)
    new = assign_new(sids, old, ITEMS[480:], EMB[480:])
    more = sid_table(ITEMS["item_id"][480:], new.codes, new.collides, 3)
    sids = pl.concat([sids, more], how="diagonal")
    shares = {}
    for warm in (True, False):
        tokenizer = refit_tokenizer(old, config, ITEMS, EMB, sids, warm=warm)
        now = unique_codes(tokenizer, tokenizer.transform(ITEMS, EMB), ITEMS, EMB)
        shares[warm] = kept_shares(mapping(sids, sid_table(ITEMS["item_id"], now.codes, now.collides, 3), 3), 3)
    assert shares[True]["sids_kept"] > shares[False]["sids_kept"] + 0.2
    assert min(shares[True]["tokens_kept"]) > 0.8


def test_a_new_town_gets_tokens_of_its_own() -> None:
    """Warm k-means alone would leave it to the tokens next to it."""
    town = (ITEMS["city"] == "Dune").to_numpy()
    config = SidConfig(codes=16, epochs=2)
    old = HierarchicalTokenizer(config=config).fit(ITEMS.filter(pl.Series(~town)), EMB[~town])
    new = HierarchicalTokenizer(config=config).fit(ITEMS, EMB, start=old)
    first = new.transform(ITEMS, EMB)[:, 0]
    assert not set(first[town]) & set(first[~town])
    assert len(set(first[town])) >= 2
    kept = (first[~town] == old.transform(ITEMS.filter(pl.Series(~town)), EMB[~town])[:, 0]).mean()
    assert kept > 0.6


def test_centroids_stay_where_the_points_are_as_they_were() -> None:
    import torch

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 4, generator=generator) * 10
    points = (centres[:, None] + 0.1 * torch.randn(8, 50, 4, generator=generator)).reshape(-1, 4)
    found = follow(points, centres, generator)
    assert torch.allclose(found, points.reshape(8, 50, 4).mean(1), atol=1e-4)
    crowded = torch.cat([centres[:7], centres[:1] + 0.01])  # one centroid too many here, none there
    found = follow(points, crowded, generator)
    assert torch.cdist(points, found).min(1).values.max() < 1


# --- Renumbering ------------------------------------------------------------------------------------------------------
def test_relabelling_changes_numbers_and_nothing_else(tmp_path: Path) -> None:
    tokenizer = HierarchicalTokenizer(config=SidConfig(codes=8, epochs=2)).fit(ITEMS, EMB)
    before, meant, decoded = tokenizer.transform(ITEMS, EMB), tokenizer.tokens.meanings, None
    decoded = tokenizer.decode(before)
    rng = np.random.default_rng(0)
    permutations = [rng.permutation(8).astype(np.int32) for _ in range(3)]
    for level, permutation in enumerate(permutations, start=1):
        tokenizer.relabel(level, permutation)
    expected = np.stack([p[column] for p, column in zip(permutations, before.T, strict=True)], axis=1)
    assert np.array_equal(tokenizer.transform(ITEMS, EMB), expected)
    assert np.array_equal(tokenizer.decode(expected), decoded)
    for level, permutation in enumerate(permutations, start=1):
        for code, meaning in meant[level].items():
            assert tokenizer.tokens.meanings[level][int(permutation[code])] == meaning
    tokenizer.save_pretrained(tmp_path)
    assert np.array_equal(HierarchicalTokenizer.from_pretrained(tmp_path).transform(ITEMS, EMB), expected)
    with pytest.raises(DataError, match="no permutation"):
        tokenizer.relabel(1, np.zeros(8, dtype=np.int32))


def test_numbers_that_follow_from_the_items_stay() -> None:
    """Random codes are hashes: they cannot be renumbered, and need not be."""
    config = RunConfig(sid=SidConfig(method="random", codes=8))
    old = make_tokenizer(config.sid, 0).fit(ITEMS.head(400), EMB[:400])
    codes = old.transform(ITEMS, EMB)
    with pytest.raises(DataError, match="follow from the items"):
        old.relabel(1, np.arange(8, dtype=np.int32)[::-1])
    shuffled = sid_table(ITEMS["item_id"], (codes + 1) % 8, np.zeros(len(ITEMS), bool), 3)
    tokenizer = refit_tokenizer(old, config, ITEMS, EMB, shuffled)
    assert np.array_equal(tokenizer.transform(ITEMS, EMB), codes)
    counted = [np.bincount(column, minlength=8) for column in codes.T]
    for level, counts in enumerate(counted, start=1):
        assert {code: meaning.items for code, meaning in tokenizer.tokens.meanings[level].items()} == dict(
            enumerate(counts.tolist())
        )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_is_refitted_and_keeps_its_codes_where_nothing_changes(method: str) -> None:
    """Fitted again on the same items, the codes are the same, whatever numbers they had meanwhile."""
    network = {"hidden": (32,), "latent": 8, "steps": 30, "warm_steps": 10, "batch": 64, "validations": 1}
    small = {"levels": 3, "codes": 8, "epochs": 2, "rqvae": network, "unified": network, "gnpr": network}
    config = RunConfig(sid=SidConfig(method=method, **small))  # type: ignore[arg-type]
    old = make_tokenizer(config.sid, 0).fit(ITEMS, EMB)
    codes = old.transform(ITEMS, EMB)
    fixed = {"random": (1, 2, 3), "geo_grid": (1,)}.get(method, ())
    for level in {1, 2, 3} - set(fixed):
        old.relabel(level, np.roll(np.arange(8), level).astype(np.int32))
    now = old.transform(ITEMS, EMB)
    assert (now != codes).any() or len(fixed) == 3
    tokenizer = refit_tokenizer(
        old, config, ITEMS, EMB, sid_table(ITEMS["item_id"], now, np.zeros(512, bool), 3), warm=False
    )
    assert np.array_equal(tokenizer.transform(ITEMS, EMB), now)


def test_stage_names() -> None:
    """What `refit_run` takes for granted of the pipeline."""
    assert STAGES[2] is SID
