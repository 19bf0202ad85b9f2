#!/usr/bin/env bash
# One GPU, ten minutes with compilation: ours and PyTorch at mid size, and MJX over many worlds.
#
#   bash benchmarks/gpu.sh [FOLDER [FLAGS]]         # on one H100 or H200; needs the extra cuda
#
# On a CPU, to try the script; FLAGS go to every section:
#
#   PRESET=tiny REPEATS=1 SLOWER=9 bash benchmarks/gpu.sh tried \
#     --config.improve.groups=1 --config.improve.minibatch=8
#
# SCENE=FILE.npz adds LIBERO in MJX; `python -m wmpo_jax.envs.libero.truth libero_spatial 0 FILE.npz
# --episodes=1` records one where LIBERO is installed.
#
# Each section has a time limit and writes FOLDER/<section>.json row by row, so that what was
# measured stays when something is cut off. The peer needs torch, transformers and diffusers (extra
# torch); without them its sections say so.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
folder=${1:-benchmark_gpu}
shift || true
flags=("$@")
mkdir -p "$folder"
python=${PYTHON:-.venv/bin/python}
preset=${PRESET:-mid}
# JAX and PyTorch share the memory of the GPU.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
# Autotuning may take longer than what is left: see docs/performance.md.
gpu_flags=--xla_gpu_experimental_enable_fusion_autotuner=false
export XLA_FLAGS="$gpu_flags ${XLA_FLAGS:-}"

section() { # name, seconds, flags of the benchmark
  local name=$1 limit=$(($2 * ${SLOWER:-1}))
  shift 2
  echo "=== $name: at most $limit s"
  timeout "$limit" "$python" -m wmpo_jax.benchmark "--repeats=${REPEATS:-3}" \
    "--out=$folder/$name.json" "$@" "${flags[@]}" 2>"$folder/$name.err" || {
    echo "=== $name ended with status $?; the last lines of $folder/$name.err:"
    tail -n 3 "$folder/$name.err"
  }
}

both=(--preset="$preset" --precision=bfloat16)
section sampler 100 "${both[@]}" --sections=steps
section vs_world_model 110 "${both[@]}" --vs=torch "--programs=sampler,world model gradient"
section vs_policy 90 "${both[@]}" --vs=torch "--programs=policy,policy update"
section vs_frames 80 "${both[@]}" --vs=torch "--programs=decode,reward"
section imagination 100 "${both[@]}" --sections=imagination
section training 60 "${both[@]}" --sections=training "--programs=world_model training"
section mjx 60 --preset=tiny --sections=reality ${SCENE:+--scene="$SCENE"}
