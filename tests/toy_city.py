"""Two towns 50 km apart whose people go round their streets, and now and then on to the other town.

A street has four items. Behind the last one people go back to the first, or, a little more often, to the first of the
next street, which is in the other town. So the likeliest lists leave what can be reached, and hardly worse ones do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from toy_generate import visits_of
from toy_rows import HOUR, ITEMS, SIZES, codes, small

from lgsid.arrays import DoubleArray
from lgsid.config import GenerateConfig, PreferenceConfig, SessionConfig
from lgsid.generate.generating import Data
from lgsid.generate.onerec import OneRec
from lgsid.rank.visits import Visits

STREET = 4


def town_places() -> tuple[DoubleArray, DoubleArray]:
    """Streets in turn in the one town and the other."""
    rng = np.random.default_rng(0)
    town = np.arange(ITEMS) // STREET % 2
    return 40.0 + 0.45 * town + rng.uniform(-0.01, 0.01, ITEMS), -74.0 + rng.uniform(-0.01, 0.01, ITEMS)


def walk(length: int, rng: np.random.Generator) -> list[int]:
    """Items that somebody visits one after the other."""
    items = [int(rng.integers(ITEMS))]
    while len(items) < length:
        at, away = items[-1], rng.random()
        if away < 0.1:
            items.append(int(rng.integers(ITEMS)))
        elif at % STREET < STREET - 1:
            items.append(at + 1)
        else:
            items.append((at + 1) % ITEMS if rng.random() < 0.55 else at - STREET + 1)
    return items


def town_visits(users: int = 24, length: int = 24) -> Visits:
    """A visit an hour; the last fifth of the hours are for validation and test."""
    rng = np.random.default_rng(1)
    rows = [(user, item, hour * HOUR) for user in range(users) for hour, item in enumerate(walk(length, rng))]
    return visits_of(rows, (int(0.8 * length) * HOUR, int(0.9 * length) * HOUR))


def city(users: int = 24, amount_N: DoubleArray | None = None) -> Data:
    """Everything that generators are trained on."""
    return Data(*town_places(), town_visits(users), codes(), SIZES, amount_N)


def options(preference: dict[str, Any] | None = None, **changes: Any) -> GenerateConfig:
    """OneRec and SASRec, small enough to be trained in seconds, and a round with all requests."""
    wanted = {"share": 1.0, "beams": 8, "epochs": 1.0, "learning_rate": 2e-3, **(preference or {})}
    few = {"epochs": 1, "least_updates": 80, "validations": 1, "patience": 9, "sessions": SessionConfig(items=2)}
    few |= {"nearness": False}  # with it lists are within reach from the start, which leaves preference little to do
    return small(**{**few, "preference": PreferenceConfig(**wanted), **changes})


def state_of(model: OneRec) -> dict[str, torch.Tensor]:
    """A copy of the parameters."""
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
