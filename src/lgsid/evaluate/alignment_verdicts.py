"""Verdicts on alignment: did geography rise, did meaning survive, did anything collapse?"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from lgsid.data.labels import REGIONS
from lgsid.evaluate.document import KeyFigure, Verdict, fractions, number, percent

LEAST_KEPT = 0.9
"""Share of the original similarity that the neighbours must keep."""
LEAST_EFFICIENCY = 0.8
"""Share of the lift in district neighbours that is possible at the same loss of meaning."""
LEAST_SPREAD = 0.25
"""Share of the unaligned vectors' spread below which they count as collapsed."""
LEAST_CONTENT = 0.5
"""Share of the neighbours' likeness in content, above that of random pairs, that must remain."""
LEAST_PAIR_ACCURACY = 0.85
"""Pair-order accuracy of a reward model on anchors it has not seen."""
PARTS = {
    "test": "items kept out of training",
    "unseen": "items in cities that training never saw",
    "train": "training items",
    "all": "all items",
}
"""What the parts of the items are called."""


def alignment_verdicts(alignment: Mapping[str, Any]) -> list[Verdict]:
    """One verdict per question, on the part that is judged; the ones without the figures they need left out.

    Args:
        alignment: what `alignment_measures.measure_alignment` returned.
    """
    part, k = alignment["parts"][alignment["judged"]], alignment["k"]
    before, after, where = part["before"][k], part["after"][k], PARTS[alignment["judged"]]
    found = [
        _geography(before, after, part["queries"], where),
        _efficiency(alignment["efficiency"]),
        _meaning(after),
        _content(before, after, alignment["random_content"]),
        _collapse(alignment["spread"]),
        _reward(alignment.get("reward")),
    ]
    return [verdict for verdict in found if verdict is not None]


def alignment_key_figure(alignment: Mapping[str, Any]) -> KeyFigure | None:
    """Share of neighbours in the same region of the finest known level, before and after, with what it cost."""
    part, k = alignment["parts"][alignment["judged"]], alignment["k"]
    before, after = part["before"][k], part["after"][k]
    level = finest_level(before)
    if level is None:
        return None
    return KeyFigure(
        f"{percent(before[level], 0)} → {percent(after[level], 0)}",
        f"of {k} neighbours in the same {level}, before and after alignment",
        f"{PARTS[alignment['judged']]}; {percent(after['kept'])} of the original similarity kept",
    )


def finest_level(figures: Mapping[str, Any]) -> str | None:
    """The finest region level that is known of any query."""
    return next((level for level in reversed(REGIONS) if figures[level] is not None), None)


def _judge(good: bool, question: str, answer: str, wanted: str) -> Verdict:
    return Verdict("good" if good else "look", question, answer, wanted)


def _noise(before: float, after: float, queries: int) -> float:
    """Twice the standard error of the difference of two shares, as if a query's neighbours were one."""
    return 2 * sqrt((before * (1 - before) + after * (1 - after)) / queries)


def _geography(before: Mapping[str, Any], after: Mapping[str, Any], queries: int, where: str) -> Verdict | None:
    level = finest_level(before)
    if level is None:
        return None
    known = [name for name in REGIONS if before[name] is not None]
    rose = after[level] - before[level] > _noise(before[level], after[level], queries)
    held = all(after[name] - before[name] >= -_noise(before[name], after[name], queries) for name in known)
    shares = " → ".join(fractions([figures[name] for name in REGIONS]) for figures in (before, after))
    return _judge(rose and held, f"Did geography rise, on {where}?", shares,
                  f"more neighbours in the same {level} than noise explains, and no fewer on a coarser level; "
                  "LGSID: 0.87 / 0.73 / 0.16 → 0.99 / 0.95 / 0.56 at the most")  # fmt: skip


def _efficiency(share: float | None) -> Verdict | None:
    if share is None:
        return None
    return _judge(share >= LEAST_EFFICIENCY, "Could more geography be had for this loss of meaning?",
                  f"{percent(share)} of what is possible was reached",
                  f"at least {percent(LEAST_EFFICIENCY, 0)} of the oracle's gain in district neighbours at the same "
                  "similarity")  # fmt: skip


def _meaning(after: Mapping[str, Any]) -> Verdict:
    return _judge(after["kept"] >= LEAST_KEPT, "Was meaning kept?", f"{percent(after['kept'])} of it",
                  f"at least {percent(LEAST_KEPT, 0)} of the nearest neighbours' original similarity")  # fmt: skip


def _content(before: Mapping[str, Any], after: Mapping[str, Any], random: float | None) -> Verdict | None:
    if random is None or before["content"] - random <= 0:
        return None
    left = (after["content"] - random) / (before["content"] - random)
    answer = f"{percent(left)} of their likeness is left"
    if before["category_root"] is not None:
        answer += f"; same top category {percent(before['category_root'])} → {percent(after['category_root'])}"
    return _judge(left >= LEAST_CONTENT, "Are neighbours still of a kind?", answer,
                  f"at least {percent(LEAST_CONTENT, 0)} of the similarity of their content texts, above that of "
                  "random pairs: nearer neighbours are fewer to choose from")  # fmt: skip


def _collapse(spread: Mapping[str, Mapping[str, float]]) -> Verdict:
    before, after = spread["before"], spread["after"]
    apart = (1 - after["random_cosine"]) / max(1 - before["random_cosine"], 1e-9)
    rank = after["effective_rank"] / before["effective_rank"]
    answer = (
        f"no: random pairs have cosine {after['random_cosine']:.2f} (before {before['random_cosine']:.2f}), the "
        f"vectors use {number(after['effective_rank'])} directions (before {number(before['effective_rank'])})"
    )
    good = min(apart, rank) >= LEAST_SPREAD
    return _judge(good, "Did the vectors collapse?", answer if good else answer.replace("no:", "yes:", 1),
                  f"at least {percent(LEAST_SPREAD, 0)} of the spread and of the directions before")  # fmt: skip


def _reward(reward: Mapping[str, Any] | None) -> Verdict | None:
    if reward is None or reward["held_out"]["accuracy"] is None:
        return None
    held, train = reward["held_out"]["accuracy"], reward["train"]["accuracy"]
    return _judge(held >= LEAST_PAIR_ACCURACY, "Does the reward model know near from far?",
                  f"{percent(held)} of the pairs of new anchors in order ({percent(train)} in training)",
                  f"at least {percent(LEAST_PAIR_ACCURACY, 0)}; chance is 50 %")  # fmt: skip
