"""Telling meanings: what a SID says in words, token by token and for its first tokens together.

A residual token refines what the tokens before it left open, so it has two meanings: what its items have in common in
the whole catalogue, and what the items have in common that also share the tokens before it. An explanation gives both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl

from lgsid.arrays import CodeArray, FloatArray
from lgsid.config import SidConfig
from lgsid.data.labels import REGIONS
from lgsid.sid.describe import FACTS, TokenMeaning, city_name, describe_with, fact_tables, name_of

FACT_NAMES = {"categories": "categories", "brands": "brands", "words": "words in titles"}


@dataclass(frozen=True)
class Typicality:
    """How typical an item is of one of its tokens.

    Attributes:
        distance: from the item, less the centroids of the tokens before it, to the token's centroid, in the space of
            the codebooks.
        mean_distance: the same, averaged over the token's items (a sample of them).
        farther_share: share of those that lie farther from the centroid: near 1 is a typical item, near 0 an outlier.
        distance_km: from the item to the centre of the token's items.
    """

    distance: float
    mean_distance: float
    farther_share: float
    distance_km: float

    def text(self, place: bool) -> str:
        """In words."""
        where = f"{self.distance_km:.1f} km from its centre; " if place else ""
        return (
            f"this item: {where}{self.distance:.2f} from its centroid, the token's items {self.mean_distance:.2f} on "
            f"average; {_percent(self.farther_share)} of them lie farther"
        )


@dataclass(frozen=True)
class Explanation:
    """What a SID, or the first tokens of one, means.

    Attributes:
        sid: text form ("12-7-255").
        tokens: meaning of each token in order; None for a token that no item has, or an extra token.
        item: the item asked for, or the one that has the SID asked for.
        prefixes: what the items have in common that share the first tokens, by those tokens ("12-7").
        typical: how typical the item is of each token with a centroid; empty where it was not measured.
    """

    sid: str
    tokens: list[TokenMeaning | None]
    item: dict[str, Any] | None = None
    prefixes: dict[str, TokenMeaning] = field(default_factory=dict)
    typical: list[Typicality] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sid": self.sid,
            "item": self.item,
            "tokens": [asdict(token) if token else None for token in self.tokens],
            "prefixes": {prefix: asdict(meaning) for prefix, meaning in self.prefixes.items()},
            "typical": [asdict(typical) for typical in self.typical],
        }

    def __str__(self) -> str:
        lines = [f"SID {self.sid}" + (f" = {self.item['title']} (item {self.item['item_id']})" if self.item else "")]
        for level, (code, token) in enumerate(zip(self.sid.split("-"), self.tokens, strict=True)):
            lines += self._token_lines(level, code, token)
        for prefix, meaning in self.prefixes.items():
            lines.append(f"  {prefix} together: {meaning_text(replace(meaning, place=True))}")
        return "\n".join(lines)

    def _token_lines(self, level: int, code: str, token: TokenMeaning | None) -> list[str]:
        if token is None:
            return [f"  token {level + 1} = {code}: tells apart items that share the tokens before it"]
        lines = [f"  token {level + 1} = {code}: {meaning_text(token)}"]
        if level < len(self.typical) and token.items > 1:
            lines.append(f"    {self.typical[level].text(token.place)}")
        return lines


def meaning_text(meaning: TokenMeaning) -> str:
    """A meaning in words, without the place of a token that stands for a kind of item: it is spread over the map."""
    lat, lon = meaning.centre
    where = f", centre {lat:.4f}, {lon:.4f}, radius {meaning.radius_km:.1f} km" if meaning.place else ""
    lines = [f"{meaning.label}  ({meaning.items:,} item{'s' * (meaning.items != 1)}{where})"]
    if meaning.place:
        lines += [f"    {level}: {_shares(shares)}" for level, shares in region_names(meaning.regions).items()]
    lines += [f"    {FACT_NAMES[name]}: {_shares(shares)}" for name in FACTS if (shares := getattr(meaning, name))]
    if meaning.examples:
        lines.append("    examples: " + "; ".join(meaning.examples))
    return "\n".join(lines)


def region_names(regions: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, list[tuple[str, float]]]:
    """Region paths as names, by level; a city of another province than the leading one keeps its province."""
    home = regions["province"][0][0] if regions.get("province") else None
    return {
        level: [(city_name(path, home) if level == "city" else name_of(path, depth), share) for path, share in shares]
        for depth, level in enumerate(REGIONS, start=1)
        if (shares := regions.get(level))
    }


def _shares(pairs: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {_percent(share)}" for name, share in pairs)


def _percent(share: float) -> str:
    """Whole percent, never rounded up to 100 %."""
    return f"{min(share, 0.99) if share < 1 else 1:.0%}".replace("%", " %")


class TokenBook:
    """Meanings of all tokens in use, by level (from 1) and code."""

    def __init__(self, meanings: dict[int, dict[int, TokenMeaning]]) -> None:
        self.meanings = meanings

    def explain(self, codes: Sequence[int]) -> Explanation:
        """Meaning of a SID or of its first tokens."""
        tokens = [self.meanings.get(level, {}).get(code) for level, code in enumerate(codes, start=1)]
        return Explanation("-".join(map(str, codes)), tokens)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: level → code → meaning."""
        return {
            str(level): {str(code): asdict(meaning) for code, meaning in sorted(tokens.items())}
            for level, tokens in self.meanings.items()
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> TokenBook:
        """Read what `to_json` wrote."""
        return cls({
            int(level): {int(code): _meaning(token) for code, token in codes.items()} for level, codes in stored.items()
        })  # fmt: skip


def _meaning(stored: dict[str, Any]) -> TokenMeaning:
    """A meaning from JSON, in which tuples became lists."""
    pairs = {name: _pairs(stored[name]) for name in FACTS}
    regions = {level: _pairs(shares) for level, shares in stored["regions"].items()}
    lat_deg, lon_deg = stored["centre"]
    return TokenMeaning(**{**stored, **pairs, "regions": regions, "centre": (lat_deg, lon_deg)})


def _pairs(stored: Iterable[Sequence[Any]]) -> list[tuple[str, float]]:
    return [(str(value), float(share)) for value, share in stored]


def describe_tokens(
    items: pl.DataFrame, codes_NL: CodeArray, place_levels: frozenset[int] = frozenset({1})
) -> TokenBook:
    """Meanings of all tokens of a catalogue's codes; those of ``place_levels`` (from 1) are named by their region."""
    facts = fact_tables(items)
    return TokenBook({
        level: describe_with(items, column, facts, place=level in place_levels)
        for level, column in enumerate(codes_NL.T, start=1)
    })  # fmt: skip


def model_card(config: SidConfig, books: list[FloatArray], tokens: TokenBook) -> str:
    """The README.md that lies beside a saved tokeniser."""
    used = {level: len(codes) for level, codes in tokens.meanings.items()}
    biggest = sorted(tokens.meanings.get(1, {}).items(), key=lambda pair: -pair[1].items)[:5]
    lines = [
        f"# Semantic ID tokeniser ({config.method})",
        "",
        f"{len(books)} tokens of up to {max(len(book) for book in books)} codes each.",
        "",
        "```python",
        "from lgsid import load_tokenizer",
        'tokenizer = load_tokenizer("this/folder")',
        "codes_NL = tokenizer.transform(items, embeddings)",
        "```",
        "",
        "| level | codes in use |",
        "|--:|--:|",
        *(f"| {level} | {count} |" for level, count in used.items()),
        "",
        "Largest first tokens:",
        "",
        *(
            f"- `{code}` {meaning.label}: {meaning.items:,} items, radius {meaning.radius_km:.1f} km"
            for code, meaning in biggest
        ),
        "",
        "Files: `config.json` (options), `codebooks.safetensors` (`level_1` … and what else the method learned), "
        "`state.json` (the rest of it), `tokens.json` (meaning of every token).",
    ]
    return "\n".join(lines) + "\n"
