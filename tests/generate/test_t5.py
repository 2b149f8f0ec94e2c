"""The layers: against torch's own operations, against transformers' T5, and the two ways to look along a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from toy_rows import SIZES
from toy_t5 import OFFSET, flat_tokens, tiger, whole_history

from lgsid.errors import ConfigError
from lgsid.generate.bands import Asks, Band, Look, causal
from lgsid.generate.kernels import Dropout, RmsNorm, look, look_plainly
from lgsid.generate.relative import relative_bucket
from lgsid.generate.transformers_t5 import BOS, from_transformers, to_transformers

HEADS, DIM, TOKENS = 2, 8, 3


def looking(visits: int, window: int, band: Band, queries: int = TOKENS) -> tuple[Look, torch.Tensor]:
    """Rows with two segments and padding, and a bias that may be learned."""
    segment_RT = torch.zeros(2, visits, dtype=torch.int64)
    segment_RT[0, visits // 3 :] = 1
    segment_RT[1, -2:] = -1
    relative_BC = band.ago(segment_RT.device).clamp(min=0).float()
    bias_HBC = torch.stack([torch.cos(relative_BC * (head + 1)) for head in range(HEADS)])
    bias_HNK = bias_HBC.repeat_interleave(queries, 1).repeat_interleave(TOKENS, 2).requires_grad_()
    return Look.of(band, bias_HNK, causal(band, segment_RT, 0, window), queries, TOKENS), bias_HNK


@pytest.mark.parametrize("visits", [9, 10, 23])
def test_blocks_see_what_a_dense_row_sees(visits: int) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, visits * TOKENS, DIM)
    kv = torch.randn(2, visits * TOKENS, 2 * DIM)
    dense, _ = looking(visits, 4, Band.dense(visits))
    blocks, _ = looking(visits, 4, Band(visits, 3, 4))
    real = (slice(None), slice(0, (visits - 2) * TOKENS))
    torch.testing.assert_close(look(q, kv, blocks, HEADS)[real], look(q, kv, dense, HEADS)[real])


@pytest.mark.parametrize("band", [Band.dense(10), Band(10, 3, 4)])
def test_gradients_by_hand_are_those_of_autograd(band: Band) -> None:
    torch.manual_seed(0)
    found = []
    for function in (look, look_plainly):
        torch.manual_seed(1)
        q = torch.randn(2, band.padded * TOKENS, DIM, requires_grad=True)
        kv = torch.randn(2, 10 * TOKENS, 2 * DIM, requires_grad=True)
        what, bias = looking(10, 4, band)
        mixed = function(q, kv, what, HEADS)
        (mixed * torch.randn_like(mixed)).sum().backward()
        found.append((mixed, q.grad, kv.grad, bias.grad))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-4)


def test_a_band_reaches_the_whole_window() -> None:
    for visits in range(1, 40):
        for window in (1, 2, 5, 20):
            band = Band.of(visits, window, torch.device("cpu"))
            seen = causal(band, torch.zeros(1, visits, dtype=torch.int64), 1, window)
            count_T = torch.cat([block_RBC.sum(2) for block_RBC in seen], 1)[0, :visits]
            assert count_T.tolist() == [min(place, window) for place in range(visits)]


def test_asks_return_to_where_they_came_from() -> None:
    band = Band(7, 3, 2)
    what, _ = looking(7, 2, band)
    asks = Asks(torch.tensor([0, 0, 1]), torch.tensor([1, 6, 4]), what)
    x_QPD = torch.randn(3, 2, DIM)
    grid_RMD = asks.grid(x_QPD, 2)
    assert grid_RMD.shape == (2, band.padded * 2, DIM)
    assert grid_RMD.abs().sum(2).ne(0).nonzero().tolist() == [[0, 2], [0, 3], [0, 12], [0, 13], [1, 8], [1, 9]]
    assert torch.equal(asks.flat(grid_RMD, 2), x_QPD)


def test_norm_and_its_gradient() -> None:
    torch.manual_seed(0)
    norm = RmsNorm(DIM)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(4, 5, DIM, requires_grad=True)
    plain_x, plain_weight = x.detach().clone().requires_grad_(), norm.weight.detach().clone().requires_grad_()
    plain = torch.nn.functional.rms_norm(plain_x, (DIM,), plain_weight, norm.eps)
    g = torch.randn_like(plain)
    norm(x).backward(g)
    plain.backward(g)
    torch.testing.assert_close(norm(x), plain)
    torch.testing.assert_close(x.grad, plain_x.grad)
    torch.testing.assert_close(norm.weight.grad, plain_weight.grad)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropout = Dropout(0.25)
    torch.manual_seed(0)
    x = torch.ones(1_000, 99)
    once, again = dropout(x), dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), once)
    assert not torch.equal(once, again)
    assert float((once == 0).float().mean()) == pytest.approx(0.25, abs=0.005)
    assert float(once.mean()) == pytest.approx(1, abs=0.01)
    assert once.unique().tolist() == pytest.approx([0.0, 256 / 192])
    assert dropout.eval()(x) is x


@pytest.mark.parametrize("both", [True, False])
def test_buckets_are_those_of_transformers(both: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = torch.arange(-300, 300)
    theirs = T5Attention._relative_position_bucket(relative, bidirectional=both)
    assert torch.equal(relative_bucket(relative, both=both), theirs)


def test_full_encoder_and_decoder_are_transformers_t5() -> None:
    model = tiger(1, encoder="full", pointer=False, nearness=False, history=12)
    torch.nn.init.normal_(model.network.tokens.bos)
    rows = whole_history(1, [13, 6, 2])
    rows.target_RT[torch.arange(3), rows.length_R - 1] = True
    theirs = to_transformers(model.network)
    ids, mask = flat_tokens(rows, model.codes_NL)
    code_RL = model.codes_NL[rows.item_RT[rows.target_RT]] + torch.from_numpy(OFFSET)
    written = torch.cat([torch.full((3, 1), BOS), code_RL[:, :-1]], dim=1)
    with torch.no_grad():
        logits_RLV = theirs(input_ids=ids, attention_mask=mask, decoder_input_ids=written).logits
        expected = torch.stack([
            logits_RLV[:, level, OFFSET[level] : OFFSET[level] + size].log_softmax(-1)[
                torch.arange(3), code_RL[:, level] - OFFSET[level]
            ]
            for level, size in enumerate(SIZES)
        ], dim=1)  # fmt: skip
        torch.testing.assert_close(model.likelihoods(rows), expected, atol=1e-5, rtol=1e-5)
        loss, parts = model.loss(rows)
    assert float(loss) == pytest.approx(-float(expected.mean()), abs=1e-5)
    assert list(parts.values()) == pytest.approx((-expected.mean(0)).tolist(), abs=1e-5)


def test_weights_there_and_back() -> None:
    model = tiger(2, encoder="full", pointer=False, nearness=False)
    theirs = to_transformers(model.network)
    back = from_transformers(theirs, SIZES, model.config)
    ours = model.network.state_dict()
    assert back.state_dict().keys() == ours.keys()
    for name, tensor in back.state_dict().items():
        assert torch.equal(tensor, ours[name]), name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"time": True}, "time"),
        ({"encoder": "causal"}, "causal"),
        ({"pointer": True}, "pointer"),
        ({"nearness": True}, "nearness"),
        ({"users": 3, "distance": True}, "users, distance"),
    ],
)
def test_what_t5_has_not_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        to_transformers(tiger(**{"encoder": "full", "pointer": False, "nearness": False, **changes}).network)


def test_other_sizes_are_refused() -> None:
    model = tiger(encoder="full", pointer=False, nearness=False)
    with pytest.raises(ConfigError, match=r"shared\.weight"):
        from_transformers(to_transformers(model.network), (3, 4, 5), model.config)
