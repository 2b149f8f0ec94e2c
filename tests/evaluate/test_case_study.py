"""The case study: the right category in the right city, counted right, before and after alignment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from lgsid.config import RunConfig, SidConfig
from lgsid.evaluate import case_study
from lgsid.evaluate.case_chart import case_chart, spoken
from lgsid.evaluate.case_study import study_case
from lgsid.evaluate.meaning_section import meaning_section
from lgsid.evaluate.results import Alignment, Results, load_results

from .conftest import FakeRun, toy_items

CONFIG = RunConfig(name="toy", sid=SidConfig(codes=4, epochs=0))


def catalogue(sizes: dict[tuple[str, str], int]) -> pl.DataFrame:
    """Toy items, some of whose cities and categories are replaced: so many of each (city, category)."""
    pairs = [pair for pair, count in sizes.items() for _ in range(count)]
    items = toy_items(per_city=4 * -(-len(pairs) // 12)).head(len(pairs))
    return items.with_columns(
        city=pl.Series([city for city, _ in pairs]), category=pl.Series([kind for _, kind in pairs]),
        province=pl.lit("P"),
    )  # fmt: skip


def results_of(fake_run: FakeRun, items: pl.DataFrame, codes: np.ndarray | None = None) -> Results:
    results = load_results(fake_run(items=items))
    if codes is None:
        return results
    columns = {f"token_{level}": codes[:, level - 1] for level in (1, 2, 3)}
    return replace(results, sids=results.sids.with_columns(**{name: pl.Series(v) for name, v in columns.items()}))


def test_it_takes_the_commonest_narrow_category_of_the_largest_city(fake_run: FakeRun) -> None:
    sizes = {("A", "Food > Bar"): 5, ("A", "Food > Noodles"): 4, ("A", "Other"): 60, ("B", "Food > Noodles"): 3,
             ("B", "Shop"): 30}  # fmt: skip
    case = study_case(CONFIG, results_of(fake_run, catalogue(sizes)))
    assert case is not None
    # "Other" is held by most of the catalogue and says nothing; noodles are rarer than bars in A
    assert (case.category, case.city, case.items, case.city_items) == ("Bar", "A", 5, 69)


def test_where_all_categories_are_broad_the_commonest_is_taken(fake_run: FakeRun) -> None:
    case = study_case(CONFIG, results_of(fake_run, catalogue({("A", "X"): 30, ("A", "Y"): 20})))
    assert case is not None
    assert case.category == "X"


def test_spreads_are_counted(fake_run: FakeRun) -> None:
    items = catalogue({("A", "X"): 10, ("A", "Y"): 90, ("B", "Y"): 20})
    kind = (items["category"] == "Y").to_numpy().astype(np.int32)
    rows = np.arange(len(items), dtype=np.int32)
    # first tokens as for anybody in the city, second ones say the category
    codes = np.stack([rows % 10, np.where(kind == 0, rows % 2, 2 + rows % 50), rows], axis=1).astype(np.int32)
    case = study_case(CONFIG, results_of(fake_run, items, codes))
    assert case is not None
    assert case.category == "X"
    first, second = case.spreads
    assert (first.needed, second.needed) == (9, 2)
    assert second.items.tolist() == [5, 5]
    assert second.city_share.tolist() == [0.05, 0.05]
    assert first.needed_at_random < 9  # random items are not spread as evenly as these
    assert second.needed_at_random > 6
    assert case.before is None
    assert "second tokens: nine in ten items in 2" in spoken(case.spreads)


def test_no_category_no_case_and_no_city_the_whole_catalogue(fake_run: FakeRun) -> None:
    nothing = toy_items().with_columns(category=pl.lit(None, dtype=pl.String))
    assert study_case(CONFIG, load_results(fake_run("a", items=nothing))) is None
    homeless = toy_items().with_columns(city=pl.lit(None, dtype=pl.String))
    case = study_case(CONFIG, load_results(fake_run("b", items=homeless)))
    assert case is not None
    assert case.city is None
    assert case.city_items == len(homeless)


def aligned(results: Results) -> Results:
    """The same run, as if the embeddings had been aligned."""
    parts = pl.Series(["train"] * len(results.items))
    return replace(results, alignment=Alignment(results.embeddings_path, None, None, parts, {}, None))


def test_an_aligned_run_is_compared_with_codes_of_the_unaligned_embeddings(fake_run: FakeRun) -> None:
    results = aligned(load_results(fake_run()))
    case = study_case(CONFIG, results)
    assert case is not None
    assert case.before is not None
    assert [spread.items.sum() for spread in (*case.spreads, *case.before)] == [case.items] * 4
    again = study_case(CONFIG, results)
    assert again is not None
    assert again.before is not None
    assert case_chart(case) == case_chart(again) != case_chart(replace(case, before=None))
    section = meaning_section(results, [], case)
    assert "Before alignment" in str(section.blocks)


def test_a_large_aligned_catalogue_says_that_it_is_not_compared(
    fake_run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(case_study, "MOST_REFITTED", 60)
    results = aligned(load_results(fake_run()))
    case = study_case(CONFIG, results)
    assert case is not None
    assert case.left_out
    assert case.before is None
    assert "not fitted a second time" in str(meaning_section(results, [], case).blocks)
