"""From hidden states to one vector a text: what a model folder says about it, and the arithmetic.

A sentence-transformers folder names its own pooling, length limit, default prompt and dense layers (``modules.json``
and the files it points at, in the old and the new key format). A plain transformers folder says nothing: a causal
decoder then gives the state of its last token, which alone has seen the whole text, and an encoder the mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from lgsid.artifact import read_json
from lgsid.errors import ArtifactError, EncoderError

Pooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]

_OLD_KEYS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys before sentence-transformers 6, in the order in which several poolings are concatenated."""


@dataclass(frozen=True)
class Layout:
    """How a model folder turns a text into a vector.

    Attributes:
        transformer: folder of the transformer and its tokenizer.
        poolings: one, or several whose results are concatenated.
        dense: folders of the dense layers that follow, in order.
        max_tokens: the model's own length limit, if it names one.
        prefix: default prompt that stands before every text.
        lower_case: whether texts are lower-cased first.
    """

    transformer: Path
    poolings: tuple[Pooling, ...]
    dense: tuple[Path, ...] = ()
    max_tokens: int | None = None
    prefix: str = ""
    lower_case: bool = False


def read_layout(folder: Path) -> Layout:
    """What a model folder says about pooling.

    Raises:
        EncoderError: a module or setting is not supported, or a file is broken.
    """
    try:
        if (folder / "modules.json").is_file():
            return _sentence_layout(folder)
        return Layout(folder, ("lasttoken",) if _is_decoder(folder) else ("mean",))
    except ArtifactError as error:
        raise EncoderError(
            f"the encoder {folder} is incomplete: {error.message}", "copy or install it again"
        ) from error


def _sentence_layout(folder: Path) -> Layout:
    modules = [(str(entry["type"]).rsplit(".", 1)[-1], folder / entry["path"]) for entry in _entries(folder)]
    kinds = [kind for kind, _ in modules]
    if not kinds or kinds[0] != "Transformer":
        raise EncoderError(f"{folder}: the first module is {kinds[:1]}, expected a Transformer", "use another encoder")
    poolings: tuple[Pooling, ...] | None = None
    dense: list[Path] = []
    for place, (kind, path) in enumerate(modules[1:], start=1):
        seen = kinds[1:place]
        if kind == "Pooling" and poolings is None:
            poolings = _poolings(path)
        elif kind == "Dense" and poolings is not None and "Normalize" not in seen:
            dense.append(path)
        elif kind not in ("Normalize", "Dropout"):  # vectors are normalised in any case, and dropout is for training
            raise EncoderError(f"{folder}: a {kind} module in this place is not supported", "use another encoder")
    settings = _optional(modules[0][1] / "sentence_bert_config.json")
    return Layout(
        transformer=modules[0][1],
        poolings=poolings or (("lasttoken",) if _is_decoder(modules[0][1]) else ("mean",)),
        dense=tuple(dense),
        max_tokens=settings.get("max_seq_length"),
        prefix=_default_prompt(folder),
        lower_case=bool(settings.get("do_lower_case", False)),
    )


def _entries(folder: Path) -> list[dict[str, Any]]:
    entries = read_json(folder / "modules.json")
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"type", "path"} <= e.keys() for e in entries):
        raise EncoderError(f"{folder / 'modules.json'} is not a list of modules", "copy or install the encoder again")
    return entries


def _poolings(folder: Path) -> tuple[Pooling, ...]:
    settings = read_json(folder / "config.json")
    if not settings.get("include_prompt", True):
        raise EncoderError(f"{folder}: poolings that leave out the prompt are not supported", "use another encoder")
    named = settings.get("pooling_mode")
    if named is None:
        named = [mode for key, mode in _OLD_KEYS.items() if settings.get(key, False)] or ["mean"]
    poolings = (named,) if isinstance(named, str) else tuple(named)
    unknown = [name for name in poolings if name not in get_args(Pooling)]
    if unknown or not poolings:
        raise EncoderError(
            f"{folder}: pooling {unknown} is not known; known are {', '.join(get_args(Pooling))}", "use another encoder"
        )
    return cast(tuple[Pooling, ...], poolings)


def _default_prompt(folder: Path) -> str:
    settings = _optional(folder / "config_sentence_transformers.json")
    name = settings.get("default_prompt_name")
    if name is None:
        return ""
    prompts = settings.get("prompts") or {}
    if name not in prompts:
        raise EncoderError(f"{folder}: the default prompt {name!r} is not among {sorted(prompts)}", "correct the file")
    return str(prompts[name])


def _optional(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise EncoderError(f"{path} is not a JSON object", "copy or install the encoder again")
    return content


def _is_decoder(folder: Path) -> bool:
    """Whether a plain model reads its text from left to right only."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    settings = read_json(folder / "config.json")
    kind = settings.get("model_type")
    causal = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(settings.get("is_decoder", False)) or causal


def pool_states(hidden_BTD: Tensor, mask_BT: Tensor, poolings: tuple[Pooling, ...]) -> Tensor:
    """Pool the states of the real tokens, in float32; padding may stand on either side.

    Args:
        hidden_BTD: last hidden states.
        mask_BT: 1 for real tokens; every row has at least one.

    Returns:
        vectors of shape (B, D · number of poolings), float32, not normalised.
    """
    hidden, mask = hidden_BTD.float(), mask_BT.to(hidden_BTD.device)
    return torch.cat([_pool_one(hidden, mask, pooling) for pooling in poolings], dim=1)


def _pool_one(hidden_BTD: Tensor, mask_BT: Tensor, pooling: Pooling) -> Tensor:
    real_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
    rows = torch.arange(len(hidden_BTD), device=hidden_BTD.device)
    if pooling == "cls":
        return hidden_BTD[rows, mask_BT.argmax(dim=1)]
    if pooling == "lasttoken":
        return hidden_BTD[rows, mask_BT.shape[1] - 1 - mask_BT.flip(1).argmax(dim=1)]
    if pooling == "max":
        return hidden_BTD.masked_fill(mask_BT.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)
    if pooling == "weightedmean":
        real_BT1 = real_BT1 * mask_BT.cumsum(dim=1).unsqueeze(-1).to(hidden_BTD.dtype)
    count_B1 = real_BT1.sum(dim=1)
    return (hidden_BTD * real_BT1).sum(dim=1) / (count_B1.sqrt() if pooling == "mean_sqrt_len_tokens" else count_B1)


def load_dense(folders: tuple[Path, ...]) -> Iterator[torch.nn.Module]:
    """The dense layers of a sentence-transformers folder, each a linear map and its activation, in float32.

    Raises:
        EncoderError: a layer has no safetensors weights, or a setting that is not supported.
    """
    from safetensors.torch import load_file

    for folder in folders:
        settings = read_json(folder / "config.json")
        weights = folder / "model.safetensors"
        if settings.get("use_residual") or not weights.is_file():
            raise EncoderError(f"{folder}: a dense layer without safetensors weights or with a residual", "use another")
        linear = torch.nn.Linear(settings["in_features"], settings["out_features"], bias=settings.get("bias", True))
        linear.load_state_dict({k.removeprefix("linear."): v.float() for k, v in load_file(weights).items()})
        yield torch.nn.Sequential(linear, _activation(str(settings.get("activation_function", "Tanh")), folder))


def _activation(name: str, folder: Path) -> torch.nn.Module:
    known = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
    short = name.rsplit(".", 1)[-1]
    if short not in known:
        raise EncoderError(f"{folder}: activation {name!r} is not one of {', '.join(known)}", "use another encoder")
    activation: torch.nn.Module = getattr(torch.nn, short)()
    return activation
