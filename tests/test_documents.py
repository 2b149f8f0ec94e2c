"""Documents keep their word: tables come from results/, links lead somewhere, shipped names exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import lgsid

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def test_tables_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, "scripts/tables.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert missing == []


SIDS = ("assign_in_run", "load_tokenizer", "make_tokenizer", "sid_catalogue")


def test_public_names_are_these() -> None:
    public = ["Encoder", "HierarchicalTokenizer", "KMeans", "LgsidError", "RunConfig", "RunFolder", "__version__"]
    assert sorted(lgsid.__all__) == sorted([*public, "execute", "load_run_config", *SIDS])
    assert all(getattr(lgsid, name) is not None for name in lgsid.__all__)
