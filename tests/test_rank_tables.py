"""Tables and figures of Table 1 from cells that are there, that are missing, and that were trained on less."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
NAMES = ("cells", "rank_tables", "rank_figures")


class Grid:
    """A folder of cells, and the scripts that read it."""

    def __init__(self, folder: Path, tables: ModuleType, figures: ModuleType) -> None:
        self.folder, self.tables, self.figures = folder, tables, figures

    def write(self, name: str, content: dict[str, Any]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")

    def cell(self, method: str, auc: float, seed: int = 0, **other: Any) -> None:
        """A cell of gowalla-nyc behind DIN, unless ``other`` says otherwise."""
        known = {"dataset": "gowalla-nyc", "model": "din", "distance": False, "most_requests": None, **other}
        metrics = {"auc": auc, "first_visits": {"auc": auc - 0.1}, "cold": {"auc": 0.5}}
        name = "-".join(map(str, (*known.values(), method, seed)))
        name = name.replace("None-", "").replace("False", "plain").replace("True", "distance")
        content = {"experiment": "table1", "method": method, "seed": seed, "metrics": metrics, **known}
        self.write(name, content)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Grid]:
    """The scripts, reading an empty folder; their modules are forgotten afterwards."""
    monkeypatch.syspath_prepend(SCRIPTS)
    for name in NAMES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    import cells
    import rank_figures
    import rank_tables

    folder = tmp_path / "results" / "table1"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cells, "REPOSITORY", tmp_path)
    yield Grid(folder, rank_tables, rank_figures)
    for name in NAMES:
        sys.modules.pop(name, None)


def row(text: str, name: str) -> list[str]:
    """Figures of the first row of that name."""
    (first, *_) = (line for line in text.splitlines() if line.startswith(f"| {name} |"))
    return [part.strip() for part in first.strip("|").split("|")][1:]


def test_without_cells_all_is_dashes(grid: Grid) -> None:
    for name, make in grid.tables.TABLES.items():
        assert make(), name
    whole = grid.tables.whole()
    assert row(whole, "ID only") == ["–"] * 5
    assert row(whole, "LGSID (aligned + HGIT)") == ["–"] * 5
    assert "category" not in whole
    assert "110 of 110 cells are still missing" in grid.tables.short()
    assert grid.figures.shown() == []


def test_seeds_are_averaged_and_counted_and_the_best_is_bold(grid: Grid) -> None:
    for seed, auc in enumerate((0.80, 0.81, 0.82)):
        grid.cell("id", auc, seed)
    grid.cell("lgsid", 0.9, 0)
    grid.cell("lgsid", 0.9, 1)
    grid.cell("lgsid+labels", 0.95)
    grid.cell("revisit", 0.96, model="none")
    whole = grid.tables.whole()
    assert row(whole, "ID only")[0] == "0.8100 ± 0.0100"
    assert (
        row(whole, "LGSID (aligned + HGIT)")[0] == "**0.9000 (2)**"
    )  # what knows labels, or nothing, does not compete
    assert row(whole, "LGSID, category, brand")[0] == "0.9500 (1)"
    assert row(whole, "*visited before*") == ["0.9600"] * 5
    assert row(grid.tables.novel(), "ID only")[0] == "0.7100 ± 0.0100"
    assert row(grid.tables.short(), "LGSID less ID only")[0] == "+0.095"  # of the seeds that both have
    assert "1 to 3 seeds" not in grid.tables.short()
    assert "Means over 2 to 3 seeds" in grid.tables.short()


def test_other_amounts_of_training_are_columns_of_their_own(grid: Grid) -> None:
    grid.cell("id", 0.8)
    for number, method in enumerate(("id", "lgsid", "rqvae")):
        grid.cell(method, 0.7 + 0.01 * number, most_requests=50_000)
    header = grid.tables.whole().splitlines()[0]
    assert header == "| gowalla-nyc | DIN | DIN, trained on 50,000 requests | DIEN | SIM | TWIN | ETA |"
    whole = grid.tables.whole()
    assert row(whole, "ID only")[:2] == ["0.8000 (1)", "0.7000 (1)"]
    assert row(whole, "RQ-VAE")[:2] == ["–", "**0.7200 (1)**"]
    short = grid.tables.short()
    assert "gowalla DIN*" in short.splitlines()[0]  # the column with most cells
    assert row(short, "ID only")[0] == "0.700"
    assert "* trained on 50,000 random requests" in short


def test_distances_have_tables_of_their_own(grid: Grid) -> None:
    grid.cell("id", 0.8)
    grid.cell("id", 0.85, distance=True)
    grid.cell("lgsid", 0.9, distance=True)
    plain, distance, other = grid.tables.whole().split("\n\n")
    assert distance.startswith("| gowalla-nyc, with distances |")
    assert (row(plain, "ID only")[0], row(distance, "ID only")[0]) == ("0.8000 (1)", "0.8500 (1)")
    assert other.startswith("| fsq-nyc |")
    assert row(grid.tables.short(), "LGSID less ID only, with distances")[0] == "+0.050"
    assert row(grid.tables.short(), "LGSID less ID only")[0] == "–"


def test_intervals_come_from_the_bootstrap(grid: Grid) -> None:
    grid.cell("id", 0.8)
    found = {"difference": 0.0417, "low": 0.04, "high": -0.0001}
    known = {"dataset": "gowalla-nyc", "model": "sim", "distance": False, "most_requests": 10}
    grid.write("gowalla-nyc-sim-plain-10-compared", {
        "experiment": "table1-compared", **known, "metrics": {"all": {"id": found}, "first_visits": {}},
    })  # fmt: skip
    gains = grid.tables.gains()
    assert gains.splitlines()[0].endswith("LGSID less … | SIM, trained on 10 requests |")
    assert row(gains, "ID only") == ["+0.0417 [+0.0400, -0.0001]"]
    assert row(gains, "RQ-VAE") == ["–"]
    assert row(grid.tables.whole(), "ID only")[2] == "–"  # a comparison is no cell


def test_figures_are_drawn_from_what_is_there(grid: Grid) -> None:
    for seed in range(2):
        grid.cell("id", 0.8 + 0.001 * seed, seed)
        grid.cell("lgsid", 0.9, seed)
    grid.cell("item_co_visits", 0.81, model="none")
    assert grid.figures.shown() == ["gowalla-nyc"]
    assert grid.tables.gained("gowalla-nyc", ("din", None), "lgsid") == pytest.approx([0.1, 0.099])
    for picture in (grid.figures.table1_chart(), grid.figures.gain_chart()):
        assert picture.startswith(b"\x89PNG")
