"""Draw the figure of docs/generate.md, Table 2, from the cells in results/table2/.

python scripts/generate_figures.py
"""

from __future__ import annotations

import statistics
from typing import Any

from cells import REPOSITORY
from generate_tables import BESIDE, DATASETS, METHODS, PROTOCOLS, WRITERS, group, values

from lgsid.artifact import atomic_path
from lgsid.evaluate.plots import COLOURS, INK, MUTED, drawing, png

FIGURES = REPOSITORY / "docs" / "figures"
PATHS = {
    "all requests": "catalogue/all/hit@5",
    "first visits": "catalogue/first_visits/hit@5",
    "new places": "new/all/hit@5",
}
"""Panels from left to right."""
DASHES = (None, (1, 1.5), (3, 1, 1, 1), (4, 2), (6, 2, 1, 2))
"""Of the lines of what has no codes."""


def table2_chart() -> bytes | None:
    """Hit@5 of every tokeniser behind both generators, a row a dataset and protocol; lines for what has no codes."""
    places = [(dataset, protocol) for protocol in PROTOCOLS for dataset in DATASETS
              if any(group(dataset, protocol, model, method) for model in WRITERS for method in METHODS)]  # fmt: skip
    if not places:
        return None
    with drawing(1.3 + 3.1 * len(places)) as figure:
        figure.suptitle("Next items found by generators", x=0.02, ha="left", fontsize=12.5, fontweight="bold")
        panels = figure.subplots(len(places), len(PATHS), squeeze=False, sharey=True)
        for row, place in zip(panels, places, strict=True):
            for axes, (title, path) in zip(row, PATHS.items(), strict=True):
                _panel(axes, *place, path)
                axes.set_title(title, fontsize=10)
            row[0].set_ylabel(f"{place[0].split('-')[0]}, {PROTOCOLS[place[1]]}", fontsize=10, fontweight="bold")
        panels[0, 0].set_yticks(range(len(METHODS)), METHODS.values())
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9)
        return png(figure)


def _panel(axes: Any, dataset: str, protocol: str, path: str) -> None:
    for number, (model, name) in enumerate(WRITERS.items()):
        for row, method in enumerate(METHODS):
            known = [100 * value for value in values(group(dataset, protocol, model, method), path)]
            if known:
                spread = statistics.stdev(known) if len(known) > 1 else 0.0
                axes.errorbar([statistics.fmean(known)], [row + 0.24 * number - 0.12], xerr=[spread],
                              color=COLOURS[number], marker="os"[number], markersize=6, capsize=2.5, linestyle="none",
                              label=name if method == "lgsid" else None)  # fmt: skip
    for (beside, name), dashes in zip(BESIDE.items(), DASHES, strict=True):
        known = [100 * value for value in values(group(dataset, protocol, beside), path)]
        if known:
            axes.axvline(statistics.fmean(known), color=INK if dashes is None else MUTED, linewidth=1.2, label=name,
                         linestyle="-" if dashes is None else (0, dashes))  # fmt: skip
    axes.set_ylim(len(METHODS) - 0.5, -0.5)
    axes.set_xlabel("Hit@5, percent")
    axes.grid(visible=False, axis="y")


def main() -> None:
    """Write the figure, where there are cells."""
    picture = table2_chart()
    if picture is None:
        return
    with atomic_path(FIGURES / "table2.png") as path:
        path.write_bytes(picture)
    print("wrote docs/figures/table2.png")


if __name__ == "__main__":
    main()
