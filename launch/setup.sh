#!/usr/bin/env bash
# Makes .venv with the locked packages, and the system's OpenGL libraries that MuJoCo's own
# renderer needs (the tests compare our camera with it). Safe to run again; needs Python 3.11+.
set -euo pipefail
cd "$(dirname "$0")/.."

libraries=(libosmesa6 libegl1 libgl1 libgles2 libgl1-mesa-dri libegl-mesa0)
if command -v dpkg >/dev/null && ! dpkg -s "${libraries[@]}" >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${libraries[@]}" >/dev/null
  else
    echo "setup: as root, apt-get install ${libraries[*]} (MuJoCo's renderer needs them)" >&2
  fi
fi

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/pip install --quiet --disable-pip-version-check -r requirements-ci.lock
.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
