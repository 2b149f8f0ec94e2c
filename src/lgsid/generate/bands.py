"""Who may look at whom, in blocks: attention that reaches no further back than a window costs no more than the window.

A row of T visits is cut into blocks; the queries of a block look at its own visits and at a window before them. Where a
row is short, where everything sees everything, and on a GPU, there is one block and no window, and the same code is
plain dense attention. Masks are additive.

Axes: R rows, T visits of a row, n blocks of a row, B visits of a block, C = visits that a block looks at, L tokens of a
visit, P queries of a visit, N = B·P queries of a block, K = C·L keys of a block, H heads, Q asks, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

NEVER = -1e9
"""Added to the score of what must not be seen; finite, so that a query that sees nothing still has finite numbers."""


@dataclass(frozen=True)
class Band:
    """How rows are cut.

    Attributes:
        visits: T.
        block: B.
        before: visits that a block sees in front of itself; 0 where there is one block.
    """

    visits: int
    block: int
    before: int

    @classmethod
    def of(cls, visits: int, window: int, device: torch.device) -> Band:
        """For queries that look back by a window of visits."""
        block = max(4, (window + 1) // 2)
        if visits <= block + window or device.type != "cpu":
            return cls.dense(visits)
        return cls(visits, block, window)

    @classmethod
    def dense(cls, visits: int) -> Band:
        """One block."""
        return cls(visits, visits, 0)

    @property
    def blocks(self) -> int:
        """n."""
        return -(-self.visits // self.block)

    @property
    def seen(self) -> int:
        """C."""
        return self.block + self.before

    @property
    def padded(self) -> int:
        """Visits of a row with what fills up its last block."""
        return self.blocks * self.block

    def query_visits(self, x_RT: Tensor, fill: int | bool) -> list[Tensor]:
        """A figure of each visit, as the queries of each block: n times (R, B)."""
        return list(functional.pad(x_RT, (0, self.padded - self.visits), value=fill).chunk(self.blocks, 1))

    def key_visits(self, x_RT: Tensor, fill: int | bool) -> list[Tensor]:
        """A figure of each visit, as the keys of each block: n times (R, C); ``fill`` beyond the row."""
        padded_RT = functional.pad(x_RT, (self.before, self.padded - self.visits), value=fill)
        return [padded_RT[:, start : start + self.seen] for start in range(0, self.padded, self.block)]

    def ago(self, device: torch.device) -> Tensor:
        """How many visits before a query each key is, (B, C); negative behind it."""
        place_B1 = self.before + torch.arange(self.block, device=device)[:, None]
        return place_B1 - torch.arange(self.seen, device=device)


def causal(band: Band, segment_RT: Tensor, nearest: int, furthest: int) -> list[Tensor]:
    """Whether visits see each other, by how many visits one is before the other: n times (R, B, C), bool.

    Args:
        band: how rows are cut.
        segment_RT: visits of other segments are not seen.
        nearest: 0 if a visit sees itself, 1 if not.
        furthest: visits further back are not seen.
    """
    ago_BC = band.ago(segment_RT.device)
    near_BC = (ago_BC >= nearest) & (ago_BC <= furthest)
    blocks = zip(band.query_visits(segment_RT, -1), band.key_visits(segment_RT, -2), strict=True)
    return [(query_RB[..., None] == key_RC[:, None]) & near_BC for query_RB, key_RC in blocks]


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where something is seen, else `NEVER`."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, NEVER)


@dataclass(frozen=True)
class Look:
    """What the queries of rows see, ready for `lgsid.generate.kernels.look`; layers share it.

    Attributes:
        band: how rows are cut.
        bias_HNK: learned bias of scores, the same in all blocks.
        added: bias and mask of each block, (R·H, N, K) or (H, N, K), without gradient.
    """

    band: Band
    bias_HNK: Tensor
    added: list[Tensor]

    @classmethod
    def of(cls, band: Band, bias_HNK: Tensor, seen: list[Tensor], queries: int, keys: int) -> Look:
        """From what visits see of each other.

        Args:
            band: how rows are cut.
            bias_HNK: learned bias.
            seen: n times (R, B or 1, C), bool.
            queries: P.
            keys: L.
        """
        bias = bias_HNK.detach()
        added = []
        for seen_RBC in seen:
            mask_RBK = additive(seen_RBC, bias.dtype).repeat_interleave(keys, 2)
            mask_RNK = mask_RBK.repeat_interleave(queries, 1) if mask_RBK.shape[1] > 1 else mask_RBK
            added.append((bias + mask_RNK[:, None]).flatten(0, 1))
        return cls(band, bias_HNK, added)


@dataclass(frozen=True)
class Asks:
    """Q moments at which a decoder writes, each behind some visits of a row.

    Attributes:
        row_Q: their rows.
        place_Q: an ask sees visits before this place of its row; two asks of a row differ in it.
        look: what the places of the rows see in cross attention, P queries a place.
    """

    row_Q: Tensor
    place_Q: Tensor
    look: Look

    def __len__(self) -> int:
        return len(self.row_Q)

    def grid(self, x_QPD: Tensor, rows: int) -> Tensor:
        """Vectors of asks at their places, (R, padded·P, D); 0 where nothing is asked."""
        places = self.look.band.padded
        grid = x_QPD.new_zeros(rows * places, *x_QPD.shape[1:])
        return grid.index_copy(0, self._slot, x_QPD).view(rows, -1, x_QPD.shape[-1])

    def flat(self, x_RND: Tensor, positions: int) -> Tensor:
        """What `grid` made, as (Q, P, D) again."""
        return x_RND.reshape(-1, positions, x_RND.shape[-1]).index_select(0, self._slot)

    @property
    def _slot(self) -> Tensor:
        return self.row_Q * self.look.band.padded + self.place_Q
