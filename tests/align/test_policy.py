"""The policy: starts as the encoder, learns in LoRA and head alone, leaves the encoder and torch's randomness alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_policies import GPT2, TEXTS, disturbed, load, write_gpt2

from lgsid.align.encoder import Encoder
from lgsid.align.policy import Policy, lora_targets
from lgsid.config import LoraConfig
from lgsid.errors import EncoderError

PAPER = LoraConfig(rank=8, alpha=16.0, modules="key_value")

SIZE: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture(params=["bert", "llama"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """A tiny sentence encoder and a tiny decoder."""
    return load(request.getfixturevalue(f"{request.param}_folder"))


def tiny(name: str) -> torch.nn.Module:
    """A random model of an architecture."""
    if name == "GPT2":
        return transformers.GPT2Model(transformers.GPT2Config(**GPT2))
    kind = {"Gemma3Text": "Gemma3TextModel"}.get(name, f"{name}Model")
    more: dict[str, Any] = {"pad_token_id": 0}
    if name in ("Gemma3Text", "Qwen3"):
        more |= {"head_dim": 8, "num_key_value_heads": 1}
    if name == "DistilBert":
        more |= {"dim": 16, "n_heads": 2, "n_layers": 2, "hidden_dim": 32}
    sizes = {key: value for key, value in SIZE.items() if name != "DistilBert" or key == "vocab_size"}
    config = getattr(transformers, kind.replace("Model", "Config"))(**sizes, **more)
    model: torch.nn.Module = getattr(transformers, kind)(config)
    return model


def leaves(names: list[str]) -> set[str]:
    """What stands after the number of the block."""
    parts = [name.split(".") for name in names]
    return {".".join(p[max(i for i, word in enumerate(p) if word.isdigit()) + 1 :]) for p in parts}


@pytest.mark.parametrize(
    ("name", "key_value", "attention", "feed_forward"),
    [
        (
            "Bert",
            {"attention.self.key", "attention.self.value"},
            {"attention.self.query", "attention.output.dense"},
            {"intermediate.dense", "output.dense"},
        ),
        (
            "MPNet",
            {"attention.attn.k", "attention.attn.v"},
            {"attention.attn.q", "attention.attn.o"},
            {"intermediate.dense", "output.dense"},
        ),
        (
            "DistilBert",
            {"attention.k_lin", "attention.v_lin"},
            {"attention.q_lin", "attention.out_lin"},
            {"ffn.lin1", "ffn.lin2"},
        ),
        ("ModernBert", {"attn.Wqkv"}, {"attn.Wo"}, {"mlp.Wi", "mlp.Wo"}),
        ("GPT2", {"attn.c_attn"}, {"attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}),
        (
            "GPTNeoX",
            {"attention.query_key_value"},
            {"attention.dense"},
            {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
        ),
        ("Phi3", {"self_attn.qkv_proj"}, {"self_attn.o_proj"}, {"mlp.gate_up_proj", "mlp.down_proj"}),
        *(
            (
                name,
                {"self_attn.k_proj", "self_attn.v_proj"},
                {"self_attn.q_proj", "self_attn.o_proj"},
                {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
            )
            for name in ("Llama", "Gemma3Text", "Qwen2", "Qwen3", "Mistral")
        ),
    ],
)
def test_targets_of_every_architecture(
    name: str, key_value: set[str], attention: set[str], feed_forward: set[str]
) -> None:
    model = tiny(name)
    expected = (key_value, key_value | attention, key_value | attention | feed_forward)
    for modules, wanted in zip(("key_value", "attention", "all"), expected, strict=True):
        found = lora_targets(model, modules)  # type: ignore[arg-type]
        assert leaves(found) == wanted
        assert all(isinstance(model.get_submodule(place), torch.nn.Module) for place in found)
        if name != "ModernBert":  # whose first block has no normalisation of its own, but the same maps
            assert len(found) == 2 * len(wanted)


def test_poolers_embeddings_routers_and_heads_are_never_adapted() -> None:
    layer = torch.nn.ModuleDict({
        "self_attn": torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("k_proj", "v_proj")}),
        "mlp": torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in ("gate", "gate_proj")}),
        "router": torch.nn.Linear(2, 2),
        "embed_in": torch.nn.Linear(2, 2),
    })  # fmt: skip
    names = ("pooler", "lm_head")
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer])} | {n: torch.nn.Linear(2, 2) for n in names})
    assert leaves(lora_targets(model, "all")) == {"self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj"}


def test_an_unknown_architecture_is_told_what_it_has() -> None:
    layer = torch.nn.ModuleDict({"attn": torch.nn.ModuleDict({"schluessel": torch.nn.Linear(2, 2)})})
    model = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([layer, layer])})
    with pytest.raises(EncoderError, match=r"'key_value'; it has layers\.\*\.attn\.schluessel\n.*modules: all"):
        lora_targets(model, "key_value")
    assert lora_targets(model, "attention")
    with pytest.raises(EncoderError, match="it has none"):
        lora_targets(torch.nn.ModuleDict(), "all")


@pytest.mark.parametrize("modules", ["key_value", "attention", "all"])
@pytest.mark.parametrize("head", [False, True])
def test_a_new_policy_is_the_encoder(encoder: Encoder, modules: Any, head: bool) -> None:
    start = np.eye(32, dtype=np.float32) if head else None
    policy = Policy(encoder, PAPER.model_copy(update={"modules": modules}), start, seed=0)
    assert np.allclose(policy.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6)


def test_conv1d_maps_are_adapted_too(tmp_path: Path) -> None:
    policy = Policy(load(write_gpt2(tmp_path)), PAPER.model_copy(update={"dropout": 0.0}), None, seed=0)
    policy.forward(policy.tokens(TEXTS), np.arange(3)).sum().backward()
    assert set(policy.named()) == {f"h.{block}.attn.c_attn.lora_{ab}" for block in (0, 1) for ab in "AB"}
    assert policy.named()["h.0.attn.c_attn.lora_B"].shape == (48, 8)
    assert all(delta.shape == (16, 48) for _, delta in policy.updates())


def test_the_encoder_never_notices(encoder: Encoder) -> None:
    before, modules = encoder.encode(TEXTS), [type(module) for module in encoder.model.modules()]
    policy = disturbed(Policy(encoder, PAPER, np.eye(32, dtype=np.float32), seed=0))
    policy.train_mode(True)
    assert not np.allclose(policy.encode(TEXTS), before, atol=1e-2)
    assert np.array_equal(encoder.encode(TEXTS), before)
    assert [type(module) for module in encoder.model.modules()] == modules
    ours = {parameter.data_ptr() for parameter in policy._aligned.model.parameters()}
    assert all(parameter.data_ptr() in ours for parameter in encoder.model.parameters())  # nothing is held twice


def test_the_reference_is_the_unaligned_encoder(encoder: Encoder) -> None:
    policy = disturbed(Policy(encoder, PAPER, np.eye(32, dtype=np.float32), seed=0))
    tokens, rows = policy.tokens(TEXTS), np.arange(len(TEXTS))
    aligned = policy.encode(TEXTS)
    with policy.reference():
        assert np.array_equal(policy.encode(TEXTS), encoder.encode(TEXTS))
        vectors = policy.forward(tokens, rows)
        assert not vectors.requires_grad
        assert np.allclose(vectors.numpy(), encoder.encode(TEXTS), atol=1e-5)
    assert np.array_equal(policy.encode(TEXTS), aligned)
    with pytest.raises(RuntimeError, match="boom"), policy.reference():
        raise RuntimeError("boom")
    assert np.array_equal(policy.encode(TEXTS), aligned)


def test_forward_keeps_the_order_and_equals_encode(encoder: Encoder) -> None:
    policy = disturbed(Policy(encoder, PAPER, np.eye(32, dtype=np.float32), seed=0))
    tokens, expected = policy.tokens(TEXTS), policy.encode(TEXTS)

    @settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
    @given(rows=st.lists(st.integers(0, len(TEXTS) - 1), min_size=1, max_size=80))
    def check(rows: list[int]) -> None:
        rows_B = np.array(rows)
        vectors = policy.forward(tokens, rows_B)
        assert vectors.dtype == torch.float32
        assert np.allclose(vectors.detach().numpy(), expected[rows_B], atol=1e-5)
        assert np.allclose(policy.encode(tokens, rows_B), expected[rows_B], atol=1e-6)
        assert np.allclose(policy.encode(TEXTS, rows_B), expected[rows_B], atol=1e-6)

    check()


def test_tokens_of_many_texts_are_those_of_each(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.tokenize(TEXTS)
    monkeypatch.setattr("lgsid.align.policy._TOKENIZE_AT_ONCE", 7)
    policy = Policy(encoder, PAPER, None, seed=0)
    for name in ("flat", "offset", "uncut"):
        assert np.array_equal(getattr(policy.tokens(TEXTS), name), getattr(whole, name))
    assert policy.tokens([]).lengths.shape == (0,)


def test_gradients_reach_the_updates_and_the_head_alone(encoder: Encoder) -> None:
    policy = disturbed(Policy(encoder, PAPER, np.eye(32, dtype=np.float32), seed=0))
    vectors = policy.forward(policy.tokens(TEXTS), np.arange(len(TEXTS)))
    assert torch.allclose(vectors.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-5)
    (vectors @ vectors.T).square().sum().backward()
    named = policy.named()
    assert len(named) == 2 * 2 * 2 + 1
    assert "head" in named
    for parameter in named.values():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.model.parameters())


def test_gradients_are_those_of_one_batch_padded_to_the_longest(bert_folder: Path) -> None:
    policy = disturbed(Policy(load(bert_folder), PAPER, np.eye(32, dtype=np.float32), seed=0))
    tokens, rows = policy.tokens(TEXTS), np.arange(len(TEXTS))
    grads = []
    for vectors in (policy.forward(tokens, rows), policy._aligned.forward(policy._aligned.collate(tokens, rows, 24))):
        for parameter in policy.named().values():
            parameter.grad = None
        (vectors @ vectors.T)[3].exp().sum().backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in policy.named().values()]))  # type: ignore[union-attr]
    assert torch.allclose(grads[0], grads[1], rtol=1e-3, atol=1e-5)


def test_training_lowers_a_loss(encoder: Encoder) -> None:
    policy = Policy(encoder, PAPER.model_copy(update={"dropout": 0.0}), None, seed=0)
    tokens, rows = policy.tokens(TEXTS), np.array([0, 5, 9, 17])
    optimiser = torch.optim.AdamW(policy.named().values(), lr=0.02)
    losses = []
    for _ in range(8):
        vectors = policy.forward(tokens, rows)
        loss = (vectors @ vectors.T).triu(1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_only_the_updates_dropout_has_two_modes(encoder: Encoder) -> None:
    policy = disturbed(Policy(encoder, PAPER.model_copy(update={"dropout": 0.5}), None, seed=0))
    tokens, rows = policy.tokens(TEXTS), np.arange(9)

    def vectors() -> torch.Tensor:
        return policy.forward(tokens, rows).detach()

    still = vectors()
    assert torch.equal(vectors(), still)
    policy.train_mode(True)
    assert not torch.allclose(vectors(), still, atol=1e-3)
    switched = {name for name, module in policy._aligned.model.named_modules() if module.training}
    assert switched
    assert all("lora_dropout" in name for name in switched)
    assert np.array_equal(policy.encode(tokens, rows), policy.encode(tokens, rows))
    assert not torch.allclose(vectors(), still, atol=1e-3)  # encode put training back
    policy.train_mode(False)
    assert torch.equal(vectors(), still)


def test_the_seed_alone_decides_the_start(encoder: Encoder) -> None:
    def start(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in Policy(encoder, PAPER, None, seed).named().values()])

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = start(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(start(3), first)
    assert not torch.equal(start(4), first)


def test_the_head_acts_on_unit_vectors(encoder: Encoder) -> None:
    head = np.random.default_rng(0).normal(size=(32, 32)).astype(np.float32)
    policy = Policy(encoder, PAPER, head, seed=0)
    expected = encoder.encode(TEXTS) @ head.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(policy.encode(TEXTS), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"head of shape \(3, 32\), expected \(32, 32\)"):
        Policy(encoder, PAPER, head[:3], seed=0)


def test_updates_are_float32_over_a_bf16_base(bert_folder: Path) -> None:
    policy = disturbed(Policy(load(bert_folder, "bf16"), PAPER, None, seed=0))
    assert {parameter.dtype for parameter in policy.named().values()} == {torch.float32}
    assert {p.dtype for p in policy._aligned.model.parameters() if not p.requires_grad} == {torch.bfloat16}
    vectors = policy.forward(policy.tokens(TEXTS), np.arange(4))
    assert vectors.dtype == torch.float32
    vectors[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in policy.named().values())
