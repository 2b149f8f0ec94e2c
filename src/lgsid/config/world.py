"""Options of the simulated world."""

from __future__ import annotations

from datetime import date
from typing import Literal

from pydantic import Field, model_validator

from lgsid.config.base import Strict


class ChoiceConfig(Strict):
    """The choice model of the simulated world: multinomial logit over an exposed slate, after Huff (1964).

    ``utility = popularity_weight · log popularity + interest_weight · taste·item
    - price_weight · |price level - budget| - distance_weight · log(1 + distance_km / distance_scale_km)
    + habit_weight · [clicked on an earlier day]``

    The user clicks item i of slate S with probability ``exp(U_i) / (exp(U_0) + Σ_S exp(U_j))`` and nothing otherwise;
    the outside utility U_0 is solved so that ``click_rate`` holds, and kept in the truth.
    """

    distance_weight: float = Field(default=2.0, ge=0)
    """Strength of distance decay (Huff's exponent lambda)."""
    distance_scale_km: float = Field(default=1.0, gt=0)
    """Distance below which decay is flat."""
    interest_weight: float = Field(default=3.0, ge=0)
    """Weight of the match between a user's taste and an item's category and style."""
    popularity_weight: float = Field(default=0.7, ge=0)
    """Weight of the item's log popularity."""
    price_weight: float = Field(default=0.8, ge=0)
    """Weight of the mismatch between a user's budget and an item's price level."""
    habit_weight: float = Field(default=1.0, ge=0)
    """Bonus of an item that is among the user's last clicks of earlier days."""
    click_rate: float = Field(default=0.5, gt=0, lt=1)
    """Share of slates with a click, on average; the utility of choosing nothing follows from it."""
    order_rate: float = Field(default=0.25, gt=0, lt=1)
    """Share of clicks that become orders for an item of average fit."""
    order_fit_weight: float = Field(default=0.6, ge=0)
    """How much the log-odds of an order grow with interest and price match (in units of utility)."""
    amount_spread: float = Field(default=0.25, ge=0)
    """Standard deviation of the log of an order's amount around the item's price."""


class ExposureConfig(Strict):
    """What the simulated app shows: each place of a slate is filled from one of four sources, by relative weight."""

    near: float = Field(default=0.7, ge=0)
    """Items around the user, nearer ones more often …"""
    popular: float = Field(default=0.2, ge=0)
    """… popular items of the city the user is in …"""
    familiar: float = Field(default=0.05, ge=0)
    """… items among the user's last clicks …"""
    far: float = Field(default=0.05, ge=0)
    """… and popular items from anywhere."""
    near_km: float = Field(default=2.0, gt=0)
    """Median reach of the first source."""

    @model_validator(mode="after")
    def _some_source(self) -> ExposureConfig:
        if self.near + self.popular + self.familiar + self.far <= 0:
            raise ValueError("give at least one of near, popular, familiar and far a weight above 0")
        return self


class WorldConfig(Strict):
    """The simulated world: real places, invented shops and people, behaviour from a documented choice model."""

    language: Literal["en", "zh"] = "en"
    """English shops in US cities, or Chinese shops in Chinese cities."""
    cities: int = Field(default=12, ge=1)
    """Number of real cities, two provinces to three cities, the largest cities of each first."""
    items: int = Field(default=8_000, ge=1)
    """Number of shops."""
    users: int = Field(default=1_000, ge=1)
    """Number of people, each with a home, a taste and a budget."""
    events: int = Field(default=200_000, ge=0)
    """Number of events (impressions, clicks and orders together), approximately."""
    slate: int = Field(default=8, ge=1)
    """Items exposed together on one page of a session."""
    days: int = Field(default=90, ge=1)
    """Length of the simulated period in days."""
    start: date = date(2026, 1, 1)
    """First day (UTC)."""
    chain_share: float = Field(default=0.25, ge=0, le=1)
    """Share of shops that belong to a chain, where a chain of their category reaches their city."""
    scattered_share: float = Field(default=0.2, ge=0, le=1)
    """Share of shops that stand alone instead of in a commercial centre."""
    new_share: float = Field(default=0.05, ge=0, le=1)
    """Share of shops that open during the simulated period; nobody sees them before."""
    exposure: ExposureConfig = ExposureConfig()
    """What the app shows."""
    choice: ChoiceConfig = ChoiceConfig()
    """Parameters of the choice model; kept beside the data as its truth."""
