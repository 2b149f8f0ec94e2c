"""Tables of docs/rank.md and the README: all rankers behind all tokenisers, from the cells of results/table1/.

A column is a ranker trained on all requests, or on so many random ones, never a mixture: what stands in one column has
been trained alike. Nothing is left out: what has no cell is a dash.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import cache

from cells import Cell, cells, mean_sd, table

METHODS = {
    "id": "ID only",
    "random": "random codes",
    "res_kmeans": "Res-KMeans",
    "rqvae": "RQ-VAE",
    "unified": "Unified semantic + ID",
    "rqvae_ngram": "RQ-VAE-ngram",
    "gnpr": "GNPR-SID",
    "geo_grid": "geo-grid",
    "res_kmeans_aligned": "Res-KMeans, aligned",
    "hgit_unaligned": "HGIT, unaligned",
    "lgsid": "LGSID (aligned + HGIT)",
}
"""Names in tables and figures, in their order: no codes, the control, rivals, parts of LGSID, all of it."""
BESIDE = {
    "first_token": "HGIT's first token alone",
    "id+labels": "ID, category, brand",
    "lgsid+labels": "LGSID, category, brand",
}
"""Less or more than codes, where there are such cells; out of the running for the best of a column."""
BASELINES = {
    "popular_within_reach": "popular within reach",
    "popular_nearby": "popular nearby",
    "item_co_visits": "item co-visits",
    "revisit": "visited before",
}
"""Scores without training; they have one figure, whatever the ranker."""
MODELS = {"din": "DIN", "dien": "DIEN", "sim": "SIM", "twin": "TWIN", "eta": "ETA"}
DATASETS = ("gowalla-nyc", "fsq-nyc")
SEEDS = 3
"""Seeds of a finished cell; where there are fewer, their number stands behind the figure."""
MISSING = "–"
Column = tuple[str, int | None]
"""A ranker, and the requests that it was trained on; None: all of them."""


@cache
def grid(dataset: str) -> tuple[Cell, ...]:
    """All cells of a dataset that hold figures of a ranker or a baseline."""
    return tuple(cell for cell in cells("table1", f"{dataset}-*.json") if cell["experiment"] == "table1")


def group(dataset: str, column: Column, method: str, distance: bool = False) -> list[Cell]:
    """Cells of one method by seed; those of a baseline whatever the column."""
    if method in BASELINES:
        return [cell for cell in grid(dataset) if cell["model"] == "none" and cell["method"] == method]
    wanted = (*column, method, distance)
    found = [
        cell
        for cell in grid(dataset)
        if (cell["model"], cell["most_requests"], cell["method"], cell["distance"]) == wanted
    ]
    return sorted(found, key=lambda cell: cell["seed"])


def columns(dataset: str, distance: bool = False) -> list[Column]:
    """One column for each ranker, or for each number of requests that it was trained on."""
    found: list[Column] = []
    for model in MODELS:
        sizes = {
            cell["most_requests"] for cell in grid(dataset) if cell["model"] == model and cell["distance"] == distance
        }
        found += [(model, most) for most in sorted(sizes or {None}, key=lambda most: (most is not None, most or 0))]
    return found


def heading(column: Column) -> str:
    """Name of a column; says where a ranker was trained on a part of the requests."""
    model, most = column
    return MODELS[model] if most is None else f"{MODELS[model]}, trained on {most:,} requests"


def at(cell: Cell, path: str) -> float | None:
    """A figure by its path, such as "first_visits.auc"; None where it is not defined."""
    found = cell["metrics"]
    for key in path.split("."):
        found = None if found is None else found.get(key)
    return found


def values(found: Sequence[Cell], path: str) -> list[float]:
    """A figure of several seeds."""
    return [value for cell in found if (value := at(cell, path)) is not None]


def shown(found: Sequence[Cell], path: str, digits: int = 4) -> str:
    """Mean ± standard deviation over seeds, and how many they are where some are missing."""
    known = values(found, path)
    if not known:
        return MISSING
    trained = found[0]["model"] != "none"
    return mean_sd(known, digits) + (f" ({len(known)})" if trained and len(known) < SEEDS else "")


def rows_of(dataset: str, distance: bool = False) -> Iterator[tuple[str, str]]:
    """Methods with their names: baselines and methods always, those with labels where there are any."""
    yield from BASELINES.items()
    yield from METHODS.items()
    there = {cell["method"] for cell in grid(dataset) if cell["distance"] == distance}
    yield from ((method, name) for method, name in BESIDE.items() if method in there)


def block(dataset: str, path: str, title: str, distance: bool = False) -> str:
    """One table: a row a method, a column a ranker, the best of each column bold."""
    across = columns(dataset, distance)
    best = {column: _best(dataset, column, path, distance) for column in across}
    rows = []
    for method, name in rows_of(dataset, distance):
        texts = []
        for column in across:
            text = shown(group(dataset, column, method, distance), path)
            texts.append(f"**{text}**" if method == best[column] else text)
        rows.append([f"*{name}*" if method in BASELINES else name, *texts])
    return table(" | ".join([title, *map(heading, across)]), rows)


def _best(dataset: str, column: Column, path: str, distance: bool) -> str | None:
    """The method of the highest mean, where there is something to compare."""
    found = {
        method: statistics.fmean(known)
        for method in METHODS
        if (known := values(group(dataset, column, method, distance), path))
    }
    return max(found, key=lambda method: found[method]) if len(found) > 1 else None


def distances(dataset: str) -> list[bool]:
    """Without distance features, and with them where there are such cells."""
    return [False, *([True] if any(cell["distance"] for cell in grid(dataset)) else [])]


def _blocks(paths: dict[str, str]) -> str:
    found = []
    for dataset in DATASETS:
        for distance in distances(dataset):
            for path, name in paths.items():
                title = ", ".join(part for part in (dataset, name, "with distances" if distance else "") if part)
                found.append(block(dataset, path, title, distance))
    return "\n\n".join(found)


def whole() -> str:
    """AUC of everything, a table a dataset, without and with distance features."""
    return _blocks({"auc": ""})


def novel() -> str:
    """AUC on first visits and on items that nobody visited in the training period."""
    return _blocks({"first_visits.auc": "first visits", "cold.auc": "cold items"})


# --- LGSID less every other method, with intervals --------------------------------------------------------------------
@cache
def compared(dataset: str) -> tuple[Cell, ...]:
    """What the bootstrap found, without and with distances, by ranker."""
    found = cells("table1", f"{dataset}-*-compared.json")
    return tuple(sorted(found, key=lambda cell: (
        cell["distance"], list(MODELS).index(cell["model"]), cell["most_requests"] or 0
    )))  # fmt: skip


def interval(difference: Cell | None) -> str:
    """A difference with its interval."""
    if difference is None:
        return MISSING
    return f"{difference['difference']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def gains() -> str:
    """LGSID less each other method, on all requests and on first visits."""
    parts = {"all": "all requests", "first_visits": "first visits"}
    found = []
    for dataset in DATASETS:
        for distance in distances(dataset):
            there = [cell for cell in compared(dataset) if cell["distance"] == distance]
            found += [_gain_block(dataset, part, name, distance, there) for part, name in parts.items()]
    return "\n\n".join(found)


def _gain_block(dataset: str, part: str, name: str, distance: bool, there: Sequence[Cell]) -> str:
    """One table; a single column of dashes where nothing has been compared yet."""
    title = f"{dataset}, {name}{', with distances' if distance else ''}: LGSID less …"
    headings = [heading((cell["model"], cell["most_requests"])) for cell in there] or ["all rankers"]
    rows = [
        [other, *([interval(cell["metrics"][part].get(method)) for cell in there] or [MISSING])]
        for method, other in METHODS.items()
        if method != "lgsid"
    ]
    return table(" | ".join([title, *headings]), rows)


# --- The README's -----------------------------------------------------------------------------------------------------
def fullest(dataset: str, model: str, distance: bool = False) -> Column:
    """The column of a ranker that has most cells; of equals, that of most requests."""
    mine = [column for column in columns(dataset, distance) if column[0] == model]

    def order(column: Column) -> tuple[int, float]:
        there = sum(len(group(dataset, column, method, distance)) for method in METHODS)
        return there, float("inf") if column[1] is None else column[1]

    return max(mine, key=order)


def gained(dataset: str, column: Column, method: str, distance: bool = False) -> list[float]:
    """AUC of a method less that of the ID alone, of each seed that both have."""
    base = {cell["seed"]: at(cell, "auc") for cell in group(dataset, column, "id", distance)}
    pairs = [(at(cell, "auc"), base.get(cell["seed"])) for cell in group(dataset, column, method, distance)]
    return [auc - other for auc, other in pairs if auc is not None and other is not None]


def short() -> str:
    """Means of both datasets side by side without distances, and how far seeds are apart."""
    everything = [(dataset, fullest(dataset, model)) for dataset in DATASETS for model in MODELS]
    begun = [place for place in everything if all(group(*place, method) for method in ("id", "lgsid"))]
    across = begun or everything
    rows = []
    for method, name in (BASELINES | METHODS).items():
        known = [values(group(dataset, column, method), "auc") for dataset, column in across]
        rows.append([
            f"*{name}*" if method in BASELINES else name,
            *(f"{statistics.fmean(found):.3f}" if found else MISSING for found in known),
        ])  # fmt: skip
    for distance, ending in ((False, ""), (True, ", with distances")):
        known = [
            gained(dataset, fullest(dataset, column[0], distance), "lgsid", distance) for dataset, column in across
        ]
        if any(known) or not distance:
            rows.append([f"LGSID less ID only{ending}", *(f"{statistics.fmean(found):+.3f}" if found else MISSING
                                                          for found in known)])  # fmt: skip
    names = [
        f"{dataset.split('-')[0]} {MODELS[column[0]]}{'' if column[1] is None else '*'}" for dataset, column in across
    ]
    rest = len(everything) - len(across)
    left_out = (
        f" {rest} of {len(everything)} pairs of dataset and ranker lack cells of ID or LGSID and are left out."
        if rest
        else ""
    )
    return table(" | ".join(["AUC", *names]), rows) + "\n\n" + _footnote(across) + left_out


def _footnote(across: Sequence[tuple[str, Column]]) -> str:
    """Seeds, their spread, and what the stars mean, for the cells that are there."""
    groups = [group(dataset, column, method) for dataset, column in across for method in METHODS]
    seeds = sorted({len(found) for found in groups if found})
    spreads = [statistics.stdev(known) for found in groups if len(known := values(found, "auc")) > 1]
    words = f"Means over {_span(seeds)} seed{'s' if seeds and seeds[-1] > 1 else ''}" if seeds else "No cells yet"
    if spreads:
        words += f"; standard deviation over seeds {statistics.median(spreads):.4f} (median), "
        words += f"at most {max(spreads):.4f}"
    parts = sorted({column[1] for _, column in across if column[1] is not None})
    if parts:
        words += f". * trained on {' or '.join(f'{most:,}' for most in parts)} random requests"
    missing = sum(not found for found in groups)
    return words + (f". {missing} of {len(groups)} cells are still missing." if missing else ".")


def _span(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


# --- What was measured on ---------------------------------------------------------------------------------------------
def requests() -> str:
    """Visits, users and requests of each dataset."""
    rows = []
    for dataset in DATASETS:
        for cell in cells("table1", f"{dataset}-samples.json"):
            m, wanted = cell["metrics"], ("train", "validation", "test", "cold")
            rows.append([
                f"`{dataset}`", *(f"{m[name]:,}" for name in ("visits", "users", "warm_items")),
                *(f"{m['requests'][name]:,}" for name in wanted),
                *(f"{m['first_visit_share'][name]:.0%}" for name in ("train", "test")),
            ])  # fmt: skip
    header = "dataset | visits | users | warm items | train | validation | test | cold"
    return table(header + " | first visits: train | test", rows)


def scale() -> str:
    """The steps of DIN over a world of the paper's size."""
    header = "step | what | minutes | processor minutes | memory, GiB | of it mapped files"
    found = cells("bench", "rank_scale.json")
    if not found:
        return table(header, [])
    m = found[0]["metrics"]
    world, samples = m["world"], m["samples"]
    events, requests = sum(world["events"].values()), samples["requests"]["train"]
    rows = [
        ["simulate", f"{world['items']:,} items, {events:,} events of {world['users']:,} accounts", *_took(world)],
        ["tokenise", f"{m['codes']['distinct_sids']:,} different SIDs", *_took(m["codes"])],
        ["sample", f"{requests:,} training requests of {samples['users']:,} users with a visit", *_took(samples)],
    ]
    for name, step in (("train on a fifth", m["train_fifth"]), ("train on everything", m["train"])):
        what = f"{step['samples']:,} samples, {step['samples_per_second']:,.0f} a second"
        rows.append([name, what, *_took(step)])
    test = m["test"]["test"]
    auc = ", ".join(f"{name} {test[key]['auc']:.3f}" for key, name in (
        ("revisit", "visited before"), ("popular_within_reach", "popular within reach"),
        ("din_fifth", "DIN on a fifth"), ("din", "DIN")))  # fmt: skip
    rows.append(["test", f"AUC: {auc}", *_took(m["test"])])
    return table(header, rows)


def _took(step: Cell) -> list[str]:
    """Time and memory of a step. That of the processor is the last call's, so not known of a step that was resumed."""
    mapped, seconds = step.get("peak_mapped_mib"), step.get("training_seconds", step["seconds"])
    return [
        f"{seconds / 60:.0f}", f"{step['cpu_seconds'] / 60:.0f}" if seconds <= step["seconds"] else MISSING,
        f"{step['peak_mib'] / 1024:.1f}", MISSING if mapped is None else f"{mapped / 1024:.1f}",
    ]  # fmt: skip


TABLES: dict[str, Callable[[], str]] = {
    "rank-scale": scale,
    "table1": whole,
    "table1-first": novel,
    "table1-gain": gains,
    "table1-short": short,
    "table1-requests": requests,
}
