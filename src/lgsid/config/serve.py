"""Options of stage 6: serving."""

from __future__ import annotations

from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from lgsid.config.base import Strict
from lgsid.config.serve_limits import LimitConfig, PageConfig

TravelMode = Literal["walk", "bike", "transit", "car"]
"""Ways to go somewhere; `ReachConfig` says how fast each one is."""


class TravelConfig(Strict):
    """How fast somebody gets on, and how much longer the way is than the straight line."""

    speed_kmh: float = Field(gt=0, le=300)
    """Mean speed on the way, stops and lights included."""
    detour: float = Field(default=1.3, ge=1, le=5)
    """Length of the way by that of the straight line; 1.2 to 1.4 in most street networks."""


def _travel() -> dict[TravelMode, TravelConfig]:
    return {
        "walk": TravelConfig(speed_kmh=4.8),
        "bike": TravelConfig(speed_kmh=15.0),
        "transit": TravelConfig(speed_kmh=18.0, detour=1.4),
        "car": TravelConfig(speed_kmh=27.0, detour=1.4),
    }


class ReachConfig(Strict):
    """The first stage: what a user can reach."""

    radius_km: float = Field(default=5.0, gt=0)
    """Radius of a request that gives neither radius, nor travel time, nor polygon."""
    most_radius_km: float = Field(default=100.0, gt=0)
    """Largest radius that a request may ask for, travel times included."""
    candidates: int = Field(default=200, ge=1)
    """Nearest items within reach, filters met, that are handed to the second stage."""
    most_vertices: int = Field(default=500, ge=3)
    """Corners that a request's polygon may have."""
    travel: dict[TravelMode, TravelConfig] = Field(default_factory=_travel)
    """Speed and detour of each way to travel."""
    time_zone: str = "UTC"
    """Time zone of opening hours, such as Europe/Berlin: "open now" is asked in it."""
    tail: int = Field(default=4_096, ge=1)
    """Items added while serving that are searched one by one before they are sorted in among the others."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"no time zone {name!r}; expected a name such as UTC or Asia/Shanghai") from None
        return name

    @model_validator(mode="after")
    def _in_order(self) -> ReachConfig:
        if self.radius_km > self.most_radius_km:
            raise ValueError(f"radius_km {self.radius_km} is above most_radius_km {self.most_radius_km}")
        return self


class HistoryConfig(Strict):
    """Where users' events are kept."""

    url: str = "sqlite:///histories.sqlite"
    """`sqlite:///PATH` (four slashes for an absolute path), or `redis://HOST:PORT/DATABASE` for several instances."""
    most_events: int = Field(default=2_000, ge=1)
    """Events kept of each user: the latest that arrived; older ones are dropped, and their ids forgotten."""
    read_events: int = Field(default=200, ge=1)
    """Latest events of a user that an answer looks at; more make every answer slower."""
    timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest wait for an acknowledgement; after that the event may or may not be stored."""
    queue: int = Field(default=1_024, ge=1)
    """SQLite: appends that may wait for the disk; more are refused at once."""
    group: int = Field(default=256, ge=1)
    """SQLite: most appends that share one write to the disk."""
    durability: Literal["required", "warn"] = "required"
    """Redis: refuse a server that may lose acknowledged events in a crash, or warn of it once."""
    prefix: str = Field(default="lgsid", pattern=r"^[\w.-]+$")
    """Redis: what all keys begin with."""


class ServeConfig(Strict):
    """Stage 6: answers to requests."""

    reach: ReachConfig = ReachConfig()
    histories: HistoryConfig = HistoryConfig()
    limits: LimitConfig = LimitConfig()
    page: PageConfig = PageConfig()
