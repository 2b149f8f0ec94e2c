#!/usr/bin/env bash
# Fresh machine → all checks: installs lgsid with its development extras into .venv, then lints, types and tests.
# Arguments are passed on to pytest: bash scripts/test.sh -k sid
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
install zh,gguf,dev
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Two workers of one thread each: two of two threads would wait for each other.
OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile "$@"
