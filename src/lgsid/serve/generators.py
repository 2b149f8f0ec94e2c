"""A trained generative model behind the interest stage: how likely it is to name each candidate next.

The candidates make a trie of their own, and a beam search in it cannot name anything else (reachable-first decoding).
With as many beams as candidates it is exact; above `EXACT` candidates the most likely ones alone get a score.

Axes: N items served, C candidates, T visits of the history, L tokens.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch

from lgsid.arrays import BoolArray, CodeArray, FloatArray, IntArray
from lgsid.generate.base import Generator, Packed, SequenceModel
from lgsid.generate.beam import beam_search
from lgsid.generate.generating import Data
from lgsid.generate.places import SidPlaces
from lgsid.generate.trie import Trie
from lgsid.geo import unit_sphere
from lgsid.hashing import id_hash
from lgsid.rank.visits import Visits
from lgsid.serve.asked import Asked

if TYPE_CHECKING:
    from lgsid.serve.catalogue import Catalogue

EXACT = 400
"""So many candidates are scored exactly."""
_CPU = torch.device("cpu")


class GeneratorInterest:
    """A generator, or a sequence model that scores items, asked for one request at a time.

    A generator names an item that came after its training by its SID, like any other; a model that scores items knows
    nothing of such an item.

    Args:
        model: as `lgsid.generate.pretrained.load_generator` gives it.
        catalogue: what is served.
    """

    def __init__(self, model: SequenceModel, catalogue: Catalogue) -> None:
        items = catalogue.items
        self.model, self._model, self._config = model, model, model.config
        self._trie: Trie | None = None
        self._row_N = catalogue.fit_row_N
        self._packer = Data(
            items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy(), _no_visits(),
            catalogue.codes_NM, getattr(model, "sizes", ()),
        ).packer(model.config)  # fmt: skip
        if isinstance(model, Generator):
            codes_NL = catalogue.codes_NM[:, : len(model.sizes)]
            self._row_N = _writable(catalogue.codes_NM, model.sizes)
            named = np.flatnonzero(self._row_N >= 0)
            self._model = _with_items(model, codes_NL, self._packer.xyz_N3, named)
            self._trie, self._trie_rows = Trie(codes_NL[named]), named

    @torch.inference_mode()
    def scores(self, asked: Asked) -> FloatArray:
        """Log-likelihoods, or scores in their order, (C,); -inf for what the model does not name."""
        packed, known_C = self._packed(asked), self._row_N[asked.rows_C] >= 0
        score_C: FloatArray = np.full(len(asked.rows_C), -np.inf, dtype=np.float32)
        if not known_C.any():
            return score_C
        if self._trie is None:
            model: Any = self._model
            score_C[known_C] = model.scores(packed)[0].float().numpy()[self._row_N[asked.rows_C[known_C]]]
        else:
            score_C[known_C] = self._written(packed, asked.rows_C[known_C], asked.k)
        return score_C

    def _written(self, packed: Packed, rows: IntArray, k: int) -> FloatArray:
        assert isinstance(self._model, Generator)
        assert self._trie is not None
        beams = len(rows) if len(rows) <= EXACT else max(k, self._config.beams)
        place = np.searchsorted(self._trie_rows, rows)
        found = beam_search(self._model.decoder(packed), self._trie.only([place]), beams, _CPU)
        named, score = found.row_BW[0].numpy(), found.score_BW[0].float().numpy()
        by_place: FloatArray = np.full(len(self._trie_rows), -np.inf, dtype=np.float32)
        by_place[named[named >= 0]] = score[named >= 0]
        return by_place[place]

    def _packed(self, asked: Asked) -> Packed:
        """The request; visits whose item the model cannot name are left out, and times never go back."""
        history = asked.history
        known_T = self._row_N[history.rows_T] >= 0
        item_T, time_T = history.rows_T[known_T], np.maximum.accumulate(history.time_T[known_T])
        if not len(item_T):  # nothing is known of the user: the model is asked behind no visit at all
            return _empty(asked)
        now_R, user_R = np.array([asked.now_s]), None
        if self._config.users and asked.user_id is not None:
            user_R = self._packer.tokens(
                pl.DataFrame({"user_id": [asked.user_id]}).select(id_hash("user_id")).to_series().to_numpy()
            )
        here_R = np.array([asked.place.lat_deg]), np.array([asked.place.lon_deg])
        packed = self._packer.from_histories([item_T], [np.minimum(time_T, asked.now_s)], now_R, user_R, here_R)
        if self._trie is None:  # distances are those of the items served, embeddings those of the items of the fit
            return replace(packed, item_RT=torch.from_numpy(self._row_N)[packed.item_RT])
        return packed


def _writable(codes_NM: CodeArray, sizes: tuple[int, ...]) -> IntArray:
    """Row of each item, -1 of one whose SID has a token that the model does not know."""
    levels = len(sizes)
    known_N: BoolArray = (codes_NM[:, :levels] < np.array(sizes)).all(axis=1) & (codes_NM[:, levels:] == 0).all(axis=1)
    return np.where(known_N, np.arange(len(codes_NM)), -1)


def _with_items(model: Generator, codes_NL: CodeArray, xyz_N3: FloatArray, named: IntArray) -> Generator:
    """The model over other items, of which it may name some, with the same parameters."""
    found = copy.copy(model)
    found._buffers = {**model._buffers, "codes_NL": torch.from_numpy(np.ascontiguousarray(codes_NL)).long()}
    if model.places is not None:
        found._modules = {**model._modules, "places": SidPlaces(codes_NL, xyz_N3, named)}
    return found


def _no_visits() -> Visits:
    none, nothing = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    users = pl.DataFrame(schema={"user": pl.UInt64, "number": pl.Int32})
    return Visits(none, none, nothing, none.astype(np.int8), none, none, none.astype(np.bool_), None, None, users)


def _empty(asked: Asked) -> Packed:
    zero = torch.zeros(1, 1, dtype=torch.int64)
    here_R3 = torch.from_numpy(unit_sphere([asked.place.lat_deg], [asked.place.lon_deg])).float()
    return Packed(
        zero, zero - 1, zero.bool(), zero, zero, zero, zero[0], zero[0] + asked.now_s, here_R3[:, None] * 0, here_R3
    )
