"""Parts of a run are read when the stage that trains them has ended, and not before."""

import dataclasses

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


def test_a_later_round_collects_with_the_last_policy_and_goes_on_from_the_best(tmp_path):
    config = load_config("configs/tiny.py:smoke", ["lifelong.starts=(2,)"])
    workdir = Workdir(tmp_path / "run", config)
    first = TrainedRun(config, workdir, make_mesh(config), registry.make("press", 32))
    base = nnx.state(first.policy.build())
    last = jax.tree.map(lambda leaf: leaf + 1, base)
    for stage, params in (("sft", base), ("improve", last)):
        with Checkpoints(workdir.checkpoints(stage)) as checkpoints:
            checkpoints.save(2, params)
    workdir.mark_done("sft", {}, step=2)
    workdir.mark_done("improve", {"policy": ["sft", 2]}, step=2)  # exploited: rolled back
    second = dataclasses.replace(first, round=2)
    jax.tree.map(np.testing.assert_array_equal, second.collecting_policy_params(), last)
    jax.tree.map(np.testing.assert_array_equal, second.first_policy_params(), base)
    workdir.forget("improve")
    workdir.mark_done("improve", {"policy": ["sft", 2]}, step=0)  # gates had stopped it
    jax.tree.map(np.testing.assert_array_equal, second.collecting_policy_params(), base)
