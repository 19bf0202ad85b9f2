#!/usr/bin/env bash
# A TPU VM pod: the same command on all of its workers, over gcloud's ssh.
#
#   TPU=my-pod ZONE=us-east5-a REPO=https://host/wmpo_jax.git \
#     bash launch/tpu_pod.sh [--dry-run] --config=configs/libero.py --workdir=/shared/run
#
# PYTHON (default python3) must be 3.11 or newer on the workers; images of Ubuntu 22.04 have 3.10.
# The workdir must be a folder that all workers share (gcsfuse, Filestore).
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
need TPU ZONE REPO

printf -v clone 'test -d wmpo_jax || git clone %q wmpo_jax' "$REPO"
setup="$clone; cd wmpo_jax && git pull --ff-only && PYTHON=${PYTHON:-python3} bash launch/setup.sh tpu,libero,data"
ssh=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all)
run "${ssh[@]}" "--command=$setup"
run "${ssh[@]}" "--command=cd wmpo_jax && $(forever --cluster "$@")"
