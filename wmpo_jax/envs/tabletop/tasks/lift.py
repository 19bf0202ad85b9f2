"""Lift the named cube with a suction cup."""

import jax
import jax.numpy as jnp

from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.envs.tabletop import motion
from wmpo_jax.envs.tabletop.tasks.cubes import CATCH_GAP, HALF, Cubes

LIFTED = HALF + 0.09  # meters, height of the cube's center


class Lift(Cubes):
    """Solved when the named cube hangs well above the table."""

    name = "lift"
    instructions = ("lift the red block", "lift the blue block")
    horizon = 16

    def solved(self, state: EnvState) -> jax.Array:
        cube, _ = self.cubes(state)
        return (cube[2] > LIFTED) & (state.memory.held == state.instruction_id)

    def miss(self, state: EnvState) -> jax.Array:
        """From the cup to the axis of the named cube, where the cup is closed and low."""
        tool, (cube, _) = state.physics.tool, self.cubes(state)
        low = state.memory.closed & (tool[2] - cube[2] < CATCH_GAP)
        return jnp.where(low, jnp.linalg.norm(tool[:2] - cube[:2]), jnp.inf)

    def expert(self, state: EnvState, bias: float) -> jax.Array:
        """Fetch, with an aim that drifts off the cube, then go straight up."""
        up = jnp.array([0.0, 0.0, 1.0, 1.0])
        fetch = self.fetch(state, motion.drift(self.cubes(state)[0], bias))
        return jnp.where(state.memory.held == state.instruction_id, up, fetch)
