import os
import subprocess
import sys

import pytest

from tests.stages.processes import ROOT
from wmpo_jax.envs.libero.pool import NUMBA_CACHE
from wmpo_jax.envs.libero_mjx import truth


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """(scene, episode) of `recorder`."""
    file = tmp_path_factory.mktemp("libero_mjx") / "episode.npz"
    environment = {"MUJOCO_GL": "egl", "NUMBA_CACHE_DIR": str(NUMBA_CACHE)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.envs.libero_mjx.recorder", str(file)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found, (episode,) = truth.load(file)
    return found, episode
