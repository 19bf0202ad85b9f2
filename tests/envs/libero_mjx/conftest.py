import subprocess
import sys

import pytest

from tests.stages.processes import ROOT
from wmpo_jax.envs.libero.protocol import process_environment
from wmpo_jax.envs.libero_mjx import truth


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """(scene, episode) of `recorder`."""
    file = tmp_path_factory.mktemp("libero_mjx") / "episode.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tests.envs.libero_mjx.recorder", str(file)],
        cwd=ROOT,
        env=process_environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found, (episode,) = truth.load(file)
    return found, episode
