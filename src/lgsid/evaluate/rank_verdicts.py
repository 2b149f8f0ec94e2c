"""Verdicts on rankers: do the codes help them, and are they better than what needs no training?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lgsid.evaluate.document import KeyFigure, Verdict
from lgsid.evaluate.rank_charts import Gain, signed
from lgsid.evaluate.training_verdicts import training_verdict
from lgsid.rank.stage import WITHOUT

BASELINES = {
    "popular_within_reach": "popular within reach",
    "popular_nearby": "popular nearby",
    "item_co_visits": "item co-visits",
    "revisit": "visited before",
}
"""What the scores that need no training are called."""


def ranker_name(name: str) -> str:
    """A ranker's name, without what it was given: "din_without_sid" is DIN."""
    return name.removesuffix(f"_{WITHOUT}").upper()


def _full_name(name: str) -> str:
    """A ranker's name, with what it was given."""
    return f"{ranker_name(name)} without codes" if name.endswith(WITHOUT) else ranker_name(name)


def gains_of(ranking: Mapping[str, Any]) -> list[Gain]:
    """What the codes add to each ranker that was trained with and without them."""
    return [
        Gain(ranker_name(name), found["difference"], found["low"], found["high"])
        for name, found in ranking["gain_of_sid"].items()
    ]


def with_codes(ranking: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures of the rankers as they were configured, with an AUC: those for comparison left out."""
    return {
        name: figures
        for name, figures in ranking["rankers"].items()
        if not name.endswith(WITHOUT) and figures["auc"] is not None
    }


def best_baseline(ranking: Mapping[str, Any]) -> tuple[str, float] | None:
    """Name and AUC of the best score that needs no training."""
    found = {name: figures["auc"] for name, figures in ranking["baselines"].items() if figures["auc"] is not None}
    if not found:
        return None
    name = max(found, key=lambda name: found[name])
    return BASELINES.get(name, name), found[name]


def rank_verdicts(ranking: Mapping[str, Any]) -> Iterator[Verdict]:
    """One verdict per question that has an answer.

    Args:
        ranking: the content of ``4_rank/metrics.json``.
    """
    if gains := gains_of(ranking):
        answer = ", ".join(f"{gain.name} {signed(gain.difference)}" for gain in gains)
        yield Verdict(
            "good" if all(gain.sign > 0 for gain in gains) else "look", "Do the codes help the rankers?", answer,
            "AUC above that of the same ranker without codes, with the whole 95 % interval over users",
        )  # fmt: skip
    best, rankers = best_baseline(ranking), with_codes(ranking)
    if best is not None and rankers:
        least = min(rankers, key=lambda name: rankers[name]["auc"])
        auc = rankers[least]["auc"]
        yield Verdict(
            "good" if auc > best[1] else "look", "Are rankers better than scores without training?",
            f"{ranker_name(least)} {auc:.3f}, the lowest; {best[0]} {best[1]:.3f}",
            "AUC of every ranker above that of the best such score",
        )  # fmt: skip
    question = "Have rankers learnt all they can?"
    enough = training_verdict(question, ranking["training"], _full_name, "rank.epochs", chance=0.5)
    if enough is not None:
        yield enough


def rank_key_figure(ranking: Mapping[str, Any]) -> KeyFigure | None:
    """AUC of the best ranker without and with the codes."""
    rankers = with_codes(ranking)
    known = [name for name in ranking["gain_of_sid"] if name in rankers]
    if not known:
        return None
    best = max(known, key=lambda name: rankers[name]["auc"])
    before, gain = ranking["rankers"][f"{best}_{WITHOUT}"]["auc"], ranking["gain_of_sid"][best]
    return KeyFigure(
        f"{before:.3f} → {rankers[best]['auc']:.3f}", f"AUC of {ranker_name(best)} without and with the codes",
        f"gain {signed(gain['difference'])}, 95 % interval {signed(gain['low'])} to {signed(gain['high'])}",
    )  # fmt: skip
