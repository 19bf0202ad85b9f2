"""Push the named block into the zone: contacts, and words that matter."""

import jax
import jax.numpy as jnp
import mujoco

from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.envs.tabletop import motion, scene
from wmpo_jax.envs.tabletop.env import Layout
from wmpo_jax.envs.tabletop.hand import BareTip

VIEW = 0.94  # meters across the picture
TIP_RADIUS = 0.04
HALF = 0.055  # half-side of a block
ZONE_RADIUS = 0.12  # the block's center has to be inside
START_AREA = 0.24  # half the side of the square in which things start
START_GAP = 0.24  # and their least distance, so that nothing starts solved
CIRCLE = 0.16  # the expert's distance from a block that it goes around
TURN = 0.8  # radians around the block per control step
BEHIND = 0.3  # radians off the line of push within which it pushes


class Push:
    """Two-dimensional actions (dx, dy); solved when the named block's center is in the zone."""

    name = "push"
    instructions = ("push the red block into the zone", "push the blue block into the zone")
    action_dim = 2
    horizon = 24
    chunk = 4
    reach = 0.07
    substeps = 8
    low = (-0.43, -0.43, HALF)
    high = (0.43, 0.43, HALF)

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(_mjcf(self.low, self.high))
        self.hand = BareTip()
        self.toys = tuple(scene.geom_id(self.model, name) for name in ("red", "blue"))
        self._zone = scene.geom_id(self.model, "zone")

    def layout(self, key: jax.Array) -> Layout:
        place_key, instruction_key, red_key, blue_key = jax.random.split(key, 4)
        red, blue, zone, tool = scene.scatter(place_key, 4, START_AREA, START_GAP)
        return Layout(
            qpos=jnp.concatenate(
                [
                    jnp.append(tool, HALF),
                    scene.resting_block(red_key, red, HALF),
                    scene.resting_block(blue_key, blue, HALF),
                ]
            ),
            mocap_pos=jnp.append(zone, 0.0)[None],
            instruction_id=jax.random.randint(instruction_key, (), 0, len(self.instructions)),
        )

    def solved(self, state: EnvState) -> jax.Array:
        return self.miss(state) < ZONE_RADIUS

    def miss(self, state: EnvState) -> jax.Array:
        """From the named block to the middle of the zone."""
        block, zone = self._ends(state)
        return jnp.linalg.norm(block - zone)

    def colors(self, state: EnvState) -> None:
        return None

    def expert(self, state: EnvState, bias: float) -> jax.Array:
        """Go around the block until behind it, then push along the line to the zone."""
        tool = state.physics.tool[:2]
        block, zone = self._ends(state)
        way = zone + bias * jnp.array(motion.BIAS_DIRECTION) - block
        from_block = tool - block
        # The angle by which the tool is off the place straight behind the block.
        turned = _angle(from_block) - _angle(-way)
        turned = jnp.arctan2(jnp.sin(turned), jnp.cos(turned))
        # Close to the block it first steps back, or it would drag the block along.
        freedom = jnp.clip(3 * jnp.linalg.norm(from_block) / CIRCLE - 2, 0.0, 1.0)
        ahead = _angle(from_block) - jnp.clip(turned, -TURN * freedom, TURN * freedom)
        around = block + CIRCLE * jnp.array([jnp.cos(ahead), jnp.sin(ahead)])
        point = jnp.where(jnp.abs(turned) < BEHIND, tool + way, around)
        return jnp.where(state.success, 0.0, motion.steer(tool, point, self.reach))

    def _ends(self, state: EnvState) -> tuple[jax.Array, jax.Array]:
        """Where the named block is and where it should go, meters [2] each."""
        xpos = state.physics.geom_xpos[:, :2]
        return xpos[jnp.array(self.toys)[state.instruction_id]], xpos[self._zone]


def _angle(vector: jax.Array) -> jax.Array:
    return jnp.arctan2(vector[1], vector[0])


def _mjcf(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    return scene.table_scene(
        camera=scene.camera_xml(VIEW),
        tip=f"""<geom name="tip" type="sphere" size="{TIP_RADIUS}" rgba="0.95 0.85 0.15 1"
          contype="2" conaffinity="0" friction="0.3"/>""",
        bodies=scene.block_xml("red", HALF, "0.85 0.15 0.15 1")
        + scene.block_xml("blue", HALF, "0.15 0.25 0.85 1")
        + f"""
    <body name="zone" mocap="true">
      <geom name="zone" type="cylinder" size="{ZONE_RADIUS} 0.001" contype="0" conaffinity="0"
            rgba="0.90 0.92 0.88 1"/>
    </body>""",
        workspace=(low, high),
        options=scene.CONTACT_OPTIONS,
        # Softer than elsewhere: a tip that hits at full speed sinks into a block and lifts it.
        stiffness=900.0,
        damping=60.0,
    )
