"""The network behind RQ-VAE and its kin: gradients past the codebooks, codes that stay in use, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from lgsid.arrays import IntArray
from lgsid.config import AutoencoderConfig
from lgsid.errors import ConfigError
from lgsid.sid.autoencoder import Autoencoder, nearest, rotate, straight_through
from lgsid.sid.autoencoder_training import Source, _revive_all, _Task, _unit_latents, train, uniformity

SMALL = AutoencoderConfig(hidden=(64,), latent=8, steps=120, warm_steps=60, batch=64, learning_rate=5e-3, validations=3)


def points(items: int = 400, seed: int = 0) -> Tensor:
    """Sixteen clusters in twelve dimensions."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((16, 12))
    noisy = centres[rng.integers(16, size=items)] + 0.3 * rng.standard_normal((items, 12))
    return torch.from_numpy(noisy.astype(np.float32))


def source_of(x: Tensor) -> Source:
    return lambda rows: x[torch.from_numpy(rows)]


def trained(x: Tensor, seed: int = 0, **changes: Any) -> Autoencoder:
    return train(source_of(x), len(x), 3, 8, SMALL.model_copy(update=changes), seed)[0]


def quantised(network: Autoencoder, x: Tensor) -> Tensor:
    return network.decode(network.sum_of_centroids(network.codes(network.encode(x))))


def error(network: Autoencoder, x: Tensor) -> float:
    return float((quantised(network, x) - x).square().sum() / (x - x.mean(0)).square().sum())


def test_straight_through_gives_the_quantised_point_and_the_gradient_as_it_is() -> None:
    z = torch.tensor([[1.0, 2.0]], requires_grad=True)
    passed = straight_through(z, torch.tensor([[3.0, -1.0]]))
    (passed * torch.tensor([[5.0, 7.0]])).sum().backward()  # type: ignore[no-untyped-call]
    assert passed.tolist() == [[3.0, -1.0]]
    assert z.grad is not None
    assert z.grad.tolist() == [[5.0, 7.0]]


def test_rotation_turns_the_gradient_as_the_point_turns() -> None:
    z = torch.tensor([[2.0, 0.0]], requires_grad=True)  # onto (0, 3): a quarter turn to the left, half as long again
    passed = rotate(z, torch.tensor([[0.0, 3.0]]))
    assert torch.allclose(passed, torch.tensor([[0.0, 3.0]]), atol=1e-6)
    (passed * torch.tensor([[0.0, 1.0]])).sum().backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    assert torch.allclose(z.grad, torch.tensor([[1.5, 0.0]]), atol=1e-6)


def test_rotation_reaches_any_target() -> None:
    generator = torch.Generator().manual_seed(0)
    z, target = (torch.randn((200, 5), generator=generator) for _ in range(2))
    assert torch.allclose(rotate(z, target), target, atol=1e-4)
    assert torch.isfinite(rotate(torch.zeros(1, 5), target[:1])).all()


def test_angle_and_distance_choose_differently() -> None:
    book = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    x = torch.tensor([[1.0, 0.2]])
    assert nearest(x, book).tolist() == [1]
    assert nearest(x, book, by_angle=True).tolist() == [0]


def test_uniformity_is_least_for_even_use_and_has_a_gradient() -> None:
    book = torch.eye(4).requires_grad_()
    even = uniformity(torch.eye(4) + 0.1, book)
    skewed = uniformity(torch.eye(4)[[0, 0, 0, 1]] + 0.1, book)
    assert float(even.detach()) == pytest.approx(0.0, abs=1e-3)
    assert float(skewed.detach()) == pytest.approx(np.log(4) - (0.75 * np.log(4 / 3) + 0.25 * np.log(4)), abs=0.01)
    near = torch.tensor([[1.0, 0.9, 0.0, 0.0]]).repeat(8, 1)
    (gradient,) = torch.autograd.grad(uniformity(near, book), book)
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient": "rotation"}, {"codebook": "ema"}, {"dropout": 0.1, "diversity": 0.1}, {"warm_steps": 0}],
)
def test_every_variant_reconstructs_and_repeats(changes: dict[str, Any]) -> None:
    x = points()
    network = trained(x, **changes)
    assert error(network, x) < 0.5
    assert all(len(torch.unique(codes)) == 8 for codes in network.codes(network.encode(x)).T)
    again = trained(x, **changes)
    assert all(np.array_equal(again.weights()[name], value) for name, value in network.weights().items())
    assert torch.equal(again.books_LKC, network.books_LKC)
    assert not torch.equal(trained(x, seed=1, **changes).books_LKC, network.books_LKC)


