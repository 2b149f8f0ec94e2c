"""A training that ran out of steps is told from one that had learnt all it could."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lgsid.evaluate.training_verdicts import rise_at_end, training_verdict
from lgsid.history import History, Validation


def course(scores: Sequence[float], stopped_early: bool = False) -> dict[str, Any]:
    validations = [Validation(number, number / 2, {"score": score}) for number, score in enumerate(scores)]
    return History(len(scores), [], validations, stopped_early).to_json()


@pytest.mark.parametrize(
    ("scores", "stopped_early", "rise"),
    [
        ((0.01, 0.10, 0.12, 0.16), False, 0.25),
        ((0.01, 0.10, 0.12, 0.16), True, 0.0),
        ((0.01, 0.10, 0.16, 0.12), False, 0.0),
        ((0.01, 0.10, 0.16, 0.16), False, 0.0),
        ((0.01, 0.16), False, 0.0),
        ((0.0, 0.0, 0.0), False, 0.0),
    ],
)
def test_how_much_a_score_rose_at_the_end(scores: Sequence[float], stopped_early: bool, rise: float) -> None:
    assert rise_at_end(course(scores, stopped_early)) == pytest.approx(rise)


def test_a_score_that_begins_at_chance_counts_from_there() -> None:
    rising = course((0.5, 0.70, 0.75))
    assert rise_at_end(rising, chance=0.5) == pytest.approx(0.2)
    assert rise_at_end(rising) == pytest.approx(0.05 / 0.75)
    assert rise_at_end(course((0.40, 0.45, 0.48)), chance=0.5) == 0.0


def test_the_verdict_names_who_has_more_to_learn() -> None:
    courses = {"tiger": course((0.01, 0.12, 0.15)), "sasrec": course((0.01, 0.15, 0.1505))}
    found = training_verdict("Enough?", courses, str.upper, "generate.epochs")
    assert found is not None
    assert found.status == "look"
    assert "TIGER rose by 20" in found.answer
    assert "SASREC" not in found.answer
    assert "generate.epochs" in found.wanted
    settled = training_verdict("Enough?", {"sasrec": courses["sasrec"]}, str.upper, "generate.epochs")
    assert settled is not None
    assert settled.status == "good"
    assert training_verdict("Enough?", {}, str.upper, "generate.epochs") is None
