"""The environment of a run is made once."""

import jax
import jax.numpy as jnp

from wmpo_jax.envs.tabletop.env import TabletopEnv
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.mesh import make_mesh
from wmpo_jax.runtime.workdir import Workdir
from wmpo_jax.stages.context import RunContext


def test_the_environment_may_first_be_asked_for_in_a_traced_function(tmp_path):
    config = load_config("configs/tiny.py:smoke")
    context = RunContext(config, Workdir(tmp_path / "run", config), make_mesh(config))
    jax.eval_shape(lambda: jnp.zeros(context.env.action_dim))
    env = context.env
    assert isinstance(env, TabletopEnv)
    frame = env.render(env.reset(jnp.int32(0)))
    assert frame.shape == (32, 32, 3)
