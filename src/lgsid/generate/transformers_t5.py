"""Weights to and from ``transformers.T5ForConditionalGeneration``.

There all tokens share one vocabulary: 0 is padding, 1 is BOS, and token c of level l is 2 + offset of l + c. A forward
pass gives the same decoder states and logits; likelihoods differ, as transformers' softmax goes over all levels'
tokens and ours over those of one. Transformers 5 always ties a T5's head to its embeddings; here the head is its own,
on the model that is made, so save its weights rather than the model. What T5 lacks has no place there: a causal
encoder, a bias of cross attention, a pointer, nearness, users, times and distances.

Axes: V tokens of all levels with padding and BOS, D dimensions, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lgsid.config import GenerateConfig
from lgsid.errors import ConfigError
from lgsid.generate.network import Network
from lgsid.generate.relative import BUCKETS, LONGEST

PADDING, BOS, FIRST = 0, 1, 2
"""Tokens of transformers; `FIRST` is token 0 of the first level."""


def to_transformers(network: Network) -> Any:
    """A ``T5ForConditionalGeneration`` in evaluation mode with a network's weights.

    Raises:
        ConfigError: the network has what T5 has not.
    """
    from transformers import T5Config, T5ForConditionalGeneration

    config = network.config
    _check(network)
    options: dict[str, Any] = {
        "vocab_size": FIRST + sum(network.tokens.sizes),
        "d_model": config.dim,
        "d_kv": config.dim // config.heads,
        "d_ff": config.feed_forward,
        "num_layers": config.encoder_layers,
        "num_decoder_layers": config.decoder_layers,
        "num_heads": config.heads,
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": LONGEST,
        "dropout_rate": config.dropout,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": False,
        "pad_token_id": PADDING,
        "decoder_start_token_id": BOS,
        "eos_token_id": None,
    }
    theirs = T5Config(**options)  # the option unties nothing, it only keeps states from being scaled before the head
    theirs.tie_word_embeddings = False
    model: Any = T5ForConditionalGeneration(theirs)
    state = {name: tensor.detach().clone() for name, tensor in _theirs(network).items()}
    shared = state["shared.weight"]
    state |= {"encoder.embed_tokens.weight": shared, "decoder.embed_tokens.weight": shared}
    model.load_state_dict(state)
    return model.eval()


def from_transformers(model: Any, sizes: Sequence[int], config: GenerateConfig) -> Network:
    """A network with the weights of a ``T5ForConditionalGeneration``.

    Args:
        model: with the vocabulary above, ReLU feed-forward layers and an untied head.
        sizes: number of tokens of each level.
        config: of the same sizes.

    Raises:
        ConfigError: the network has what T5 has not, or the sizes differ.
    """
    network = Network(sizes, config)
    _check(network)
    state = model.state_dict()
    with torch.no_grad():
        for name, ours in _theirs(network).items():
            if name not in state or state[name].shape != ours.shape:
                got = tuple(state[name].shape) if name in state else "nothing"
                raise ConfigError(f"{name} of the T5 model is {got}, expected {tuple(ours.shape)}", _FIX)
        _load(network, state)
    return network.eval()


_FIX = "give the configuration and the SIDs that the T5 model was made with"


def _check(network: Network) -> None:
    config = network.config
    further = [name for name in ("users", "time", "distance", "nearness") if getattr(config, name)]
    if config.encoder != "full":
        further.append("a causal encoder")
    if config.pointer:
        further.append("a pointer")
    if bool(network.ago.weight.any()):
        further.append("a bias of cross attention")
    if further:
        raise ConfigError(
            f"the model has {', '.join(further)}, which T5 has not",
            "--set generate.encoder=full generate.pointer=false generate.nearness=false generate.users=0 "
            "generate.time=false generate.distance=false",
        )


def _stack(ours: Any, name: str, cross: bool) -> dict[str, list[Tensor]]:
    """Their names, and our parameters that are what they are, one below the other."""
    found = {f"{name}.final_layer_norm.weight": [ours.norm.weight]}
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    found[bias] = [ours.bias.weight]
    for number, layer in enumerate(ours.layers):
        block = f"{name}.block.{number}.layer"
        attention, feed_forward = layer.attention, layer.feed_forward
        for what, weight in zip("qkv", attention.qkv.weight.chunk(3), strict=True):
            found[f"{block}.0.SelfAttention.{what}.weight"] = [weight]
        found[f"{block}.0.SelfAttention.o.weight"] = [attention.out.weight]
        found[f"{block}.0.layer_norm.weight"] = [attention.norm.weight]
        if cross:
            k, v = layer.cross.kv.weight.chunk(2)
            for what, weight in zip("qkvo", (layer.cross.query.weight, k, v, layer.cross.out.weight), strict=True):
                found[f"{block}.1.EncDecAttention.{what}.weight"] = [weight]
            found[f"{block}.1.layer_norm.weight"] = [layer.cross.norm.weight]
        last = f"{block}.{2 if cross else 1}"
        found[f"{last}.DenseReluDense.wi.weight"] = [feed_forward.feed_forward.inner.weight]
        found[f"{last}.DenseReluDense.wo.weight"] = [feed_forward.feed_forward.outer.T]
        found[f"{last}.layer_norm.weight"] = [feed_forward.norm.weight]
    return found


def _parts(network: Network) -> dict[str, list[Tensor]]:
    """Their names, and our parameters (views of them) that stand one below the other there.

    Padding, and what the head says of padding and BOS, are zero and nobody's.
    """
    tokens = network.tokens
    nothing_1D = torch.zeros_like(tokens.bos)[None]
    return {
        "shared.weight": [nothing_1D, tokens.bos[None], tokens.table.weight],
        "lm_head.weight": [nothing_1D, nothing_1D, *tokens.heads.parameters()],
        **_stack(network.encoder, "encoder", cross=False),
        **_stack(network.decoder, "decoder", cross=True),
    }


def _theirs(network: Network) -> dict[str, Tensor]:
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in _parts(network).items()}


def _load(network: Network, state: dict[str, Tensor]) -> None:
    """Copy into our parameters; those of nobody take no harm."""
    for name, parts in _parts(network).items():
        start = 0
        for ours in parts:
            ours.copy_(state[name][start : start + len(ours)])
            start += len(ours)
