"""What is left of a session: the lists of items that a session-wise generator learns to write.

A *session* is a run of a user's visits no two neighbours of which lie further apart than ``gap_hours``. The list of a
target is the target and the visits after it in its row, up to the end of its session; an item that the list already
holds is passed over, because a list names an item once.

Axes: R rows, T visits of a row, P targets, M items of a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lgsid.generate.base import Packed


@dataclass(frozen=True)
class Lists:
    """The lists of P targets.

    Attributes:
        row_P: row of each target.
        place_P: place of each target in its row.
        item_PM: catalogue rows, int64, the target first; -1 behind the end of a list.
    """

    row_P: Tensor
    place_P: Tensor
    item_PM: Tensor

    def __len__(self) -> int:
        return len(self.row_P)


def session_lists(rows: Packed, gap_hours: float, items: int) -> Lists:
    """The list of each target, in the order of rows and places.

    Args:
        rows: R rows.
        gap_hours: a session ends where nothing follows for longer.
        items: M, visits that are looked at, the target included.
    """
    row_P, place_P = rows.target_RT.nonzero(as_tuple=True)
    place_PM = place_P[:, None] + torch.arange(items, device=place_P.device)
    session_RT = functional.pad(_sessions(rows, gap_hours), (0, items - 1), value=-1)
    item_RT = functional.pad(rows.item_RT, (0, items - 1), value=-1)
    session_PM = session_RT[row_P[:, None], place_PM]
    same_PM = session_PM == session_PM[:, :1]
    item_PM = torch.where(same_PM, item_RT[row_P[:, None], place_PM], -1)
    return Lists(row_P, place_P, _each_once(item_PM))


def _sessions(rows: Packed, gap_hours: float) -> Tensor:
    """Number (R, T) of each visit's session within its row, from 0; -1 at padding."""
    opens_RT = rows.segment_RT.diff(dim=1) != 0
    opens_RT = opens_RT | (rows.time_RT.diff(dim=1) > round(gap_hours * 3_600))
    number_RT = functional.pad(opens_RT.long(), (1, 0)).cumsum(dim=1)
    return number_RT.masked_fill(rows.segment_RT < 0, -1)


def _each_once(item_PM: Tensor) -> Tensor:
    """Lists without the items that they hold already; -1 is at the end."""
    same_PMM = item_PM[:, :, None] == item_PM[:, None]
    repeated_PM = same_PMM.tril(diagonal=-1).any(dim=2)
    item_PM = item_PM.masked_fill(repeated_PM, -1)
    order_PM = (item_PM < 0).long().argsort(dim=1, stable=True)
    return item_PM.gather(1, order_PM)
