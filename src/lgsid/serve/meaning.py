"""What a SID, or the beginning of one, stands for, and which items have it.

Axes: N items served, M tokens with the extra one.
"""

from __future__ import annotations

import numpy as np

from lgsid.serve.base import RequestError
from lgsid.serve.catalogue import Catalogue
from lgsid.serve.contract import Meaning
from lgsid.sid.explain import TokenBook, meaning_text

SHOWN = 20
"""Items of a SID that are named, those most visited."""


def meaning_of(sid: str, catalogue: Catalogue, tokens: TokenBook) -> Meaning:
    """Meaning of the tokens of a SID, one text each, and its items.

    Raises:
        RequestError: no item has a SID that begins so.
    """
    parts = sid.split("-")
    numeric = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts)
    if not numeric or len(parts) > catalogue.codes_NM.shape[1]:
        raise RequestError(
            f"{sid!r:.80}: neither the id of an item nor a SID such as 12-7-255, or the beginning of one"
        )
    codes = [int(part) for part in parts]
    inside_N = np.ones(len(catalogue), dtype=np.bool_)
    for column, code in zip(catalogue.codes_NM.T, codes, strict=False):
        inside_N &= column == code
    rows = np.flatnonzero(inside_N)
    if not len(rows):
        raise RequestError(f"SID {sid!r}: no item has a SID that begins so")
    shown = rows[np.lexsort((rows, -catalogue.visits_N[rows]))[:SHOWN]]
    explained = tokens.explain(codes).tokens
    texts = [_text(level, catalogue.levels) if token is None else meaning_text(token)
             for level, token in enumerate(explained, start=1)]  # fmt: skip
    return Meaning(sid, tuple(texts), tuple(catalogue.items["item_id"].gather(shown)), len(rows))


def _text(level: int, levels: int) -> str:
    """Of a token that no item had when the codebooks were fitted, or of an extra one."""
    return "tells apart items that share the tokens before it" if level > levels else "came after the fit"
