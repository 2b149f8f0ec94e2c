"""Yelp's nested business fields in words: attributes, opening hours, addresses and categories of both generations.

Early files (the Dataset Challenge and the academic dataset) hold real JSON values; later ones hold Python literals in
strings, such as ``"u'free'"`` or ``"{'garage': False, 'lot': True}"``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PRICE_NAMES = ("price range", "price range 2")
_SAYS_NOTHING = {"", "none", "no", "false"}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_WORDS = {"good for meal": "good for", "wi fi": "wi-fi", "latenight": "late night", "take out": "take-out"}

# Category names that contain the comma that later files put between categories.
_WITH_COMMA = ("Books, Mags, Music & Video", "Beer, Wine & Spirits", "Used, Vintage & Consignment")
_CATEGORY = re.compile(r"\s*(?:" + "|".join(map(re.escape, _WITH_COMMA)) + ")|[^,]+")


def split_categories(value: Any) -> list[str]:
    """Categories as a list, from a list (early), a comma-separated string (later) or null."""
    parts = _CATEGORY.findall(value) if isinstance(value, str) else (value or [])
    return [part.strip() for part in parts if isinstance(part, str) and part.strip()]


def split_address(
    full_address: str, city: str, state: str, neighbourhoods: Sequence[str]
) -> tuple[str | None, str | None]:
    """Street and postal code of an early ``full_address``.

    It holds street lines, sometimes a neighbourhood line, and a last line such as "Boston, MA 02110",
    "Edinburgh EH10 4HF" or "76133 Karlsruhe", which is recognised by the name of the city.
    """
    lines = [line.strip() for line in full_address.split("\n") if line.strip()]
    if not lines or not city or city not in lines[-1]:
        return ", ".join(lines) or None, None
    before, _, after = lines.pop().rpartition(city)
    postal = " ".join(word for word in f"{before} {after}".replace(",", " ").split() if word != state)
    if lines and lines[-1] in neighbourhoods:
        lines.pop()
    return ", ".join(lines) or None, postal if any(char.isdigit() for char in postal) else None


def literal(value: Any) -> Any:
    """The value of an attribute: Python literals in strings are read, other strings stay as they are."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def price_level(attributes: Mapping[str, Any]) -> float | None:
    """Yelp's price range, 1 (cheap) to 4 (expensive)."""
    for name, value in attributes.items():
        level = literal(value)
        if plain_name(name) in _PRICE_NAMES and isinstance(level, int | float) and not isinstance(level, bool):
            return float(level)
    return None


def plain_name(name: str) -> str:
    """A name in plain words: ``RestaurantsGoodForGroups`` and ``Good For Groups`` become ``good for groups``."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name.replace("_", " "))
    words = re.sub(r"^(restaurants|business) ", "", apart.lower())
    return _WORDS.get(words, words)


def attributes_in_words(attributes: Mapping[str, Any]) -> str | None:
    """What the attributes say, as ``price range 2; good for lunch, dinner; outdoor seating``.

    Only what holds is said: false, "no" and "none" are left out, nested attributes list their true keys.
    """
    phrases = dict.fromkeys(_phrases(attributes))
    return "; ".join(sorted(phrases, key=lambda phrase: not phrase.startswith("price range"))) or None


def _phrases(attributes: Mapping[str, Any]) -> Iterator[str]:
    for name, raw in attributes.items():
        value, words = literal(raw), plain_name(name)
        if isinstance(value, dict):
            true = [plain_name(str(key)) for key, inner in value.items() if inner is True]
            if true:
                yield f"{words} {', '.join(true)}"
        elif value is True:
            yield words
        elif words in _PRICE_NAMES and value is not None:
            yield f"price range {value}"
        elif isinstance(value, str | int | float) and str(value).lower() not in _SAYS_NOTHING:
            yield f"{words} {str(value).replace('_', ' ')}"


def hours_in_words(hours: Mapping[str, Any] | None) -> str | None:
    """Opening hours in week order, as ``Mon 05:30-16:00; Tue 05:30-16:00``, from both generations."""
    spans = [(day, _span((hours or {}).get(day))) for day in _DAYS]
    return "; ".join(f"{day[:3]} {span}" for day, span in spans if span) or None


def _span(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = f"{value.get('open', '')}-{value.get('close', '')}"
    if not isinstance(value, str):
        return None
    times = re.fullmatch(r"(\d{1,2}):(\d{1,2})-(\d{1,2}):(\d{1,2})", value)
    if times is None:
        return value
    return "{:02d}:{:02d}-{:02d}:{:02d}".format(*(int(part) for part in times.groups()))
