"""The report's section about rankers: what it says when codes help, harm, or make no difference that can be told."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from lgsid.artifact import RunFolder, read_json, write_json
from lgsid.config import ReportConfig, RunConfig
from lgsid.errors import ArtifactError
from lgsid.evaluate.document import Figure, KeyFigures, Table
from lgsid.evaluate.rank_charts import Gain, gain_chart, signed
from lgsid.evaluate.rank_section import rank_section
from lgsid.evaluate.rank_verdicts import rank_key_figure, rank_verdicts
from lgsid.evaluate.results import load_results
from lgsid.evaluate.stage import measure_neighbours, write_report
from lgsid.evaluate.summary import summary_section
from lgsid.rank.bootstrap import bootstrap_auc
from lgsid.rank.metrics import Samples, measure

from .conftest import FakeRun

CONFIG = RunConfig(name="toy", report=ReportConfig(neighbours=(2,)))
REQUESTS, CANDIDATES = 200, 5


def samples_of(seed: int) -> Samples:
    rng = np.random.default_rng(seed)
    count = REQUESTS * CANDIDATES
    return Samples(
        label_S=np.arange(count) % CANDIDATES == 0,
        user_S=np.repeat(rng.integers(0, 40, REQUESTS), CANDIDATES),
        request_S=np.repeat(np.arange(REQUESTS), CANDIDATES),
        distance_km_S=rng.uniform(0, 20, count),
        seen_S=rng.integers(0, 30, count),
        first_visit_S=np.repeat(rng.random(REQUESTS) < 0.5, CANDIDATES),
    )


def ranking(effects: dict[str, float], baseline: float = 0.2) -> dict[str, Any]:
    """What `4_rank/metrics.json` holds; the codes add so much to the scores of a ranker's positives."""
    rng, known = np.random.default_rng(0), samples_of(1)
    rankers, gains, courses = {}, {}, {}
    for name, effect in effects.items():
        noise = rng.standard_normal(len(known.label_S)).astype(np.float32)
        scores = {
            name: [noise + (1 + effect) * known.label_S - 1.5],
            f"{name}_without_sid": [noise + known.label_S - 1.5],
        }
        for ranker, (score_S,) in scores.items():
            rankers[ranker] = measure(score_S, known)
            courses[ranker] = {
                "stopped_early": False,
                "validations": [
                    {"step": step, "epoch": step / 2, "metrics": {"score": 0.6 + 0.1 * (step == 1)}}
                    for step in range(4)
                ],
            }
        found = bootstrap_auc(scores, known.label_S, known.user_S, replicates=100)
        gains[name] = found.difference(name, f"{name}_without_sid").to_json()
    revisit_S = rng.standard_normal(len(known.label_S)) + baseline * known.label_S
    counts = {"requests": {"train": 5_000, "test": REQUESTS}, "impression_share": 0.0}
    return {
        "samples": counts, "training": courses, "rankers": rankers, "gain_of_sid": gains,
        "baselines": {"revisit": measure(revisit_S, known, logits=False)},
    }  # fmt: skip


def words(found: dict[str, Any]) -> str:
    """All text of the section, paragraphs only."""
    blocks = rank_section(CONFIG, found).blocks
    spans = [span for block in blocks for span in getattr(block, "spans", ())]
    return "".join(span if isinstance(span, str) else span.text for span in spans)


def tables(found: dict[str, Any]) -> dict[str, Table]:
    return {block.caption: block for block in rank_section(CONFIG, found).blocks if isinstance(block, Table)}


def test_it_says_what_codes_do() -> None:
    said = words(ranking({"din": 1.5, "sim": -1.5, "eta": 0.0}))
    assert re.search(r"The codes help DIN \(\+0\.\d+, interval \+0\.\d+ to \+0\.\d+\)\.", said)
    assert re.search(r"The codes do harm to SIM \(−0\.\d+, interval −0\.\d+ to −0\.\d+\)\.", said)
    assert re.search(r"No difference can be told for ETA", said)
    assert "Codes say little that is new" in said
    assert "Codes say little that is new" not in words(ranking({"din": 1.5}))


def test_tables_hold_the_figures_of_all() -> None:
    found = ranking({"din": 1.5})
    names = ["DIN, with codes", "DIN, without codes", "visited before"]
    of = tables(found)
    first = of["Rankers and scores without training, on the test requests"]
    assert [row[0] for row in first.rows] == names
    figures = found["rankers"]["din"]
    assert first.rows[0][1:] == tuple(f"{figures[name]:.3f}" for name in ("auc", "gauc", "log_loss"))
    assert first.rows[2][3] == "–"  # what is no probability has no log loss
    bands = of["AUC among items at one distance from the user"]
    assert bands.columns[1:] == ("0 – 1 km", "1 – 2 km", "2 – 5 km", "5 – 10 km", "from 10 km")
    assert bands.rows[0][1:] == tuple(str(band["positives"]) for band in figures["by_distance"]["bands"])
    assert bands.rows[1][5] == f"{figures['by_distance']['bands'][4]['auc']:.3f}"
    new = of["AUC by what is new"]
    assert new.rows[0][1] == str(figures["first_visits"]["positives"])
    assert new.rows[1][1] == f"{figures['first_visits']['auc']:.3f}"
    assert [row[0] for row in of["Are the probabilities right?"].rows] == names[:2]


