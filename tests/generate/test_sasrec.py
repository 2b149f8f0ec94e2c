"""SASRec: its loss, what it sees, what it recommends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from toy_rows import HOUR, ITEMS, Segment, circle, make_generator, pack, places, select, small, toy_requests

from lgsid.generate import sasrec as sasrec_module
from lgsid.generate import softmax as softmax_module
from lgsid.generate.base import Packed
from lgsid.generate.places import BUCKETS, Places
from lgsid.generate.sasrec import SasRec
from lgsid.generate.softmax import Away, full_cross_entropy, proposal, sampled_cross_entropy

KNOWING: dict[str, dict[str, Any]] = {
    "nothing": {},
    "everything": {"users": 3, "time": True, "distance": True},
    "no distance to items": {"nearness": False},
}


def model(seed: int = 0, **changes: Any) -> SasRec:
    """With parameters that are all different from 0, in evaluation mode."""
    made = make_generator("sasrec", small(**changes), seed)
    assert isinstance(made, SasRec)
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.eval()


def request(visits: Segment, now: int | None = None, user: int = 0) -> Packed:
    rows = pack([[visits]])
    rows.user_RT[:] = user
    if now is not None:
        rows.now_R[:] = rows.time_RT[0, 0] - visits[0][1] + now
    return rows


@pytest.mark.parametrize("knowing", KNOWING)
def test_loss_is_that_of_requests_one_by_one(knowing: str) -> None:
    """Segments do not see each other, nor padding, nor what is to come."""
    sasrec = model(**KNOWING[knowing])
    rng = np.random.default_rng(0)
    segments = [[(int(i), int(k * HOUR + rng.integers(HOUR))) for k, i in enumerate(rng.integers(0, ITEMS, n))]
                for n in (4, 3, 5)]  # fmt: skip
    rows = pack([segments[:2], segments[2:]], length=9)
    nll = []
    for r, s in ((0, 0), (0, 1), (1, 0)):
        visits = segments[2 * r + s]
        for k in range(1, len(visits)):
            asked = request(visits[:k], visits[k][1], user=s)
            nll.append(-sasrec.scores(asked).log_softmax(1)[0, visits[k][0]])
    loss, figures = sasrec.loss(rows)
    assert float(loss.detach()) == pytest.approx(float(torch.stack(nll).mean().detach()), rel=1e-4)
    assert figures == {}


def test_history_is_a_window() -> None:
    """One layer sees `history` visits: what is before them changes nothing, what is among them does."""
    sasrec = model(history=3)
    visits = circle(0, 6)
    scores = sasrec.scores(request(visits))
    other = [(9, 0), (8, HOUR), (7, 2 * HOUR), *visits[3:]]
    torch.testing.assert_close(sasrec.scores(request(other)), scores)
    other[3] = (11, other[3][1])
    assert not torch.allclose(sasrec.scores(request(other)), scores, atol=1e-3)


def test_order_matters() -> None:
    sasrec = model()
    one, other = request([(1, 0), (2, HOUR), (3, 2 * HOUR)]), request([(2, 0), (1, HOUR), (3, 2 * HOUR)])
    assert not torch.allclose(sasrec.scores(one), sasrec.scores(other), atol=1e-3)


@pytest.mark.parametrize(("option", "value"), [("users", 3), ("time", True), ("distance", True)])
def test_context_is_seen_where_it_is_wanted_alone(option: str, value: Any) -> None:
    visits = circle(0, 3)
    base, other = request(visits), request(visits, now=50 * HOUR, user=2)
    other.band_RT[0, 1] = 5
    anonymous = model()
    assert torch.equal(anonymous.scores(base), anonymous.scores(other))
    told = model(**{option: value})
    assert not torch.allclose(told.scores(base), told.scores(other), atol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("logits", [1, 64, 1 << 20])
def test_full_cross_entropy_is_torch_s(smoothing: float, logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(softmax_module.LOGITS, "cpu", logits)
    torch.manual_seed(0)
    inputs = [torch.randn(7, 5, requires_grad=True), torch.randn(11, 5, requires_grad=True), torch.randn(11)]
    inputs[2].requires_grad_()
    target_P = torch.randint(11, (7,))
    expected = functional.cross_entropy(inputs[0] @ inputs[1].T + inputs[2], target_P, label_smoothing=smoothing)
    found = full_cross_entropy(*inputs, target_P, smoothing)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(full_cross_entropy(*inputs, target_P, smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("logits", [1, 64, 1 << 20])
def test_full_cross_entropy_with_distances_is_torch_s(
    smoothing: float, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(softmax_module.LOGITS, "cpu", logits)
    torch.manual_seed(0)
    q_PD, weight_ND, bias_N, by_PB = inputs = [
        torch.randn(shape, requires_grad=True) for shape in ((7, 5), (ITEMS, 5), (ITEMS,), (7, BUCKETS))
    ]
    target_P = torch.randint(ITEMS, (7,))
    away = Away(by_PB, torch.from_numpy(places()[:7]), Places(places()))
    logit_PN = q_PD @ weight_ND.T + bias_N + by_PB.gather(1, away.bucket())
    expected = functional.cross_entropy(logit_PN, target_P, label_smoothing=smoothing)
    found = full_cross_entropy(q_PD, weight_ND, bias_N, target_P, smoothing, away)
    torch.testing.assert_close(found, expected)
    for one, other in zip(
        torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * expected, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def test_sampled_cross_entropy_with_distances_tends_to_the_full_one() -> None:
    torch.manual_seed(0)
    items = (torch.randn(4, 5), torch.randn(ITEMS, 5), torch.randn(ITEMS), torch.tensor([0, 1, 2, 20]))
    away = Away(2 * torch.randn(4, BUCKETS), torch.from_numpy(places()[:4]), Places(places()))
    found = sampled_cross_entropy(*items, proposal(ITEMS, None), 200_000, 0.0, away)
    assert float(found) == pytest.approx(float(full_cross_entropy(*items, 0.0, away)), abs=0.03)
    assert float(found) != pytest.approx(float(full_cross_entropy(*items)), abs=0.1)


def test_where_the_user_is_counts() -> None:
    visits = circle(0, 3)
    here, there = request(visits), request(visits)
    there.here_R3[:] = torch.from_numpy(places()[20])
    told, blind = model(), model(nearness=False)
    assert not torch.allclose(told.scores(here), told.scores(there), atol=1e-3)
    assert torch.equal(blind.scores(here), blind.scores(there))
    with pytest.raises(ValueError, match="places of the items"):
        SasRec(ITEMS, small())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("counted", [False, True])
def test_sampled_cross_entropy_tends_to_the_full_one(smoothing: float, counted: bool) -> None:
    torch.manual_seed(0)
    q_PD, weight_ND, bias_N = torch.randn(4, 5), torch.randn(300, 5), torch.randn(300)
    target_P = torch.tensor([0, 1, 2, 299])
    proposal_N = proposal(300, torch.arange(300) ** 2 if counted else None)
    assert float(proposal_N.sum()) == pytest.approx(1)
    found = sampled_cross_entropy(q_PD, weight_ND, bias_N, target_P, proposal_N, 300_000, smoothing)
    expected = full_cross_entropy(q_PD, weight_ND, bias_N, target_P, smoothing)
    assert float(found) == pytest.approx(float(expected), abs=0.03)


def test_large_catalogues_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    sasrec, rows = model(), pack([[circle(0, 5)]])
    full = float(sasrec.loss(rows)[0].detach())
    monkeypatch.setattr(sasrec_module, "FULL_SOFTMAX", ITEMS - 1)
    monkeypatch.setattr(sasrec_module, "SAMPLED", 16)
    few, again = (float(sasrec.loss(rows)[0].detach()) for _ in range(2))
    assert few != again, "other items are drawn"
    monkeypatch.setattr(sasrec_module, "SAMPLED", 200_000)
    assert float(sasrec.loss(rows)[0].detach()) == pytest.approx(full, abs=0.03)


@pytest.mark.parametrize("logits", [1, 60, 1 << 20])
def test_top_is_the_order_of_scores(logits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sasrec_module, "SCORES", logits)
    sasrec = model()
    requests, _ = toy_requests(6)
    order_RN = sasrec.scores(requests).argsort(dim=1, descending=True).numpy()
    assert np.array_equal(sasrec.top(requests, 5), order_RN[:, :5])
    reach = [np.array([3, 1, 2]), np.arange(ITEMS), np.array([], dtype=np.int64), *[np.array([7])] * 3]
    found = sasrec.top(requests, 5, reach)
    assert found.shape == (6, 5)
    assert found[0].tolist() == [*[item for item in order_RN[0] if item in {1, 2, 3}], -1, -1]
    assert np.array_equal(found[1], order_RN[1, :5])
    assert found[2:].tolist() == [[-1] * 5, *[[7, -1, -1, -1, -1]] * 3]
    everything = sasrec.top(select(requests, slice(0, 1)), ITEMS + 2)
    assert sorted(everything[0].tolist()) == [-1, -1, *range(ITEMS)]
    assert sasrec.top(select(requests, slice(0, 0)), 5).shape == (0, 5)


def test_one_request_as_among_many() -> None:
    sasrec = model(time=True)
    requests = pack([[circle(k, 1 + k)] for k in range(5)])
    one_by_one = [sasrec.top(request(circle(k, 1 + k)), 4)[0] for k in range(5)]
    assert np.array_equal(sasrec.top(requests, 4), one_by_one)


def test_who_has_no_history_gets_what_is_popular() -> None:
    sasrec = model()
    rows = pack([[circle(0, 3)], [[]]], length=3)
    assert rows.length_R.tolist() == [3, 0]
    sasrec.norm.bias.data.zero_()
    found = sasrec.top(rows, 3)
    assert found[1].tolist() == sasrec.bias_N.topk(3).indices.tolist()


def test_recommends_without_dropout_and_stays_in_its_mode() -> None:
    sasrec = model(dropout=0.5)
    requests, _ = toy_requests(6)
    expected = sasrec.top(requests, 5)
    sasrec.train()
    assert np.array_equal(sasrec.top(requests, 5), expected)
    assert sasrec.training
    torch.manual_seed(0)
    rows = pack([[circle(0, 5)]])
    assert float(sasrec.loss(rows)[0].detach()) != float(sasrec.loss(rows)[0].detach())


def test_nothing_to_predict() -> None:
    with pytest.raises(ValueError, match="no visit of these rows is a target"):
        model().loss(pack([[[(1, 0)]]]))
