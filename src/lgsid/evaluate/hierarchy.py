"""The hierarchy of tokens as an icicle: regions, first tokens, and close-ups of what lies behind a few of them.

All regions and all first tokens stand to scale on the left, so that 256 of them fit. The largest first token of each
large region is opened to the right: its second tokens and, behind them, their third ones; what is small is grouped.

Axes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from lgsid.arrays import IntArray
from lgsid.data.labels import region_path
from lgsid.evaluate.plots import COLOURS, INK, MUTED, PAPER, drawable, drawing, png, short
from lgsid.evaluate.results import Results, Token
from lgsid.sid.describe import name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPENED, OPENED_BEHIND = 6, 5
"""First tokens that are opened, and second tokens shown behind each of them."""
REGIONS_NAMED = len(COLOURS) - 1
"""Regions with a colour of their own; the others share grey."""
ELSEWHERE = "#9aa3af"
_LEAST_SHARE = 0.115
"""No second token is drawn flatter than this share of its first one: a label must fit."""
_LEAST_LABEL = 0.018
"""Height of a region that holds one line."""
_FIRST, _SECOND, _THIRD = (0.275, 0.445), (0.449, 0.73), (0.734, 0.748)
_HEADS = ("city", "token 1", "some of them", "token 2", "token 3")


@dataclass(frozen=True)
class Branch:
    """A token with what lies behind it.

    Attributes:
        code: its number; None groups the tokens that are not shown.
        items: how many items have it, behind the tokens before it.
        label: what it stands for.
        children: the largest tokens behind it, then the group of the others.
    """

    code: int | None
    items: int
    label: str
    children: tuple[Branch, ...] = ()


@dataclass(frozen=True)
class Region:
    """A region (a city, or a province where no city is known) with its first tokens, the largest first."""

    name: str
    colour: str
    items: int
    tokens: tuple[tuple[int, int], ...]
    """(code, items)"""


def regions_of(items: pl.DataFrame, first_N: IntArray) -> list[Region]:
    """First tokens by the region that most of their items lie in, the largest region first; the small ones as one."""
    city, province = region_path(items, 2), region_path(items, 1)
    table = pl.DataFrame({"code": first_N, "region": city.fill_null(province)})
    sizes = table.group_by("code").agg(pl.len().alias("items"))
    home = (
        table.drop_nulls("region").group_by("code", "region").len()
        .sort(["code", "len", "region"], descending=[False, True, False])
        .group_by("code", maintain_order=True).first().select("code", "region")
    )  # fmt: skip
    tokens = sizes.join(home, on="code", how="left").sort(["items", "code"], descending=[True, False])
    by_region: dict[str | None, list[tuple[int, int]]] = {}
    for code, count, region in tokens.select("code", "items", "region").iter_rows():
        by_region.setdefault(region, []).append((int(code), int(count)))
    unknown = by_region.pop(None, [])
    ordered = sorted(by_region.items(), key=lambda pair: (-_total(pair[1]), pair[0]))
    named = [
        Region(name_of(str(path), 2), COLOURS[number], _total(codes), tuple(codes))
        for number, (path, codes) in enumerate(ordered[:REGIONS_NAMED])
    ]
    rest = sorted(
        [pair for _, codes in ordered[REGIONS_NAMED:] for pair in codes] + unknown, key=lambda t: (-t[1], t[0])
    )
    others = len(ordered) - len(named)
    name = f"{others} others" if others else "unknown"
    return [*named, *([Region(name, ELSEWHERE, _total(rest), tuple(rest))] if rest else [])]


def _total(tokens: Sequence[tuple[int, int]]) -> int:
    return sum(items for _, items in tokens)


def opened_tokens(regions: Sequence[Region], most: int = OPENED) -> list[tuple[Region, int]]:
    """The largest token of each region in turn, then the second largest …, in the order of the picture."""
    chosen: list[tuple[int, int, int]] = []
    rank = 0
    while len(chosen) < most and any(rank < len(region.tokens) for region in regions):
        for number, region in enumerate(regions):
            if rank < len(region.tokens) and len(chosen) < most:
                chosen.append((number, rank, region.tokens[rank][0]))
        rank += 1
    return [(regions[number], code) for number, _, code in sorted(chosen)]


def branch(results: Results, code: int) -> Branch:
    """What lies behind a first token: its largest second tokens, with their third ones."""
    rows = np.flatnonzero(results.codes[:, 0] == code)
    token = results.tokens.get(1, {}).get(code)
    return Branch(code, len(rows), _label(token), _children(results, rows, 1, OPENED_BEHIND))


def _children(results: Results, rows: IntArray, level: int, most: int) -> tuple[Branch, ...]:
    if level >= results.codes.shape[1]:
        return ()
    codes, counts = np.unique(results.codes[rows, level], return_counts=True)
    order = np.lexsort((codes, -counts))
    found = []
    for code in codes[order[:most]]:
        own = rows[results.codes[rows, level] == code]
        token = results.tokens.get(level + 1, {}).get(int(code))
        deeper = _children(results, own, level + 1, 3) if level == 1 else ()
        title = results.items["title"][int(own[0])] if level > 1 and len(own) == 1 else None
        found.append(Branch(int(code), len(own), title or _label(token), deeper))
    if len(order) > most:
        items = int(counts[order[most:]].sum())
        found.append(Branch(None, items, f"{len(order) - most} more ({items:,})"))
    return tuple(found)


def _label(token: Token | None) -> str:
    return token.label.removeprefix("mixed: ") if token else ""


def hierarchy_chart(results: Results) -> bytes:
    """The icicle (PNG); see the module."""
    regions = regions_of(results.items, results.codes[:, 0])
    opened = opened_tokens(regions)
    height = 1.1 + 1.45 * max(len(opened), 3)
    with drawing(height, layout=None) as figure:
        axes = figure.add_axes((0.01, 0.01, 0.98, 1 - 0.72 / height))
        axes.set(xlim=(0, 1), ylim=(1, 0))
        axes.axis("off")
        figure.text(0.02, 1 - 0.22 / height, "What lies behind a token?", fontweight="bold", fontsize=12.5, va="center")
        for x, name in zip((0.0, 0.155, _FIRST[0], _SECOND[0], _THIRD[0]), _HEADS, strict=True):
            axes.text(x, -0.006, name, fontsize=9, color=MUTED, va="bottom")
        spots = _draw_regions(axes, regions, len(results.items))
        for number, (region, code) in enumerate(opened):
            top, bottom = number / len(opened) + 0.006, (number + 1) / len(opened) - 0.006
            _link(axes, spots[code], (top, bottom), region.colour)
            _draw_branch(axes, branch(results, code), top, bottom, region.colour)
        return png(figure)


def _draw_regions(axes: Axes, regions: Sequence[Region], total: int) -> dict[int, tuple[float, float]]:
    """Columns of regions and first tokens to scale; where each token stands, as (top, bottom)."""
    spots, top = {}, 0.0
    for region in regions:
        height = region.items / total
        _box(axes, 0.0, 0.15, top, top + height, region.colour, 0.75)
        if height > _LEAST_LABEL:
            name = _plain(region.name, 13)
            counted = f"\n{region.items:,}" if height > 2 * _LEAST_LABEL else ""
            axes.text(0.075, top + height / 2, name + counted, fontsize=8.5, ha="center", va="center")
        edge = top
        for number, (code, items) in enumerate(region.tokens):
            spots[code] = (edge, edge + items / total)
            _box(axes, 0.155, 0.215, *spots[code], region.colour, 0.95 if number % 2 else 0.62, line=0.15)
            edge = spots[code][1]
        top += height
    return spots


def _link(axes: Axes, source: tuple[float, float], target: tuple[float, float], colour: str) -> None:
    from matplotlib.patches import Polygon

    left, right = 0.216, _FIRST[0] - 0.002
    corners = [(left, source[0]), (right, target[0]), (right, target[1]), (left, source[1])]
    axes.add_patch(Polygon(corners, facecolor=colour, edgecolor="none", alpha=0.18))


def _draw_branch(axes: Axes, tree: Branch, top: float, bottom: float, colour: str) -> None:
    height = bottom - top
    _box(axes, *_FIRST, top, bottom, colour, 0.6)
    words = f"{tree.code}\n{_wrapped(tree.label, 15, 4)}\n{tree.items:,} items"
    axes.text(_FIRST[0] + 0.008, top + height / 2, words, fontsize=8, va="center", linespacing=1.25)
    edge = top
    for child, share in zip(tree.children, _heights(tree.children), strict=True):
        middle, below = edge + share * height / 2, edge + share * height
        grouped = child.code is None
        _box(axes, *_SECOND, edge, below, colour, 0.16 if grouped else 0.36)
        label = child.label if grouped else f"{child.code}  {_plain(child.label, 18)}"
        axes.text(_SECOND[0] + 0.006, middle, label, fontsize=7.5, color=MUTED if grouped else INK, va="center")
        if not grouped:
            axes.text(_SECOND[1] - 0.006, middle, f"{child.items:,}", fontsize=7.5, ha="right", va="center")
        _draw_leaves(axes, child, edge, below, colour)
        edge = below


def _draw_leaves(axes: Axes, parent: Branch, top: float, bottom: float, colour: str) -> None:
    """Third tokens as a strip to scale, and the first of them in words."""
    edge, height = top, bottom - top
    for leaf in parent.children:
        below = edge + height * leaf.items / parent.items
        _box(axes, *_THIRD, edge, below, colour, 0.12 if leaf.code is None else 0.36, line=0.3)
        edge = below
    named = [leaf for leaf in parent.children if leaf.code is not None]
    if named:
        others = parent.items - named[0].items
        first = f"{named[0].code}  {_plain(named[0].label, 16)}" + (f" +{others:,}" if others else "")
        axes.text(_THIRD[1] + 0.006, (top + bottom) / 2, first, fontsize=7, va="center")


def _heights(children: Sequence[Branch]) -> list[float]:
    """Shares of the height by items, none below what a label needs."""
    if not children:
        return []
    items = np.array([child.items for child in children], dtype=np.float64)
    least = min(_LEAST_SHARE, 1 / len(items))
    share = items / items.sum()
    flat = share < least
    while flat.any() and not flat.all():
        share[flat] = least
        share[~flat] = items[~flat] / items[~flat].sum() * (1 - least * flat.sum())
        if not (share[~flat] < least - 1e-12).any():
            break
        flat |= share < least
    return [float(value) for value in share / share.sum()]


def _plain(words: str, width: int) -> str:
    return short(words, width) if drawable(words) else ""


def _wrapped(words: str, width: int, lines: int) -> str:
    """Words in lines of about a width, the last one cut; the district on a line of its own."""
    from textwrap import wrap

    if not drawable(words):
        return ""
    broken = [line for part in words.split(" · ") for line in wrap(part, width)]
    return "\n".join(short(line, width + 2) for line in broken[:lines])


def _box(
    axes: Axes, left: float, right: float, top: float, bottom: float, colour: str, alpha: float, line: float = 0.6
) -> None:
    from matplotlib.patches import Rectangle

    shape = Rectangle(
        (left, top), right - left, bottom - top, facecolor=colour, alpha=alpha, edgecolor=PAPER, linewidth=line
    )
    axes.add_patch(shape)
