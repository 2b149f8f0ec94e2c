"""GRU and AUGRU against a loop over single steps, against torch's GRU, and at padding; gradients by differences."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lgsid.rank.gru import STRETCHES, AttentionalGru, stretches

D = 4


def front_padded(lengths: list[int], steps: int) -> Tensor:
    return torch.arange(steps) >= steps - torch.tensor(lengths)[:, None]


def made(dim: int = D, seed: int = 0) -> AttentionalGru:
    torch.manual_seed(seed)
    gru = AttentionalGru(dim).double()
    torch.nn.init.normal_(gru.of_input.bias)
    return gru


def inputs(mask_BT: Tensor, candidates: int, seed: int = 0, dim: int = D) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x_BTD = torch.randn(*mask_BT.shape, dim, generator=generator, dtype=torch.double)
    attention_BCT = torch.rand(len(mask_BT), candidates, mask_BT.shape[1], generator=generator, dtype=torch.double)
    return x_BTD.requires_grad_(), attention_BCT.requires_grad_()


def by_steps(gru: AttentionalGru, x_TD: Tensor, attention_T: list[Tensor]) -> list[Tensor]:
    """States of one sequence without padding, as the equations have them."""
    w_r, w_u, w_n = gru.of_input.weight.chunk(3)
    b_r, b_u, b_n = gru.of_input.bias.chunk(3)
    u_r, u_u, u_n = gru.of_state.weight.chunk(3)
    state = x_TD.new_zeros(x_TD.shape[1])
    states = []
    for x, a in zip(x_TD, attention_T, strict=True):
        r = torch.sigmoid(w_r @ x + b_r + u_r @ state)
        u = a * torch.sigmoid(w_u @ x + b_u + u_u @ state)
        n = torch.tanh(w_n @ x + b_n + r * (u_n @ state))
        state = (1 - u) * state + u * n
        states.append(state)
    return states


def reference(gru: AttentionalGru, x_BTD: Tensor, attention_BCT: Tensor, mask_BT: Tensor) -> Tensor:
    """States (B, C, T, D), zero at padding, of every sequence by itself."""
    rows = []
    for x_TD, attention_CT, mask_T in zip(x_BTD, attention_BCT, mask_BT, strict=True):
        zeros = [x_TD.new_zeros(x_TD.shape[1])] * int((~mask_T).sum())
        rows += [torch.stack(zeros + by_steps(gru, x_TD[mask_T], list(a_T[mask_T]))) for a_T in attention_CT]
    return torch.stack(rows).unflatten(0, attention_BCT.shape[:2])


def gradients(loss: Tensor, gru: AttentionalGru, *tensors: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*tensors, *gru.parameters()]))


ragged = st.lists(st.integers(0, 7), min_size=1, max_size=2 * STRETCHES + 3)


class TestAgainstSingleSteps:
    @settings(max_examples=25, deadline=None)
    @given(ragged, st.integers(1, 3))
    def test_last_states_and_their_gradients(self, lengths: list[int], candidates: int) -> None:
        gru, mask_BT = made(), front_padded(lengths, 7)
        x_BTD, attention_BCT = inputs(mask_BT, candidates)
        got_BCD = gru.last(x_BTD, attention_BCT, mask_BT)
        expected_BCD = reference(gru, x_BTD, attention_BCT, mask_BT)[:, :, -1]
        torch.testing.assert_close(got_BCD, expected_BCD)
        if not any(lengths):
            return
        weight_BCD = torch.randn(got_BCD.shape, dtype=torch.double)
        got = gradients((got_BCD * weight_BCD).sum(), gru, x_BTD, attention_BCT)
        expected = gradients((expected_BCD * weight_BCD).sum(), gru, x_BTD, attention_BCT)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)

    @settings(max_examples=25, deadline=None)
    @given(ragged)
    def test_all_states_and_their_gradients(self, lengths: list[int]) -> None:
        gru, mask_BT = made(), front_padded(lengths, 7)
        x_BTD, _ = inputs(mask_BT, 1)
        got_BTD = gru.states(x_BTD, mask_BT)
        expected_BTD = reference(gru, x_BTD, torch.ones(len(lengths), 1, 7, dtype=torch.double), mask_BT)[:, 0]
        torch.testing.assert_close(got_BTD, expected_BTD)
        if not any(lengths):
            return
        weight_BTD = torch.randn(got_BTD.shape, dtype=torch.double)
        got = gradients((got_BTD * weight_BTD).sum(), gru, x_BTD)
        expected = gradients((expected_BTD * weight_BTD).sum(), gru, x_BTD)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)

    def test_gradients_equal_differences(self) -> None:
        gru, mask_BT = made(), front_padded([3, 0, 5, 1], 5)
        assert torch.autograd.gradcheck(
            lambda x, a, *_: gru.last(x, a, mask_BT), (*inputs(mask_BT, 2), *gru.parameters())
        )


class TestAgainstTorch:
    def test_attention_one_is_a_plain_gru(self) -> None:
        gru, plain = made(), torch.nn.GRU(D, D, batch_first=True).double()
        signs = torch.tensor([1.0, -1.0, 1.0]).double().repeat_interleave(D)  # torch's gate says how much stays
        with torch.no_grad():
            plain.weight_ih_l0.copy_(gru.of_input.weight * signs[:, None])
            plain.weight_hh_l0.copy_(gru.of_state.weight * signs[:, None])
            plain.bias_ih_l0.copy_(gru.of_input.bias * signs)
            plain.bias_hh_l0.zero_()
        mask_BT = front_padded([6] * 5, 6)
        x_BTD, attention_BCT = inputs(mask_BT, 1)
        expected_BTD = plain(x_BTD)[0]
        torch.testing.assert_close(gru.states(x_BTD, mask_BT), expected_BTD)
        last_BCD = gru.last(x_BTD, torch.ones_like(attention_BCT), mask_BT)
        torch.testing.assert_close(last_BCD[:, 0], expected_BTD[:, -1])


class TestPadding:
    def test_what_stands_there_and_how_much_changes_nothing(self) -> None:
        gru, short_BT = made(), front_padded([4, 0, 2, 3], 4)
        x_BTD, attention_BCT = inputs(short_BT, 2)
        long_BT = torch.cat([torch.zeros(4, 3, dtype=torch.bool), short_BT], dim=1)
        garbage_BTD, garbage_BCT = inputs(long_BT, 2, seed=1)
        long_BTD = torch.where(long_BT[..., None], torch.cat([garbage_BTD[:, :3], x_BTD], 1), 1e3 * garbage_BTD)
        long_BCT = torch.where(long_BT[:, None], torch.cat([garbage_BCT[..., :3], attention_BCT], 2), 1e3)
        torch.testing.assert_close(gru.last(long_BTD, long_BCT, long_BT), gru.last(x_BTD, attention_BCT, short_BT))
        states_BTD = gru.states(long_BTD, long_BT)
        torch.testing.assert_close(states_BTD[:, 3:], gru.states(x_BTD, short_BT))
        assert (states_BTD[~long_BT] == 0).all()

    def test_no_input_at_all_gives_zeros_and_can_be_differentiated(self) -> None:
        gru, mask_BT = made(), front_padded([0, 0], 3)
        x_BTD, attention_BCT = inputs(mask_BT, 2)
        last_BCD, states_BTD = gru.last(x_BTD, attention_BCT, mask_BT), gru.states(x_BTD, mask_BT)
        assert torch.equal(last_BCD, last_BCD.new_zeros(2, 2, D))
        assert torch.equal(states_BTD, states_BTD.new_zeros(2, 3, D))
        (last_BCD.sum() + states_BTD.sum()).backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in gru.parameters())


class TestStretches:
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=70))
    def test_hold_every_visit_and_are_few(self, lengths: list[int]) -> None:
        found = stretches(front_padded(lengths, 9))
        assert 1 <= len(found) <= STRETCHES
        assert all(one[1] < two[1] for one, two in pairwise(found))
        assert found[-1][1] <= len(lengths)
        assert sum(steps for steps, _ in found) == max(1, *lengths, 0)
        computed = [count for steps, count in reversed(found) for _ in range(steps)]
        begun = [sum(length > later for length in lengths) for later in range(len(computed))]
        assert all(most >= least for most, least in zip(computed, begun, strict=True))

    def test_padding_is_not_computed(self) -> None:
        assert stretches(front_padded([7] + [1] * 15, 8)) == [(6, 16 // STRETCHES), (1, 16)]


def test_one_request_is_the_same_alone_and_among_others() -> None:
    gru, mask_BT = made(dim=32), front_padded([5, 0, 9, 2, 9, 1, 7, 3, 4, 4, 6], 9)
    x_BTD, attention_BCT = inputs(mask_BT, 3, dim=32)
    together_BCD = gru.last(x_BTD, attention_BCT, mask_BT)
    for one in range(len(mask_BT)):
        alone_BCD = gru.last(x_BTD[one : one + 1], attention_BCT[one : one + 1], mask_BT[one : one + 1])
        torch.testing.assert_close(alone_BCD[0], together_BCD[one])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same() -> None:
    gru, mask_BT = made(), front_padded([5, 0, 3], 5)
    x_BTD, attention_BCT = inputs(mask_BT, 2)
    expected_BCD = gru.last(x_BTD, attention_BCT, mask_BT)
    got_BCD = gru.cuda().last(x_BTD.cuda(), attention_BCT.cuda(), mask_BT.cuda())
    torch.testing.assert_close(got_BCD.cpu(), expected_BCD)
