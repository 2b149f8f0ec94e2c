"""Two streams: geographic tokens that know the place alone, semantic tokens that know what the place does not explain.

After LGRID (arXiv 2607.27944), which argues that geography and meaning should not share codes. Where they do, codes
behind a geographic token describe what it leaves over, and shops of one kind get other codes in every town. Here

    geographic stream   features of the place without content (`lgsid.sid.features`), coded by residual k-means
    semantic stream     the embedding less its ridge regression on those features, coded by residual k-means

That is the idea in its simplest form, not a reproduction of the paper's model.

The space of the codebooks holds both streams side by side, C = F + D, and each codebook is zero in the dimensions of
the other stream: residual coding of the whole then codes each stream by itself, and a semantic token says the same
behind every geographic one. An embedding is decoded as the semantic part plus what the regression expects at the coded
place.

Axes: N items, F features of the place, D embedding dimensions, C = F + D.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray
from lgsid.errors import ConfigError
from lgsid.sid.base import Tokenizer, chunks
from lgsid.sid.features import GeoFeatures


class TwoStreamTokenizer(Tokenizer):
    """Separate geographic and semantic tokens, the geographic ones first; see `Tokenizer` for the arguments."""

    method: ClassVar[str] = "two_stream"
    place_levels: ClassVar[frozenset[int]] = frozenset({1})

    _features: GeoFeatures
    _slope_FD: FloatArray
    """What a unit of each feature adds to the expected embedding."""
    _intercept_D: FloatArray

    def lift(self, x_NC: FloatArray) -> FloatArray:
        """The semantic part, and the embedding that is expected at the place."""
        width = len(self._slope_FD)
        return x_NC[:, width:] + self._expected(x_NC[:, :width])

    def _learn(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> list[FloatArray]:
        import torch

        from lgsid.sid.res_kmeans import residual_kmeans

        config = self.config
        levels = config.two_stream.geographic_levels
        if levels >= config.levels:
            raise ConfigError(
                f"{levels} geographic of {config.levels} levels leave none for the semantic stream",
                f"--set sid.two_stream.geographic_levels={config.levels - 1}",
            )
        # the place alone: a stream that saw the category would not be geographic
        self._features = GeoFeatures.fit(items, config.features.model_copy(update={"content": 0.0}))
        place_NF = self._features.transform(items)
        self._slope_FD, self._intercept_D = ridge(place_NF, emb_ND, config.two_stream.ridge)
        generator = torch.Generator().manual_seed(self.seed)
        meaning_ND = torch.from_numpy(emb_ND - self._expected(place_NF))
        place = residual_kmeans(torch.from_numpy(place_NF), levels, config.codes, config.res_kmeans, generator)
        meaning = residual_kmeans(meaning_ND, config.levels - levels, config.codes, config.res_kmeans, generator)
        width, dim = self._slope_FD.shape
        return [
            *(np.pad(book.numpy(), ((0, 0), (0, dim))) for book in place),
            *(np.pad(book.numpy(), ((0, 0), (width, 0))) for book in meaning),
        ]

    def _project(self, items: pl.DataFrame, emb_ND: FloatArray, events: pl.DataFrame | None) -> tuple[FloatArray, None]:
        emb = self.check_pair(items, emb_ND)
        place_NF = self._features.transform(items)
        return np.concatenate([place_NF, emb - self._expected(place_NF)], axis=1), None

    def _expected(self, place_NF: FloatArray) -> FloatArray:
        expected: FloatArray = place_NF @ self._slope_FD + self._intercept_D
        return expected

    def _state(self) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        tensors = {"slope_FD": self._slope_FD, "intercept_D": self._intercept_D}
        return tensors, {"features": self._features.state()}

    def _restore(self, tensors: Mapping[str, FloatArray], state: Mapping[str, Any]) -> None:
        config = self.config.features.model_copy(update={"content": 0.0})
        self._features = GeoFeatures.restore(config, state["features"])
        self._slope_FD, self._intercept_D = tensors["slope_FD"], tensors["intercept_D"]


def ridge(x_NF: FloatArray, y_ND: FloatArray, penalty: float) -> tuple[FloatArray, FloatArray]:
    """Slope (F, D) and intercept (D,) of ``y ≈ x @ slope + intercept``.

    Minimises the mean squared error plus ``penalty`` · (mean variance of the features) · |slope|². Sums are of double
    precision and chunk by chunk.
    """
    x_mean, y_mean = x_NF.mean(axis=0, dtype=np.float64), y_ND.mean(axis=0, dtype=np.float64)
    covariance_FF = np.zeros((x_NF.shape[1], x_NF.shape[1]))
    shared_FD = np.zeros((x_NF.shape[1], y_ND.shape[1]))
    for rows in chunks(len(x_NF)):
        x = x_NF[rows] - x_mean
        covariance_FF += x.T @ x / len(x_NF)
        shared_FD += x.T @ (y_ND[rows] - y_mean) / len(x_NF)
    strength = penalty * float(np.trace(covariance_FF)) / len(covariance_FF)
    # where all items stand in one place there is nothing to learn from it; any positive strength then says so
    slope_FD = np.linalg.solve(covariance_FF + (strength or 1.0) * np.eye(len(covariance_FF)), shared_FD)
    return slope_FD.astype(np.float32), (y_mean - x_mean @ slope_FD).astype(np.float32)
