#!/usr/bin/env bash
# One machine with NVIDIA GPUs: builds the container and runs main in it.
#
#   bash launch/gpu.sh [--dry-run] --config=configs/libero.py --workdir=/runs/libero
#
# --workdir must be in /runs, or it is deleted with the container. RUNS (default ./runs) is mounted as /runs; ENGINE is docker (default) or podman.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
. launch/common.sh

engine=${ENGINE:-docker}
run mkdir -p "${RUNS:-runs}"
run "$engine" build --tag=wmpo_jax --file=launch/Containerfile .
run "$engine" run --rm --gpus=all --ipc=host "--volume=$(realpath -m "${RUNS:-runs}"):/runs" \
  wmpo_jax "$@"
