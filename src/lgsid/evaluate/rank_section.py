"""Rankers with and without the codes among what they know: does it help, where, and for whom?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lgsid.config import RunConfig
from lgsid.evaluate.document import Block, Code, Details, Figure, Section, Strong, Table, number, percent, table, text
from lgsid.evaluate.rank_charts import Gain, gain_chart, signed
from lgsid.evaluate.rank_verdicts import BASELINES, best_baseline, gains_of, ranker_name, with_codes
from lgsid.rank.stage import WITHOUT

_SUMS = {1: "The codes help", -1: "The codes do harm", 0: "No difference can be told"}


def rank_section(config: RunConfig, ranking: Mapping[str, Any]) -> Section:
    """Tables and a chart of the rankers of a run.

    Args:
        config: the run's configuration.
        ranking: the content of ``4_rank/metrics.json``.
    """
    blocks: list[Block] = [
        text(_introduction(config, ranking)),
        *_gain_blocks(ranking),
        _auc_table(ranking),
        text(
            "AUC is the chance that a visit scores above an item that was not chosen; 0.5 is guessing. GAUC is the "
            "same within each user, averaged: it asks for the right order of one user's items. Log loss also asks for "
            "the right probabilities; the scores at the end of the table are no probabilities."
        ),
        *_baseline_words(ranking),
        *_distance_table(ranking),
        *_novelty_blocks(ranking),
        *_calibration_blocks(ranking),
        *_popularity_blocks(ranking),
        *_training_blocks(ranking),
    ]
    return Section("rankers", "Rankers that use the codes", tuple(blocks))


def _introduction(config: RunConfig, ranking: Mapping[str, Any]) -> str:
    requests, options = ranking["samples"]["requests"], config.rank.samples
    shown = ranking["samples"].get("impression_share", 0.0)
    drawn = f"half from within {options.reach_km:g} km of the user, half from the user's city"
    if shown:
        drawn = f"{percent(shown)} of them items that the user was shown; the others {drawn}"
    return (
        f"A ranker puts first what a user will visit next. It learnt from {requests['train']:,} requests and is judged "
        f"on {requests['test']:,} later ones. A request is a visit beside {options.negatives} items that were not "
        f"chosen ({drawn}). Each ranker was trained twice, with the codes and without; all else is the same."
    )


# --- What the codes add -----------------------------------------------------------------------------------------------
def _gain_blocks(ranking: Mapping[str, Any]) -> Iterator[Block]:
    gains = gains_of(ranking)
    if not gains:
        yield text("The rankers were trained in one form only, so there is nothing to tell the codes' part by.")
        return
    first = next(iter(ranking["gain_of_sid"].values()))
    yield text(*_gain_words(gains))
    yield Figure(
        "rank_gain", gain_chart(gains, first["confidence"]),
        f"AUC with the codes less AUC without, and its {percent(first['confidence'], 0)} interval: "
        f"{first['replicates']:,} draws of the {first['users']:,} users of the test requests. Another seed of the "
        "training moves the dots too; the interval does not cover that.",
        f"Dots with intervals: {'; '.join(map(_in_words, gains))}.",
    )  # fmt: skip


def _gain_words(gains: list[Gain]) -> list[Strong | str]:
    """One sentence for each outcome, and what to do where codes do not help."""
    spans: list[Strong | str] = []
    for sign in (1, -1, 0):
        of_sign = [gain for gain in gains if gain.sign == sign]
        if of_sign:
            between = " for " if sign == 0 else " to " if sign < 0 else " "
            names = ", ".join(map(_in_words, of_sign))
            spans += [Strong(_SUMS[sign]), f"{between}{names}. "]
    if any(gain.sign <= 0 for gain in gains):
        spans.append(
            "Codes say little that is new where IDs and labels already know every item well, and they are learnt badly "
            "from few requests; the tables below say for which visits it is so."
        )
    return spans


def _in_words(gain: Gain) -> str:
    return f"{gain.name} ({signed(gain.difference)}, interval {signed(gain.low)} to {signed(gain.high)})"


# --- Tables -----------------------------------------------------------------------------------------------------------
def _rows(ranking: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Name and figures of every ranker, with codes before without, and of what needs no training."""
    yield from _ranker_rows(ranking)
    for name, figures in ranking["baselines"].items():
        yield BASELINES.get(name, name), figures


