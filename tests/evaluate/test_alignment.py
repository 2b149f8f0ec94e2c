"""Figures of alignment on toy cities whose answer is known, and the report of an aligned run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file, save_file
from toy import toy_city

from lgsid.artifact import RunFolder, read_json, write_json
from lgsid.config import AlignConfig, AlignmentConfig, ReportConfig, RunConfig, SidConfig
from lgsid.errors import ArtifactError, DataError
from lgsid.evaluate import alignment as measured
from lgsid.evaluate.alignment import alignment_figures, cosines, kept, nmi_by_level, semantic_similarity, spread
from lgsid.evaluate.alignment_charts import frontier_chart, level_chart, reward_chart, training_chart, tsne, tsne_chart
from lgsid.evaluate.alignment_measures import alignment_key_figures, measure_alignment
from lgsid.evaluate.alignment_section import alignment_section, reward_blocks, training_blocks
from lgsid.evaluate.alignment_verdicts import alignment_key_figure, alignment_verdicts
from lgsid.evaluate.document import Code, Figure, Paragraph, Table
from lgsid.evaluate.embedding_section import embedding_section
from lgsid.evaluate.oracle import OraclePoint
from lgsid.evaluate.results import load_results
from lgsid.evaluate.stage import measure_neighbours, write_report
from lgsid.nearest import nearest_neighbours

from .conftest import toy_codes, toy_items, toy_metrics, write_run

ITEMS, EMB = toy_city(items_per_city=24)
N = len(ITEMS)
CONFIG = RunConfig(
    name="toy",
    report=ReportConfig(neighbours=(2, 5)),
    align=AlignConfig(alignment=AlignmentConfig(objective="gdpo")),
    sid=SidConfig(codes=4, epochs=0),
)


def order(accuracy: float) -> dict[str, Any]:
    bands = [{"from_km": 0.0, "to_km": 0.5, "pairs": 9, "accuracy": accuracy - 0.1},
             {"from_km": 0.5, "to_km": None, "pairs": 0, "accuracy": None}]  # fmt: skip
    return {"pairs": 10, "accuracy": accuracy, "told_pairs": 9, "told_accuracy": accuracy + 0.02, "bands": bands}


REWARD = {
    "form": "pairwise", "anchors": {"train": 80, "held_out": 20}, "train": order(0.95), "held_out": order(0.9),
    "held_out_true": order(0.8), "region_ceiling": None,
    "calibration": [{"predicted": 0.2, "label": 0.3, "count": 4}, {"predicted": 0.8, "label": 0.7, "count": 4}],
    "train_loss": [0.7, 0.5], "held_out_loss": [0.7, 0.6], "best_epoch": 2,
}  # fmt: skip
TRAINING = {
    "validations": [{"step": 0, "score": 0.1, "kept": 1.0, "province": 0.5, "city": 0.4, "district": 0.1},
                    {"step": 9, "score": 0.6, "kept": 0.9, "province": 0.9, "city": 0.8, "district": 0.7},
                    {"step": 18, "score": 0.6, "kept": 0.8, "province": 0.9, "city": None, "district": 0.8}],
    "steps": [{"step": 1, "loss": 0.9}, {"step": 17, "loss": 0.2}],
}  # fmt: skip


def one_hot(names: pl.Series) -> np.ndarray:
    return np.eye(names.n_unique(), dtype=np.float32)[names.rank("dense").to_numpy() - 1]


DISTRICTS = one_hot(ITEMS["district"])


def figures(aligned: np.ndarray, **more: Any) -> dict[str, Any]:
    parts = {"train": np.arange(0, N, 2), "test": np.arange(1, N, 2), "unseen": np.array([], dtype=np.int64)}
    return alignment_figures(ITEMS, EMB, aligned, {**parts, "all": np.arange(N)}, (3, 5), **more)


def test_similarity_is_the_mean_cosine_in_the_original_space() -> None:
    reference = np.array([[2.0, 0.0], [3.0, 0.0], [0.0, 5.0], [1.0, 1.0], [0.0, 0.0]], dtype=np.float32)
    queries, index = np.array([0, 2]), np.array([[1, 2], [3, 4]])
    assert cosines(reference, queries, index) == pytest.approx(np.array([[1, 0], [np.sqrt(0.5), 0]]))
    assert semantic_similarity(reference, queries, index) == pytest.approx((1 + np.sqrt(0.5)) / 4)
    assert kept(reference, queries, index) == pytest.approx((1 + np.sqrt(0.5)) / (1 + 2 * np.sqrt(0.5)))


def test_cosines_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    index = np.random.default_rng(0).integers(0, N, (N, 7))
    whole = cosines(EMB, np.arange(N), index)
    monkeypatch.setattr(measured, "_PAIRS_PER_CHUNK", 20)
    assert np.allclose(cosines(EMB, np.arange(N), index), whole, atol=1e-6)
    assert np.allclose(whole, np.einsum("nd,nkd->nk", EMB, EMB[index]), atol=1e-6)


def test_the_originals_own_neighbours_keep_everything() -> None:
    index, _ = nearest_neighbours(EMB, np.arange(N), 5)
    assert kept(EMB, np.arange(N), index) == 1.0
    same = figures(EMB)
    assert same["parts"]["all"]["before"] == same["parts"]["all"]["after"]
    assert same["parts"]["test"]["before"]["3"]["kept"] == 1.0
    assert same["spread"]["before"] == same["spread"]["after"]
    assert set(same["parts"]) == {"train", "test", "all"}  # a part without items is left out


def test_vectors_that_are_the_district_have_only_district_neighbours() -> None:
    found = figures(DISTRICTS)
    after = found["parts"]["test"]["after"]["5"]
    assert after["district"] == after["city"] == after["province"] == 1.0
    assert 0 < after["kept"] < 1
    assert after["distance_km"] < found["parts"]["test"]["before"]["5"]["distance_km"]
    assert found["nmi"]["after"]["district"] == pytest.approx(1.0)
    assert found["nmi"]["before"]["district"] < 0.9
    assert after["content"] is None
    assert "without_location" not in found["parts"]["test"]


def test_parts_are_measured_on_their_own_queries() -> None:
    half = np.where(np.arange(N)[:, None] % 2 == 1, EMB, -EMB)  # the even items point away from the odd ones
    found = figures(half)
    odd = alignment_figures(ITEMS, EMB, half, {"test": np.arange(1, N, 2)}, (3, 5))
    assert found["parts"]["test"] == odd["parts"]["test"]
    means = [found["parts"][part]["after"]["5"]["district"] for part in ("train", "test", "all")]
    assert means[2] == pytest.approx((means[0] + means[1]) / 2)
    assert found["parts"]["test"]["queries"] == N // 2


def test_content_and_queries_without_location() -> None:
    kinds = np.pad(one_hot(ITEMS["category"]), ((0, 0), (0, 12)))  # as many dimensions as the reference
    found = figures(DISTRICTS, content_ND=kinds, without_location_ND=DISTRICTS)
    part = found["parts"]["test"]
    assert part["after"]["5"]["content"] < part["before"]["5"]["content"]
    assert part["before"]["5"]["content"] == pytest.approx(part["before"]["5"]["category"])  # 1 for its kind, else 0
    assert found["random_content"] == pytest.approx(0.25, abs=0.03)
    assert part["without_location"]["after"] == part["after"]  # the same vectors as queries, themselves left out
    only_after = figures(DISTRICTS, without_location_ND=DISTRICTS)["parts"]["test"]["without_location"]
    assert set(only_after) == {"after"}


def test_the_item_itself_is_no_answer_to_a_query_without_location() -> None:
    own = np.eye(N, dtype=np.float32)
    found = figures(own, content_ND=EMB, without_location_ND=own)
    assert found["parts"]["all"]["without_location"]["after"]["3"]["kept"] < 0.9


def test_no_queries_at_all_are_an_error() -> None:
    with pytest.raises(DataError, match="no queries in the parts test"):
        alignment_figures(ITEMS, EMB, EMB, {"test": np.array([], dtype=np.int64)}, (5,))


def test_nmi_tells_knowing_from_not_knowing_and_leaves_the_unknown_out() -> None:
    noise = np.random.default_rng(0).standard_normal((N, 8)).astype(np.float32)
    cities = one_hot(ITEMS["city"])
    assert nmi_by_level(cities, ITEMS, 0)["city"] == pytest.approx(1.0)
    assert (nmi_by_level(noise, ITEMS, 0)["city"] or 0) < 0.2
    spoilt = ITEMS.with_columns(city=pl.when(pl.int_range(N) >= 8).then("city"))
    first = np.arange(N)[:, None] < 8
    assert nmi_by_level(np.where(first, noise[:, :4], cities), spoilt, 0)["city"] == pytest.approx(1.0)
    assert (nmi_by_level(np.where(first, cities, noise[:, :4]), spoilt, 0)["city"] or 0) < 0.3
    nowhere = ITEMS.with_columns(province=pl.lit("one"), district=pl.lit(None, dtype=pl.String))
    assert nmi_by_level(cities, nowhere, 0) | {"city": None} == {"province": None, "city": None, "district": None}


def test_nmi_is_seeded_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "CLUSTERED_ROWS", 40)
    monkeypatch.setattr(measured, "MOST_CLUSTERS", 3)
    assert nmi_by_level(EMB, ITEMS, 1) == nmi_by_level(EMB, ITEMS, 1)
    assert (nmi_by_level(DISTRICTS, ITEMS, 1)["district"] or 1) < 0.85  # eight districts cannot be told by 3 clusters


def test_spread_of_known_clouds() -> None:
    axes = np.concatenate([np.eye(4), -np.eye(4)]).astype(np.float32)
    assert spread(axes, 0) == {"random_cosine": pytest.approx(-1 / 7), "effective_rank": pytest.approx(4)}
    line = np.array([[3.0, 4.0], [-3.0, -4.0], [30.0, 40.0]], dtype=np.float32)
    assert spread(line, 0)["effective_rank"] == pytest.approx(1, abs=1e-5)
    alike = np.ones((5, 3), dtype=np.float32)
    assert spread(alike, 0)["random_cosine"] == pytest.approx(1)


def aligned_run(root: Path, reward: bool = True, everything: bool = True) -> RunFolder:
    """A fake run whose embeddings know the city; its reference vectors are the ones of an unaligned run."""
    items = toy_items()
    run = write_run(root, items, toy_codes(items), toy_metrics())
    folder = run.path("2_align")
    reference = load_file(folder / "embeddings.safetensors")["emb_ND"]
    city = np.random.default_rng(3).standard_normal((5, 8))[items["city"].fill_null("").rank("dense").to_numpy()]
    aligned = (reference + city).astype(np.float32)
    metadata = {"encoder": "toy", "prompt": "full"}
    save_file({"emb_ND": reference}, folder / "reference.safetensors")
    save_file({"emb_ND": aligned}, folder / "embeddings.safetensors", metadata=metadata)
    if everything:
        save_file({"emb_ND": np.ascontiguousarray(reference[:, ::-1])}, folder / "content.safetensors")
        save_file({"emb_ND": aligned * 2}, folder / "without_location.safetensors")
    part = np.array(["train", "train", "test", "train", "validation", "unseen"])[np.arange(len(items)) % 6]
    pl.DataFrame({"item_id": items["item_id"], "part": part}).write_parquet(folder / "split.parquet")
    write_json(folder / "training.json", TRAINING)
    if reward:
        write_json(folder / "reward.json", REWARD)
    return run


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = aligned_run(tmp_path_factory.mktemp("aligned"))
    write_report(CONFIG, run)
    return run


def test_the_report_shows_before_and_after(reported: RunFolder) -> None:
    markdown = reported.path("5_report", "report.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert headings.index("Before and after alignment") == 1 + headings.index(
        "Embeddings: nearest neighbours on the map"
    )
    names = {path.stem for path in reported.path("5_report", "figures").iterdir()}
    assert {f"alignment_{name}" for name in ("levels", "frontier", "training", "reward", "tsne_city")} <= names
    assert "items kept out of training" in markdown
    assert "in cities that training never saw" in markdown
    assert "say where they are" in markdown
    assert "The weights of step 9 scored best" in markdown
    assert not re.search(r"\bnan\b|\bNone\b", markdown)


def test_an_aligned_encoder_goes_by_the_name_of_what_was_aligned(reported: RunFolder) -> None:
    results = load_results(reported)
    named = replace(results, manifests={"2_align": {"metrics": {"encoder": "minilm"}}})
    for some, name in ((results, "toy"), (named, "minilm")):
        block = embedding_section(some, measure_neighbours(CONFIG, some)).blocks[0]
        assert isinstance(block, Paragraph)
        assert block.spans[:4] == ("Encoder ", Code(name), " after alignment, prompt ", Code("full"))


def test_the_report_of_an_aligned_run_is_the_same_twice(reported: RunFolder, tmp_path: Path) -> None:
    second = aligned_run(tmp_path / "again")
    write_report(CONFIG, second)
    for path in sorted(reported.path("5_report").rglob("*")):
        if path.is_file():
            name = path.relative_to(reported.root)
            assert path.read_bytes() == (second.root / name).read_bytes(), name


def test_the_stage_returns_what_the_tables_say(reported: RunFolder) -> None:
    kept_figures = read_json(reported.path("5_report", "metrics.json"))["alignment"]
    keys = alignment_key_figures(kept_figures)
    assert keys["alignment_judged_on"] == "test"
    assert keys["alignment_kept_at_2"] == kept_figures["parts"]["test"]["after"]["2"]["kept"]
    assert keys["alignment_city_at_2_after"] > keys["alignment_city_at_2_before"]
    assert kept_figures["oracle"][0]["kept"] == 1.0
    assert kept_figures["oracle"][0]["district"] == keys["alignment_district_at_2_before"]


def test_without_alignment_the_report_knows_nothing_of_it(tmp_path: Path) -> None:
    items = toy_items()
    run = write_run(tmp_path, items, toy_codes(items), toy_metrics())
    returned = write_report(RunConfig(name="toy", report=ReportConfig(neighbours=(2, 5))), run)
    assert measure_alignment(CONFIG, load_results(run)) is None
    assert not any("alignment" in name for name in returned)
    assert "alignment" not in read_json(run.path("5_report", "metrics.json"))
    assert "after alignment</h2>" not in run.path("5_report", "report.html").read_text(encoding="utf-8")


def test_only_reference_split_and_training_are_needed(tmp_path: Path) -> None:
    results = load_results(aligned_run(tmp_path, reward=False, everything=False))
    assert results.alignment is not None
    assert results.alignment.content_path is results.alignment.without_location_path is results.alignment.reward is None
    found = measure_alignment(CONFIG, results)
    assert found is not None
    section = alignment_section(CONFIG, results, found)
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert "content similarity" not in tables[0].columns
    assert [row[0] for row in tables[0].rows][::2] == [
        "Items kept out of training (10 queries)",
        "Items in cities that training never saw (10 queries)",
        "Training items (30 queries)",
        "All items (60 queries)",
    ]
    assert "alignment_reward" not in {block.name for block in section.blocks if isinstance(block, Figure)}


def test_a_trainers_own_history_is_read_too() -> None:
    validations = [{"step": row["step"], "epoch": 1.0, "metrics": {"score": row["score"], "kept": row["kept"]}}
                   for row in TRAINING["validations"]]  # fmt: skip
    records = [{**row, "epoch": 1.0, "parts": {}} for row in TRAINING["steps"]]
    history = {"steps": 18, "records": records, "validations": validations}
    plain, wrapped = training_blocks(history), training_blocks({"history": history})
    assert plain == wrapped
    assert "The weights of step 9" in str(plain)
    assert training_blocks({"steps": 18, "records": records, "validations": []}) == []


def test_the_reward_is_told_by_table_and_chart() -> None:
    assert reward_blocks(None) == []
    found = reward_blocks(REWARD)
    assert [row[1:] for block in found if isinstance(block, Table) for row in block.rows] == [
        ("95.0\u00a0%", "97.0\u00a0%"),
        ("90.0\u00a0%", "92.0\u00a0%"),
        ("80.0\u00a0%", "82.0\u00a0%"),  # the ceiling is not known and left out
    ]
    assert "over 500\u00a0m –" in next(block.alt for block in found if isinstance(block, Figure))


@pytest.mark.parametrize("name", ["split.parquet", "training.json"])
def test_a_missing_file_of_alignment_names_the_command(tmp_path: Path, name: str) -> None:
    run = aligned_run(tmp_path)
    run.path("2_align", name).unlink()
    with pytest.raises(ArtifactError, match=name) as error:
        load_results(run)
    assert error.value.fix == f"lgsid align {run.root}"


@pytest.mark.parametrize("name", ["reference", "content", "without_location"])
def test_vectors_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    run = aligned_run(tmp_path)
    path = run.path("2_align", f"{name}.safetensors")
    save_file({"emb_ND": np.zeros((7, 2), dtype=np.float32)}, path)
    with pytest.raises(ArtifactError, match=rf"{name}\.safetensors has emb_ND of shape \(7, 2\)"):
        write_report(CONFIG, run)
    path.write_text("no such format", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is not a safetensors file"):
        write_report(CONFIG, run)


def test_a_split_of_other_items_is_refused(tmp_path: Path) -> None:
    run = aligned_run(tmp_path)
    path = run.path("2_align", "split.parquet")
    pl.read_parquet(path).reverse().write_parquet(path)
    with pytest.raises(ArtifactError, match="a part to every item"):
        load_results(run)


def judged(**changed: Any) -> dict[str, Any]:
    """Figures of a run that went well, with some of them changed."""
    before = {"province": 0.9, "city": 0.6, "district": 0.2, "category_root": 0.8, "kept": 1.0, "content": 0.5}
    after = {"province": 1.0, "city": 0.9, "district": 0.6, "category_root": 0.7, "kept": 0.95, "content": 0.45}
    shape = {"random_cosine": 0.3, "effective_rank": 100.0}
    return {
        "judged": "test", "k": "5", "efficiency": changed.get("efficiency", 0.85), "random_content": 0.1,
        "parts": {"test": {"queries": 800, "before": {"5": before}, "after": {"5": {**after, **changed}}}},
        "spread": {"before": shape, "after": {**shape, **changed}},
        "reward": {**REWARD, "held_out": order(changed.get("accuracy", 0.9))},
    }  # fmt: skip


QUESTIONS = {
    "geography": "Did geography rise, on items kept out of training?",
    "limit": "Could more geography be had for this loss of meaning?",
    "meaning": "Was meaning kept?",
    "content": "Are neighbours still of a kind?",
    "collapse": "Did the vectors collapse?",
    "reward": "Does the reward model know near from far?",
}


def test_a_good_alignment_gets_good_verdicts() -> None:
    assert {v.question: v.status for v in alignment_verdicts(judged())} == dict.fromkeys(QUESTIONS.values(), "good")


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("geography", {"district": 0.22}),  # two points are noise for 800 queries
        ("geography", {"city": 0.5}),  # districts rose, cities fell
        ("limit", {"efficiency": 0.79}),
        ("meaning", {"kept": 0.899}),
        ("content", {"content": 0.29}),
        ("collapse", {"random_cosine": 0.9}),
        ("collapse", {"effective_rank": 24.0}),
        ("reward", {"accuracy": 0.84}),
    ],
)
def test_a_bad_alignment_is_worth_a_look(what: str, changed: dict[str, float]) -> None:
    found = {verdict.question: verdict for verdict in alignment_verdicts(judged(**changed))}
    assert [question for question, verdict in found.items() if verdict.status == "look"] == [QUESTIONS[what]]


def test_verdicts_without_districts_judge_the_city_and_leave_the_oracle_out() -> None:
    figures = judged(district=None, efficiency=None)
    figures["parts"]["test"]["before"]["5"]["district"] = None
    found = {verdict.question: verdict.status for verdict in alignment_verdicts(figures)}
    assert QUESTIONS["limit"] not in found
    assert found[QUESTIONS["geography"]] == "good"
    key = alignment_key_figure(figures)
    assert key is not None
    assert "same city" in key.label


def test_tsne_is_the_same_twice_and_keeps_groups_apart() -> None:
    place = tsne(DISTRICTS + 0.01 * EMB[:, :8], seed=0)
    assert np.array_equal(place, tsne(DISTRICTS + 0.01 * EMB[:, :8], seed=0))
    apart = ((place[:, None] - place) ** 2).sum(axis=2) + 1e9 * np.eye(N)
    district = DISTRICTS.argmax(axis=1)
    assert (district[apart.argmin(axis=1)] == district).mean() > 0.9
    assert np.isfinite(tsne(np.ones((4, 3), dtype=np.float32), seed=0)).all()


ORACLE = [OraclePoint(0.0, 1.0, None, None, 0.2), OraclePoint(0.3, 0.9, None, None, 0.8)]
PLACES = np.random.default_rng(0).standard_normal((40, 2))
CHARTS = {
    "tsne of few": lambda: tsne_chart(PLACES, -PLACES, ["a"] * 20 + ["b > c"] * 20),
    "tsne of many, some unknown": lambda: tsne_chart(
        PLACES, -PLACES, [None] * 4 + [f"p > 城市{i % 12}" for i in range(36)]
    ),
    "tsne, unknown only grey": lambda: tsne_chart(PLACES, -PLACES, [None] * 20 + ["b"] * 20),
    "levels": lambda: level_chart({"city": 0.1, "kept": 1.0}, {"city": 0.2, "district": None, "kept": 0.9}, 5),
    "frontier": lambda: frontier_chart(ORACLE, {"point": [(0.95, 0.4)], "curve": [(0.9, 0.5), (0.97, 0.3)]}, 5),
    "frontier alone": lambda: frontier_chart(ORACLE[:1], {}, 5),
    "training": lambda: training_chart([{"step": 0, "score": 0.1, "kept": 1.0}], [(1, 0.5), (2, 0.4)]),
    "training without losses": lambda: training_chart([{"step": 0, "score": 0.1}], []),
    "reward": lambda: reward_chart(
        [("up to 2 km", 0.8, 0.7), ("over 2 km", None, None)], [(0.1, 0.2), (0.9, 0.8)], {"a": [0.7, 0.5], "b": [0.6]}
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_charts_draw_the_same_picture_twice(name: str) -> None:
    first = CHARTS[name]()
    assert first.startswith(b"\x89PNG")
    assert first == CHARTS[name]()
