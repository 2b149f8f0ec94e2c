"""A simulated world: real cities and districts, invented shops and people, behaviour from a documented choice model."""

from lgsid.data.world.simulate import simulate
from lgsid.data.world.truth import Truth

__all__ = ["Truth", "simulate"]
