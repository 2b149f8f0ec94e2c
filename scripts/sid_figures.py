"""Draw the figures of docs/tokenize.md that compare all tokenisers, from the cells in results/quality/.

python scripts/sid_figures.py
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from cells import REPOSITORY, Cell
from sid_tables import CATALOGUES, EMBEDDINGS, METHODS, Group, group, preferred

from lgsid.artifact import atomic_path
from lgsid.evaluate.plots import COLOURS, GRID, INK, MARKERS, MUTED, PAPER, drawing, percent_axis, png

FIGURES = REPOSITORY / "docs" / "figures"
COLUMNS = 3
TARGET = 0.05
"""Raw collisions that the default must stay below."""
Polar = Any
"""matplotlib's polar axes."""


def look(method: str) -> tuple[str, str]:
    """Colour and marker of a method, the same in every figure; the control is grey."""
    number = list(METHODS).index(method)
    return (MUTED, "h") if method == "random" else (COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)])


def coverage_radar(catalogue: str, embedding: str) -> bytes:
    """Codes needed to cover 50 … 99 % of the items, a radar a method and a line a level, beside equal use."""
    present = {method: found for method in METHODS if (found := group(catalogue, embedding, method))}
    rows = -(-len(present) // COLUMNS)
    with drawing(0.9 + 2.1 * rows) as figure:
        figure.suptitle(f"Codes that cover a share of the items: {catalogue}, {embedding}", x=0.02, ha="left",
                        fontsize=12.5, fontweight="bold")  # fmt: skip
        axes = figure.subplots(rows, COLUMNS, subplot_kw={"projection": "polar"}, squeeze=False).ravel()
        for place, (method, found) in enumerate(present.items()):
            _radar(axes[place], METHODS[method], [figures["levels"] for figures in found])
        for unused in axes[len(present) :]:
            unused.remove()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=4, borderaxespad=0.2)
        return png(figure)


def _radar(axes: Polar, title: str, seeds: list[list[Cell]]) -> None:
    """One method: the mean over seeds of each level's coverage."""
    quantiles = list(seeds[0][0]["coverage"])
    angles = [2 * math.pi * place / len(quantiles) for place in range(len(quantiles))]
    size = max(level["codes"] for levels in seeds for level in levels)
    even = [math.ceil(float(quantile.rstrip("%")) / 100 * size) for quantile in quantiles]
    axes.fill(angles, even, color=GRID, alpha=0.7, linewidth=0, label="equal use")
    for level in range(len(seeds[0])):
        needed = [statistics.fmean(levels[level]["coverage"][quantile] for levels in seeds) for quantile in quantiles]
        axes.plot([*angles, angles[0]], [*needed, needed[0]], color=COLOURS[level % len(COLOURS)], linewidth=1.5,
                  marker=MARKERS[level % len(MARKERS)], markersize=3, label=f"level {level + 1}")  # fmt: skip
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_xticks(angles, quantiles, fontsize=8)
    axes.tick_params(axis="x", pad=-1)
    axes.set_ylim(0, size)
    steps = [round(size / 4 * step) for step in (1, 2, 3, 4)]
    axes.set_yticks(steps, [str(step) for step in steps], fontsize=6)
    axes.set_rlabel_position(36)
    axes.spines["polar"].set_visible(False)
    axes.set_title(title, fontsize=10, loc="center", pad=8)


def collisions_chart() -> bytes:
    """Raw collisions against the reconstruction error of every method, a panel a catalogue."""
    shown = [name for name in CATALOGUES.values() if any(group(name, e, m) for e in EMBEDDINGS for m in METHODS)]
    with drawing(4.8) as figure:
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        labels: dict[str, Any] = {}
        for axes, catalogue in zip(panels, shown, strict=True):
            for method in METHODS:
                labels |= _points(axes, catalogue, method)
            axes.set_title(catalogue, fontsize=11)
        for axes in panels:
            _error_axis(axes, min(panel.dataLim.x0 for panel in panels), max(panel.dataLim.x1 for panel in panels))
            axes.axhline(TARGET, color=INK, linestyle=(0, (4, 2)), linewidth=1.0)
        panels[0].set_ylabel("items that share their raw code")
        panels[0].set_ylim(bottom=-0.03, top=max(axes.dataLim.y1 for axes in panels) * 1.06)
        percent_axis(panels[0].yaxis)
        labels |= {f"{TARGET:.0%} of the items": panels[0].plot([], [], color=INK, dashes=(4, 2), linewidth=1.0)[0]}
        labels |= {f"{kind} vectors": panels[0].plot([], [], **_dot(INK, "o", kind))[0] for kind in EMBEDDINGS}
        figure.suptitle("Fewer collisions, or a smaller error?", x=0.02, ha="left", fontsize=12.5, fontweight="bold")
        figure.legend(
            labels.values(), labels.keys(), loc="outside lower left", ncols=COLUMNS, borderaxespad=0.2, fontsize=9
        )
        return png(figure)


def _error_axis(axes: Any, least: float, most: float) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter

    axes.set(xscale="log", xlim=(least / 1.6, most * 1.4), xlabel="error (log scale)")
    axes.xaxis.set_major_locator(FixedLocator([0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", labelsize=9)
    percent_axis(axes.xaxis)


def _dot(colour: str, marker: str, embedding: str) -> dict[str, Any]:
    """How a point looks: filled for aligned vectors, hollow for unaligned ones."""
    face = colour if embedding == "aligned" else PAPER
    return {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 7, "linestyle": "none"}


def _points(axes: Any, catalogue: str, method: str) -> dict[str, Any]:
    """A method's points, hollow for unaligned vectors, joined with that of the aligned ones; their legend entry."""
    colour, marker = look(method)
    points = {embedding: _point(found) for embedding in EMBEDDINGS if (found := group(catalogue, embedding, method))}
    if not points:
        return {}
    axes.plot(*zip(*points.values(), strict=True), color=colour, linewidth=1.0, alpha=0.6)
    for embedding, (error, share) in points.items():
        axes.plot([error], [share], **_dot(colour, marker, embedding))
    return {METHODS[method]: axes.plot([], [], **_dot(colour, marker, "aligned"))[0]}


def _point(found: Group) -> tuple[float, float]:
    """Relative error and share of colliding items, means over seeds."""
    errors = [figures["reconstruction"]["relative_by_level"][-1] for figures in found]
    return statistics.fmean(errors), statistics.fmean(figures["collision_share"] for figures in found)


def main() -> None:
    """Write the figures for which there are cells."""
    drawn = {}
    for short, catalogue in CATALOGUES.items():
        if any(group(catalogue, preferred(catalogue), method) for method in METHODS):
            drawn[f"coverage_radar_{short}"] = coverage_radar(catalogue, preferred(catalogue))
    if drawn:
        drawn["collisions_error"] = collisions_chart()
    for name, picture in drawn.items():
        with atomic_path(FIGURES / f"{name}.png") as path:
            path.write_bytes(picture)
        print(f"wrote docs/figures/{name}.png")


if __name__ == "__main__":
    main()
