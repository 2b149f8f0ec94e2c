"""The tokenisers by name: what `sid.method` in a configuration may say."""

from __future__ import annotations

from pathlib import Path

from lgsid.artifact import read_json
from lgsid.config import SidConfig
from lgsid.errors import ArtifactError
from lgsid.registry import find_class
from lgsid.sid.base import REFIT, Tokenizer

METHODS = {
    "hgit": "lgsid.sid.hierarchical:HierarchicalTokenizer",
    "res_kmeans": "lgsid.sid.res_kmeans:ResKMeansTokenizer",
    "rqvae": "lgsid.sid.rqvae:RqVaeTokenizer",
    "rqvae_ngram": "lgsid.sid.ngram:NgramTokenizer",
    "unified": "lgsid.sid.unified:UnifiedTokenizer",
    "gnpr": "lgsid.sid.gnpr:GnprTokenizer",
    "two_stream": "lgsid.sid.two_stream:TwoStreamTokenizer",
    "geo_grid": "lgsid.sid.geo_grid:GeoGridTokenizer",
    "random": "lgsid.sid.random_codes:RandomTokenizer",
}
"""Where each class lives; imported when it is asked for."""


def tokenizer_class(method: str) -> type[Tokenizer]:
    """The class of a method.

    Raises:
        ConfigError: there is no such method.
    """
    found: type[Tokenizer] = find_class(METHODS, method, "tokeniser", "--set sid.method=hgit")
    return found


def make_tokenizer(config: SidConfig, seed: int) -> Tokenizer:
    """An unfitted tokeniser of the configured method."""
    return tokenizer_class(config.method)(seed=seed, config=config)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The fitted tokeniser in a folder, whatever its method.

    Raises:
        ArtifactError: there is none, or it is corrupt.
    """
    method = read_json(Path(folder) / "config.json").get("method")
    if method not in METHODS:
        raise ArtifactError(f"{folder} holds a tokeniser of an unknown method {method!r}", REFIT)
    return tokenizer_class(method).from_pretrained(folder)
