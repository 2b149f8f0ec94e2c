"""Charts of alignment: each takes numbers and returns PNG bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lgsid.arrays import DoubleArray, FloatArray
from lgsid.data.labels import REGIONS
from lgsid.evaluate.oracle import KeptDistrict, OraclePoint
from lgsid.evaluate.plots import (
    COLOURS,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    drawable,
    drawing,
    legend_below,
    percent_axis,
    png,
    short,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OTHERS = "#c9ced6"  # regions that are not named, and everything before alignment
_NAMED_REGIONS = 7
_TSNE_STEPS, _PERPLEXITY = 600, 30


def tsne(emb_ND: FloatArray, seed: int) -> DoubleArray:
    """The vectors on a plane, neighbours beside neighbours (t-SNE, from their first two principal components).

    Of one thread, so that the same vectors give the same picture; meant for at most some 3,000 of them.

    Args:
        emb_ND: vectors of unit length, at least 4.

    Returns:
        places of shape (N, 2), in units of their own spread.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if (emb_ND == emb_ND[0]).all():  # collapsed to a point: nothing to spread out
        return np.zeros((len(emb_ND), 2))
    perplexity = min(_PERPLEXITY, (len(emb_ND) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", max_iter=_TSNE_STEPS, random_state=seed, n_jobs=1)
    with threadpool_limits(limits=1):
        place_N2: DoubleArray = model.fit_transform(np.ascontiguousarray(emb_ND, dtype=np.float32)).astype(np.float64)
    place_N2 -= place_N2.mean(axis=0)
    spread_2 = place_N2.std(axis=0)
    place_N2 /= np.where(spread_2 > 0, spread_2, 1)
    return place_N2


def tsne_chart(before_N2: DoubleArray, after_N2: DoubleArray, regions: Sequence[str | None]) -> bytes:
    """Two maps of the same items, before and after alignment, coloured by their region; the smaller regions are grey.

    Args:
        before_N2, after_N2: places of the items (`tsne`).
        regions: each item's region path; None where it is unknown.
    """
    sizes = sorted(Counter(name for name in regions if name is not None).items(), key=lambda pair: (-pair[1], pair[0]))
    named = [name for name, _ in sizes[: _NAMED_REGIONS if len(sizes) > _NAMED_REGIONS + 1 else len(sizes)]]
    of = np.array([named.index(name) if name in named else -1 for name in regions])
    with drawing(4.2) as figure:
        for axes, place_N2, title in zip(
            figure.subplots(1, 2), (before_N2, after_N2), ("Before alignment", "After alignment"), strict=True
        ):
            for number in range(-1, len(named)):
                own = place_N2[of == number]
                colour = COLOURS[number % len(COLOURS)] if number >= 0 else _OTHERS
                axes.scatter(own[:, 0], own[:, 1], s=5 if number < 0 else 7, color=colour, linewidths=0)
            axes.set(xticks=[], yticks=[], title=title)
            axes.grid(visible=False)
            axes.spines[["left", "bottom"]].set_visible(False)
        handles = [_dot(axes, COLOURS[number % len(COLOURS)], _region_name(name)) for number, name in enumerate(named)]
        if (of < 0).any():
            handles.append(
                _dot(axes, _OTHERS, f"{len(sizes) - len(named):,} more" if sizes[len(named) :] else "unknown")
            )
        longest = max((len(str(handle.get_label())) for handle in handles), default=1)
        columns = max(1, min(4, 84 // (longest + 8)))
        figure.legend(handles=handles, loc="outside lower left", ncols=columns, borderaxespad=0.2, fontsize=9.5)
        return png(figure)


def _dot(axes: Axes, colour: str, label: str) -> Any:
    return axes.scatter([], [], s=36, color=colour, linewidths=0, label=label)


def _region_name(path: str) -> str:
    """The last two names of a region path that can be drawn: "Phoenix, 85004"."""
    name = ", ".join(path.split(" > ")[-2:])
    return short(name if drawable(name) else "(name in another script)", 34)


def level_chart(before: Mapping[str, Any], after: Mapping[str, Any], k: int) -> bytes:
    """What the K nearest neighbours share with their query before and after alignment, level by level.

    Args:
        before, after: figures of one part and K (`alignment.alignment_figures`); those that are None are left out.
        k: neighbours per query.
    """
    names = {
        "province": "same province",
        "city": "same city",
        "district": "same district",
        "category_root": "same top category",
        "kept": "original similarity kept",
    }
    shown = [key for key in names if before.get(key) is not None and after.get(key) is not None]
    place = np.arange(len(shown))
    with drawing(1.2 + 0.62 * len(shown)) as figure:
        axes = figure.add_subplot()
        for offset, figures, colour, label in (
            (-0.2, before, _OTHERS, "before alignment"),
            (0.2, after, COLOURS[0], "after alignment"),
        ):
            bars = axes.barh(place + offset, [figures[key] for key in shown], 0.36, color=colour, label=label)
            axes.bar_label(bars, fmt="{:.1%}", padding=4, fontsize=9.5)
        axes.set_yticks(place, [names[key] for key in shown])
        axes.set(xlim=(0, 1.12), xticks=np.arange(0, 1.01, 0.25))
        axes.set_title(f"What do the {k} nearest neighbours share?")
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        percent_axis(axes.xaxis)
        legend_below(figure, axes, 2)
        return png(figure)


def frontier_chart(
    oracle_points: Sequence[OraclePoint], methods: Mapping[str, Sequence[KeptDistrict]], k: int
) -> bytes:
    """Geography against meaning: the oracle's frontier, the unaligned encoder, and methods as points or curves.

    Args:
        oracle_points: `oracle.oracle_frontier`; the point of weight 0 is the unaligned encoder.
        methods: (similarity kept, T@K) of each method's points; more than one are joined in the order of kept.
        k: the K of T@K.
    """
    known = [(point.kept, point.district) for point in oracle_points if point.district is not None]
    kept = [at for at, _ in (*known, *(point for curve in methods.values() for point in curve))]
    edge = 0.04 * (1.02 - min(kept))
    right = min(kept) - edge
    limit = np.array([*sorted(known, reverse=True), (right, max(share for _, share in known))], dtype=np.float64)
    with drawing(4.6) as figure:
        axes = figure.add_subplot()
        axes.fill_between(x=limit[:, 0], y1=limit[:, 1], y2=1.1, color=_OTHERS, alpha=0.25, linewidth=0)
        axes.plot(limit[:, 0], limit[:, 1], color=INK, linestyle=(0, (4, 2)), linewidth=1.6,
                  label="oracle: the limit of any vectors")  # fmt: skip
        axes.plot(limit[0, 0], limit[0, 1], color=INK, marker="o", markersize=8, linestyle="none",
                  label="unaligned encoder")  # fmt: skip
        for number, (name, curve) in enumerate(methods.items()):
            points = np.array(sorted(curve, reverse=True), dtype=np.float64).reshape(-1, 2)
            axes.plot(points[:, 0], points[:, 1], color=COLOURS[number % len(COLOURS)], markersize=8,
                      marker=MARKERS[(number + 1) % len(MARKERS)], markeredgecolor=PAPER,
                      linestyle="-" if len(points) > 1 else "none", label=name)  # fmt: skip
        axes.set(xlim=(1 + edge, right), ylim=(0, 1.03))
        axes.set(xlabel="original similarity kept (meaning is lost to the right)")
        axes.set(ylabel=f"same district among {k} neighbours", title="How much geography for how much meaning?")
        percent_axis(axes.xaxis)
        percent_axis(axes.yaxis)
        legend_below(figure, axes, 2)
        return png(figure)


def training_chart(validations: Sequence[Mapping[str, float]], losses: Sequence[tuple[int, float]]) -> bytes:
    """The validations of training (similarity kept, neighbours in the same region) and the loss below them.

    Args:
        validations: "step", "score" and what is known of "kept", "province", "city" and "district", in order; the
            weights of the highest score, the earliest of equals, are the ones that were kept.
        losses: (step, training loss).
    """
    names = {"kept": "similarity kept", **{level: f"same {level}" for level in REGIONS}}
    best = max(validations, key=lambda row: row["score"])
    with drawing(5.0 if losses else 3.9) as figure:
        heights = [2, 1] if losses else [1]
        panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for number, (key, name) in enumerate(names.items()):
            known = [(row["step"], row[key]) for row in validations if key in row]
            panels[0].plot([step for step, _ in known], [share for _, share in known], color=COLOURS[number],
                           marker=MARKERS[number], label=name)  # fmt: skip
        panels[0].axvline(best["step"], color=INK, linestyle=(0, (4, 2)), linewidth=1.2,
                          label="best score: what was kept")  # fmt: skip
        panels[0].set(ylim=(0, 1.05), title="How did training go?", ylabel="validation items")
        percent_axis(panels[0].yaxis)
        if losses:
            panels[1].plot([step for step, _ in losses], [loss for _, loss in losses], color=MUTED, linewidth=1.3)
            panels[1].set(ylabel="training loss")
        panels[-1].set(xlabel="training step")
        legend_below(figure, panels[0], 3)
        return png(figure)


def reward_chart(
    bands: Sequence[tuple[str, float | None, float | None]],
    calibration: Sequence[tuple[float, float]],
    losses: Mapping[str, Sequence[float]],
) -> bytes:
    """A reward model: pairs in the right order by distance, calibration of its scores, and its loss by epoch.

    Args:
        bands: (name, accuracy on training anchors, accuracy on new anchors) of each distance band; None where it has
            no pair.
        calibration: (mean score, mean soft label) of each bin, on new anchors.
        losses: loss by epoch, for training and for new anchors.
    """
    with drawing(4.4) as figure:
        panels = figure.subplot_mosaic([["bands", "calibration"], ["bands", "loss"]], width_ratios=[3, 2])
        axes, place = panels["bands"], np.arange(len(bands))
        for column, offset, colour, name in ((1, -0.2, _OTHERS, "training anchors"), (2, 0.2, COLOURS[0], "new ones")):
            heights = [float(band[column] or 0) for band in bands]
            bars = axes.bar(place + offset, heights, 0.38, color=colour, label=name)
            axes.bar_label(bars, [f"{100 * height:.0f}" if height else "" for height in heights], fontsize=8.5)
        axes.axhline(0.5, color=INK, linestyle=(0, (4, 2)), linewidth=1.2, label="chance")
        axes.set_xticks(place, [band[0] for band in bands], fontsize=8.5, rotation=30, ha="right")
        axes.set(ylim=(0, 1.1), title="Which place is nearer?", ylabel="pairs in order", xlabel="nearer by")
        axes.grid(visible=False, axis="x")
        percent_axis(axes.yaxis)
        panels["calibration"].plot([0, 1], [0, 1], color=INK, linestyle=(0, (4, 2)), linewidth=1.2)
        panels["calibration"].plot([score for score, _ in calibration], [label for _, label in calibration],
                                   color=COLOURS[0], marker="o")  # fmt: skip
        panels["calibration"].set(xlim=(0, 1), ylim=(0, 1), xlabel="mean score", ylabel="soft label")
        for colour, loss in zip((MUTED, COLOURS[0]), losses.values(), strict=True):
            panels["loss"].plot(range(1, len(loss) + 1), loss, color=colour)
        panels["loss"].set(xlabel="epoch", ylabel="loss")
        legend_below(figure, axes, 3)
        return png(figure)
