"""What a token stands for, in words: its region, leading categories, brands and words, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from lgsid.arrays import CodeArray, FloatArray
from lgsid.data.labels import SEPARATORS
from lgsid.errors import DataError
from lgsid.geo import centre_deg, haversine_km

if TYPE_CHECKING:
    from lgsid.artifact import RunFolder
    from lgsid.config import SidConfig

REGION_LEVELS = ("province", "city", "district")
SHOWN = 5
"""How many categories, brands, words and examples are kept per token."""
LEADING_SHARE = 0.3
"""A region names a token's label when it holds at least this share of the token's items."""
FACTS = ("categories", "brands", "words")
"""What is counted besides places."""
COMMON_WORD = 5
"""Title words in fewer items than this say nothing about a token."""


@dataclass(frozen=True)
class TokenMeaning:
    """What one token stands for.

    Attributes:
        label: short name ("Phoenix, AZ · 85004" or "Mexican, Restaurants").
        items: number of items with this token.
        centre: latitude and longitude in degrees of the centre of its items.
        radius_km: root-mean-square distance of its items to the centre.
        region_share: by region level, the share of items in the commonest region: how sure the place is.
        categories, brands, words: the most characteristic ones with the share of items that have them.
        examples: titles of some items.
    """

    label: str
    items: int
    centre: tuple[float, float]
    radius_km: float
    region_share: dict[str, float] = field(default_factory=dict)
    categories: list[tuple[str, float]] = field(default_factory=list)
    brands: list[tuple[str, float]] = field(default_factory=list)
    words: list[tuple[str, float]] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    def text(self, place: bool) -> str:
        """In words; a token that refines content is spread over the map, so its place is left out."""
        lat, lon = self.centre
        where = f", centre {lat:.4f}, {lon:.4f}, radius {self.radius_km:.1f} km" if place else ""
        lines = [f"{self.label}  ({self.items:,} items{where})"]
        if place and self.region_share:
            lines.append("    same region: " + _shares(self.region_share.items()))
        lines.extend(f"    {name}: {_shares(shares)}" for name in FACTS if (shares := getattr(self, name)))
        if self.examples:
            lines.append("    examples: " + "; ".join(self.examples))
        return "\n".join(lines)


def _shares(pairs: Iterable[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in pairs)


@dataclass(frozen=True)
class Explanation:
    """What a SID, or the first tokens of one, means.

    Attributes:
        sid: text form ("12-7-255").
        tokens: meaning of each token in order; None for a token that no item has, or an extra token.
        item: the item asked for, where an item was asked for.
    """

    sid: str
    tokens: list[TokenMeaning | None]
    item: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "sid": self.sid,
            "item": self.item,
            "tokens": [asdict(token) if token else None for token in self.tokens],
        }

    def __str__(self) -> str:
        lines = [f"SID {self.sid}" + (f" = {self.item['title']} (item {self.item['item_id']})" if self.item else "")]
        for level, (code, token) in enumerate(zip(self.sid.split("-"), self.tokens, strict=True), start=1):
            meaning = token.text(place=level == 1) if token else "tells apart items that share the tokens before it"
            lines.append(f"  token {level} = {code}: {meaning}")
        return "\n".join(lines)


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
    pairs = {name: [(str(value), float(share)) for value, share in stored[name]] for name in FACTS}
    lat_deg, lon_deg = stored["centre"]
    return TokenMeaning(**{**stored, **pairs, "centre": (lat_deg, lon_deg)})


def describe_tokens(items: pl.DataFrame, codes_NL: CodeArray) -> TokenBook:
    """Meanings of all tokens of a catalogue's codes."""
    facts = {
        "categories": _categories(items),
        "brands": _single(items, "brand"),
        "words": _words(items),
    }
    levels = range(codes_NL.shape[1])
    return TokenBook({n + 1: _describe_level(items, codes_NL[:, n], facts, place=n == 0) for n in levels})


def _describe_level(
    items: pl.DataFrame, codes_N: CodeArray, facts: dict[str, pl.DataFrame], place: bool
) -> dict[int, TokenMeaning]:
    shares = {name: _characteristic(table, codes_N) for name, table in facts.items()}
    lat, lon = items["lat_deg"].to_numpy(), items["lon_deg"].to_numpy()
    order = np.argsort(codes_N, kind="stable")
    meanings = {}
    for rows in np.split(order, np.flatnonzero(np.diff(codes_N[order])) + 1):
        code = int(codes_N[rows[0]])
        own = {name: table.get(code, []) for name, table in shares.items()}
        region_share, region_label = _region(items, rows)
        centre = centre_deg(lat[rows], lon[rows])
        meanings[code] = TokenMeaning(
            label=region_label if place and region_label else _content_label(own),
            items=len(rows),
            centre=(round(centre[0], 5), round(centre[1], 5)),
            radius_km=round(float(np.sqrt((haversine_km(lat[rows], lon[rows], *centre) ** 2).mean())), 3),
            region_share=region_share,
            examples=_examples(items, rows),
            **own,
        )
    return meanings


def _content_label(own: dict[str, list[tuple[str, float]]]) -> str:
    for name in FACTS:
        if own[name]:
            return ", ".join(value for value, _ in own[name][:3])
    return "mixed"


def _region(items: pl.DataFrame, rows: np.ndarray[Any, Any]) -> tuple[dict[str, float], str]:
    """Share of the commonest region by level, and a label made of the regions that lead."""
    share: dict[str, float] = {}
    names: dict[str, str] = {}
    for level in REGION_LEVELS:
        known = items[level].gather(rows).drop_nulls() if level in items.columns else pl.Series([], dtype=pl.String)
        if len(known):
            top = known.value_counts().sort(["count", level], descending=[True, False])
            share[level] = round(top["count"][0] / len(rows), 4)
            leading = top.filter(pl.col("count") >= LEADING_SHARE * len(rows))[level].to_list()[:2]
            names[level] = " / ".join(leading)
    label = ", ".join(name for level in ("city", "province") if (name := names.get(level)))
    return share, " · ".join(part for part in (label, names.get("district", "")) if part)


