"""Before and after alignment: what teaching the encoder geography gained, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lgsid.config import RunConfig
from lgsid.data.labels import REGIONS, region_path
from lgsid.evaluate.alignment_charts import frontier_chart, level_chart, reward_chart, training_chart, tsne, tsne_chart
from lgsid.evaluate.alignment_verdicts import PARTS
from lgsid.evaluate.document import (
    Block,
    Code,
    Details,
    Figure,
    Section,
    Table,
    kilometres,
    number,
    percent,
    table,
    text,
)
from lgsid.evaluate.oracle import OraclePoint
from lgsid.evaluate.results import Results
from lgsid.nearest import sample_queries

TSNE_ITEMS = 1_500
"""Items on the t-SNE maps."""
_NAMES = {
    "kept": "similarity kept",
    "province": "same province",
    "city": "same city",
    "district": "same district",
    "category_root": "same top category",
    "content": "content similarity",
}


def alignment_section(config: RunConfig, results: Results, alignment: Mapping[str, Any]) -> Section:
    """Tables and figures before and after alignment.

    Args:
        config: the run's configuration.
        results: what stages 1 to 3 wrote, alignment included.
        alignment: what `alignment_measures.measure_alignment` returned.
    """
    assert results.alignment is not None
    k, part = alignment["k"], alignment["parts"][alignment["judged"]]
    before, after = part["before"][k], part["after"][k]
    where = PARTS[alignment["judged"]]
    blocks: list[Block] = [
        _introduction(config, results),
        _part_table(alignment, k),
        text(_how_to_read(k)),
        Figure("alignment_levels", level_chart(before, after, int(k)),
               f"What the {k} nearest neighbours share with their query before and after alignment; {where}.",
               f"Bar chart before and after alignment: {_in_words(before, after)}."),
        *_frontier_blocks(alignment, after, where),
        *_further_k(alignment, k),
        *_without_location_blocks(alignment, k),
        _shape_table(alignment),
        text(_SHAPE_READ),
        *_tsne_blocks(config, results),
        *training_blocks(results.alignment.training),
        *reward_blocks(results.alignment.reward),
    ]  # fmt: skip
    return Section("alignment", "Before and after alignment", tuple(blocks))


_SHAPE_READ = (
    "NMI compares clusters of the vectors (k-means, as many as there are regions, at most 500) with the true regions: "
    "1 when the vectors fall apart exactly by region, 0 when they know nothing of it. The last rows tell collapse: "
    "when random pairs become alike, or few directions hold all differences, the vectors no longer tell items apart."
)


def _introduction(config: RunConfig, results: Results) -> Block:
    assert results.alignment is not None
    sizes = dict(results.alignment.parts.value_counts().iter_rows())
    kept_out = {
        "validation": "chose the checkpoint",
        "test": "were kept out of training to be judged on",
        "unseen": "lie in cities that training never saw",
    }
    others = "".join(f", {sizes[name]:,} {words}" for name, words in kept_out.items() if sizes.get(name))
    return text(
        "Alignment taught the encoder where places are (objective ", Code(config.align.alignment.objective),
        f"): {sizes.get('train', 0):,} items were trained on{others}. Here the unaligned encoder's vectors stand "
        "beside the aligned ones, for the same queries and with all items as candidates. Everything after this stage "
        "uses the aligned vectors.",
    )  # fmt: skip


def _how_to_read(k: str) -> str:
    return (
        f"Similarity kept: how alike query and neighbours are to the unaligned encoder, as a share of its own {k} "
        "nearest neighbours, which are the most alike there are. Content similarity: the cosine of their texts "
        "without any location. More neighbours in the same place leave fewer to choose from, so some of both "
        "must be lost."
    )


def _part_table(alignment: Mapping[str, Any], k: str) -> Table:
    rows = [
        (f"{_first_upper(PARTS[name])} ({part['queries']:,} queries)", time, part[time][k])
        for name in PARTS
        if (part := alignment["parts"].get(name)) is not None
        for time in ("before", "after")
    ]
    return _table(f"The {k} nearest neighbours before and after alignment", "queries", rows)


def _table(caption: str, first: str, rows: Sequence[tuple[str, str, Mapping[str, Any]]]) -> Table:
    """Rows of (label, before or after, figures), with the columns that are known."""
    shown = [key for key in _NAMES if any(figures[key] is not None for _, _, figures in rows)]
    columns = [first, "vectors", *(_NAMES[key] for key in shown), "mean distance"]
    cells = [
        [label if time == "before" or number == 0 or rows[number - 1][0] != label else "", time]
        + [_cell(key, figures[key]) for key in shown]
        + [kilometres(figures["distance_km"])]
        for number, (label, time, figures) in enumerate(rows)
    ]
    return table(caption, columns, cells, columns[2:])


def _cell(key: str, value: float | None) -> str:
    return ("–" if value is None else f"{value:.3f}") if key == "content" else percent(value)


def _first_upper(words: str) -> str:
    return words[0].upper() + words[1:]


def _in_words(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    levels = [level for level in REGIONS if before[level] is not None]
    shares = [f"same {level} {percent(before[level])} to {percent(after[level])}" for level in levels]
    return ", ".join([*shares, f"similarity kept {percent(after['kept'])}"])


def _frontier_blocks(alignment: Mapping[str, Any], after: Mapping[str, Any], where: str) -> list[Block]:
    points = [OraclePoint(**point) for point in alignment["oracle"]]
    if after["district"] is None:
        return []
    chart = frontier_chart(points, {"this run": [(after["kept"], after["district"])]}, int(alignment["k"]))
    reached = alignment["efficiency"]
    words = "" if reached is None else f" This run reached {percent(reached)} of the gain possible at its loss."
    return [
        text(
            "What could be had at best? For every query the oracle ranks all items by original similarity plus a bonus "
            "for the same district. No vectors can hold more district neighbours at the same similarity, so the "
            f"bonus, from none to large, draws the limit.{words}"
        ),
        Figure("alignment_frontier", chart,
               f"Share of neighbours in the same district against the original similarity kept; {where}. The grey area "
               "is out of reach for any vectors.",
               f"Line chart: the oracle's frontier, and this run at {percent(after['kept'])} similarity kept and "
               f"{percent(after['district'])} in the same district."),
    ]  # fmt: skip


def _further_k(alignment: Mapping[str, Any], first: str) -> list[Block]:
    part = alignment["parts"][alignment["judged"]]
    rows = [(f"K = {k}", time, part[time][k]) for k in part["before"] if k != first for time in ("before", "after")]
    if not rows:
        return []
    where = PARTS[alignment["judged"]]
    return [Details("Other numbers of neighbours", (_table(f"{_first_upper(where)}, by K", "neighbours", rows),))]


def _without_location_blocks(alignment: Mapping[str, Any], k: str) -> list[Block]:
    rows = [
        (_first_upper(PARTS[name]), time, figures[k])
        for name in PARTS
        if name in alignment["parts"]
        for time, figures in alignment["parts"][name].get("without_location", {}).items()
    ]
    if not rows:
        return []
    return [
        text(
            "Is geography learned or only read? Here the query is an item's text without its location, and the "
            "candidates are the catalogue with locations, the item itself left out. Whatever lies in the same place "
            "was found from the content alone: names that tell, chains, local kinds of food."
        ),
        _table(f"Queries that do not say where they are: {k} nearest neighbours", "queries", rows),
    ]


def _shape_table(alignment: Mapping[str, Any]) -> Table:
    nmi, spread = alignment["nmi"], alignment["spread"]
    rows = [
        [f"NMI of clusters and {level}", *(number(nmi[time][level], 2) for time in ("before", "after"))]
        for level in REGIONS
        if nmi["before"][level] is not None
    ]
    rows += [
        [name, *(number(spread[time][key], digits) for time in ("before", "after"))]
        for key, name, digits in (
            ("random_cosine", "mean cosine of random pairs", 2),
            ("effective_rank", "directions in use (effective rank)", 3),
        )
    ]
    return table("The shape of the vectors, all items", ["measure", "before", "after"], rows, ["before", "after"])


def _tsne_blocks(config: RunConfig, results: Results) -> list[Block]:
    """One figure for each known level: the same items on the same two maps, coloured by their regions."""
    assert results.alignment is not None
    rows = sample_queries(len(results.items), TSNE_ITEMS, config.seed)
    if len(rows) < 4:
        return []
    before, after = (
        tsne(emb_ND[rows], config.seed)
        for emb_ND in (results.embeddings(results.alignment.reference_path), results.embeddings())
    )
    blocks: list[Block] = []
    for depth, level in enumerate(REGIONS, start=1):
        regions = region_path(results.items[rows.tolist()], depth)
        if regions.drop_nulls().n_unique() < 2:
            continue
        caption = f"{len(rows):,} items on a map of their vectors (t-SNE: alike beside alike), coloured by {level}."
        blocks.append(
            Figure(f"alignment_tsne_{level}", tsne_chart(before, after, regions.to_list()), caption,
                   f"Two scatter plots, before and after alignment. {caption}")
        )  # fmt: skip
    return blocks


def training_blocks(training: Mapping[str, Any]) -> list[Block]:
    """The course of training as a chart; nothing where there was no validation.

    Args:
        training: `2_align/training.json`: the history of the trainer, by itself or under "history".
    """
    course = training.get("history", training)
    rows = [{"step": row["step"], **row.get("metrics", row)} for row in course.get("validations", [])]
    validations = [{key: value for key, value in row.items() if value is not None} for row in rows]
    if not validations or any("score" not in row for row in validations):
        return []
    records = course.get("records", course.get("steps"))
    known = [row for row in records if row["loss"] is not None] if isinstance(records, list) else []
    best = max(validations, key=lambda row: row["score"])
    caption = (
        "Figures of the validation items and training loss over the steps of alignment. The weights of step "
        f"{best['step']:,} scored best and were kept."
    )
    chart = training_chart(validations, [(row["step"], row["loss"]) for row in known])
    return [Figure("alignment_training", chart, caption, f"Line chart. {caption}")]


def reward_blocks(reward: Mapping[str, Any] | None) -> list[Block]:
    """Accuracy of the reward model, by distance band, its calibration and losses; nothing where there is none.

    Args:
        reward: `2_align/reward.json` (`lgsid.align.ordering.RewardReport`).
    """
    if reward is None:
        return []
    new, trained = reward["held_out"], reward["train"]
    bands = [
        (_band_name(known), old["accuracy"], known["accuracy"])
        for old, known in zip(trained["bands"], new["bands"], strict=True)
    ]
    calibration = [(found["predicted"], found["label"]) for found in reward["calibration"]]
    losses = {"training": reward["train_loss"], "new": reward["held_out_loss"]}
    shown = ", ".join(f"{name} {percent(share)}" for name, _, share in bands)
    return [
        text(
            "Preferences came from a reward model, which scores how near a place is to an item from their prompts. It "
            f"was fitted on {reward['anchors']['train']:,} items (anchors) and measured on "
            f"{reward['anchors']['held_out']:,} others, by how often it scores the nearer of two places higher. Where "
            f"two prompts name the same place, no reward can know; chance is {percent(0.5, 0)}."
        ),
        _reward_table(reward),
        Figure("alignment_reward", reward_chart(bands, calibration, losses),
               "The reward model. Left: pairs in the right order, by how much nearer the nearer place is, where the "
               "prompts differ. Right: mean scores against mean soft labels of new anchors (on the dashed line they "
               "agree), and the loss by epoch (blue: new anchors).",
               f"Bar chart of pairs in order for new anchors: {shown}. Line charts of calibration and loss."),
    ]  # fmt: skip


def _reward_table(reward: Mapping[str, Any]) -> Table:
    names = {
        "train": "training anchors, other places written into their prompts",
        "held_out": "new anchors, the same",
        "held_out_true": "new anchors, other items' own prompts (as preferences are made)",
        "region_ceiling": "new anchors, if every region's centre were known and nothing else",
    }
    rows = [
        [name, percent(reward[key]["accuracy"]), percent(reward[key]["told_accuracy"])]
        for key, name in names.items()
        if reward.get(key) is not None
    ]
    columns = ["lists", "all pairs", "pairs whose prompts differ"]
    return table("Pairs in the right order", columns, rows, columns[1:])


def _band_name(band: Mapping[str, Any]) -> str:
    if band["to_km"] is None:
        return f"over {kilometres(band['from_km'])}"
    return f"up to {kilometres(band['to_km'])}"
