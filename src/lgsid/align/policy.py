"""The encoder being aligned: frozen weights, low-rank updates (LoRA, arXiv 2106.09685) and an optional linear head.

The policy runs on a copy of the transformer's *structure* that shares every weight with the encoder it was made from.
So the encoder itself stays the unaligned reference, cache and fingerprint included, and no weight is held twice. The
base model is never in training mode, as its own dropout costs a quarter of a step and blurs what it is to learn; only
the dropout of the updates is switched.

Gradient checkpointing is left out: transformers couples it to the training mode that is avoided here. What limits
memory is the number of prompts of one step (``alignment.batch``, with ``alignment.accumulate`` to make up for it).

Shapes: N texts, B batch, D dimensions.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lgsid.align.encoder import Encoder, Tokens, padded_length
from lgsid.arrays import FloatArray, IntArray
from lgsid.config import LoraConfig
from lgsid.errors import EncoderError

ADAPTER = "default"
"""The adapter's name inside peft."""
_GROUP_ROWS = 32
_GROUP_FILL = 0.85
"""A group is closed when the next row has less than this share of its longest row's tokens."""
_TOKENIZE_AT_ONCE = 16_384

_KEYS = frozenset({"key", "k_proj", "k", "k_lin", "key_proj", "to_k", "wk"})
_VALUES = frozenset({"value", "v_proj", "v", "v_lin", "value_proj", "to_v", "wv"})
_FUSED = frozenset({"c_attn", "qkv_proj", "query_key_value", "Wqkv", "qkv", "kv_proj", "kv_b_proj", "in_proj_qkv"})
"""Several of query, key and value in one matrix: the update then covers all of it."""
_NOT_ENCODING = re.compile(r"pooler|embed|lm_head|router|vision|visual|audio", re.IGNORECASE)


