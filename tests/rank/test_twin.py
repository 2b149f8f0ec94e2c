"""TWIN: both stages score alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_histories import toy_batch, toy_config, toy_ranker

from lgsid.rank.base import Batch
from lgsid.rank.twin import Twin


def twin(keep: int, seed: int = 0, distance: bool = True) -> Twin:
    """A model whose biases are as strong as its inner products."""
    ranker = toy_ranker(Twin, toy_config(keep=keep, distance=distance), seed).double()
    for name, parameter in ranker.named_parameters():
        if name.endswith("_bias"):
            torch.nn.init.normal_(parameter)
    return ranker


def full_scores(ranker: Twin, e_UD: Tensor, batch: Batch) -> Tensor:
    """(B, C, H, T) by the formula: (q W_q)(h W_h)^T / sqrt(E) + biases."""
    q_BCHE = ranker.attention.query(e_UD[batch.candidates_BC]).unflatten(-1, (2, 4))
    k_BTHE = ranker.attention.key(e_UD[batch.history_BT]).unflatten(-1, (2, 4))
    score_BCHT = torch.einsum("bche,bthe->bcht", q_BCHE, k_BTHE) / 2.0
    bias_BTH = ranker.gap_bias[batch.gap_BT]
    if ranker.config.distance:
        assert batch.band_BT is not None
        assert batch.region_BT is not None
        bias_BTH = bias_BTH + ranker.band_bias[batch.band_BT] + ranker.region_bias[batch.region_BT]
    return score_BCHT + bias_BTH.transpose(1, 2)[:, None]


def long_term(ranker: Twin, e_UD: Tensor, batch: Batch) -> Tensor:
    return ranker.long_term(e_UD[batch.candidates_BC], e_UD, batch)


@pytest.mark.parametrize("distance", [True, False])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_first_stage_keeps_exactly_the_top_of_the_second_stages_scores(distance: bool, seed: int) -> None:
    ranker = twin(5, seed, distance)
    lengths = (30, 8, 3, 0)
    batch = toy_batch(lengths, seed=seed)
    e_UD = ranker.items(batch.items_U).detach()
    query_BXD = ranker.attention.queries(e_UD[batch.candidates_BC]).flatten(1, 2)
    kept = ranker.first_stage(query_BXD, e_UD, batch)
    score_BXT = full_scores(ranker, e_UD, batch).flatten(1, 2).masked_fill(~batch.mask_BT[:, None], -torch.inf)
    for row, length in enumerate(lengths):
        for place_K, mask_K, score_T in zip(kept.place_BXK[row], kept.mask_BXK[row], score_BXT[row], strict=True):
            chosen = place_K[mask_K]
            assert len(chosen) == min(5, length)
            assert (chosen >= 30 - length).all()
            left = torch.ones(30, dtype=torch.bool)
            left[chosen] = False
            if len(chosen):
                assert score_T[chosen].min() >= score_T[left].max() - 1e-6


def test_the_interest_is_attention_over_the_top_scores_of_each_head() -> None:
    ranker = twin(4)
    batch = toy_batch((20, 6, 1))
    e_UD = ranker.items(batch.items_U).detach()
    score_BCHT = full_scores(ranker, e_UD, batch).masked_fill(~batch.mask_BT[:, None, None], -torch.inf)
    lowest = score_BCHT.topk(4).values[..., -1:]
    weight_BCHT = score_BCHT.masked_fill(score_BCHT < lowest, -torch.inf).softmax(-1)
    v_BTHE = ranker.attention.value(e_UD[batch.history_BT] + ranker.cross(batch)).unflatten(-1, (2, 4))
    expected = ranker.joined(torch.einsum("bcht,bthe->bche", weight_BCHT, v_BTHE).flatten(-2))
    torch.testing.assert_close(long_term(ranker, e_UD, batch), expected)


def test_cross_features_decide_what_is_kept() -> None:
    ranker = twin(3)
    batch = toy_batch((20,), seed=1)
    e_UD = ranker.items(batch.items_U).detach()
    query_BXD = ranker.attention.queries(e_UD[batch.candidates_BC]).flatten(1, 2)
    with torch.no_grad():
        ranker.gap_bias.zero_()
        ranker.gap_bias[7, 1] = 1000  # the second head wants one bucket above all
    batch.gap_BT[0] = 3
    batch.gap_BT[0, [2, 5, 11]] = 7
    kept = ranker.first_stage(query_BXD, e_UD, batch).place_BXK[0].sort(-1).values.tolist()
    assert all(places == [2, 5, 11] for places in kept[1::2])
    assert all(places != [2, 5, 11] for places in kept[::2])


def test_biases_and_projections_learn() -> None:
    ranker = twin(4)
    batch = toy_batch()
    e_UD = ranker.items(batch.items_U)
    long_term(ranker, e_UD, batch).square().sum().backward()
    for name in ("gap_bias", "band_bias", "region_bias", "attention.key.weight", "attention.query.weight"):
        gradient = ranker.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.abs().max() > 0, name
