"""The truth behind a simulated world: written beside its tables, read back to score experiments against.

``truth/users.parquet``  user_id, home, work, city, affinity (to each leaf category), preference (of each
                         style), budget, activity
``truth/items.parquet``  item_id, place, leaf, style, log_popularity, price_level, quality, opened_day
``truth/events.parquet`` one row per row of ``events.parquet``: page, utility, click_probability,
                         order_probability (of the item on that page), habit
``truth/choice.json``    the formula, every parameter, the names of leaves and styles, the configuration and the seed
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lgsid.arrays import AnyArray, DoubleArray, IntArray
from lgsid.artifact import read_json, write_json
from lgsid.config import ChoiceConfig, WorldConfig
from lgsid.data.world.catalogue import Catalogue
from lgsid.data.world.choice import FORMULA, HABIT_LENGTH, ChoiceModel, ItemTraits, UserTraits
from lgsid.data.world.log import parquet_writer
from lgsid.data.world.people import People
from lgsid.data.world.places import Places
from lgsid.data.world.shops import Shops
from lgsid.errors import DataError

_BLOCK = 65_536


@dataclass(frozen=True)
class Truth:
    """A world's truth as read from its folder.

    Attributes:
        user_ids, item_ids: ids in the order of the truth's rows.
        model: the choice model with all parameters and traits.
        leaves, styles: names of the leaf categories and styles.
    """

    user_ids: pl.Series
    item_ids: pl.Series
    model: ChoiceModel
    leaves: tuple[str, ...]
    styles: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path) -> Truth:
        """Read ``truth/``.

        Raises:
            ArtifactError: choice.json is missing or broken.
        """
        choice = read_json(folder / "choice.json")
        users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
        model = ChoiceModel(
            ChoiceConfig.model_validate(choice["parameters"]),
            UserTraits(*(users[name].to_numpy() for name in ("affinity", "preference", "budget"))),
            ItemTraits(
                *(items[name].to_numpy() for name in ("lat_deg", "lon_deg", "leaf", "style")),
                *(items[name].to_numpy() for name in ("log_popularity", "price_level")),
            ),
            choice["outside_utility"],
            choice["average_fit"],
        )
        return cls(users["user_id"], items["item_id"], model, tuple(choice["leaves"]), tuple(choice["styles"]))

    def user_rows(self, user_ids: pl.Series) -> IntArray:
        """Rows of users in the truth.

        Raises:
            DataError: a user is not of this world.
        """
        return _rows(self.user_ids, user_ids, "user")

    def item_rows(self, item_ids: pl.Series) -> IntArray:
        """Rows of items in the truth.

        Raises:
            DataError: an item is not of this world.
        """
        return _rows(self.item_ids, item_ids, "item")

    def click_probability(
        self,
        user_B: IntArray,
        lat_B: DoubleArray,
        lon_B: DoubleArray,
        item_BT: IntArray,
        habit_BT: npt.ArrayLike = False,
    ) -> DoubleArray:
        """Probability that each item of a slate is clicked by a user at a place; exact, shape (B, T).

        Args:
            user_B: rows of the users.
            lat_B, lon_B: where they are, in degrees.
            item_BT: rows of the items of each slate, -1 where there is none. A slate of one item compares it with
                choosing nothing.
            habit_BT: whether the item is among the user's last clicks of earlier days.
        """
        habit = np.broadcast_to(np.asarray(habit_BT, dtype=np.bool_), item_BT.shape)
        return self.model.click_probability(self.model.utility(user_B, lat_B, lon_B, item_BT, habit))

    def order_probability(self, user_B: IntArray, item_BT: IntArray) -> DoubleArray:
        """Probability that an order follows a click; exact, shape (B, T)."""
        return self.model.order_probability(self.model.fit(user_B, item_BT))


def _rows(known: pl.Series, wanted: pl.Series, what: str) -> IntArray:
    rows = wanted.to_frame("id").join(
        pl.DataFrame({"id": known, "row": np.arange(len(known))}), on="id", how="left", maintain_order="left"
    )["row"]
    if rows.null_count():
        stranger = wanted.filter(rows.is_null())[0]
        raise DataError(f"{what} {stranger!r} is not in this world's truth", "use the truth of the same run")
    found: IntArray = rows.to_numpy()
    return found


def ids(letter: str, count: int) -> pa.Array:
    """Ids of equal length: ``s0000042``. Rows are in no order, so an id says nothing about its item."""
    width = max(4, len(str(count - 1)))
    return pa.array([f"{letter}{row:0{width}d}" for row in range(count)])


def write_users(path: Path, people: People, places: Places, user_ids: pa.Array) -> None:
    """Write ``users.parquet`` block by block."""
    columns: dict[str, AnyArray] = {
        "home_lat_deg": people.home_lat_U,
        "home_lon_deg": people.home_lon_U,
        "work_lat_deg": people.work_lat_U,
        "work_lon_deg": people.work_lon_U,
        "activity": people.activity_U,
        "budget": people.budget_U,
        "affinity": people.affinity_UL,
        "preference": people.preference_US,
    }
    cities = pa.array([city.name for city in places.cities])
    _write(path, user_ids, "user_id", columns, {"city": cities.take(pa.array(people.city_U))})


def write_items(path: Path, shops: Shops, item_ids: pa.Array) -> None:
    """Write the latent side of the items, ``items.parquet``, block by block."""
    columns: dict[str, AnyArray] = {
        "lat_deg": shops.lat_N,
        "lon_deg": shops.lon_N,
        "leaf": shops.leaf_N,
        "style": shops.style_NS,
        "log_popularity": shops.log_popularity_N,
        "price_level": shops.price_level_N,
        "quality": shops.quality_N,
        "opened_day": shops.opened_N,
    }
    _write(path, item_ids, "item_id", columns, {})


def _write(path: Path, row_ids: pa.Array, name: str, columns: dict[str, AnyArray], texts: dict[str, pa.Array]) -> None:
    types = {key: _arrow_type(column) for key, column in columns.items()}
    schema = pa.schema([(name, pa.string()), *((key, pa.string()) for key in texts), *types.items()])
    with parquet_writer(path, schema) as writer:
        for start in range(0, len(row_ids), _BLOCK):
            rows = slice(start, start + _BLOCK)
            values = [row_ids[rows], *(text[rows] for text in texts.values())]
            values += [_arrow(column[rows]) for column in columns.values()]
            writer.write_table(pa.table(values, schema=schema))


def _arrow_type(column: AnyArray) -> pa.DataType:
    flat = pa.from_numpy_dtype(column.dtype)
    return flat if column.ndim == 1 else pa.list_(flat, column.shape[1])


def _arrow(column: AnyArray) -> pa.Array:
    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), column.shape[1])


def write_choice(path: Path, world: WorldConfig, seed: int, model: ChoiceModel, catalogue: Catalogue) -> None:
    """Write ``choice.json``."""
    content: dict[str, Any] = {
        "formula": FORMULA.splitlines(),
        "parameters": world.choice.model_dump(),
        "outside_utility": model.outside_utility,
        "average_fit": model.average_fit,
        "habit_length": HABIT_LENGTH,
        "leaves": [leaf.path for leaf in catalogue.leaves],
        "styles": [style.name for style in catalogue.styles],
        "world": world.model_dump(mode="json"),
        "seed": seed,
    }
    write_json(path, content)


def traits(shops: Shops, people: People) -> tuple[UserTraits, ItemTraits]:
    """What the choice model knows about both sides."""
    users = UserTraits(people.affinity_UL, people.preference_US, people.budget_U)
    items = ItemTraits(
        *(getattr(shops, name) for name in ("lat_N", "lon_N", "leaf_N")),
        *(getattr(shops, name) for name in ("style_NS", "log_popularity_N", "price_level_N")),
    )
    return users, items
