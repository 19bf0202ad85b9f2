import subprocess

import pytest

from tests.stages.processes import ROOT
from wmpo_jax.envs.libero import truth
from wmpo_jax.envs.robosuite import environment


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """(scene, episode) of `recorder`."""
    file = tmp_path_factory.mktemp("libero_mjx") / "episode.npz"
    done = subprocess.run(
        environment.command("tests.envs.libero_mjx.recorder", str(file)),
        cwd=ROOT,
        env=environment.variables(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    found, (episode,) = truth.load(file)
    return found, episode