def _ranker_rows(ranking: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    compared = any(name.endswith(WITHOUT) for name in ranking["rankers"])
    for name, figures in ranking["rankers"].items():
        ending = "" if not compared else ", without codes" if name.endswith(WITHOUT) else ", with codes"
        yield ranker_name(name) + ending, figures


def _auc(figures: Mapping[str, Any] | None) -> str:
    """An AUC with three decimals; a dash where it is not defined."""
    return _three(None if figures is None else figures["auc"])


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _auc_table(ranking: Mapping[str, Any]) -> Table:
    columns = ["scores", "AUC", "GAUC", "log loss"]
    rows = [
        [name, _auc(figures), _three(figures["gauc"]), _three(figures["log_loss"])] for name, figures in _rows(ranking)
    ]
    return table("Rankers and scores without training, on the test requests", columns, rows, columns[1:])


def _baseline_words(ranking: Mapping[str, Any]) -> list[Block]:
    best, rankers = best_baseline(ranking), with_codes(ranking)
    if best is None or not rankers:
        return []
    below = [ranker_name(name) for name, figures in rankers.items() if figures["auc"] <= best[1]]
    words = f"The best score without training is {best[0]} (AUC {best[1]:.3f}). "
    if not below:
        return [text(words + "Every ranker is above it.")]
    return [text(
        words, Strong(f"Not above it: {', '.join(below)}."),
        " That points to too few requests or too little training; see how training went, below.",
    )]  # fmt: skip


def _distance_table(ranking: Mapping[str, Any]) -> list[Block]:
    found = next((figures["by_distance"] for _, figures in _rows(ranking) if figures["by_distance"]), None)
    if found is None:
        return []
    columns = ["scores", *(_band(band) for band in found["bands"])]
    rows = [
        [name, *(_auc(band) for band in figures["by_distance"]["bands"])]
        for name, figures in _rows(ranking)
        if figures["by_distance"]
    ]
    visits = ["visits", *(number(band["positives"]) for band in found["bands"])]
    return [table("AUC among items at one distance from the user", columns, [visits, *rows], columns[1:])]


def _band(band: Mapping[str, Any]) -> str:
    if band["to_km"] is None:
        return f"from {band['from_km']:g} km"
    return f"{band['from_km']:g} – {band['to_km']:g} km"


def _novelty_blocks(ranking: Mapping[str, Any]) -> list[Block]:
    parts = {"first_visits": "first visits", "revisits": "revisits", "cold": "cold items"}
    columns = ["scores", *parts.values()]
    rows = [[name, *(_auc(figures.get(part)) for part in parts)] for name, figures in _rows(ranking)]
    figures = next(figures for _, figures in _rows(ranking))
    visits = [(figures.get(part) or {}).get("positives") for part in parts]
    return [
        table("AUC by what is new", columns, [["visits", *map(number, visits)], *rows], columns[1:]),
        text(
            "On a first visit the user's own history does not hold the item. Cold items were not visited by anyone in "
            "the training period; there, the items that were not chosen are cold as well. No embedding of an ID was "
            "trained for them, so labels and codes must tell them apart, or that the user has been there since."
        ),
    ]  # fmt: skip


def _calibration_blocks(ranking: Mapping[str, Any]) -> list[Block]:
    columns = ["scores", "mean prediction", "visited", "prediction / visited", "calibration error"]
    rows = [
        [name, *(percent(found[key]) for key in ("predicted", "observed")), f"{found['ratio']:.2f}",
         percent(found["error"])]
        for name, figures in _ranker_rows(ranking)
        if (found := figures["calibration"]) is not None and found["ratio"] is not None
    ]  # fmt: skip
    if not rows:
        return []
    return [
        table("Are the probabilities right?", columns, rows, columns[1:]),
        text(
            f"Calibration error is the mean distance between predicted and observed share over {_bins(ranking)} bins. "
            "The probabilities are about these requests, in which so many items beside each visit were drawn; in use "
            "they need a correction for that."
        ),
    ]


def _bins(ranking: Mapping[str, Any]) -> int:
    return max(len((figures["calibration"] or {}).get("bins", ())) for _, figures in _ranker_rows(ranking))


def _popularity_blocks(ranking: Mapping[str, Any]) -> list[Block]:
    found = next((figures["by_popularity"] for _, figures in _rows(ranking) if figures["by_popularity"]), None)
    if not found:
        return []
    bands = [
        number(band["from_visits"]) if band["from_visits"] == band["to_visits"]
        else f"{band['from_visits']:,} – {band['to_visits']:,}"
        for band in found
    ]  # fmt: skip
    rows = [
        [name, *map(_auc, figures["by_popularity"])] for name, figures in _rows(ranking) if figures["by_popularity"]
    ]
    caption = "AUC among items with so many visits in the training period"
    return [Details("By popularity", (table(caption, ["scores", *bands], rows, bands),))]


def _training_blocks(ranking: Mapping[str, Any]) -> list[Block]:
    columns = ["ranker", "best validation AUC", "after epochs", "of epochs"]
    rows = []
    for (name, _), course in zip(_ranker_rows(ranking), ranking["training"].values(), strict=True):
        best = max(course["validations"], key=lambda validation: validation["metrics"]["score"])
        last = course["validations"][-1]
        rows.append([name, _three(best["metrics"]["score"]), f"{best['epoch']:.2g}", f"{last['epoch']:.2g}"])
    return [Details("How training went", (table("Validations", columns, rows, columns[1:]), *_unfinished(rows)))]


def _unfinished(rows: list[list[str]]) -> list[Block]:
    """Which rankers were still getting better at the end."""
    names = [name for name, _, best, last in rows if best == last]
    if not names:
        return []
    words = f"The best validation is the last one for {'; '.join(names)}: more epochs may do better ("
    return [text(words, Code("rank.epochs"), ").")]
