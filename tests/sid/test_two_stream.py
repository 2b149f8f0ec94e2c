"""Two streams: the geographic tokens know the place, the semantic tokens what the place does not explain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge
from toy import toy_city

from lgsid.config import SidConfig, TwoStreamConfig
from lgsid.data.labels import region_path
from lgsid.errors import ConfigError, DataError
from lgsid.sid.features import WIDTH
from lgsid.sid.quality import first_token_geography, purity
from lgsid.sid.res_kmeans import ResKMeansTokenizer
from lgsid.sid.two_stream import TwoStreamTokenizer, ridge


def config(codes: int = 8, levels: int = 3, **options: object) -> SidConfig:
    two_stream = TwoStreamConfig.model_validate(options)
    return SidConfig(method="two_stream", codes=codes, levels=levels, two_stream=two_stream)


def test_geographic_tokens_are_the_districts_and_ignore_the_embedding() -> None:
    items, emb = toy_city()
    tokenizer = TwoStreamTokenizer(config=config()).fit(items, emb)
    first = tokenizer.transform(items, emb)[:, 0]
    assert purity(first, region_path(items, 3)) > 0.99
    assert len(np.unique(first)) == 8
    assert np.array_equal(tokenizer.transform(items, emb[::-1].copy())[:, 0], first)
    other = items.with_columns(category=pl.lit("Pets > Kennel"), brand=pl.lit("Rex"), title=pl.lit("?"))
    assert np.array_equal(tokenizer.transform(other, emb)[:, 0], first)


def test_semantic_tokens_are_the_kinds_of_shop_in_every_city() -> None:
    """Toy embeddings are city plus kind: less what the city explains, four tokens are the four kinds."""
    items, emb = toy_city()
    tokenizer = TwoStreamTokenizer(config=config(4)).fit(items, emb)
    second = tokenizer.transform(items, emb)[:, 1]
    assert purity(second, items["category"]) > 0.95
    assert purity(second, region_path(items, 2)) < 0.35  # a quarter is chance
    plain = ResKMeansTokenizer(config=SidConfig(method="res_kmeans", codes=4)).fit(items, emb).transform(items, emb)
    assert purity(plain[:, 0], region_path(items, 2)) > 0.5


def test_books_are_zero_in_the_other_stream() -> None:
    items, emb = toy_city()
    books = TwoStreamTokenizer(config=config(geographic_levels=2)).fit(items, emb).books
    assert [book.shape for book in books] == [(8, WIDTH + emb.shape[1])] * 3
    for book, zero, used in zip(
        books,
        (slice(WIDTH, None), slice(WIDTH, None), slice(0, WIDTH)),
        (slice(0, WIDTH), slice(0, WIDTH), slice(WIDTH, None)),
        strict=True,
    ):
        assert not book[:, zero].any()
        assert book[:, used].any()


def test_a_moved_item_keeps_its_semantic_tokens_if_its_text_moves_with_it() -> None:
    items, emb = toy_city()
    tokenizer = TwoStreamTokenizer(config=config(4)).fit(items, emb)
    geographic = ["lat_deg", "lon_deg", "province", "city", "district"]
    moved = items[:-1].with_columns(items[1:].select(geographic))
    shift = tokenizer.project(items[1:], emb[1:])[:, :WIDTH] - tokenizer.project(items[:-1], emb[:-1])[:, :WIDTH]
    text = emb[:-1] + shift @ tokenizer._slope_FD
    before, after = tokenizer.transform(items[:-1], emb[:-1]), tokenizer.transform(moved, text)
    assert (before[:, 1:] == after[:, 1:]).all(axis=1).mean() > 0.99
    assert np.array_equal(after[:, 0], tokenizer.transform(items[1:], emb[1:])[:, 0])


def test_lift_undoes_the_projection() -> None:
    items, emb = toy_city()
    tokenizer = TwoStreamTokenizer(config=config()).fit(items, emb)
    assert np.allclose(tokenizer.lift(tokenizer.project(items, emb)), emb, atol=1e-5)


def test_decoding_adds_what_both_streams_know() -> None:
    items, emb = toy_city()
    tokenizer = TwoStreamTokenizer(config=config()).fit(items, emb)
    codes = tokenizer.transform(items, emb)
    cities = items["city"].to_numpy()
    means = {name: emb[cities == name].mean(axis=0) for name in set(cities)}
    errors = [float(((emb - tokenizer.decode(codes[:, :level])) ** 2).sum()) for level in (1, 2, 3)]
    assert errors[0] < 1.05 * sum(
        float(((row - means[name]) ** 2).sum()) for row, name in zip(emb, cities, strict=True)
    )
    assert errors[0] > errors[1] > errors[2]
    for code in range(8):
        # the geographic token alone is decoded to about the mean embedding of its city
        city = cities[codes[:, 0] == code][0]
        decoded = tokenizer.decode(np.array([[code]], dtype=np.int32))[0]
        distance = {name: float(((decoded - mean) ** 2).sum()) for name, mean in means.items()}
        assert min(distance, key=lambda name: distance[name]) == city


def test_more_geographic_levels_say_more_exactly_where() -> None:
    items, emb = toy_city()
    widths = []
    for levels in (1, 2):
        tokenizer = TwoStreamTokenizer(config=config(levels=3, geographic_levels=levels)).fit(items, emb)
        x, codes = tokenizer.project(items, emb), tokenizer.transform(items, emb)
        left = x[:, :WIDTH] - tokenizer.sum_of_centroids(codes)[:, :WIDTH]
        widths.append(float((left**2).sum()))
    assert widths[1] < 0.8 * widths[0]


def test_ridge_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((300, 5)) * [1, 2, 0, 3, 1] + 7).astype(np.float32)
    y = (x @ rng.standard_normal((5, 4)) + 3 + rng.standard_normal((300, 4))).astype(np.float32)
    slope, intercept = ridge(x, y, penalty=0.1)
    reference = Ridge(alpha=0.1 * len(x) * float(x.var(axis=0).mean())).fit(x.astype(np.float64), y)
    assert np.allclose(slope, reference.coef_.T, atol=1e-4)
    assert np.allclose(intercept, reference.intercept_, atol=1e-3)


def test_a_catalogue_in_one_place_is_no_error() -> None:
    items, emb = toy_city()
    one = items.with_columns(*(pl.lit(items[name][0]).alias(name) for name in items.columns if name != "item_id"))
    tokenizer = TwoStreamTokenizer(config=config()).fit(one, emb)
    codes = tokenizer.transform(one, emb)
    assert len(np.unique(codes[:, 0])) == 1
    assert np.isfinite(tokenizer.decode(codes)).all()
    assert len(np.unique(codes[:, 1])) == 8


def test_bad_input_is_refused() -> None:
    items, emb = toy_city()
    with pytest.raises(ConfigError, match="3 geographic of 3 levels leave none"):
        TwoStreamTokenizer(config=config(geographic_levels=3)).fit(items, emb)
    with pytest.raises(DataError, match="no column 'lat_deg'"):
        TwoStreamTokenizer(config=config()).fit(items.drop("lat_deg"), emb)


@pytest.mark.real
def test_coarse_geography_of_three_states_is_in_the_geographic_token(real_data: Path) -> None:
    """State and city can be read from the first token for more than 99 % of the items, as LGRID says of its tokens."""
    items = pl.read_parquet(real_data / "yelp_3states" / "items.parquet").drop_nulls(["title", "lon_deg"])
    emb = np.random.default_rng(0).standard_normal((len(items), 4)).astype(np.float32)
    codes = TwoStreamTokenizer(config=config(256)).fit(items, emb).transform(items, emb)
    geography = first_token_geography(codes[:, 0], items)
    assert geography["province_purity"] > 0.99
    assert geography["city_purity"] > 0.99
    assert geography["radius_km_median"] < 3
