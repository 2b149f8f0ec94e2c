"""RQ-VAE: residual codes of what an encoder makes of the embedding.

Reference: Rajput et al., "Recommender Systems with Generative Retrieval" (TIGER, NeurIPS 2023, arXiv 2305.05065), after
Lee et al. (arXiv 2203.01941). Encoder 512-256-128 with ReLU to 32 dimensions, mirrored decoder, three levels of 256
codes, commitment .25, k-means initialisation; see `lgsid.sid.autoencoder_training` for the loss.

Budget. TIGER trains for 20,000 epochs (some 200,000 updates of 1,024 items; Adagrad .4), public implementations for
some hundreds to 400,000 updates with AdamW 1e-3. The default here is 3,000 updates of 256 items with AdamW 1e-3, the
first 1,000 without codebooks: about 100 passes over 8,000 items, a minute on one CPU thread, and no more than that for
a million items. For the same computation, small batches reconstruct better than batches of 1,024 do.
``--set sid.rqvae.steps=…`` gives it more.

Axes: N items, D embedding dimensions, C dimensions of the codebooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch

from lgsid.arrays import FloatArray, IntArray
from lgsid.config import AutoencoderConfig
from lgsid.errors import DataError
from lgsid.sid.autoencoder import Autoencoder
from lgsid.sid.autoencoder_training import train
from lgsid.sid.base import Tokenizer, chunks


class RqVaeTokenizer(Tokenizer):
    """Residual codes in an encoder's space; see `Tokenizer` for the arguments.

    Example:
        >>> tokenizer = RqVaeTokenizer(levels=3, codes=256).fit(items, embeddings)
        >>> codes_NL = tokenizer.transform(items, embeddings)
    """

    method: ClassVar[str] = "rqvae"

    _network: Autoencoder

    @property
    def network_config(self) -> AutoencoderConfig:
        """Shape and schedule of the network."""
        return self.config.rqvae

    @property
    def angular_levels(self) -> int:
        """So many of the first levels choose by angle."""
        return 0

    def lift(self, x_NC: FloatArray) -> FloatArray:
        """What the decoder makes of the points, (N, D)."""
        lifted = np.empty((len(x_NC), len(self._network.mean_I)), dtype=np.float32)
        with torch.no_grad():
            for rows in chunks(len(x_NC)):
                lifted[rows] = self._network.decode(torch.from_numpy(np.ascontiguousarray(x_NC[rows]))).numpy()
        return lifted

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        x_ND = torch.from_numpy(emb_ND)

        def source(rows: IntArray) -> torch.Tensor:
            return x_ND[torch.from_numpy(rows)]

        shape = (len(items), self.config.levels, self.config.codes)
        self._network, _ = train(source, *shape, self.network_config, self.seed, self.angular_levels)
        return list(self._network.books_LKC.numpy())

    def _project(
        self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
    ) -> tuple[FloatArray, IntArray | None]:
        emb = self.check_pair(items, emb_ND)
        width = len(self._network.mean_I)
        if emb.shape[1] != width:
            raise DataError(f"got embeddings of {emb.shape[1]} dimensions, expected the {width} of fitting")
        with torch.no_grad():
            latent_NC: FloatArray = self._network.encode(torch.from_numpy(emb)).numpy()
        return latent_NC, None

    def _state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        return self._network.weights(), {}

    def _restore(self, tensors: Mapping[str, FloatArray], state: Mapping[str, Any]) -> None:
        self._network = Autoencoder.from_weights(tensors, self.books, self.network_config, self.angular_levels)
        self._network.requires_grad_(False)
