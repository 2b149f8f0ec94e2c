"""Packed rows that are made by hand: users who go round in circles of shops, so that what comes next can be learned.

Its `main` is run by two processes in the tests of training.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from lgsid.arrays import IntArray
from lgsid.config import GenerateConfig
from lgsid.generate.base import Packed
from lgsid.generate.methods import make_generator as make
from lgsid.generate.training import HeldOut, SequenceTraining, train_generator
from lgsid.geo import unit_sphere
from lgsid.trainer import distributed, rank

ITEMS, CIRCLE = 24, 4
"""Items; next to k is k + 1 within circles of so many."""
SIZES = (3, 4, 4)
Segment = list[tuple[int, int]]
"""Visits of one user: item, and seconds since the start."""

START = 1_700_000_000
HOUR = 3_600


def small(**changes: Any) -> GenerateConfig:
    """A model that learns the circles in a second."""
    return GenerateConfig(**{"history": 5, "dim": 16, "heads": 2, "feed_forward": 32, "encoder_layers": 1,
                             "decoder_layers": 1, "dropout": 0.0, "batch": 4, "learning_rate": 1e-2, "beams": 12,
                             "time": False, "distance": False, **changes})  # fmt: skip


def codes(items: int = ITEMS, seed: int = 0) -> np.ndarray:
    """Unique SIDs of `SIZES`, in an order that means nothing."""
    n = np.random.default_rng(seed).permutation(int(np.prod(SIZES)))[:items]
    return np.stack(np.unravel_index(n, SIZES), axis=1).astype(np.int32)


def places() -> np.ndarray:
    """Shops within a few kilometres, on the unit sphere."""
    rng = np.random.default_rng(5)
    return unit_sphere(40.7 + rng.normal(0, 0.02, ITEMS), -74.0 + rng.normal(0, 0.02, ITEMS)).astype(np.float32)


def after(item: int) -> int:
    """Where one goes from an item."""
    return item // CIRCLE * CIRCLE + (item + 1) % CIRCLE


def make_generator(name: str, config: GenerateConfig, seed: int) -> Any:
    """A generator of the shops."""
    return make(name, codes(), SIZES, config, seed, xyz_N3=places())


def circle(start: int, length: int, hours: float = 1.0) -> Segment:
    """Visits one after the other."""
    visits, item = [], start
    for k in range(length):
        visits.append((item, int(k * hours * HOUR)))
        item = after(item)
    return visits


def pack(rows: list[list[Segment]], first_target: int = 1, length: int = 0) -> Packed:
    """Rows of segments; all but the first visits of each segment are targets, unless at the second of the one before.

    Args:
        rows: segments of each row.
        first_target: visits of a segment that come before its first target.
        length: of the rows at least.
    """
    total = max([length, *(sum(map(len, row)) for row in rows)])
    shape = (len(rows), total)
    item, segment, time, user = np.zeros(shape), np.full(shape, -1), np.zeros(shape), np.zeros(shape)
    target = np.zeros(shape, dtype=bool)
    band = np.zeros(shape)
    for r, row in enumerate(rows):
        at = 0
        for s, visits in enumerate(row):
            for k, (what, seconds) in enumerate(visits):
                item[r, at], segment[r, at], time[r, at], user[r, at] = what, s, START + seconds, s
                band[r, at] = (what * 7 + k) % 16 if k else 0
                target[r, at] = k >= first_target and seconds != visits[k - 1][1]
                at += 1
    here = np.zeros((*shape, 3), dtype=np.float32)
    here[:, 1:] = np.where((segment[:, 1:] == segment[:, :-1])[..., None], places()[item[:, :-1].astype(int)], 0)
    length_R = (segment >= 0).sum(axis=1)
    last_R3 = places()[item[np.arange(len(rows)), np.maximum(length_R - 1, 0)].astype(int)]
    now_R = np.array([START + (row[-1][-1][1] + HOUR if row and row[-1] else 0) for row in rows])
    tensors = (item, segment, target, time, band, user, length_R, now_R)
    return Packed(
        *(torch.from_numpy(np.asarray(t)) if t is target else torch.from_numpy(np.asarray(t)).long() for t in tensors),
        here_RT3=torch.from_numpy(here),
        here_R3=torch.from_numpy(np.where(length_R[:, None] > 0, last_R3, 0).astype(np.float32)),
    )


class ToyRows:
    """Rows of circles that begin everywhere, as a source to train from."""

    def __init__(self, rows: int = 24, seed: int = 0, length: int = 12) -> None:
        rng = np.random.default_rng(seed)
        starts = [int(start) for _ in range(-(-2 * rows // ITEMS)) for start in rng.permutation(ITEMS)]
        halves = (length // 2, length - length // 2)
        self.all = pack([[circle(starts[2 * r + s], halves[s]) for s in range(2)] for r in range(rows)])
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.all)

    def rows(self, index: IntArray) -> Packed:
        """Some of them."""
        self.asked.extend(index.tolist())
        return select(self.all, torch.from_numpy(index))


def select(rows: Packed, which: Any) -> Packed:
    """Some rows."""
    return Packed(*(getattr(rows, field.name)[which] for field in fields(Packed)))


def toy_requests(count: int = ITEMS, length: int = 3) -> tuple[Packed, IntArray]:
    """A request from each of the first items, and its answer."""
    rows = [circle(start, length) for start in range(count)]
    return pack([[row] for row in rows], first_target=length), np.array([after(row[-1][0]) for row in rows])


def toy_training(config: GenerateConfig, seed: int = 0, examples: IntArray | None = None) -> SequenceTraining:
    """SASRec on circles."""
    model = make_generator("sasrec", config, seed)
    source, held = ToyRows(), HeldOut(*toy_requests())
    recommender: Any = model
    return SequenceTraining(model, recommender, source, np.arange(len(source)) if examples is None else examples, held)


def state_of(training: SequenceTraining) -> list[Tensor]:
    """A copy of the parameters."""
    return [parameter.detach().clone() for parameter in training.model.parameters()]


def main(out: Path) -> None:
    """Train in one of several processes, and write what it ended with."""
    torch.set_num_threads(1)
    with distributed():
        config = small(epochs=8, least_updates=1, batch=2)
        training = toy_training(config)
        train_generator(training, config, seed=0)
        save_file(training.model.state_dict(), out / f"{rank()}.safetensors")
