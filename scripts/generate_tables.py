"""Tables of docs/generate.md and the README: generators behind all tokenisers, from the cells of results/table2/.

Nothing is left out: what has no cell is a dash. Cells with a label are variants of a configuration and stand in a table
of their own.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from cells import Cell, cells, mean_sd, table

METHODS = {
    "random": "random codes",
    "res_kmeans": "Res-KMeans",
    "rqvae": "RQ-VAE, RQ-VAE-ngram",
    "unified": "Unified semantic + ID",
    "gnpr": "GNPR-SID",
    "geo_grid": "geo-grid",
    "hgit_unaligned": "HGIT, unaligned",
    "lgsid": "LGSID (aligned + HGIT)",
}
"""Names in tables and figures, in their order: the control, rivals, LGSID without alignment, LGSID."""
RIVALS = [method for method in METHODS if method not in ("random", "hgit_unaligned", "lgsid")]
"""Other tokenisers."""
OVER = {"the best rival": RIVALS, "the best published one": [method for method in RIVALS if method != "geo_grid"]}
"""What LGSID is compared with: geo-grid is a control of ours, and the paper's gain is over published tokenisers."""
WRITERS = {"tiger": "TIGER", "onerec": "OneRec"}
BESIDE = {
    "sasrec": "SASRec",
    "popular_within_reach": "popular within reach",
    "popular_nearby": "popular nearby",
    "item_co_visits": "item co-visits",
    "revisit": "visited before",
}
"""Recommenders without codes."""
DATASETS = ("gowalla-nyc", "fsq-nyc")
PROTOCOLS = {"global_time": "after a moment", "leave_one_out": "leave one out"}
MODES = {"catalogue": "", "reachable": ", reachable-first", "new": ", new places"}
SEEDS = 3
MISSING = "–"

ACCURACY = ("catalogue/all/hit@1", "catalogue/all/hit@5")
PUBLISHED_NYC = (
    ("GETNext (SIGIR 2022)", 24.35, 50.89),
    ("STHGCN (SIGIR 2023)", 27.34, 53.61),
    ("LLM4POI (SIGIR 2024)", 33.72, 39.82),
    ("GNPR-SID (KDD 2025)", 36.18, 44.72),
)
"""Acc@1 and Acc@5 in percent, as a public comparison lists them; not checked against each paper."""


@cache
def everything() -> tuple[Cell, ...]:
    """All cells."""
    return tuple(cell for cell in cells("table2") if cell["experiment"] == "table2")


def group(dataset: str, protocol: str, model: str, method: str = "none", label: str = "") -> list[Cell]:
    """Cells of one row by seed."""
    wanted = (dataset, protocol, model, method, label)
    keys = ("dataset", "protocol", "model", "method", "label")
    return sorted(
        (cell for cell in everything() if tuple(cell[key] for key in keys) == wanted), key=lambda cell: cell["seed"]
    )


def at(cell: Cell, path: str) -> float | None:
    """A figure by its path, such as "catalogue/all/hit@5"; None where it is not defined."""
    found: Any = cell["metrics"]
    for key in path.split("/"):
        found = None if found is None else found.get(key)
    return found


def values(found: Sequence[Cell], path: str) -> list[float]:
    """A figure of several seeds."""
    return [value for cell in found if (value := at(cell, path)) is not None]


def shown(found: Sequence[Cell], path: str) -> str:
    """Mean ± standard deviation over seeds in percent, and how many they are where some are missing."""
    known = [100 * value for value in values(found, path)]
    if not known:
        return MISSING
    trained = found[0]["model"] in WRITERS or found[0]["model"] == "sasrec"
    return mean_sd(known, 2) + (f" ({len(known)})" if trained and len(known) < SEEDS else "")


def rows_of(model: str) -> list[tuple[str, str, str]]:
    """Model, method and name of the rows of a table: the codes behind a generator, then what knows no codes."""
    return [(model, method, name) for method, name in METHODS.items()] + [
        (beside, "none", f"*{name}*") for beside, name in BESIDE.items()
    ]


