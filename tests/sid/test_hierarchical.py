"""HGIT: the first token is a place, frozen; the others balance their use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from toy import toy_city

from lgsid.arrays import FloatArray
from lgsid.config import GeoFeatureConfig, SidConfig
from lgsid.data.labels import identities, region_path, root_categories
from lgsid.errors import DataError
from lgsid.sid.doorway import doorways
from lgsid.sid.features import GeoFeatures, content_identities
from lgsid.sid.hierarchical import HierarchicalTokenizer
from lgsid.sid.quality import collision_rates, first_token_geography, level_use, purity

SMALL = SidConfig(levels=3, codes=8, epochs=3, batch=64)


def test_eight_tokens_are_the_eight_districts() -> None:
    items, emb = toy_city()
    codes = HierarchicalTokenizer(config=SMALL).fit(items, emb).transform(items, emb)
    assert purity(codes[:, 0], region_path(items, 3)) > 0.99
    assert len(np.unique(codes[:, 0])) == 8


def test_first_vectors_are_the_mean_embeddings_of_their_members() -> None:
    items, emb = toy_city()
    tokenizer = HierarchicalTokenizer(config=SMALL).fit(items, emb)
    first = tokenizer.transform(items, emb)[:, 0]
    for code in range(8):
        assert np.allclose(tokenizer.lift(tokenizer.books[0])[code], emb[first == code].mean(axis=0), atol=1e-6)


def test_a_new_item_goes_to_the_token_of_its_place() -> None:
    items, emb = toy_city()
    tokenizer = HierarchicalTokenizer(config=SMALL).fit(items, emb)
    here = tokenizer.transform(items, emb)[:, 0]
    unknown = items[:4].with_columns(city=pl.lit("Nowhere"), district=pl.lit(None, dtype=pl.String))
    moved = tokenizer.transform(unknown, emb[:4])[:, 0]
    provinces = {code: items["province"][int(np.flatnonzero(here == code)[0])] for code in set(here.tolist())}
    assert [provinces[code] for code in moved.tolist()] == unknown["province"].to_list()


def test_the_date_line_does_not_split_a_town() -> None:
    rng = np.random.default_rng(0)
    lon = np.where(rng.random(200) < 0.5, 179.99, -179.99) + rng.uniform(-0.005, 0.005, 200)
    items = pl.DataFrame({"lat_deg": rng.uniform(-16.9, -16.8, 200), "lon_deg": lon, "city": ["Taveuni"] * 200})
    features = GeoFeatures.fit(items, GeoFeatureConfig(cell=0)).transform(items)
    assert GeoFeatures.fit(items, GeoFeatureConfig()).whole.spread_km < 10
    assert float(np.ptp(features, axis=0).max()) < 20


def test_entropy_weight_balances_the_residual_levels() -> None:
    rng = np.random.default_rng(0)
    items, _ = toy_city(256)
    skewed = np.repeat(rng.standard_normal((16, 8)), 64, axis=0) * rng.pareto(1.5, (1024, 1))
    emb = (skewed + 0.1 * rng.standard_normal((1024, 8))).astype(np.float32)
    bits = {}
    for weight in (0.0, 1.0):
        config = SidConfig(levels=3, codes=16, epochs=15, batch=256, entropy_weight=weight)
        codes = HierarchicalTokenizer(config=config).fit(items, emb).transform(items, emb)
        bits[weight] = level_use(codes[:, 1], 16)["entropy_bits"] + level_use(codes[:, 2], 16)["entropy_bits"]
    assert bits[1.0] > bits[0.0] + 0.3


def test_identities_depend_on_the_name_alone() -> None:
    a = identities(pl.Series(["x", "y", None]), "city", 16)
    b = identities(pl.Series(["y", "x"]), "city", 16)
    assert np.array_equal(a[0], b[1])
    assert np.array_equal(a[1], b[0])
    assert not a[2].any()
    assert not np.allclose(identities(pl.Series(["x"]), "province", 16)[0], a[0])


def test_namesakes_in_other_provinces_are_other_cities() -> None:
    items = pl.DataFrame(
        {"province": ["Illinois", "Ohio", None], "city": ["Springfield", "Springfield", "Springfield"]}
    )
    assert region_path(items, 2).to_list() == ["Illinois > Springfield", "Ohio > Springfield", " > Springfield"]
    assert region_path(items, 3).to_list() == [None, None, None]


def test_roots_of_paths_and_of_flat_lists() -> None:
    items = pl.DataFrame({"category": ["Food > Bar", "Bars | Food", None, "Gym"]})
    assert root_categories(items).to_list() == [["Food"], ["Bars", "Food"], None, ["Gym"]]
    assert not content_identities(items)[2].any()


def test_items_without_coordinates_are_refused() -> None:
    with pytest.raises(DataError, match="no column 'lon_deg'"):
        GeoFeatures.fit(pl.DataFrame({"lat_deg": [1.0]}), GeoFeatureConfig())


@pytest.mark.real
def test_quality_floor_on_three_states(real_data: Path) -> None:
    """First tokens on a real catalogue of three states; embeddings play no part in them, so cheap ones do."""
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["title", "lon_deg"])
    emb = np.random.default_rng(0).standard_normal((len(items), 8)).astype(np.float32)
    config = SidConfig(epochs=2)
    codes = HierarchicalTokenizer(config=config).fit(items, emb).transform(items, emb)
    geography = first_token_geography(codes[:, 0], items)
    assert geography["province_purity"] >= 0.99
    assert geography["city_purity"] >= 0.95
    assert geography["district_purity"] >= 0.85
    assert geography["radius_km_median"] < 3
    assert min(level_use(codes[:, level], 256)["utilisation"] for level in range(3)) >= 0.95


def same_texts(items: int = 400) -> tuple[pl.DataFrame, FloatArray]:
    """A town in which every shop of a kind has the same text, so the same embedding."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 12, items)
    table = pl.DataFrame({
        "item_id": [f"i{n}" for n in range(items)], "title": ["Shop"] * items, "province": ["P"] * items,
        "city": ["C"] * items,
        "lat_deg": 10 + rng.uniform(-0.02, 0.02, items), "lon_deg": rng.uniform(-0.02, 0.02, items),
    })  # fmt: skip
    return table, rng.standard_normal((12, 8)).astype(np.float32)[kind]


