"""Titles, descriptions and addresses: what a catalogue would say about a shop, and no more.

A description is one to three sentences. Its adjective, its sentence of atmosphere and sometimes the title are drawn
from the word lists of the shop's latent styles in proportion to their shares, so taste can be learnt from text, but
only as well as a reader could. Fields that the patterns of words_*.yaml can use:

- of the shop: ``head`` and ``what`` (of its category), ``k1 k2 k3`` and ``K1`` (known for), ``price``, ``brand``
- of its style: ``adj``, ``an`` and ``An`` (adjective with article), ``title_style``
- of its place: ``street`` and ``road`` (name), ``stem`` (of the street), ``area`` and ``area_stem`` (its centre, else
  the street), ``city``, ``city_short``, ``district``, ``district_short``
- free: ``first last last2 colour thing thing2``
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import IntArray
from lgsid.data.world.catalogue import CENTRES, Catalogue
from lgsid.data.world.chains import Chains
from lgsid.data.world.places import Places
from lgsid.data.world.shops import Shops
from lgsid.data.world.towns import Towns

_LINE_SHARE, _PRICE_SHARE, _EXTRA_SHARE, _SILENT_SHARE = 0.85, 0.45, 0.3, 0.03
_PICKS = 24


@dataclass(frozen=True)
class _Patterns:
    """Weighted patterns: a uniform number picks one."""

    texts: list[str]
    running: list[float]

    @classmethod
    def of(cls, raw: list[dict[str, Any]], group: str) -> _Patterns:
        fitting = [pattern for pattern in raw if group in pattern.get("groups", [group])]
        return cls([p["text"] for p in fitting], list(accumulate(float(p["weight"]) for p in fitting)))

    def pick(self, uniform: float) -> str:
        target = uniform * self.running[-1]
        return next(text for text, edge in zip(self.texts, self.running, strict=True) if target < edge)


class ShopText:
    """Writes the text of shops.

    Args:
        catalogue, places, towns, chains, shops: the world.
    """

    def __init__(self, catalogue: Catalogue, places: Places, towns: Towns, chains: Chains, shops: Shops) -> None:
        self._catalogue, self._places, self._towns, self._chains = catalogue, places, towns, chains
        self._shops = shops
        self._words = catalogue.words
        groups = {leaf.group for leaf in catalogue.leaves}
        self._titles = {group: _Patterns.of(self._words["titles"], group) for group in groups}
        self._brand_titles = _Patterns.of(self._words["brand_titles"], "")
        self._lines = [{group: style.lines_for(group) for group in groups} for style in catalogue.styles]
        self._districts = [district.name for district in places.districts]

    def write(self, rows: IntArray, rng: np.random.Generator) -> pl.DataFrame:
        """Title, description (null for a few), address and the names of category, brand and place of some shops."""
        picks = rng.random((len(rows), _PICKS)).tolist()
        styles = self._draw_styles(rows, rng)
        fields = [self._fields(row, style, pick) for row, style, pick in zip(rows.tolist(), styles, picks, strict=True)]
        columns: dict[str, list[str | None]] = {
            "title": [self._title(f, p) for f, p in zip(fields, picks, strict=True)],
            "category": [f["category"] for f in fields],
            "brand": [f["brand"] for f in fields],
            "description": [self._description(f, p) for f, p in zip(fields, picks, strict=True)],
            "province": [f["province"] for f in fields],
            "city": [f["city"] for f in fields],
            "district": [f["district"] for f in fields],
            "street": [self._address(f, p) for f, p in zip(fields, picks, strict=True)],
        }
        return pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))

    def _draw_styles(self, rows: IntArray, rng: np.random.Generator) -> list[list[int]]:
        """Three styles a shop, each by its share: for the adjective, the sentence and the title."""
        running = np.cumsum(self._shops.style_NS[rows].astype(np.float64) ** 2, axis=1)
        uniform = rng.random((3, len(rows), 1)) * running[:, -1:]
        drawn: list[list[int]] = (running < uniform).sum(axis=2).T.tolist()
        return drawn

    def _fields(self, row: int, styles: list[int], pick: list[float]) -> dict[str, Any]:
        leaf = self._catalogue.leaves[self._shops.leaf_N[row]]
        brand = int(self._shops.brand_N[row])
        k1, k2, k3 = _three(leaf.known, pick[1])
        return {
            "category": leaf.path,
            "group": leaf.group,
            "brand": self._chains.name_B[brand] if brand >= 0 else None,
            "price": self._words["currency"].format(amount=int(self._shops.price_N[row])),
            "price_level": float(self._shops.price_level_N[row]),
            "what": _of(leaf.what, pick[3]),
            "head": _of(leaf.head, pick[4]),
            "k1": k1,
            "k2": k2,
            "k3": k3,
            "K1": k1[0].upper() + k1[1:],
            **self._style_fields(styles, pick),
            **self._place_fields(row),
            **self._free_fields(self._words["owners"][leaf.owners], pick),
        }

    def _style_fields(self, styles: list[int], pick: list[float]) -> dict[str, Any]:
        adjective = _of(self._catalogue.styles[styles[0]].adjectives, pick[0])
        article = "an" if adjective[0] in "aeiou" else "a"
        return {
            "line_style": styles[1],
            "title_style": _of(self._catalogue.styles[styles[2]].title, pick[2]),
            "adj": adjective,
            "an": f"{article} {adjective}",
            "An": f"{article.capitalize()} {adjective}",
        }

    def _place_fields(self, row: int) -> dict[str, Any]:
        shops, towns = self._shops, self._towns
        centre, street = int(shops.centre_N[row]), int(shops.street_N[row])
        city = self._places.cities[shops.city_N[row]]
        district = self._districts[shops.district_N[row]]
        return {
            "province": city.province,
            "city": city.name,
            "city_short": city.name.removesuffix("市"),
            "district": district,
            "district_short": _short(district),
            "street": towns.street_S[street],
            "road": towns.street_S[street],
            "stem": towns.stem_S[street],
            "area": towns.centre_name_K[centre] if centre >= 0 else towns.street_S[street],
            "area_stem": towns.centre_stem_K[centre] if centre >= 0 else towns.stem_S[street],
            "in_mall": centre >= 0 and CENTRES[towns.kind_K[centre]] == "mall",
            "number": int(shops.number_N[row]),
        }

    def _free_fields(self, owners: list[str], pick: list[float]) -> dict[str, Any]:
        words = self._words
        return {
            "first": _of(words["firsts"], pick[5]),
            "last": _of(owners, pick[6]),
            "last2": _another(owners, pick[6], pick[7]),
            "colour": _of(words["colours"], pick[8]),
            "thing": _of(words["things"], pick[9]),
            "thing2": _another(words["things"], pick[9], pick[10]),
        }

    def _title(self, fields: dict[str, Any], pick: list[float]) -> str:
        patterns = self._titles[fields["group"]] if fields["brand"] is None else self._brand_titles
        return patterns.pick(pick[11]).format_map(fields)

    def _address(self, fields: dict[str, Any], pick: list[float]) -> str:
        words = self._words["streets"]
        pattern: str = words["address_in_mall"] if fields["in_mall"] else words["address"]
        return pattern.format(**fields, floor=1 + int(5 * pick[12]))

    def _description(self, fields: dict[str, Any], pick: list[float]) -> str | None:
        if pick[13] < _SILENT_SHARE:
            return None
        patterns = [_of(self._words["sentences"][fields["group"]], pick[14])]
        if pick[15] < _LINE_SHARE:
            patterns.append(_of(self._lines[fields["line_style"]][fields["group"]], pick[16]))
        if pick[17] < _PRICE_SHARE:
            patterns.append(_of(self._words["prices"][_price_band(fields["price_level"])], pick[18]))
        if len(patterns) < 3 and pick[19] < _EXTRA_SHARE:
            patterns.append(_of(self._words["extras"], pick[20]))
        space = " " if self._catalogue.language == "en" else ""
        return space.join(patterns).format_map(fields)


def _of(options: Any, uniform: float) -> str:
    chosen: str = options[int(uniform * len(options))]
    return chosen


def _another(options: Any, uniform: float, other: float) -> str:
    """An option that `_of` would not choose for the first number."""
    first = int(uniform * len(options))
    chosen: str = options[(first + 1 + int(other * (len(options) - 1))) % len(options)]
    return chosen


def _three(options: tuple[str, ...], uniform: float) -> tuple[str, str, str]:
    """Three different entries in an order of their own, all orders equally likely."""
    total = len(options)
    code = int(uniform * total * (total - 1) * (total - 2))
    first, rest = code % total, code // total
    left = [option for option in options if option is not options[first]]
    second = left.pop(rest % (total - 1))
    return options[first], second, left[rest // (total - 1)]


def _price_band(level: float) -> str:
    return "low" if level < -0.3 else "high" if level > 0.35 else "middle"


def _short(district: str) -> str:
    """A Chinese district's name without its type, where that leaves at least two characters."""
    for suffix in ("新区", "区", "县", "市"):
        if district.endswith(suffix) and len(district) > len(suffix) + 1:
            return district.removesuffix(suffix)
    return district
