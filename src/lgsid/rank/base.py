"""The contract of the rankers: what a batch holds, and what every model shares but the way it looks at the history.

A ranker scores C candidates for each of B requests. A request is a user at a moment: their earlier visits, and where
they were last. Items are first encoded once each, however often they occur in the batch (`ItemEncoder`); a model turns
the candidate's and the history's vectors into the user's *interest* in the candidate; a head of fully connected layers
turns both into the logit of a visit. The models differ in the interest alone.

Axes: B requests, C candidates of a request, T visits of the history (oldest first, padded at the front), U distinct
items of the batch, D dimensions of an item's vector, F features.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lgsid.config import RankConfig
from lgsid.rank.attention import Known
from lgsid.rank.encoder import ItemEncoder
from lgsid.rank.layers import Mlp

GAPS = 24
"""Buckets of the time since a visit, by powers of two of a minute."""
BANDS = 16
"""Bands of the distance between user and item; see `lgsid.rank.loader`."""
REGIONS = 4
"""How much of its region an item shares with the user's place: nothing, province, city, district."""
HOURS, DAYS = 24, 7


@dataclass(frozen=True)
class Batch:
    """B requests with C candidates each; all on one device.

    Attributes:
        items_U: catalogue rows of the distinct items, int64.
        candidates_BC: candidates, as places in ``items_U``, int64.
        history_BT: earlier visits, oldest first, as places in ``items_U``, int64; 0 where ``mask_BT`` is False.
        mask_BT: where there is a visit; padding is at the front.
        gap_BT: bucket of the time since the visit, below `GAPS`, int64.
        hour_B, day_B: hour of the day (UTC) and day of the week of the request, int64.
        label_BC: 1 for a visit, else 0, float32.
        band_BC, band_BT: distance band of candidates and of visits from the user's place, below `BANDS`; None where
            models are not given distances.
        region_BC, region_BT: shared region, below `REGIONS`; None likewise.
    """

    items_U: Tensor
    candidates_BC: Tensor
    history_BT: Tensor
    mask_BT: Tensor
    gap_BT: Tensor
    hour_B: Tensor
    day_B: Tensor
    label_BC: Tensor
    band_BC: Tensor | None = None
    band_BT: Tensor | None = None
    region_BC: Tensor | None = None
    region_BT: Tensor | None = None

    def recent(self, length: int) -> Batch:
        """The same with the last ``length`` visits alone."""
        return self._cut({}, slice(None), length)

    def part(self, rows_X: Tensor, length: int) -> Batch:
        """Some of the requests, with the last ``length`` visits alone; ``items_U`` stays as it is."""
        of_request = ("candidates_BC", "hour_B", "day_B", "label_BC", "band_BC", "region_BC")
        chosen = {name: tensor[rows_X] for name in of_request if (tensor := getattr(self, name)) is not None}
        return self._cut(chosen, rows_X, length)

    def _cut(self, others: dict[str, Tensor], rows: Tensor | slice, length: int) -> Batch:
        of_visit = ("history_BT", "mask_BT", "gap_BT", "band_BT", "region_BT")
        cut = {name: tensor[:, -length:][rows] for name in of_visit if (tensor := getattr(self, name)) is not None}
        return replace(self, **others, **cut)


@dataclass(frozen=True)
class Interest:
    """What a model finds in the history.

    Attributes:
        vector_BCI: the user's interest in each candidate, I dimensions.
        losses: further losses (scalars) that are added to the ranking loss, weighted already, by name.
    """

    vector_BCI: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """Logits of a batch, and the model's further losses by name."""

    logit_BC: Tensor
    losses: dict[str, Tensor]


