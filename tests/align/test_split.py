"""The split: disjoint, stable, of the wished size, with whole cities unseen."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.align.split import LEAST_TRAINING_ITEMS, PARTS, rows_of, split_items
from lgsid.config import AlignmentConfig
from lgsid.errors import DataError


def catalogue(items: int, cities: int = 40) -> pl.DataFrame:
    """Items that go round the cities of four provinces; a city's name comes in two provinces."""
    number = np.arange(items)
    return pl.DataFrame({
        "item_id": [f"i{n}" for n in number],
        "province": [f"p{n % 4}" for n in number],
        "city": [f"c{(n % cities) // 2}" for n in number],
    })  # fmt: skip


def options(**changes: object) -> AlignmentConfig:
    return AlignmentConfig.model_validate(changes)


@given(
    items=st.integers(300, 800),
    shares=st.tuples(*[st.sampled_from([0.0, 0.05, 0.2])] * 3),
    most_items=st.sampled_from([32, 100, 50_000]),
    seed=st.integers(0, 5),
)
@settings(max_examples=25, deadline=None)
def test_every_item_has_exactly_one_part(
    items: int, shares: tuple[float, float, float], most_items: int, seed: int
) -> None:
    config = options(validation_share=shares[0], test_share=shares[1], unseen_share=shares[2], most_items=most_items)
    part = split_items(catalogue(items), config, seed)
    assert part.name == "part"
    assert set(part) <= set(PARTS)
    rows = rows_of(part)
    assert list(rows) == list(PARTS)
    assert np.array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(items))
    assert all((np.diff(found) > 0).all() for found in rows.values())
    assert LEAST_TRAINING_ITEMS <= len(rows["train"]) <= most_items
    for name, share in zip(("validation", "test", "unseen"), shares, strict=True):
        assert share > 0 or len(rows[name]) == 0


def test_shares_are_near_the_wished_ones() -> None:
    part = split_items(catalogue(8_000), options(validation_share=0.05, test_share=0.2, unseen_share=0.1), 0)
    share = {name: len(found) / 8_000 for name, found in rows_of(part).items()}
    assert share["unseen"] == pytest.approx(0.1, abs=0.025)
    assert share["validation"] == pytest.approx(0.05 * 0.9, abs=0.01)
    assert share["test"] == pytest.approx(0.2 * 0.9, abs=0.02)
    assert share["spare"] == 0


def test_a_part_stays_when_the_catalogue_grows_or_is_sorted() -> None:
    small, large = catalogue(400), catalogue(1_000)
    config = options(validation_share=0.2, test_share=0.2)
    before, after = split_items(small, config, 3), split_items(large, config, 3)
    assert before.to_list() == after[:400].to_list()
    assert split_items(large.reverse(), config, 3).to_list() == after.reverse().to_list()
    assert before.to_list() != split_items(small, config, 4).to_list()


def test_unseen_are_whole_cities() -> None:
    items = catalogue(2_000)
    part = split_items(items, options(unseen_share=0.2), 1)
    seen = items.with_columns(part=part == "unseen").group_by("province", "city").agg(pl.col("part").mean())
    assert set(seen["part"]) == {0.0, 1.0}
    assert 0.1 < (part == "unseen").mean() <= 0.25


def test_a_city_with_most_of_the_items_is_passed_over() -> None:
    sizes = pl.DataFrame({"city": ["metropolis"] * 800 + ["town"] * 60 + ["village"] * 40})
    items = sizes.with_columns(province=pl.lit("p"), item_id=pl.int_range(pl.len()).cast(pl.String))
    for seed in range(4):
        part = split_items(items, options(unseen_share=0.1), seed)
        assert set(items.filter(part == "unseen")["city"]) == {"town", "village"}


def test_items_of_an_unknown_city_are_never_unseen() -> None:
    items = catalogue(1_000).with_columns(city=pl.when(pl.int_range(pl.len()) % 3 > 0).then(pl.col("city")))
    part = split_items(items, options(unseen_share=0.2), 0)
    assert (part == "unseen").any()
    assert items.filter(part == "unseen")["city"].null_count() == 0
    nowhere = split_items(catalogue(400).drop("city", "province"), options(unseen_share=0.2), 0)
    assert not (nowhere == "unseen").any()


def test_a_cap_spares_training_items_only() -> None:
    items = catalogue(1_000)
    free, capped = (split_items(items, options(unseen_share=0.1, **more), 0) for more in ({}, {"most_items": 200}))
    assert (capped == "train").sum() == 200
    assert (free == "spare").sum() == 0
    assert (capped == "spare").sum() == (free == "train").sum() - 200
    held = free != "train"
    assert capped.filter(held).to_list() == free.filter(held).to_list()
    fewer = split_items(items, options(unseen_share=0.1, most_items=100), 0)
    assert (capped.filter(fewer == "train") == "train").all()  # a smaller sample is part of a larger one


def test_too_few_items_is_an_error_with_its_fix() -> None:
    with pytest.raises(DataError, match="training items, expected at least 32") as caught:
        split_items(catalogue(36), options(), 0)
    assert "objective: none" in str(caught.value)
    with pytest.raises(DataError, match="got 0 training items"):
        split_items(catalogue(1_000), options(validation_share=0.5, test_share=0.5), 0)