class Policy:
    """An encoder with trainable low-rank updates and, if wanted, a trainable linear head.

    Attributes:
        encoder: the unaligned encoder; the policy never changes what it returns.
        config: the options of the updates.
        adapter: peft's configuration of the updates.
        head: map of shape (D, D) after the encoder's own pooling, or None. It starts at ``head_DD`` and acts on unit
            vectors: ``normalise(head @ normalise(x))``, computed as the equal ``normalise(head @ x)``.

    Args:
        encoder: what to align.
        lora: rank, scale, dropout and place of the updates; they start at no change.
        head_DD: start of the head, or None for no head.
        seed: of the updates' start; torch's own random state is neither used nor changed.

    Raises:
        EncoderError: the transformer has no layer that ``lora.modules`` stands for.
        ValueError: ``head_DD`` is not of shape (D, D).
    """

    def __init__(self, encoder: Encoder, lora: LoraConfig, head_DD: FloatArray | None, seed: int) -> None:
        if head_DD is not None and head_DD.shape != (encoder.dim, encoder.dim):
            raise ValueError(f"head of shape {head_DD.shape}, expected {(encoder.dim, encoder.dim)}")
        self.encoder = encoder
        self.config = lora
        self.head = None if head_DD is None else _linear(head_DD, encoder.device)
        self._aligned = copy.copy(encoder)
        self._aligned.model = _sharing_copy(encoder.model)
        self.adapter = _adapter(self._aligned.model, lora)
        _inject(self._aligned.model, self.adapter, seed)
        if encoder.device.type == "cpu":
            _attend_plainly(self._aligned.model)
        if self.head is not None:
            self._aligned.head = torch.nn.Sequential(*encoder.head, self.head)
        self._active = self._aligned
        self._training = False

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Token ids of N texts, to be made once and used in every step."""
        windows = range(0, len(texts), _TOKENIZE_AT_ONCE)
        parts = [self.encoder.tokenize(texts[start : start + _TOKENIZE_AT_ONCE]) for start in windows]
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.zeros(1, dtype=np.int64), *(part.lengths for part in parts)])
        flat, uncut = (
            np.concatenate([np.empty(0, dtype=np.int64), *(getattr(part, name) for part in parts)])
            for name in ("flat", "uncut")
        )
        return Tokens(flat, np.cumsum(lengths), uncut)

    def forward(self, tokens: Tokens, rows_B: IntArray) -> Tensor:
        """Unit vectors of some of the texts, shape (B, D), float32, differentiable, in the order of ``rows_B``.

        Rows of near length are encoded together: a fifth to a quarter faster than padding all to the longest.
        """
        padded_B = padded_length(tokens.lengths[rows_B])
        order_B = np.argsort(-padded_B, kind="stable")
        parts = []
        for group in _near_lengths(padded_B[order_B]):
            places = order_B[group]
            parts.append(self._active.forward(self._active.collate(tokens, rows_B[places], int(padded_B[places[0]]))))
        back_B = torch.from_numpy(np.argsort(order_B, kind="stable")).to(self.encoder.device)
        return torch.cat(parts)[back_B]

    def encode(self, texts: Sequence[str] | Tokens, rows_B: IntArray | None = None) -> FloatArray:
        """Unit vectors without gradient and dropout, shape (B, D), float32.

        The last bits may depend on the texts beside a text, as small matrices choose their kernel by its shape. The
        saved artefact, in which the updates are merged, has the encoder's guarantee that they do not.

        Args:
            texts: texts, or what `tokens` made of them.
            rows_B: with tokens, which of the texts; all by default.
        """
        training = self._training
        self.train_mode(False)
        try:
            if not isinstance(texts, Tokens):
                return self._active.encode(texts if rows_B is None else [texts[row] for row in rows_B])
            rows_B = np.arange(len(texts.uncut)) if rows_B is None else rows_B
            emb_BD = np.empty((len(rows_B), self.encoder.dim), dtype=np.float32)
            for batch in self._active.batches_of(texts, rows_B):
                emb_BD[batch.rows] = batch.emb
            return emb_BD
        finally:
            self.train_mode(training)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within this block `forward` and `encode` give the unaligned encoder's vectors; `encode` bit for bit."""
        before, self._active = self._active, self.encoder
        try:
            yield
        finally:
            self._active = before

    def named(self) -> dict[str, torch.nn.Parameter]:
        """The trainable parameters, float32, by names that depend on the architecture alone; the head is ``head``."""
        found = {
            name.replace(f".{ADAPTER}.weight", ""): parameter
            for name, parameter in self._aligned.model.named_parameters()
            if parameter.requires_grad
        }
        if self.head is not None:
            [found["head"]] = self.head.parameters()
        return found

    def train_mode(self, training: bool) -> None:
        """Switch the dropout of the updates on or off; it is off at first. Nothing else has two modes."""
        self._training = training
        for module in self._aligned.model.modules():
            dropout = getattr(module, "lora_dropout", None)
            if isinstance(dropout, torch.nn.Module):
                dropout.train(training)

    def updates(self) -> Iterator[tuple[str, Tensor]]:
        """Name of each adapted map and what is added to its weight, ``B A · alpha / rank``, float32, on the CPU."""
        with torch.no_grad():
            for name, module in self._aligned.model.named_modules():
                if hasattr(module, "get_delta_weight"):
                    yield name, module.get_delta_weight(ADAPTER).float().cpu()


def lora_targets(model: torch.nn.Module, modules: Literal["key_value", "attention", "all"]) -> list[str]:
    """Full names of the linear maps that get an update, in the model's order, for any architecture.

    Args:
        model: a transformer without task head.
        modules: ``key_value``: the attention's keys and values, or the matrix that holds them fused with the queries
            (GPT-2, GPT-NeoX, Phi-3, ModernBERT …), which is then adapted as a whole; ``attention``: queries and output
            as well; ``all``: the feed-forward maps too, but no embedding, pooler, router, head or tower for images.

    Raises:
        EncoderError: there are none; names the linear maps that the model has.
    """
    blocks = [name for name in _linear_names(model) if _is_in_block(name)]
    attention = [name for name in blocks if re.search("attn|attention", name.rpartition(".")[0], re.IGNORECASE)]
    leaves = {name.rpartition(".")[2] for name in attention}
    if modules == "key_value":
        complete = leaves & _FUSED or (leaves & _KEYS and leaves & _VALUES)
        wanted = _KEYS | _VALUES | _FUSED if complete else frozenset()
        found = [name for name in attention if name.rpartition(".")[2] in wanted]
    else:
        found = attention if modules == "attention" else blocks
    if not found:
        names = dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in _linear_names(model))
        raise EncoderError(
            f"no linear maps of {type(model).__name__} are known as {modules!r}; it has {', '.join(names) or 'none'}",
            "alignment.lora.modules: all" if blocks else "align another encoder",
        )
    return found


