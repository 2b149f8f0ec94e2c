"""Beam search for lists of items: what a session-wise generator would have a user visit next, one after the other.

As `lgsid.generate.beam`, but a beam that has named an item goes on to BOS and the next one. A beam never goes to a
node all of whose items its list holds already, so that no list names an item twice, none comes to nothing, and every
item is one that its request may be answered with. Where a request may name fewer items than a list has, its lists end
early.

Axes: B requests, W beams, M items of a list, m items named so far, K tokens of a level, C children of a node, X nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from lgsid.generate.beam import CodeDecoder
from lgsid.generate.decoding import NetworkDecoder
from lgsid.generate.network import Written
from lgsid.generate.trie import BatchTrie

Cache = TypeVar("Cache")


class ListDecoder(CodeDecoder[Cache], Protocol[Cache]):
    """A model that goes on to the next item of a list."""

    def next_item(self, cache: Cache, parent_BW: Tensor, token_BW: Tensor) -> tuple[Tensor, Cache]:
        """Log-likelihoods (B, W, K) of the first tokens of the next item, given the last token of the one before."""


class NetworkListDecoder(NetworkDecoder):
    """A `ListDecoder` of a network."""

    @torch.no_grad()
    def start(self) -> tuple[Tensor, Written]:
        """See `lgsid.generate.beam.CodeDecoder`."""
        self._bos_BD, written = self._network.remember(self._requests, self._codes_NL, self._places)
        return self._answer(self._bos_BD[:, None], written, 0)

    @torch.no_grad()
    def next_item(self, cache: Written, parent_BW: Tensor, token_BW: Tensor) -> tuple[Tensor, Written]:
        """See `ListDecoder`."""
        network = self._network
        x_BWD = network.tokens.written(token_BW, network.tokens.levels - 1)
        written = network.pass_by(x_BWD, cache.of_parents(parent_BW))
        return self._answer(self._bos_BD[:, None].expand_as(x_BWD), written, 0)


@dataclass(frozen=True)
class FoundLists:
    """The best lists of each request, best first.

    Attributes:
        row_BWM: catalogue rows, int64; -1 behind the end of a list.
        score_BW: log-likelihoods of the lists; -inf where a request has no further one.
    """

    row_BWM: Tensor
    score_BW: Tensor


@torch.no_grad()  # not inference_mode: what is found is learned from
def list_beam_search(
    decoder: ListDecoder[Cache], trie: BatchTrie, items: int, beams: int, device: torch.device
) -> FoundLists:
    """The best lists of each request.

    Args:
        decoder: the model, at the requests' own histories.
        trie: what each request may name.
        items: M, of a list; fewer where a request has fewer.
        beams: W; a request has so many lists at most.
        device: where the model is.
    """
    search = _Search(trie, items, beams, device)
    if not len(search.row_X):
        return search.found()
    logp_BWK, cache = decoder.start()
    for number in range(items):
        if number:
            if not search.going_on(number):
                break
            logp_BWK, cache = decoder.next_item(cache, search.parent_BW, search.token_BW)
        search.begin_item()
        for level in range(len(search.tokens)):
            if level:
                logp_BWK, cache = decoder.step(cache, search.parent_BW, search.token_BW, level)
            search.extend(logp_BWK, level)
        search.end_item(number)
    return search.found()


class _Search:
    """The beams of B requests.

    Attributes:
        parent_BW, token_BW: which beam each goes on from, and with which token.
        score_BW: log-likelihoods; -inf of a beam that isn't one.
        leaf_BWm: items that a beam has named, as nodes below the last level.
    """

    def __init__(self, trie: BatchTrie, items: int, beams: int, device: torch.device) -> None:
        def put(array: object) -> Tensor:
            return torch.as_tensor(array, device=device).long()

        self.beams = beams
        self.root_B2 = put(trie.root_B2)
        self.tokens = [put(level.token_M) for level in trie.levels]
        self.children = [put(level.child_M1) for level in trie.levels]
        self.row_X = put(trie.row_M)
        self.leaves: list[Tensor] = []  # where the items of each node begin, by level
        for child_X1 in reversed(self.children):
            self.leaves.insert(0, self.leaves[0][child_X1] if self.leaves else child_X1)
        self.count_B = self.leaves[0][self.root_B2].diff(dim=1)[:, 0]
        shape = (len(trie), beams)
        self._row_BWM = torch.full((*shape, items), -1, dtype=torch.int64, device=device)
        self._score_BW = torch.full(shape, -torch.inf, device=device)
        self.score_BW = torch.zeros(len(trie), 1, device=device)
        self.parent_BW = self.token_BW = torch.zeros(len(trie), 1, dtype=torch.int64, device=device)
        self.leaf_BWm = torch.zeros(len(trie), 1, 0, dtype=torch.int64, device=device)

    def going_on(self, number: int) -> bool:
        """Whether a request has more items than its lists hold; the beams of those that have none end."""
        more_B = self.count_B > number
        self.score_BW = self.score_BW.masked_fill(~more_B[:, None], -torch.inf)
        return bool(more_B.any())

    def begin_item(self) -> None:
        """Go back to the root."""
        self.start_BW = self.root_B2[:, :1].expand_as(self.score_BW)
        self.stop_BW = self.root_B2[:, 1:].expand_as(self.score_BW)

    def extend(self, logp_BWK: Tensor, level: int) -> None:
        """Keep the best children of all beams.

        Where a request has fewer children than beams, nodes of score -inf fill up; what they say means nothing.
        """
        alive_BW = self.score_BW > -torch.inf
        width = int(((self.stop_BW - self.start_BW) * alive_BW).max())
        node_BWC = self.start_BW[..., None] + torch.arange(width, device=alive_BW.device)
        allowed_BWC = (node_BWC < self.stop_BW[..., None]) & alive_BW[..., None]
        node_BWC = node_BWC.clamp(max=len(self.tokens[level]) - 1)
        allowed_BWC &= self._unnamed(node_BWC, level)
        gained_BWC = logp_BWK.float().gather(2, self.tokens[level][node_BWC])
        score_BWC = (self.score_BW[..., None] + gained_BWC).masked_fill(~allowed_BWC, -torch.inf)
        self.score_BW, place_BW = score_BWC.flatten(1).topk(min(self.beams, score_BWC[0].numel()), dim=1)
        node_BW = node_BWC.flatten(1).gather(1, place_BW)
        self.parent_BW, self.token_BW = place_BW // width, self.tokens[level][node_BW]
        named = self.leaf_BWm.shape[2]
        self.leaf_BWm = self.leaf_BWm.gather(1, self.parent_BW[..., None].expand(-1, -1, named))
        self.start_BW, self.stop_BW = self.children[level][node_BW], self.children[level][node_BW + 1]

    def end_item(self, number: int) -> None:
        """Note the items that have been named, and the lists as they stand."""
        leaf_BW = self.start_BW.clamp(max=len(self.row_X) - 1)
        self.leaf_BWm = torch.cat([self.leaf_BWm, leaf_BW[..., None]], dim=2)
        grown_B = self.count_B > number
        alive_BW = self.score_BW > -torch.inf
        row_BWm = self.row_X[self.leaf_BWm].masked_fill(~alive_BW[..., None], -1)
        lists, width = torch.full_like(self._row_BWM, -1), self.score_BW.shape[1]
        lists[:, :width, : number + 1] = row_BWm
        scores = torch.full_like(self._score_BW, -torch.inf)
        scores[:, :width] = self.score_BW
        self._row_BWM = torch.where(grown_B[:, None, None], lists, self._row_BWM)
        self._score_BW = torch.where(grown_B[:, None], scores, self._score_BW)

    def found(self) -> FoundLists:
        """The lists."""
        return FoundLists(self._row_BWM, self._score_BW)

    def _unnamed(self, node_BWC: Tensor, level: int) -> Tensor:
        """Whether a node has an item that its beam's list doesn't hold."""
        first_BWC, stop_BWC = self.leaves[level][node_BWC], self.leaves[level][node_BWC + 1]
        left_BWC = stop_BWC - first_BWC
        for leaf_BW in self.leaf_BWm.unbind(2):
            left_BWC = left_BWC - ((leaf_BW[..., None] >= first_BWC) & (leaf_BW[..., None] < stop_BWC)).long()
        return left_BWC > 0
