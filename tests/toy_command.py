"""The command line inside the test's own process: the same answers without importing everything anew each time."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from lgsid.cli import main


def lgsid(*arguments: str | Path, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Exit code and output of ``lgsid ARGUMENTS``."""
    call = ["lgsid", *map(str, arguments)]
    out, error = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(error):
        patch.setattr(sys, "argv", call)
        if cache is not None:
            patch.setenv("LGSID_CACHE", str(cache))
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert code is None or isinstance(code, int)
    return subprocess.CompletedProcess(call, code or 0, out.getvalue(), error.getvalue())