def test_the_doorway_tells_items_of_one_text_apart() -> None:
    items, emb = same_texts()
    rates = {}
    for target in (1.0, 0.02):
        config = SidConfig(levels=3, codes=32, epochs=3, batch=64, collision_target=target)
        tokenizer = HierarchicalTokenizer(config=config).fit(items, emb)
        assert (tokenizer._doorway_weight > 0) == (target < 1)
        rates[target] = collision_rates(tokenizer.transform(items, emb))[0]
    assert rates[0.02] < 0.6 * rates[1.0]


def test_no_doorway_where_codes_are_rarely_shared() -> None:
    items, emb = toy_city(32)
    config = SidConfig(levels=4, codes=32, epochs=3, batch=64)
    tokenizer = HierarchicalTokenizer(config=config).fit(items, emb)
    if collision_rates(tokenizer.transform(items, emb))[0] <= config.collision_target:
        assert tokenizer._doorway_weight == 0
        assert not tokenizer.project(items, emb)[:, emb.shape[1] :].any()


def test_doorways_depend_on_the_place_alone() -> None:
    items, _ = toy_city()
    found = doorways(items)
    assert np.array_equal(doorways(items[5:9]), found[5:9])
    assert np.array_equal(doorways(items.with_columns(title=pl.lit("other"))), found)
    assert float((found**2).sum(axis=1).mean()) == pytest.approx(1.0, abs=0.1)
    nearby = items.with_columns(pl.col("lat_deg") + 0.0003)  # 33 m
    assert not np.any(np.all(doorways(nearby) == found, axis=1))
