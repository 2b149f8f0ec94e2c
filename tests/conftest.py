"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parents[1]

# With hypothesis' hundred examples the suite takes too long on two cores. Draws change from run to run, so what thirty
# miss once is met later; LGSID_EXAMPLES=1000 looks harder.
settings.register_profile("lgsid", max_examples=int(os.environ.get("LGSID_EXAMPLES", "30")))
settings.load_profile("lgsid")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real datasets: ``$LGSID_DATA``, or ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("LGSID_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "yelp_3states" / "items.parquet").is_file():
        pytest.skip(f"real datasets not found in {folder}; set LGSID_DATA to the folder that holds yelp_3states")
    return folder
