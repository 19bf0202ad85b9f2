#!/usr/bin/env bash
# Slurm: one process per node, which uses all of its GPUs. Run it in the repository.
#
#   NODES=4 GPUS=8 bash launch/slurm.sh [--dry-run] --config=configs/libero.py --workdir=/shared/run
#
# Slurm sends SIGTERM ten minutes before the time is up; the job saves, exits with 75 and is queued
# again. Optional: TIME (default 24:00:00), PARTITION.
set -euo pipefail
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
need NODES GPUS

printf -v command '%q ' .venv/bin/python -m wmpo_jax.main --cluster "$@"
script=$(
  cat <<EOF
#!/bin/bash
srun --kill-on-bad-exit=0 $command
code=\$?
[ \$code = 75 ] && scontrol requeue \$SLURM_JOB_ID
exit \$code
EOF
)
options=(
  --job-name=wmpo_jax "--nodes=$NODES" --ntasks-per-node=1 "--gpus-per-node=$GPUS" --exclusive
  "--time=${TIME:-24:00:00}" --requeue --signal=TERM@600 --open-mode=append
)
[ -z "${PARTITION:-}" ] || options+=("--partition=$PARTITION")
run sbatch "${options[@]}" "--wrap=$script"
