#!/usr/bin/env bash
# A TPU VM pod: the same command on all of its workers, over gcloud's ssh.
#
#   TPU=my-pod ZONE=us-east5-a REPO=https://host/wmpo_jax.git \
#     bash launch/tpu_pod.sh [--dry-run] --config=configs/libero.py --workdir=/shared/run
#
# The workdir must be a folder that all workers share (gcsfuse, Filestore).
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
need TPU ZONE REPO

printf -v clone 'test -d wmpo_jax || git clone %q wmpo_jax' "$REPO"
setup="$clone; cd wmpo_jax && git pull --ff-only && bash launch/setup.sh tpu"
ssh=(gcloud compute tpus tpu-vm ssh "$TPU" "--zone=$ZONE" --worker=all)
run "${ssh[@]}" "--command=$setup"
run "${ssh[@]}" "--command=cd wmpo_jax && $(forever --cluster "$@")"
