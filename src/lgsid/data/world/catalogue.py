"""The word lists of a world: what is sold (catalogue_*.yaml) and how it is written down (words_*.yaml)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lgsid.arrays import DoubleArray, IntArray
from lgsid.config import load_yaml

CENTRES = ("mall", "food_street", "residential", "office", "tourist", "scattered")
"""Kinds of commercial centre; the last one stands for shops outside any centre."""


@dataclass(frozen=True)
class Leaf:
    """A leaf category: its path from the root and the words that belong to it."""

    path: str
    root: int
    group: str
    price: float
    what: tuple[str, ...]
    head: tuple[str, ...]
    known: tuple[str, ...]
    owners: str


@dataclass(frozen=True)
class Style:
    """One latent style and the words that give it away."""

    name: str
    title: tuple[str, ...]
    adjectives: tuple[str, ...]
    lines: dict[str, tuple[str, ...]]

    def lines_for(self, group: str) -> tuple[str, ...]:
        """Sentences that fit a group: everywhere, in rooms, at tables, or for services and shops."""
        kinds = ["any", "service"] if group in ("care", "shop") else ["any", "room"]
        return sum((self.lines[kind] for kind in [*kinds, *(["eat"] if group in ("eat", "bar") else [])]), ())


@dataclass(frozen=True)
class Catalogue:
    """What is sold and how it is written down, in one language. Axes: L leaves, S styles, 6 kinds of centre.

    Attributes:
        leaves: the L leaf categories.
        root_L, price_L: row of each leaf's root category, and its typical spend.
        share_L6: how often each leaf occurs in each kind of centre (columns sum to 1).
        style_prior_LS: how common each style is in each leaf.
        styles: the S styles.
        words: the other word lists, as in the YAML file.
    """

    language: str
    leaves: tuple[Leaf, ...]
    root_L: IntArray
    price_L: DoubleArray
    share_L6: DoubleArray
    style_prior_LS: DoubleArray
    styles: tuple[Style, ...]
    words: dict[str, Any]


@lru_cache(maxsize=2)
def load_catalogue(language: str) -> Catalogue:
    """Read the word lists of a language (``en`` or ``zh``)."""
    folder = Path(__file__).parent
    roots = load_yaml(folder / f"catalogue_{language}.yaml")["roots"]
    words = load_yaml(folder / f"words_{language}.yaml")
    styles = tuple(_style(raw) for raw in words["styles"])
    leaves = tuple(_leaf(i, root, raw) for i, root in enumerate(roots) for raw in root["leaves"])
    return Catalogue(
        language=language,
        leaves=leaves,
        root_L=np.array([leaf.root for leaf in leaves], dtype=np.int64),
        price_L=np.array([leaf.price for leaf in leaves]),
        share_L6=_shares(roots),
        style_prior_LS=_style_priors(roots, styles),
        styles=styles,
        words=words,
    )


def _style(raw: dict[str, Any]) -> Style:
    lines = {kind: tuple(raw[kind]) for kind in ("any", "room", "eat", "service")}
    return Style(raw["name"], tuple(raw["title"]), tuple(raw["adjectives"]), lines)


def _leaf(root_row: int, root: dict[str, Any], raw: dict[str, Any]) -> Leaf:
    return Leaf(
        path=f"{root['root']} > {raw['path']}",
        root=root_row,
        group=root["group"],
        price=float(raw["price"]),
        what=tuple(raw["what"]),
        head=tuple(raw["head"]),
        known=tuple(raw["known"]),
        owners=raw.get("owners", "general"),
    )


def _shares(roots: list[dict[str, Any]]) -> DoubleArray:
    rows = []
    for root in roots:
        total = sum(leaf["share"] for leaf in root["leaves"])
        liking = np.array([root["centres"][kind] for kind in CENTRES])
        rows += [root["share"] * leaf["share"] / total * liking for leaf in root["leaves"]]
    share_L6 = np.array(rows, dtype=np.float64)
    result: DoubleArray = share_L6 / share_L6.sum(axis=0)
    return result


def _style_priors(roots: list[dict[str, Any]], styles: tuple[Style, ...]) -> DoubleArray:
    rows = [[root.get("styles", {}).get(style.name, 1.0) for style in styles] for root in roots for _ in root["leaves"]]
    return np.array(rows, dtype=np.float64)
