"""Draw the figures of docs/align.md from the cells in results/ablation/.

python scripts/alignment_figures.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from lgsid.artifact import atomic_path
from lgsid.evaluate.alignment_charts import frontier_chart
from lgsid.evaluate.oracle import OraclePoint

REPOSITORY = Path(__file__).resolve().parents[1]
FIGURES = REPOSITORY / "docs" / "figures"
POINTS = {
    "pointwise": "G-DPO, point-wise reward",
    "regularised": "G-DPO, the paper's full method",
    "gdpo": "G-DPO, our reward",
    "contrast": "list-wise contrast",
}


def cells(dataset: str, method: str) -> list[dict[str, Any]]:
    """Figures of the cells of one method, by seed."""
    paths = sorted((REPOSITORY / "results" / "ablation").glob(f"{dataset}-{method}-[0-9].json"))
    return [json.loads(path.read_text(encoding="utf-8"))["metrics"] for path in paths]


def oracle_of(group: list[dict[str, Any]]) -> list[OraclePoint]:
    """The mean oracle of some cells."""
    columns = zip(*(cell["oracle"] for cell in group), strict=True)
    return [OraclePoint(*(statistics.fmean(values) for values in zip(*points, strict=True))) for points in columns]


def dialled(group: list[dict[str, Any]], coarse: float) -> list[tuple[float, float]]:
    """The mean frontier of the geographic teacher, its fine dial turned."""
    curves = [[point for point in cell["dial"] if point["coarse"] == coarse] for cell in group]
    return [
        (statistics.fmean(p["kept"] for p in points), statistics.fmean(p["district"] for p in points))
        for points in zip(*curves, strict=True)
    ]


def variants(dataset: str, method: str) -> list[str]:
    """The method with other weights of the similarity regulariser, where such cells are there."""
    paths = (REPOSITORY / "results" / "ablation").glob(f"{dataset}-{method}-lambda*-[0-9].json")
    return sorted({path.stem.removeprefix(f"{dataset}-").rsplit("-", 1)[0] for path in paths})


def mean_point(group: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Mean (similarity kept, T@5) of some cells; None without any."""
    at = [cell["parts"]["test"]["after"]["5"] for cell in group]
    if not at:
        return None
    return statistics.fmean(c["kept"] for c in at), statistics.fmean(c["district"] for c in at)


def shipped(dataset: str) -> bytes:
    """The whole catalogue: the oracle, and the frontier of the default alignment."""
    group = cells(dataset, "distil-full")
    names = {1.0: "aligned (default), fine dial turned", 0.3: "… with less weight on province and city"}
    return frontier_chart(oracle_of(group), {name: dialled(group, coarse) for coarse, name in names.items()}, 5)


def compared(dataset: str) -> bytes:
    """The sample of the ablation: the oracle, and every method under one budget."""
    methods: dict[str, list[tuple[float, float]]] = {}
    for method, name in POINTS.items():
        points = [mean_point(cells(dataset, variant)) for variant in (method, *variants(dataset, method))]
        if points[0] is not None:
            methods[name] = [point for point in points if point is not None]
    group = cells(dataset, "distil")
    methods["geographic teacher, fine dial turned"] = dialled(group, 0.3)
    return frontier_chart(oracle_of(group), methods, 5)


def main() -> None:
    """Write the figures."""
    for dataset, ending in (("yelp-3states", ""), ("fsq-nyc", "_fsq")):
        for draw, method, name in ((shipped, "distil-full", "frontier"), (compared, "distil", "methods")):
            if cells(dataset, method):
                with atomic_path(FIGURES / f"{name}{ending}.png") as path:
                    path.write_bytes(draw(dataset))
                print(f"wrote docs/figures/{name}{ending}.png")


if __name__ == "__main__":
    main()
