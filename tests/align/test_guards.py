"""The guards: each stops the history it is made for, with figures and what to change, and lets healthy ones pass."""

from __future__ import annotations

import re

import pytest

from lgsid.align.guards import Guards
from lgsid.config import GuardConfig, RunConfig
from lgsid.errors import AlignmentError
from lgsid.history import History, Validation

START = {"score": 0.4, "kept": 1.0, "distance_km": 60.0, "effective_rank": 50.0, "random_cosine": 0.2, "reward": 0.0}


def history(*changes: dict[str, float]) -> History:
    """A healthy start, then what changed since."""
    metrics = [START, *({**START, **change} for change in changes)]
    return History(100, validations=[Validation(place, float(place), values) for place, values in enumerate(metrics)])


def judge(*changes: dict[str, float], **config: float) -> None:
    Guards(GuardConfig(**config))(history(*changes))


def test_a_healthy_run_passes() -> None:
    judge()
    judge({"kept": 0.93, "distance_km": 20.0, "effective_rank": 30.0, "random_cosine": 0.4, "reward": 3.0})


@pytest.mark.parametrize("change", [{"effective_rank": 9.9}, {"random_cosine": 0.985}])
def test_a_collapse_is_stopped(change: dict[str, float]) -> None:
    with pytest.raises(AlignmentError, match="the embeddings collapse: effective rank") as caught:
        judge(change)
    assert "at the start 50.0, expected at least 10.0" in caught.value.message
    assert "similarity_weight" in str(caught.value.fix)
    judge({"effective_rank": 10.1}, {"random_cosine": 0.975})


def test_lost_meaning_is_stopped() -> None:
    with pytest.raises(AlignmentError, match=r"neighbours keep 59\.0% of their original similarity") as caught:
        judge({"kept": 0.59})
    assert "expected at least 60%" in caught.value.message
    assert "least_kept" in str(caught.value.fix)
    judge({"kept": 0.59}, least_kept=0.5)


def test_a_hacked_reward_is_stopped() -> None:
    with pytest.raises(AlignmentError, match=r"margin rose by 2\.00 .* grew from 60\.0 to 90\.0 km") as caught:
        judge({"reward": 2.0, "distance_km": 90.0})
    assert "reward.anchors" in str(caught.value.fix)


@pytest.mark.parametrize(
    "change",
    [
        {"reward": 2.0, "distance_km": 65.0},  # the map hardly changed
        {"reward": 2.0, "distance_km": 30.0},  # and here for the better
        {"reward": 0.4, "distance_km": 90.0},  # a trade that the reward has no part in
    ],
)
def test_a_rising_reward_alone_is_no_hacking(change: dict[str, float]) -> None:
    judge(change)


def test_objectives_without_a_reward_are_not_suspected() -> None:
    metrics = [{name: value for name, value in START.items() if name != "reward"} for _ in range(2)]
    metrics[1]["distance_km"] = 500.0
    Guards(GuardConfig())(History(9, validations=[Validation(k, 0.0, metrics[k]) for k in range(2)]))


def test_only_the_last_validation_is_judged() -> None:
    judge({"kept": 0.1}, {"kept": 0.9})
    with pytest.raises(AlignmentError):
        judge({"kept": 0.9}, {"kept": 0.1})


@pytest.mark.parametrize(
    "change", [{"effective_rank": 1.0}, {"random_cosine": 1.0}, {"kept": 0.1}, {"reward": 9.0, "distance_km": 900.0}]
)
def test_the_fix_names_keys_that_exist(change: dict[str, float]) -> None:
    with pytest.raises(AlignmentError) as caught:
        judge(change)
    named = re.findall(r"align(?:\.\w+)+", str(caught.value.fix))
    assert named
    for key in named:
        node: object = RunConfig()
        for part in key.split("."):
            node = getattr(node, part)