def block(dataset: str, protocol: str, model: str, mode: str = "catalogue") -> str:
    """One table: a row a tokeniser."""
    columns = {"Hit@5": "all/hit@5", "NDCG@5": "all/ndcg@5", "Hit@10": "all/hit@10", "NDCG@10": "all/ndcg@10"}
    if mode != "new":  # where all requests are first visits
        columns |= {"Hit@5 revisits": "revisits/hit@5", "Hit@5 first visits": "first_visits/hit@5"}
    paths = [f"{mode}/{path}" for path in columns.values()]
    rows = []
    for of, method, name in rows_of(model):
        found = group(dataset, protocol, of, method)
        rows.append([name, *(shown(found, path) for path in paths)])
    best = [_best(dataset, protocol, model, path) for path in paths]
    for row, (_, method, _) in zip(rows, rows_of(model), strict=True):
        for place, winner in enumerate(best, start=1):
            if method == winner:
                row[place] = f"**{row[place]}**"
    title = f"{dataset}, {PROTOCOLS[protocol]}, {WRITERS[model]}{MODES[mode]}"
    return table(" | ".join([title, *columns]), rows)


def _best(dataset: str, protocol: str, model: str, path: str) -> str | None:
    found = {
        method: statistics.fmean(known)
        for method in METHODS
        if (known := values(group(dataset, protocol, model, method), path))
    }
    return max(found, key=lambda method: found[method]) if len(found) > 1 else None


def begun() -> list[tuple[str, str, str]]:
    """Datasets, protocols and generators with cells; the first of each where there are none."""
    keys = [(dataset, protocol, model) for protocol in PROTOCOLS for dataset in DATASETS for model in WRITERS]
    found = [key for key in keys if any(group(*key, method) for method in METHODS)]
    return found or keys[:1]


def whole() -> str:
    """Everything on the whole catalogue."""
    return "\n\n".join(block(*key) for key in begun())


def reachable() -> str:
    """Everything among what is in reach."""
    return "\n\n".join(block(*key, mode="reachable") for key in begun())


def new_places() -> str:
    """First visits, among what is in reach and the user has never visited."""
    there = [key for key in begun() if _asked(key, "new")]
    return "\n\n".join(block(*key, mode="new") for key in there or begun()[:1])


def beyond() -> str:
    """What cannot be reached, and what does not exist, without and with the masks."""
    rows = []
    for dataset, protocol, model in begun():
        found = group(dataset, protocol, model, "lgsid")
        rows.append([
            f"{dataset}, {PROTOCOLS[protocol]}, {WRITERS[model]}",
            *(shown(found, path) for path in (
                "invalid_share_without_trie", "catalogue/unreachable_share", "reachable/unreachable_share",
                "target_within_reach_share", "catalogue/all/hit@5", "reachable/all/hit@5",
            )),
        ])  # fmt: skip
    header = "LGSID, percent | no item, without trie | beyond reach, whole catalogue | beyond reach, reachable-first"
    return table(header + " | targets in reach | Hit@5, whole catalogue | Hit@5, reachable-first", rows)


def gain(dataset: str, protocol: str, model: str, path: str, rivals: Sequence[str]) -> tuple[float, str] | None:
    """How far LGSID's mean lies above the best rival's, as a share of it, and which rival that is."""
    mine = values(group(dataset, protocol, model, "lgsid"), path)
    found = {
        method: statistics.fmean(known)
        for method in rivals
        if (known := values(group(dataset, protocol, model, method), path))
    }
    if not mine or not found:
        return None
    best = max(found, key=lambda method: found[method])
    return statistics.fmean(mine) / found[best] - 1, METHODS[best]


