"""The codebook page: every token of every level with its meaning, load and examples, to browse and to search.

One file that fetches nothing. Regions (or leading categories) unfold to tokens, tokens to meanings, all of it plain
HTML; a small script adds a search box, and without it nothing else is missing. Catalogue text is escaped.

The page stays below `MOST_BYTES` for up to some 10,000 tokens: less is said of each one where there are many.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import polars as pl

from lgsid.evaluate.document import kilometres, number, percent
from lgsid.evaluate.page import page
from lgsid.evaluate.plots import short
from lgsid.evaluate.results import Results, Token
from lgsid.sid.explain import region_names

MOST_BYTES = 2_900_000
"""Of the whole page, in UTF-8."""
_TITLE_WIDTH, _NAME_WIDTH = 60, 48
_PLACES = "They stand for places."
_KINDS = "They stand for what an item is, wherever it is; behind the tokens before them they mean it more narrowly."


@dataclass(frozen=True)
class _Detail:
    """How much is said of a token: values of each kind, examples, and tokens that follow it."""

    values: int
    examples: int
    following: int


@dataclass(frozen=True)
class _Book:
    """What a page is written from.

    Attributes:
        name: of the run.
        results: what stages 1 to 3 wrote.
        following: by (level, code) the commonest tokens that follow it on the next level, with their items.
        detail: how much is said of each token.
    """

    name: str
    results: Results
    following: Mapping[tuple[int, int], Sequence[tuple[int, int]]]
    detail: _Detail


_DETAILS = (_Detail(5, 5, 6), _Detail(3, 3, 3), _Detail(2, 2, 0), _Detail(1, 1, 0), _Detail(0, 0, 0))


def render_codebook(name: str, results: Results) -> str:
    """The page as HTML 5, with as much detail as its size allows.

    Args:
        name: of the run.
        results: what stages 1 to 3 wrote.
    """
    following = _following(results)
    page = ""
    for detail in _DETAILS:
        page = _page(_Book(name, results, following, detail))
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _following(results: Results) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """By (level, code): the commonest tokens that follow it on the next level, with their items."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    columns = results.token_columns[: results.levels]
    for level, (here, behind) in enumerate(pairwise(columns), start=1):
        pairs = (
            results.sids.group_by(here, behind).len()
            .sort([here, "len", behind], descending=[False, True, False])
            .group_by(here, maintain_order=True).head(_DETAILS[0].following)
        )  # fmt: skip
        for code, after, items in pairs.select(here, behind, pl.col("len")).iter_rows():
            found.setdefault((level, int(code)), []).append((int(after), int(items)))
    return found


def _page(book: _Book) -> str:
    levels = [level for level in range(1, book.results.levels + 1) if book.results.tokens.get(level)]
    links = "".join(f'<li><a href="#level-{level}">Level {level}</a></li>' for level in levels)
    body = "\n".join(_level(book, level) for level in levels)
    return page(f"Codebook: {book.name}", ["report.css", "codebook.css"], f"""<header>
<h1>Codebook: {escape(book.name)}</h1>
<p class="subtitle">What every token of the semantic IDs stands for. Shares are shares of the token's items: how sure a
name is. Words, brands and categories are those that set a token apart from the catalogue.</p>
<nav aria-label="Contents"><ul>{links}<li><a href="report.html">Report</a></li></ul></nav>
</header>
<div class="search" role="search" hidden><label for="search">Search</label><input id="search" type="search"
placeholder="city, category, title, number" autocomplete="off"><output id="found" aria-live="polite"></output></div>
<main>
{body}
</main>""", "codebook.js")  # fmt: skip


def _level(book: _Book, level: int) -> str:
    tokens = list(book.results.tokens[level].values())
    average = len(book.results.items) / len(tokens)
    kind = _PLACES if any(token.place for token in tokens) else _KINDS
    unused = _unused(book.results, level)
    parts = [
        f'<section id="level-{level}">\n<h2>Level {level}</h2>',
        f"<p>{len(tokens):,} tokens in use, {number(average)} items each on average. {kind}{unused} Items are counted "
        "before SIDs were made unique.</p>",
    ]
    for name, members in _groups(tokens):
        load = f"{_count(len(members), 'token')}, {_count(sum(token.items for token in members), 'item')}"
        parts.append(
            f'<details class="group"><summary>{escape(short(name, _NAME_WIDTH))} '
            f'<span class="load">{load}</span></summary>'
        )
        parts += [_token(book, level, token, average) for token in members]
        parts.append("</details>")
    return "\n".join([*parts, "</section>"])


