"""Mixtures of experts: against what every expert makes of every token."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lgsid.generate.moe import BALANCE, SparseExperts


def layer(active: int, experts: int = 4, dropout: float = 0.0) -> SparseExperts:
    torch.manual_seed(0)
    made = SparseExperts(dim=6, inner=10, dropout=dropout, experts=experts, active=active, balance_weight=0.5)
    nn.init.normal_(made.router.weight)
    return made


def balance(layer: SparseExperts, x: Tensor) -> float:
    return float(layer(x)[1][BALANCE].detach())


def dense(layer: SparseExperts, x_XD: Tensor) -> Tensor:
    """All experts see all tokens; those that are not active count nothing."""
    p_XE = torch.softmax(x_XD @ layer.router.weight.T, dim=1)
    least_X1 = p_XE.topk(layer.active, dim=1).values[:, -1:]
    gate_XE = torch.where(p_XE >= least_X1, p_XE, 0.0)
    gate_XE = gate_XE / gate_XE.sum(dim=1, keepdim=True)
    inner_XEF = torch.einsum("xd,efd->xef", x_XD, layer.inner_EFD).relu()
    return torch.einsum("xe,xef,edf->xd", gate_XE, inner_XEF, layer.outer_EDF)


@pytest.mark.parametrize("active", [1, 2, 4])
def test_same_as_dense_computation_with_its_gradients(active: int) -> None:
    experts = layer(active)
    x = torch.randn(5, 7, 6, requires_grad=True)
    y, _ = experts(x)
    expected = dense(experts, x.flatten(0, 1)).view(x.shape)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    inputs = [x, experts.inner_EFD, experts.outer_EDF, experts.router.weight]
    # where one expert is active its weight is 1, so that the router learns from the balance alone
    found = torch.autograd.grad((y * weight).sum(), inputs)
    wanted = torch.autograd.grad((expected * weight).sum(), inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_balance_is_that_of_switch() -> None:
    experts = layer(2)
    x_XD = torch.randn(50, 6)
    p_XE = torch.softmax(x_XD @ experts.router.weight.detach().T, dim=1)
    chosen_Xk = p_XE.topk(2, dim=1).indices
    f_E = torch.stack([(chosen_Xk == e).float().sum() / 100 for e in range(4)])
    assert balance(experts, x_XD) == pytest.approx(0.5 * 4 * float((f_E * p_XE.mean(0)).sum()), rel=1e-5)


def test_balance_of_equally_busy_experts_and_of_one_that_does_all() -> None:
    experts = layer(1)
    with torch.no_grad():
        experts.router.weight.copy_(torch.eye(4, 6) * 100)
    even = torch.eye(4, 6)
    assert balance(experts, even) == pytest.approx(0.5 * 1)
    assert balance(experts, even[:1].repeat(4, 1)) == pytest.approx(0.5 * 4)


def test_balance_loss_makes_experts_equally_busy() -> None:
    experts = layer(1)
    x_XD = torch.randn(200, 6) + 1.0
    optimizer = torch.optim.Adam([experts.router.weight], lr=0.03)
    before = balance(experts, x_XD)
    for _ in range(100):
        optimizer.zero_grad()
        experts(x_XD)[1][BALANCE].backward()
        optimizer.step()
    after = balance(experts, x_XD)
    assert after < 0.5 * 1.1 < before


def test_an_expert_without_tokens_and_no_tokens_at_all() -> None:
    experts = layer(1)
    with torch.no_grad():
        experts.router.weight.copy_(torch.eye(4, 6) * 100)
    y, losses = experts(torch.eye(4, 6)[:2])
    (y.sum() + losses[BALANCE]).backward()
    assert experts.inner_EFD.grad is not None
    assert float(experts.inner_EFD.grad[2:].abs().sum()) == 0.0
    none, losses = experts(torch.empty(0, 6))
    assert none.shape == (0, 6)
    assert float(losses[BALANCE].detach()) == 0.0


def test_more_active_experts_than_there_are() -> None:
    with pytest.raises(ValueError, match="5 of 4 experts"):
        layer(5)
