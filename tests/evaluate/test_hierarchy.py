"""The icicle: every token and item in it once, large ones shown and small ones grouped."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.evaluate.hierarchy import (
    OPENED,
    OPENED_BEHIND,
    REGIONS_NAMED,
    Branch,
    _heights,
    branch,
    hierarchy_chart,
    opened_tokens,
    regions_of,
)
from lgsid.evaluate.results import load_results

from .conftest import FakeRun, toy_items


def many_cities(cities: int) -> tuple[pl.DataFrame, np.ndarray]:
    """Ten items in each city, the first city twice as many; two first tokens per city."""
    city = np.concatenate([np.repeat(np.arange(cities), 10), np.zeros(10, dtype=int)])
    items = pl.DataFrame({"province": ["P"] * len(city), "city": [f"c{number:02}" for number in city]})
    return items, (2 * city + np.arange(len(city)) % 2).astype(np.int64)


def test_regions_hold_every_token_once_and_the_small_ones_share_grey() -> None:
    items, first = many_cities(REGIONS_NAMED + 4)
    regions = regions_of(items, first)
    assert [region.name for region in regions[:2]] == ["c00", "c01"]
    assert regions[-1].name == "4 others"
    assert len({region.colour for region in regions}) == REGIONS_NAMED + 1
    assert sum(region.items for region in regions) == len(items)
    codes = [code for region in regions for code, _ in region.tokens]
    assert sorted(codes) == sorted(set(first.tolist()))


def test_a_token_belongs_to_the_region_of_most_of_its_items_unknown_ones_apart() -> None:
    items = pl.DataFrame(
        {"province": ["P"] * 5 + [None] * 2, "city": ["a", "a", "b", None, None, None, None]},
        schema_overrides={"city": pl.String},
    )
    regions = regions_of(items, np.array([0, 0, 0, 1, 1, 2, 2]))
    assert [(region.name, region.tokens) for region in regions] == [
        ("a", ((0, 3),)), ("P", ((1, 2),)), ("unknown", ((2, 2),)),
    ]  # fmt: skip


def test_the_largest_token_of_each_region_is_opened_first() -> None:
    items, first = many_cities(3)
    opened = opened_tokens(regions_of(items, first))
    assert len(opened) == OPENED
    assert {region.name for region, _ in opened} == {"c00", "c01", "c02"}
    assert opened[0][0].name == "c00"
    assert len(opened_tokens(regions_of(items, first), most=99)) == 6


def test_a_branch_counts_every_item_behind_its_token(fake_run: FakeRun) -> None:
    results = load_results(fake_run(items=toy_items(per_city=60)))
    rows = results.codes[:, 0] == 1
    tree = branch(results, 1)
    assert tree.items == rows.sum() == sum(child.items for child in tree.children)
    sizes = [child.items for child in tree.children if child.code is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) <= OPENED_BEHIND
    for child in tree.children:
        if child.code is not None:
            assert child.items == sum(leaf.items for leaf in child.children)
    grouped = [leaf for child in tree.children for leaf in child.children if leaf.code is None]
    assert grouped
    assert "more (" in grouped[0].label


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6))
@settings(deadline=None)
def test_heights_follow_the_items_and_leave_room_for_a_label(items: list[int]) -> None:
    heights = _heights([Branch(number, count, "") for number, count in enumerate(items)])
    assert abs(sum(heights) - 1) < 1e-9
    assert min(heights) > 0.1
    order = np.argsort(items)
    assert (np.diff(np.array(heights)[order]) >= -1e-9).all()


def test_the_picture_is_the_same_twice_and_shows_the_codes(fake_run: FakeRun) -> None:
    results = load_results(fake_run())
    first = hierarchy_chart(results)
    assert first == hierarchy_chart(results)
    other = load_results(fake_run("other", items=toy_items(per_city=24)))
    assert first != hierarchy_chart(other)
