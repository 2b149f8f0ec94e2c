"""Generative recommenders: what they find, what of it can be reached, and whether simpler things find more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lgsid.config import RunConfig
from lgsid.evaluate.document import Block, Code, Details, Section, Strong, Table, Verdict, number, percent, table, text
from lgsid.evaluate.rank_verdicts import BASELINES
from lgsid.evaluate.training_verdicts import training_verdict

NAMES = {"tiger": "TIGER", "onerec": "OneRec", "sasrec": "SASRec (no codes)"}
"""What the trained recommenders are called."""
_WRITERS = ("tiger", "onerec")
_WHEN = ("before", "after")
_RANKED = ("hit@5", "ndcg@5", "hit@10", "ndcg@10")


def generate_section(config: RunConfig, generation: Mapping[str, Any]) -> Section:
    """Tables of the recommenders of a run.

    Args:
        config: the run's configuration.
        generation: the content of ``4_generate/metrics.json``.
    """
    rows = generation["recommenders"]
    blocks: list[Block] = [
        text(_introduction(config, generation)),
        _found_table("Next items among the whole catalogue", rows, "catalogue"),
        _found_table(f"Next items among those within {config.generate.reach_km:g} km of the user", rows, "reachable"),
        *_new_table(rows),
        text(
            "Hit@5 is the share of requests whose next item is among the first five; NDCG@5 also asks for it to be "
            "first. They count items: two items never share a SID. On a first visit the user has not been to the item "
            "before; among new places only what the user has never been to may be named, and only such requests count."
        ),
        text(*_comparison(rows)),
        _reach_table(rows),
        text(*_reach_words(config, rows)),
        *_alignment_blocks(generation),
        Details("How training went", tuple(_training_blocks(generation))),
    ]
    return Section("generators", "Generative recommenders", tuple(blocks))


def _introduction(config: RunConfig, generation: Mapping[str, Any]) -> str:
    first = next(iter(generation["recommenders"].values()))
    how = {
        "global_time": "Requests are visits after a moment that nothing was learnt from beyond.",
        "leave_one_out": "Requests are the last visits of all users; others' later visits were learnt from.",
    }[generation["protocol"]]
    known = " and how far what lies under each token is from them" if config.generate.nearness else ""
    return (
        f"A generator writes the SID of what a user will visit next, token by token, from the SIDs of their last "
        f"{config.generate.history} visits{known}. It can only write SIDs that exist, and where it is asked to, only "
        f"of items within reach. {how} {first['requests']:,} requests were answered."
    )


def recommender_name(name: str) -> str:
    """What a recommender is called."""
    return NAMES.get(name, BASELINES.get(name, name))


def _found_table(caption: str, rows: Mapping[str, Any], mode: str) -> Table:
    columns = ["recommender", "Hit@5", "NDCG@5", "Hit@10", "Hit@5, revisits", "Hit@5, first visits"]
    content = []
    for name, figures in rows.items():
        found = figures[mode]
        content.append([
            recommender_name(name),
            *(percent(found["all"][key]) for key in ("hit@5", "ndcg@5", "hit@10")),
            percent(found["revisits"]["hit@5"]),
            percent(found["first_visits"]["hit@5"]),
        ])  # fmt: skip
    return table(caption, columns, content, columns[1:])


def _new_table(rows: Mapping[str, Any]) -> list[Block]:
    """Nothing where nobody went anywhere new, or the run is older than these figures."""
    if not all("new" in figures for figures in rows.values()):
        return []
    columns = ["recommender", "Hit@5", "NDCG@5", "Hit@10", "NDCG@10"]
    content = [
        [recommender_name(name), *(percent(figures["new"]["all"][key]) for key in _RANKED)]
        for name, figures in rows.items()
    ]
    return [table("New places: next items among those within reach where the user has never been", columns, content,
                  columns[1:])]  # fmt: skip


def best_of(rows: Mapping[str, Any], names: tuple[str, ...] | Mapping[str, str], mode: str) -> tuple[str, float] | None:
    """Name and Hit@5 of the best of some recommenders."""
    found = {name: rows[name][mode]["all"]["hit@5"] for name in names if name in rows}
    if not found:
        return None
    name = max(found, key=lambda name: found[name])
    return name, found[name]


def _comparison(rows: Mapping[str, Any]) -> list[Strong | str]:
    baseline = best_of(rows, BASELINES, "catalogue")
    writers = [name for name in _WRITERS if name in rows]
    if baseline is None or not writers:
        return []
    words: list[Strong | str] = [
        f"The best of what needs no training is {recommender_name(baseline[0])} ({percent(baseline[1])}). "
    ]
    below = [name for name in writers if rows[name]["catalogue"]["all"]["hit@5"] <= baseline[1]]
    if below:
        words += [Strong(f"Not above it: {', '.join(map(recommender_name, below))}."),
                  " That points to too few visits or too little training. "]  # fmt: skip
    else:
        words.append("Every generator is above it. ")
    if "sasrec" in rows:
        hit = rows["sasrec"]["catalogue"]["all"]["hit@5"]
        words.append(
            f"SASRec scores every item by an embedding of its own ({percent(hit)}): where all items are well known, "
            "that is hard to beat; it cannot name an item that came after its training."
        )
    return words


def _reach_table(rows: Mapping[str, Any]) -> Table:
    columns = ["recommender", "beyond reach, whole catalogue", "beyond reach, reachable-first", "no item, without trie"]
    content = [
        [recommender_name(name), percent(figures["catalogue"]["unreachable_share"]),
         percent(figures["reachable"]["unreachable_share"]), percent(figures.get("invalid_share_without_trie"))]
        for name, figures in rows.items()
    ]  # fmt: skip
    return table("What of the named items could not be reached, or did not exist", columns, content, columns[1:])


def _reach_words(config: RunConfig, rows: Mapping[str, Any]) -> list[Code | str]:
    share = next(iter(rows.values()))["target_within_reach_share"]
    return [
        f"{percent(share)} of the requests' next items lie within {config.generate.reach_km:g} km (",
        Code("generate.reach_km"),
        "): no recommender that stays in reach can find the others. What is beyond reach with reachable-first is "
        "nothing by construction. Without the trie a model may write codes that no item has.",
    ]


def _alignment_blocks(generation: Mapping[str, Any]) -> Iterator[Block]:
    """What the rounds of OneRec's preference alignment did to its lists, where there were any."""
    rounds = generation["training"].get("onerec", {}).get("alignment", {}).get("rounds", [])
    if not rounds:
        return
    columns = ["round", "pairs", "reward before", "reward after", "NDCG@10 before", "NDCG@10 after", "kept"]
    content = [
        [str(place), number(found["pairs"]),
         *(number(found[when][key]) if when in found else "–" for key in ("reward", "ndcg") for when in _WHEN),
         "yes" if found["kept"] else "no"]
        for place, found in enumerate(rounds, start=1)
    ]  # fmt: skip
    yield table("Preference alignment of OneRec, on validation requests", columns, content, columns[1:])
    yield text(
        "The reward is of the lists that OneRec writes by itself; new parameters are kept where it rises and the "
        "ranking of the next item stays.",
    )


