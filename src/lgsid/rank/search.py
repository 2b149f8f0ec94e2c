"""Two stages over a long history: a cheap search picks a few visits for each candidate, attention reads only those.

What SIM, TWIN and ETA share: the exact masked top-k, the vectors of the chosen visits, and the short-term part. Only
the choice is made over the whole history, and without gradients; what is learnt through the second stage touches the
chosen visits alone.

Axes: as in `lgsid.rank.base`; X searches of a request (candidates, or candidates times heads), K visits kept by each,
J = X·K.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lgsid.config import RankConfig
from lgsid.rank.attention import Known, TargetAttention
from lgsid.rank.base import Batch, Interest, Ranker, vectors
from lgsid.rank.encoder import ItemEncoder

_PLACES = 1 << 24
"""The longest history that can be searched, in visits."""
_CACHED = 1 << 19
"""Numbers that a processor's cache holds."""
_TOGETHER = 64
"""Requests of like length that a processor does together."""


@dataclass(frozen=True)
class Kept:
    """The visits that a search kept.

    Attributes:
        place_BXK: their places in the history, int64, each once in a search; in no particular order.
        mask_BXK: False where there was no further visit to keep; what the place says there means nothing.
        whole: whether every search kept the whole history, in its order, so that it need not be read for each.
    """

    place_BXK: Tensor
    mask_BXK: Tensor
    whole: bool = False

    def of(self, batch: Batch) -> Batch:
        """The batch with the kept visits as its history (B, J): those of the first search, of the second, …."""
        place_BJ = self.place_BXK.flatten(1)

        def pick(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.gather(1, place_BJ)

        return replace(
            batch,
            history_BT=batch.history_BT.gather(1, place_BJ),
            mask_BT=self.mask_BXK.flatten(1),
            gap_BT=batch.gap_BT.gather(1, place_BJ),
            band_BT=pick(batch.band_BT),
            region_BT=pick(batch.region_BT),
        )


@torch.no_grad()
def search(score_BXT: Tensor, allowed_BXT: Tensor, keep: int) -> Kept:
    """The ``keep`` allowed visits of the highest scores; of equal scores, the more recent.

    Visits that are not allowed, padding above all, rank below every score before anything is chosen, so that they can
    never push out a visit. Scores and places make one integer key, so the result is exact and the same everywhere.

    Args:
        score_BXT: scores, floats (compared as float32) or int32; finite where allowed.
        allowed_BXT: visits that may be kept; must broadcast to the scores.
        keep: most visits to keep.

    Returns:
        K = min(keep, T) places for each search, fewer of them valid where fewer are allowed.

    Raises:
        ValueError: the history is longer than 2^24 visits.
    """
    length = score_BXT.shape[-1]
    if length > _PLACES:
        raise ValueError(f"a history of {length} visits, expected at most {_PLACES}")
    same_for_all = allowed_BXT.shape[-2:-1] in {(), (1,)}
    allowed_BXT = allowed_BXT.expand_as(score_BXT)
    place_T = torch.arange(length, device=score_BXT.device)
    if length <= keep:
        return Kept(place_T.expand_as(score_BXT), allowed_BXT, same_for_all)
    rank_BXT = _ordered(score_BXT).masked_fill(~allowed_BXT, torch.iinfo(torch.int32).min)
    key_BXT = torch.add(place_T, rank_BXT, alpha=_PLACES)
    place_BXK = key_BXT.topk(keep, sorted=False).indices
    return Kept(place_BXK, allowed_BXT.gather(-1, place_BXK))


def _ordered(score: Tensor) -> Tensor:
    """int32 numbers in the order of the scores: a float's bits, and where it is negative all but the sign turned."""
    if score.dtype == torch.int32:
        return score
    bits = (score.float() + 0.0).view(torch.int32)  # + 0.0 makes -0.0 the same as 0.0
    return (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits)


class SearchRanker(Ranker):
    """Base of the rankers that search a long history; see `Ranker` for the arguments.

    The interest is what `long_term` finds in the whole history, beside target attention over the last
    `RankConfig.history` visits.
    """

    long: ClassVar[bool] = True

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__(encoder, config)
        self.short = TargetAttention(encoder.dim, config.search.heads)

    @property
    def interest_dim(self) -> int:
        """Twice the dimensions of an item: long-term, then short-term."""
        return 2 * self.items.dim

    def interest(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Interest:
        """Long-term and short-term interest, from the vectors of the batch's distinct items."""

        def of_part(q_XCD: Tensor, part: Batch) -> Tensor:
            long_XCD = self.long_term(q_XCD, e_UD, part)
            recent = part.recent(self.config.history)
            short_XCD = self.short(q_XCD, vectors(e_UD, recent.history_BT) + self.cross(recent), recent.mask_BT)
            return torch.cat([long_XCD, short_XCD], dim=-1)

        losses = self.losses(q_BCD, e_UD, batch) if self.training else {}
        return Interest(self.by_length(q_BCD, batch, of_part), losses)

    def losses(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Further losses, as in `Interest`."""
        return {}

    def by_length(self, q_BCD: Tensor, batch: Batch, of_part: Callable[[Tensor, Batch], Tensor]) -> Tensor:
        """What a function makes of candidates and requests (B, …), request by request.

        On a CPU it gets requests of like length together, so that their histories are no longer than the longest of
        them: lengths differ widely, and most of a batch is padding otherwise.
        """
        if batch.mask_BT.device.type != "cpu" or len(batch.mask_BT) <= 1:
            return of_part(q_BCD, batch)
        length_B = batch.mask_BT.sum(1)
        order_B = length_B.argsort(stable=True)
        found = [
            of_part(q_BCD.index_select(0, rows_X), batch.part(rows_X, max(1, int(length_B[rows_X[-1]]))))
            for rows_X in _groups(order_B, length_B[order_B], self.config.search.keep)
        ]
        return torch.cat(found).index_select(0, order_B.argsort())

    def read(self, attention: TargetAttention, q_BCD: Tensor, kept: Kept, e_UD: Tensor, batch: Batch) -> Tensor:
        """Attention (B, C, D) of each candidate over the visits kept for it."""
        if kept.whole:
            of_all_BCD: Tensor = attention(q_BCD, vectors(e_UD, batch.history_BT) + self.cross(batch), batch.mask_BT)
            return of_all_BCD
        h_XKD, mask_XK, known = self.kept_visits(kept, e_UD, batch)
        result_XRD: Tensor = attention(q_BCD.flatten(0, 1)[:, None], h_XKD, mask_XK, known)
        return result_XRD.view_as(q_BCD)

    def kept_visits(self, kept: Kept, e_UD: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Known]:
        """Vectors, mask and what else is known of the kept visits, a set for each search."""
        of_kept = kept.of(batch)
        mask_XK = kept.mask_BXK.flatten(0, 1)
        h_XKD = vectors(e_UD, of_kept.history_BT.view_as(mask_XK))
        return h_XKD, mask_XK, [(table_VD, row_BJ.view_as(mask_XK)) for table_VD, row_BJ in self.known(of_kept)]

    @abstractmethod
    def long_term(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Tensor:
        """Interest (B, C, D) that the two stages find in the whole history."""


def _groups(order_B: Tensor, length_B: Tensor, keep: int) -> list[Tensor]:
    """Requests in groups of like length: those whose search keeps everything, then some at a time.

    Args:
        order_B: requests, by the length of their history.
        length_B: the lengths, in the same order.
        keep: most visits that a search keeps.
    """
    few = int((length_B <= keep).sum())
    return [group for group in (order_B[:few], *torch.split(order_B[few:], _TOGETHER)) if len(group)]


@torch.no_grad()
def inner_products(query_BXD: Tensor, e_UD: Tensor, history_BT: Tensor) -> Tensor:
    """Products (B, X, T) of queries with the vectors of all visits, without gradients.

    On a CPU a few requests at a time, so that the visits' vectors stay in cache; at 80 dimensions that takes a third
    of the time.
    """
    whole = e_UD.device.type != "cpu"
    at_once = len(history_BT) if whole else max(1, _CACHED // max(1, history_BT.shape[1] * e_UD.shape[1]))
    parts = [
        query_bXD @ vectors(e_UD, history_bT).transpose(1, 2)
        for query_bXD, history_bT in zip(torch.split(query_BXD, at_once), torch.split(history_BT, at_once), strict=True)
    ]
    return torch.cat(parts)
