"""The generators by name: what `generate.models` in a configuration may say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lgsid.registry import find_class

if TYPE_CHECKING:
    from lgsid.arrays import CodeArray, FloatArray, IntArray
    from lgsid.config import GenerateConfig
    from lgsid.generate.base import SequenceModel

GENERATORS = {
    "tiger": "lgsid.generate.tiger:Tiger",
    "onerec": "lgsid.generate.onerec:OneRec",
    "sasrec": "lgsid.generate.sasrec:SasRec",
}
"""Where each class lives; imported when it is asked for."""


def generator_class(name: str) -> type[SequenceModel]:
    """The class of a generator.

    Raises:
        ConfigError: there is no such generator.
    """
    found: type[SequenceModel] = find_class(GENERATORS, name, "generator", "--set 'generate.models=[tiger]'")
    return found


def make_generator(
    name: str,
    codes_NL: CodeArray,
    sizes: Sequence[int],
    config: GenerateConfig,
    seed: int,
    count_N: IntArray | None = None,
    xyz_N3: FloatArray | None = None,
) -> SequenceModel:
    """An untrained generator: same seed, same parameters.

    Args:
        name: of the generator.
        codes_NL: unique SIDs, int32; row n is item n.
        sizes: number of tokens of each level.
        config: sizes and options.
        seed: of the parameters.
        count_N: visits of each item in training, for models that sample items.
        xyz_N3: places of the items, on the unit sphere, for models with ``config.nearness``.
    """
    import torch

    from lgsid.generate.base import Generator

    found: Any = generator_class(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if issubclass(found, Generator):
            model: SequenceModel = found(codes_NL, sizes, config, xyz_N3)
        else:
            model = found(len(codes_NL), config, count_N, xyz_N3)
        return model
