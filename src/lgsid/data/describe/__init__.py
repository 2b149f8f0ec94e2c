"""What the data is: counts, geography by level, text coverage, time span, user activity, distance and conversion.

`load` finds the tables, `describe` measures, `print_description` prints, `save_plots` draws; `describe_path` does all
but the printing.
"""

from __future__ import annotations

from pathlib import Path

from lgsid.artifact import write_json
from lgsid.data.describe.description import Description, describe
from lgsid.data.describe.loading import load
from lgsid.data.describe.plots import save_plots
from lgsid.data.describe.text import print_description

__all__ = ["Description", "describe", "describe_path", "load", "print_description", "save_plots"]


def describe_path(path: Path, out: Path | None = None, seed: int = 0) -> tuple[Description, list[Path]]:
    """Describe the tables at a path and, with ``out``, write ``description.json`` and the pictures there.

    Args:
        path: folder with items and events files, run folder, or items file.
        out: folder for the files.
        seed: of everything that is sampled.

    Returns:
        the description, and the files written.

    Raises:
        DataError: there is no items table, it lacks a required column, or it is empty.
    """
    items, events = load(path)
    description = describe(items, events, path.resolve().name, seed)
    if out is None:
        return description, []
    write_json(out / "description.json", description.to_dict())
    return description, [out / "description.json", *save_plots(description, items, out, seed)]
