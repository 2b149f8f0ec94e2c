"""Items from a generator: beam search in the trie of the catalogue, or of what each user can reach.

Axes: R requests, K items of a request, B requests at once, W beams, L levels, M nodes of a level, V tokens of a level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lgsid.arrays import CodeArray, IntArray
from lgsid.generate.base import Generator, Packed
from lgsid.generate.beam import beam_search
from lgsid.generate.trie import Trie

_AT_ONCE = 256
"""Requests that are decoded together."""


class Generated:
    """A `lgsid.generate.base.Recommender` from a generator.

    Args:
        generator: writes SIDs.
        trie: of its catalogue.
        beams: W, of the search; more where more items are asked for.
    """

    def __init__(self, generator: Generator, trie: Trie, beams: int) -> None:
        self.generator, self.trie, self.beams = generator, trie, beams

    def top(self, requests: Packed, k: int, reach: Sequence[IntArray | CodeArray] | None = None) -> IntArray:
        """See `lgsid.generate.base.Recommender`."""
        row_RK = np.full((len(requests), k), -1, dtype=np.int64)
        with self._evaluating():
            for at, some in _batches(requests):
                trie = self.trie.all(len(some)) if reach is None else self.trie.only(reach[at])
                decoder = self.generator.decoder(some)
                found = beam_search(decoder, trie, max(k, self.beams), requests.item_RT.device)
                best_BK = found.row_BW[:, :k].cpu().numpy()
                row_RK[at, : best_BK.shape[1]] = best_BK
        return row_RK

    def unconstrained(self, requests: Packed, k: int) -> tuple[IntArray, float]:
        """The most likely SIDs by a beam search over all tokens, and the share of them that no item has.

        Args:
            requests: one segment a row.
            k: how many.

        Returns:
            catalogue rows (R, K), int64, -1 where a SID is no item's; and the share of these.
        """
        row_RK = np.full((len(requests), k), -1, dtype=np.int64)
        asked = 0
        with self._evaluating():
            for at, some in _batches(requests):
                token_BWL = self._free_search(some, max(k, self.beams))[:, :k]
                asked += token_BWL.shape[0] * token_BWL.shape[1]
                row_RK[at, : token_BWL.shape[1]] = rows_of_sids(self.trie, token_BWL.cpu().numpy())
        return row_RK, 1 - int((row_RK >= 0).sum()) / max(asked, 1)

    @torch.inference_mode()
    def _free_search(self, requests: Packed, beams: int) -> Tensor:
        """The best SIDs, best first: tokens (B, W, L)."""
        decoder = self.generator.decoder(requests)
        logp_BWV, cache = decoder.start()
        score_BW = logp_BWV.new_zeros(len(requests), 1)
        parent_BW = torch.zeros(len(requests), 1, dtype=torch.int64, device=logp_BWV.device)
        token_BWL = parent_BW[..., None][..., :0]
        for level in range(self.trie.depth):
            if level:
                logp_BWV, cache = decoder.step(cache, parent_BW, token_BWL[..., -1], level)
            score_BWV = score_BW[..., None] + logp_BWV
            score_BW, place_BW = score_BWV.flatten(1).topk(min(beams, score_BWV[0].numel()), dim=1)
            parent_BW, token_BW = place_BW // score_BWV.shape[2], place_BW % score_BWV.shape[2]
            written_BWL = token_BWL.gather(1, parent_BW[..., None].expand(-1, -1, level))
            token_BWL = torch.cat([written_BWL, token_BW[..., None]], dim=2)
        return token_BWL

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without dropout."""
        if not self.generator.training:
            yield
            return
        self.generator.eval()
        try:
            yield
        finally:
            self.generator.train()


def rows_of_sids(trie: Trie, sid: IntArray | CodeArray) -> IntArray:
    """Catalogue rows (…) of SIDs (…, L), int64; -1 where no item has it."""
    node = np.zeros(sid.shape[:-1], dtype=np.int64)
    known = np.ones(node.shape, dtype=bool)
    for level, (token_M, parent_M) in enumerate(_nodes(trie)):
        token = sid[..., level].astype(np.int64)
        width = 1 + max(int(token_M.max()), int(token.max(initial=0)))
        key_M = parent_M * width + token_M
        wanted = node * width + token
        node = np.searchsorted(key_M, wanted).clip(max=len(key_M) - 1)
        known &= key_M[node] == wanted
    return np.where(known, trie.row_M[node], -1)


def _nodes(trie: Trie) -> Iterator[tuple[IntArray, IntArray]]:
    """Token of each node, and its parent at the level above, level by level."""
    yield trie.levels[0].token_M.astype(np.int64), np.zeros(len(trie.levels[0].token_M), dtype=np.int64)
    for above, level in pairwise(trie.levels):
        parent_M = np.repeat(np.arange(len(above.token_M)), np.diff(above.child_M1))
        yield level.token_M.astype(np.int64), parent_M


def _batches(requests: Packed) -> Iterator[tuple[slice, Packed]]:
    for start in range(0, len(requests), _AT_ONCE):
        at = slice(start, start + _AT_ONCE)
        yield at, Packed(*(getattr(requests, field.name)[at] for field in fields(Packed)))
