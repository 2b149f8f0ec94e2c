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
    "mixed": "G-DPO, no regulariser",
    "gdpo": "G-DPO, full",
    "contrast": "list-wise contrast",
    "distil": "teacher, LoRA as in the paper",
}


def cells(dataset: str, method: str) -> list[dict[str, Any]]:
    """Figures of the cells of one method, by seed."""
    paths = sorted((REPOSITORY / "results" / "ablation").glob(f"{dataset}-{method}-[0-9].json"))
    return [json.loads(path.read_text(encoding="utf-8"))["metrics"] for path in paths]


def frontier(dataset: str) -> bytes:
    """Means over seeds: the oracle, every method's point, and the shipped method's whole frontier."""
    shipped = cells(dataset, "distil-full")
    columns = zip(*(cell["oracle"] for cell in shipped), strict=True)
    oracle = [OraclePoint(*(statistics.fmean(values) for values in zip(*points, strict=True))) for points in columns]
    methods = {}
    for method, name in POINTS.items():
        at = [cell["parts"]["test"]["after"]["5"] for cell in cells(dataset, method)]
        if at:
            methods[name] = [tuple(statistics.fmean(cell[key] for cell in at) for key in ("kept", "district"))]
    for coarse, name in ((0.3, "teacher as shipped, less city"), (1.0, "teacher as shipped")):
        curve = [[p for p in cell["dial"] if p["coarse"] == coarse] for cell in shipped]
        methods[name] = [
            tuple(statistics.fmean(point[key] for point in points) for key in ("kept", "district"))
            for points in zip(*curve, strict=True)
        ]
    return frontier_chart(oracle, methods, 5)


def main() -> None:
    """Write the figures."""
    for dataset, name in (("yelp-3states", "frontier"), ("fsq-nyc", "frontier_fsq")):
        if cells(dataset, "distil-full"):
            with atomic_path(FIGURES / f"{name}.png") as path:
                path.write_bytes(frontier(dataset))
            print(f"wrote docs/figures/{name}.png")


if __name__ == "__main__":
    main()
