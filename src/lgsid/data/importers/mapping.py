"""Any CSV, JSON-lines or Parquet file, by a mapping of its columns to the contract's, written in YAML.

items:
  columns: {item_id: shop_id, title: shop_name, lat_deg: latitude, lon_deg: longitude, category: [cate1, cate2]}
  datum: gcj02
events:
  columns: {user_id: uid, item_id: shop_id, timestamp: time, kind: action}
  timestamp_format: "%Y-%m-%d %H:%M:%S"
  timezone: Asia/Shanghai
  kind_values: {show: impression, click: click, pay: order}
"""

from __future__ import annotations

import difflib
import typing
import zoneinfo
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field, field_validator, model_validator

from lgsid.config import Strict, load_yaml, parse
from lgsid.data.importers.base import EVENT_TYPES, ITEM_TYPES, KINDS
from lgsid.data.importers.readers import Format, TableSource
from lgsid.errors import ConfigError

VECTOR_PREFIX = "vector_"
_JOINABLE = ("title", "category", "description", "street")


class TableMapping(Strict):
    """How one source table becomes an items or events table."""

    files: str | None = None
    """Pattern of the names of this table's files among those given, such as `shops*.csv`; needed with two tables."""
    columns: dict[str, str | tuple[str, ...]]
    """Contract column: source column. Text columns take a list, joined by a space (category: by ` > `)."""
    constants: dict[str, str | float] = Field(default_factory=dict)
    """Contract column: one value for all rows."""
    extra: Literal["keep", "drop"] = "keep"
    """What becomes of source columns that are not mapped."""
    format: Format | None = None
    """csv, jsonl or parquet; by default told from the file's name."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Between the fields of a CSV file; by default a tab in `.tsv` files and a comma elsewhere."""
    encoding: str = "utf-8"
    """Text encoding of a CSV file (`gb18030`, `latin-1`, …)."""
    header: tuple[str, ...] | None = None
    """Column names of a CSV file that has no header line."""
    timestamp_format: str | None = None
    """`unix_s`, `unix_ms` or a strftime pattern; by default ISO 8601."""
    timezone: str | None = None
    """IANA zone (`Asia/Shanghai`) of timestamps without an offset; they are converted to UTC."""
    datum: Literal["wgs84", "gcj02", "bd09"] = "wgs84"
    """Coordinate system; GCJ-02 (Amap, Tencent) and BD-09 (Baidu) are converted to WGS-84."""

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str | None) -> str | None:
        if value is not None and value not in zoneinfo.available_timezones():
            raise ValueError(f"no time zone {value!r}{_nearest(value, zoneinfo.available_timezones())}")
        return value

    @field_validator("columns")
    @classmethod
    def _joinable(cls, value: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        for name, sources in value.items():
            if not isinstance(sources, str) and (name not in _JOINABLE or not sources):
                raise ValueError(f"{name} takes one source column; lists are for {', '.join(_JOINABLE)}")
        return value

    def sources(self) -> list[str]:
        """Source columns that the mapping names, each once."""
        flat = [name for value in self.columns.values() for name in ([value] if isinstance(value, str) else value)]
        return list(dict.fromkeys(flat))

    def table_source(self, path: Path) -> TableSource:
        """How to read one of this table's files."""
        return TableSource(path, self.format, self.delimiter, self.encoding, self.header)


class ItemsMapping(TableMapping):
    """How a source table becomes an items table."""

    category_separator: str | None = Field(default=None, min_length=1)
    """Between the levels of a category in the source; becomes ` > `."""
    repeated_ids: Literal["keep", "first"] = "keep"
    """`first` for logs that repeat the item on every line: its first line counts, the others are left out."""

    @model_validator(mode="after")
    def _complete(self) -> ItemsMapping:
        _check_names(self, ITEM_TYPES, required=("item_id", "title", "lat_deg", "lon_deg"), vectors=True)
        return self


class EventsMapping(TableMapping):
    """How a source table becomes an events table."""

    kind_values: dict[str, str] | None = None
    """Source value: impression, click or order."""

    @model_validator(mode="after")
    def _complete(self) -> EventsMapping:
        _check_names(self, EVENT_TYPES, required=("user_id", "item_id", "timestamp"), vectors=False)
        wrong = [value for value in (self.kind_values or {}).values() if value not in KINDS]
        if wrong:
            raise ValueError(f"kind_values: {wrong[0]!r} is not one of {', '.join(KINDS)}")
        if self.kind_values is not None and "kind" not in self.columns:
            raise ValueError("kind_values is given but kind is not among the columns")
        return self


class Mapping(Strict):
    """A mapping file: one or both tables."""

    items: ItemsMapping | None = None
    events: EventsMapping | None = None

    @model_validator(mode="after")
    def _some_table(self) -> Mapping:
        if self.items is None and self.events is None:
            raise ValueError("give items, events or both")
        return self


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file.

    Raises:
        ConfigError: it is missing, not YAML or does not fit; names the key and the nearest known name.
    """
    return parse(Mapping, load_yaml(path), str(path))


def assign_files(files: Sequence[Path], mapping: Mapping) -> list[tuple[TableMapping, list[Path]]]:
    """Which files belong to which table. A file may belong to both (a log that repeats the item on every line).

    Raises:
        ConfigError: a file belongs to no table, or a table has no file.
    """
    tables: list[TableMapping] = [table for table in (mapping.items, mapping.events) if table is not None]
    if len(tables) == 1 and tables[0].files is None:
        return [(tables[0], list(files))]
    unnamed = [type(table).__name__.removesuffix("Mapping").lower() for table in tables if table.files is None]
    if unnamed:
        raise ConfigError(
            f"the mapping has two tables and {unnamed[0]} does not say which files are its own",
            f"add under {unnamed[0]}: files: '{files[0].name}'",
        )
    found = [(table, [file for file in files if file.match(table.files or "*")]) for table in tables]
    for table, own in found:
        if not own:
            raise ConfigError(f"no file matches {table.files!r}; got {', '.join(file.name for file in files)}")
    for file in files:
        if not any(file in own for _, own in found):
            raise ConfigError(
                f"{file} matches no table of the mapping", "change files: in the mapping, or leave it out"
            )
    return found


def require_columns(path: Path, names: Sequence[str], available: Sequence[str]) -> None:
    """Check that a file has the source columns that a mapping names.

    Raises:
        ConfigError: one is not there; names the nearest column that is.
    """
    missing = [name for name in names if name not in available]
    if missing:
        lines = [f"no column {name!r}{_nearest(name, available)}" for name in missing]
        other = next((mark for mark in (";", "\t", "|") if len(available) == 1 and mark in available[0]), None)
        if other is not None:
            raise ConfigError(f"{path}: {lines[0]}; all columns are one", f"set delimiter: {other!r} in the mapping")
        raise ConfigError(f"{path}: {'; '.join(lines)}", f"columns of the file: {', '.join(available)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f" (nearest: {lower[near[0]]!r})" if near else ""


def _check_names(
    table: TableMapping, types: typing.Mapping[str, pl.DataType], required: Sequence[str], vectors: bool
) -> None:
    known = list(types)
    for name in [*table.columns, *table.constants]:
        if name not in known and not (vectors and name.startswith(VECTOR_PREFIX)):
            raise ValueError(
                f"{name!r} is not a column of this table{_nearest(name, known)}; known: {', '.join(known)}"
            )
    both = sorted(set(table.columns) & set(table.constants))
    if both:
        raise ValueError(f"{both[0]!r} stands both in columns and in constants")
    for name, value in table.constants.items():
        if types.get(name) != (pl.String() if isinstance(value, str) else pl.Float64()):
            raise ValueError(f"constants: {name} cannot be {value!r}")
        if name == "kind" and value not in KINDS:
            raise ValueError(f"constants: kind {value!r} is not one of {', '.join(KINDS)}")
    missing = [name for name in required if name not in table.columns and name not in table.constants]
    if missing:
        raise ValueError(f"columns lacks {', '.join(missing)}")
