"""What torchrun starts in the tests: python toy_torchrun.py FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

import toy_rank
import toy_rows
import toy_training

from lgsid.trainer import distributed


def main(folder: Path) -> None:
    """Each process writes what it ends with to a folder for each thing trained."""
    with distributed():
        for name, train in {
            "trainer": toy_training.main,
            "ranker": toy_rank.main,
            "generator": toy_rows.main,
        }.items():
            (folder / name).mkdir(exist_ok=True)
            train(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
