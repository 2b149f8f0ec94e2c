"""From pages to events: slates, clicks, orders and amounts, a block of pages at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lgsid.arrays import BoolArray, DoubleArray, IntArray
from lgsid.data.world.choice import EMPTY, HABIT_LENGTH, ChoiceModel
from lgsid.data.world.exposure import Exposure
from lgsid.data.world.log import Rows
from lgsid.data.world.sessions import SECOND, Pages
from lgsid.data.world.shops import Shops

BLOCK = 32_768
"""Pages simulated at once; part of what a seed means, so a constant."""
_BETWEEN_IMPRESSIONS_US = 150_000


class Habits:
    """The last clicks of every user, as they stood when the day began.

    Args:
        users: number of users.
    """

    def __init__(self, users: int) -> None:
        self._recent_UH = np.full((users, HABIT_LENGTH), EMPTY, dtype=np.int32)
        self._next_U = np.zeros(users, dtype=np.int64)

    def of(self, user_B: IntArray) -> IntArray:
        """Last clicked items of some users, shape (B, H), `EMPTY` where there are fewer."""
        return self._recent_UH[user_B].astype(np.int64)

    def end_day(self, user_E: IntArray, item_E: IntArray) -> None:
        """Remember a day's clicks, given in the order of time."""
        order = np.argsort(user_E, kind="stable")
        user, item = user_E[order], item_E[order]
        first = np.searchsorted(user, user)
        rank = np.arange(len(user)) - first
        count = np.searchsorted(user, user, side="right") - first
        last = rank >= count - HABIT_LENGTH  # earlier ones would be overwritten at once
        slot = (self._next_U[user] + rank) % HABIT_LENGTH
        self._recent_UH[user[last], slot[last]] = item[last]
        np.add.at(self._next_U, user, 1)


@dataclass(frozen=True)
class Slates:
    """The slates of B pages with the truth about each item. Axis T: places of a slate."""

    item_BT: IntArray
    habit_BT: BoolArray
    utility_BT: DoubleArray
    fit_BT: DoubleArray

    @classmethod
    def draw(
        cls, exposure: Exposure, model: ChoiceModel, habits: Habits, pages: Pages, day: int, rng: np.random.Generator
    ) -> Slates:
        """Fill the slates of some pages of a day."""
        recent_BH = habits.of(pages.user_P)
        item_BT = exposure.slates(pages.lat_P, pages.lon_P, pages.city_P, recent_BH, day, rng)
        habit_BT = (item_BT[:, :, None] == recent_BH[:, None, :]).any(axis=2) & (item_BT != EMPTY)
        fit_BT = model.fit(pages.user_P, item_BT)
        utility_BT = model.utility(pages.user_P, pages.lat_P, pages.lon_P, item_BT, habit_BT, fit_BT)
        return cls(item_BT, habit_BT, utility_BT, fit_BT)


def respond(
    slates: Slates, model: ChoiceModel, shops: Shops, pages: Pages, first_page: int, rng: np.random.Generator
) -> Rows:
    """What the users do: an impression for every item, one click or none a page, an order after some clicks."""
    probability_BT = model.click_probability(slates.utility_BT)
    order_BT = model.order_probability(slates.fit_BT)
    clicked = (np.cumsum(probability_BT, axis=1) <= rng.random((len(pages), 1))).sum(axis=1)
    page = np.flatnonzero(clicked < slates.item_BT.shape[1])
    column = clicked[page]
    buys = rng.random(len(page)) < order_BT[page, column]
    seen_page, seen_column = np.nonzero(slates.item_BT != EMPTY)
    seen_at = pages.time_P[seen_page] + _BETWEEN_IMPRESSIONS_US * seen_column
    clicked_at = pages.time_P[page] + _BETWEEN_IMPRESSIONS_US * slates.item_BT.shape[1] + _seconds(6, 1, 40, page, rng)
    bought_at = clicked_at + _seconds(90, 10, 900, page, rng)
    page_E = np.concatenate([seen_page, page, page[buys]])
    column_E = np.concatenate([seen_column, column, column[buys]])
    item_E = slates.item_BT[page_E, column_E]
    kind_E = np.repeat([0, 1, 2], [len(seen_page), len(page), int(buys.sum())])
    return Rows(
        time_E=np.concatenate([seen_at, clicked_at, bought_at[buys]]),
        user_E=pages.user_P[page_E],
        item_E=item_E,
        kind_E=kind_E,
        amount_E=_amounts(model, shops, item_E, kind_E, rng),
        lat_E=pages.lat_P[page_E],
        lon_E=pages.lon_P[page_E],
        page_E=first_page + page_E,
        utility_E=slates.utility_BT[page_E, column_E].astype(np.float32),
        click_probability_E=probability_BT[page_E, column_E].astype(np.float32),
        order_probability_E=order_BT[page_E, column_E].astype(np.float32),
        habit_E=slates.habit_BT[page_E, column_E],
    )


def _seconds(median: float, low: float, high: float, page: IntArray, rng: np.random.Generator) -> IntArray:
    """Log-normal delays between two bounds, in microseconds rounded to milliseconds."""
    delay = np.clip(median * rng.lognormal(0.0, 0.7, size=len(page)), low, high)
    return np.round(delay * 1000).astype(np.int64) * (SECOND // 1000)


def _amounts(
    model: ChoiceModel, shops: Shops, item_E: IntArray, kind_E: IntArray, rng: np.random.Generator
) -> DoubleArray:
    amount_E = np.full(len(item_E), np.nan)
    orders = np.flatnonzero(kind_E == 2)
    spread = np.exp(model.config.amount_spread * rng.normal(size=len(orders)))
    amount_E[orders] = np.round(shops.price_N[item_E[orders]] * spread, 2)
    return amount_E
