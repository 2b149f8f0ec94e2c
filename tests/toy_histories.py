"""Small batches with long histories, for the rankers that search them."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lgsid.config import RankConfig
from lgsid.rank.base import BANDS, DAYS, GAPS, HOURS, REGIONS, Batch, Ranker
from lgsid.rank.encoder import ItemEncoder, ItemFeatures

ITEMS = 40
DIM = 8

AnyRanker = TypeVar("AnyRanker", bound=Ranker)


def toy_config(keep: int = 4, history: int = 3, distance: bool = True, **search: object) -> RankConfig:
    """Tiny sizes, so that a history of a dozen visits is long."""
    return RankConfig.model_validate({
        "dim": DIM, "history": history, "distance": distance, "hidden": (8,),
        "search": {"keep": keep, "heads": 2, **search},
    })  # fmt: skip


def toy_ranker(model: type[AnyRanker], config: RankConfig, seed: int = 0) -> AnyRanker:
    """A ranker of 40 items in categories 0 to 3; every tenth item has none. Embeddings are large enough to matter."""
    item_N = np.arange(ITEMS)
    category_N = np.where(item_N % 10 == 9, -1, item_N % 4)
    features = ItemFeatures(
        ("id", "category"), np.stack([item_N, category_N + 1], 1), (ITEMS, 5), np.ones(ITEMS, np.float32), category_N
    )
    torch.manual_seed(seed)
    ranker = model(ItemEncoder(features, config), config)
    for table in ranker.items.tables:
        torch.nn.init.normal_(table)
    return ranker


def toy_batch(lengths: tuple[int, ...] = (12, 5, 1, 0), candidates: int = 3, seed: int = 0) -> Batch:
    """One request for each history length; random visits, candidates and moments; the first candidate is the visit."""
    generator = torch.Generator().manual_seed(seed)
    length_B = torch.tensor(lengths)
    requests, longest = len(lengths), max(lengths)

    def draw(below: int, *shape: int) -> Tensor:
        return torch.randint(0, below, shape, generator=generator)

    mask_BT = torch.arange(longest) >= longest - length_B[:, None]
    label_BC = torch.zeros(requests, candidates)
    label_BC[:, 0] = 1
    shape_BC, shape_BT = (requests, candidates), (requests, longest)
    return Batch(
        items_U=torch.arange(ITEMS),
        candidates_BC=draw(ITEMS, *shape_BC),
        history_BT=draw(ITEMS, *shape_BT) * mask_BT,
        mask_BT=mask_BT,
        gap_BT=draw(GAPS, *shape_BT),
        hour_B=draw(HOURS, requests),
        day_B=draw(DAYS, requests),
        label_BC=label_BC,
        band_BC=draw(BANDS, *shape_BC),
        band_BT=draw(BANDS, *shape_BT),
        region_BC=draw(REGIONS, *shape_BC),
        region_BT=draw(REGIONS, *shape_BT),
    )


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """The requests ``start`` to ``stop`` alone, without the columns that are padding for all of them."""
    mask_BT = batch.mask_BT[start:stop]
    longest = max(int(mask_BT.sum(1).max()), 1)
    per_request = {
        name: value[start:stop]
        for name, value in vars(batch).items()
        if name != "items_U" and isinstance(value, Tensor)
    }
    return replace(batch, **per_request).recent(longest)


def of_its_own(q_BCD: Tensor, h_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Batch]:
    """Arguments of `Ranker.interest` in which each candidate and each visit is an item of its own vector."""
    candidates = q_BCD[..., 0].numel()
    place_BT = torch.arange(batch.history_BT.numel()).view_as(batch.history_BT) + candidates
    own = replace(
        batch,
        items_U=torch.cat([batch.items_U[batch.candidates_BC.flatten()], batch.items_U[batch.history_BT.flatten()]]),
        candidates_BC=torch.arange(candidates).view(q_BCD.shape[:2]),
        history_BT=place_BT * batch.mask_BT,
    )
    return q_BCD, torch.cat([q_BCD.flatten(0, 1), h_BTD.flatten(0, 1)]), own
