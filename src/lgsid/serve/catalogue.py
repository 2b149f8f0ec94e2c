"""The items that are served: those of the fit that are open, and those that came later; never changes.

Axes: N items served, D embedding dimensions, L levels, M tokens with the extra one, V vectors (some of no item served).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.config.serve import ReachConfig
from lgsid.serve.artefacts import Artefacts
from lgsid.serve.nearby import Shelf
from lgsid.serve.similar import Vectors
from lgsid.sid.catalogue import last_rows, merged_sids
from lgsid.sid.table import codes_of

_FEW = 200
"""Values that are taken one by one."""


def values_at(column: pl.Series, rows: IntArray) -> list[Any]:
    """Values of a column at some rows; for the few of an answer much faster than gathering them in polars."""
    if len(rows) > _FEW:
        return column[rows].to_list()
    return [column.item(row) for row in rows.tolist()]


class IdIndex:
    """Rows of item ids, by sorted hashes: 16 bytes an item.

    Args:
        ids: of N items, each once.
    """

    def __init__(self, ids: pl.Series) -> None:
        self._ids = ids
        hash_N = np.fromiter(map(hash, ids.to_list()), dtype=np.int64, count=len(ids))
        self._row_N = np.argsort(hash_N, kind="stable")
        self._hash_N = hash_N[self._row_N]
        same = np.flatnonzero(self._hash_N[1:] == self._hash_N[:-1])
        rows = self._row_N[np.union1d(same, same + 1)].tolist()
        self._doubtful = {str(ids[row]): int(row) for row in rows}

    def rows(self, ids: Sequence[str]) -> IntArray:
        """Row of each id, -1 of one that is not there."""
        if not len(ids) or not len(self._row_N):
            return np.full(len(ids), -1, dtype=np.int64)
        hash_n = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        row_n = self._row_N[np.searchsorted(self._hash_N, hash_n).clip(max=len(self._row_N) - 1)]
        there = zip(ids, row_n.tolist(), values_at(self._ids, row_n), strict=True)
        return np.array([row if known == name else self._doubtful.get(name, -1) for name, row, known in there])


@dataclass(frozen=True)
class Catalogue:
    """See the module.

    Attributes:
        items: columns as in ``1_data/items.parquet``.
        codes_NM: SIDs with their extra token.
        sid_N: SIDs as text.
        levels: L.
        fit_row_N: row of each item in the catalogue of the fit, -1 of one that came later.
        visits_N: visits of each item.
        vectors: aligned embeddings.
        ids: rows by item id.
        shelf: places and filters.
    """

    items: pl.DataFrame
    codes_NM: CodeArray
    sid_N: pl.Series
    levels: int
    fit_row_N: IntArray
    visits_N: IntArray
    vectors: Vectors
    ids: IdIndex
    shelf: Shelf

    def __len__(self) -> int:
        return len(self.items)

    def column(self, name: str, rows: IntArray) -> list[Any]:
        """Values of a column at some rows; None where the catalogue has no such column."""
        if name not in self.items.columns:
            return [None] * len(rows)
        return values_at(self.items.get_column(name), rows)

    @classmethod
    def of(cls, artefacts: Artefacts, config: ReachConfig) -> Catalogue:
        """The open items of a verified run.

        Raises:
            TableError: opening hours that are not understood.
        """
        fit, assigned = artefacts.fit, artefacts.assigned
        both = pl.concat([fit.items, assigned.items], how="diagonal_relaxed")
        row_N = last_rows(both["item_id"])  # the first ones are those of the fit, in their order
        fit_row_N = np.where(np.arange(len(row_N)) < len(fit.items), np.arange(len(row_N)), -1)
        open_N = ~both["item_id"].gather(row_N).is_in(assigned.closed.implode()).to_numpy()
        row_N, fit_row_N = row_N[open_N], fit_row_N[open_N]
        items, sids = both[row_N].rechunk(), merged_sids(fit.sids, assigned.sids)
        order = items.select("item_id").join(sids, on="item_id", how="left", maintain_order="left")
        visits_N = np.where(fit_row_N >= 0, artefacts.visits_N[fit_row_N], 0)
        row_V = np.full(len(both), -1, dtype=np.int64)
        row_V[row_N] = np.arange(len(row_N))
        return cls(
            items=items,
            codes_NM=codes_of(order, fit.levels),
            sid_N=order["sid"].rechunk(),
            levels=fit.levels,
            fit_row_N=fit_row_N,
            visits_N=visits_N,
            vectors=Vectors((fit.emb_ND, assigned.emb_ND), row_V),
            ids=IdIndex(items["item_id"]),
            shelf=Shelf.of(items, config),
        )

    def plus(self, items: pl.DataFrame, emb_ND: FloatArray, sids: pl.DataFrame) -> Catalogue:
        """The same with more items, whose rows follow the ones before.

        Args:
            items, emb_ND, sids: row for row; ``sids`` has token_1 … and sid.
        """
        joined = pl.concat([self.items, items], how="diagonal_relaxed").select(self.items.columns).rechunk()
        none_n = np.full(len(items), -1, dtype=np.int64)
        return Catalogue(
            items=joined,
            codes_NM=np.concatenate([self.codes_NM, codes_of(sids, self.levels)]),
            sid_N=pl.concat([self.sid_N, sids["sid"]]).rechunk(),
            levels=self.levels,
            fit_row_N=np.concatenate([self.fit_row_N, none_n]),
            visits_N=np.concatenate([self.visits_N, none_n + 1]),
            vectors=self.vectors.plus(emb_ND, len(self) + np.arange(len(items))),
            ids=IdIndex(joined["item_id"]),
            shelf=self.shelf.plus(items),
        )
