"""Two cubes and a suction cup: what lift and stack have in common."""

import jax
import jax.numpy as jnp
import mujoco

from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.envs.tabletop import motion, scene
from wmpo_jax.envs.tabletop.env import Layout
from wmpo_jax.envs.tabletop.hand import Suction

VIEW = 0.84  # meters across the picture
TIP_RADIUS = 0.035
HALF = 0.07  # half-side of a cube
START_AREA = 0.26  # half the side of the square in which cubes start
START_GAP = 0.24  # meters between their centers
CATCH_RADIUS = 0.08  # meters between the axes of cup and cube: three pixels of 32
CATCH_GAP = HALF + TIP_RADIUS + 0.035  # meters between the centers of cup and cube
SPOUT = 0.025  # the expert's funnel: radius within which it goes straight down,
FUNNEL = 2.5  # and meters it climbs per meter outside
NEAR = 0.10  # meters of horizontal distance within which its cup is closed; early does no harm
SUCKING = (0.95, 0.45, 0.10, 1.0)
COLORS = ("red", "blue")


class Cubes:
    """Four-dimensional actions (dx, dy, dz, grip): grip > 0 closes the cup, which then glows.

    The cup cannot go lower than the top of a cube on the table, and touches nothing by force.
    """

    action_dim = 4
    chunk = 4
    reach = 0.08
    substeps = 5
    low = (-0.36, -0.36, 2 * HALF + TIP_RADIUS)
    high = (0.36, 0.36, 0.40)

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(_mjcf(self.low, self.high))
        self.hand = Suction(self.model, COLORS, CATCH_RADIUS, CATCH_GAP)
        self.toys = tuple(scene.geom_id(self.model, name) for name in COLORS)
        self._tip = scene.geom_id(self.model, "tip")
        self._colors = jnp.array(self.model.geom_rgba)

    def layout(self, key: jax.Array) -> Layout:
        place_key, tool_key, instruction_key, red_key, blue_key = jax.random.split(key, 5)
        red, blue = scene.scatter(place_key, 2, START_AREA, START_GAP)
        low = jnp.array((-START_AREA, -START_AREA, 0.30))
        high = jnp.array((START_AREA, START_AREA, self.high[2]))
        tool = jax.random.uniform(tool_key, (3,), minval=low, maxval=high)
        blocks = [
            scene.resting_block(red_key, red, HALF),
            scene.resting_block(blue_key, blue, HALF),
        ]
        return Layout(
            qpos=jnp.concatenate([tool, *blocks]),
            mocap_pos=jnp.zeros((0, 3)),
            instruction_id=jax.random.randint(instruction_key, (), 0, len(COLORS)),
        )

    def colors(self, state: EnvState) -> jax.Array:
        sucking = self._colors.at[self._tip].set(jnp.array(SUCKING))
        return jnp.where(state.memory.closed, sucking, self._colors)

    def cubes(self, state: EnvState) -> tuple[jax.Array, jax.Array]:
        """Positions [3] of the cube that the instruction names first and of the other one."""
        pair = state.physics.geom_xpos[jnp.array(self.toys)]
        return pair[state.instruction_id], pair[1 - state.instruction_id]

    def fetch(self, state: EnvState, bias: jax.Array) -> jax.Array:
        """The action that sinks onto the named cube, the cup closed from near above on."""
        tool = state.physics.tool
        aim = self.cubes(state)[0][:2] + bias
        distance = jnp.linalg.norm(tool[:2] - aim)
        move = motion.steer(tool, jnp.append(aim, self.funnel(distance, self.low[2])), self.reach)
        return jnp.append(move, jnp.where(distance < NEAR, 1.0, -1.0))

    def funnel(self, distance: jax.Array, bottom: float) -> jax.Array:
        """The height at which to be at that horizontal distance from the aimed point."""
        return jnp.minimum(bottom + FUNNEL * jnp.maximum(distance - SPOUT, 0.0), self.high[2])


def _mjcf(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    return scene.table_scene(
        camera=scene.camera_xml(VIEW),
        tip=f"""<geom name="tip" type="sphere" size="{TIP_RADIUS}" rgba="0.95 0.95 0.90 1"
          contype="0" conaffinity="0"/>""",
        bodies=scene.block_xml("red", HALF, "0.85 0.15 0.15 1")
        + scene.block_xml("blue", HALF, "0.15 0.25 0.85 1"),
        workspace=(low, high),
        options=scene.CONTACT_OPTIONS,
        equalities=scene.suction_welds_xml(COLORS),
    )
