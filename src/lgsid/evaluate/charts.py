"""Charts of the report: each takes numbers and returns PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lgsid.arrays import DoubleArray, IntArray
from lgsid.evaluate.plots import COLOURS, INK, MARKERS, MUTED, PAPER, drawing, legend_below, percent_axis, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def neighbour_chart(geography: Mapping[str, Any], levels: Sequence[tuple[str, str]]) -> bytes:
    """Share of the K nearest neighbours in the query's own region, by K, beside that of random pairs.

    Args:
        geography: what `neighbours.neighbour_geography` returned.
        levels: (key, name) of the shares to draw; shares that are unknown are left out.
    """
    ks = list(geography["at"])
    with drawing(3.9) as figure:
        axes = figure.add_subplot()
        for number, (key, name) in enumerate(levels):
            shares = [geography["at"][k][key] for k in ks]
            if any(share is None for share in shares):
                continue
            axes.plot(range(len(ks)), shares, color=COLOURS[number], marker=MARKERS[number], label=f"same {name}")
            random = [geography["random"][key]] * len(ks)
            axes.plot(range(len(ks)), random, color=COLOURS[number], linestyle=(0, (1, 2)))
            for place, (k, share) in enumerate(zip(ks, shares, strict=True)):
                drawn = [geography["at"][k][above] or 0.0 for above, _ in levels[:number]]
                if any(f"{other:.2f}" == f"{share:.2f}" for other in drawn):
                    continue  # a line under another one has the same number
                crowded = any(0 < (geography["at"][k][other] or 0.0) - share < 0.1 for other, _ in levels)
                axes.annotate(f"{share:.2f}", (place, share), (0, -15 if crowded else 7), textcoords="offset points",
                              ha="center", fontsize=9.5, color=COLOURS[number])  # fmt: skip
        axes.plot([], [], color=MUTED, linestyle=(0, (1, 2)), label="random pairs")
        axes.set(ylim=(0, 1.08), xlim=(-0.35, len(ks) - 0.65), xlabel="nearest neighbours looked at (K)")
        axes.set(title="Do nearest neighbours lie in the same place?", yticks=np.arange(0, 1.01, 0.25))
        axes.set_xticks(range(len(ks)), ks)
        percent_axis(axes.yaxis)
        legend_below(figure, axes, 4)
        return png(figure)


def usage_chart(counts: Sequence[IntArray]) -> bytes:
    """Items per code, codes sorted from the most to the least used, one line per level, against equal use.

    Args:
        counts: items of each of the K codes, one array per level.
    """
    with drawing(3.9) as figure:
        axes = figure.add_subplot()
        most = max(len(count) for count in counts)
        for level, count in enumerate(counts):
            falling = np.sort(count)[::-1]
            used = falling[falling > 0]
            rank = np.arange(1, len(used) + 1)
            axes.plot(
                rank, used, color=COLOURS[level % len(COLOURS)], marker=MARKERS[level % len(MARKERS)],
                markevery=(level * most // 50, max(most // 8, 1)), label=f"level {level + 1}",
            )  # fmt: skip
        fair = counts[0].sum() / len(counts[0])
        axes.axhline(fair, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label=f"equal use ({fair:.3g} items)")
        axes.set(yscale="log", xlim=(-most * 0.02, most * 1.03), xlabel="codes, from the most to the least used")
        axes.set(ylabel="items per code (log scale)", title="How evenly are the codes used?")
        axes.yaxis.set_major_formatter("{x:g}")
        legend_below(figure, axes, 4)
        return png(figure)


def coverage_radar(codes: Mapping[float, Sequence[int]], codebooks: Sequence[int]) -> bytes:
    """Share of each level's codes that cover a share of the items, on one spoke per share (the paper's radar).

    Args:
        codes: number of codes of each level by covered share, such as ``{0.5: [60, 40, 30], …}``.
        codebooks: codes of each level.
    """
    shares = list(codes)
    angles = np.linspace(0, 2 * np.pi, len(shares), endpoint=False)
    closed = np.append(angles, angles[0])
    with drawing(5.2) as figure:
        axes = figure.add_subplot(projection="polar")
        axes.set(theta_offset=np.pi / 2, theta_direction=-1, rlabel_position=180 / len(shares), ylim=(0, 1))
        axes.spines["polar"].set_visible(False)
        for level, codebook in enumerate(codebooks):
            part = np.array([codes[share][level] / codebook for share in shares])
            axes.plot(
                closed, np.append(part, part[0]), color=COLOURS[level % len(COLOURS)],
                marker=MARKERS[level % len(MARKERS)], label=f"level {level + 1}",
            )  # fmt: skip
        axes.plot(closed, [*shares, shares[0]], color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label="equal use")
        axes.set_xticks(angles, [f"{share:.0%} of\nthe items" for share in shares])
        axes.tick_params(axis="x", pad=20)
        axes.set_yticks([0.25, 0.5, 0.75, 1.0])
        axes.tick_params(axis="y", labelsize=8.5, labelcolor=MUTED)
        percent_axis(axes.yaxis)
        figure.suptitle("How many of the codes cover most of the items?", x=0.02, ha="left", fontweight="bold",
                        fontsize=12.5)  # fmt: skip
        legend_below(figure, axes, 4)
        return png(figure)


def radius_chart(radius_km: DoubleArray) -> bytes:
    """Histogram of the first tokens' radii in km, on a logarithmic axis, with median and 90th percentile."""
    floor = 0.01  # 10 m: a token whose items stand at one spot
    radius_km = np.maximum(radius_km, floor)
    low, high = np.log10(radius_km.min()), np.log10(radius_km.max())
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25
    with drawing(3.5) as figure:
        axes = figure.add_subplot()
        axes.hist(radius_km, bins=list(np.logspace(low, high, 25)), color=COLOURS[0], edgecolor=PAPER, linewidth=0.6)
        for quantile, name, dashes in ((0.5, "median", (4, 2)), (0.9, "90th percentile", (1, 1.5))):
            value = float(np.quantile(radius_km, quantile))
            axes.axvline(value, color=INK, linestyle=(0, dashes), linewidth=1.4, label=f"{name} {value:.3g} km")
        axes.set(xscale="log", xlabel="radius of a first token in km (log scale)", ylabel="first tokens")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title("How far does a first token reach?")
        axes.grid(visible=False, axis="x")
        _whole_numbers(axes)
        legend_below(figure, axes, 2)
        return png(figure)


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def reconstruction_chart(relative_by_level: Sequence[float], after_unique: float | None) -> bytes:
    """Share of the embeddings' energy that the first l tokens do not explain, and what uniqueness costs on top."""
    names = [f"after level {level + 1}" for level in range(len(relative_by_level))]
    errors = list(relative_by_level)
    if after_unique is not None:
        names, errors = [*names, "made unique"], [*errors, after_unique]
    with drawing(0.9 + 0.42 * len(names)) as figure:
        axes = figure.add_subplot()
        colours = [COLOURS[0]] * len(relative_by_level) + [COLOURS[3]] * (len(names) - len(relative_by_level))
        bars = axes.barh(names, errors, color=colours, height=0.62)
        axes.bar_label(bars, fmt="{:.1%}", padding=4, fontsize=9.5)
        axes.set(xlim=(0, max(1.0, *errors) * 1.08), title="How much of the embedding is still missing?")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        percent_axis(axes.xaxis)
        return png(figure)
