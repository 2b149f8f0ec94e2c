"""A network beside transformers' T5 with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from toy_rows import ITEMS, SIZES, Segment, codes, pack, places, small

from lgsid.generate.base import Packed
from lgsid.generate.tiger import Tiger
from lgsid.generate.transformers_t5 import FIRST, PADDING, to_transformers

OFFSET = np.array([FIRST + total - size for size, total in zip(SIZES, accumulate(SIZES), strict=True)])
"""Their token 0 of each level."""


def tiger(seed: int = 0, **changes: Any) -> Tiger:
    """In evaluation mode; what starts at zero does not stay there."""
    torch.manual_seed(seed)
    model = Tiger(codes(), SIZES, small(**{"encoder_layers": 2, "decoder_layers": 2, **changes}), places()).eval()
    for parameter in model.parameters():
        if not parameter.any() and changes.get("encoder") != "full":
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def segment(rng: np.random.Generator, length: int) -> Segment:
    """Any visits of one user."""
    times = np.cumsum(rng.integers(1, 200_000, length))
    return [(int(rng.integers(ITEMS)), int(time)) for time in times]


def flat_tokens(rows: Packed, codes_NL: Tensor) -> tuple[Tensor, Tensor]:
    """Their input ids and attention mask, of rows of one segment."""
    ids_RTL = codes_NL[rows.item_RT] + torch.from_numpy(OFFSET)
    mask_RT = (rows.segment_RT >= 0) & ~rows.target_RT
    ids = ids_RTL.masked_fill(~mask_RT[..., None], PADDING).flatten(1)
    return ids, mask_RT.repeat_interleave(len(SIZES), 1).long()


def per_level(model: Tiger) -> Any:
    """Their model whose logits are those of one level alone.

    Our likelihoods are over the tokens of a level, theirs over all tokens: -inf elsewhere makes one of the other. The
    level is that of the last token that is given, plus one.
    """
    theirs = to_transformers(model.network)
    plain: Callable[..., Any] = theirs.forward
    edges = torch.from_numpy(np.append(OFFSET, OFFSET[-1] + SIZES[-1]))

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        last = kwargs["decoder_input_ids"]
        level = torch.bucketize(last, edges, right=True).clamp(max=len(SIZES) - 1)
        token = torch.arange(output.logits.shape[-1])
        inside = (token >= edges[level][..., None]) & (token < edges[level + 1][..., None])
        output.logits = output.logits.masked_fill(~inside, -torch.inf)
        return output

    theirs.forward = forward
    return theirs


def allowed_tokens(codes_NL: np.ndarray, rows: Sequence[Sequence[int]]) -> Callable[[int, Tensor], list[int]]:
    """What users write for ``prefix_allowed_tokens_fn``: a dictionary of prefixes for each request."""
    tries: list[dict[tuple[int, ...], set[int]]] = []
    for chosen in rows:
        trie: dict[tuple[int, ...], set[int]] = {}
        for sid in (codes_NL[list(chosen)] + OFFSET).tolist():
            for level, token in enumerate(sid):
                trie.setdefault(tuple(sid[:level]), set()).add(token)
        tries.append(trie)
    return lambda request, sent: sorted(tries[request].get(tuple(sent[1:].tolist()), {PADDING}))


def whole_history(seed: int, lengths: Sequence[int]) -> Packed:
    """Requests of so many visits."""
    rng = np.random.default_rng(seed)
    return pack([[segment(rng, length)] for length in lengths], first_target=99)