def _training_blocks(generation: Mapping[str, Any]) -> Iterator[Block]:
    columns = ["recommender", "best validation NDCG@10", "after epochs", "of epochs"]
    content = []
    for name, course in generation["training"].items():
        best = max(course["validations"], key=lambda validation: validation["metrics"]["score"])
        last = course["validations"][-1]
        content.append([
            recommender_name(name), number(best["metrics"]["score"]), f"{best['epoch']:.2g}", f"{last['epoch']:.2g}",
        ])  # fmt: skip
    yield table("Validations", columns, content, columns[1:])
    late = [row[0] for row in content if row[2] == row[3]]
    if late:
        yield text(f"The best validation is the last one for {', '.join(late)}: more epochs may do better (",
                   Code("generate.epochs"), ").")  # fmt: skip


def generate_verdicts(generation: Mapping[str, Any]) -> Iterator[Verdict]:
    """One verdict per question that has an answer.

    Args:
        generation: the content of ``4_generate/metrics.json``.
    """
    rows = generation["recommenders"]
    baseline, writer = best_of(rows, BASELINES, "catalogue"), best_of(rows, _WRITERS, "catalogue")
    if baseline is not None and writer is not None:
        yield Verdict(
            "good" if writer[1] > baseline[1] else "look", "Are generators better than what needs no training?",
            f"{recommender_name(writer[0])} {percent(writer[1])}; {recommender_name(baseline[0])} "
            f"{percent(baseline[1])}",
            "Hit@5 on the whole catalogue above that of the best baseline",
        )  # fmt: skip
    beyond = [rows[name]["reachable"]["unreachable_share"] for name in _WRITERS if name in rows]
    if beyond:
        worst = max(share or 0.0 for share in beyond)
        yield Verdict(
            "good" if worst == 0 else "look", "Can everything that is recommended be reached?",
            f"{percent(1 - worst)} with reachable-first decoding", "100 %",
        )  # fmt: skip
    question = "Have generators learnt all they can?"
    enough = training_verdict(question, generation["training"], recommender_name, "generate.epochs")
    if enough is not None:
        yield enough
