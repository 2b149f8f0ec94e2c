"""What the report measures of a run's alignment: the figures by part, the oracle's frontier, and the key figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from lgsid.arrays import IntArray
from lgsid.config import RunConfig
from lgsid.data.labels import REGIONS
from lgsid.evaluate.alignment import alignment_figures
from lgsid.evaluate.oracle import frontier_efficiency, oracle_frontier
from lgsid.evaluate.results import Results
from lgsid.nearest import sample_queries

PART_QUERIES = 2_000
"""At most so many queries stand for a part of the items; the whole catalogue has as many as neighbour geography."""
HELD_OUT = ("test", "unseen")
"""Parts that neither training nor the choice of the checkpoint has seen; the first that has items is judged."""


def measure_alignment(config: RunConfig, results: Results) -> dict[str, Any] | None:
    """Figures before and after alignment, and the oracle's frontier for the part that is judged.

    Returns:
        what `alignment.alignment_figures` returns, with "judged" (name of a part), "k" (the smallest K, as in the
        tables), "oracle" (its points for the judged part) and "efficiency" (see `oracle.frontier_efficiency`);
        "reward" where there is a reward model. None where the encoder was taken as it is.

    Raises:
        ArtifactError: the vectors do not fit the items.
    """
    run = results.alignment
    if run is None:
        return None
    content, bare = (
        None if path is None else results.embeddings(path) for path in (run.content_path, run.without_location_path)
    )
    reference_ND = results.embeddings(run.reference_path)
    parts = _queries(results, config)
    ks = config.report.neighbours
    figures = alignment_figures(
        results.items, reference_ND, results.embeddings(), parts, ks, content, bare, config.seed
    )
    judged = next((name for name in HELD_OUT if name in figures["parts"]), "all")
    name, after = next(iter(figures["parts"][judged]["after"].items()))
    points = oracle_frontier(results.items, reference_ND, parts[judged], int(name))
    reached = None if after["district"] is None else frontier_efficiency(points, after["kept"], after["district"])
    return {
        "judged": judged,
        "k": name,
        **figures,
        "oracle": [asdict(point) for point in points],
        "efficiency": reached,
        **({} if run.reward is None else {"reward": run.reward}),
    }


def _queries(results: Results, config: RunConfig) -> dict[str, IntArray]:
    """Rows of the queries of each part that is reported."""
    assert results.alignment is not None
    part_N = results.alignment.parts.to_numpy()
    found = {}
    for name in ("train", *HELD_OUT):
        rows = np.flatnonzero(part_N == name)
        most = min(PART_QUERIES, config.report.neighbour_sample)
        found[name] = rows[sample_queries(len(rows), most, config.seed)]
    return {**found, "all": sample_queries(len(results.items), config.report.neighbour_sample, config.seed)}


def alignment_key_figures(alignment: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of the judged part that the stage returns: kept, P/C/T before and after, frontier efficiency."""
    part, k = alignment["parts"][alignment["judged"]], alignment["k"]
    return {
        "alignment_judged_on": alignment["judged"],
        f"alignment_kept_at_{k}": part["after"][k]["kept"],
        **{
            f"alignment_{level}_at_{k}_{time}": part[time][k][level]
            for time in ("before", "after")
            for level in REGIONS
        },
        "alignment_frontier_efficiency": alignment["efficiency"],
    }
