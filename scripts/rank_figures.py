"""Draw the figures of docs/rank.md, Table 1 and what the codes add to it, from the cells in results/table1/.

python scripts/rank_figures.py
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from cells import REPOSITORY
from rank_tables import BASELINES, DATASETS, METHODS, MODELS, fullest, gained, group, values

from lgsid.artifact import atomic_path
from lgsid.evaluate.plots import COLOURS, INK, MARKERS, MUTED, PAPER, drawing, png

FIGURES = REPOSITORY / "docs" / "figures"
ROW_IN = 0.62
"""Height of a row, in inches."""
FAR = 0.04
"""AUC below the lowest ranker's from which a score without training is left out of the picture."""
GREYS = {"id": "X", "random": "h"}
"""Markers of what has no codes, and of codes that say nothing."""
RIVALS = [method for method in METHODS if method not in GREYS]


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method, the same in both figures."""
    if method in GREYS:
        return MUTED, GREYS[method]
    number = RIVALS.index(method)
    return COLOURS[number % len(COLOURS)] if method != "lgsid" else INK, MARKERS[number % len(MARKERS)]


def spread(known: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 where there is one."""
    return statistics.stdev(known) if len(known) > 1 else 0.0


def _dot(axes: Any, x: Sequence[float], y: float, colour: str, marker: str, hollow: bool = False) -> None:
    axes.errorbar([statistics.fmean(x)], [y], xerr=[spread(x)], color=colour, marker=marker, markersize=6, capsize=2.5,
                  linewidth=1.2, markerfacecolor=PAPER if hollow else colour, linestyle="none")  # fmt: skip


def _row(number: int, place: int, rows: int) -> float:
    """Height of one of the marks in a row, spread over it from the top; in the middle where there is one."""
    return number + (0.76 * place / (rows - 1) - 0.38 if rows > 1 else 0.0)


def _legend(figure: Any, axes: Any, looks: dict[str, tuple[str, str]], extra: Sequence[Any] = ()) -> None:
    handles = [axes.plot([], [], color=colour, marker=marker, linestyle="none", label=name)[0]
               for name, (colour, marker) in looks.items()]  # fmt: skip
    figure.legend(handles=[*handles, *extra], loc="outside lower left", ncols=3, borderaxespad=0.2, fontsize=9)


def shown() -> list[str]:
    """Datasets with cells."""
    return [dataset for dataset in DATASETS if any(_known(dataset, model) for model in MODELS)]


def _panels(figure: Any, rows: Sequence[str]) -> Any:
    panels = figure.subplots(1, len(shown()), sharey=True, squeeze=False)[0]
    for axes, dataset in zip(panels, shown(), strict=True):
        axes.set_title(dataset, fontsize=11)
        axes.tick_params(axis="x", labelsize=9)
        axes.grid(visible=False, axis="y")
        for edge in range(1, len(rows)):
            axes.axhline(edge - 0.5, color=MUTED, linewidth=0.5, alpha=0.5)
    panels[0].set_yticks(range(len(rows)), rows)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return panels


def table1_chart() -> bytes:
    """AUC of every method behind every ranker, a panel a dataset, with the scores that need no training as lines."""
    models = [model for model in MODELS if any(_known(dataset, model) for dataset in DATASETS)]
    with drawing(1.9 + 1.9 * ROW_IN * len(models)) as figure:
        figure.suptitle("Rankers behind every tokeniser", x=0.02, ha="left", fontsize=12.5, fontweight="bold")
        panels, lines = _panels(figure, [_name(model) for model in models]), {}
        for axes, dataset in zip(panels, shown(), strict=True):
            for number, model in enumerate(models):
                for place, method in enumerate(METHODS):
                    if known := values(group(dataset, fullest(dataset, model), method), "auc"):
                        _dot(axes, known, _row(number, place, len(METHODS)), *look(method))
            lines |= _lines(axes, dataset)
            axes.set_xlabel("AUC")
        looks = {name: look(method) for method, name in METHODS.items()}
        _legend(figure, panels[0], looks, [*lines.values(), *_star(panels[0], models)])
        return png(figure)


def _known(dataset: str, model: str) -> bool:
    return any(group(dataset, fullest(dataset, model), method) for method in METHODS)


def _name(model: str) -> str:
    """A ranker's name, with a star where its cells were trained on a part of the requests."""
    part = any(fullest(dataset, model)[1] is not None for dataset in DATASETS if _known(dataset, model))
    return MODELS[model] + "*" * part


def _star(axes: Any, models: Sequence[str]) -> list[Any]:
    """What the star says, where there is one."""
    starred = any(_name(model) != MODELS[model] for model in models)
    return axes.plot([], [], linestyle="none", label="* trained on a part") if starred else []


def _lines(axes: Any, dataset: str) -> dict[str, Any]:
    """Scores without training, each with a line style of its own; left out what lies far below the dots."""
    low = axes.dataLim.x0
    found = {}
    for (method, name), dashes in zip(BASELINES.items(), ((1, 1.5), (3, 1, 1, 1), (4, 2), (6, 2, 1, 2)), strict=True):
        known = values(group(dataset, ("none", None), method), "auc")
        if known and known[0] > low - FAR:
            found[name] = axes.axvline(known[0], color=INK, linestyle=(0, dashes), linewidth=1.1, label=name)
    return found


def gain_chart() -> bytes:
    """AUC gain over the ID alone of every method, a mark a ranker; hollow with distance features."""
    methods = [method for method in METHODS if method != "id"]
    looks = {name: (COLOURS[number], MARKERS[number]) for number, name in enumerate(MODELS.values())}
    marks = [(model, distance) for model in MODELS for distance in (False, True) if any(
        gained(dataset, fullest(dataset, model, distance), method, distance)
        for dataset in shown() for method in methods
    )]  # fmt: skip
    with drawing(1.7 + ROW_IN * len(methods)) as figure:
        figure.suptitle("What codes add to the ID alone", x=0.02, ha="left", fontsize=12.5, fontweight="bold")
        panels = _panels(figure, [METHODS[method] for method in methods])
        for axes, dataset in zip(panels, shown(), strict=True):
            for number, method in enumerate(methods):
                for place, (model, distance) in enumerate(marks):
                    if known := gained(dataset, fullest(dataset, model, distance), method, distance):
                        _dot(axes, known, _row(number, place, len(marks)), *looks[MODELS[model]], distance)
            axes.axvline(0, color=INK, linestyle=(0, (4, 2)), linewidth=1.1)
            axes.set_xlabel("AUC gain over the ID")
        panels[0].tick_params(axis="y", labelsize=9)
        hollow = panels[0].plot([], [], color=INK, marker="o", markerfacecolor=PAPER, linestyle="none",
                                label="hollow: with distances")[0]  # fmt: skip
        _legend(figure, panels[0], looks, [hollow])
        return png(figure)


def main() -> None:
    """Write both figures, where there are cells."""
    if not shown():
        return
    for name, picture in (("table1", table1_chart()), ("table1_gain", gain_chart())):
        with atomic_path(FIGURES / f"{name}.png") as path:
            path.write_bytes(picture)
        print(f"wrote docs/figures/{name}.png")


if __name__ == "__main__":
    main()
