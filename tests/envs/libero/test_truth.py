"""Our episodes are LIBERO's, to the pixel, although they share an environment and mute a camera."""

import json
import subprocess

import pytest

from tests.stages.processes import ROOT
from wmpo_jax.envs.robosuite import environment


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["libero_spatial", "libero_10"])
def test_fifty_random_actions_show_what_libero_shows(suite, pool):
    """The other suites are compared by the same program, see docs/libero.md."""
    done = subprocess.run(
        environment.command("tests.envs.libero.direct", suite),
        cwd=ROOT,
        env=environment.variables(pool.renderer),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["moved"] > 0.01
    assert found["pixels"] == 0 and found["proprio"] <= 1e-6
