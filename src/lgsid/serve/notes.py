"""Why an answer has fewer items than were asked for, and what of a request was not looked at, in words.

English or Chinese, from counts that can be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from lgsid.serve.filters import Step, Wanted
from lgsid.serve.hours import DAYS
from lgsid.serve.nearby import Nearby
from lgsid.serve.reach import Circle
from lgsid.serve.reasons import Language

_CHINESE_DAYS = "一二三四五六日"


def note(nearby: Nearby, k: int, answered: int, unknown_visits: int, language: Language = "en") -> str:
    """The note of an answer; empty where there is nothing to say.

    Args:
        nearby: what the first stage found.
        k: items that were asked for.
        answered: items of the answer.
        unknown_visits: visits of the history whose item is not served.
        language: of the words.
    """
    chinese, candidates, said = language == "zh", len(nearby.found), []
    if answered < k:
        said.append(reach_words(nearby, language))
        if answered < candidates:
            unjudged = candidates - answered
            said.append(
                f"有{unjudged:,}个候选，模型不认识其编码或商品。"
                if chinese
                else f"{unjudged:,} candidates have a SID or an item that the model does not know."
            )
        elif candidates < nearby.left and candidates < k:
            said.append(
                f"只看了最近的{candidates:,}个。" if chinese else f"Only the nearest {candidates:,} were looked at."
            )
    if unknown_visits:
        visits = "1 visit" if unknown_visits == 1 else f"{unknown_visits:,} visits"
        said.append(
            f"历史中有{unknown_visits:,}次访问未计入：没有这样的商品。"
            if chinese
            else f"{visits} of the history left out: no such item is served."
        )
    return ("" if chinese else " ").join(said)


def reach_words(nearby: Nearby, language: Language = "en") -> str:
    """How many items there are, and what ruled out the others."""
    return _chinese(nearby) if language == "zh" else _english(nearby)


def filter_words(name: str, wanted: Wanted, language: Language = "en") -> str:
    """A filter in use, by its name."""
    words: dict[str, Callable[[Wanted, bool], str]] = {
        "category": lambda wanted, chinese: _names("类别" if chinese else "category", wanted.categories, chinese),
        "brand": lambda wanted, chinese: _names("品牌" if chinese else "brand", wanted.brands, chinese),
        "price": _price,
        "open": lambda wanted, chinese: _open(wanted.open_at, chinese),
        "without": lambda wanted, chinese: _new(len(wanted.without), chinese),
    }
    return words[name](wanted, language == "zh")


def _new(visited: int, chinese: bool) -> str:
    return f"没去过的（去过{visited}个）" if chinese else f"new places only ({visited} visited)"


def _english(nearby: Nearby) -> str:
    where = f"within {nearby.area.radius_km:.3g} km" if isinstance(nearby.area, Circle) else "in the area"
    if not nearby.reachable:
        nearest = "" if nearby.nearest_km is None else f"; the nearest one is {nearby.nearest_km:.3g} km away"
        return f"No item lies {where}{nearest}."
    said = [f"{_items(nearby.reachable)} {where}"]
    for step in nearby.steps:
        unknown = f" ({step.unknown:,} of them unknown)" if step.unknown else ""
        said.append(f"{filter_words(step.name, nearby.wanted)} rules out {step.removed:,}{unknown}")
    if nearby.steps:
        said.append(f"{_items(nearby.left)} left")
    helpful = _helpful(nearby)
    if helpful is not None:
        some = f"without '{filter_words(helpful.name, nearby.wanted)}' there would be {helpful.only:,}"
        said.append(some if helpful.only else "no single filter is to blame")
    return "; ".join(said) + "."


def _chinese(nearby: Nearby) -> str:
    where = f"{nearby.area.radius_km:.3g}公里内" if isinstance(nearby.area, Circle) else "区域内"
    if not nearby.reachable:
        nearest = "" if nearby.nearest_km is None else f"；最近的在{nearby.nearest_km:.3g}公里外"
        return f"{where}没有商品{nearest}。"
    said = [f"{where}有{nearby.reachable:,}个商品"]
    for step in nearby.steps:
        unknown = f"（其中{step.unknown:,}个未知）" if step.unknown else ""
        said.append(f"“{filter_words(step.name, nearby.wanted, 'zh')}”排除{step.removed:,}个{unknown}")
    if nearby.steps:
        said.append(f"剩{nearby.left:,}个")
    helpful = _helpful(nearby)
    if helpful is not None:
        some = f"去掉“{filter_words(helpful.name, nearby.wanted, 'zh')}”会有{helpful.only:,}个"
        said.append(some if helpful.only else "去掉任何单个条件都没有结果")
    return "；".join(said) + "。"


def _helpful(nearby: Nearby) -> Step | None:
    """Where nothing is left, the filter without which there would be most."""
    return None if nearby.left else max(nearby.steps, key=lambda step: step.only, default=None)


def _items(count: int) -> str:
    return f"{count:,} item{'' if count == 1 else 's'}"


def _names(kind: str, names: tuple[str, ...], chinese: bool) -> str:
    return f"{kind}{'或'.join(names)}" if chinese else f"{kind} {' or '.join(names)}"


def _price(wanted: Wanted, chinese: bool) -> str:
    least, most = wanted.least_price, wanted.most_price
    if least is None:
        return f"价格不超过{most:g}" if chinese else f"price up to {most:g}"
    if most is None:
        return f"价格不低于{least:g}" if chinese else f"price from {least:g}"
    return f"价格{least:g}至{most:g}" if chinese else f"price from {least:g} to {most:g}"


def _open(moment: datetime | None, chinese: bool) -> str:
    assert moment is not None
    day = moment.weekday()
    return f"周{_CHINESE_DAYS[day]}{moment:%H:%M}营业" if chinese else f"open on {DAYS[day]} at {moment:%H:%M}"
