#!/usr/bin/env bash
# Makes .venv with locked packages: what a run needs, or with the argument `tests` all that the tests
# need, torch, LIBERO, openpi's client and the system's OpenGL libraries among it (the tests compare
# our camera with MuJoCo's own renderer). Any other argument names extras of pyproject.toml: `cuda` or `tpu,data`.
# `libero`, alone or among them, makes .venv-libero, in which LIBERO and robosuite run (2 GB).
# Safe to run again; needs Python 3.11+.
set -euo pipefail
cd "$(dirname "$0")/.."

pip() { .venv/bin/pip "$@" --quiet --disable-pip-version-check; }

opengl() {
  local libraries=(libosmesa6 libegl1 libgl1 libgles2 libgl1-mesa-dri libegl-mesa0)
  if ! command -v dpkg >/dev/null || dpkg -s "${libraries[@]}" >/dev/null 2>&1; then
    return
  fi
  local root=()
  [ "$(id -u)" = 0 ] || root=(sudo --non-interactive)
  if "${root[@]}" true 2>/dev/null; then
    "${root[@]}" apt-get update -qq
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${libraries[@]}" >/dev/null
  else
    echo "setup: as root, apt-get install ${libraries[*]} (MuJoCo's renderer needs them)" >&2
  fi
}

libero() {
  opengl
  .venv/bin/python -m wmpo_jax.envs.robosuite.environment
}

extras=",${1:-},"
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
if [ "${1:-}" = tests ]; then
  # With PyPI alone pip takes torch's CUDA build (GBs); the CPU build is in PyTorch's own index:
  # export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
  pip install -r requirements-ci.lock
  pip install --no-deps --editable .
  libero
  .venv/bin/python -m tests.serving.openpi
else
  wanted=${extras//,libero,/,} wanted=${wanted%,} wanted=${wanted%,}
  pip install --constraint requirements-ci.lock --editable ".[tensorboard$wanted]"
  case "$extras" in *,libero,*) libero ;; esac
fi