def _unused(results: Results, level: int) -> str:
    codes = results.sid_metrics["levels"][level - 1]["codes"]
    unused = sorted(set(range(codes)) - set(results.tokens[level])) if codes <= 100_000 else []
    if not unused:
        return ""
    listed = ", ".join(map(str, unused[:20])) + (", …" if len(unused) > 20 else "")
    return f" Not in use: {len(unused):,} of {codes:,} ({listed})."


def _groups(tokens: Iterable[Token]) -> list[tuple[str, list[Token]]]:
    """Tokens of places by city, the others by leading category; the largest group first, then the largest token."""
    found: dict[str, list[Token]] = {}
    for token in tokens:
        found.setdefault(_group(token), []).append(token)
    for members in found.values():
        members.sort(key=lambda token: (-token.items, token.code))
    return sorted(found.items(), key=lambda pair: (-sum(token.items for token in pair[1]), pair[0]))


def _group(token: Token) -> str:
    if token.place:
        province, city = token.regions.get("province"), token.regions.get("city")
        path = city[0][0] if city else province[0][0] if province else ""
        return ", ".join(reversed([part for part in path.split(" > ", 1) if part])) or "place unknown"
    return token.categories[0][0] if token.categories else "no leading category"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _token(book: _Book, level: int, token: Token, average: float) -> str:
    width = 2 * _NAME_WIDTH if book.detail.values else _NAME_WIDTH
    return (
        f'<details class="token" id="t{level}-{token.code}"><summary><span class="code">{token.code}</span> '
        f'{escape(short(token.label, width))} <span class="load">{token.items:,}</span></summary>'
        f"{_meaning(book, level, token, average)}</details>"
    )


def _meaning(book: _Book, level: int, token: Token, average: float) -> str:
    detail = book.detail
    if not detail.values:
        return ""
    following = book.following.get((level, token.code), ())[: detail.following]
    rows = [
        ("load", f"{_count(token.items, 'item')}, {number(token.items / average, 2)} × the average"),
        *_place_rows(token, detail),
        *[(name, _shares(shares[: detail.values])) for name, shares in _facts(token)],
        ("examples", escape(" · ".join(short(title, _TITLE_WIDTH) for title in token.examples[: detail.examples]))),
        ("followed by", _links(book.results, level + 1, following)),
    ]
    told = "".join(f"<dt>{term}</dt><dd>{value}</dd>" for term, value in rows if value)
    return f'<dl class="meaning">{told}</dl>'


def _place_rows(token: Token, detail: _Detail) -> list[tuple[str, str]]:
    if not token.place:
        return []
    names = region_names(token.regions)
    rows = [(level, _shares(shares[: detail.values])) for level, shares in names.items()]
    if token.centre_deg is None:
        return rows
    lat, lon = token.centre_deg
    return [*rows, ("where", f"centre {lat:.4f}, {lon:.4f}; radius {kilometres(token.radius_km)}")]


def _facts(token: Token) -> list[tuple[str, Sequence[tuple[str, float]]]]:
    return [("categories", token.categories), ("brands", token.brands), ("words", token.words)]


def _shares(shares: Sequence[tuple[str, float]]) -> str:
    return escape(", ".join(f"{short(name, _NAME_WIDTH)} {percent(share, 0)}" for name, share in shares))


def _links(results: Results, level: int, following: Sequence[tuple[int, int]]) -> str:
    tokens = results.tokens.get(level, {})
    parts = []
    for code, items in following:
        label = escape(short(tokens[code].label, 30)) if code in tokens else ""
        name = f'<a href="#t{level}-{code}">{code}</a>' if code in tokens else str(code)
        parts.append(f"{name} {label} ({items:,})")
    return "; ".join(parts)