class Ranker(nn.Module, ABC):
    """Base of all rankers.

    Args:
        encoder: turns catalogue rows into vectors.
        config: sizes and options.

    Attributes:
        name: in configurations and result tables.
        long: whether the model is made for histories of `SearchConfig.history` visits, not `RankConfig.history`.
    """

    name: ClassVar[str]
    long: ClassVar[bool] = False

    def __init__(self, encoder: ItemEncoder, config: RankConfig) -> None:
        super().__init__()
        self.config = config
        self.items = encoder
        dim = encoder.dim
        self.gap = nn.Embedding(GAPS, dim)
        self.hour = nn.Embedding(HOURS, 8)
        self.day = nn.Embedding(DAYS, 4)
        width = dim + 2 * self.interest_dim + 12
        if config.distance:
            self.band = nn.Embedding(BANDS, dim)
            self.region = nn.Embedding(REGIONS, dim)
            self.pair = nn.Embedding(BANDS * REGIONS, 16)
            width += 16
        for table in (module for module in self.children() if isinstance(module, nn.Embedding)):
            nn.init.normal_(table.weight, std=0.05)
        self.match = nn.Linear(dim, self.interest_dim, bias=False)
        self.head = Mlp(width, config.hidden, 1, config.dropout)

    @property
    def interest_dim(self) -> int:
        """I, dimensions of the interest."""
        return self.items.dim

    @property
    def history_length(self) -> int:
        """Most visits that the model looks at."""
        return self.config.search.history if self.long else self.config.history

    def over(self, encoder: ItemEncoder) -> Self:
        """The same ranker over other items; shares all its other parameters."""
        found = copy.copy(self)
        found._modules = {**self._modules, "items": encoder}
        return found

    def forward(self, batch: Batch) -> Scores:
        """Logits (B, C) of a batch."""
        e_UD = self.items(batch.items_U)
        q_BCD = vectors(e_UD, batch.candidates_BC)
        interest = self.interest(q_BCD, e_UD, batch)
        v_BCI = interest.vector_BCI
        context_BCF = torch.cat([self.hour(batch.hour_B), self.day(batch.day_B)], dim=1)[:, None].expand(
            -1, q_BCD.shape[1], -1
        )
        parts = [q_BCD, v_BCI, v_BCI * self.match(q_BCD), context_BCF]
        if self.config.distance:
            assert batch.band_BC is not None
            assert batch.region_BC is not None
            parts.append(self.pair(batch.band_BC * REGIONS + batch.region_BC))
        logit_BC = self.head(torch.cat(parts, dim=-1)).squeeze(-1)
        return Scores(logit_BC, interest.losses)

    def cross(self, batch: Batch) -> Tensor:
        """What is known of a visit besides its item: how long ago it was and, where models are given distances, how
        far from the user's present place. Models add it to the item's vector."""
        if not self.config.distance:
            gap_BTD: Tensor = self.gap(batch.gap_BT)
            return gap_BTD
        assert batch.band_BT is not None
        assert batch.region_BT is not None
        # the tables are added up, not what is looked up in them: there are fewer combinations than visits
        table_VD = (self.gap.weight[:, None, None] + self.band.weight[:, None] + self.region.weight).flatten(0, 2)
        bucket_BT = (batch.gap_BT * BANDS + batch.band_BT) * REGIONS + batch.region_BT
        return functional.embedding(bucket_BT, table_VD)

    def known(self, batch: Batch) -> Known:
        """The same as `cross`, as tables and their rows for each visit."""
        found = [(self.gap.weight, batch.gap_BT)]
        if self.config.distance:
            assert batch.band_BT is not None
            assert batch.region_BT is not None
            found += [(self.band.weight, batch.band_BT), (self.region.weight, batch.region_BT)]
        return found

    @abstractmethod
    def interest(self, q_BCD: Tensor, e_UD: Tensor, batch: Batch) -> Interest:
        """The user's interest in each candidate.

        Args:
            q_BCD: vectors of the candidates.
            e_UD: vectors of the batch's distinct items; those of the history are `vectors` of it at
                ``batch.history_BT``, without `cross`. What stands at padding means nothing, and must not change the
                result.
            batch: everything else that is known; ``batch.mask_BT`` says where there is a visit. A user may have none.
        """


def vectors(e_UD: Tensor, places: Tensor) -> Tensor:
    """Rows (…, D) of a matrix at int64 places (…); on a CPU, with its gradient, in half the time of indexing."""
    return e_UD.index_select(0, places.flatten()).view(*places.shape, e_UD.shape[1])
