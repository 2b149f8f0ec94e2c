"""DIN: the attention's layers written by hand against the plain formulation, and what the model must not see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toy_histories import of_its_own, rows_of, toy_batch, toy_config, toy_ranker

from lgsid.rank import din
from lgsid.rank.din import ActivationUnit, Din, _Dice, _moments, _Products


def toy_unit(dim: int, hidden: tuple[int, ...], seed: int = 0) -> ActivationUnit:
    """A unit in double precision whose Dice layers are not at their start."""
    torch.manual_seed(seed)
    unit = ActivationUnit(dim, hidden).double()
    for name, value in (*unit.named_parameters(), *unit.named_buffers()):
        if name.endswith("alpha") or name.endswith("running_mean"):
            nn.init.normal_(value)
        elif name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 2.0)
    return unit


class Plain(nn.Module):
    """What the paper draws: one linear layer over [q, h, q − h, q ⊙ h] of every pair, Dice, and the further layers.

    Its weight is [W_q − V, W_h + V, V, W_p] for any V: the first layer of `ActivationUnit` is the same function.
    """

    def __init__(self, unit: ActivationUnit) -> None:
        super().__init__()
        v_AD = torch.randn_like(unit.of_visit.weight)
        parts = [unit.of_candidate.weight - v_AD, unit.of_visit.weight + v_AD, v_AD, unit.of_product.weight]
        self.weight = nn.Parameter(torch.cat(parts, dim=1).detach())
        self.bias = nn.Parameter(unit.of_candidate.bias.detach().clone())
        self.activation, self.rest = unit.activation, unit.rest

    def forward(self, q_BCD: Tensor, h_BTD: Tensor) -> Tensor:
        q, h = torch.broadcast_tensors(q_BCD[:, :, None], h_BTD[:, None])
        x_BCTA = torch.cat([q, h, q - h, q * h], dim=-1) @ self.weight.t() + self.bias
        weight_BCT: Tensor = self.rest(self.activation(x_BCTA)).squeeze(-1)
        return weight_BCT


@pytest.mark.parametrize("hidden", [(6,), (6, 3)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("cached", [1, 100, 1 << 18])
def test_equals_the_plain_formulation(
    hidden: tuple[int, ...], training: bool, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(din, "_CACHED", cached)
    unit, twin = toy_unit(5, hidden).train(training), toy_unit(5, hidden).train(training)
    plain = Plain(twin)
    q_BCD = torch.randn(7, 3, 5, dtype=torch.double, requires_grad=True)
    h_BTD = torch.randn(7, 11, 5, dtype=torch.double, requires_grad=True)
    weigh_BCT = torch.randn(7, 3, 11, dtype=torch.double)
    found_BCT, wanted_BCT = unit(q_BCD, h_BTD), plain(q_BCD, h_BTD)
    torch.testing.assert_close(found_BCT, wanted_BCT)
    found = torch.autograd.grad((found_BCT * weigh_BCT).sum(), [q_BCD, h_BTD, *unit.parameters()])
    of_plain = [q_BCD, h_BTD, plain.weight, plain.bias, *plain.activation.parameters(), *plain.rest.parameters()]
    q, h, weight_A4D, bias, *rest = torch.autograd.grad((wanted_BCT * weigh_BCT).sum(), of_plain)
    of_q, of_h, _, of_product = weight_A4D.chunk(4, dim=1)
    for one, other in zip(found, (q, h, of_q, bias, of_h, of_product, *rest), strict=True):
        torch.testing.assert_close(one, other)
    for (name, one), (_, other) in zip(unit.named_buffers(), twin.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9), st.integers(1, 8))
def test_any_shape_in_single_precision(requests: int, candidates: int, steps: int, dim: int) -> None:
    unit = toy_unit(dim, (4,)).float()
    plain = Plain(toy_unit(dim, (4,)).float())
    q_BCD, h_BTD = torch.randn(requests, candidates, dim), torch.randn(requests, steps, dim)
    if requests * candidates * steps == 1:
        unit, plain = unit.eval(), plain.eval()  # torch's batch normalisation wants two
    torch.testing.assert_close(unit(q_BCD, h_BTD), plain(q_BCD, h_BTD), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cached", [1, 1 << 18])
def test_gradients_of_the_products(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(din, "_CACHED", cached)
    shapes = (2, 4, 3), (5, 4, 3), (6, 3), (6, 8), (6, 20)  # C = 2, B = 4, T = 5, D = 3, A = 6
    inputs = [torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(_Products.apply, inputs)


@pytest.mark.parametrize("cached", [1, 1 << 18])
@pytest.mark.parametrize("of_x", [True, False])
def test_gradients_of_dice(of_x: bool, cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(din, "_CACHED", cached)
    x_AP = torch.randn(3, 10, dtype=torch.double, requires_grad=True)
    alpha_A = torch.randn(3, dtype=torch.double, requires_grad=True)
    fixed = torch.randn(3, dtype=torch.double), torch.rand(3, dtype=torch.double)

    def of(x_AP: Tensor, alpha_A: Tensor) -> Tensor:
        if not of_x:
            return _Dice.apply(x_AP, alpha_A, *fixed, False)  # type: ignore[no-any-return, no-untyped-call]
        mean_A, variance_A = _moments(x_AP.detach())
        return _Dice.apply(x_AP, alpha_A, mean_A, (variance_A + 1e-3).rsqrt(), True)  # type: ignore[no-any-return, no-untyped-call]

    assert torch.autograd.gradcheck(of, (x_AP, alpha_A))


def test_one_pair_can_be_trained_on() -> None:
    unit = toy_unit(4, (3,)).train()
    unit(torch.randn(1, 1, 4, dtype=torch.double), torch.randn(1, 1, 4, dtype=torch.double)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in unit.parameters() if parameter.grad is not None)
    assert unit.activation.norm.running_var.isfinite().all()


def test_padding_does_not_matter() -> None:
    ranker = toy_ranker(Din, toy_config(history=12)).eval()
    batch = toy_batch()
    other = replace(batch, history_BT=torch.where(batch.mask_BT, batch.history_BT, 7))
    torch.testing.assert_close(ranker(other).logit_BC, ranker(batch).logit_BC)
    for row in range(len(batch.hour_B)):
        alone = ranker(rows_of(batch, row, row + 1)).logit_BC
        torch.testing.assert_close(alone[0], ranker(batch).logit_BC[row], atol=1e-5, rtol=1e-4)


def test_no_history_no_interest() -> None:
    ranker = toy_ranker(Din, toy_config(history=12))
    batch = toy_batch((12, 0))
    e_UD = ranker.items(batch.items_U)
    vector_BCI = ranker.interest(e_UD[batch.candidates_BC], e_UD, batch).vector_BCI
    assert vector_BCI[0].ne(0).all()
    assert vector_BCI[1].eq(0).all()


def test_interest_is_the_weighted_sum_of_the_visits() -> None:
    ranker = toy_ranker(Din, toy_config(history=12)).eval()
    batch = toy_batch((12, 5), candidates=2)
    q_BCD, h_BTD = torch.randn(2, 2, 8), torch.randn(2, 12, 8)
    found_BCD = ranker.interest(*of_its_own(q_BCD, h_BTD, batch)).vector_BCI
    seen_TD = h_BTD[1, -5:] + ranker.cross(batch)[1, -5:]
    weight_BCT = ranker.unit(q_BCD[1:], seen_TD[None])
    torch.testing.assert_close(found_BCD[1], weight_BCT[0] @ seen_TD)
    assert not torch.allclose(weight_BCT.sum(-1), torch.ones(1, 2))  # no softmax