def test_training_helps_and_its_score_is_the_error_of_items_kept_out() -> None:
    x = points()
    asked: list[IntArray] = []

    def source(rows: IntArray) -> Tensor:
        asked.append(rows)
        return x[torch.from_numpy(rows)]

    _, (alone, joint) = train(source, len(x), 3, 8, SMALL, 0)
    assert alone.best.score > 2 * alone.validations[0].score
    assert joint.best.score > joint.validations[0].score
    held = next(rows for rows in asked if len(rows) == 20)
    batches = [rows for rows in asked if len(rows) in (63, 64)]
    assert batches
    assert not any(np.intersect1d(rows, held).size for rows in batches)


def test_training_stops_when_held_out_items_get_worse() -> None:
    noise = torch.randn((64, 12), generator=torch.Generator().manual_seed(0))
    config = SMALL.model_copy(update={"steps": 2_000, "warm_steps": 1_000, "validations": 20, "patience": 2})
    _, histories = train(source_of(noise), 64, 3, 8, config, 0)
    assert all(history.stopped_early for history in histories)


def test_a_large_catalogue_costs_no_more_updates_and_is_never_asked_for_at_once() -> None:
    x = points(50_000)
    most, total = 0, 0

    def source(rows: IntArray) -> Tensor:
        nonlocal most, total
        most, total = max(most, len(rows)), total + len(rows)
        return x[torch.from_numpy(rows)]

    _, histories = train(source, len(x), 3, 8, SMALL, 0)
    assert sum(history.steps for history in histories) == 120
    assert most <= 4_096
    assert total < 80_000


def test_scaling_the_latent_space_leaves_the_output_alone() -> None:
    x = points()
    network = trained(x)
    with torch.no_grad():
        before = network.decoder(network.encode(x))
        z = _unit_latents(network, network.encode(x))
        after = network.decoder(network.encode(x))
    assert float(z.var(0).mean()) == pytest.approx(1.0, abs=1e-3)
    assert torch.allclose(network.encode(x), z, atol=1e-4)
    assert torch.allclose(before, after, atol=1e-4)


def test_idle_codes_move_onto_items_during_training() -> None:
    x = points()
    config = SMALL.model_copy(update={"revive_steps": 2})
    network = Autoencoder(12, 2, 8, config)
    task = _Task(network, source_of(x), np.arange(400), np.arange(20), config)
    with torch.no_grad():
        z = network.encode(x)
        task.start_codebooks(z, torch.Generator().manual_seed(0))
        network.books_LKC[0, 3] = 1e3
    for number in range(3):
        task.loss(np.arange(64), np.random.default_rng(number))
    assert float(network.books_LKC[0, 3].detach().norm()) < 10


def test_dead_codes_are_revived_at_the_end() -> None:
    x = points()
    network = trained(x)
    with torch.no_grad():
        network.books_LKC[:, 5:] = 1e3
        z = network.encode(x)
        _revive_all(network, z)
    assert all(len(torch.unique(codes)) == 8 for codes in network.codes(z).T)


def test_weights_round_trip_and_others_are_refused() -> None:
    x = points()
    network = trained(x)
    books = list(network.books_LKC.numpy())
    again = Autoencoder.from_weights(network.weights(), books, SMALL)
    assert torch.equal(quantised(again, x), quantised(network, x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        Autoencoder.from_weights(network.weights(), books, SMALL.model_copy(update={"hidden": (16,)}))
    fewer = {name: value for name, value in network.weights().items() if name != "scale"}
    with pytest.raises(RuntimeError, match="scale"):
        Autoencoder.from_weights(fewer, books, SMALL)


def test_identical_items_are_no_catastrophe() -> None:
    network = trained(torch.ones(64, 12))
    assert torch.allclose(quantised(network, torch.ones(64, 12)), torch.ones(64, 12), atol=0.1)


def test_too_few_items_are_refused_before_anything_is_trained() -> None:
    with pytest.raises(ConfigError, match="7 points cannot fill 8 codes"):
        trained(points(7))
    assert len(trained(points(8)).books_LKC) == 3


def test_diversity_without_a_gradient_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"got diversity 0\.1 with codebook 'ema'"):
        AutoencoderConfig(codebook="ema", diversity=0.1)


def test_random_numbers_of_others_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(points(64))
    assert torch.equal(torch.rand(3), expected)
