"""The embeddings: do items that they hold for alike lie near each other?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgsid.data.labels import REGIONS
from lgsid.evaluate.charts import neighbour_chart
from lgsid.evaluate.document import Block, Code, Figure, Section, Table, kilometres, percent, table, text
from lgsid.evaluate.neighbours import SHARES
from lgsid.evaluate.results import Results

_NAMES = {
    "province": "same province",
    "city": "same city",
    "district": "same district",
    "category_root": "same top category",
    "category": "same category",
}


def embedding_section(results: Results, geography: Mapping[str, Any]) -> Section:
    """Neighbour geography P/C/T@K as a table and a chart."""
    sampled = geography["queries"] < geography["items"]
    searched = f"a sample of {geography['queries']:,} items" if sampled else f"all {geography['items']:,} items"
    blocks: list[Block] = [
        text(
            *_made_by(results),
            f". For {searched} the K items of the highest cosine similarity were searched among all items, and it was "
            "counted how many of them lie in the same province, city and district (P@K, C@K and T@K in the LGSID "
            "paper). Regions are compared by their whole path, so that districts of the same name in two cities are "
            "not the same. Random pairs show what chance alone would give.",
        ),
        _neighbour_table(geography),
        *_unknown(geography),
    ]  # fmt: skip
    known = [(level, level) for level in REGIONS if geography["random"][level] is not None]
    if known:
        k, at = next(iter(geography["at"].items()))
        words = ", ".join(f"{percent(at[level])} in the same {level}" for level, _ in known)
        blocks.append(Figure(
            "neighbours", neighbour_chart(geography, known),
            "Share of the K nearest neighbours in the item's own province, city and district; dotted: random pairs.",
            f"Line chart of neighbour shares by K. Of the {k} nearest neighbours {words}.",
        ))  # fmt: skip
    return Section("embedding", "Embeddings: nearest neighbours on the map", tuple(blocks))


def _made_by(results: Results) -> list[str | Code]:
    """What made the embeddings; an aligned encoder goes by the name of what was aligned, not by its folder's."""
    after = "" if results.alignment is None else " after alignment"
    made = results.manifests.get("2_align", {}).get("metrics", {})
    return ["Encoder ", Code(str(made.get("encoder", results.encoder))), f"{after}, prompt ", Code(results.prompt)]


def _neighbour_table(geography: Mapping[str, Any]) -> Table:
    shares = [name for name in SHARES if geography["random"][name] is not None]
    everything = [*geography["at"].values(), geography["random"]]
    if all(figures["category_root"] == figures["category"] for figures in everything):  # categories without levels
        shares = [name for name in shares if name != "category_root"]
    rows = [
        [label, *(percent(figures[name]) for name in shares), kilometres(figures["distance_km"])]
        for label, figures in [
            *((f"K = {k}", at) for k, at in geography["at"].items()),
            ("random", geography["random"]),
        ]
    ]
    columns = ["neighbours", *(_NAMES[name] for name in shares), "mean distance"]
    return table("Nearest neighbours by cosine similarity", columns, rows, columns[1:])


def _unknown(geography: Mapping[str, Any]) -> list[Block]:
    unknown = {name: count for name, count in geography["unknown_queries"].items() if count}
    if not unknown:
        return []
    parts = ", ".join(f"{name.replace('category_root', 'top category')} {count:,}" for name, count in unknown.items())
    return [
        text(
            f"Items whose own value is unknown are left out of that column ({parts}); a neighbour whose value is "
            "unknown counts as different."
        )
    ]
