"""ETA: search by hashed signatures.

Reference: Chen et al., "End-to-End User Behavior Retrieval in Click-Through Rate Prediction Model" (2021, arXiv
2108.04468). An item's signature holds the signs of its vector's products with fixed random directions (SimHash), so
that the share of differing bits grows with the angle between two items. The visits whose signatures differ from the
candidate's in the fewest bits are kept, and multi-head target attention reads them. Signatures follow the vectors as
these are trained; there is nothing to learn in the search itself.

Signatures are packed into words, and differing bits counted in them: a history of T visits is then T numbers, not T
vectors of bits; at 32 bits that takes a third of the time of inner products of signs.

Axes: as in `lgsid.rank.base`; G bits of a signature, W int32 words that hold them.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from lgsid.config import RankConfig
from lgsid.rank.attention import TargetAttention
from lgsid.rank.base import Batch
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.search import Kept, SearchRanker, search

_SEED = 2108_04468
"""Of the random directions; they are part of the model, not of a run."""
_WORD = 32


class Eta(SearchRanker):
    """Efficient target attention network; see `Ranker` for the arguments."""

    name: ClassVar[str] = "eta"
    directions_DG: Tensor

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        self.exact = TargetAttention(encoder.dim, config.search.heads)
        generator = torch.Generator().manual_seed(_SEED)
        self.register_buffer("directions_DG", torch.randn(encoder.dim, config.search.hash_bits, generator=generator))

    def long_term(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Target attention over the visits of the nearest signatures."""
        return self.read(self.exact, q_BCD, self.nearest(e_UD, batch), e_UD, batch)

    @torch.no_grad()
    def nearest(self, e_UD: Tensor, batch: Batch) -> Kept:
        """The visits whose signatures differ from the candidate's in the fewest bits."""
        signature_UW = self.signatures(e_UD)
        differing_BCT = hamming(signature_UW[batch.candidates_BC], signature_UW[batch.history_BT])
        return search(differing_BCT.neg_(), batch.mask_BT[:, None], self.config.search.keep)

    @torch.no_grad()
    def signatures(self, e_UD: Tensor) -> Tensor:
        """Signatures (U, W) of vectors: bit g is set where the product with direction g is positive."""
        return pack(e_UD.to(self.directions_DG.dtype) @ self.directions_DG > 0)


def pack(bit_UG: Tensor) -> Tensor:
    """Bits as int32 words (U, W): bit g becomes bit g mod 32 of word g // 32."""
    bit_UWg = functional.pad(bit_UG, (0, -bit_UG.shape[1] % _WORD)).view(len(bit_UG), -1, _WORD)
    value_g = 2.0 ** torch.arange(_WORD, dtype=torch.float64, device=bit_UG.device)
    return (bit_UWg.double() @ value_g).long().to(torch.int32)  # exact: below 2^53; the 32nd bit is the sign


def hamming(a_BCW: Tensor, b_BTW: Tensor) -> Tensor:
    """Bits in which signatures differ, (B, C, T), int32."""
    words = zip(a_BCW.unbind(-1), b_BTW.unbind(-1), strict=True)
    first, *others = (_ones(a_BC[:, :, None] ^ b_BT[:, None]) for a_BC, b_BT in words)
    for more_BCT in others:
        first += more_BCT
    return first


def _ones(x: Tensor) -> Tensor:
    """Number of ones in int32 words, in place: of pairs of bits, then of nibbles and bytes (Warren, "Hacker's Delight",
    figure 5-2). The masks take away the ones that a shift brings into a negative word."""
    x -= (x >> 1).bitwise_and_(0x55555555)
    pairs = (x >> 2).bitwise_and_(0x33333333)
    x.bitwise_and_(0x33333333).add_(pairs)
    x += x >> 4
    return x.bitwise_and_(0x0F0F0F0F).mul_(0x01010101).bitwise_right_shift_(24)
