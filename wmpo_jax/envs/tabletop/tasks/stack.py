"""Put one cube on the other with a suction cup."""

import jax
import jax.numpy as jnp

from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.envs.tabletop import motion
from wmpo_jax.envs.tabletop.tasks.cubes import HALF, Cubes

ON_TOP = 0.06  # meters between the cubes' axes, less than what tips the upper one over
FLAT = 0.015  # meters that the upper cube may hang above or sink below its place
CLEAR = 0.03  # meters that the expert carries a cube above the other one


class Stack(Cubes):
    """Solved when the named cube is on the other one and the cup has released it."""

    name = "stack"
    instructions = ("put the red block on the blue block", "put the blue block on the red block")
    horizon = 32

    def solved(self, state: EnvState) -> jax.Array:
        return self._lies_on_top(state) & (state.memory.held < 0)

    def miss(self, state: EnvState) -> jax.Array:
        """Between the axes of the cubes, where the named one is above the other and released."""
        cube, base = self.cubes(state)
        apart = jnp.linalg.norm(cube[:2] - base[:2])
        return jnp.where((cube[2] > base[2] + HALF) & (state.memory.held < 0), apart, jnp.inf)

    def expert(self, state: EnvState, bias: float) -> jax.Array:
        """Fetch, carry at height to a point `bias` meters off the other cube, let go, rise."""
        offset = bias * jnp.array(motion.BIAS_DIRECTION)
        held = state.memory.held == state.instruction_id
        action = jnp.where(held, self._place(state, offset), self.fetch(state, jnp.zeros(2)))
        rise = jnp.array([0.0, 0.0, 1.0, -1.0])
        return jnp.where(~held & self._lies_on_top(state), rise, action)

    def _place(self, state: EnvState, offset: jax.Array) -> jax.Array:
        tool = state.physics.tool
        cube, base = self.cubes(state)
        way = base[:2] + offset - cube[:2]
        distance = jnp.linalg.norm(way)
        bottom = tool[2] + 3 * HALF - cube[2]  # where the tool is when the cubes touch
        height = jnp.maximum(self.funnel(distance, 0.0), 0.0) + bottom
        clear = (tool[2] > bottom + CLEAR) | (distance < 0.5 * HALF)
        xy = tool[:2] + jnp.where(clear, way, 0.0)
        move = motion.steer(tool, jnp.append(xy, height), self.reach)
        there = (distance < 0.02) & (tool[2] < bottom + 0.5 * FLAT)
        return jnp.append(move, jnp.where(there, -1.0, 1.0))

    def _lies_on_top(self, state: EnvState) -> jax.Array:
        cube, base = self.cubes(state)
        over = jnp.sum((cube[:2] - base[:2]) ** 2) < ON_TOP**2
        return over & (jnp.abs(cube[2] - base[2] - 2 * HALF) < FLAT)
