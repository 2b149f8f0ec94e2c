"""Where the items under each prefix of a SID are, and where users and what is being written for them stand.

Axes: N items, M nodes of a level, P nodes of the level above, B requests, W beams, Q asks, C children of asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from lgsid.arrays import AnyArray, CodeArray, DoubleArray, FloatArray
from lgsid.generate.trie import Trie
from lgsid.geo import DECAY_EDGES_KM, km_to_chord

BUCKETS = len(DECAY_EDGES_KM) + 1
"""Of distances."""
_BITS = 31
"""Of a token in a key."""


class _Nodes(nn.Module):
    """The nodes of one level of the trie.

    Attributes:
        token_M: last token of each.
        start_P1: the children of node p above are ``start_P1[p]:start_P1[p + 1]``; above the first level is one node.
        key_M: node above and token in one number, ascending.
        middle_M3: mean of the places of the items under each, on the unit sphere.
    """

    def __init__(self, token_M: CodeArray, start_P1: AnyArray, middle_M3: DoubleArray) -> None:
        super().__init__()
        parent_M = np.repeat(np.arange(len(start_P1) - 1), np.diff(start_P1))
        buffers = {
            "token_M": token_M.astype(np.int64),
            "start_P1": start_P1.astype(np.int64),
            "key_M": parent_M << _BITS | token_M,
            "middle_M3": middle_M3.astype(np.float32),
        }
        self.token_M: Tensor
        self.start_P1: Tensor
        self.key_M: Tensor
        self.middle_M3: Tensor
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)


class Places(nn.Module):
    """Where items are. Nothing here is learned.

    Args:
        xyz_N3: places of the items, on the unit sphere.
    """

    def __init__(self, xyz_N3: FloatArray | DoubleArray) -> None:
        super().__init__()
        self.xyz_N3: Tensor
        self.register_buffer("xyz_N3", torch.from_numpy(np.asarray(xyz_N3, dtype=np.float32)), persistent=False)
        edges = np.square(km_to_chord(DECAY_EDGES_KM)).astype(np.float32)
        self.edges: Tensor
        self.register_buffer("edges", torch.from_numpy(edges), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Goes from device to device; a place keeps its digits, whatever the parameters become."""
        super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)  # type: ignore[no-untyped-call]
        return self

    def bucket(self, a: Tensor, b: Tensor) -> Tensor:
        """Bucket of the distance between places (…, 3) and (…, 3), int64 (…); the last one where a place is 0."""
        x, y, z = ((a[..., axis] - b[..., axis]).square() for axis in range(3))
        return torch.bucketize(x + y + z, self.edges)


def told(nearness: bool, xyz_N3: FloatArray | None) -> FloatArray | None:
    """The places that a model is made with: none without nearness.

    Raises:
        ValueError: there is nearness, and there are no places.
    """
    if nearness and xyz_N3 is None:
        raise ValueError("a model with generate.nearness is made with the places of the items")
    return xyz_N3 if nearness else None


class SidPlaces(Places):
    """Where items are, and the middle of those under each prefix.

    Args:
        codes_NL: SIDs, int32.
        xyz_N3: places of the items, on the unit sphere.
        rows: items that have a SID to be written, whose SIDs are unique; None is all of them.
    """

    def __init__(self, codes_NL: CodeArray, xyz_N3: FloatArray | DoubleArray, rows: AnyArray | None = None) -> None:
        super().__init__(xyz_N3)
        written = slice(None) if rows is None else rows
        trie = Trie(codes_NL[written])
        place_N3 = np.asarray(xyz_N3, dtype=np.float64)[written][trie.row_N]
        starts = [np.array([0, len(trie.levels[0].token_M)]), *(level.child_M1 for level in trie.levels)]
        levels = zip(trie.levels, starts, trie.node_LN, strict=False)
        self.levels = nn.ModuleList(
            _Nodes(level.token_M, start_P1, _middles(node_N, place_N3)) for level, start_P1, node_N in levels
        )

    def nodes(self, level: int) -> _Nodes:
        """Of a level, from 0."""
        return cast("_Nodes", self.levels[level])

    def child(self, node: Tensor, token: Tensor, level: int) -> Tensor:
        """The nodes (…) of a level that nodes (…) above go on to with tokens (…); -1 where there is none."""
        key_M, wanted = self.nodes(level).key_M, node.clamp(min=0) << _BITS | token
        found = torch.searchsorted(key_M, wanted).clamp(max=len(key_M) - 1)
        return torch.where((key_M[found] == wanted) & (node >= 0), found, -1)


def _middles(node_N: CodeArray, place_N3: DoubleArray) -> DoubleArray:
    """Mean place of the items of each node, back on the sphere."""
    middle_M3 = np.stack([np.bincount(node_N, place_N3[:, axis]) for axis in range(3)], axis=1)
    length_M1 = np.linalg.norm(middle_M3, axis=1, keepdims=True)
    found: DoubleArray = middle_M3 / np.maximum(length_M1, np.finfo(np.float64).tiny)
    return found


@dataclass(frozen=True)
class Standing:
    """Where users are in the world, and what is being written for them in the trie.

    Attributes:
        places: of the catalogue.
        here_BW3: where the user is, on the unit sphere; 0 where nobody knows. W may be 1, for all beams of a request.
        node_BW: node of what has been written: 0 above the first level, -1 where no item begins so. W may be 1.
    """

    places: SidPlaces
    here_BW3: Tensor
    node_BW: Tensor

    @classmethod
    def at(cls, places: SidPlaces, here_BW3: Tensor) -> Standing:
        """With nothing written yet."""
        return cls(places, here_BW3, torch.zeros_like(here_BW3[..., 0], dtype=torch.int64))

    def of_parents(self, parent_BW: Tensor) -> Standing:
        """That of beams that go on from others."""
        if self.node_BW.shape[1] == 1:
            return replace(self, node_BW=self.node_BW.expand_as(parent_BW))
        return replace(self, node_BW=self.node_BW.gather(1, parent_BW))

    def went(self, token_BW: Tensor, level: int) -> Standing:
        """With one more token, of a level; W may be more than the beams so far, which were then one."""
        return replace(self, node_BW=self.places.child(self.node_BW, token_BW, level))

    def back(self) -> Standing:
        """With the next item to write."""
        return replace(self, node_BW=torch.zeros_like(self.node_BW))

    def children(self, beams: int, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """What may be written at a level: which ask each child is of, its token, and the bucket of its distance, (C,).

        Args:
            beams: W, asks of a request; ask q is beam ``q % W`` of request ``q // W``.
            level: of the children.
        """
        nodes = self.places.nodes(level)
        node_Q = self.node_BW.expand(-1, beams).flatten()
        start_Q = nodes.start_P1[node_Q.clamp(min=0)]
        count_Q = (nodes.start_P1[node_Q.clamp(min=0) + 1] - start_Q) * (node_Q >= 0)
        ask_C = torch.repeat_interleave(count_Q)
        offset_Q = start_Q - count_Q.cumsum(0) + count_Q
        child_C = torch.arange(len(ask_C), device=ask_C.device) + offset_Q[ask_C]
        here_C3 = self.here_BW3.expand(-1, beams, -1).flatten(0, 1)[ask_C]
        return ask_C, nodes.token_M[child_C], self.places.bucket(here_C3, nodes.middle_M3[child_C])
