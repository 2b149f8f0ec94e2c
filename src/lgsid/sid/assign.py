"""New, changed and closed items: SIDs from frozen codebooks, without changing an existing one.

A new item gets its raw code, if nobody has it; else the free last-level code of its prefix that costs least; and only
where the prefix is full, one more token. An item whose content or place has changed keeps its SID and is reported with
the one that it would get now, unless it shall be recoded. A closed item leaves the catalogue; its SID stays its own,
unless it shall be given away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lgsid.artifact import RunFolder, read_json
from lgsid.config import load_run_config
from lgsid.errors import DataError
from lgsid.sid.arrivals import CONTENT, Arrivals, embed_arrivals, read_arrivals, read_ids, same_coordinates
from lgsid.sid.catalogue import CLOSED, FOLDER, read_assigned, read_fit, recover, with_rows, write_assigned
from lgsid.sid.drift import drift_report
from lgsid.sid.ledger import Ledger, assign_new, moved_km
from lgsid.sid.methods import load_tokenizer
from lgsid.sid.stage import training_visits

__all__ = ["assign_in_run", "assign_new"]

SHOWN = 20
"""Changed items that the result of a call lists; all of them stand in ``assigned/sids.parquet``."""


@dataclass(frozen=True)
class _Call:
    """What a call brings.

    Attributes:
        new, changed: rows of the file that are unknown, or have other content or another place.
        unchanged: number of rows that say nothing new.
        reopened: ids of closed items that came back as they were.
        back: ids of all closed items that came back.
        closing: ids of items that close now.
        unknown_closed: number of ids to be closed that are not in the run.
    """

    new: pl.DataFrame
    changed: pl.DataFrame
    unchanged: int
    reopened: pl.Series
    back: pl.Series
    closing: pl.Series
    unknown_closed: int


def assign_in_run(
    run: RunFolder,
    new_items: Path | pl.DataFrame | None = None,
    closed: Path | pl.Series | None = None,
    *,
    recode_changed: bool = False,
    reuse_closed: bool = False,
) -> dict[str, Any]:
    """Give new items of a run their SIDs, note changed and closed ones, and say how far the catalogue has drifted.

    Writes ``RUN/assigned/`` (see `lgsid.sid.catalogue`). The same call again changes nothing.

    Args:
        run: a run folder with a finished stage 3.
        new_items: items table (Parquet or CSV) or frame: new items, and known ones that may have changed or, if they
            are closed, open again.
        closed: file or series of the ids of items that are closed.
        recode_changed: give changed items the SID that they would get now; the one they had is retired.
        reuse_closed: closed and retired SIDs may be given to new items.

    Returns:
        JSON-able figures: counts, what changed, and the drift report.

    Raises:
        ConfigError: the folder is no run.
        ArtifactError: the run is not complete, or does not fit what was assigned before.
        DataError, TableError: the items or ids are wrong; nothing is written then.
    """
    if new_items is None and closed is None:
        raise DataError("neither new items nor closed ones were given", "lgsid assign RUN NEW_ITEMS --closed FILE")
    config = load_run_config(run.root / "config.yaml", ())
    with run.lock():
        recover(run)
        fit, assigned = read_fit(run), read_assigned(run)
        tokenizer = load_tokenizer(run.path("3_sid", "tokenizer"))
        events = training_visits(run, tokenizer.config)
        known = with_rows(fit.items, assigned.items)
        arrivals = read_arrivals(config, new_items, known)
        call = _sorted(arrivals.items, known, assigned.closed, read_ids(closed), config.data.lenient)
        ledger = Ledger(fit, assigned, tokenizer, events, reuse_closed)
        touched = pl.concat([call.new, call.changed], how="diagonal_relaxed")
        if len(touched):
            ledger.take_up(touched, embed_arrivals(config, run, touched, fit))
        recoded = _enter(call, ledger, known, recode_changed)
        figures = {"run": str(run.root), **_figures(call, ledger, recoded), **_rejected(arrivals)}
        if not (len(touched) or len(call.closing) or len(call.reopened) or recoded):
            path = run.path(FOLDER, "drift.json")
            return {**figures, "written": False, "drift": read_json(path) if path.exists() else None}
        after = ledger.result()
        drift = drift_report(fit, after, tokenizer, events)
        write_assigned(run, after, drift, arrivals.rejects)
    return {**figures, "written": True, "drift": drift}


def _enter(call: _Call, ledger: Ledger, known: pl.DataFrame, recode: bool) -> int:
    """Enter a call into the ledger; returns how many changed items got another SID."""
    ledger.close(call.closing)
    ledger.reopen(call.reopened)
    if len(call.changed):
        ledger.change(call.changed["item_id"], moved_km(call.changed, known))
    homeless = ledger.homeless(call.back)
    differing = ledger.differing() if recode or len(call.new) or len(call.changed) else call.back.clear()
    differing = differing.filter(~differing.is_in(homeless.implode()))
    recoded = differing if recode else differing.clear()
    ledger.code(pl.concat([call.new["item_id"], homeless, recoded]))
    if not recode:
        ledger.propose(differing)
    return len(recoded)


def _sorted(items: pl.DataFrame, known: pl.DataFrame, closed: pl.Series, closing: pl.Series, lenient: bool) -> _Call:
    """Sort the rows of the file.

    Raises:
        DataError: an item is closed and in the file at once, or an id to be closed is unknown (in strict mode).
    """
    both = items.filter(pl.col("item_id").is_in(closing.implode()))["item_id"]
    if len(both):
        raise DataError(
            f"{len(both):,} items stand among the items and among the closed ones, {both[0]!r} first",
            "drop them from one of the two",
        )
    unknown = closing.filter(~closing.is_in(known["item_id"].implode()))
    if len(unknown) and not lenient:
        raise DataError(
            f"{len(unknown):,} of the closed items are not in the run, {unknown[0]!r} first",
            "correct the ids, or count and skip them with data.lenient: true in the run's config.yaml",
        )
    state = _state(items, known)
    new, differs = state["new"], state["differs"] & ~state["new"]
    same, back = ~new & ~differs, items["item_id"].is_in(closed.implode())
    return _Call(
        new=items.filter(new),
        changed=items.filter(differs),
        unchanged=int((same & ~back).sum()),
        reopened=items.filter(same & back)["item_id"],
        back=items.filter(back)["item_id"],
        closing=closing.filter(~closing.is_in(pl.concat([unknown, closed]).implode())),
        unknown_closed=len(unknown),
    )


def _state(items: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """For each item: whether it is ``new``, and whether its content or place ``differs`` from what is known."""
    before = known.select("item_id", *(pl.col(name).alias(f"was_{name}") for name in CONTENT), known=pl.lit(True))
    both = items.join(before, on="item_id", how="left", maintain_order="left")
    moved = [~same_coordinates(name, f"was_{name}") for name in ("lat_deg", "lon_deg")]
    edited = [pl.col(name).ne_missing(pl.col(f"was_{name}")) for name in CONTENT if not name.endswith("_deg")]
    differs = pl.any_horizontal(*moved, *edited).fill_null(False)
    return both.select(pl.col("known").is_null().alias("new"), differs.alias("differs"))


def _rejected(arrivals: Arrivals) -> dict[str, Any]:
    report = arrivals.report
    return {} if report is None else {"rejected": report.rejected, "rejected_by_reason": report.reasons}


def _figures(call: _Call, ledger: Ledger, recoded: int) -> dict[str, Any]:
    """Counts of a call, and the changed items that would get another SID now."""
    new, changed = ledger.rows(call.new["item_id"]), ledger.rows(call.changed["item_id"])
    other = changed.filter(pl.col("sid_now") != pl.col("sid")).sort("moved_km", descending=True, maintain_order=True)
    return {
        "items": int((ledger.table["status"] != CLOSED).sum()),
        "new": len(new),
        "raw_code_taken": int(new["collides"].sum()),
        "changed": len(changed),
        "would_get_another_sid": len(other),
        "recoded": recoded,
        "closed": len(call.closing),
        "reopened": len(call.reopened),
        "unchanged": call.unchanged,
        "unknown_closed": call.unknown_closed,
        "changes": other.head(SHOWN).select("item_id", "sid", "sid_now", "moved_km").to_dicts(),
    }
