"""Text encoders: any transformers model as texts in, unit vectors out.

An embedding depends on its own text and on nothing else, bit for bit: not on the texts beside it, their order or their
number. That makes embeddings cacheable one by one and an interrupted run exact. Matrix kernels choose their order of
summation by shape, so the shape a text is encoded in must be a function of the text: it is padded to a length that
follows from its own token count (`padded_length`), and a batch is never so small that another kernel is chosen.

Shapes: N texts, B batch, T tokens, D dimensions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lgsid.align.models import find_model, model_files, quiet_transformers
from lgsid.align.pooling import Layout, load_dense, pool_states, read_layout
from lgsid.arrays import FloatArray, IntArray
from lgsid.artifact import sha256_file, sha256_json
from lgsid.config import EncoderConfig
from lgsid.errors import EncoderError

_ARITHMETIC = 1
"""Raise when a change of padding, pooling or normalisation changes the bits of embeddings: old caches then expire."""
_WINDOW = 16_384
"""Texts tokenised at a time: enough to fill batches of one length, little enough for memory."""
_BATCH_TOKENS = {"cpu": 1_024, "cuda": 16_384}
"""On a CPU more no longer fits its cache (measured: 5 % slower at 2,048, 12 % at 4,096)."""
_MIN_TOKENS = 256
"""A small batch is multiplied by another kernel and rounds differently (measured below 12 tokens on one processor, and
up to 128 on another)."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, ragged: text n has ``flat[offset[n]:offset[n + 1]]``, of ``uncut[n]`` before cutting."""

    flat: IntArray
    offset: IntArray
    uncut: IntArray

    @property
    def lengths(self) -> IntArray:
        """Token count of each text as encoded, shape (N,)."""
        lengths: IntArray = np.diff(self.offset)
        return lengths


@dataclass(frozen=True)
class Encoded:
    """One finished batch of B texts.

    Attributes:
        rows: which texts, shape (B,).
        emb: their unit vectors, shape (B, D).
        tokens: their token counts before cutting, shape (B,).
    """

    rows: IntArray
    emb: FloatArray
    tokens: IntArray


