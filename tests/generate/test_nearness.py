"""What distances add to logits: by hand, in training as in decoding, and what is learnt from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_rows import ITEMS, SIZES, codes, make_generator, pack, places, small

from lgsid.generate.base import Packed
from lgsid.generate.methods import make_generator as make
from lgsid.generate.nearness import Nearness
from lgsid.generate.places import SidPlaces, Standing
from lgsid.generate.recommending import Generated
from lgsid.generate.tiger import Tiger
from lgsid.generate.trie import Trie

CPU = torch.device("cpu")


def filled(dim: int = 4) -> Nearness:
    torch.manual_seed(0)
    nearness = Nearness(dim, len(SIZES))
    for parameter in nearness.parameters():
        torch.nn.init.normal_(parameter)
    return nearness.requires_grad_(False)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_token_gets_the_bias_of_its_own_distance(level: int) -> None:
    nearness, found = filled(), SidPlaces(codes(), places())
    states_BWD, here_B13 = torch.randn(2, 3, 4), torch.from_numpy(places()[[3, 9]])[:, None]
    standing = Standing.at(found, here_B13)
    written = codes()[[[0, 5, 8], [11, 2, 2]]]
    for before in range(level):
        standing = standing.went(torch.from_numpy(written[..., before]).long(), before)
    logits_BWK = nearness(torch.zeros(2, 3, SIZES[level]), states_BWD, standing, level)
    for request in range(2):
        for beam in range(3):
            prefix = written[request, beam, :level]
            below = (codes()[:, :level] == prefix).all(axis=1)
            for token in range(SIZES[level]):
                rows = np.flatnonzero(below & (codes()[:, level] == token))
                expected = 0.0
                if len(rows):
                    middle_3 = torch.from_numpy(places()[rows].astype(np.float64).mean(axis=0))
                    bucket = found.bucket(here_B13[request, 0], (middle_3 / middle_3.norm()).float())
                    by_state = states_BWD[request, beam] @ nearness.by_state[level, bucket] / 4**0.5
                    expected = float(nearness.bias[level, bucket] + by_state)
                assert float(logits_BWK[request, beam, token]) == pytest.approx(expected, abs=1e-5)


def test_a_model_that_starts_knows_nothing_of_distance() -> None:
    with_it, without = make_generator("tiger", small(), 0), make_generator("tiger", small(nearness=False), 0)
    rows = pack([[[(0, 0), (5, 100), (7, 900)]]])
    for model in (with_it, without):
        model.eval()
    without.load_state_dict(with_it.state_dict(), strict=False)
    torch.testing.assert_close(with_it.likelihoods(rows), without.likelihoods(rows))


def test_no_places_no_nearness() -> None:
    with pytest.raises(ValueError, match="made with the places"):
        Tiger(codes(), SIZES, small())
    assert Tiger(codes(), SIZES, small(nearness=False)).places is None


def walks(rows: int, seed: int) -> Packed:
    """Users who are always somewhere else than where they were, and take what is next to them."""
    rng = np.random.default_rng(seed)
    packed = pack([[[(int(rng.integers(ITEMS)), 3_600 * place) for place in range(6)]] for _ in range(rows)])
    target_RT3 = torch.from_numpy(places())[packed.item_RT]
    near_RT3 = target_RT3 + 1e-6 * torch.from_numpy(rng.normal(size=target_RT3.shape)).float()
    return replace(packed, here_RT3=near_RT3)


def by_place() -> np.ndarray:
    """SIDs that narrow down from south to north, then from west to east."""
    y_N, x_N = places()[:, 2], np.arctan2(places()[:, 1], places()[:, 0])
    row_N = np.lexsort([x_N, y_N.argsort().argsort() // 8])
    sid_NL = np.empty((ITEMS, 3), dtype=np.int32)
    sid_NL[row_N] = np.stack(np.unravel_index(np.arange(ITEMS), (3, 4, 2)), axis=1)
    return sid_NL


def neighbour(codes_NL: np.ndarray) -> Tiger:
    """A model that has seen what people take who are next to it."""
    model = make("tiger", codes_NL, SIZES, small(pointer=False), 0, xyz_N3=places())
    assert isinstance(model, Tiger)
    optimizer, rows = torch.optim.AdamW(model.parameters(), lr=3e-2), walks(16, 0)
    for _ in range(80):
        loss, _ = model.loss(rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def found_next_door(model: Tiger, known: bool = True) -> float:
    """How often the shop next to the user is among the first three, where the history says nothing of the place."""
    asked = pack([[[(int(item), 0)]] for item in np.random.default_rng(1).integers(0, ITEMS, ITEMS)], first_target=9)
    asked = replace(asked, here_R3=torch.from_numpy(places()) * known)
    trie = Trie(model.codes_NL.numpy().astype(np.int32))
    best_RK = Generated(model, trie, ITEMS).top(asked, 3)
    return float(np.mean([row in best for row, best in enumerate(best_RK.tolist())]))


def test_who_takes_what_is_next_door_is_found_next_door() -> None:
    model = neighbour(by_place())
    assert found_next_door(model) > 0.6
    assert found_next_door(model, known=False) < 0.3
