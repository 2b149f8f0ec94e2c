"""HGIT: hierarchical geographic item tokenisation.

Reference: "LLM-Aligned Geographic Item Tokenization for Local-Life Recommendation" (AAAI 2026, arXiv 2511.14221). The
first token is a cluster of hard geography (`lgsid.sid.features`); its vector is the mean embedding of its members and
stays frozen. The further tokens are residual codebooks trained together with balanced use (`lgsid.sid.residual`).

Beyond the paper, the last token may see the item's doorway too (`lgsid.sid.doorway`), where items with one text would
otherwise collide.

Axes: see `lgsid.sid.base`; the space of the codebooks is the embedding's and the doorway's, C = D + DIM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray, IntArray
from lgsid.sid import doorway
from lgsid.sid.base import Tokenizer
from lgsid.sid.features import GeoFeatures

WARM_EPOCHS, WARM_RATE = 5, 0.2
"""A fit that begins from another one trains for at most so many passes, at such a share of the step size."""


class HierarchicalTokenizer(Tokenizer):
    """Geographic first token, learned residual tokens; see `Tokenizer` for the arguments.

    Example:
        >>> tokenizer = HierarchicalTokenizer(levels=3, codes=256).fit(items, embeddings)
        >>> codes_NL = tokenizer.transform(items, embeddings)
        >>> print(tokenizer.explain(codes_NL[0]))
    """

    method: ClassVar[str] = "hgit"
    warm: ClassVar[bool] = True
    place_levels: ClassVar[frozenset[int]] = frozenset({1})

    _features: GeoFeatures
    _regions_KF: FloatArray
    """Centroids of the features: which region an item belongs to."""
    _doorway_weight: float = 0.0

    def lift(self, x_NC: FloatArray) -> FloatArray:
        """The embedding part of the points."""
        return x_NC[:, : x_NC.shape[1] - doorway.DIM]

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        if self._start is not None:
            return self._learn_from(self._start, items, emb_ND)
        import torch

        from lgsid.sid.kmeans import assign, fit_centroids, means
        from lgsid.sid.quality import variance
        from lgsid.sid.residual import SAMPLE_PER_CODE, Training, decode, encode, fit_residual

        config, x = self.config, torch.from_numpy(emb_ND)
        generator = torch.Generator().manual_seed(self.seed)
        self._features = GeoFeatures.fit(items, config.features)
        features_NF = torch.from_numpy(self._features.transform(items))
        regions_KF = fit_centroids(features_NF, config.codes, 20, SAMPLE_PER_CODE, generator)
        self._regions_KF, first_N = regions_KF.numpy(), assign(features_NF, regions_KF)
        # a region without items (possible only where points repeat) stands for the whole catalogue
        frozen_KD = means(x, first_N, x.mean(0).expand(config.codes, -1).clone())
        training = Training(config.epochs, config.batch, config.learning_rate, config.entropy_weight)
        books = fit_residual(x, config.levels, config.codes, training, generator, (frozen_KD, first_N))
        codes_NL = encode(x, books, first_N)
        residual_ND = x - decode(codes_NL, books[:-1])
        last = doorway.fit_last_level(
            items, residual_ND, codes_NL, books[-1], variance(emb_ND), training, config.collision_target, generator
        )
        self._doorway_weight = last.weight
        return [*(np.pad(book.numpy(), ((0, 0), (0, doorway.DIM))) for book in books[:-1]), last.book.numpy()]

    def _learn_from(self, start: Self, items: pl.DataFrame, emb_ND: FloatArray) -> list[FloatArray]:
        """The same, beginning from fitted regions and codebooks, with a short and gentle training.

        Known provinces and cities keep their centre and spread, and the doorway its weight: what has not changed shall
        be coded as before.
        """
        import torch

        from lgsid.sid.kmeans import assign, means
        from lgsid.sid.residual import Training, decode, encode, fit_residual
        from lgsid.sid.warm import follow

        config, x = self.config, torch.from_numpy(emb_ND)
        generator = torch.Generator().manual_seed(self.seed)
        self._features = GeoFeatures.fit(items, config.features).keeping(start._features)
        features_NF = torch.from_numpy(self._features.transform(items))
        regions_KF = follow(features_NF, torch.from_numpy(start._regions_KF), generator)
        self._regions_KF, first_N = regions_KF.numpy(), assign(features_NF, regions_KF)
        old = [torch.from_numpy(book) for book in start.books]
        books = [means(x, first_N, old[0][:, : x.shape[1]])]
        epochs = min(config.epochs, WARM_EPOCHS)
        training = Training(epochs, config.batch, WARM_RATE * config.learning_rate, config.entropy_weight)
        if config.levels > 2:
            middle = [book[:, : x.shape[1]] for book in old[1:-1]]
            books = fit_residual(x, config.levels - 1, config.codes, training, generator, (books[0], first_N), middle)
        residual_ND = x - decode(encode(x, books, first_N), books)
        self._doorway_weight = start._doorway_weight
        beside = self._doorway_weight * torch.from_numpy(doorway.doorways(items))
        last = fit_residual(torch.cat([residual_ND, beside], 1), 1, config.codes, training, generator, start=[old[-1]])
        return [*(np.pad(book.numpy(), ((0, 0), (0, doorway.DIM))) for book in books), last[0].numpy()]

    def _reorder(self, level: int, old_K: IntArray) -> None:
        if level == 1:
            self._regions_KF = np.ascontiguousarray(self._regions_KF[old_K])

    def _project(
        self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None
    ) -> tuple[FloatArray, IntArray]:
        import torch

        from lgsid.sid.kmeans import assign

        emb = self.check_pair(items, emb_ND)
        x_NC = np.zeros((len(emb), emb.shape[1] + doorway.DIM), dtype=np.float32)
        x_NC[:, : emb.shape[1]] = emb
        if self._doorway_weight > 0:
            x_NC[:, emb.shape[1] :] = self._doorway_weight * doorway.doorways(items)
        features_NF = torch.from_numpy(self._features.transform(items))
        return x_NC, assign(features_NF, torch.from_numpy(self._regions_KF)).numpy()

    def _state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        state = {"doorway_weight": self._doorway_weight, "features": self._features.state()}
        return {"regions_KF": self._regions_KF}, state

    def _restore(self, tensors: Mapping[str, FloatArray], state: Mapping[str, Any]) -> None:
        self._features = GeoFeatures.restore(self.config.features, state["features"])
        self._regions_KF, self._doorway_weight = tensors["regions_KF"], float(state["doorway_weight"])
