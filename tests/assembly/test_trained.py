"""Parts of a run are read when the stage that trains them has ended, and not before."""

import jax
import numpy as np
import pytest
from flax import nnx

from wmpo_jax.assembly.trained import TrainedRun
from wmpo_jax.envs import registry
from wmpo_jax.runtime.checkpoints import Checkpoints
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir


def test_a_stage_that_was_stopped_midway_gives_no_policy(tmp_path):
    """Else evaluation would record a policy of half the iterations as the improved one."""
    config = load_config("configs/tiny.py:smoke")
    workdir = Workdir(tmp_path / "run", config)
    run = TrainedRun(config, workdir, make_mesh(config), registry.make("press", 32))
    params = nnx.state(run.policy.build())
    with Checkpoints(workdir.checkpoints("improve")) as checkpoints:
        checkpoints.save(1, params)
    with pytest.raises(UserError, match="Stage improve has not run"):
        run.policy_params("improve")
    workdir.mark_done("improve", {}, step=1)
    jax.tree.map(np.testing.assert_array_equal, run.policy_params("improve"), params)