def test_a_ranker_below_a_baseline_is_named() -> None:
    good, poor = ranking({"din": 1.5}), ranking({"din": 1.5}, baseline=9.0)
    assert "Every ranker is above it." in words(good)
    assert "Not above it: DIN." in words(poor)
    assert [verdict.status for verdict in rank_verdicts(good)] == ["good", "good", "good"]
    assert [verdict.status for verdict in rank_verdicts(poor)] == ["good", "look", "good"]
    assert next(verdict.status for verdict in rank_verdicts(ranking({"din": 1.5, "sim": 0.0}))) == "look"


def test_the_key_figure_is_that_of_the_best_ranker() -> None:
    found = ranking({"din": 0.5, "sim": 2.0})
    figure = rank_key_figure(found)
    assert figure is not None
    assert "SIM" in figure.label
    before, after = (found["rankers"][name]["auc"] for name in ("sim_without_sid", "sim"))
    assert figure.value == f"{before:.3f} → {after:.3f}"


def test_rankers_in_one_form_have_nothing_to_compare() -> None:
    found = ranking({"din": 1.0})
    del found["rankers"]["din_without_sid"], found["training"]["din_without_sid"]
    found["gain_of_sid"] = {}
    assert "nothing to tell the codes' part by" in words(found)
    assert not [block for block in rank_section(CONFIG, found).blocks if isinstance(block, Figure)]
    assert rank_key_figure(found) is None
    questions = [verdict.question for verdict in rank_verdicts(found)]
    assert questions == ["Are rankers better than scores without training?", "Have rankers learnt all they can?"]
    assert tables(found)["Rankers and scores without training, on the test requests"].rows[0][0] == "DIN"


def test_what_is_not_defined_is_a_dash_or_left_out() -> None:
    found = ranking({"din": 1.5})
    for figures in (*found["rankers"].values(), *found["baselines"].values()):
        figures |= {"by_distance": None, "by_popularity": None, "cold": None, "calibration": None, "gauc": None}
    assert set(tables(found)) == {"Rankers and scores without training, on the test requests", "AUC by what is new"}
    assert tables(found)["AUC by what is new"].rows[1][3] == "–"


def test_the_chart_depends_on_the_figures_alone() -> None:
    gains = [Gain("DIN", 0.02, 0.01, 0.03), Gain("SIM", -0.0002, -0.001, 0.001)]
    assert gain_chart(gains, 0.95) == gain_chart(gains, 0.95)
    assert gain_chart(gains, 0.95) != gain_chart(gains[:1], 0.95)
    assert gain_chart(gains, 0.95).startswith(b"\x89PNG")
    assert [gain.sign for gain in (*gains, Gain("x", -0.02, -0.03, -0.01))] == [1, 0, -1]
    assert (signed(0.0123), signed(-0.0123), signed(0.00004), signed(0.0)) == ("+0.012", "−0.012", "+0.0000", "+0.0000")


# --- In the report ----------------------------------------------------------------------------------------------------
def pages(run: RunFolder) -> dict[str, bytes]:
    files = (path for path in run.path("5_report").rglob("*") if path.is_file())
    return {str(path.relative_to(run.root)): path.read_bytes() for path in files}


def test_a_report_has_the_section_where_rankers_were_trained_and_only_there(fake_run: FakeRun) -> None:
    run = fake_run()
    write_report(CONFIG, run)
    without = pages(run)
    assert b"Rankers" not in without["5_report/report.html"]
    write_json(run.path("4_rank", "metrics.json"), ranking({"din": 1.5}))
    write_report(CONFIG, run)
    source = run.path("5_report", "report.html").read_text(encoding="utf-8")
    assert (
        source.index('<section id="meaning"')
        < source.index('<section id="rankers"')
        < source.index('<section id="making"')
    )
    assert run.path("5_report", "figures/rank_gain.png").read_bytes().startswith(b"\x89PNG")
    questions = [verdict["question"] for verdict in read_json(run.path("5_report", "metrics.json"))["verdicts"]]
    assert questions[-3:] == [
        "Do the codes help the rankers?",
        "Are rankers better than scores without training?",
        "Have rankers learnt all they can?",
    ]
    run.path("4_rank", "metrics.json").unlink()
    run.path("5_report", "figures/rank_gain.png").unlink()
    write_report(CONFIG, run)
    assert pages(run) == without


def test_a_ranker_that_was_still_learning_is_named() -> None:
    found = ranking({"din": 1.5})
    found["training"]["din_without_sid"]["validations"][-1]["metrics"]["score"] = 0.71
    (verdict,) = (verdict for verdict in rank_verdicts(found) if "learnt" in verdict.question)
    assert verdict.status == "look"
    assert verdict.answer.startswith("DIN without codes rose by 4.8")
    assert "rank.epochs" in verdict.wanted


def test_there_are_still_eight_key_figures(fake_run: FakeRun) -> None:
    run = fake_run()
    write_json(run.path("4_rank", "metrics.json"), ranking({"din": 1.5}))
    results = load_results(run)
    blocks = summary_section(results, measure_neighbours(CONFIG, results)).blocks
    (figures,) = (block.figures for block in blocks if isinstance(block, KeyFigures))
    assert len(figures) == 8
    assert figures[-1].label == "AUC of DIN without and with the codes"


@pytest.mark.parametrize("content", [[], {"rankers": {}}])
def test_figures_of_another_kind_are_refused(fake_run: FakeRun, content: Any) -> None:
    run = fake_run()
    write_json(run.path("4_rank", "metrics.json"), content)
    with pytest.raises(ArtifactError, match=r"lacks the figures of rankers[\s\S]*lgsid rank"):
        load_results(run)
