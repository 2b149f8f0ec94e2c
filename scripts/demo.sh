#!/usr/bin/env bash
# Fresh machine → main job: installs lgsid into .venv, simulates a world of 8,000 shops, turns it into geographic semantic
# IDs and prints where the report is. Arguments are passed on: bash scripts/demo.sh --set data.world.items=20000
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
install zh
.venv/bin/lgsid run configs/demo.yaml --out runs/demo "$@"
