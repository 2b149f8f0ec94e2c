"""Why an item is recommended, in words, from facts that can be checked: no model is asked.

In this order: visited before; of the same kind as something visited; popular among what is near; how far it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lgsid.arrays import BoolArray, IntArray
from lgsid.config.serve import TravelMode

Language = Literal["en", "zh"]
POPULAR_SHARE = 0.1
"""Of the candidates, those with the most visits, count as popular."""
FAR_MINUTES = 60.0
"""What takes longer is told in km."""
_MODES: dict[Language, dict[TravelMode, tuple[str, str]]] = {
    "en": {
        "walk": ("{n} minute's walk", "{n} minutes' walk"),
        "bike": ("{n} minute by bike", "{n} minutes by bike"),
        "transit": ("{n} minute by public transport", "{n} minutes by public transport"),
        "car": ("{n} minute by car", "{n} minutes by car"),
    },
    "zh": {
        "walk": ("步行{n}分钟", "步行{n}分钟"),
        "bike": ("骑行{n}分钟", "骑行{n}分钟"),
        "transit": ("公共交通{n}分钟", "公共交通{n}分钟"),
        "car": ("驾车{n}分钟", "驾车{n}分钟"),
    },
}
_SEPARATOR: dict[Language, str] = {"en": " · ", "zh": "，"}


@dataclass(frozen=True)
class Facts:
    """What is known of one item and one user.

    Attributes:
        visits: how often the user has been there.
        like: title of the latest visited item of the same kind; None where there is none.
        kind: what the two have in common.
        popular: whether it is among the most visited candidates.
        distance_km: from the user, as the crow flies.
        minutes: on the way, by the speed model.
        mode: how.
    """

    visits: int
    like: str | None
    kind: str | None
    popular: bool
    distance_km: float
    minutes: float
    mode: TravelMode = "walk"


def reason(facts: Facts, language: Language = "en") -> str:
    """The facts in words."""
    parts = [part for part in (_known(facts, language), _popular(facts, language)) if part]
    return _SEPARATOR[language].join([*parts, _way(facts, language)])


def _known(facts: Facts, language: Language) -> str:
    if facts.visits:
        if language == "zh":
            return f"去过{facts.visits}次"
        return "visited before" if facts.visits == 1 else f"visited {facts.visits} times before"
    if facts.like is None:
        return ""
    return f"与去过的“{facts.like}”同类：{facts.kind}" if language == "zh" else f"{facts.kind}, like {facts.like}"


def _popular(facts: Facts, language: Language) -> str:
    if not facts.popular:
        return ""
    return "附近热门" if language == "zh" else "popular near here"


def _way(facts: Facts, language: Language) -> str:
    if facts.minutes > FAR_MINUTES:
        return f"距离{facts.distance_km:.1f}公里" if language == "zh" else f"{facts.distance_km:.1f} km away"
    minutes = max(1, round(facts.minutes))
    return _MODES[language][facts.mode][minutes > 1].format(n=minutes)


@dataclass(frozen=True)
class Visited:
    """What a user has visited: how often each item, and the title of the latest one of each kind."""

    times: Counter[int]
    latest: dict[str, str]

    @classmethod
    def of(cls, rows_T: IntArray, titles_T: Sequence[str], kinds_T: Sequence[Sequence[str]]) -> Visited:
        """Of a history, oldest first.

        Args:
            rows_T: items.
            titles_T: their titles.
            kinds_T: their kinds; see `lgsid.serve.reasons.kinds_of`.
        """
        latest = {kind: title for title, kinds in zip(titles_T, kinds_T, strict=True) for kind in kinds}
        return cls(Counter(rows_T.tolist()), latest)

    def like(self, kinds: Sequence[str]) -> tuple[str | None, str | None]:
        """Title of a visited item of one of some kinds, and the kind."""
        for kind in kinds:
            if kind in self.latest:
                return self.latest[kind], kind
        return None, None


def kinds_of(category: str | None) -> list[str]:
    """The kinds of an item: the last name of each of its category paths ("Food > Pizza" is "Pizza")."""
    if not category:
        return []
    paths = category.replace(";", "|").split("|")
    return [kind for path in paths if (kind := path.rsplit(">", 1)[-1].strip())]


def popular_among(visits_C: IntArray) -> BoolArray:
    """Whether each candidate is among the most visited ones; none is where nobody visited any."""
    count = max(1, round(POPULAR_SHARE * len(visits_C))) if len(visits_C) else 0
    if not count or not visits_C.any():
        return np.zeros(len(visits_C), dtype=np.bool_)
    least = np.partition(visits_C, len(visits_C) - count)[len(visits_C) - count]
    popular: BoolArray = visits_C >= max(1, least)
    # where visits are so even that many share the place, none of them stands out
    return popular if popular.sum() <= 2 * count else visits_C > least
