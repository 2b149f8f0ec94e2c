"""Unified semantic and ID representation.

Reference: Lin et al., "Unified Semantic and ID Representation Learning for Deep Recommenders" (arXiv 2502.16474).
RQ-VAE codes (512-256 to 64 dimensions) whose first levels choose by the angle and whose last level chooses by the
distance: the first ones say what an item is like, the last one tells items apart. A small embedding of the item's own
id (8 dimensions in the paper, beside 64 of the codes) stands beside the codes' embeddings in the recommender.

Here a centroid is still the mean of the residuals that chose it, with a length of its own, so that the sum of centroids
decodes as in RQ-VAE. The published variant trains codes and recommender together; here, as for every rival, codes are
trained first and frozen, and only the embeddings are the recommender's. See `lgsid.sid.rqvae` for the budget.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from lgsid.arrays import CodeArray, FloatArray, IntArray
from lgsid.config import AutoencoderConfig
from lgsid.sid.rqvae import RqVaeTokenizer
from lgsid.sid.unique import code_keys


class UnifiedTokenizer(RqVaeTokenizer):
    """Semantic codes with a unique id beside them; see `Tokenizer` for the arguments."""

    method: ClassVar[str] = "unified"

    @property
    def network_config(self) -> AutoencoderConfig:
        """Shape and schedule of the network."""
        return self.config.unified

    @property
    def angular_levels(self) -> int:
        """All levels but the last."""
        return self.config.levels - 1

    def embedding_rows(self, codes_NL: CodeArray) -> tuple[IntArray, list[int]]:
        """One table a level, and behind them one with a row for each distinct whole code: the item's id.

        With unique codes every item has an id of its own; raw codes that collide share one. Ids count the codes in
        their order, so they are those of exactly these items: ask for the whole catalogue at once, and again when it
        has grown. An extra token is part of the id and has no table of its own.
        """
        levels = len(self.books)
        rows_NT, sizes = super().embedding_rows(codes_NL[:, :levels])
        id_N = np.unique(code_keys(codes_NL), return_inverse=True)[1].astype(np.int64)
        return np.concatenate([rows_NT, id_N[:, None]], axis=1), [*sizes, int(id_N.max(initial=0)) + 1]

    def _codes(self, x_NC: FloatArray, first_N: IntArray | None) -> CodeArray:
        codes_NL: CodeArray = self._network.codes(torch.from_numpy(x_NC)).numpy().astype(np.int32)
        return codes_NL