def gains() -> str:
    """LGSID above the best other tokeniser."""
    paths = ("catalogue/all/hit@5", "catalogue/all/ndcg@5", "catalogue/first_visits/hit@5", "new/all/hit@5")
    rows = []
    for key, (name, rivals) in itertools.product(begun(), OVER.items()):
        found = [gain(*key, path, rivals) for path in paths]
        texts = [MISSING if one is None else f"{one[0]:+.1%} ({one[1]})" for one in found]
        rows.append([f"{key[0]}, {PROTOCOLS[key[1]]}, {WRITERS[key[2]]}", name, *texts])
    return table("LGSID above … | … | Hit@5 | NDCG@5 | Hit@5, first visits | Hit@5, new places", rows)


def short() -> str:
    """Hit@5 of everything side by side: all requests on the whole catalogue, and first visits among new places."""
    across = [
        (key, mode) for key in begun() for mode in ("catalogue", "new") if mode == "catalogue" or _asked(key, mode)
    ]
    rows = []
    for method, name in METHODS.items():
        rows.append([name, *(_mean(group(*key, method), mode) for key, mode in across)])
    for beside, name in BESIDE.items():
        rows.append([f"*{name}*", *(_mean(group(key[0], key[1], beside), mode) for key, mode in across)])
    names = [f"{key[0].split('-')[0]} {WRITERS[key[2]]}, {PROTOCOLS[key[1]]}{MODES[mode]}" for key, mode in across]
    return table(" | ".join(["Hit@5, percent", *names]), rows)


def _asked(key: tuple[str, str, str], mode: str) -> bool:
    """Whether any generator was asked in a mode."""
    return any(values(group(*key, method), f"{mode}/all/hit@5") for method in METHODS)


def _mean(found: Sequence[Cell], mode: str) -> str:
    known = values(found, f"{mode}/all/hit@5")
    return f"{100 * statistics.fmean(known):.1f}" if known else MISSING


def variants() -> str:
    """Cells with a label beside those without one of the same seeds."""
    figures = ("catalogue/all/hit@5", "catalogue/first_visits/hit@5", "new/all/hit@5")
    keys = ("label", "dataset", "protocol", "model", "method")
    found = dict.fromkeys(tuple(cell[key] for key in keys) for cell in everything() if cell["label"])
    order = {method: place for place, method in enumerate(METHODS)}
    rows = []
    for label, dataset, protocol, model, method in sorted(found, key=lambda row: (row[:4], order.get(row[4], 0))):
        varied = group(dataset, protocol, model, method, label)
        seeds = {cell["seed"] for cell in varied}
        same = [cell for cell in group(dataset, protocol, model, method) if cell["seed"] in seeds]
        name = f"{dataset}, {PROTOCOLS.get(protocol, protocol)}, {WRITERS.get(model, model)}"
        pairs = [shown(some, figure) for figure in figures for some in (varied, same)]
        rows.append([label, name, METHODS.get(method, method), *pairs])
    head = "variant | of | codes | Hit@5 | as shipped | first visits | as shipped | new places | as shipped"
    return table(head, rows or [["none yet", *[MISSING] * 8]])


def next_poi() -> str:
    """Acc@1 and Acc@5 in Foursquare NYC as the papers on the next POI take them, and what these published."""
    dataset, rows = "fsq-nyc", []
    for model in WRITERS:
        for of, method, name in rows_of(model)[: len(METHODS)]:
            if found := group(dataset, "next_poi", of, method):
                rows.append([f"{WRITERS[model]}, {name}", *(shown(found, path) for path in ACCURACY)])
    for beside, name in BESIDE.items():
        if found := group(dataset, "next_poi", beside):
            rows.append([f"*{name}*", *(shown(found, path) for path in ACCURACY)])
    rows += [[f"published: {name}", f"{first:.2f}", f"{fifth:.2f}"] for name, first, fifth in PUBLISHED_NYC]
    return table("Foursquare NYC, next POI, percent | Acc@1 | Acc@5", rows)


TABLES: dict[str, Callable[[], str]] = {
    "table2": whole,
    "table2-reachable": reachable,
    "table2-new": new_places,
    "table2-beyond": beyond,
    "table2-gain": gains,
    "table2-short": short,
    "table2-next-poi": next_poi,
    "table2-variants": variants,
}
