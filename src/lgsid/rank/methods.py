"""The rankers by name: what `rank.models` in a configuration may say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lgsid.registry import find_class

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
    found: type[Ranker] = find_class(RANKERS, name, "ranker", "--set 'rank.models=[din]'")
    return found


def make_ranker(name: str, features: ItemFeatures, config: RankConfig, seed: int) -> Ranker:
    """An untrained ranker: same seed, same parameters."""
    import torch

    from lgsid.rank.encoder import ItemEncoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ranker_class(name)(ItemEncoder(features, config), config)
