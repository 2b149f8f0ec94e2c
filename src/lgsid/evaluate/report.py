"""What the report says: its sections in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lgsid.config import RunConfig
from lgsid.evaluate.alignment_section import alignment_section
from lgsid.evaluate.case_study import study_case
from lgsid.evaluate.data_section import data_section
from lgsid.evaluate.document import Document
from lgsid.evaluate.embedding_section import embedding_section
from lgsid.evaluate.generate_section import generate_section
from lgsid.evaluate.making_section import making_section
from lgsid.evaluate.map_figures import map_figures
from lgsid.evaluate.meaning_section import meaning_section
from lgsid.evaluate.rank_section import rank_section
from lgsid.evaluate.results import Results
from lgsid.evaluate.sid_section import sid_section
from lgsid.evaluate.summary import summary_section


def build_report(
    config: RunConfig, results: Results, geography: Mapping[str, Any], alignment: Mapping[str, Any] | None = None
) -> Document:
    """The whole report of a run.

    Args:
        config: the run's configuration.
        results: what stages 1 to 4 wrote.
        geography: `neighbours.neighbour_geography` of the embeddings.
        alignment: `alignment_measures.measure_alignment`; None where the encoder was taken as it is.
    """
    maps = map_figures(results, config.report.map_points, config.seed)
    return Document(
        title=f"Geographic semantic IDs: {config.name}",
        subtitle="Report of a run of lgsid: from a catalogue to short codes that know what an item is and where it is.",
        sections=(
            summary_section(results, geography, alignment),
            data_section(results, config.seed),
            embedding_section(results, geography),
            *([alignment_section(config, results, alignment)] if alignment is not None else []),
            sid_section(results),
            meaning_section(results, maps, study_case(config, results)),
            *([rank_section(config, results.ranking)] if results.ranking is not None else []),
            *([generate_section(config, results.generation)] if results.generation is not None else []),
            making_section(config, results),
        ),
    )
