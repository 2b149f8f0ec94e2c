"""What a request asks of items besides reach: category, brand, price, open now; and what each of it removed.

Axes: N items, M items within reach, C distinct values of a column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from lgsid.arrays import BoolArray, CodeArray, DoubleArray, IntArray
from lgsid.data.labels import SEPARATORS
from lgsid.serve.base import RequestError
from lgsid.serve.hours import COLUMN as HOURS
from lgsid.serve.hours import OpeningHours, merged_codes, quarter_of

PATH = " > "


@dataclass(frozen=True)
class Wanted:
    """What items have to be; all of it, and nothing where it is left out.

    Attributes:
        categories: one of these or below it: "Food" takes "Food > Pizza" too; upper and lower case are the same.
        brands: one of these.
        least_price, most_price: both may be met exactly; an item without a price meets neither.
        open_at: open at that moment, read in the items' time zone; an item whose hours are unknown does not count as
            open …
        or_unknown_hours: … unless this is set.
        without: rows of the catalogue that are not wanted, such as what the user has visited.

    Raises:
        RequestError: an empty name, a price below 0 or a range without anything in it.
    """

    categories: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    least_price: float | None = None
    most_price: float | None = None
    open_at: datetime | None = None
    or_unknown_hours: bool = False
    without: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for kind, names in (("category", self.categories), ("brand", self.brands)):
            if any(not tidy(name) for name in names):
                raise RequestError(f"a {kind} without a name: expected text")
        for price in (self.least_price, self.most_price):
            if price is not None and not 0 <= price < np.inf:
                raise RequestError(f"price {price}: expected a number of 0 or more")
        if self.least_price is not None and self.most_price is not None and self.least_price > self.most_price:
            raise RequestError(f"price from {self.least_price} to {self.most_price}: expected the lower one first")


@dataclass(frozen=True)
class Step:
    """What one filter did.

    Attributes:
        name: `category`, `brand`, `price`, `open` or `without`.
        removed: items that this filter rules out, whatever the others say.
        unknown: those among them that it rules out because the catalogue does not say.
        only: items that no other filter rules out: so many more there would be without this one.
    """

    name: str
    removed: int
    unknown: int
    only: int


@dataclass(frozen=True)
class Kept:
    """Which items meet all filters, and what each filter did.

    Attributes:
        kept_M: one for each item that was looked at.
        steps: the filters in use.
    """

    kept_M: BoolArray
    steps: tuple[Step, ...]


class Filters:
    """Columns of N items, ready to be asked; never changes, and may be read from any number of threads.

    Args:
        items: table with any of `category` (paths, several separated by | or ;), `brand`, `price`, `opening_hours`.
        file: its name, for errors.

    Raises:
        TableError: opening hours that are not understood.
    """

    def __init__(self, items: pl.DataFrame, file: str = "items") -> None:
        self._category = _Labels.of(_column(items, "category"), _prefixes)
        self._brand = _Labels.of(_column(items, "brand"), lambda brand: [tidy(brand)])
        price = items["price"].cast(pl.Float64) if "price" in items.columns else pl.Series([None] * len(items))
        self._price_N: DoubleArray = price.cast(pl.Float64).fill_null(np.nan).to_numpy()
        self._has_price = not bool(np.isnan(self._price_N).all())
        self._hours = OpeningHours.of(items, file)

    def __len__(self) -> int:
        return len(self._price_N)

    @property
    def known(self) -> tuple[str, ...]:
        """The columns that any item has a value of."""
        has = {
            "category": bool(self._category.code_of),
            "brand": bool(self._brand.code_of),
            "price": self._has_price,
            HOURS: self._hours.known,
        }
        return tuple(name for name, there in has.items() if there)

    def categories(self) -> list[str]:
        """Every category and every part of a path that leads to one, in lower case, sorted."""
        return sorted(self._category.codes)

    def plus(self, items: pl.DataFrame, file: str = "items") -> Filters:
        """These items followed by others.

        Raises:
            TableError: as the constructor.
        """
        new, grown = Filters(items, file), Filters.__new__(Filters)
        grown._category, grown._brand = self._category.plus(new._category), self._brand.plus(new._brand)
        grown._price_N = np.concatenate([self._price_N, new._price_N])
        grown._has_price = self._has_price or new._has_price
        grown._hours = self._hours.plus(new._hours)
        return grown

    def keep(self, wanted: Wanted, rows_M: IntArray | None = None) -> Kept:
        """Which of some rows (all where None) meet everything that is wanted.

        Raises:
            RequestError: a filter on a column that no item has a value of.
        """
        rows_M = np.arange(len(self)) if rows_M is None else rows_M
        tests = self._tests(wanted, rows_M)
        failed_M = np.zeros(len(rows_M), dtype=np.int64)
        for _, passed_M, _ in tests:
            failed_M += ~passed_M
        steps = [
            Step(
                name,
                removed=int((~passed_M).sum()),
                unknown=int((~passed_M & unknown_M).sum()),
                only=int(((failed_M == 1) & ~passed_M).sum()),
            )
            for name, passed_M, unknown_M in tests
        ]
        return Kept(failed_M == 0, tuple(steps))

    def _tests(self, wanted: Wanted, rows_M: IntArray) -> list[tuple[str, BoolArray, BoolArray]]:
        """Name, whether each row passes, and whether its value is unknown."""
        tests = []
        for name, labels, names in (
            ("category", self._category, wanted.categories),
            ("brand", self._brand, wanted.brands),
        ):
            if names:
                self._require(name)
                tests.append((name, *labels.among(names, rows_M)))
        if wanted.least_price is not None or wanted.most_price is not None:
            tests.append(("price", *self._priced(wanted, rows_M)))
        if wanted.open_at is not None:
            tests.append(("open", *self._open(wanted.open_at, wanted, rows_M)))
        if wanted.without:
            kept_M = ~np.isin(rows_M, np.array(wanted.without))
            tests.append(("without", kept_M, np.zeros_like(kept_M)))
        return tests

    def _priced(self, wanted: Wanted, rows_M: IntArray) -> tuple[BoolArray, BoolArray]:
        self._require("price")
        price_M = self._price_N[rows_M]
        least = -np.inf if wanted.least_price is None else wanted.least_price
        most = np.inf if wanted.most_price is None else wanted.most_price
        return (price_M >= least) & (price_M <= most), np.isnan(price_M)

    def _open(self, moment: datetime, wanted: Wanted, rows_M: IntArray) -> tuple[BoolArray, BoolArray]:
        self._require(HOURS)
        open_M, known_M = self._hours.open_at(quarter_of(moment), rows_M)
        return open_M | (~known_M & wanted.or_unknown_hours), ~known_M

    def _require(self, column: str) -> None:
        if column not in self.known:
            raise RequestError(
                f"no item has a value in the column {column}; known: {', '.join(self.known) or 'none'}",
                f"ask without that filter, or add {column} to the items table",
            )


@dataclass(frozen=True)
class _Labels:
    """A column of text.

    Attributes:
        code_of: distinct texts, and the number of each.
        code_N: which one each item has, -1 for none.
        codes: names by which one may ask for them, and the texts that each name means.
    """

    code_of: dict[str, int]
    code_N: CodeArray
    codes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, column_N: pl.Series, names: Callable[[str], list[str]]) -> _Labels:
        distinct = column_N.drop_nulls().unique(maintain_order=True)
        codes = pl.Series(range(len(distinct)), dtype=pl.Int32)
        code_N = column_N.replace_strict(distinct, codes, default=None, return_dtype=pl.Int32).fill_null(-1).to_numpy()
        found: dict[str, list[int]] = {}
        for code, value in enumerate(distinct):
            for name in dict.fromkeys(names(value)):
                found.setdefault(name, []).append(code)
        return cls(
            {value: code for code, value in enumerate(distinct)},
            code_N,
            {name: tuple(codes) for name, codes in found.items()},
        )

    def among(self, names: Sequence[str], rows_M: IntArray) -> tuple[BoolArray, BoolArray]:
        meant_C = np.zeros(len(self.code_of) + 1, dtype=np.bool_)  # the last one is for -1
        for name in names:
            meant_C[list(self.codes.get(tidy(name), ()))] = True
        code_M = self.code_N[rows_M]
        return meant_C[code_M], code_M < 0

    def plus(self, other: _Labels) -> _Labels:
        """Items of both, one after the other."""
        code_of, moved_C = merged_codes(self.code_of, other.code_of)
        codes = dict(self.codes)
        for name, more in other.codes.items():
            new = tuple(int(moved_C[code]) for code in more if moved_C[code] >= len(self.code_of))
            codes[name] = codes.get(name, ()) + new
        return _Labels(code_of, np.concatenate([self.code_N, moved_C[other.code_N]]), codes)


def tidy(name: str) -> str:
    """A name or path as it is compared: lower case, single spaces, " > " between levels."""
    parts = (" ".join(part.split()) for part in name.casefold().split(">"))
    return PATH.join(part for part in parts if part)


def _prefixes(category: str) -> list[str]:
    """Every category of a cell, and all above it."""
    paths = (tidy(path).split(PATH) for path in re.split(SEPARATORS, category))
    return [PATH.join(path[: depth + 1]) for path in paths if path[0] for depth in range(len(path))]


def _column(items: pl.DataFrame, name: str) -> pl.Series:
    if name not in items.columns:
        return pl.Series(name, [None] * len(items), dtype=pl.String)
    column = items[name].cast(pl.String).str.strip_chars()
    return column.set(column == "", None)
