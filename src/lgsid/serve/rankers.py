"""A trained ranker behind the interest stage: one request at a time, and items that came after the training.

Axes: as in `lgsid.rank.base` with B = 1; N items served, F features, n items that are added.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lgsid.arrays import AnyArray, CodeArray, FloatArray, IntArray
from lgsid.data.labels import REGIONS, region_path
from lgsid.errors import ArtifactError
from lgsid.geo import unit_sphere
from lgsid.rank.base import Batch, Ranker
from lgsid.rank.din import Din
from lgsid.rank.features import sid_rows
from lgsid.rank.lean import LeanDin
from lgsid.rank.loader import distance_bands, gap_buckets, hour_and_day, shared_regions
from lgsid.serve.asked import Asked
from lgsid.sid.base import Tokenizer

if TYPE_CHECKING:
    from lgsid.serve.catalogue import Catalogue

LABELS = ("category", "brand")


@dataclass(frozen=True)
class Regions:
    """Region codes of N items by level: equal where the whole path is, -1 where it is unknown.

    Attributes:
        code_N3: province, city, district.
        known: code of each path, by level.
    """

    code_N3: IntArray
    known: tuple[dict[str, int], ...]

    @classmethod
    def of(cls, items: pl.DataFrame) -> Regions:
        """Of a catalogue."""
        return cls(np.empty((0, len(REGIONS)), dtype=np.int64), tuple({} for _ in REGIONS)).plus(items)

    def plus(self, items: pl.DataFrame) -> Regions:
        """The same with more items; codes that are given stay."""
        columns, known = [], []
        for level, before in enumerate(self.known):
            path_n = region_path(items, level + 1)
            fresh = [path for path in path_n.drop_nulls().unique(maintain_order=True) if path not in before]
            codes = before | {path: code for code, path in enumerate(fresh, start=len(before))}
            columns.append(_coded(path_n, codes))
            known.append(codes)
        return Regions(np.concatenate([self.code_N3, np.stack(columns, axis=1)]), tuple(known))


def _coded(values_n: pl.Series, codes: dict[str, int], other: int = -1) -> IntArray:
    """Code of each value; of unknown ones and nulls ``other``."""
    names = pl.Series(list(codes), dtype=pl.String)
    code_n = values_n.replace_strict(names, pl.Series(codes.values(), dtype=pl.Int64), default=None)
    coded: IntArray = code_n.cast(pl.Int64).fill_null(other).to_numpy()
    return coded


class Places:
    """What models that are given distances know of N items; never changes."""

    def __init__(self, items: pl.DataFrame) -> None:
        self.xyz_N3: FloatArray = _xyz(items)
        self.regions = Regions.of(items)

    def plus(self, items: pl.DataFrame) -> Places:
        """The same with more items."""
        grown = Places.__new__(Places)
        grown.xyz_N3 = np.concatenate([self.xyz_N3, _xyz(items)])
        grown.regions = self.regions.plus(items)
        return grown


def _xyz(items: pl.DataFrame) -> FloatArray:
    return unit_sphere(items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()).astype(np.float32)


class RankerInterest:
    """A ranker asked for one request at a time; never changes, and may be asked from any thread.

    An item that the ranker was not trained on has no embedding of its own: it is what its labels and its tokens say.
    Labels and tokens that no trained item has add nothing.

    Args:
        ranker: as `lgsid.rank.pretrained.load_ranker` gives it; its tables are taken over.
        fit_items, fit_codes_NM: the catalogue that it was trained on.
        tokenizer: that made the codes.

    Raises:
        ArtifactError: it was trained on another catalogue.
    """

    def __init__(self, ranker: Ranker, fit_items: pl.DataFrame, fit_codes_NM: CodeArray, tokenizer: Tokenizer) -> None:
        if len(ranker.items.rows_NF) != len(fit_items):
            raise ArtifactError(
                f"the ranker {ranker.name} knows {len(ranker.items.rows_NF)} items, the run has {len(fit_items)}",
                "lgsid rank RUN",
            )
        self._features = _FeatureRows(ranker, fit_items, fit_codes_NM, tokenizer)
        self._ranker = self._trained = ranker.eval().over(ranker.items.with_unseen().with_vectors())
        self._lean = LeanDin(self._trained) if isinstance(self._trained, Din) else None
        self._row_N = np.arange(len(fit_items))
        self._places: Places | None = None

    @property
    def distance(self) -> bool:
        """Whether the ranker is given distances."""
        return self._ranker.config.distance

    def serving(self, catalogue: Catalogue, places: Places | None) -> RankerInterest:
        """The same for the items of a catalogue.

        Args:
            catalogue: what is served.
            places: of its items; None where the ranker is not given distances.
        """
        found = copy.copy(self)
        later = np.flatnonzero(catalogue.fit_row_N < 0)
        found._row_N, found._places = catalogue.fit_row_N.copy(), places
        trained = self._trained.items
        found._row_N[later] = len(trained.rows_NF) + np.arange(len(later))
        found._ranker = self._trained
        if len(later):
            rows_nF = self._features.of(catalogue.items[later], catalogue.codes_NM[later])
            found._ranker = self._trained.over(trained.plus(torch.from_numpy(rows_nF)))
        return found

    @torch.inference_mode()
    def scores(self, asked: Asked) -> FloatArray:
        """Logits of the candidates, (C,)."""
        batch = self.batch(asked)
        if self._lean is None:
            logit_BC: Tensor = self._ranker(batch).logit_BC
        else:
            logit_BC = self._lean(self._ranker.items(batch.items_U), batch)
        logit_C: FloatArray = logit_BC[0].float().numpy()
        return logit_C

    def batch(self, asked: Asked) -> Batch:
        """The request as the ranker wants it; see `lgsid.rank.loader.Batcher`."""
        length = min(len(asked.history), self._ranker.history_length)
        history_T = asked.history.rows_T[len(asked.history) - length :]
        items_U = self._row_N[np.concatenate([asked.rows_C, history_T])]  # some twice: their vectors are looked up
        place_X, candidates = np.arange(len(items_U)), len(asked.rows_C)
        gap_T = gap_buckets(asked.now_s - asked.history.time_T[len(asked.history) - length :])
        hour_B, day_B = hour_and_day(np.array([asked.now_s]))
        tensors = {
            "candidates_BC": place_X[:candidates],
            "history_BT": _padded(place_X[candidates:]),
            "mask_BT": _padded(np.ones(length, dtype=np.bool_)),
            "gap_BT": _padded(gap_T),
            "label_BC": np.zeros(len(asked.rows_C), dtype=np.float32),
        }
        batch = Batch(
            items_U=torch.from_numpy(items_U),
            hour_B=torch.from_numpy(hour_B),
            day_B=torch.from_numpy(day_B),
            **{name: torch.from_numpy(array)[None] for name, array in tensors.items()},
        )
        return self._with_distances(batch, asked, history_T) if self.distance else batch

    def _with_distances(self, batch: Batch, asked: Asked, history_T: IntArray) -> Batch:
        assert self._places is not None
        here_3 = unit_sphere(asked.place.lat_deg, asked.place.lon_deg).astype(np.float32)
        code_N3 = self._places.regions.code_N3
        here = code_N3[self._place_of(asked, here_3)]
        rows_X, candidates, found = np.concatenate([asked.rows_C, history_T]), len(asked.rows_C), {}
        for name, value_X in (
            ("band", distance_bands(self._places.xyz_N3[rows_X], here_3)),
            ("region", shared_regions(code_N3[rows_X], here)),
        ):
            found[f"{name}_BC"], found[f"{name}_BT"] = value_X[:candidates], _padded(value_X[candidates:])
        return replace(batch, **{name: torch.from_numpy(array)[None] for name, array in found.items()})

    def _place_of(self, asked: Asked, here_3: FloatArray) -> int:
        """The item whose regions are those of the user's place: the last visit's where they still are, else the
        nearest one's."""
        assert self._places is not None
        if len(asked.history):
            last = int(asked.history.rows_T[-1])
            if (self._places.xyz_N3[last] == here_3).all():
                return last
        return asked.nearest()


