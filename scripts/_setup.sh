# Sourced by demo.sh and test.sh: makes .venv beside the checkout and installs lgsid into it, once.
# Needs Python 3.11 or newer with venv, and a package index. PYTHON chooses another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "error: $("$PYTHON" --version) found, Python 3.11 or newer expected. Fix: PYTHON=python3.11 bash $0" >&2
  exit 1
}

install() { # EXTRAS: install lgsid with its extras, again only when the requirements change
  local wanted; wanted="$1 $(cat pyproject.toml constraints.txt | sha256sum)"
  if [ ! -x .venv/bin/python ]; then
    "$PYTHON" -m venv .venv
  fi
  if [ "$(cat .venv/lgsid-installed 2>/dev/null || true)" = "$wanted" ]; then
    return
  fi
  echo "installing lgsid[$1] into .venv (once; some minutes on a slow line) ..."
  local index=()
  # Without a GPU the CPU build of torch saves some 3 GB, where its index can be reached.
  if ! command -v nvidia-smi >/dev/null 2>&1 && reachable download.pytorch.org; then
    index=(--extra-index-url https://download.pytorch.org/whl/cpu)
  fi
  # Without compiling all of it at once, which takes minutes: Python compiles what is imported.
  .venv/bin/python -m pip install --quiet --no-compile "${index[@]}" --constraint constraints.txt --editable ".[$1]"
  echo "$wanted" > .venv/lgsid-installed
}

reachable() { # HOST: answers within three seconds
  "$PYTHON" - "$1" <<'PY' 2>/dev/null
import socket, sys
socket.create_connection((sys.argv[1], 443), timeout=3).close()
PY
}
