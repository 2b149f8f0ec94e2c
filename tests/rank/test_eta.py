"""ETA: signatures, Hamming distances and the visits that they keep."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_histories import toy_batch, toy_config, toy_ranker

from lgsid.rank.eta import Eta, hamming, pack


@pytest.mark.parametrize("bits", [1, 2, 31, 32, 33, 63])
def test_hamming_distance_equals_brute_force(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    a_BCG = torch.rand(3, 4, bits, generator=generator) > 0.5
    b_BTG = torch.rand(3, 50, bits, generator=generator) > 0.5
    a_BCG[0], b_BTG[0, :25], b_BTG[0, 25:] = True, True, False  # all bits alike, all bits different
    found = hamming(pack(a_BCG.flatten(0, 1)).view(3, 4, -1), pack(b_BTG.flatten(0, 1)).view(3, 50, -1))
    assert torch.equal(found, (a_BCG[:, :, None] != b_BTG[:, None]).sum(-1).int())
    assert found[0, 0, 0] == 0
    assert found[0, 0, -1] == bits


@given(st.lists(st.booleans(), min_size=1, max_size=63))
def test_packed_bits_can_be_read_back(bits: list[bool]) -> None:
    words = pack(torch.tensor([bits]))[0].tolist()
    assert [bool(words[place // 32] >> place % 32 & 1) for place in range(len(bits))] == bits
    ones = hamming(torch.tensor([[words]], dtype=torch.int32), torch.zeros(1, 1, len(words), dtype=torch.int32))
    assert ones.item() == sum(bits)


@pytest.mark.parametrize("bits", [4, 40])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_selection_equals_brute_force(bits: int, seed: int) -> None:
    # with 4 bits most distances tie
    ranker = toy_ranker(Eta, toy_config(keep=5, hash_bits=bits), seed)
    lengths = (30, 8, 3, 0)
    batch = toy_batch(lengths, seed=seed)
    e_UD = ranker.items(batch.items_U)
    kept = ranker.nearest(e_UD, batch)
    sign_UG = (e_UD @ ranker.directions_DG > 0).tolist()
    for row, length in enumerate(lengths):
        visits = batch.history_BT[row].tolist()
        for candidate, item in enumerate(batch.candidates_BC[row].tolist()):
            distance = {
                place: sum(x != y for x, y in zip(sign_UG[item], sign_UG[visits[place]], strict=True))
                for place in range(30 - length, 30)
            }
            best = sorted(distance, key=lambda place: (distance[place], -place))[:5]
            chosen = kept.place_BXK[row, candidate][kept.mask_BXK[row, candidate]].tolist()
            assert sorted(chosen) == sorted(best)


def test_directions_belong_to_the_model_and_not_to_the_run() -> None:
    one, other = (toy_ranker(Eta, toy_config(), seed) for seed in (0, 1))
    assert torch.equal(one.directions_DG, other.directions_DG)
    assert "directions_DG" in one.state_dict()
    assert all(name != "directions_DG" for name, _ in one.named_parameters())


def test_differing_bits_measure_the_angle() -> None:
    ranker = toy_ranker(Eta, toy_config(hash_bits=63))
    generator = torch.Generator().manual_seed(0)
    a_UD = torch.randn(400, 8, generator=generator)
    b_UD = a_UD + torch.randn(400, 8, generator=generator)
    differing_U = hamming(ranker.signatures(a_UD)[:, None], ranker.signatures(b_UD)[:, None]).flatten()
    angle_U = torch.arccos(torch.cosine_similarity(a_UD, b_UD))
    expected = angle_U / math.pi * 63
    assert abs(float((differing_U - expected).mean())) < 1.5
    assert float(torch.corrcoef(torch.stack([differing_U.float(), expected]))[0, 1]) > 0.8
    assert hamming(ranker.signatures(a_UD)[:, None], ranker.signatures(-a_UD)[:, None]).eq(63).all()
    assert hamming(ranker.signatures(a_UD)[:, None], ranker.signatures(3 * a_UD)[:, None]).eq(0).all()


def test_the_search_carries_no_gradient() -> None:
    ranker = toy_ranker(Eta, toy_config())
    batch = toy_batch()
    e_UD = ranker.items(batch.items_U)
    assert not ranker.signatures(e_UD).requires_grad
    ranker(batch).logit_BC.sum().backward()
    assert ranker.items.tables[0].grad is not None
