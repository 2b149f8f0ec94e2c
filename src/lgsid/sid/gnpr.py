"""GNPR-SID: codes of what is known of a place (category, region, hours and visitors), not of its text.

Reference: Wang et al., "Generative Next POI Recommendation with Semantic ID" (KDD 2025, arXiv 2506.01375). RQ-VAE
(512-256-128 to 64 dimensions, dropout .1) on the concatenation of four blocks, with a loss for even use of the codes:

    category   one-hot; several where the item has several
    region     one-hot of the grid cell, 0.05 degrees wide as a plus code of six characters
    hours      when it is visited: 24 shares, by mean solar time (UTC and a day's share of the longitude)
    visitors   multi-hot over users, each of whom counts once

Each block has unit length, so that none drowns the others: square roots of the hours' shares, and the visitors of an
item over the root of their number. It is zero where nothing is known: of an item without visits, the last two; without
events, for all items. Values beyond a block's columns share columns by hash, so memory stays linear in the catalogue.

Differences from the published code, which cannot be compared fairly otherwise: features come only from the visits that
are given (there, from the test period too); the diversity loss has a gradient (there, it counts hard codes), see
`lgsid.sid.autoencoder_training`; k-means initialisation and revival keep the codes in use (there, 32 or 64 codes a
level with uniform initialisation); the decoder ends linearly, the inputs being centred (there, in a sigmoid).

Budget. 3,000 updates of 128 items, the first 1,000 without codebooks; published, 3,000 epochs of such updates.

Codes say nothing of the embedding directly. For `decode`, a ridge regression from the decoder's last hidden layer to
the embedding is fitted, so that errors can be compared with those of other methods.

The saved folder holds hashes of the visitors' ids (`state.json`), not the ids.

Axes: N items, D embedding dimensions, C dimensions of the codebooks, H of the decoder's last hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AutoencoderConfig
from lgsid.sid.autoencoder_training import Source, blocks_of, train
from lgsid.sid.base import chunks
from lgsid.sid.gnpr_features import Columns, PlaceFeatures
from lgsid.sid.rqvae import RqVaeTokenizer

RIDGE = 1e-3
"""Penalty of the regression to the embedding, relative to the mean energy of a hidden unit."""
REGRESSION_ITEMS = 131_072
"""Items that the regression looks at."""


class GnprTokenizer(RqVaeTokenizer):
    """Codes of category, region, hours and visitors; see `Tokenizer` for the arguments.

    `transform` wants the events of `fit`: without them an item gets the codes of one that nobody has visited.
    """

    method: ClassVar[str] = "gnpr"

    _features: PlaceFeatures
    _readout_HD: FloatArray
    """Of the regression to the embedding; the row behind the last hidden unit is the intercept."""

    @property
    def network_config(self) -> AutoencoderConfig:
        """Shape and schedule of the network."""
        return self.config.gnpr

    def lift(self, x_NC: FloatArray) -> FloatArray:
        """The regression from the decoder's last hidden layer, (N, D)."""
        lifted = np.empty((len(x_NC), self._readout_HD.shape[1]), dtype=np.float32)
        for rows in chunks(len(x_NC)):
            hidden = self._hidden(torch.from_numpy(np.ascontiguousarray(x_NC[rows])))
            lifted[rows] = hidden.numpy() @ self._readout_HD[:-1] + self._readout_HD[-1]
        return lifted

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        self._features = PlaceFeatures.fit(items, events, self.config.gnpr)
        entries = self._features.transform(items, events)

        def source(rows: IntArray) -> Tensor:
            return torch.from_numpy(entries.dense(rows, self._features.width))

        shape = (len(items), self.config.levels, self.config.codes)
        self._network, _ = train(source, *shape, self.network_config, self.seed)
        rows = np.sort(np.random.default_rng(self.seed).permutation(len(items))[:REGRESSION_ITEMS])
        self._learn_readout(blocks_of(rows), source, emb_ND)
        return list(self._network.books_LKC.numpy())

    def _learn_readout(self, blocks: Sequence[IntArray], source: Source, emb_ND: FloatArray) -> None:
        """Ridge regression from the quantised items' hidden layer to their embeddings."""
        network = self._network
        gram: Any = 0.0
        product: Any = 0.0
        for rows in blocks:
            quantised = network.sum_of_centroids(network.codes(network.encode(source(rows))))
            hidden = self._hidden(quantised).double().numpy()
            padded = np.concatenate([hidden, np.ones((len(rows), 1))], axis=1)
            gram = gram + padded.T @ padded
            product = product + padded.T @ emb_ND[rows].astype(np.float64)
        penalty = np.full(len(gram), RIDGE * float(np.diag(gram)[:-1].mean()) + 1e-9)
        penalty[-1] = 0.0
        self._readout_HD = np.linalg.solve(gram + np.diag(penalty), product).astype(np.float32)

    def _hidden(self, x_NC: Tensor) -> Tensor:
        with torch.no_grad():
            return self._network.hidden(x_NC)

    def _project(
        self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
    ) -> tuple[FloatArray, IntArray | None]:
        self.check_pair(items, emb_ND)
        entries = self._features.transform(items, events)
        latent_NC = np.empty((len(items), self.network_config.latent), dtype=np.float32)
        for rows in blocks_of(np.arange(len(items))):
            x = torch.from_numpy(entries.dense(rows, self._features.width))
            with torch.no_grad():
                latent_NC[rows] = self._network.encode(x).numpy()
        return latent_NC, None

    def _state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        tensors, _ = super()._state()
        columns = {
            name: {"known": columns.known.tolist(), "width": columns.width}
            for name, columns in self._features.columns.items()
        }
        return {**tensors, "readout_HD": self._readout_HD}, {"columns": columns}

    def _restore(self, tensors: Mapping[str, FloatArray], state: Mapping[str, Any]) -> None:
        self._readout_HD = tensors["readout_HD"]
        columns = {
            name: Columns(np.array(stored["known"], dtype=np.int64), stored["width"])
            for name, stored in state["columns"].items()
        }
        self._features = PlaceFeatures(columns, self.config.gnpr.region_deg)
        super()._restore({name: tensor for name, tensor in tensors.items() if name != "readout_HD"}, state)
