"""A refit on the catalogue as it is now, that keeps as many SIDs as it can, and says which ones changed.

The new run holds the open items of the old one, with their embeddings: the encoder is not trained again. The tokeniser
begins from the old codebooks where its method can (`Tokenizer.warm`). Then the new codes of each level are renumbered
so that as many items as possible keep their token (`lgsid.sid.matching`), and ``3_sid/mapping.parquet`` leads from the
old SIDs to the new ones.

Axes: N items, D embedding dimensions, L levels, K codes of a level.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
import yaml

from lgsid.arrays import FloatArray
from lgsid.artifact import RunFolder, Stage, atomic_path, run_stage, write_json, write_text
from lgsid.config import RunConfig, load_run_config
from lgsid.errors import ArtifactError, ConfigError
from lgsid.geo import gcj02_to_bd09, wgs84_to_gcj02
from lgsid.sid.base import Tokenizer
from lgsid.sid.catalogue import Catalogue, current_catalogue, read_assigned, read_fit, with_rows
from lgsid.sid.matching import match_codes
from lgsid.sid.methods import load_tokenizer, make_tokenizer
from lgsid.sid.stage import load_inputs, training_visits, write_stage
from lgsid.sid.table import token_columns

TABLES = "catalogue"
"""Folder of the new run with the tables that it starts from, in the datum of its configuration."""
MAPPING = "mapping.parquet"


def refit_run(run: RunFolder, out: RunFolder, stages: Sequence[Stage], warm: bool = True) -> dict[str, Any]:
    """Fit the tokeniser of a run again, on its open items, into a new run.

    A killed refit goes on where it stopped when it is started again.

    Args:
        run: a run with a finished stage 3, and perhaps with assigned items.
        out: folder of the new run.
        stages: data, alignment and SIDs, as `lgsid.pipeline.STAGES` begins.
        warm: begin from the old codebooks where the method can.

    Returns:
        JSON-able figures: those of stage 3, and the shares of items that keep their SID, and each token.

    Raises:
        ConfigError: the new folder is the old one, or is another run.
        ArtifactError: the old run is not complete.
    """
    if out.root.resolve() == run.root.resolve():
        raise ConfigError(f"the new run would overwrite {run.root}", "--out another folder")
    config = load_run_config(run.root / "config.yaml", ())
    with run.lock(), out.lock():
        catalogue = current_catalogue(run)
        config = _write_tables(config, run, out, catalogue.items)
        data, align, sid = stages[:3]
        run_stage(replace(data, function=_carry_tables(catalogue.items)), config, out)
        run_stage(replace(align, function=_carry_embeddings(run, catalogue)), config, out)
        figures, _ = run_stage(replace(sid, function=_fit_again(run, catalogue, warm)), config, out)
    return {"run": str(run.root), "out": str(out.root), "mapping": str(out.path(sid.folder, MAPPING)), **figures}


# --- Tables and embeddings --------------------------------------------------------------------------------------------
def _write_tables(config: RunConfig, run: RunFolder, out: RunFolder, items: pl.DataFrame) -> RunConfig:
    """Write the tables that the new run starts from, and its configuration."""
    paths = {"items": out.path(TABLES, "items.parquet"), "events": None}
    events = run.path("1_data", "events.parquet")
    if events.exists():
        paths["events"] = out.path(TABLES, "events.parquet")
    absolute = {name: None if path is None else path.resolve() for name, path in paths.items()}
    changed = config.data.model_copy(update={"world": None, **absolute})
    config = config.model_copy(update={"data": changed})
    text = yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    written = out.root / "config.yaml"
    if written.exists() and written.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{out.root} is a run of its own", "--out another folder")
    write_text(written, text)
    _write(_in_datum(items, "lat_deg", "lon_deg", config), out, TABLES, "items.parquet")
    if events.exists():
        visits = pl.read_parquet(events).filter(pl.col("item_id").is_in(items["item_id"].implode()))
        _write(_in_datum(visits, "user_lat_deg", "user_lon_deg", config), out, TABLES, "events.parquet")
    return config


def _in_datum(table: pl.DataFrame, lat: str, lon: str, config: RunConfig) -> pl.DataFrame:
    """The table with its WGS-84 coordinates in the datum that the configuration says tables have."""
    if config.data.datum == "wgs84" or lat not in table.columns:
        return table
    lat_deg, lon_deg = wgs84_to_gcj02(table[lat].to_numpy(), table[lon].to_numpy())
    if config.data.datum == "bd09":
        lat_deg, lon_deg = gcj02_to_bd09(lat_deg, lon_deg)
    return table.with_columns(pl.Series(lat, lat_deg).fill_nan(None), pl.Series(lon, lon_deg).fill_nan(None))


def _write(table: pl.DataFrame, run: RunFolder, folder: str, name: str) -> None:
    with atomic_path(run.path(folder, name)) as path:
        table.write_parquet(path)


def _carry_tables(items: pl.DataFrame) -> Callable[[RunConfig, RunFolder], Mapping[str, Any]]:
    """Stage 1 of the new run: the rows have been checked, converted and filled before."""

    def carry(config: RunConfig, out: RunFolder) -> Mapping[str, Any]:
        _write(items, out, "1_data", "items.parquet")
        cells = pl.DataFrame(schema=dict.fromkeys(("item_id", "column", "value", "source"), pl.String))
        _write(cells, out, "1_data", "filled.parquet")
        checks, events = {"items": _counts("items.parquet", len(items))}, 0
        if config.data.events is not None:
            visits = pl.read_parquet(config.data.events)
            if config.data.datum != "wgs84" and "user_lat_deg" in visits.columns:
                from lgsid.data.interpret import to_wgs84

                visits = to_wgs84(visits, "user_lat_deg", "user_lon_deg", config.data)
            _write(visits, out, "1_data", "events.parquet")
            events = len(visits)
            checks["events"] = _counts("events.parquet", events)
        write_json(out.path("1_data", "checks.json"), checks)
        return {"source": "refit", "items": len(items), "events": events}

    return carry


def _counts(file: str, rows: int) -> dict[str, Any]:
    return {"file": file, "rows": rows, "kept": rows, "rejected": 0, "rejected_by_reason": {}}


def _carry_embeddings(run: RunFolder, catalogue: Catalogue) -> Callable[[RunConfig, RunFolder], Mapping[str, Any]]:
    """Stage 2 of the new run: the embeddings that the items have, and the encoder that made them."""

    def carry(config: RunConfig, out: RunFolder) -> Mapping[str, Any]:
        from lgsid.align.prompts import prompts
        from lgsid.align.stage import EMBEDDINGS, ENCODER, FOLDER, PROMPTS, write_embeddings

        texts = prompts(catalogue.items, config.align.prompt)
        _write(catalogue.items.select("item_id", texts.alias("prompt")), out, FOLDER, PROMPTS)
        source = run.path(FOLDER, EMBEDDINGS)
        write_embeddings(out.path(FOLDER, EMBEDDINGS), catalogue.emb_ND, _metadata(source))
        if run.path(FOLDER, ENCODER).is_dir():
            shutil.copytree(run.path(FOLDER, ENCODER), out.path(FOLDER, ENCODER), dirs_exist_ok=True)
        manifest = run.manifest(FOLDER)
        return {**(manifest["metrics"] if manifest else {}), "items": len(catalogue.items)}

    return carry


def _metadata(path: Any) -> dict[str, str]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return dict(header.get("__metadata__", {}))


# --- SIDs -------------------------------------------------------------------------------------------------------------
def _fit_again(run: RunFolder, catalogue: Catalogue, warm: bool) -> Callable[[RunConfig, RunFolder], Mapping[str, Any]]:
    """Stage 3 of the new run: fit, renumber, and map the old SIDs to the new ones."""

    def fit(config: RunConfig, out: RunFolder) -> Mapping[str, Any]:
        items, emb_ND = load_inputs(out)
        if not items["item_id"].equals(catalogue.items["item_id"]):
            raise ArtifactError(f"{out.root} does not hold the items of {run.root}", "--out another folder")
        events = training_visits(out, config.sid)
        old = load_tokenizer(run.path("3_sid", "tokenizer"))
        tokenizer = refit_tokenizer(old, config, items, emb_ND, catalogue.sids, events, warm)
        figures = write_stage(out, tokenizer, items, emb_ND, events)
        levels = len(tokenizer.books)
        table = mapping(_all_sids(run), pl.read_parquet(out.path("3_sid", "sids.parquet")), levels)
        _write(table, out, "3_sid", MAPPING)
        began_warm = warm and tokenizer.warm and tokenizer.config == old.config
        return {**figures, "began_from_old_codebooks": began_warm, **kept_shares(table, levels)}

    return fit


def refit_tokenizer(
    old: Tokenizer,
    config: RunConfig,
    items: pl.DataFrame,
    emb_ND: FloatArray,
    sids: pl.DataFrame,
    events: pl.DataFrame | None = None,
    warm: bool = True,
) -> Tokenizer:
    """A tokeniser fitted on the items, its codes numbered so that as many as possible are those that the items have.

    Args:
        old: the tokeniser that gave them.
        config: its ``sid`` and ``seed`` count.
        items, emb_ND: N items.
        sids: the SIDs that they have, row for row, with columns token_1 ….
        events: visits, for tokenisers that look at them.
        warm: begin from the old codebooks where the method can and its options are the same.
    """
    tokenizer = make_tokenizer(config.sid, config.seed)
    tokenizer.fit(items, emb_ND, events, start=old if warm and old.config == tokenizer.config else None)
    codes_NL = tokenizer.transform(items, emb_ND, events)
    for level, (name, book, old_book) in enumerate(
        zip(token_columns(len(tokenizer.books)), tokenizer.books, old.books, strict=False), start=1
    ):
        if len(book) == len(old_book) and tokenizer.can_relabel(level):
            tokenizer.relabel(level, match_codes(sids[name].to_numpy(), codes_NL[:, level - 1], len(book)))
    return tokenizer


def _all_sids(run: RunFolder) -> pl.DataFrame:
    """SIDs of all items of a run, closed ones included."""
    return with_rows(read_fit(run).sids, read_assigned(run).sids.select(pl.exclude("sid_now", "raw", "moved_km")))


def mapping(old: pl.DataFrame, new: pl.DataFrame, levels: int) -> pl.DataFrame:
    """The way from old SIDs to new ones.

    Returns:
        item_id, old_sid, new_sid (null for an item that is closed), kept, and tokens_kept: how many of the first
        ``levels`` tokens are the same, place by place.
    """
    names = [name for name in token_columns(levels) if name in old.columns]
    now = new.select("item_id", pl.col("sid").alias("new_sid"), *(pl.col(name).alias(f"new_{name}") for name in names))
    both = old.join(now, on="item_id", how="left", maintain_order="left")
    same = [(pl.col(name) == pl.col(f"new_{name}")).fill_null(False).alias(f"{name}_kept") for name in names]
    return both.with_columns(same).select(
        "item_id",
        pl.col("sid").alias("old_sid"),
        "new_sid",
        (pl.col("sid") == pl.col("new_sid")).fill_null(False).alias("kept"),
        pl.sum_horizontal(pl.col(f"{name}_kept").cast(pl.Int32) for name in names).alias("tokens_kept"),
        *(f"{name}_kept" for name in names),
    )


def kept_shares(table: pl.DataFrame, levels: int) -> dict[str, Any]:
    """Shares of the open items that keep their SID, and their token of each level."""
    still = table.filter(pl.col("new_sid").is_not_null())
    names = [name for name in (f"{name}_kept" for name in token_columns(levels)) if name in table.columns]
    return {
        "sids_kept": float(still["kept"].cast(pl.Float64).to_numpy().mean()),
        "tokens_kept": [float(still[name].cast(pl.Float64).to_numpy().mean()) for name in names],
    }
