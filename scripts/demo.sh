#!/usr/bin/env bash
# Fresh machine → main job: installs lgsid into .venv, simulates a world of 8,000 shops, turns it into geographic semantic
# IDs, trains a ranker and a generator on them, and says where the report is and how to serve it. Arguments are passed
# on: bash scripts/demo.sh --set data.world.items=20000
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
install zh,serve
.venv/bin/lgsid run configs/demo.yaml --out runs/demo "$@"
echo "recommendations over HTTP and on a map: .venv/bin/lgsid serve runs/demo"
