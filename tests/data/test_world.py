"""The simulated world: seeded, real places, a catalogue's text, and behaviour whose known truth can be recovered."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lgsid.config import ChoiceConfig, DataConfig, ExposureConfig, RunConfig, WorldConfig, parse
from lgsid.data.tables import check_events, check_items
from lgsid.data.world import Truth, simulate
from lgsid.data.world.behaviour import Habits
from lgsid.data.world.catalogue import load_catalogue
from lgsid.data.world.choice import EMPTY, ChoiceModel, ItemTraits, UserTraits
from lgsid.data.world.draws import GroupDraw
from lgsid.data.world.exposure import NearDraw
from lgsid.data.world.places import Places, load_places
from lgsid.errors import ConfigError, DataError, MissingDependencyError
from lgsid.geo import SpatialIndex, haversine_km

SMALL = WorldConfig(cities=6, items=3_000, users=400, events=60_000, days=30)
TINY = WorldConfig(cities=2, items=300, users=40, events=3_000, days=5)
needs_cpca = pytest.mark.skipif(importlib.util.find_spec("cpca") is None, reason="pip install 'lgsid[zh]'")


@dataclass(frozen=True)
class World:
    """A simulated world as written, and its places."""

    config: WorldConfig
    folder: Path
    items: pl.DataFrame
    events: pl.DataFrame
    truth: Truth
    places: Places

    @property
    def log(self) -> pl.DataFrame:
        """Events with their truth, row by row, and the rows of user and item in the truth."""
        beside = pl.read_parquet(self.folder / "truth" / "events.parquet")
        return pl.concat([self.events, beside], how="horizontal").with_columns(
            user=pl.Series(self.truth.user_rows(self.events["user_id"])),
            item=pl.Series(self.truth.item_rows(self.events["item_id"])),
        )


def make(config: WorldConfig, folder: Path, seed: int = 0) -> World:
    simulate(config, seed, folder)
    return World(
        config,
        folder,
        pl.read_parquet(folder / "items.parquet"),
        pl.read_parquet(folder / "events.parquet"),
        Truth.load(folder / "truth"),
        load_places(config.language, config.cities),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make(SMALL, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> World:
    config = WorldConfig(language="zh", cities=6, items=1_500, users=100, events=5_000, days=7)
    return make(config, tmp_path_factory.mktemp("chinese"))


def both_worlds(test: object) -> object:
    cases = ["world", pytest.param("chinese", marks=needs_cpca)]
    return pytest.mark.parametrize("name", cases)(test)  # type: ignore[type-var]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def distance_km(world: World, log: pl.DataFrame) -> np.ndarray:
    items = world.truth.model.items
    rows = log["item"].to_numpy()
    return haversine_km(log["user_lat_deg"], log["user_lon_deg"], items.lat_N[rows], items.lon_N[rows])


# --- files ----------------------------------------------------------------------------------------------------------


def test_same_seed_same_bytes_and_another_seed_another_world(tmp_path: Path) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        simulate(TINY, seed, tmp_path / name)
    first, again, other = (files(tmp_path / name) for name in "abc")
    assert first == again
    assert sorted(first) == ["events.parquet", "items.parquet"] + [
        f"truth/{name}" for name in ("choice.json", "events.parquet", "items.parquet", "users.parquet")
    ]
    assert all(first[name] != other[name] for name in first)


@both_worlds
def test_the_tables_pass_the_strict_checks(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    world: World = request.getfixturevalue(name)
    data = DataConfig(items=world.folder / "items.parquet", events=world.folder / "events.parquet")
    checked = check_items(world.folder / "items.parquet", data)
    assert len(checked.items) == world.config.items
    target = tmp_path / "events.parquet"
    check_events(world.folder / "events.parquet", checked, data, target, None)
    kept = pl.read_parquet(target)  # in the same order, so that truth/events.parquet still lies beside it
    assert kept.select("user_id", "item_id", "timestamp").equals(world.events.select("user_id", "item_id", "timestamp"))


def test_no_events_no_events_table(tmp_path: Path) -> None:
    simulate(WorldConfig(cities=1, items=20, users=3, events=0), 0, tmp_path)
    assert not (tmp_path / "events.parquet").exists()
    assert len(pl.read_parquet(tmp_path / "items.parquet")) == 20


@pytest.mark.parametrize(
    "config",
    [
        WorldConfig(cities=1, items=1, users=1, events=1, days=1, slate=1),
        WorldConfig(cities=1, items=2, users=1, events=200, days=1, chain_share=1.0, scattered_share=1.0),
        WorldConfig(
            cities=3, items=50, users=5, events=500, days=2, new_share=1.0, chain_share=0.0, scattered_share=0.0
        ),
        WorldConfig(
            cities=1,
            items=50,
            users=5,
            events=500,
            days=3,
            exposure=ExposureConfig(near=0, popular=0, far=0, familiar=1),
        ),
        WorldConfig(cities=2, items=50, users=5, events=500, days=3, choice=ChoiceConfig(distance_scale_km=0.01)),
    ],
)
def test_extreme_worlds_are_whole(config: WorldConfig, tmp_path: Path) -> None:
    world = make(config, tmp_path)
    data = DataConfig(items=tmp_path / "items.parquet")
    assert len(check_items(tmp_path / "items.parquet", data).items) == config.items
    assert world.log["utility"].is_finite().all()


# --- configuration --------------------------------------------------------------------------------------------------


def test_a_typing_error_in_the_world_is_named() -> None:
    with pytest.raises(ConfigError, match="distance_wieght"):
        parse(RunConfig, {"data": {"world": {"choice": {"distance_wieght": 2}}}}, "test")


def test_exposure_needs_a_source() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        parse(ExposureConfig, {"near": 0, "popular": 0, "familiar": 0, "far": 0}, "test")


def test_too_many_cities_says_how_many_there_are() -> None:
    with pytest.raises(ConfigError, match=r"9999.*only \d+ cities") as caught:
        load_places("en", 9_999)
    assert caught.value.fix is not None
    most = int(caught.value.fix.rpartition("=")[2])
    assert len(load_places("en", most).cities) == most


def test_the_chinese_world_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cpca", None)  # what the import system sees of a package that is not there
    with pytest.raises(MissingDependencyError, match=r"cpca[\s\S]*lgsid\[zh\]"):
        load_places("zh", 2)


# --- geography ------------------------------------------------------------------------------------------------------


@both_worlds
def test_shops_stand_in_the_city_and_district_they_name(name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(name)
    centre = pl.DataFrame(
        [(c.province, c.name, c.lat_deg, c.lon_deg) for c in world.places.cities],
        schema=["province", "city", "city_lat", "city_lon"],
        orient="row",
    )
    joined = world.items.join(centre, on=["province", "city"], maintain_order="left")
    assert len(joined) == len(world.items)
    away_km = haversine_km(*(joined[column] for column in ("lat_deg", "lon_deg", "city_lat", "city_lon")))
    assert away_km.max() < 30
    districts = world.places.districts
    nearest, _ = SpatialIndex(world.places.lat_R, world.places.lon_R).nearest(joined["lat_deg"], joined["lon_deg"])
    agree = np.array([districts[row].name for row in nearest[:, 0]]) == joined["district"].to_numpy()
    assert agree.mean() > 0.9


def test_american_districts_are_real_zip_codes_of_their_city(world: World) -> None:
    import zipcodes

    for row in world.items.unique("district").sort("district").head(50).iter_rows(named=True):
        (real,) = zipcodes.matching(row["district"])
        assert (real["city"], real["state"]) == (row["city"], row["province"])


def test_several_provinces_and_several_cities_in_one_of_them(world: World) -> None:
    per_province = world.items.group_by("province").agg(pl.col("city").n_unique())["city"]
    assert len(per_province) == 4
    assert per_province.max() >= 2


def test_shops_cluster_on_streets_whose_numbers_rise(world: World) -> None:
    parts = world.items["street"].str.extract_groups(r"^(?<number>\d+) (?<road>[^,]+)").struct.unnest()
    shops = pl.concat([world.items, parts], how="horizontal").with_columns(pl.col("number").cast(pl.Int64))
    streets = shops.group_by("district", "road", maintain_order=True).agg("lat_deg", "lon_deg", "number")
    streets = streets.filter(pl.col("number").list.len() >= 4)
    assert len(streets) > 100
    spans, ties = [], []
    for lat, lon, number in streets.select("lat_deg", "lon_deg", "number").iter_rows():
        lat, lon, number = np.array(lat), np.array(lon), np.array(number)
        spans.append(np.median(haversine_km(lat, lon, np.median(lat), np.median(lon))))
        if len(number) >= 8 and np.ptp(number) > 50:
            place = np.stack([lat - lat.mean(), lon - lon.mean(), np.ones_like(lat)], axis=1)
            fitted = place @ np.linalg.lstsq(place, number.astype(float), rcond=None)[0]
            ties.append(1 - np.var(number - fitted) / np.var(number))
    assert np.median(spans) < 0.6
    assert np.median(ties) > 0.9


def test_clustering_is_denser_than_scattering(tmp_path: Path) -> None:
    def median_gap_km(scattered: float, folder: Path) -> float:
        config = TINY.model_copy(update={"items": 2_000, "events": 0, "scattered_share": scattered})
        simulate(config, 0, folder)
        shops = pl.read_parquet(folder / "items.parquet")
        index = SpatialIndex(shops["lat_deg"], shops["lon_deg"])
        return float(np.median(index.nearest(shops["lat_deg"], shops["lon_deg"], k=4)[1][:, 3]))

    assert median_gap_km(0.0, tmp_path / "a") < 0.85 * median_gap_km(1.0, tmp_path / "b")


# --- text -----------------------------------------------------------------------------------------------------------


@both_worlds
def test_the_catalogue_is_wide_and_not_copied(name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(name)
    items = world.items
    roots = items["category"].str.split(" > ").list.first()
    assert roots.n_unique() >= 12
    assert items["category"].str.contains(" > ").all()
    assert items["category"].n_unique() > 90
    assert items["title"].n_unique() > 0.9 * len(items)
    described = items["description"].drop_nulls()
    assert 0.9 * len(items) < len(described) < len(items)
    assert described.n_unique() > 0.98 * len(described)
    for column in ("title", "description", "street"):
        assert not items[column].drop_nulls().str.contains(r"[{}]|\bNone\b|\s\s").any(), column


def test_no_text_gives_its_row_away(world: World) -> None:
    text = world.items["title"] + " " + world.items["description"].fill_null("")
    assert not any(item_id in words for item_id, words in zip(world.items["item_id"], text, strict=True))


@needs_cpca
def test_the_chinese_world_is_chinese(chinese: World) -> None:
    han = r"\p{Han}"
    for column in ("category", "province", "city", "district", "street"):
        assert chinese.items[column].str.contains(han).all(), column
    assert chinese.items["title"].str.contains(han).mean() > 0.99
    assert chinese.items["street"].str.contains(r"\d+号").all()
    assert not chinese.items["description"].drop_nulls().str.contains(r"[,?]").any()
    assert set(chinese.items["city"]) >= {"上海市", "北京市"}


def test_style_and_price_can_be_learnt_from_text(world: World) -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import Ridge

    hidden = pl.read_parquet(world.folder / "truth" / "items.parquet")
    told = world.items["description"].is_not_null().to_numpy()
    words = CountVectorizer(ngram_range=(1, 2), min_df=3).fit_transform(world.items["description"].drop_nulls())
    share_NS = hidden["style"].to_numpy()[told] ** 2
    half = len(share_NS) // 2
    guess_NS = Ridge(alpha=3.0).fit(words[:half], share_NS[:half]).predict(words[half:])
    left = ((share_NS[half:] - guess_NS) ** 2).sum() / ((share_NS[half:] - share_NS[:half].mean(axis=0)) ** 2).sum()
    assert left < 0.6
    assert left > 0.1  # a reader can tell, but not read off the numbers
    level = hidden["price_level"].to_numpy()
    cheap = world.items["description"].str.contains("Cheap|Easy on the wallet").fill_null(False).to_numpy()
    assert level[cheap].max() < 0 < level.max()


def test_every_style_has_words_of_its_own() -> None:
    for language in ("en", "zh"):
        catalogue = load_catalogue(language)
        words = [word for style in catalogue.styles for word in (*style.adjectives, *style.title)]
        lines = [line for style in catalogue.styles for kind in style.lines.values() for line in kind]
        assert len(set(words)) == len(words)
        assert len(set(lines)) == len(lines)
        np.testing.assert_allclose(catalogue.share_L6.sum(axis=0), 1.0)


def test_chains_are_alike_and_some_are_regional(world: World) -> None:
    hidden = pl.read_parquet(world.folder / "truth" / "items.parquet")
    style_NS = hidden["style"].to_numpy()
    shops = world.items.with_row_index("row").drop_nulls("brand")
    assert 0.2 < len(shops) / len(world.items) < 0.3
    groups = shops.group_by("brand").agg("row", "category", "province").filter(pl.col("row").list.len() >= 4)
    assert (groups["category"].list.n_unique() == 1).all()
    alike = [style_NS[rows] @ style_NS[rows].T for rows in groups["row"].to_list()]
    assert np.median([np.median(cosine) for cosine in alike]) > 0.9
    spread = groups["province"].list.n_unique()
    assert spread.min() == 1
    assert spread.max() == world.items["province"].n_unique()


def test_prices_follow_the_category_and_level(world: World) -> None:
    hidden = pl.read_parquet(world.folder / "truth" / "items.parquet")
    typical = load_catalogue("en").price_L[hidden["leaf"].to_numpy()]
    np.testing.assert_allclose(world.items["price"], typical * np.exp(hidden["price_level"].to_numpy()), rtol=1e-5)


# --- people and time ------------------------------------------------------------------------------------------------


def test_people_commute_and_activity_is_heavy_tailed(world: World) -> None:
    users = pl.read_parquet(world.folder / "truth" / "users.parquet")
    commute = haversine_km(*(users[c] for c in ("home_lat_deg", "home_lon_deg", "work_lat_deg", "work_lon_deg")))
    assert 3.5 < np.median(commute) < 7
    pages = world.log.unique("page")["user_id"].value_counts(sort=True)["count"]
    assert pages.head(len(users) // 10).sum() > 0.3 * pages.sum()
    np.testing.assert_allclose(users["affinity"].to_numpy().max(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(users["preference"].to_numpy(), axis=1), 1.0, rtol=1e-5)


def test_most_events_happen_near_home_and_some_in_another_city(world: World) -> None:
    users = pl.read_parquet(world.folder / "truth" / "users.parquet")
    home = users.select("user_id", "home_lat_deg", "home_lon_deg")
    log = world.log.unique("page").join(home, on="user_id")
    away = haversine_km(*(log[c] for c in ("user_lat_deg", "user_lon_deg", "home_lat_deg", "home_lon_deg")))
    assert (away < 0.8).mean() > 0.35
    assert 0.01 < (away > 100).mean() < 0.1


def test_people_sleep_at_night_by_the_clock_of_their_place(world: World) -> None:
    zone = {(city.province, city.name): city.timezone for city in world.places.cities}
    near = world.log.filter(pl.Series(distance_km(world, world.log) < 5)).join(
        world.items.select("item_id", "province", "city"), on="item_id"
    )
    night = total = 0
    for (province, city), part in near.group_by("province", "city"):
        hours = part["timestamp"].dt.convert_time_zone(zone[province, city]).dt.hour()
        night += int(hours.is_between(2, 6).sum())
        total += len(hours)
    assert len({zone[key] for key in zone}) >= 3
    assert night < 0.02 * total


def test_nobody_sees_a_shop_before_it_opens(world: World) -> None:
    log = world.events.join(world.items.select("item_id", "created_at"), on="item_id")
    assert (log["timestamp"] >= log["created_at"]).all()
    start = pl.lit(world.config.start).cast(pl.Datetime("us", "UTC"))
    fresh = world.items.filter(pl.col("created_at") > start)
    assert 0.03 < len(fresh) / len(world.items) < 0.07
    assert fresh["item_id"].is_in(world.events["item_id"].implode()).any()


# --- the log --------------------------------------------------------------------------------------------------------


def test_the_log_is_sorted_and_about_as_long_as_asked(world: World) -> None:
    assert world.events["timestamp"].is_sorted()
    assert abs(len(world.events) / world.config.events - 1) < 0.05
    first, last = world.events["timestamp"].min(), world.events["timestamp"].max()
    assert first.date() == world.config.start  # type: ignore[union-attr]
    assert (last - first).days <= world.config.days  # type: ignore[operator]


def test_a_click_follows_its_impression_and_an_order_its_click(world: World) -> None:
    key = ["page", "user_id", "item_id", "user_lat_deg", "user_lon_deg"]
    kinds = {kind: world.log.filter(pl.col("kind") == kind) for kind in ("impression", "click", "order")}
    for later, earlier in (("click", "impression"), ("order", "click")):
        pairs = kinds[later].join(kinds[earlier].select(*key, "timestamp"), on=key, suffix="_before")
        assert len(pairs) == len(kinds[later]) > 0
        assert (pairs["timestamp"] > pairs["timestamp_before"]).all()
    assert kinds["impression"].select(pl.struct("page", "item_id").is_unique().all()).item()
    assert kinds["click"]["page"].is_unique().all()
    assert kinds["impression"].group_by("page").len()["len"].max() == world.config.slate


def test_amounts_stand_on_orders_only_and_spread_around_the_price(world: World) -> None:
    assert world.events.filter(pl.col("kind") != "order")["amount"].null_count() == len(
        world.events.filter(pl.col("kind") != "order")
    )
    orders = world.events.filter(pl.col("kind") == "order").join(world.items.select("item_id", "price"), on="item_id")
    ratio = np.log((orders["amount"] / orders["price"]).to_numpy())
    assert abs(ratio.mean()) < 0.03
    assert abs(ratio.std() - world.config.choice.amount_spread) < 0.03


# --- truth ----------------------------------------------------------------------------------------------------------


def test_probabilities_recompute_from_the_tables(world: World) -> None:
    log = world.log.filter(pl.col("kind") == "impression").sort("page", "timestamp")
    pages, first, place = _slates(log)
    item_BT = np.full((pages, world.config.slate), EMPTY)
    habit_BT = np.zeros(item_BT.shape, dtype=bool)
    item_BT[place], habit_BT[place] = log["item"], log["habit"]
    user, lat, lon = (log[name].to_numpy()[first] for name in ("user", "user_lat_deg", "user_lon_deg"))
    click_BT = world.truth.click_probability(user, lat, lon, item_BT, habit_BT)
    order_BT = world.truth.order_probability(user, item_BT)
    np.testing.assert_allclose(click_BT[place], log["click_probability"], rtol=2e-6, atol=1e-30)
    np.testing.assert_allclose(order_BT[place], log["order_probability"], rtol=2e-6)
    assert (click_BT.sum(axis=1) < 1).all()


def _slates(log: pl.DataFrame) -> tuple[int, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Number of pages, first row of each, and (page, place in the slate) of each impression of a sorted log."""
    _, first, page = np.unique(log["page"].to_numpy(), return_index=True, return_inverse=True)
    return len(first), first, (page, np.arange(len(page)) - first[page])


