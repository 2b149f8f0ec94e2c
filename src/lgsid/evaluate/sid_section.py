"""The semantic IDs as codes: how well they are used, how many items shared one, and what they lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lgsid.evaluate.charts import coverage_radar, reconstruction_chart, usage_chart
from lgsid.evaluate.document import Block, Figure, Section, Table, number, percent, table, text
from lgsid.evaluate.results import Results
from lgsid.evaluate.usage import code_counts, coverage


def sid_section(results: Results) -> Section:
    """Figures by level, coverage, collisions and reconstruction."""
    metrics = results.sid_metrics
    counts = code_counts(results.codes, [level["codes"] for level in metrics["levels"]])
    covered = coverage(counts)
    half = ", ".join(f"{codes} on level {level + 1}" for level, codes in enumerate(covered[0.5]))
    blocks: list[Block] = [
        text(
            "A level is healthy when its codes are in use (utilisation) and share the items evenly: entropy in bits, "
            "perplexity (2 to the entropy: as if so many codes were used equally) and Gini (0: all equal, 1: one code "
            "has all)."
        ),
        _level_table(metrics["levels"]),
        Figure("token_usage", usage_chart(counts),
               "Items per code on every level of the final SIDs, codes sorted by use; the dashed line is equal use. "
               "A line that falls steeply belongs to a level with few large codes.",
               "Line chart of items per code, sorted, for every level, on a logarithmic axis."),
        Figure("coverage", coverage_radar(covered, [level["codes"] for level in metrics["levels"]]),
               "Share of a level's codes that cover a share of the items, most used codes first; the closer to equal "
               "use (dashed), the better the level spreads the catalogue.",
               f"Radar chart of the share of codes needed by covered share and level. Half of the items need {half}."),
        _coverage_table(covered),
        *_collision_blocks(metrics),
        *_reconstruction_blocks(metrics),
    ]  # fmt: skip
    return Section("sids", "Semantic IDs: the codes", tuple(blocks))


def _level_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["level", "codes", "utilisation", "dead codes", "entropy", "perplexity", "Gini", "largest code"]
    rows = [
        [
            str(level["level"]),
            number(level["codes"]),
            percent(level["utilisation"]),
            number(round(level["codes"] * (1 - level["utilisation"]))),
            f"{level['entropy_bits']:.2f} bits",
            number(float(level["perplexity"])),
            f"{level['gini']:.2f}",
            percent(level["largest_share"]),
        ]
        for level in levels
    ]
    return table("Use of the codes by level, before SIDs were made unique", columns, rows, columns)


def _coverage_table(covered: Mapping[float, Sequence[int]]) -> Table:
    levels = range(len(next(iter(covered.values()))))
    shares = [f"{share:.0%} of the items" for share in covered]
    rows = [[str(level + 1), *(number(codes[level]) for codes in covered.values())] for level in levels]
    return table("Codes needed to cover a share of the items", ["level", *shares], rows, ["level", *shares])


def _collision_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    if metrics.get("collision_share") is None:
        return []
    how = "one more token" if metrics.get("extra_token") else "free codes of the last level, at the least cost"
    rows = [
        ["items that share their code with another item", percent(metrics["collision_share"]),
         percent(metrics.get("collision_share_final"))],
        ["1 - different codes / items", percent(metrics.get("collision_unique")), "–"],
    ]  # fmt: skip
    if metrics.get("collision_share_final") == 0:
        rows[1][2] = percent(0.0)
    moved = metrics.get("moved_share")
    moved_words = "" if moved is None else f" {percent(moved)} of the items were moved."
    return [
        table("Collisions, before and after SIDs were made unique", ["counted as", "before", "after"], rows,
              ["before", "after"]),
        text(f"Items whose code collided were given {how}.{moved_words}"),
    ]  # fmt: skip


def _reconstruction_blocks(metrics: Mapping[str, Any]) -> list[Block]:
    rebuilt = metrics.get("reconstruction", {})
    by_level = rebuilt.get("relative_by_level")
    if not by_level:
        return []
    after = rebuilt.get("relative_after_unique")
    words = f"Share of the embeddings' energy that is still missing after each level{_mse(rebuilt)}."
    shown = ", ".join(f"{percent(error)} after level {level + 1}" for level, error in enumerate(by_level))
    return [Figure("reconstruction", reconstruction_chart(by_level, after), words, f"Bar chart: {shown}.")]


def _mse(rebuilt: Mapping[str, Any]) -> str:
    return f"; mean squared error {rebuilt['mse']:.3g} per dimension" if rebuilt.get("mse") is not None else ""
