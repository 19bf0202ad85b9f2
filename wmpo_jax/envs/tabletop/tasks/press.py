"""Press the pad: the default task, made so that 32 pixels show all that decides it.

The pad is 4 pixels in radius, the tip 4 pixels across, and the tip's shadow shows its height.
"""

import jax
import jax.numpy as jnp
import mujoco

from wmpo_jax.envs.protocol import EnvState
from wmpo_jax.envs.tabletop import motion, scene
from wmpo_jax.envs.tabletop.env import Layout
from wmpo_jax.envs.tabletop.hand import BareTip

VIEW = 0.60  # meters across the picture: a pixel of 32 is 1.9 cm
TIP_RADIUS = 0.044
PAD_RADIUS = 0.082
PAD_HEIGHT = 0.02
TOUCH = PAD_HEIGHT + TIP_RADIUS + 0.02  # below this height of the tip's center: pressed
PAD_AREA = 0.15  # half the side of the square that contains the pads
SPOUT = 0.02  # the expert's funnel: radius within which it presses,
FUNNEL = 2.5  # and meters it climbs per meter outside
GREEN = (0.15, 0.80, 0.20, 1.0)


class Press:
    """Three-dimensional actions (dx, dy, dz); solved when the tip is low inside the pad."""

    name = "press"
    instructions = ("press the pad",)
    action_dim = 3
    horizon = 12
    chunk = 4
    reach = 0.055
    substeps = 4
    low = (-0.24, -0.24, PAD_HEIGHT + TIP_RADIUS)
    high = (0.24, 0.24, 0.20)

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(_mjcf(self.low, self.high))
        self._pad = scene.geom_id(self.model, "pad")
        self.hand = BareTip()
        self.toys = (self._pad,)
        self._colors = jnp.array(self.model.geom_rgba)

    def layout(self, key: jax.Array) -> Layout:
        pad_key, tool_key = jax.random.split(key)
        pad = jax.random.uniform(pad_key, (2,), minval=-PAD_AREA, maxval=PAD_AREA)
        low = jnp.array((*self.low[:2], 0.15))
        return Layout(
            qpos=jax.random.uniform(tool_key, (3,), minval=low, maxval=jnp.array(self.high)),
            mocap_pos=jnp.append(pad, 0.0)[None],
            instruction_id=jnp.zeros((), jnp.int32),
        )

    def solved(self, state: EnvState) -> jax.Array:
        return self.miss(state) < PAD_RADIUS

    def miss(self, state: EnvState) -> jax.Array:
        """From the tip to the axis of the pad, once the tip is low."""
        physics = state.physics
        distance = jnp.linalg.norm(physics.tool[:2] - physics.geom_xpos[self._pad, :2])
        return jnp.where(physics.tool[2] < TOUCH, distance, jnp.inf)

    def colors(self, state: EnvState) -> jax.Array:
        pressed = self._colors.at[self._pad].set(jnp.array(GREEN))
        return jnp.where(state.success, pressed, self._colors)

    def expert(self, state: EnvState, bias: float) -> jax.Array:
        """Sink along a funnel whose spout is above a point that drifts off the pad."""
        tool = state.physics.tool
        pad = state.physics.geom_xpos[self._pad, :2]
        aim = pad + motion.drift(pad, bias)
        outside = jnp.maximum(jnp.linalg.norm(tool[:2] - aim) - SPOUT, 0.0)
        z = jnp.minimum(self.low[2] + FUNNEL * outside, self.high[2])
        return motion.steer(tool, jnp.append(aim, z), self.reach)


def _mjcf(low: tuple[float, ...], high: tuple[float, ...]) -> str:
    return scene.table_scene(
        camera=scene.camera_xml(VIEW),
        tip=f'<geom name="tip" type="sphere" size="{TIP_RADIUS}" rgba="0.95 0.85 0.15 1"/>',
        bodies=f"""
    <body name="pad" mocap="true">
      <geom name="pad" type="cylinder" size="{PAD_RADIUS} {PAD_HEIGHT / 2}"
            pos="0 0 {PAD_HEIGHT / 2}" rgba="0.85 0.15 0.15 1"/>
    </body>""",
        workspace=(low, high),
        # Stiff enough that a control step ends where its action says (within 2 %): what the motors
        # had left undone would be state that no frame shows and no world model can infer.
        options="""<option timestep="0.0125" integrator="implicitfast" gravity="0 0 0">
    <flag contact="disable" constraint="disable"/>
  </option>""",
        stiffness=5600.0,
        damping=140.0,
    )
