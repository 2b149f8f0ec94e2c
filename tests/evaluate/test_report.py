"""The report stage on a fake run: complete, self-contained, reproducible, and clear about what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from lgsid.artifact import RunFolder, read_json, write_json
from lgsid.config import DataConfig, ReportConfig, RunConfig, load_run_config
from lgsid.errors import ArtifactError, ConfigError, DataError
from lgsid.evaluate.document import Table
from lgsid.evaluate.making_section import making_section
from lgsid.evaluate.neighbours import neighbour_geography
from lgsid.evaluate.results import load_results
from lgsid.evaluate.stage import measure_neighbours, write_report
from lgsid.evaluate.summary import verdicts_of
from lgsid.nearest import nearest_neighbours, sample_queries

from .conftest import FakeRun, toy_codes, toy_items, toy_metrics, write_run

CONFIG = RunConfig(name="toy", report=ReportConfig(neighbours=(2, 5)))
FILES = {
    "1_data/items.parquet": "lgsid data",
    "1_data/checks.json": "lgsid data",
    "2_align/embeddings.safetensors": "lgsid align",
    "3_sid/sids.parquet": "lgsid tokenize",
    "3_sid/metrics.json": "lgsid tokenize",
    "3_sid/tokenizer/tokens.json": "lgsid tokenize",
}


def read(run: RunFolder, name: str) -> str:
    return run.path("5_report", name).read_text(encoding="utf-8")


def verdicts(run: RunFolder) -> dict[str, str]:
    results = load_results(run)
    return {v.question: v.status for v in verdicts_of(results, measure_neighbours(CONFIG, results))}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Mapping[str, Any]]:
    """One run without events and its report, looked at by many tests."""
    items = toy_items()
    run = write_run(tmp_path_factory.mktemp("reported"), items, toy_codes(items), toy_metrics())
    return run, write_report(CONFIG, run)


def test_it_returns_the_key_figures_and_says_where_the_report_is(
    reported: tuple[RunFolder, Mapping[str, Any]],
) -> None:
    run, figures = reported
    assert (run.root / figures["report"]).is_file()
    measured = read_json(run.path("5_report", "metrics.json"))
    assert figures["province_at_2"] == measured["neighbours"]["at"]["2"]["province"]
    assert set(measured["neighbours"]["at"]) == {"2", "5"}
    assert figures["distinct_sids"] == 60
    assert measured["codes_to_cover"]["0.5"][0] == 2  # of three cities of equal size, two
    json.dumps(figures)  # JSON-able


def test_html_is_one_file_that_fetches_nothing(reported: tuple[RunFolder, Mapping[str, Any]]) -> None:
    source = read(reported[0], "report.html")
    references = re.findall(r"""\b(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)""", source)
    assert references
    beside = [reference for reference in references if not reference.startswith(("data:", "#"))]
    assert beside == ["codebook.html"]
    assert reported[0].path("5_report", "codebook.html").is_file()
    assert not re.search(r"<script|url\(|@import|https?://", source)
    assert source.count("data:image/png;base64,") == len(list(reported[0].path("5_report", "figures").glob("*.png")))


def test_catalogue_text_is_shown_and_never_markup(reported: tuple[RunFolder, Mapping[str, Any]]) -> None:
    source = read(reported[0], "report.html")
    assert "老王火锅" in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source
    assert "empty &lt;title&gt;" in source
    assert r"\<script\>alert(1)\</script\>" in read(reported[0], "report.md")


def test_markdown_shows_exactly_the_figures_beside_it(reported: tuple[RunFolder, Mapping[str, Any]]) -> None:
    run, _ = reported
    shown = re.findall(r"\]\(figures/([a-z0-9_]+\.png)\)", read(run, "report.md"))
    beside = {path.name for path in run.path("5_report", "figures").iterdir()}
    assert set(shown) == beside
    assert {"first_tokens.png", "first_tokens_1.png", "token_usage.png", "coverage.png", "neighbours.png",
            "hierarchy.png", "case_study.png"} <= beside  # fmt: skip


def test_anchors_of_the_contents_exist_once(reported: tuple[RunFolder, Mapping[str, Any]]) -> None:
    source = read(reported[0], "report.html")
    anchors = re.findall(r' id="([^"]+)"', source)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', source)) <= set(anchors)


def test_same_run_same_bytes_wherever_it_lies(reported: tuple[RunFolder, Mapping[str, Any]], tmp_path: Path) -> None:
    first, _ = reported
    items = toy_items()
    second = write_run(tmp_path / "elsewhere", items, toy_codes(items), toy_metrics())
    manifest = read_json(second.path("1_data", "manifest.json"))
    write_json(second.path("1_data", "manifest.json"), {**manifest, "wall_seconds": 99.0})  # a slower machine
    write_report(CONFIG, second)
    names = sorted(str(path.relative_to(first.root)) for path in first.path("5_report").rglob("*") if path.is_file())
    assert len(names) > 8
    for name in names:
        assert (first.root / name).read_bytes() == (second.root / name).read_bytes(), name


def test_it_says_how_it_was_made(reported: tuple[RunFolder, Mapping[str, Any]]) -> None:
    source = read(reported[0], "report.html")
    assert "lgsid run config.yaml --out runs/toy" in source
    assert "3.11.0" in source  # versions from the manifests
    assert "12.3" not in source  # no wall time unless asked for
    asked = CONFIG.model_copy(update={"report": ReportConfig(machine_time=True)})
    rows = [block.rows for block in making_section(asked, load_results(reported[0])).blocks if isinstance(block, Table)]
    assert ("1_data", "12.3 s", "679 MiB") in rows[1]


def test_the_configuration_is_printed_without_the_folders_of_this_machine(
    reported: tuple[RunFolder, Mapping[str, Any]],
) -> None:
    config = CONFIG.model_copy(update={"data": DataConfig(items=Path("/home/someone/items.csv"))})
    shown = str(making_section(config, load_results(reported[0])))
    assert "items.csv" in shown
    assert "someone" not in shown


def test_events_bring_activity_and_the_distance_curve(fake_run: FakeRun) -> None:
    run = fake_run(with_events=True)
    write_report(CONFIG, run)
    source = read(run, "report.html")
    assert "impression" in source
    assert "centre of the user" in source  # the stand-in for the user's place is said
    assert {"distance.png", "conversion.png"} <= {path.name for path in run.path("5_report", "figures").iterdir()}


def test_a_catalogue_without_any_region_or_category_is_reported(fake_run: FakeRun) -> None:
    nothing = {name: pl.lit(None, dtype=pl.String) for name in ("province", "city", "district", "category")}
    first = dict.fromkeys(("province_purity", "city_purity", "district_purity"))
    run = fake_run(items=toy_items().with_columns(**nothing), first_token=first)
    figures = write_report(CONFIG, run)
    assert figures["province_at_2"] is None
    assert "nan" not in read(run, "report.md").lower()
    assert "unknown regions" in read(run, "report.md")


def test_only_the_figures_by_level_are_required(fake_run: FakeRun) -> None:
    run = fake_run()
    write_json(run.path("3_sid", "metrics.json"), {"levels": toy_metrics()["levels"]})
    write_json(run.path("3_sid", "tokenizer/tokens.json"), {"1": {"0": {}}})
    write_json(run.path("1_data", "checks.json"), {})
    run.path("1_data", "manifest.json").unlink()
    write_report(CONFIG, run)
    assert "Is every SID unique?" in read(run, "report.html")
    assert "What did uniqueness cost?" not in read(run, "report.html")


@pytest.mark.parametrize(("name", "command"), FILES.items())
def test_a_missing_file_names_the_command_that_makes_it(fake_run: FakeRun, name: str, command: str) -> None:
    run = fake_run()
    (run.root / name).unlink()
    with pytest.raises(ArtifactError, match=Path(name).name) as error:
        write_report(CONFIG, run)
    assert error.value.fix == f"{command} {run.root}"


@pytest.mark.parametrize(("name", "command"), FILES.items())
def test_a_broken_file_is_an_artifact_error(fake_run: FakeRun, name: str, command: str) -> None:
    run = fake_run()
    (run.root / name).write_text("no such format", encoding="utf-8")
    with pytest.raises(ArtifactError, match=Path(name).name):
        write_report(CONFIG, run)


def test_files_that_do_not_fit_each_other_are_refused(fake_run: FakeRun) -> None:
    run = fake_run("other_items")
    sids = pl.read_parquet(run.path("3_sid", "sids.parquet"))
    sids.reverse().write_parquet(run.path("3_sid", "sids.parquet"))
    with pytest.raises(ArtifactError, match="in their order"):
        write_report(CONFIG, run)
    run = fake_run("other_rows")
    save_file({"emb_ND": np.zeros((7, 2), dtype=np.float32)}, run.path("2_align", "embeddings.safetensors"))
    with pytest.raises(ArtifactError, match=r"\(7, 2\).*60 items"):
        write_report(CONFIG, run)
    run = fake_run("no_levels", levels=[])
    with pytest.raises(ArtifactError, match="no figures by level"):
        write_report(CONFIG, run)


def test_one_item_has_no_neighbours(fake_run: FakeRun) -> None:
    run = fake_run(items=toy_items().head(1).with_columns(city=pl.lit("x")))
    with pytest.raises(DataError, match="at least 2"):
        write_report(CONFIG, run)


def test_good_results_get_good_verdicts(fake_run: FakeRun) -> None:
    run = fake_run()
    assert verdicts(run) == {
        "Are the rows of the tables usable?": "look",  # 3 of 63
        "Is every SID unique?": "good",
        "Do first tokens stay within one province?": "good",
        "Are the codes in use?": "note",  # too few items for a threshold
        "Are they used evenly?": "good",
        "Did few items share a code before SIDs were made unique?": "good",
        "What did uniqueness cost?": "good",
        "Do the 2 nearest neighbours lie in the same province / city / district?": "note",
    }


@pytest.mark.parametrize(
    ("question", "metrics"),
    [
        ("Do first tokens stay within one province?", {"first_token": {"province_purity": 0.9899}}),
        ("Did few items share a code before SIDs were made unique?", {"collision_share": 0.4}),
        ("What did uniqueness cost?", {"reconstruction": {"relative_by_level": [0.4], "relative_after_unique": 0.45}}),
        ("Are the codes in use?", {"levels": [{**toy_metrics()["levels"][0], "codes": 3, "utilisation": 0.66}]}),
        ("Are they used evenly?", {"levels": [{**toy_metrics()["levels"][0], "entropy_bits": 1.59}]}),
    ],
)
def test_bad_results_are_worth_a_look(fake_run: FakeRun, question: str, metrics: dict[str, Any]) -> None:
    assert verdicts(fake_run(**metrics))[question] == "look"


def test_shared_sids_are_found_whatever_the_metrics_say(fake_run: FakeRun) -> None:
    run = fake_run()
    sids = pl.read_parquet(run.path("3_sid", "sids.parquet")).with_columns(token_3=pl.lit(0))
    sids.write_parquet(run.path("3_sid", "sids.parquet"))
    assert verdicts(run)["Is every SID unique?"] == "look"


@pytest.mark.parametrize("value", ["[]", "[0]", "[5, -1]"])
def test_the_configuration_wants_at_least_one_positive_k(value: str) -> None:
    with pytest.raises(ConfigError, match=r"report\.neighbours"):
        load_run_config(None, [f"report.neighbours={value}"])


@pytest.mark.real
def test_real_catalogue_random_pairs_and_vectors_that_know_the_city(real_data: Path) -> None:
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["category", "district", "city"])
    city = items["city"].rank("dense").to_numpy() - 1
    emb = np.eye(int(city.max()) + 1, dtype=np.float32)[city]
    queries = sample_queries(len(items), 500, seed=0)
    result = neighbour_geography(items, queries, nearest_neighbours(emb, queries, 5)[0], (5,), seed=0)
    assert result["random"]["province"] == pytest.approx(0.50, abs=0.03)
    assert result["random"]["district"] == pytest.approx(0.014, abs=0.005)
    assert result["random"]["distance_km"] == pytest.approx(610, rel=0.1)
    assert result["at"]["5"]["city"] > 0.98  # the smallest cities have fewer than six items
    assert result["at"]["5"]["distance_km"] < 25
