"""Step-by-step decoding: against the training pass, all items one by one, and transformers' own beam search."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from toy_rows import ITEMS, SIZES, codes, select
from toy_t5 import OFFSET, allowed_tokens, flat_tokens, per_level, tiger, whole_history

from lgsid.generate.base import Packed
from lgsid.generate.beam import beam_search, exact_scores
from lgsid.generate.tiger import Tiger
from lgsid.generate.trie import Trie

CPU = torch.device("cpu")


def answered(requests: Packed, item: int) -> Packed:
    """Rows in which each request goes on with one more visit, the only target."""

    def behind(tensor_RT: torch.Tensor, value_R: torch.Tensor | int) -> torch.Tensor:
        fill = -1 if tensor_RT is requests.segment_RT else 0
        longer_RT = torch.nn.functional.pad(tensor_RT, (0, 0) * (tensor_RT.ndim - 2) + (0, 1), value=fill)
        longer_RT[torch.arange(len(requests)), requests.length_R] = value_R
        return longer_RT

    return Packed(
        behind(requests.item_RT, item),
        behind(requests.segment_RT, 0),
        behind(requests.target_RT.long(), 1).bool(),
        behind(requests.time_RT, requests.now_R),
        behind(requests.band_RT, 3),
        behind(requests.user_RT, requests.user_RT[:, 0]),
        requests.length_R + 1,
        requests.now_R,
        behind(requests.here_RT3, requests.here_R3),
        requests.here_R3,
    )


def by_training(model: Tiger, requests: Packed) -> torch.Tensor:
    """Log-likelihoods of all items at requests, (R, N), each from the training pass."""
    scores = [model.likelihoods(answered(requests, item)).sum(1) for item in range(ITEMS)]
    return torch.stack(scores, dim=1)


@pytest.mark.parametrize("encoder", ["causal", "full"])
def test_all_items_have_the_likelihoods_of_training(encoder: str) -> None:
    model = tiger(encoder=encoder, time=True, distance=True, users=3)
    requests = whole_history(1, [1, 4, 12, 30])
    with torch.no_grad():
        expected_RN = by_training(model, requests)
    for found, expected_N in zip(
        exact_scores(model.decoder(requests), Trie(codes()).all(4), CPU), expected_RN, strict=True
    ):
        assert sorted(found.row_BW[0].tolist()) == list(range(ITEMS))
        torch.testing.assert_close(found.score_BW[0], expected_N[found.row_BW[0]], atol=2e-5, rtol=1e-5)
        assert all(a >= b for a, b in pairwise(found.score_BW[0].tolist()))


def test_beams_follow_their_parents() -> None:
    # likelihoods of the prefixes of many beams at once, in an order that mixes parents, against one beam at a time
    model, requests = tiger(), whole_history(2, [3, 7])
    decoder = model.decoder(requests)
    rng = np.random.default_rng(0)
    _, cache = decoder.start()
    first_BW = torch.from_numpy(rng.integers(0, SIZES[0], (2, 5)))
    _, cache = decoder.step(cache, torch.zeros(2, 5, dtype=torch.long), first_BW, 1)
    parent_BW, second_BW = (torch.from_numpy(rng.integers(0, n, (2, 7))) for n in (5, SIZES[1]))
    logp_BWK, _ = decoder.step(cache, parent_BW, second_BW, 2)
    for request in range(2):
        one = model.decoder(select(requests, slice(request, request + 1)))
        for beam in range(7):
            zero = torch.zeros(1, 1, dtype=torch.long)
            _, cache = one.start()
            _, cache = one.step(cache, zero, first_BW[request, parent_BW[request, beam]].view(1, 1), 1)
            alone, _ = one.step(cache, zero, second_BW[request, beam].view(1, 1), 2)
            torch.testing.assert_close(alone[0, 0], logp_BWK[request, beam], atol=1e-5, rtol=1e-5)


def test_wide_beams_find_the_exact_top() -> None:
    model, requests = tiger(3), whole_history(3, [2, 9, 5])
    trie = Trie(codes()).all(3)
    exact = exact_scores(model.decoder(requests), trie, CPU)
    found = beam_search(model.decoder(requests), trie, ITEMS, CPU)
    assert found.row_BW.tolist() == [of.row_BW[0].tolist() for of in exact]


@pytest.mark.parametrize("beams", [3, ITEMS])
def test_transformers_generate_names_the_same_items(beams: int) -> None:
    model, requests = tiger(4, encoder="full", pointer=False, nearness=False, history=12), whole_history(4, [4, 8, 12])
    codes_NL = codes()
    rng = np.random.default_rng(0)
    reach = [rng.choice(ITEMS, size, replace=False) for size in (ITEMS, 15, 8)]
    found = beam_search(model.decoder(requests), Trie(codes_NL).only(reach), beams, CPU)
    theirs = per_level(model)
    for request, chosen in enumerate(reach):
        # one at a time, as theirs fills up what a small trie lacks with what it forbids
        ids, mask = flat_tokens(select(requests, slice(request, request + 1)), model.codes_NL)
        width = min(beams, len(chosen))
        output = theirs.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=len(SIZES),
            length_penalty=0.0,
            early_stopping=False,
            do_sample=False,
            prefix_allowed_tokens_fn=allowed_tokens(codes_NL, [chosen]),
            return_dict_in_generate=True,
            output_scores=True,
        )
        place = {tuple(sid): row for row, sid in enumerate((codes_NL + OFFSET).tolist())}
        expected = [place[tuple(sid)] for sid in output.sequences[:, 1:].tolist()]
        assert found.row_BW[request, :width].tolist() == expected
        torch.testing.assert_close(found.score_BW[request, :width], output.sequences_scores, atol=1e-4, rtol=1e-4)


def test_bfloat16_ranks_as_float32_does_but_for_near_ties() -> None:
    model, requests = tiger(5), whole_history(5, [6, 11])
    trie = Trie(codes()).all(2)
    full = exact_scores(model.decoder(requests), trie, CPU)
    half = exact_scores(model.bfloat16().decoder(requests), trie, CPU)
    for a, b in zip(full, half, strict=True):
        assert b.score_BW.dtype == torch.float32
        score_N, rounded_N = (torch.empty(ITEMS).index_copy(0, of.row_BW[0], of.score_BW[0]) for of in (a, b))
        torch.testing.assert_close(rounded_N, score_N, atol=0.3, rtol=0.05)
        assert len({*a.row_BW[0, :5].tolist()} & {*b.row_BW[0, :8].tolist()}) == 5


def test_plans_do_what_the_modules_do_and_follow_the_weights() -> None:
    # with gradients the modules decode, without them a copy of the weights does
    model, requests = tiger(6, encoder="full"), whole_history(6, [4, 9, 2])
    network = model.network
    parent_BW = torch.tensor([[0, 1], [1, 1], [1, 0]])

    def states(gradients: bool) -> list[torch.Tensor]:
        with torch.set_grad_enabled(gradients):
            bos_BD, written = network.remember(requests, model.codes_NL, model.places)
            cache = written.cache
            found = [bos_BD[:, None]]
            for level in range(4):
                x_BWD = found[-1] if level != 1 else found[-1].expand(-1, 2, -1) * torch.tensor([1.0, 2.0])[:, None]
                x_BWD, cache = network.decoder.step(x_BWD, cache)
                cache = cache.of_parents(parent_BW) if level else cache
                found.append(x_BWD)
        return found

    def check() -> None:
        for planned, plain in zip(states(False), states(True), strict=True):
            torch.testing.assert_close(planned, plain.detach(), atol=1e-5, rtol=1e-5)

    check()
    before = states(False)[-1]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.1)
    assert not torch.allclose(states(False)[-1], before, atol=1e-3)
    check()
    network.load_state_dict(tiger(7, encoder="full").network.state_dict())
    check()
    network.double()
    check()
