"""Gradients of one update: sparse ones are what dense ones would be, in the sum, in the length and in training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from toy_tables import StoppedError, Table

from lgsid.arrays import IntArray
from lgsid.config import TrainerConfig
from lgsid.errors import TrainingError
from lgsid.gradients import Gradients
from lgsid.rank.optimizer import rank_optimizer
from lgsid.trainer import fit

N, D = 9, 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def options(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"epochs": 4, "batch": 4, "accumulate": 2, "checkpoint_seconds": 0, **changes})


def sgd(groups: list[dict[str, Any]], config: TrainerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups)


def made(batches: list[list[int]], *, sparse: bool) -> tuple[Gradients, Tensor, Tensor]:
    """Gradients of a table and a bias after these batches of rows, with one number for each occurrence."""
    table = torch.nn.Parameter(torch.zeros(N, D))
    bias = torch.nn.Parameter(torch.zeros(D))
    gradients = Gradients([{"params": [bias]}, {"params": [table], "sparse": sparse}])
    number = 0
    for rows in batches:
        values = torch.arange(number, number + len(rows) * D).float().view(-1, D) + 1
        number += len(rows) * D
        ((functional.embedding(torch.tensor(rows), table, sparse=sparse) + bias) * values).sum().backward()  # type: ignore[no-untyped-call]
    return gradients, table, bias


def gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


batches = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=6), min_size=1, max_size=3)


class TestSum:
    @given(batches)
    def test_sparse_is_dense_with_each_row_once_in_order(self, rows: list[list[int]]) -> None:
        (sparse, table, _), (dense, other, _) = made(rows, sparse=True), made(rows, sparse=False)
        assert (sparse.sum(1.5), dense.sum(1.5)) == (1.5, 1.5)
        assert gradient(table).is_coalesced()
        assert gradient(table).indices()[0].tolist() == sorted({row for batch in rows for row in batch})
        assert torch.equal(gradient(table).to_dense(), gradient(other))

    def test_no_part_in_the_loss_is_a_gradient_without_rows(self) -> None:
        gradients, table, bias = made([], sparse=True)
        gradients.sum(0.0)
        assert gradient(table).shape == (N, D)
        assert gradient(table).is_sparse
        assert gradient(table).values().shape == (0, D)
        assert gradient(bias).tolist() == [0.0, 0.0]
        assert gradients.clip(1.0) == 0.0

    def test_clear(self) -> None:
        gradients, table, bias = made([[1]], sparse=True)
        gradients.clear()
        assert table.grad is None
        assert bias.grad is None

    @pytest.mark.parametrize("sparse", [True, False])
    def test_a_group_must_say_what_its_gradients_are(self, sparse: bool) -> None:
        table = torch.nn.Parameter(torch.zeros(N, D))
        functional.embedding(torch.tensor([1]), table, sparse=sparse).sum().backward()  # type: ignore[no-untyped-call]
        got, expected = ("sparse", "dense") if sparse else ("dense", "sparse")
        with pytest.raises(ValueError, match=rf"shape \(9, 2\) got a {got} gradient, expected a {expected} one"):
            Gradients([{"params": [table], "sparse": not sparse}]).sum(0.0)


class TestClip:
    @given(batches, st.sampled_from([0.01, 3.0, 1e6]))
    def test_sparse_and_dense_are_one_vector(self, rows: list[list[int]], longest: float) -> None:
        (sparse, table, bias), (dense, other, too) = made(rows, sparse=True), made(rows, sparse=False)
        sparse.sum(0.0)
        dense.sum(0.0)
        assert sparse.clip(longest) == pytest.approx(dense.clip(longest), rel=1e-6)
        assert torch.allclose(gradient(table).to_dense(), gradient(other), rtol=1e-5)
        assert torch.allclose(gradient(bias), gradient(too), rtol=1e-5)
        flat = torch.cat([gradient(table).to_dense().flatten(), gradient(bias)])
        assert float(flat.norm()) <= longest * (1 + 1e-5)

    def test_infinity_gives_the_length_and_leaves_them_as_they_are(self) -> None:
        gradients, table, bias = made([[2, 0]], sparse=True)
        gradients.sum(0.0)
        assert gradients.clip(math.inf) == pytest.approx(math.sqrt(1 + 4 + 9 + 16 + 4**2 + 6**2))
        assert gradient(table).values().tolist() == [[3.0, 4.0], [1.0, 2.0]]
        assert gradient(bias).tolist() == [4.0, 6.0]


class TestTraining:
    @pytest.mark.parametrize("optimizer", [sgd, rank_optimizer])
    @pytest.mark.parametrize("longest", [0.1, math.inf])
    def test_sparse_ends_where_dense_does(self, optimizer: Any, longest: float) -> None:
        sparse, dense = Table(), Table(sparse=False)
        start = sparse.flat()
        for table in (sparse, dense):
            fit(table, options(max_grad_norm=longest), seed=0, optimizer=optimizer)
        assert torch.allclose(sparse.flat(), dense.flat(), atol=1e-6)
        assert not torch.allclose(sparse.flat(), start, atol=1e-3)

    def test_it_learns_and_leaves_no_gradients(self) -> None:
        table = Table(dropout=0.0)
        history = fit(table, options(epochs=40, patience=99), seed=0, optimizer=rank_optimizer)
        assert history.validations[-1].score > -1e-3 > history.validations[0].score
        assert table.table.grad is None

    @pytest.mark.parametrize("calls", range(1, 40, 5))
    def test_wherever_it_is_interrupted_it_ends_with_the_same_bits(self, tmp_path: Path, calls: int) -> None:
        whole, resumed = Table(), Table()
        history = fit(whole, options(), seed=0, optimizer=rank_optimizer)
        with pytest.raises(StoppedError):
            fit(Table(calls=calls), options(), seed=0, optimizer=rank_optimizer, folder=tmp_path)
        again = fit(resumed, options(), seed=0, optimizer=rank_optimizer, folder=tmp_path)
        assert again.to_json() == history.to_json()
        assert torch.equal(resumed.flat(), whole.flat())
        assert resumed.count == 40 - calls // 2 * 2

    def test_a_sparse_gradient_that_is_not_finite_is_an_error(self) -> None:
        class Kink(Table):
            def loss(self, examples_B: IntArray, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
                e_BD = functional.embedding(self.row_E[examples_B], self.table, sparse=True)
                return (e_BD * 0).sum().sqrt(), {}

        for longest in (1.0, math.inf):
            with pytest.raises(TrainingError, match="step 1 of 20: the gradient's length is nan"):
                fit(Kink(), options(max_grad_norm=longest), seed=0, optimizer=rank_optimizer)