class Encoder:
    """A text encoder; made by `Encoder.load`.

    Attributes:
        model: the transformer, a ``torch.nn.Module`` (in the precision of the encoder).
        head: the dense layers after pooling, often none.
        tokenizer: the transformers tokenizer.
        layout: pooling, default prompt and the like.
        max_tokens: longer texts are cut.
        device, precision: where and how it runs.
        fingerprint: hash of all that can change an embedding: weights, tokenizer, pooling, precision, length limit.
        dim: length D of a vector.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        layout: Layout,
        *,
        config: EncoderConfig,
        device: torch.device,
        precision: Literal["fp32", "bf16"],
        fingerprint: str,
    ) -> None:
        self.model = model.to(device).eval()
        self.head = torch.nn.Sequential(*load_dense(layout.dense)).to(device).eval()
        self.tokenizer = tokenizer
        self.layout = layout
        self.name = config.model
        self.device = device
        self.precision = precision
        self.fingerprint = fingerprint
        self.max_tokens = _length_limit(model, tokenizer, layout, config.max_tokens)
        self.batch_tokens = config.batch_tokens or _BATCH_TOKENS[device.type]
        self.dim = self.encode(["a"]).shape[1]

    @classmethod
    def load(cls, config: EncoderConfig | None = None) -> Encoder:
        """Load an encoder.

        Args:
            config: which model and how it runs; the default is the MiniLM package.

        Raises:
            EncoderError: the model cannot be found, is incomplete, or uses a module that is not supported.
            MissingDependencyError: the model is GGUF and the extra ``gguf`` is not installed.
        """
        config = config or EncoderConfig()
        folder = find_model(config.model)
        device = _device(config.device)
        precision = config.precision
        if precision == "auto":
            precision = "bf16" if gains_from_bf16(device) else "fp32"
        layout = read_layout(folder)
        model, tokenizer = _load_transformer(
            layout.transformer, torch.bfloat16 if precision == "bf16" else torch.float32
        )
        return cls(
            model,
            tokenizer,
            layout,
            config=config,
            device=device,
            precision=precision,
            fingerprint=_fingerprint(folder, config, precision, device),
        )

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors of texts, shape (N, D), float32; a text that comes twice is encoded once.

        Raises:
            EncoderError: ``texts`` is not a sequence of strings, or the model gives numbers that are not finite.
        """
        distinct = _distinct(texts)
        emb_ND = np.empty((len(distinct), getattr(self, "dim", 0)), dtype=np.float32)
        for batch in self.batches(list(distinct)):
            if emb_ND.shape[1] == 0:  # the first text an encoder sees tells its dimension
                emb_ND = np.empty((len(distinct), batch.emb.shape[1]), dtype=np.float32)
            emb_ND[batch.rows] = batch.emb
        return emb_ND[[distinct[text] for text in texts]]

    def batches(self, texts: Sequence[str]) -> Iterator[Encoded]:
        """Encode texts, batch by batch, grouped by length and so not in their order."""
        for start in range(0, len(texts), _WINDOW):
            for batch in self.batches_of(self.tokenize(texts[start : start + _WINDOW])):
                yield Encoded(start + batch.rows, batch.emb, batch.tokens)

    def batches_of(self, tokens: Tokens, rows: IntArray | None = None) -> Iterator[Encoded]:
        """The same for texts that are tokenised already: all, or those in ``rows`` (a batch's rows index into it)."""
        rows = np.arange(len(tokens.uncut)) if rows is None else rows
        training = self.model.training
        self.model.eval()
        try:
            for places, length in _grouped(tokens.lengths[rows], self.batch_tokens):
                emb_BD = self._encode_batch(tokens, rows[places], length)
                yield Encoded(places, emb_BD, tokens.uncut[rows[places]])
        finally:
            self.model.train(training)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Token ids of texts, cut at `max_tokens`, without padding."""
        said = [self.layout.prefix + text for text in texts]
        if self.layout.lower_case:
            said = [text.lower() for text in said]
        ids: list[list[int]] = self._ids(said, truncation=False)
        uncut = np.array([max(len(found), 1) for found in ids], dtype=np.int64)
        long = np.flatnonzero(uncut > self.max_tokens).tolist()
        if long:
            for row, cut in zip(long, self._ids([said[row] for row in long], truncation=True), strict=True):
                ids[row] = cut
        nothing = [self.filler]  # a decoder's tokenizer turns an empty text into no tokens at all
        ids = [found or nothing for found in ids]
        offset = np.concatenate([[0], np.cumsum([len(found) for found in ids])]).astype(np.int64)
        flat = np.fromiter((token for found in ids for token in found), dtype=np.int64, count=int(offset[-1]))
        return Tokens(flat, offset, uncut)

    def collate(self, tokens: Tokens, rows: IntArray, length: int) -> dict[str, Tensor]:
        """The model's input for some texts: ids and mask of shape (B, ``length``), padded on the right."""
        place_T = np.arange(length)
        real_BT = place_T < tokens.lengths[rows][:, None]
        index_BT = np.where(real_BT, tokens.offset[rows][:, None] + place_T, 0)
        ids_BT = np.where(real_BT, tokens.flat[index_BT], self.filler)
        return {"input_ids": torch.from_numpy(ids_BT), "attention_mask": torch.from_numpy(real_BT.astype(np.int64))}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Unit vectors of one batch, shape (B, D), float32, differentiable.

        Args:
            batch: ``input_ids`` and ``attention_mask`` of shape (B, T), padded on either side.
        """
        mask_BT = batch["attention_mask"]
        extra: dict[str, Tensor] = {}
        if not bool(mask_BT[:, 0].all()):  # padded on the left: positions count from the first real token
            extra["position_ids"] = (mask_BT.cumsum(dim=1) - 1).clamp(min=0).to(self.device)
        ids_BT, mask_BT = batch["input_ids"].to(self.device), mask_BT.to(self.device)
        hidden_BTD = self.model(input_ids=ids_BT, attention_mask=mask_BT, **extra).last_hidden_state
        return torch.nn.functional.normalize(self.pool(hidden_BTD, mask_BT), dim=1)

    def pool(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """The model's own pooling and dense layers over hidden states, shape (B, D), float32, not normalised."""
        pooled: Tensor = self.head(pool_states(hidden_BTD, mask_BT, self.layout.poolings))
        return pooled

    def _encode_batch(self, tokens: Tokens, rows: IntArray, length: int) -> FloatArray:
        rows_run = np.resize(rows, max(len(rows), self._least_rows(length)))
        with torch.inference_mode():
            emb_BD = self.forward(self.collate(tokens, rows_run, length))[: len(rows)]
        result: FloatArray = emb_BD.cpu().numpy()
        if not np.isfinite(result).all():
            raise EncoderError(
                f"the encoder {self.name} gives numbers that are not finite in {self.precision}",
                "align.encoder.precision: fp32" if self.precision == "bf16" else "use another encoder",
            )
        return result

    def _least_rows(self, length: int) -> int:
        """Rows a batch is filled up to: on a GPU all batches of one length have one shape, on a CPU few rows do."""
        if self.device.type == "cuda":
            return max(1, self.batch_tokens // length)
        return -(-_MIN_TOKENS // length)

    def _ids(self, texts: list[str], truncation: bool) -> list[list[int]]:
        found = self.tokenizer(
            texts,
            truncation=truncation,
            max_length=self.max_tokens if truncation else None,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        ids: list[list[int]] = found["input_ids"]
        return ids

    @property
    def filler(self) -> int:
        """Token that padding is made of; it is masked, so any will do."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, self.tokenizer.bos_token_id)
        return next((token for token in known if token is not None), 0)


def padded_length(tokens_N: IntArray) -> IntArray:
    """Length a text is padded to: the next multiple of 2 to 16, of 4 to 128, of 8 beyond (finer makes tiny batches)."""
    step = np.where(tokens_N <= 16, 2, np.where(tokens_N <= 128, 4, 8))
    padded: IntArray = (tokens_N + step - 1) // step * step
    return padded


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 arithmetic of its own (by what it says it can do, never by timing)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if hasattr(torch.cpu, "get_capabilities"):
        found = torch.cpu.get_capabilities()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe)()) for probe in probes if hasattr(torch.cpu, probe))


def _grouped(lengths_N: IntArray, batch_tokens: int) -> Iterator[tuple[IntArray, int]]:
    """Batches of rows with one padded length; the longest first, so that a memory limit shows at once."""
    padded_N = padded_length(lengths_N)
    order = np.argsort(-padded_N, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(padded_N[order])) + 1) if len(order) else []
    for group in groups:
        length = int(padded_N[group[0]])
        size = max(1, batch_tokens // length)
        for start in range(0, len(group), size):
            yield group[start : start + size], length


def _distinct(texts: Sequence[str]) -> dict[str, int]:
    """The distinct texts with their first-seen number.

    Raises:
        EncoderError: one of them is not a string.
    """
    if isinstance(texts, str):
        raise EncoderError("encode got one string, expected a list of them", f"encode([{texts[:20]!r}])")
    distinct: dict[str, int] = {}
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise EncoderError(f"text {place} is {text!r}, expected a string", "give empty texts as ''")
        distinct.setdefault(text, len(distinct))
    return distinct


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise EncoderError("align.encoder.device is cuda, but torch sees no GPU", "align.encoder.device: auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _length_limit(model: torch.nn.Module, tokenizer: Any, layout: Layout, wanted: int) -> int:
    stated = (layout.max_tokens, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    return min([wanted, *(int(limit) for limit in stated if limit)])


def _fingerprint(folder: Path, config: EncoderConfig, precision: str, device: torch.device) -> str:
    files = [(str(path.relative_to(folder)), sha256_file(path)) for path in model_files(folder)]
    shape = config.batch_tokens if device.type == "cuda" else None  # the shape of a GPU's batches follows from it
    return sha256_json([_ARITHMETIC, files, config.max_tokens, precision, device.type, shape])[:32]


def _load_transformer(folder: Path, dtype: torch.dtype) -> tuple[torch.nn.Module, Any]:
    """The transformer and tokenizer of a folder.

    Raises:
        EncoderError: they cannot be read, or weights are missing (transformers would fill them with noise).
    """
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(str(folder))
            model, info = AutoModel.from_pretrained(
                str(folder), dtype=dtype, use_safetensors=True, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise EncoderError(f"cannot load the encoder {folder}: {error}", "copy or install it again") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise EncoderError(f"the weights of {folder} lack {len(missing)} tensors, {missing[0]} first", "copy it again")
    model.config.use_cache = False
    return model, tokenizer
