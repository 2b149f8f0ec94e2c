"""Which items alignment may learn from.

    train        the objective sees their prompts and places
    validation   chooses the best checkpoint
    test         reported on: new shops in known cities
    unseen       reported on: every item of some whole cities, of which training sees none
    spare        not needed: a large catalogue is trained on a sample

An item's part follows from its id and the seed alone, so it stays when the catalogue grows. Only the choice of unseen
cities, and the sample that is trained on, look at the whole catalogue.
"""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl

from lgsid.arrays import DoubleArray, IntArray
from lgsid.config import AlignmentConfig
from lgsid.data.labels import region_path
from lgsid.errors import DataError

PARTS = ("train", "validation", "test", "unseen", "spare")
LEAST_TRAINING_ITEMS = 32


def split_items(items: pl.DataFrame, config: AlignmentConfig, seed: int) -> pl.Series:
    """The part of each item, in the order of the table.

    Raises:
        DataError: too few items are left to train on.
    """
    chance_N = _chance(items["item_id"], seed, "item")
    part_N = np.full(len(items), "train", dtype=object)
    part_N[chance_N < config.validation_share + config.test_share] = "test"
    part_N[chance_N < config.validation_share] = "validation"
    if config.unseen_share > 0:
        city_N = region_path(items, 2)
        part_N[city_N.is_in(_unseen_cities(city_N, config.unseen_share, seed)).fill_null(False).to_numpy()] = "unseen"
    training = int((part_N == "train").sum())
    if training > config.most_items:
        rows = np.flatnonzero(part_N == "train")
        part_N[rows[np.argsort(chance_N[rows], kind="stable")[config.most_items :]]] = "spare"
    if training < LEAST_TRAINING_ITEMS:
        raise DataError(
            f"alignment got {training} training items, expected at least {LEAST_TRAINING_ITEMS}",
            "align.alignment.objective: none, or add items, or lower validation_share, test_share and unseen_share",
        )
    return pl.Series("part", part_N.tolist(), dtype=pl.String)


def rows_of(part_N: pl.Series) -> dict[str, IntArray]:
    """Rows of each part, in ascending order."""
    return {part: np.flatnonzero((part_N == part).to_numpy()) for part in PARTS}


def _unseen_cities(city_N: pl.Series, share: float, seed: int) -> list[str]:
    """Cities in a random order until they hold about the wished share of items, large ones passed over."""
    known = city_N.drop_nulls()
    names = known.unique().sort()
    order = names.gather(np.argsort(_chance(names, seed, "city"), kind="stable"))
    size = dict(known.value_counts().iter_rows())
    wanted, chosen, held = share * len(city_N), [], 0
    for name in order:
        if held + size[name] <= 1.25 * wanted:
            chosen.append(name)
            held += size[name]
    return chosen


def _chance(names: pl.Series, seed: int, kind: str) -> DoubleArray:
    """A number in [0, 1) for each name, the same in every catalogue."""
    digests = (hashlib.sha256(f"{kind}\x00{seed}\x00{name}".encode()).digest()[:8] for name in names.cast(pl.String))
    return np.fromiter((int.from_bytes(digest, "little") / 2**64 for digest in digests), np.float64, len(names))
