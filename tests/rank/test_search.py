"""The masked exact top-k, target attention, and what every ranker with a search must do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from toy_histories import of_its_own, rows_of, toy_batch, toy_config, toy_ranker

from lgsid.rank.attention import TargetAttention, masked_softmax
from lgsid.rank.eta import Eta
from lgsid.rank.search import SearchRanker, inner_products, search, vectors
from lgsid.rank.sim import Sim
from lgsid.rank.twin import Twin

METHODS = [
    pytest.param(Sim, {}, id="sim-soft"),
    pytest.param(Sim, {"hard": True}, id="sim-hard"),
    pytest.param(Twin, {}, id="twin"),
    pytest.param(Eta, {}, id="eta"),
]
every_method = pytest.mark.parametrize(("model", "search_options"), METHODS)


def brute_force(score_T: list[float], allowed_T: list[bool], keep: int) -> set[int]:
    order = sorted((place for place, ok in enumerate(allowed_T) if ok), key=lambda place: (-score_T[place], -place))
    return set(order[:keep])


scores = st.one_of(
    st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0]),
    st.floats(-(2.0**90), 2.0**90, width=32),
    st.floats(-(2.0**-130), 2.0**-130, width=32),
)


@given(st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=12), st.integers(1, 14))
def test_keeps_exactly_the_best_allowed_visits(visits: list[tuple[float, bool]], keep: int) -> None:
    score_T, allowed_T = [score for score, _ in visits], [ok for _, ok in visits]
    kept = search(torch.tensor(score_T).view(1, 1, -1), torch.tensor(allowed_T).view(1, 1, -1), keep)
    assert kept.place_BXK.shape == (1, 1, min(keep, len(visits)))
    places = kept.place_BXK[kept.mask_BXK].tolist()
    assert len(places) == len(set(places))
    assert set(places) == brute_force(score_T, allowed_T, keep)


def test_padding_never_wins_over_visits_with_negative_scores() -> None:
    # zeros at padding, the highest numbers of all, must not push out the four visits
    score_BXT = torch.tensor([[[0.0, 0.0, 0.0, 0.0, -5.0, -3.0, -9.0, -4.0]]])
    mask_BXT = torch.tensor([[[False] * 4 + [True] * 4]])
    kept = search(score_BXT, mask_BXT, 3)
    assert kept.mask_BXK.all()
    assert set(kept.place_BXK.flatten().tolist()) == {4, 5, 7}


def test_fewer_visits_than_places_leave_a_mask() -> None:
    mask_BXT = torch.tensor([[[False] * 6 + [True] * 2], [[False] * 8]])
    kept = search(torch.randn(2, 1, 8), mask_BXT, 4)
    assert kept.mask_BXK.sum(-1).flatten().tolist() == [2, 0]
    assert set(kept.place_BXK[kept.mask_BXK].tolist()) == {6, 7}


def test_equal_scores_go_to_the_more_recent_visits() -> None:
    for score_BXT in (torch.zeros(1, 1, 100), torch.zeros(1, 1, 100, dtype=torch.int32)):
        kept = search(score_BXT, torch.ones(1, 1, 100, dtype=torch.bool), 5)
        assert sorted(kept.place_BXK.flatten().tolist()) == [95, 96, 97, 98, 99]


def test_a_history_that_places_cannot_number_is_refused() -> None:
    length = (1 << 24) + 1
    with pytest.raises(ValueError, match="16777217 visits"):
        search(torch.zeros(1).expand(1, 1, length), torch.ones(1, dtype=torch.bool), 3)


def test_kept_visits_keep_all_that_is_known_of_them() -> None:
    batch = toy_batch()
    kept = search(torch.randn(4, 2, 12), batch.mask_BT[:, None], 5)
    of_kept = kept.of(batch)
    row_BJ = torch.arange(4)[:, None].expand(-1, 10)
    for name in ("history_BT", "gap_BT", "band_BT", "region_BT"):
        expected = getattr(batch, name)[row_BJ, kept.place_BXK.flatten(1)]
        assert torch.equal(getattr(of_kept, name), expected), name
    assert torch.equal(of_kept.mask_BT, batch.mask_BT[row_BJ, kept.place_BXK.flatten(1)])


def test_vectors_are_rows() -> None:
    e_UD = torch.randn(5, 3)
    places = torch.tensor([[0, 4, 2], [1, 1, 3]])
    assert torch.equal(vectors(e_UD, places), e_UD[places])


@pytest.mark.parametrize("length", [0, 9, 5000])  # some requests at once, or one by one
def test_inner_products_with_all_visits(length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query_BXD, e_UD = torch.randn(6, 2, 300, generator=generator), torch.randn(50, 300, generator=generator)
    history_BT = torch.randint(0, 50, (6, length), generator=generator)
    expected = (query_BXD @ e_UD.T).gather(2, history_BT[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(inner_products(query_BXD, e_UD, history_BT), expected, atol=1e-4, rtol=1e-4)


def test_target_attention_is_multi_head_attention() -> None:
    torch.manual_seed(0)
    attention = TargetAttention(8, 2).double()
    q_XRD, z_XKD = torch.randn(3, 2, 8).double(), torch.randn(3, 5, 8).double()
    mask_XK = torch.tensor([[True] * 5, [False] * 3 + [True] * 2, [False] * 4 + [True]])

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, 4)).transpose(1, 2)

    expected = functional.scaled_dot_product_attention(
        heads(attention.query(q_XRD)), heads(attention.key(z_XKD)), heads(attention.value(z_XKD)),
        attn_mask=mask_XK[:, None, None],
    )  # fmt: skip
    torch.testing.assert_close(attention(q_XRD, z_XKD, mask_XK), expected.transpose(1, 2).flatten(2))


def test_softmax_over_nothing_is_nothing() -> None:
    score = torch.randn(2, 4, requires_grad=True)
    mask = torch.tensor([[False] * 4, [False, True, True, False]])
    weight = masked_softmax(score, mask)
    assert weight[0].eq(0).all()
    torch.testing.assert_close(weight[1].sum(), torch.tensor(1.0))
    assert weight[1][~mask[1]].eq(0).all()
    (weight * torch.randn(2, 4)).sum().backward()
    assert score.grad is not None
    assert score.grad.isfinite().all()
    assert score.grad[0].eq(0).all()


@every_method
def test_no_history_means_no_interest(model: type[SearchRanker], search_options: dict[str, object]) -> None:
    ranker = toy_ranker(model, toy_config(**search_options))
    for batch in (toy_batch((0, 0, 12)), toy_batch((0, 0))):
        e_UD = ranker.items(batch.items_U)
        interest = ranker.interest(e_UD[batch.candidates_BC], e_UD, batch)
        assert interest.vector_BCI.shape == (len(batch.hour_B), 3, 16)
        assert interest.vector_BCI[:2].eq(0).all()
        (ranker(batch).logit_BC.sum() + sum(interest.losses.values())).backward()
        for name, parameter in ranker.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name


@every_method
def test_what_stands_at_padding_changes_nothing(model: type[SearchRanker], search_options: dict[str, object]) -> None:
    ranker = toy_ranker(model, toy_config(**search_options)).eval()
    batch = toy_batch()
    e_UD = ranker.items(batch.items_U)
    q_BCD = e_UD[batch.candidates_BC]
    other = {name: torch.where(batch.mask_BT, getattr(batch, name), 3) for name in ("gap_BT", "band_BT", "region_BT")}
    other["history_BT"] = torch.where(batch.mask_BT, batch.history_BT, 7)
    expected = ranker.interest(q_BCD, e_UD, batch).vector_BCI
    assert torch.equal(ranker.interest(q_BCD, e_UD, replace(batch, **other)).vector_BCI, expected)


@every_method
def test_a_request_scores_alone_as_in_a_batch(model: type[SearchRanker], search_options: dict[str, object]) -> None:
    ranker = toy_ranker(model, toy_config(**search_options)).eval()
    batch = toy_batch((12, 5, 2, 1))
    together_BC = ranker(batch).logit_BC
    for row in range(4):
        torch.testing.assert_close(ranker(rows_of(batch, row, row + 1)).logit_BC, together_BC[row : row + 1])


@every_method
def test_requests_of_like_length_score_as_all_at_once(
    model: type[SearchRanker], search_options: dict[str, object]
) -> None:
    ranker = toy_ranker(model, toy_config(**search_options)).double()
    batch = toy_batch(tuple(length % 23 for length in range(150)))  # more than two groups beyond those kept whole
    e_UD = ranker.items(batch.items_U).detach().requires_grad_()
    q_BCD = e_UD[batch.candidates_BC]
    weight_BCI = torch.randn(150, 3, 16, dtype=torch.float64)
    grouped = ranker.interest(q_BCD, e_UD, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchRanker, "by_length", lambda self, q_BCD, batch, of_part: of_part(q_BCD, batch))
        at_once = ranker.interest(q_BCD, e_UD, batch)
    torch.testing.assert_close(grouped.vector_BCI, at_once.vector_BCI)
    gradients = [
        torch.autograd.grad((found.vector_BCI * weight_BCI).sum(), e_UD, retain_graph=True)[0]
        for found in (grouped, at_once)
    ]
    torch.testing.assert_close(*gradients)
    assert grouped.losses.keys() == at_once.losses.keys()
    for name, loss in grouped.losses.items():  # no history is longer than the search's sample of it
        torch.testing.assert_close(loss, at_once.losses[name])


@pytest.mark.parametrize("distance", [True, False])
def test_what_is_known_of_visits_counts_as_if_it_were_in_their_vectors(distance: bool) -> None:
    ranker = toy_ranker(Eta, toy_config(distance=distance)).double()
    batch = toy_batch((12, 5, 2, 0))
    h_BTD = torch.randn(4, 12, 8, dtype=torch.float64)
    q_BRD = torch.randn(4, 3, 8, dtype=torch.float64)
    expected = ranker.short(q_BRD, h_BTD + ranker.cross(batch), batch.mask_BT)
    torch.testing.assert_close(ranker.short(q_BRD, h_BTD, batch.mask_BT, ranker.known(batch)), expected)


@every_method
def test_keeping_all_visits_is_attention_over_the_history(
    model: type[SearchRanker], search_options: dict[str, object]
) -> None:
    # the search is the identity from keep = T on, whether or not it sorts
    batch = toy_batch((12, 7))
    logits = [
        toy_ranker(model, toy_config(keep=keep, **search_options)).eval()(batch).logit_BC for keep in (11, 12, 13, 50)
    ]
    torch.testing.assert_close(logits[1], logits[2])
    torch.testing.assert_close(logits[1], logits[3])
    if not search_options.get("hard"):
        assert not torch.allclose(logits[0], logits[1])


@every_method
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_visits_outside_the_kept_and_the_recent_ones_do_not_count(
    model: type[SearchRanker], search_options: dict[str, object], seed: int
) -> None:
    ranker = toy_ranker(model, toy_config(keep=2, **search_options), seed).eval()
    batch = toy_batch((12,), candidates=1, seed=seed)
    e_UD = ranker.items(batch.items_U).detach()
    h_BTD = e_UD[batch.history_BT].requires_grad_()
    ranker.interest(*of_its_own(e_UD[batch.candidates_BC], h_BTD, batch)).vector_BCI.sum().backward()
    assert h_BTD.grad is not None
    touched = h_BTD.grad[0].abs().sum(1) > 0
    most = 2 * (2 if model is Twin else 1)  # TWIN's two heads keep two visits each
    assert touched[-3:].all()
    assert int(touched[:-3].sum()) <= most


@every_method
def test_without_distances_the_model_needs_none(model: type[SearchRanker], search_options: dict[str, object]) -> None:
    ranker = toy_ranker(model, toy_config(distance=False, **search_options))
    bare = replace(toy_batch(), band_BC=None, band_BT=None, region_BC=None, region_BT=None)
    assert ranker(bare).logit_BC.isfinite().all()


@every_method
def test_half_precision_gives_nearly_the_same(model: type[SearchRanker], search_options: dict[str, object]) -> None:
    ranker = toy_ranker(model, toy_config(keep=12, **search_options)).eval()
    batch = toy_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half_BC = ranker(batch).logit_BC.float()
    torch.testing.assert_close(half_BC, ranker(batch).logit_BC, atol=0.05, rtol=0.1)