def _examples(items: pl.DataFrame, rows: np.ndarray[Any, Any]) -> list[str]:
    """Distinct titles, spread evenly over the token's items."""
    picked = rows[np.linspace(0, len(rows) - 1, min(len(rows), 4 * SHOWN)).astype(int)]
    return list(dict.fromkeys(items["title"].gather(picked).drop_nulls().to_list()))[:SHOWN]


def _single(items: pl.DataFrame, column: str) -> pl.DataFrame:
    """(row, value) of a column; no rows where it is absent."""
    if column not in items.columns:
        return pl.DataFrame(schema={"row": pl.UInt32, "value": pl.String})
    return items.select(pl.col(column).alias("value")).with_row_index("row").drop_nulls("value")


def _categories(items: pl.DataFrame) -> pl.DataFrame:
    """(row, value) for the leaf of every category of every item."""
    listed = _single(items, "category").with_columns(pl.col("value").str.replace_all(SEPARATORS, "|").str.split("|"))
    leaf = pl.col("value").str.split(">").list.last().str.strip_chars()
    return (
        listed.explode("value", empty_as_null=True).with_columns(leaf).drop_nulls("value").unique(maintain_order=True)
    )


def _words(items: pl.DataFrame) -> pl.DataFrame:
    """(row, value) for the words of the titles that occur in several items."""
    words = pl.col("value").str.to_lowercase().str.extract_all(r"[\p{L}][\p{L}'’]{2,}")
    table = _single(items, "title").with_columns(words).explode("value", empty_as_null=True).drop_nulls("value")
    return table.unique(maintain_order=True).filter(pl.len().over("value") >= COMMON_WORD)


def _characteristic(table: pl.DataFrame, codes_N: CodeArray) -> dict[int, list[tuple[str, float]]]:
    """The values that set each code apart, best first: by share · log(share in the code / share overall)."""
    if len(table) == 0:
        return {}
    sizes = pl.DataFrame({"code": codes_N}).group_by("code").agg(pl.len().alias("size"))
    overall = table.group_by("value").agg((pl.len() / len(codes_N)).alias("overall"))
    ranked = (
        table.with_columns(pl.Series("code", codes_N).gather(table["row"]))
        .group_by("code", "value").agg(pl.len().alias("count"))
        .join(sizes, on="code").join(overall, on="value")
        .with_columns((pl.col("count") / pl.col("size")).alias("share"))
        .with_columns((pl.col("share") * (pl.col("share") / pl.col("overall")).log()).alias("score"))
        .filter((pl.col("score") > 0) & ((pl.col("count") > 1) | (pl.col("size") == 1)))
        .sort(["code", "score", "value"], descending=[False, True, False])
        .group_by("code", maintain_order=True).head(SHOWN)
    )  # fmt: skip
    found: dict[int, list[tuple[str, float]]] = {}
    for code, value, share in ranked.select("code", "value", "share").iter_rows():
        found.setdefault(int(code), []).append((value, round(share, 4)))
    return found


def model_card(method: str, config: SidConfig, books: list[FloatArray], tokens: TokenBook) -> str:
    """The README.md that lies beside a saved tokeniser."""
    used = {level: len(codes) for level, codes in tokens.meanings.items()}
    biggest = sorted(tokens.meanings.get(1, {}).items(), key=lambda pair: -pair[1].items)[:5]
    lines = [
        f"# Geographic semantic ID tokeniser ({method})",
        "",
        f"{config.levels} tokens of {config.codes} codes each, for embeddings of {books[0].shape[1]} dimensions.",
        "The first token is a place, the further ones refine what the item is.",
        "",
        "```python",
        "from lgsid import HierarchicalTokenizer",
        'tokenizer = HierarchicalTokenizer.from_pretrained("this/folder")',
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
        "Files: `config.json` (options), `regions.json` (centres and spreads behind the first token's features), "
        "`codebooks.safetensors` (`level_1` … and `regions_KF`), `tokens.json` (meaning of every token).",
    ]
    return "\n".join(lines) + "\n"


def explain_in_run(run: RunFolder, what: str) -> Explanation:
    """Explain a SID, a prefix of one, or an item of a run.

    Args:
        run: a run folder with a finished stage 3.
        what: "12-7-255", "12-7", or an item id. An item id wins where both would fit.

    Raises:
        ArtifactError: the run has no SIDs yet.
        DataError: no such item or SID.
    """
    from lgsid.artifact import read_json

    fix = f"lgsid tokenize {run.root}"
    sids = pl.read_parquet(run.require("3_sid", "sids.parquet", fix))
    tokens = TokenBook.from_json(read_json(run.require("3_sid", "tokenizer/tokens.json", fix)))
    found = sids.filter(pl.col("item_id") == what)
    if len(found):
        items = pl.read_parquet(run.require("1_data", "items.parquet", fix)).filter(pl.col("item_id") == what)
        explanation = tokens.explain([int(code) for code in found["sid"][0].split("-")])
        return Explanation(explanation.sid, explanation.tokens, items.row(0, named=True))
    parts = what.split("-")
    known = sids.filter((pl.col("sid") == what) | pl.col("sid").str.starts_with(what + "-"))
    if not all(part.isdecimal() for part in parts) or len(known) == 0:
        message = f"{what!r} is neither an item id nor a SID, nor the beginning of one, in {run.root}"
        raise DataError(message, "look into 3_sid/sids.parquet")

    return tokens.explain([int(part) for part in parts])