def _linear_names(model: torch.nn.Module) -> list[str]:
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, (torch.nn.Linear, Conv1D))]


def _is_in_block(name: str) -> bool:
    """Whether a map belongs to one of the numbered blocks that every token passes."""
    *path, leaf = name.split(".")
    return any(part.isdigit() for part in path) and leaf != "gate" and not _NOT_ENCODING.search(name)


def _sharing_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of a model's modules that holds the same parameters and buffers."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _adapter(model: torch.nn.Module, lora: LoraConfig) -> Any:
    """peft's configuration of the updates for this model."""
    import peft
    from transformers.pytorch_utils import Conv1D

    targets = lora_targets(model, lora.modules)
    scale: Any = lora.alpha  # peft's type says int, its arithmetic and its files take both
    return peft.LoraConfig(
        task_type=peft.TaskType.FEATURE_EXTRACTION,
        r=lora.rank,
        lora_alpha=scale,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
    )


def _inject(model: torch.nn.Module, adapter: Any, seed: int) -> None:
    """Put the updates into a model, in float32, and freeze all else; the bits follow from the seed alone."""
    import peft

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        peft.inject_adapter_in_model(adapter, model, adapter_name=ADAPTER)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    layer: Any  # peft's layers are not typed
    for layer in [module for module in model.modules() if hasattr(module, "lora_A")]:
        layer.cast_input_dtype_enabled = False
        for update in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            update.__class__ = _CastLinear
        if isinstance(layer.lora_dropout[ADAPTER], torch.nn.Dropout):
            layer.lora_dropout[ADAPTER] = _ByteDropout(layer.lora_dropout[ADAPTER].p)
    model.eval()


class _ByteDropout(torch.nn.Dropout):
    """Dropout that draws one byte an element: torch's own takes a third of a step on a CPU, drawing one number each.

    The probability is rounded to 256ths, and the kept elements are scaled by what was really kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * 256)
        if not self.training or dropped == 0:
            return x
        words = torch.randint(-(2**63), 2**63 - 1, (-(-x.numel() // 8),), device=x.device)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
        return x * keep * (256 / (256 - dropped))


def _attend_plainly(model: torch.nn.Module) -> None:
    """Write attention out as matrix products: the fused one's backward pass takes a third of a step on a CPU."""
    choose = getattr(model, "set_attn_implementation", None)
    if choose is not None:
        choose("eager")


class _CastLinear(torch.nn.Linear):
    """A linear map that calculates in its input's precision and keeps its weight, and gradient, in its own.

    peft would turn every input of an update into float32 instead: on a CPU that costs more than the update itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.weight.to(x.dtype))


def _linear(weight_DD: FloatArray, device: torch.device) -> torch.nn.Linear:
    linear = torch.nn.Linear(weight_DD.shape[1], weight_DD.shape[0], bias=False, device="meta")  # draws no numbers
    linear.weight = torch.nn.Parameter(torch.tensor(weight_DD, dtype=torch.float32, device=device))
    return linear


def _near_lengths(padded_B: IntArray) -> Iterator[slice]:
    """Cut lengths in falling order into groups that waste little padding."""
    start = 0
    for place in range(1, len(padded_B) + 1):
        full = place - start == _GROUP_ROWS
        if place == len(padded_B) or full or padded_B[place] < _GROUP_FILL * padded_B[start]:
            yield slice(start, place)
            start = place
