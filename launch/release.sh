#!/usr/bin/env bash
# Builds dist/*.tar.gz and dist/*.whl and tries the wheel as a new user would: installed into an
# empty environment, in an empty folder, it runs the smoke config from beginning to end.
#   bash launch/release.sh [--dry-run]
# Needs the network (the build's and the package's requirements) and about ten minutes on two cores.
# PYTHON names the interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh

python=${PYTHON:-python3}
if [ -n "$dry" ]; then place=/tmp/release; else place=$(mktemp -d); fi
run rm -rf dist
run "$python" -m venv "$place/build"
run "$place/build/bin/pip" install --quiet build
run "$place/build/bin/python" -m build --outdir dist .
run "$python" -m venv "$place/empty"
if [ -n "$dry" ]; then wheels=("dist/*.whl"); else wheels=("$PWD"/dist/*.whl); fi
run "$place/empty/bin/pip" install --quiet --constraint requirements-ci.lock "${wheels[0]}"
run cd "$place"
run "$place/empty/bin/python" -m wmpo_jax.main --config=configs/tiny.py:smoke \
  --config.tensorboard=False --workdir="$place/run" "$@"
run ls "$place/run/report/index.html"
