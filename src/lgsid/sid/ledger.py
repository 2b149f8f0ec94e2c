"""The ledger of SIDs: who has which, since when, and who may get which.

It starts as the table of stage 3 with everything that was assigned since, and is changed by a call of `lgsid assign`:
items close, open again, change, and are coded. No operation changes a SID, except coding an item anew on request.

Axes: N items, T SIDs that are taken, D embedding dimensions, L levels.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray
from lgsid.geo import haversine_km
from lgsid.sid.base import Tokenizer
from lgsid.sid.catalogue import CHANGED, CLOSED, FITTED, NEW, REOPENED, Assigned, Fit, last_rows, token_table, with_rows
from lgsid.sid.stage import unique_codes
from lgsid.sid.table import codes_of, sid_table, sid_texts
from lgsid.sid.unique import UniqueCodes


def assign_new(
    taken: pl.DataFrame,
    tokenizer: Tokenizer,
    items: pl.DataFrame,
    emb_ND: FloatArray,
    events: pl.DataFrame | None = None,
) -> UniqueCodes:
    """SIDs for items that have none, beside those that are taken, which stay.

    Args:
        taken: T SIDs with columns token_1 …, as in ``sids.parquet``, each at most once.
        tokenizer: fitted; it is not changed.
        items, emb_ND: N items that need a SID.
        events: visits, for tokenisers that look at them.

    Raises:
        DataError: numbers of rows differ, or a value is not finite.
    """
    levels = len(tokenizer.books)
    if len(items) == 0:
        none = np.zeros(0, dtype=np.bool_)
        return UniqueCodes(np.zeros((0, levels), np.int32), none, none, levels)
    raw_NL = tokenizer.transform(items, emb_ND, events)
    return unique_codes(tokenizer, raw_NL, items, emb_ND, events, codes_of(taken, levels))


class Ledger:
    """The SIDs of a run during one call.

    Args:
        fit, assigned: what stages 1 to 3 made, and what came after.
        tokenizer, events: the fitted tokeniser, and the visits that it may look at.
        reuse: whether closed and retired SIDs may be given away.

    Attributes:
        call: number of this call; rows that it changes say so in ``when``.
        table: one row per item of the run, fitted ones first; see `lgsid.sid.catalogue.COLUMNS`.
        items, emb_ND: content of the new and changed items.
        retired: SIDs that were given up.
    """

    def __init__(
        self, fit: Fit, assigned: Assigned, tokenizer: Tokenizer, events: pl.DataFrame | None, reuse: bool
    ) -> None:
        self._fit, self._before, self._reuse = fit, assigned, reuse
        self._tokenizer, self._events = tokenizer, events
        self.call = assigned.calls + 1
        self._fitted = token_table(fit.sids, fit.levels).with_columns(
            pl.lit(FITTED).alias("status"),
            pl.lit(0, dtype=pl.Int64).alias("when"),
            pl.lit(None, dtype=pl.String).alias("raw"),
            pl.col("sid").alias("sid_now"),
            pl.lit(None, dtype=pl.Float64).alias("moved_km"),
        )
        self.table = with_rows(self._fitted, assigned.sids)
        self.items, self.emb_ND, self.retired = assigned.items, assigned.emb_ND, assigned.retired

    def result(self) -> Assigned:
        """What is assigned after the call."""
        touched = self.table.filter(pl.col("status") != FITTED)
        sids = with_rows(self._before.sids, touched)
        return Assigned(self.items, self.emb_ND, sids, self.retired, self.call)

    def rows(self, ids: pl.Series) -> pl.DataFrame:
        """Rows of items, in the order of the ids; null where an item has no SID yet."""
        return pl.DataFrame({"item_id": ids}).join(self.table, on="item_id", how="left", maintain_order="left")

    def take_up(self, items: pl.DataFrame, emb_ND: FloatArray) -> None:
        """Take up the content of new and changed items."""
        both = pl.concat([self.items, items], how="diagonal_relaxed")
        row_N = last_rows(both["item_id"])
        self.items, self.emb_ND = both[row_N], np.concatenate([self.emb_ND, emb_ND])[row_N]

    def close(self, ids: pl.Series) -> None:
        """Mark items as closed; they keep their row."""
        self._mark(self.rows(ids), CLOSED)

    def reopen(self, ids: pl.Series) -> None:
        """Mark items as open again."""
        self._mark(self.rows(ids), REOPENED)

    def change(self, ids: pl.Series, moved_km: pl.Series) -> None:
        """Mark items as changed; they keep their SID, and remember the raw code by which it was given."""
        rows = self.rows(ids)
        unknown = rows["raw"].is_null()
        if unknown.any():  # fitted items: their raw code is that of the content that was fitted
            fitted = self._raw(*self._content_of(ids.filter(unknown), self._fit.items, self._fit.emb_ND))
            rows = rows.with_columns(rows["raw"].scatter(unknown.arg_true(), fitted))
        self._mark(rows.with_columns(pl.col("sid").alias("sid_now"), moved_km.alias("moved_km")), CHANGED)

    def differing(self) -> pl.Series:
        """Ids of open items whose raw code is no longer the one by which they got their SID."""
        asked = (pl.col("sid_now") != pl.col("sid")) | (pl.col("when") == self.call)
        rows = self.table.filter(pl.col("status") == CHANGED, asked)
        return rows["item_id"].filter(rows["raw"] != self._raw(*self._content(rows["item_id"])))

    def homeless(self, ids: pl.Series) -> pl.Series:
        """Those of the given open items whose SID another open item has."""
        others = self.table.filter(pl.col("status") != CLOSED, ~pl.col("item_id").is_in(ids.implode()))["sid"]
        return ids.filter(self.rows(ids)["sid"].is_in(others.implode()))

    def code(self, ids: pl.Series) -> None:
        """Give items a SID; one that they had is retired, unless another item has it."""
        if len(ids) == 0:
            return
        before, unique = self.rows(ids), self._unique(ids)
        rows = token_table(sid_table(ids, unique.codes, unique.collides, unique.levels), self._fit.levels)
        self._update(rows.with_columns(
            before["status"].fill_null(NEW),
            pl.lit(self.call, dtype=pl.Int64).alias("when"),
            self._raw(*self._content(ids)),
            pl.col("sid").alias("sid_now"),
            before["moved_km"],
        ))  # fmt: skip
        given = self.table.filter(pl.col("status") != CLOSED)["sid"]
        left = before.filter(pl.col("sid").is_not_null(), ~pl.col("sid").is_in(given.implode()))
        tokens = [name for name in left.columns if name.startswith("token_")]
        left = left.select("item_id", *tokens, "sid", pl.lit(self.call, dtype=pl.Int64).alias("when"))
        self.retired = pl.concat([self.retired, left], how="diagonal_relaxed")

    def propose(self, ids: pl.Series) -> None:
        """Note in ``sid_now`` the SIDs that items would get if they were coded now."""
        if len(ids):
            unique = self._unique(ids)
            self._update(self.rows(ids).with_columns(sid_texts(unique.codes, unique.levels).alias("sid_now")))

    def _mark(self, rows: pl.DataFrame, status: str) -> None:
        when = pl.lit(self.call, dtype=pl.Int64).alias("when")
        self._update(rows.with_columns(pl.lit(status).alias("status"), when))

    def _update(self, rows: pl.DataFrame) -> None:
        if len(rows):
            self.table = with_rows(self.table, rows.select(self.table.columns))

    def _taken(self) -> pl.DataFrame:
        """SIDs that may not be given away: all that ever were, or those of open items."""
        if self._reuse:
            return self.table.filter(pl.col("status") != CLOSED)
        tables = [self._fitted, self.table, token_table(self.retired, self._fit.levels)]
        return pl.concat(tables, how="diagonal_relaxed").unique("sid", maintain_order=True)

    def _unique(self, ids: pl.Series) -> UniqueCodes:
        return assign_new(self._taken(), self._tokenizer, *self._content(ids), self._events)

    def _raw(self, items: pl.DataFrame, emb_ND: FloatArray) -> pl.Series:
        """Raw codes of items as text."""
        if len(items) == 0:
            return pl.Series("raw", [], dtype=pl.String)
        codes_NL = self._tokenizer.transform(items, emb_ND, self._events)
        return sid_texts(codes_NL, self._fit.levels).alias("raw")

    def _content(self, ids: pl.Series) -> tuple[pl.DataFrame, FloatArray]:
        """Items as last seen, and their embeddings, in the order of the ids."""
        fitted = ids.filter(~ids.is_in(self.items["item_id"].implode()))
        old, old_ND = self._content_of(fitted, self._fit.items, self._fit.emb_ND)
        new, new_ND = self._content_of(ids.filter(~ids.is_in(fitted.implode())), self.items, self.emb_ND)
        both = pl.concat([old, new], how="diagonal_relaxed")
        return self._content_of(ids, both, np.concatenate([old_ND, new_ND]))

    @staticmethod
    def _content_of(ids: pl.Series, items: pl.DataFrame, emb_ND: FloatArray) -> tuple[pl.DataFrame, FloatArray]:
        where = items.select("item_id").with_row_index("row")
        found = pl.DataFrame({"item_id": ids}).join(where, on="item_id", how="left", maintain_order="left")
        row_n = found["row"].to_numpy()
        return items[row_n], np.asarray(emb_ND[row_n], dtype=np.float32)


def moved_km(items: pl.DataFrame, known: pl.DataFrame) -> pl.Series:
    """How far each item is from where it was, in km."""
    was = known.select("item_id", pl.col("lat_deg").alias("was_lat"), pl.col("lon_deg").alias("was_lon"))
    both = items.join(was, on="item_id", how="left", maintain_order="left")
    columns = (both[name].to_numpy() for name in ("lat_deg", "lon_deg", "was_lat", "was_lon"))
    return pl.Series("moved_km", haversine_km(*columns))
