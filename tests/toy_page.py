"""A real engine over a catalogue that nothing was trained on: 5,000 items in four cities, made within a second."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from lgsid.arrays import FloatArray
from lgsid.artifact import RunFolder, write_json
from lgsid.config import RunConfig
from lgsid.config.serve import ServeConfig
from lgsid.config.world import WorldConfig
from lgsid.serve.artefacts import Artefacts
from lgsid.serve.asked import Asked
from lgsid.serve.engine import RunEngine
from lgsid.sid.catalogue import COLUMNS, Assigned, Fit
from lgsid.sid.explain import describe_tokens
from lgsid.sid.table import sid_table

CITIES = {
    "Springfield": (40.0, -90.0),
    "Shelbyville": (40.6, -89.4),
    "Ogdenville": (39.5, -90.7),
    "北港": (40.3, -91.0),
}
KINDS = ("Food > Noodles", "Food > Pizza", "Shops > Books", "Shops > Shoes", "Health > Dentist")
NAUGHTY = "<img src=x onerror=alert(1)>"
"""Title of the first item: what a page that trusted its data would run."""


class Nearest:
    """Another ranker: the nearer, the better."""

    def scores(self, asked: Asked) -> FloatArray:
        return (-asked.distance_km_C).astype(np.float32)


def page_items(count: int = 5_000, seed: int = 0) -> pl.DataFrame:
    """Items around the middles of the cities; every fifth without a price."""
    chance = np.random.default_rng(seed)
    names = list(CITIES)
    city_N = chance.integers(0, len(names), count)
    middle_N2 = np.array(list(CITIES.values()))[city_N]
    place_N2 = middle_N2 + chance.normal(0, 0.03, (count, 2))
    kind_N = chance.integers(0, len(KINDS), count)
    number_N = np.arange(count)
    titles = [f"{KINDS[kind].split(' > ')[1]} {number}" for kind, number in zip(kind_N, number_N, strict=True)]
    return pl.DataFrame({
        "item_id": [f"i-{number}" for number in number_N],
        "title": [NAUGHTY, *titles[1:]],
        "lat_deg": place_N2[:, 0], "lon_deg": place_N2[:, 1],
        "category": [KINDS[kind] for kind in kind_N],
        "brand": [f"Brand {number % 7}" if number % 3 else None for number in number_N],
        "province": ["State"] * count,
        "city": [names[city] for city in city_N],
        "district": [f"{names[city]} {'SN'[int(lat > middle)]}" for city, lat, middle in
                     zip(city_N, place_N2[:, 0], middle_N2[:, 0], strict=True)],
        "price": [None if number % 5 == 0 else 5.0 + number % 40 for number in number_N],
    })  # fmt: skip


def page_engine(folder: Path, count: int = 5_000, world: bool = True) -> RunEngine:
    """An engine with two rankers, embeddings before and after alignment, and users of a simulated world."""
    items = page_items(count)
    chance = np.random.default_rng(1)
    kind_N = np.array([KINDS.index(kind) for kind in items["category"]])
    east_N = (items["lon_deg"].rank("ordinal").to_numpy() * 12 // (count + 1)).astype(np.int32)
    codes_NL = np.stack([east_N, kind_N, np.arange(count)], axis=1).astype(np.int32)
    meaning_ND = np.eye(len(KINDS))[kind_N] + chance.normal(0, 0.1, (count, len(KINDS)))
    where_ND = 4 * items.select("lat_deg", "lon_deg").to_numpy() - np.array([160.0, -360.0])
    run = RunFolder(folder)
    write_json(run.path("3_sid", "manifest.json"), {"fingerprint": "toy", "outputs": {}})
    users = [{"user_id": f"u{user:02}", "item_id": f"i-{(user * 37 + visit * 11) % count}"}
             for user in range(30) for visit in range(3 + user % 9)]  # fmt: skip
    run.path("1_data").mkdir(parents=True)
    pl.DataFrame(users).write_parquet(run.path("1_data", "events.parquet"))
    data: dict[str, Any] = {"world": WorldConfig()} if world else {"items": Path("items.parquet")}
    artefacts = Artefacts(
        run=run,
        version="page-1",
        config=RunConfig.model_validate({"name": "page", "data": data}),
        fit=Fit(items, _unit(np.concatenate([meaning_ND, where_ND], axis=1)),
                sid_table(items["item_id"], codes_NL, np.zeros(count, dtype=np.bool_), 3), 3),
        assigned=_nothing(items),
        reference_ND=_unit(np.concatenate([meaning_ND, 0 * where_ND], axis=1)),
        visits_N=chance.integers(0, 50, count),
        tokenizer=SimpleNamespace(tokens=describe_tokens(items, codes_NL)),  # type: ignore[arg-type]
        rankers={},
        generators={},
    )  # fmt: skip
    engine = RunEngine(artefacts, ServeConfig())
    models = engine.state.models
    engine._state = replace(engine.state, models=replace(models, rankers={**models.rankers, "nearest": Nearest()}))
    return engine


def _unit(vectors_ND: Any) -> FloatArray:
    found: FloatArray = (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)
    return found


def _nothing(items: pl.DataFrame) -> Assigned:
    text = dict.fromkeys(("item_id", "sid"), pl.String)
    sids = pl.DataFrame(schema={**text, "collides": pl.Boolean, **COLUMNS})
    retired = pl.DataFrame(schema={**text, "when": pl.Int64})
    none = items.head(0)
    return Assigned(none, np.zeros((0, len(KINDS) + 2), dtype=np.float32), sids, retired, 0)
