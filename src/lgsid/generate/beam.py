"""Beam search in a trie: the most likely items of each request, and nothing but items.

At each level a beam stands on a node of its request's trie and goes on to that node's children alone, so there is
nothing to forbid afterwards and no beam that comes to nothing. Scores are the model's log-likelihoods over all tokens
of a level, not over the allowed ones, so that those of a beam search in any part of the trie are the same numbers as
those of `exact_scores`.

Axes: B requests, W beams, K tokens of a level, C children of a node, M nodes, S items scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lgsid.generate.trie import BatchTrie

Cache = TypeVar("Cache")


class CodeDecoder(Protocol[Cache]):
    """A model that says, for the prefix of a SID, how likely each next token is."""

    def start(self) -> tuple[Tensor, Cache]:
        """Log-likelihoods (B, 1, K) of the first tokens, and what the model remembers of one beam a request."""

    def step(self, cache: Cache, parent_BW: Tensor, token_BW: Tensor, level: int) -> tuple[Tensor, Cache]:
        """Log-likelihoods (B, W, K) of the tokens at a level.

        Args:
            cache: of the beams before.
            parent_BW: which of these each beam goes on from.
            token_BW: with which token.
            level: of the tokens that are asked for, from 1.
        """


@dataclass(frozen=True)
class Found:
    """The best items of each request, best first.

    Attributes:
        row_BW: catalogue rows, int64; -1 where a request has no further item.
        score_BW: their log-likelihoods; -inf where there is none.
    """

    row_BW: Tensor
    score_BW: Tensor


class _Tables:
    """A batch trie as tensors."""

    def __init__(self, trie: BatchTrie, device: torch.device) -> None:
        def put(array: object) -> Tensor:
            return torch.as_tensor(array, device=device)  # int32 as it is: on a CPU nothing is copied

        self.root_B2 = put(trie.root_B2).long()
        self.tokens = [put(level.token_M) for level in trie.levels]
        self.children = [put(level.child_M1) for level in trie.levels]
        self.row_M = put(trie.row_M)


@torch.inference_mode()
def beam_search(decoder: CodeDecoder[Cache], trie: BatchTrie, beams: int, device: torch.device) -> Found:
    """The best items of each request.

    Args:
        decoder: the model, at the requests' own histories.
        trie: what each request may name.
        beams: W; a request has so many items at most.
        device: where the model is.

    Returns:
        W items of each request, or as many as its trie has.
    """
    tables = _Tables(trie, device)
    if not len(tables.row_M):
        nothing_B1 = torch.full((len(trie), 1), -1, dtype=torch.int64, device=device)
        return Found(nothing_B1, torch.full(nothing_B1.shape, -torch.inf, device=device))
    logp_BWK, cache = decoder.start()
    start_BW, stop_BW = tables.root_B2[:, :1], tables.root_B2[:, 1:]
    score_BW = torch.zeros(len(trie), 1, device=device)
    parent_BW = token_BW = torch.zeros(len(trie), 1, dtype=torch.int64, device=device)
    for level, token_M in enumerate(tables.tokens):
        if level:
            logp_BWK, cache = decoder.step(cache, parent_BW, token_BW, level)
        node_BW, parent_BW, score_BW = _best(score_BW, logp_BWK, start_BW, stop_BW, token_M, beams)
        token_BW = token_M[node_BW].long()
        start_BW, stop_BW = (tables.children[level][node_BW + after].long() for after in (0, 1))
    row_BW = torch.where(score_BW > -torch.inf, tables.row_M[start_BW.clamp(max=len(tables.row_M) - 1)].long(), -1)
    return Found(row_BW, score_BW)


def _best(
    score_BW: Tensor, logp_BWK: Tensor, start_BW: Tensor, stop_BW: Tensor, token_M: Tensor, beams: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best children of all beams: their nodes, which beam each comes from, and their scores.

    Where a request has fewer children than beams, nodes of score -inf fill up; what they say means nothing.
    """
    alive_BW = score_BW > -torch.inf
    width = int(((stop_BW - start_BW) * alive_BW).max())
    node_BWC = start_BW[..., None] + torch.arange(width, device=score_BW.device)
    allowed_BWC = (node_BWC < stop_BW[..., None]) & alive_BW[..., None]
    node_BWC = node_BWC.clamp(max=len(token_M) - 1)
    token_BWC = token_M[node_BWC].long()
    score_BWC = (score_BW[..., None] + logp_BWK.float().gather(2, token_BWC)).masked_fill(~allowed_BWC, -torch.inf)
    best_BW, place_BW = score_BWC.flatten(1).topk(min(beams, score_BWC[0].numel()), dim=1)
    return node_BWC.flatten(1).gather(1, place_BW), place_BW // width, best_BW


@torch.inference_mode()
def exact_scores(decoder: CodeDecoder[Cache], trie: BatchTrie, device: torch.device) -> list[Found]:
    """Log-likelihoods of all items of each request's trie, best first; one `Found` a request, of one row.

    Every prefix goes through the model once, however many items share it. Takes memory in proportion to the nodes of
    the largest trie times the batch: for small catalogues, and to check a beam search by.
    """
    sizes = [int(count) for count in _items_of(trie)]
    found = beam_search(decoder, trie, max([1, *sizes]), device)
    return [Found(found.row_BW[b : b + 1, :n], found.score_BW[b : b + 1, :n]) for b, n in enumerate(sizes)]


def _items_of(trie: BatchTrie) -> Tensor:
    """How many items each request's trie has."""
    bound_B2 = torch.from_numpy(trie.root_B2).long()
    for level in trie.levels:
        bound_B2 = torch.from_numpy(level.child_M1).long()[bound_B2]
    return bound_B2[:, 1] - bound_B2[:, 0]
