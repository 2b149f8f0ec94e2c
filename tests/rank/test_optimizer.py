"""The rankers' optimizer: row-wise Adagrad by hand, the same for dense and sparse gradients; AdamW is torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from lgsid.config import TrainerConfig
from lgsid.rank.optimizer import SUM, rank_optimizer

N, D = 40, 5


def table(seed: int = 0) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(N, D, generator=torch.Generator().manual_seed(seed)))


def made(*groups: dict[str, Any], weight_decay: float = 0.3) -> torch.optim.Optimizer:
    return rank_optimizer(list(groups), TrainerConfig(weight_decay=weight_decay))


def rows_of(parameter: Tensor, *, sparse: bool = False) -> dict[str, Any]:
    return {"params": [parameter], "lr": 0.05, "rowwise": True, **({"sparse": True} if sparse else {})}


def look_up(parameter: Tensor, rows: list[int], seed: int, *, sparse: bool) -> None:
    """Leave a gradient of random numbers for each occurrence of a row."""
    weights = torch.randn(len(rows), D, generator=torch.Generator().manual_seed(seed))
    parameter.grad = None
    (functional.embedding(torch.tensor(rows), parameter, sparse=sparse) * weights).sum().backward()  # type: ignore[no-untyped-call]


row_lists = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=60), min_size=1, max_size=4)


class TestRows:
    def test_two_steps_by_hand(self) -> None:
        parameter = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        optimizer = made(rows_of(parameter))
        parameter.grad = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
        optimizer.step()
        first = 0.05 / np.sqrt(5.0)  # mean of 9 and 1
        assert parameter[0].tolist() == pytest.approx([1 - 3 * first, 2 - first])
        parameter.grad = torch.tensor([[0.0, 4.0], [0.5, 0.5]])
        optimizer.step()
        second = 0.05 / np.sqrt(5.0 + 8.0)
        assert parameter[0].tolist() == pytest.approx([1 - 3 * first, 2 - first - 4 * second])
        assert parameter[1].tolist() == pytest.approx([3 - 0.05, 4 - 0.05])  # a row's first step is as long as any

    @given(row_lists, st.booleans())
    def test_dense_and_sparse_gradients_do_the_same(self, batches: list[list[int]], coalesced: bool) -> None:
        one, two = table(), table()
        dense, sparse = made(rows_of(one)), made(rows_of(two, sparse=True))
        for seed, batch in enumerate(batches):
            look_up(one, batch, seed, sparse=False)
            look_up(two, batch, seed, sparse=True)
            if coalesced:
                assert two.grad is not None
                two.grad = two.grad.coalesce()
            dense.step()
            sparse.step()
        # occurrences of a row may be added up in another order
        assert torch.allclose(one, two, rtol=1e-6, atol=1e-7)
        assert torch.allclose(dense.state[one][SUM], sparse.state[two][SUM], rtol=1e-6)

    @given(row_lists)
    def test_with_distinct_rows_the_same_bits(self, batches: list[list[int]]) -> None:
        one, two = table(), table()
        dense, sparse = made(rows_of(one)), made(rows_of(two, sparse=True))
        for seed, batch in enumerate(batches):
            distinct = list(dict.fromkeys(batch))
            look_up(one, distinct, seed, sparse=False)
            look_up(two, distinct, seed, sparse=True)
            dense.step()
            sparse.step()
        assert torch.equal(one, two)
        assert torch.equal(dense.state[one][SUM], sparse.state[two][SUM])

    @pytest.mark.parametrize("sparse", [False, True])
    def test_other_rows_stay(self, sparse: bool) -> None:
        parameter = table()
        optimizer = made(rows_of(parameter, sparse=sparse), weight_decay=10.0)
        for seed in range(3):
            look_up(parameter, [4, 7, 4], seed, sparse=sparse)
            optimizer.step()
        same = (parameter == table()).all(1)
        assert (~same).nonzero().flatten().tolist() == [4, 7]
        assert optimizer.state[parameter][SUM].nonzero().flatten().tolist() == [4, 7]

    def test_memory_is_one_number_a_row(self) -> None:
        parameter = table()
        optimizer = made(rows_of(parameter, sparse=True))
        look_up(parameter, [1], 0, sparse=True)
        optimizer.step()
        assert {key: tuple(value.shape) for key, value in optimizer.state[parameter].items()} == {SUM: (N,)}

    @pytest.mark.parametrize("sparse", [False, True])
    def test_no_gradient_no_step(self, sparse: bool) -> None:
        parameter = table()
        optimizer = made(rows_of(parameter, sparse=sparse))
        optimizer.step()
        if sparse:
            parameter.grad = torch.sparse_coo_tensor(
                torch.empty(1, 0, dtype=torch.int64), torch.empty(0, D), (N, D), check_invariants=True
            )
            optimizer.step()
        assert torch.equal(parameter, table())


class TestMixed:
    def test_networks_get_torchs_adamw(self) -> None:
        ours, theirs = torch.nn.Linear(3, 4), torch.nn.Linear(3, 4)
        theirs.load_state_dict(ours.state_dict())
        parameter = table()
        optimizer = made({"params": list(ours.parameters()), "lr": 0.01}, rows_of(parameter))
        peer = torch.optim.AdamW(theirs.parameters(), lr=0.01, betas=(0.9, 0.999), weight_decay=0.3)
        for seed in range(5):
            x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
            look_up(parameter, [seed], seed, sparse=False)
            for model, steps in ((ours, optimizer), (theirs, peer)):
                model.zero_grad()
                model(x).square().sum().backward()
                for group in steps.param_groups:
                    group["lr"] *= 0.5  # as a schedule does
                steps.step()
        assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)
        assert torch.allclose(ours.bias, theirs.bias, atol=1e-6)
        assert not torch.equal(parameter[4], table()[4])

    def test_a_group_may_set_its_own_decay(self) -> None:
        kept, decayed = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
        optimizer = made({"params": [kept], "lr": 0.1, "weight_decay": 0.0}, {"params": [decayed], "lr": 0.1})
        kept.grad, decayed.grad = torch.zeros(2), torch.zeros(2)
        optimizer.step()
        assert kept.tolist() == [1.0, 1.0]
        assert decayed.tolist() == pytest.approx([0.97, 0.97])

    def test_it_continues_from_its_state(self) -> None:
        def steps(optimizer: torch.optim.Optimizer, parts: tuple[Tensor, Tensor], seeds: range) -> None:
            for seed in seeds:
                look_up(parts[1], [seed, 3], seed, sparse=True)
                parts[0].grad = torch.full((2,), float(seed - 1))
                optimizer.step()

        def fresh() -> tuple[torch.optim.Optimizer, tuple[Tensor, Tensor]]:
            parts = torch.nn.Parameter(torch.ones(2)), table()
            return made({"params": [parts[0]], "lr": 0.1}, rows_of(parts[1], sparse=True)), parts

        whole, cut, resumed = fresh(), fresh(), fresh()
        steps(*whole, range(6))
        steps(*cut, range(3))
        resumed[0].load_state_dict(cut[0].state_dict())
        for target, source in zip(resumed[1], cut[1], strict=True):
            target.detach().copy_(source)
        steps(*resumed, range(3, 6))
        assert all(torch.equal(a, b) for a, b in zip(whole[1], resumed[1], strict=True))

    def test_a_closure_is_called(self) -> None:
        parameter = table()
        optimizer = made(rows_of(parameter))

        def closure() -> float:
            look_up(parameter, [0], 0, sparse=False)
            return 0.25

        assert optimizer.step(closure) == 0.25
        assert not torch.equal(parameter[0], table()[0])

    def test_rows_need_a_table(self) -> None:
        with pytest.raises(ValueError, match=r"shapes \[\(3,\)\], expected tables"):
            made({"params": [torch.nn.Parameter(torch.ones(3))], "lr": 0.1, "rowwise": True})

    def test_adamw_gets_no_sparse_gradients(self) -> None:
        with pytest.raises(ValueError, match="'sparse', expected 'rowwise'"):
            made({"params": [table()], "lr": 0.1, "sparse": True})
