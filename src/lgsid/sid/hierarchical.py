"""HGIT: hierarchical geographic item tokenisation.

Reference: "LLM-Aligned Geographic Item Tokenization for Local-Life Recommendation" (AAAI 2026, arXiv 2511.14221). The
first token is a cluster of hard geography (`lgsid.sid.features`); its vector is the mean embedding of its members and
stays frozen. The further tokens are residual codebooks trained together with balanced use (`lgsid.sid.residual`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray
from lgsid.artifact import atomic_path, read_json, write_json, write_text
from lgsid.config import SidConfig
from lgsid.errors import ArtifactError
from lgsid.sid.base import Tokenizer, config_json
from lgsid.sid.explain import TokenBook, describe_tokens, model_card
from lgsid.sid.features import GeoFeatures, Place


class HierarchicalTokenizer(Tokenizer):
    """Geographic first token, learned residual tokens.

    Args:
        levels: tokens per SID, L.
        codes: codes per level, K.
        seed: same seed, same data, same bits.
        config: all further options; overrides ``levels`` and ``codes``.

    Example:
        >>> tokenizer = HierarchicalTokenizer(levels=3, codes=256).fit(items, embeddings)
        >>> codes_NL = tokenizer.transform(items, embeddings)
        >>> print(tokenizer.explain(codes_NL[0]))
    """

    method: ClassVar[str] = "hgit"

    def __init__(self, levels: int = 3, codes: int = 256, seed: int = 0, config: SidConfig | None = None) -> None:
        self.config = config or SidConfig(levels=levels, codes=codes)
        self.seed = seed
        self.books: list[FloatArray] = []
        self.tokens = TokenBook({})
        self._features: GeoFeatures | None = None
        self._regions_KF: FloatArray | None = None

    def fit(self, items: pl.DataFrame, emb_ND: FloatArray) -> Self:
        """Learn the geographic clusters, then the residual codebooks.

        Raises:
            ConfigError: the catalogue has fewer items than ``codes``.
            DataError: a coordinate column is missing, or embeddings do not fit the items.
        """
        import torch

        from lgsid.sid.kmeans import assign, fit_centroids, means
        from lgsid.sid.residual import SAMPLE_PER_CODE, Training, fit_residual

        config = self.config
        x_ND = torch.from_numpy(self.check_pair(items, emb_ND))
        generator = torch.Generator().manual_seed(self.seed)
        self._features = GeoFeatures.fit(items, config.features)
        features_NF = torch.from_numpy(self._features.transform(items))
        regions_KF = fit_centroids(features_NF, config.codes, 20, SAMPLE_PER_CODE, generator)
        self._regions_KF = regions_KF.numpy()
        first_N = assign(features_NF, regions_KF)
        # a region without items (possible only where points repeat) stands for the whole catalogue
        frozen_KD = means(x_ND, first_N, x_ND.mean(0).expand(config.codes, -1).clone())
        training = Training(config.epochs, config.batch, config.learning_rate, config.entropy_weight)
        books = fit_residual(x_ND, config.levels, config.codes, training, generator, (frozen_KD, first_N))
        self.books = [np.ascontiguousarray(book.numpy()) for book in books]
        self.tokens = describe_tokens(items, self.transform(items, emb_ND))
        return self

    def transform(self, items: pl.DataFrame, emb_ND: FloatArray) -> CodeArray:
        """Raw codes, int32 of shape (N, L): nearest region of the features, then nearest centroid of each residual."""
        import torch

        from lgsid.sid.kmeans import assign
        from lgsid.sid.residual import encode

        if self._features is None or self._regions_KF is None:
            raise self._not_fitted("transform")
        x_ND = torch.from_numpy(self.check_pair(items, emb_ND))
        first_N = assign(torch.from_numpy(self._features.transform(items)), torch.from_numpy(self._regions_KF))
        codes_NL = encode(x_ND, [torch.from_numpy(book) for book in self.books], first_N)
        result: CodeArray = codes_NL.numpy().astype(np.int32)
        return result

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json, regions.json, codebooks.safetensors, tokens.json and the model card README.md."""
        from safetensors.numpy import save_file

        if self._features is None or self._regions_KF is None:
            raise self._not_fitted("save_pretrained")
        tensors = {f"level_{level}": book for level, book in enumerate(self.books, start=1)}
        with atomic_path(folder / "codebooks.safetensors") as path:
            save_file({**tensors, "regions_KF": self._regions_KF}, path)
        write_json(folder / "regions.json", {
            "whole": asdict(self._features.whole),
            "provinces": {name: asdict(place) for name, place in self._features.provinces.items()},
            "cities": {name: asdict(place) for name, place in self._features.cities.items()},
        })  # fmt: skip
        write_json(folder / "tokens.json", self.tokens.to_json())
        write_text(folder / "README.md", model_card(self.method, self.config, self.books, self.tokens))
        write_json(folder / "config.json", config_json(self.method, self.seed, self.config.model_dump()))

    @classmethod
    def from_pretrained(cls, folder: Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            ArtifactError: a file is missing, corrupt, of another method or of another shape.
        """
        folder = Path(folder)
        stored = read_json(folder / "config.json")
        if stored.pop("method", None) != cls.method or stored.pop("format", None) != 1:
            raise ArtifactError(f"{folder} does not hold a {cls.method!r} tokeniser of format 1", "lgsid tokenize RUN")
        tokenizer = cls(seed=stored.pop("seed"), config=SidConfig.model_validate(stored))
        tensors = _tensors(folder / "codebooks.safetensors")
        names = [f"level_{level}" for level in range(1, tokenizer.config.levels + 1)]
        if set(tensors) != {*names, "regions_KF"} or any(
            len(book) != tokenizer.config.codes for book in tensors.values()
        ):
            raise ArtifactError(f"{folder}: codebooks do not fit config.json: {sorted(tensors)}", "lgsid tokenize RUN")
        regions = read_json(folder / "regions.json")
        places = [{name: _place(place) for name, place in regions[level].items()} for level in ("provinces", "cities")]
        tokenizer._features = GeoFeatures(tokenizer.config.features, _place(regions["whole"]), *places)
        tokenizer._regions_KF = tensors["regions_KF"]
        tokenizer.books = [tensors[name] for name in names]
        tokenizer.tokens = TokenBook.from_json(read_json(folder / "tokens.json"))
        return tokenizer


def _place(stored: dict[str, Any]) -> Place:
    x, y, z = stored["centre"]
    return Place((x, y, z), stored["spread_km"])


def _tensors(path: Path) -> dict[str, FloatArray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, FloatArray] = load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}", "lgsid tokenize RUN") from error
    return tensors
