"""The rankers by name: what `rank.models` in a configuration may say."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lgsid.errors import ConfigError

if TYPE_CHECKING:
    from lgsid.config import RankConfig
    from lgsid.rank.base import Ranker
    from lgsid.rank.features import ItemFeatures

RANKERS = {
    "din": "lgsid.rank.din:Din",
    "dien": "lgsid.rank.dien:Dien",
    "sim": "lgsid.rank.sim:Sim",
    "twin": "lgsid.rank.twin:Twin",
    "eta": "lgsid.rank.eta:Eta",
}
"""Where each class lives; imported when it is asked for."""


def ranker_class(name: str) -> type[Ranker]:
    """The class of a ranker.

    Raises:
        ConfigError: there is no such ranker.
    """
    if name not in RANKERS:
        raise ConfigError(f"no ranker {name!r}; known: {', '.join(RANKERS)}", "--set 'rank.models=[din]'")
    module, of_module = RANKERS[name].split(":")
    found: type[Ranker] = getattr(import_module(module), of_module)
    return found


def make_ranker(name: str, features: ItemFeatures, config: RankConfig, seed: int) -> Ranker:
    """An untrained ranker: same seed, same parameters."""
    import torch

    from lgsid.rank.encoder import ItemEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ranker_class(name)(ItemEncoder(features, config), config)
