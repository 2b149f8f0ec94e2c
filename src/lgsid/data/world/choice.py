"""The choice model: multinomial logit with distance decay (D. Huff 1964; D. McFadden 1974), and its parameters.

U(u, x, i) = popularity_weight · log_popularity_i + interest_weight · (affinity_u[leaf_i] + preference_u · style_i)
             - price_weight · |price_level_i - budget_u|
             - distance_weight · log(1 + distance_km(x, i) / distance_scale_km)
             + habit_weight · [i is among the last six items that u clicked on earlier days]
P(click i | slate S) = exp(U_i) / (exp(outside_utility) + Σ_{j in S} exp(U_j))
fit(u, i) = the interest and price terms of U
P(order | click on i) = sigmoid(log(order_rate / (1 - order_rate)) + order_fit_weight · (fit - average_fit))
amount = price_i · exp(amount_spread · standard normal)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lgsid.arrays import BoolArray, DoubleArray, FloatArray, IntArray
from lgsid.config import ChoiceConfig
from lgsid.geo import haversine_km

FORMULA = "\n".join((__doc__ or "").splitlines()[2:]).strip()
EMPTY = -1
"""Marks a place of a slate that holds no item."""
HABIT_LENGTH = 6
"""How many of a user's last clicks count as habit."""


@dataclass(frozen=True)
class ItemTraits:
    """What the choice model knows about N items. Axis S: styles of unit length."""

    lat_N: DoubleArray
    lon_N: DoubleArray
    leaf_N: IntArray
    style_NS: FloatArray
    log_popularity_N: FloatArray
    price_level_N: FloatArray


@dataclass(frozen=True)
class UserTraits:
    """What the choice model knows about U users. Axes: L leaf categories, S styles of unit length."""

    affinity_UL: FloatArray
    preference_US: FloatArray
    budget_U: FloatArray


@dataclass(frozen=True)
class ChoiceModel:
    """The choice model of a world. Axes: B pages, T items of a slate (`EMPTY` where there is none).

    Attributes:
        config: the weights.
        users, items: the traits of both sides.
        outside_utility: utility of choosing nothing.
        average_fit: fit at which an order follows a click with `order_rate`.
    """

    config: ChoiceConfig
    users: UserTraits
    items: ItemTraits
    outside_utility: float = 0.0
    average_fit: float = 0.0

    def interest(self, user_B: IntArray, item_BT: IntArray) -> DoubleArray:
        """Taste times item: affinity to the category plus preference times style, shape (B, T)."""
        affinity_BT = self.users.affinity_UL[user_B[:, None], self.items.leaf_N[item_BT]].astype(np.float64)
        preference_BS = self.users.preference_US[user_B].astype(np.float64)
        style_BTS = self.items.style_NS[item_BT].astype(np.float64)
        interest_BT: DoubleArray = affinity_BT + np.einsum("bs,bts->bt", preference_BS, style_BTS)
        return interest_BT

    def fit(self, user_B: IntArray, item_BT: IntArray) -> DoubleArray:
        """The interest and price terms of the utility, shape (B, T)."""
        mismatch_BT = np.abs(
            self.items.price_level_N[item_BT].astype(np.float64) - self.users.budget_U[user_B, None].astype(np.float64)
        )
        fit_BT: DoubleArray = (
            self.config.interest_weight * self.interest(user_B, item_BT) - self.config.price_weight * mismatch_BT
        )
        return fit_BT

    def utility(
        self,
        user_B: IntArray,
        lat_B: DoubleArray,
        lon_B: DoubleArray,
        item_BT: IntArray,
        habit_BT: BoolArray,
        fit_BT: DoubleArray | None = None,
    ) -> DoubleArray:
        """Utility of every item of each slate for a user at a place, shape (B, T); -inf where there is no item."""
        weights = self.config
        if fit_BT is None:
            fit_BT = self.fit(user_B, item_BT)
        away_km = haversine_km(lat_B[:, None], lon_B[:, None], self.items.lat_N[item_BT], self.items.lon_N[item_BT])
        utility_BT = (
            weights.popularity_weight * self.items.log_popularity_N[item_BT].astype(np.float64)
            + fit_BT
            - weights.distance_weight * np.log1p(away_km / weights.distance_scale_km)
            + weights.habit_weight * habit_BT
        )
        return np.where(item_BT == EMPTY, -np.inf, utility_BT)

    def click_probability(self, utility_BT: DoubleArray) -> DoubleArray:
        """Probability that each item of a slate is clicked; the rest of each row's sum is "nothing"."""
        top_B1 = np.maximum(utility_BT.max(axis=1, keepdims=True), self.outside_utility)
        exp_BT = np.exp(utility_BT - top_B1)
        total_B1 = exp_BT.sum(axis=1, keepdims=True) + np.exp(self.outside_utility - top_B1)
        probability_BT: DoubleArray = exp_BT / total_B1
        return probability_BT

    def order_probability(self, fit_BT: DoubleArray) -> DoubleArray:
        """Probability that an order follows a click."""
        base = np.log(self.config.order_rate / (1 - self.config.order_rate))
        log_odds_BT = base + self.config.order_fit_weight * (fit_BT - self.average_fit)
        probability_BT: DoubleArray = 1 / (1 + np.exp(-log_odds_BT))
        return probability_BT

    def calibrated(self, utility_BT: DoubleArray, fit_BT: DoubleArray) -> ChoiceModel:
        """This model with the outside utility that gives `click_rate` on some slates, and their clicks' mean fit."""
        inclusive_B = np.logaddexp.reduce(utility_BT[np.isfinite(utility_BT).any(axis=1)], axis=1)
        low, high = inclusive_B.min() - 40.0, inclusive_B.max() + 40.0
        for _ in range(80):  # bisection: the click rate falls with the outside utility
            middle = (low + high) / 2
            rate = float((1 / (1 + np.exp(middle - inclusive_B))).mean())
            low, high = (middle, high) if rate > self.config.click_rate else (low, middle)
        model = replace(self, outside_utility=round(float(low), 6))
        click_BT = model.click_probability(utility_BT)
        return replace(model, average_fit=round(float((click_BT * fit_BT).sum() / click_BT.sum()), 6))
