"""Simulate a world: real places, invented shops and people, and what they do, with the truth kept beside it.

Memory holds the shops and the people as numbers (about 300 bytes a shop, 650 a user) and one block of pages; text and
events are written block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from lgsid.config import WorldConfig
from lgsid.data.world.behaviour import BLOCK, Habits, Slates, respond
from lgsid.data.world.catalogue import Catalogue, load_catalogue
from lgsid.data.world.chains import Chains, build_chains
from lgsid.data.world.choice import ChoiceModel
from lgsid.data.world.exposure import Exposure
from lgsid.data.world.log import EventLog, event_log, parquet_writer
from lgsid.data.world.people import People, build_people
from lgsid.data.world.places import Places, load_places
from lgsid.data.world.seeds import stream
from lgsid.data.world.sessions import Calendar
from lgsid.data.world.shops import Shops, build_shops
from lgsid.data.world.text import ShopText
from lgsid.data.world.towns import Towns, build_towns
from lgsid.data.world.truth import ids, traits, write_choice, write_items, write_users
from lgsid.progress import progress

_TEXT_BLOCK = 65_536
_PILOT_PAGES = 8_192


@dataclass(frozen=True)
class _World:
    config: WorldConfig
    seed: int
    catalogue: Catalogue
    places: Places
    towns: Towns
    chains: Chains
    shops: Shops
    people: People


def simulate(world: WorldConfig, seed: int, folder: Path) -> None:
    """Write ``items.parquet``, ``events.parquet`` (unless ``world.events`` is 0) and ``truth/`` into a folder.

    The same configuration and seed give the same bytes.

    Raises:
        ConfigError: more cities are asked for than the packages know.
        MissingDependencyError: the Chinese world is asked for and cpca is not installed.
    """
    built = _build(world, seed)
    item_ids, user_ids = ids("s", world.items), ids("u", world.users)
    _write_items(built, item_ids, folder / "items.parquet")
    write_items(folder / "truth" / "items.parquet", built.shops, item_ids)
    write_users(folder / "truth" / "users.parquet", built.people, built.places, user_ids)
    exposure = Exposure(world, built.shops, len(built.places.cities))
    calendar = Calendar(world, built.places, built.towns, built.people, seed)
    model, rows_per_page = _calibrate(built, exposure, calendar)
    if world.events:
        with event_log(folder, user_ids, item_ids) as log:
            _write_events(built, exposure, calendar, model, world.events / rows_per_page, log)
    write_choice(folder / "truth" / "choice.json", world, seed, model, built.catalogue)


def _build(world: WorldConfig, seed: int) -> _World:
    catalogue = load_catalogue(world.language)
    places = load_places(world.language, world.cities)
    towns = build_towns(places, catalogue, world.items, seed)
    chains = build_chains(places, catalogue, world.items * world.chain_share, seed)
    shops = build_shops(world, places, towns, chains, catalogue, seed)
    people = build_people(world, places, towns, shops, catalogue, seed)
    return _World(world, seed, catalogue, places, towns, chains, shops, people)


def _write_items(built: _World, item_ids: pa.Array, path: Path) -> None:
    writer_of_text = ShopText(built.catalogue, built.places, built.towns, built.chains, built.shops)
    schema = _items_table(built, writer_of_text, item_ids, slice(0, 0), 0).schema
    starts = range(0, len(built.shops), _TEXT_BLOCK)
    with (
        parquet_writer(path, schema) as writer,
        progress("writing shops", len(built.shops), "shops") as advance,
    ):
        for block, start in enumerate(starts):
            rows = slice(start, min(start + _TEXT_BLOCK, len(built.shops)))
            writer.write_table(_items_table(built, writer_of_text, item_ids, rows, block))
            advance(rows.stop - rows.start)


def _items_table(built: _World, text: ShopText, item_ids: pa.Array, rows: slice, block: int) -> pa.Table:
    shops = built.shops
    words = text.write(np.arange(rows.start, rows.stop), stream(built.seed, "text", block))
    first_day = built.config.start
    opened = [first_day + timedelta(days=day) for day in shops.opened_N[rows].tolist()]
    frame = pl.DataFrame(
        {
            "item_id": pl.Series(item_ids[rows].to_pylist(), dtype=pl.String),
            "title": words["title"],
            "lat_deg": shops.lat_N[rows],
            "lon_deg": shops.lon_N[rows],
        }
    ).with_columns(
        *(words[name] for name in ("category", "brand", "description", "province", "city", "district", "street")),
        price=pl.Series(shops.price_N[rows], dtype=pl.Float64),
        created_at=pl.Series(opened, dtype=pl.Date).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
    )
    return frame.to_arrow()


def _calibrate(built: _World, exposure: Exposure, calendar: Calendar) -> tuple[ChoiceModel, float]:
    """Solve the model's free parameters on pilot pages; also the mean number of log rows a page makes."""
    users, items = traits(built.shops, built.people)
    model = ChoiceModel(built.config.choice, users, items)
    pages = calendar.pages(0, _PILOT_PAGES // 2, "pilot")
    rng = stream(built.seed, "pilot slates")
    pilot = Slates.draw(exposure, model, Habits(built.config.users), pages, built.config.days, rng)
    model = model.calibrated(pilot.utility_BT, pilot.fit_BT)
    click_BT = model.click_probability(pilot.utility_BT)
    orders = float((click_BT * model.order_probability(pilot.fit_BT)).sum())
    # the pilot sees all shops; those that open during the simulation are seen half of its time
    seen = float(np.isfinite(pilot.utility_BT).sum()) * (1 - built.config.new_share / 2)
    return model, (seen + float(click_BT.sum()) + orders) / len(pages)


def _write_events(
    built: _World, exposure: Exposure, calendar: Calendar, model: ChoiceModel, total_pages: float, log: EventLog
) -> None:
    habits = Habits(built.config.users)
    first_page = 0
    with progress("simulating days", built.config.days, "days") as advance:
        for day, sessions in enumerate(calendar.sessions_per_day(total_pages)):
            first_page += _simulate_day(built, exposure, calendar, model, habits, day, sessions, first_page, log)
            advance(1)


def _simulate_day(
    built: _World,
    exposure: Exposure,
    calendar: Calendar,
    model: ChoiceModel,
    habits: Habits,
    day: int,
    sessions: int,
    first_page: int,
    log: EventLog,
) -> int:
    """Simulate one day (UTC) and return its number of pages."""
    pages = calendar.pages(day, sessions)
    clicks = []
    for block, start in enumerate(range(0, len(pages), BLOCK)):
        rng = stream(built.seed, "pages", day, block)
        part = pages.part(slice(start, start + BLOCK))
        slates = Slates.draw(exposure, model, habits, part, day, rng)
        rows = respond(slates, model, built.shops, part, first_page + start, rng)
        is_last = start + BLOCK >= len(pages)
        log.add(rows, calendar.midnight_us(day + 1) if is_last else int(pages.time_P[start + BLOCK]))
        of_click = np.flatnonzero(rows.kind_E == 1)
        clicks.append((rows.user_E[of_click], rows.item_E[of_click]))
    if clicks:
        habits.end_day(np.concatenate([user for user, _ in clicks]), np.concatenate([item for _, item in clicks]))
    return len(pages)
