"""Whether models learnt all they can, or ran out of steps in the middle of learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lgsid.evaluate.document import Verdict, percent

HARDLY = 0.01
"""Gain of a last validation, as a share of it, that is not worth a longer training."""


def rise_at_end(course: Mapping[str, Any], chance: float = 0.0) -> float:
    """By how much of what it is above chance the validation score still rose at the end; 0 where training stopped
    early, or the last validation is not the best.

    Args:
        course: what `lgsid.history.History.to_json` gave.
        chance: score of a model that knows nothing.
    """
    scores = [validation["metrics"]["score"] - chance for validation in course["validations"]]
    if course["stopped_early"] or len(scores) < 3 or scores[-1] <= max(0.0, *scores[:-1]):
        return 0.0
    return float((scores[-1] - max(scores[:-1])) / scores[-1])


def training_verdict(
    question: str, courses: Mapping[str, Any], named: Callable[[str], str], option: str, chance: float = 0.0
) -> Verdict | None:
    """A verdict on the courses of some models; None where nothing was trained.

    Args:
        question: that it answers.
        courses: by model.
        named: what a model is called.
        option: that makes training longer.
        chance: score of a model that knows nothing.
    """
    if not courses:
        return None
    rising = {name: rise for name, course in courses.items() if (rise := rise_at_end(course, chance)) > HARDLY}
    told = ", ".join(f"{named(name)} rose by {percent(rise)} at the last validation" for name, rise in rising.items())
    return Verdict(
        "look" if rising else "good", question, told or "no validation score rose at the end",
        f"hardly more at the last validation than before; else raise {option}",
    )  # fmt: skip