def test_habit_is_a_click_of_an_earlier_day(world: World) -> None:
    clicks = world.log.filter(pl.col("kind") == "click").sort("timestamp")
    seen = world.log.filter(pl.col("kind") == "impression")
    midnight = pl.col("timestamp").dt.date()
    for user in clicks["user_id"].value_counts(sort=True)["user_id"].head(5):
        mine = clicks.filter(pl.col("user_id") == user)
        for day, shown in seen.filter(pl.col("user_id") == user).group_by(midnight, maintain_order=True):
            if shown["timestamp"].dt.hour().min() == 0:
                continue  # a session that began before midnight still has yesterday's habits
            recent = mine.filter(midnight < day[0])["item_id"].tail(6)
            expected = shown["item_id"].is_in(recent.implode())
            assert (expected == shown["habit"]).all()


def test_the_configured_weights_are_recovered_by_a_conditional_logit(world: World) -> None:
    log = world.log.sort("page", "timestamp")
    seen = log.filter(pl.col("kind") == "impression")
    pages, _, place = _slates(seen)
    model, weights = world.truth.model, world.config.choice
    users, items = seen["user"].to_numpy(), seen["item"].to_numpy()
    columns = [
        model.items.log_popularity_N[items],
        model.interest(users, items[:, None])[:, 0],
        -np.abs(model.items.price_level_N[items] - model.users.budget_U[users]),
        -np.log1p(distance_km(world, seen) / weights.distance_scale_km),
        seen["habit"].to_numpy(),
        -np.ones(len(seen)),  # its coefficient is the outside utility
    ]
    x_BTF = np.zeros((pages, world.config.slate, len(columns)))
    x_BTF[place] = np.stack(columns, axis=1)
    filled_BT = np.zeros(x_BTF.shape[:2], dtype=bool)
    filled_BT[place] = True
    chosen_BT = np.zeros_like(filled_BT)
    clicked = seen.join(log.filter(pl.col("kind") == "click").select("page", "item"), on=["page", "item"], how="semi")
    marks = seen.with_row_index("row").join(clicked.select("page", "item"), on=["page", "item"])["row"].to_numpy()
    chosen_BT[place[0][marks], place[1][marks]] = True
    found, error = conditional_logit(x_BTF, filled_BT, chosen_BT)
    true = [
        weights.popularity_weight,
        weights.interest_weight,
        weights.price_weight,
        weights.distance_weight,
        weights.habit_weight,
        model.outside_utility,
    ]
    assert (np.abs(found - true) < 4 * error).all(), (found, true, error)
    assert (error < [0.1, 0.2, 0.2, 0.1, 0.3, 0.2]).all()  # and the test would see a wrong weight
    assert abs(found[3] / weights.distance_weight - 1) < 0.1