def _padded(array_T: AnyArray) -> AnyArray:
    """At least one visit, of which the mask says that there is none."""
    return array_T if len(array_T) else np.zeros(1, dtype=array_T.dtype)


class _FeatureRows:
    """Rows in the embedding tables of items that a ranker was not trained on.

    Every table has one row of zeros behind its trained ones, for values that no trained item has; an ID is one always.
    """

    def __init__(self, ranker: Ranker, items: pl.DataFrame, codes_NM: CodeArray, tokenizer: Tokenizer) -> None:
        encoder = ranker.items
        self._names, self._config, self._tokenizer = encoder.names, ranker.config, tokenizer
        self._sizes = [len(table) for table in encoder.tables]
        self._tokens = sum(name.startswith("sid_") for name in self._names)
        levels = len(tokenizer.books)
        extra = int(codes_NM[:, levels].max(initial=0)) if codes_NM.shape[1] > levels else 0
        self._most_extra = extra
        self._token_sizes = [
            max(len(book), int(column.max(initial=0)) + 1)
            for book, column in zip(tokenizer.books, codes_NM.T, strict=False)
        ] + ([extra + 1] if extra else [])
        rows_NF = encoder.rows_NF.numpy()
        self._labels = {
            name: _first_codes(items[name], rows_NF[:, place])
            for place, name in enumerate(self._names)
            if name in LABELS
        }

    def of(self, items: pl.DataFrame, codes_nM: CodeArray) -> IntArray:
        """Rows (n, F) of items with their SIDs."""
        tokens = iter(self._of_tokens(codes_nM).T)
        columns = []
        for name, size in zip(self._names, self._sizes, strict=True):
            if name == "id":
                columns.append(np.full(len(items), size, dtype=np.int64))
            elif name in LABELS:
                column_n = items[name] if name in items.columns else pl.Series([None] * len(items), dtype=pl.String)
                row_n = _coded(column_n, self._labels[name], other=size)
                columns.append(np.where(column_n.is_null().to_numpy(), 0, row_n))
            else:
                row_n = next(tokens)
                columns.append(np.where(row_n < size, row_n, size))
        return np.stack(columns, axis=1)

    def _of_tokens(self, codes_nM: CodeArray) -> IntArray:
        """Rows of the tokens; see `lgsid.rank.stage.run_sid_rows`."""
        if not self._tokens:
            return np.empty((len(codes_nM), 0), dtype=np.int64)
        levels = len(self._tokenizer.books)
        over_n = codes_nM[:, levels] > self._most_extra
        codes = codes_nM[:, : len(self._token_sizes)].copy()
        if self._most_extra:
            codes[over_n, levels] = 0
        if self._config.sid == "levels":
            rows_nL = self._tokenizer.embedding_rows(codes)[0]
        else:
            rows_nL = sid_rows(codes, self._token_sizes, self._config.sid).rows_NL
        if self._config.sid == "levels" and self._tokenizer.method == "unified":  # its last table is that of ids
            over_n = np.ones(len(codes_nM), dtype=np.bool_)
        elif not self._most_extra:
            over_n = np.zeros(len(codes_nM), dtype=np.bool_)
        rows_nL[over_n, -1] = np.iinfo(np.int64).max  # what no trained item has
        return rows_nL


def _first_codes(values_N: pl.Series, row_N: IntArray) -> dict[str, int]:
    pairs = pl.DataFrame({"value": values_N, "row": row_N}).drop_nulls("value").unique("value")
    return dict(zip(pairs["value"].to_list(), pairs["row"].to_list(), strict=True))
