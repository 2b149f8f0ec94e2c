"""Tables of docs/tokenisers.md and the README: all tokenisers on all catalogues, from the cells of results/quality/."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache

from cells import Cell, cells, mean_sd, table

METHODS = {
    "hgit": "HGIT (default)",
    "two_stream": "two streams",
    "geo_grid": "geo-grid",
    "res_kmeans": "Res-KMeans",
    "rqvae": "RQ-VAE",
    "rqvae_ngram": "RQ-VAE-ngram",
    "unified": "Unified semantic + ID",
    "gnpr": "GNPR-SID",
    "random": "random codes",
}
"""Names in tables and figures, in their order: geographic ones, rivals without geography, the control."""
BLIND = ("gnpr",)
"""Methods whose codes do not depend on the vectors; they have cells with unaligned ones alone."""
EMBEDDINGS = ("unaligned", "aligned")
CATALOGUES = {"fsq": "fsq-nyc", "gowalla": "gowalla-nyc", "yelp": "yelp-3states"}
READ = ("city", "district", "main_category", "category")
"""Attributes whose probe is shown."""
Group = Sequence[Cell]
"""Figures of one method on one catalogue's vectors, by seed."""


@cache
def group(catalogue: str, embedding: str, method: str) -> Group:
    """Figures of the cells that are there."""
    return [cell["metrics"] for cell in cells("quality", f"{catalogue}-{embedding}-{method}-[0-9]*.json")]


def shown(catalogue: str, embedding: str, method: str) -> Group:
    """Figures of a method beside those of others; one that never looks at vectors has the same with any."""
    return group(catalogue, "unaligned" if method in BLIND else embedding, method)


def groups(catalogue: str) -> Iterator[tuple[str, str, Group]]:
    """Name of the method, vectors, figures; what has no cells is left out."""
    for method, name in METHODS.items():
        for embedding in EMBEDDINGS:
            if found := group(catalogue, embedding, method):
                yield name, embedding, found


def preferred(catalogue: str) -> str:
    """Vectors that stand for a catalogue where there is room for one kind: the aligned ones, where there are any."""
    return "aligned" if any(group(catalogue, "aligned", method) for method in METHODS) else "unaligned"


def at(figures: Cell, path: str) -> float | None:
    """A figure by its path, such as "prefixes.2.city"; None where the catalogue or the codes do not have it."""
    found = figures
    for key in path.split("."):
        if found is None:
            return None
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def over(found: Group, path: str, digits: int = 3) -> str:
    """Mean ± standard deviation over seeds, of those seeds that have the figure."""
    values = [value for figures in found if (value := at(figures, path)) is not None]
    return mean_sd(values, digits) if values else "–"


def means(found: Group, paths: Sequence[str], digits: int = 2) -> str:
    """Means over seeds of several figures, such as the three levels', in one column."""
    return " / ".join(over(found, path, digits).split(" ± ")[0] for path in paths)


def levels(figures: Cell) -> range:
    """Indices of the levels."""
    return range(len(figures["levels"]))


def codes(catalogue: str) -> str:
    """Collisions, use, reconstruction, cost."""
    rows = []
    for name, embedding, found in groups(catalogue):
        numbers = levels(found[0])
        least = min(level["utilisation"] for figures in found for level in figures["levels"])
        rows.append([
            name, embedding, str(len(found)), over(found, "collision_share"), over(found, "collision_unique"),
            f"{least:.0%}", means(found, [f"levels.{level}.perplexity" for level in numbers], 0),
            means(found, [f"levels.{level}.gini" for level in numbers]),
            over(found, f"reconstruction.relative_by_level.{numbers[-1]}"),
            over(found, "unique.extra_token.relative_error"), over(found, "unique.reassign.relative_error"),
            over(found, "moved_share"), _tokens(found),
            over(found, "fit_cpu_seconds", 0), over(found, "assign_cpu_seconds", 2), over(found, "peak_mib", 0),
        ])  # fmt: skip
    header = f"{catalogue} | vectors | seeds | raw collisions | 1 − distinct | least use | perplexity by level"
    header += " | Gini by level | error | error, extra token | error, reassigned | moved | tokens, reassigned"
    return table(header + " | fit CPU s | assign CPU s | peak MiB", rows)


def _tokens(found: Group) -> str:
    """Tokens of a SID that is made unique by reassignment; more than one number where seeds differ."""
    return " or ".join(str(number) for number in sorted({figures["unique"]["reassign"]["tokens"] for figures in found}))


def meaning(catalogue: str) -> str:
    """Prefix geography and meaning, what a probe reads, what changes; chance in the first row."""
    rows = []
    for name, embedding, found in groups(catalogue):
        if not rows:
            rows.append(_chance(found))
        lengths = [str(level + 1) for level in levels(found[0])]
        rows.append([
            name, embedding, str(len(found)),
            *(means(found, [f"prefixes.{length}.{level}" for length in lengths]) for level in ("city", "district")),
            means(found, [f"prefixes.{length}.mean_km" for length in lengths], 1),
            means(found, [f"prefixes.{length}.main_category" for length in lengths]),
            *(over(found, f"decodability.{label}.accuracy") for label in READ),
            *(
                f"{over(found, f'changed.{what}.levels.0', 2)} / {over(found, f'changed.{what}.sid', 2)}"
                for what in ("other_seed", "new_items")
            ),
        ])  # fmt: skip
    header = f"{catalogue} | vectors | seeds | same city, sharing 1 / 2 / 3 tokens | same district | km | same kind"
    header += " | reads city | district | kind | whole category | first token / SID changed by another seed"
    return table(header + " | … by 5 % new items", rows)


def _chance(found: Group) -> list[str]:
    """Random pairs, and always answering the commonest label."""
    random = [over(found, f"prefixes.random.{name}", 2) for name in ("city", "district", "mean_km", "main_category")]
    read = [over(found, f"decodability.{label}.majority") for label in READ]
    return ["chance", "–", "–", *random, *read, "–", "–"]


def headline() -> str:
    """One row a method: collisions on every catalogue, the rest on yelp."""
    chosen = "yelp-3states"
    vectors = {name: preferred(name) for name in CATALOGUES.values()}
    rows = []
    for method, name in METHODS.items():
        found = shown(chosen, vectors[chosen], method)
        if not found:
            continue
        collisions = [over(shown(other, vectors[other], method), "collision_share") for other in vectors]
        rows.append([
            name, *collisions, over(found, "unique.reassign.relative_error"),
            over(found, "prefixes.2.district", 2), over(found, "prefixes.2.main_category", 2),
            *(over(found, f"decodability.{label}.accuracy", 2) for label in ("city", "main_category")),
            over(found, "changed.new_items.levels.0", 2), over(found, "fit_cpu_seconds", 0),
        ])  # fmt: skip
    columns = [f"raw collisions {name} ({kind})" for name, kind in vectors.items()]
    header = " | ".join(
        ["method", *columns, f"error, unique ({chosen})", "2 tokens shared: same district", "same kind"]
    )
    return table(header + " | reads city | reads kind | first token changed by 5 % new items | fit CPU s", rows)


TABLES: dict[str, Callable[[], str]] = {
    "tokenisers": headline,
    **{f"codes-{short}": (lambda name=name: codes(name)) for short, name in CATALOGUES.items()},
    **{f"meaning-{short}": (lambda name=name: meaning(name)) for short, name in CATALOGUES.items()},
}
