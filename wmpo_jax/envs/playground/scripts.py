"""Scripted demonstrators, by the names of Playground's environments."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mujoco

# (model, mjx.Data, bias in meters) -> action [A] in [-1, 1]; see `Environment.expert`.
Script = Callable[[mujoco.MjModel, Any, float], jax.Array]

_PER_METER, _PER_SPEED = 15.0, 3.0  # the ball needs 3 cm to come to rest from its highest speed


def point_mass(model: mujoco.MjModel, data: Any, bias: float) -> jax.Array:
    """Pushes the ball to the place `bias` meters beside the target, where it brakes."""
    place_2 = jnp.asarray(model.geom("target").pos[:2]) + jnp.array([bias, 0.0])
    # The joints are the ball's x and y; poses of geoms are one substep behind them.
    action_2 = _PER_METER * (place_2 - data.qpos) - _PER_SPEED * data.qvel
    return jnp.clip(action_2, -1.0, 1.0)


SCRIPTS: dict[str, Script] = {"PointMass": point_mass}