def conditional_logit(x_BTF: np.ndarray, filled_BT: np.ndarray, chosen_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maximum likelihood of a multinomial logit with an outside option of utility 0, by Newton's method."""
    weight_F = np.zeros(x_BTF.shape[2])
    chosen_F = (x_BTF * chosen_BT[..., None]).sum(axis=(0, 1))
    for _ in range(25):
        exp_BT = np.exp(np.clip(x_BTF @ weight_F, -500, 500)) * filled_BT
        p_BT = exp_BT / (1 + exp_BT.sum(axis=1, keepdims=True))
        mean_BF = np.einsum("bt,btf->bf", p_BT, x_BTF)
        gradient = chosen_F - mean_BF.sum(axis=0)
        information = np.einsum("bt,btf,btg->fg", p_BT, x_BTF, x_BTF, optimize=True) - mean_BF.T @ mean_BF
        step = np.linalg.solve(information, gradient)
        weight_F = weight_F + np.clip(step, -1, 1)
    assert np.abs(step).max() < 1e-6
    return weight_F, np.sqrt(np.diag(np.linalg.inv(information)))


def test_conversion_falls_with_distance_and_rises_with_interest(world: World) -> None:
    seen = world.log.filter(pl.col("kind") == "impression")
    clicked = world.log.filter(pl.col("kind") == "click").select("page", "item", clicked=pl.lit(1))
    joined = seen.join(clicked, on=["page", "item"], how="left", maintain_order="left").with_columns(
        pl.col("clicked").fill_null(0)
    )
    hit = joined["clicked"].to_numpy()
    away = distance_km(world, seen)
    rate = [hit[(away >= low) & (away < high)].mean() for low, high in ((0, 0.5), (0.5, 1), (1, 2), (2, 5), (5, 15))]
    assert all(near > 1.2 * far for near, far in itertools.pairwise(rate)), rate
    interest = world.truth.model.interest(seen["user"].to_numpy(), seen["item"].to_numpy()[:, None])[:, 0]
    low, high = np.quantile(interest, [0.25, 0.75])
    assert hit[interest > high].mean() > 2 * hit[interest < low].mean()


def test_rates_are_the_configured_ones(world: World) -> None:
    counts = dict(world.events["kind"].value_counts().iter_rows())
    assert abs(counts["click"] / world.log["page"].n_unique() - world.config.choice.click_rate) < 0.06
    clicks = world.log.filter(pl.col("kind") == "click")
    assert abs(counts["order"] / counts["click"] - clicks["order_probability"].mean()) < 0.02
    fit = world.truth.model.fit(clicks["user"].to_numpy(), clicks["item"].to_numpy()[:, None])
    average = np.abs(fit[:, 0] - world.truth.model.average_fit) < 0.05
    assert abs(clicks["order_probability"].to_numpy()[average].mean() - world.config.choice.order_rate) < 0.01


def test_a_stranger_is_not_in_the_truth(world: World) -> None:
    with pytest.raises(DataError, match="nobody"):
        world.truth.user_rows(pl.Series(["u0001", "nobody"]))


def two_shops(config: ChoiceConfig) -> ChoiceModel:
    """A user at (0, 0) who likes the first leaf and the second style; shops 0 and about 1.112 km to the north."""
    return ChoiceModel(
        config,
        UserTraits(np.float32([[1.0, 0.2]]), np.float32([[0.0, 1.0]]), np.float32([0.5])),
        ItemTraits(
            np.array([0.0, 0.01]), np.array([0.0, 0.0]), np.array([1, 0]), np.float32([[1, 0], [0.6, 0.8]]),
            np.float32([0.3, -0.2]), np.float32([0.5, 0.0]),
        ),
        outside_utility=1.0,
        average_fit=2.0,
    )  # fmt: skip


def test_the_formula_by_hand() -> None:
    model = two_shops(ChoiceConfig())
    user, here = np.array([0]), np.array([0.0])
    item_BT = np.array([[0, 1, EMPTY]])
    habit_BT = np.array([[False, True, False]])
    utility = model.utility(user, here, here, item_BT, habit_BT)
    away_km = float(haversine_km(0, 0, 0.01, 0))
    by_hand = [
        0.7 * 0.3 + 3 * (0.2 + 0.0),
        0.7 * -0.2 + 3 * (1.0 + 0.8) - 0.8 * 0.5 - 2 * np.log(1 + away_km) + 1.0,
    ]
    np.testing.assert_allclose(utility[0, :2], by_hand, rtol=1e-6)
    assert utility[0, 2] == -np.inf
    total = np.exp(by_hand[0]) + np.exp(by_hand[1]) + np.exp(1.0)
    np.testing.assert_allclose(model.click_probability(utility)[0], [*np.exp(by_hand) / total, 0.0], rtol=1e-6)
    odds = 0.25 / 0.75 * np.exp(0.6 * (3 * 1.8 - 0.8 * 0.5 - 2.0))
    np.testing.assert_allclose(model.order_probability(model.fit(user, item_BT))[0, 1], odds / (1 + odds), rtol=1e-6)


@given(st.floats(0.02, 0.98), st.lists(st.lists(st.floats(-30, 30), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_calibration_meets_the_click_rate(rate: float, utilities: list[list[float]]) -> None:
    utility_BT = np.array(utilities)
    model = two_shops(ChoiceConfig(click_rate=rate)).calibrated(utility_BT, np.ones_like(utility_BT))
    assert abs(model.click_probability(utility_BT).sum(axis=1).mean() - rate) < 1e-4
    assert abs(model.average_fit - 1) < 1e-5


def test_without_distance_weight_distance_does_not_matter() -> None:
    model = two_shops(ChoiceConfig(distance_weight=0.0))
    user, item_BT, none = np.array([0]), np.array([[0, 1]]), np.zeros((1, 2), dtype=bool)
    near = model.utility(user, np.array([0.0]), np.array([0.0]), item_BT, none)
    np.testing.assert_allclose(model.utility(user, np.array([50.0]), np.array([9.0]), item_BT, none), near)


# --- parts ----------------------------------------------------------------------------------------------------------


def test_group_draw_keeps_to_the_group_and_its_weights() -> None:
    group, weight = np.array([1, 0, 1, 0, 1]), np.array([1.0, 5.0, 3.0, 0.5, 4.0])
    draw = GroupDraw(group, weight, 3)
    uniform = (np.arange(8_000) + 0.5) / 8_000
    found = draw.draw(np.ones(8_000, dtype=np.int64), uniform)
    np.testing.assert_allclose(np.bincount(found, minlength=5) / 8_000, [1 / 8, 0, 3 / 8, 0, 4 / 8], atol=1e-3)
    assert set(draw.draw(np.full(8_000, 2), uniform)) == {0, 1, 2, 3, 4}  # a group without rows draws from all


@given(st.integers(0, 2**32 - 1), st.floats(-89, 89), st.floats(-180, 180), st.floats(0.05, 500.0))
@settings(deadline=None, max_examples=40)
def test_near_draw_always_finds_an_item(seed: int, lat: float, lon: float, near_km: float) -> None:
    rng = np.random.default_rng(seed)
    draw = NearDraw(rng.uniform(-90, 90, size=30), rng.uniform(-180, 180, size=30))
    found = draw.draw(np.full(20, lat), np.full(20, lon), near_km, rng)
    assert found.min() >= 0
    assert found.max() < 30


def test_near_draw_is_nearer_for_a_shorter_reach() -> None:
    rng = np.random.default_rng(0)
    lat, lon = 40 + rng.uniform(-0.3, 0.3, size=50_000), -90 + rng.uniform(-0.4, 0.4, size=50_000)
    draw = NearDraw(lat, lon)
    medians = []
    for near_km in (0.5, 2.0, 8.0):
        found = draw.draw(np.full(4_000, 40.0), np.full(4_000, -90.0), near_km, rng)
        medians.append(float(np.median(haversine_km(40.0, -90.0, lat[found], lon[found]))))
    assert medians[0] < 0.5 * medians[1] < 0.25 * medians[2]
    assert 0.5 < medians[1] / 2.0 < 1.5


def test_habits_keep_the_last_six_clicks_in_order_of_time() -> None:
    habits = Habits(3)
    habits.end_day(np.array([0, 2, 0]), np.array([10, 30, 11]))
    assert set(habits.of(np.array([0]))[0]) == {10, 11, EMPTY}
    assert set(habits.of(np.array([1]))[0]) == {EMPTY}
    habits.end_day(np.zeros(9, dtype=np.int64), np.arange(20, 29))
    assert set(habits.of(np.array([0]))[0]) == set(range(23, 29))
    habits.end_day(np.array([0]), np.array([99]))
    assert set(habits.of(np.array([0]))[0]) == {*range(24, 29), 99}
    assert set(habits.of(np.array([2]))[0]) == {30, EMPTY}


def test_the_formula_is_written_beside_the_data(world: World) -> None:
    text = (world.folder / "truth" / "choice.json").read_text(encoding="utf-8")
    for name in ChoiceConfig.model_fields:
        assert re.search(rf'"{name}": ', text), name
    assert "exp(outside_utility)" in text
