"""Stage 5: from a run's results to its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgsid.artifact import RunFolder, atomic_path, write_json, write_text
from lgsid.config import RunConfig
from lgsid.data.labels import REGIONS
from lgsid.errors import DataError
from lgsid.evaluate.alignment_measures import alignment_key_figures, measure_alignment
from lgsid.evaluate.codebook import render_codebook
from lgsid.evaluate.document import Document
from lgsid.evaluate.html import render_html
from lgsid.evaluate.markdown import FIGURES, render_markdown
from lgsid.evaluate.meaning_section import CODEBOOK
from lgsid.evaluate.neighbours import neighbour_geography
from lgsid.evaluate.report import build_report
from lgsid.evaluate.results import Results, load_results
from lgsid.evaluate.summary import distinct_sids, verdicts_of
from lgsid.evaluate.usage import code_counts, coverage
from lgsid.nearest import nearest_neighbours, sample_queries

STAGE = "5_report"


def write_report(config: RunConfig, run: RunFolder) -> Mapping[str, Any]:
    """Measure the neighbours, write the report and its figures.

    Writes `report.html` (one file, pictures inside), `report.md` with `figures/*.png`, the page of all
    tokens `codebook.html`, and `metrics.json`.

    Returns:
        the key figures: P/C/T@K of the smallest K, what alignment changed, what the verdicts say, and where the
        report is.

    Raises:
        ArtifactError: an earlier stage has not run, or its files do not fit together; names the command.
        DataError: there are fewer than two items.
    """
    results = load_results(run)
    geography = measure_neighbours(config, results)
    alignment = measure_alignment(config, results)
    document = build_report(config, results, geography, alignment)
    write_json(run.path(STAGE, "metrics.json"), _metrics(results, geography, alignment))
    _write(document, run)
    write_text(run.path(STAGE, CODEBOOK), render_codebook(config.name, results))
    return _key_figures(results, geography, alignment)


def measure_neighbours(config: RunConfig, results: Results) -> dict[str, Any]:
    """Neighbour geography P/C/T@K of the run's embeddings.

    Raises:
        DataError: there are fewer than two items.
    """
    if len(results.items) < 2:
        raise DataError(f"the report got {len(results.items)} items, neighbours need at least 2", "add items")
    queries_Q = sample_queries(len(results.items), config.report.neighbour_sample, config.seed)
    index_QK, _ = nearest_neighbours(results.embeddings(), queries_Q, max(config.report.neighbours))
    return neighbour_geography(results.items, queries_Q, index_QK, config.report.neighbours, config.seed)


def _metrics(results: Results, geography: Mapping[str, Any], alignment: Mapping[str, Any] | None) -> dict[str, Any]:
    counts = code_counts(results.codes, [level["codes"] for level in results.sid_metrics["levels"]])
    return {
        "neighbours": geography,
        **({} if alignment is None else {"alignment": alignment}),
        "codes_to_cover": {str(share): codes for share, codes in coverage(counts).items()},
        "distinct_sids": distinct_sids(results),
        "verdicts": [vars(verdict) for verdict in verdicts_of(results, geography, alignment)],
        "sid": results.sid_metrics,
    }


def _write(document: Document, run: RunFolder) -> None:
    for figure in document.figures():
        with atomic_path(run.path(STAGE, f"{FIGURES}/{figure.name}.png")) as temporary:
            temporary.write_bytes(figure.png)
    write_text(run.path(STAGE, "report.md"), render_markdown(document))
    write_text(run.path(STAGE, "report.html"), render_html(document))


def _key_figures(results: Results, geography: Mapping[str, Any], alignment: Mapping[str, Any] | None) -> dict[str, Any]:
    k, at = next(iter(geography["at"].items()))
    verdicts = verdicts_of(results, geography, alignment)
    return {
        **{f"{level}_at_{k}": at[level] for level in REGIONS},
        f"distance_km_at_{k}": at["distance_km"],
        **({} if alignment is None else alignment_key_figures(alignment)),
        "distinct_sids": distinct_sids(results),
        "verdicts_good": sum(verdict.status == "good" for verdict in verdicts),
        "verdicts_to_look_at": sum(verdict.status == "look" for verdict in verdicts),
        "report": f"{STAGE}/report.html",
    }
