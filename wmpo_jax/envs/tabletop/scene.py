"""MJCF for a colored table, a tool on three slide joints, one slanted light and one steep camera.

The light's shadow shows the height that a steep camera alone hides.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import mujoco

# With half as many iterations, a cube that is being hit makes the other one jump.
CONTACT_OPTIONS = """<option timestep="0.01" integrator="implicitfast" cone="pyramidal"
    solver="Newton" iterations="8" ls_iterations="16">
    <flag eulerdamp="disable"/>
  </option>"""
TOOL_MASS = 1.0
BLOCK_MASS = 0.2
BLOCK_DAMPING = 0.5  # N s/m, keeps a block that was hit from sliding off the table


def camera_xml(view_width: float, elevation: float = 80.0, distance: float = 2.0) -> str:
    """A camera named "table" that covers `view_width` meters across the origin, tilted from above.

    Args:
      view_width: meters that fit into the picture at the height of the table.
      elevation: degrees above the table; 90 looks straight down.
      distance: meters from the origin; the further, the smaller the change of scale with height.
    """
    e = math.radians(elevation)
    fovy = 2 * math.degrees(math.atan(view_width / 2 / distance))
    return (
        f'<camera name="table" pos="0 {-distance * math.cos(e):.5f} {distance * math.sin(e):.5f}" '
        f'xyaxes="1 0 0 0 {math.sin(e):.5f} {math.cos(e):.5f}" fovy="{fovy:.4f}"/>'
    )


def table_scene(
    *,
    camera: str,
    tip: str,
    bodies: str,
    workspace: tuple[Sequence[float], Sequence[float]],
    options: str,
    stiffness: float = 3600.0,
    damping: float = 110.0,
    equalities: str = "",
) -> str:
    """A complete MJCF model.

    The tool comes first, so `qpos[:3]` and `ctrl[:3]` are its position and target in the world.

    Args:
      camera: MJCF of the camera.
      tip: MJCF of the tool's geoms, placed around the tool's center; those of contype 2 touch
        blocks, those of contype 0 touch nothing.
      bodies: MJCF of everything else.
      workspace: lowest and highest corner that the tool's center may reach, meters.
      options: MJCF `<option>` element: time step, solver, flags.
      stiffness: of the position actuators, N/m, for a tool of 1 kg without weight.
      damping: of the same, N s/m.
      equalities: MJCF of the elements of `<equality>`.
    """
    joints, actuators = [], []
    for axis, vector, low, high in zip("xyz", ("1 0 0", "0 1 0", "0 0 1"), *workspace, strict=True):
        joints.append(f'<joint name="tool_{axis}" type="slide" axis="{vector}"/>')
        actuators.append(
            f'<position joint="tool_{axis}" kp="{stiffness}" kv="{damping}" '
            f'ctrlrange="{low} {high}"/>'
        )
    return f"""
<mujoco>
  {options}
  <visual><headlight active="0"/></visual>
  <worldbody>
    <light name="sun" directional="true" pos="0 0 2" dir="0.55 -0.45 -1" castshadow="true"
           ambient="0.25 0.25 0.25" diffuse="0.75 0.75 0.75" specular="0 0 0"/>
    {camera}
    <geom name="table" type="plane" size="2 2 0.1" rgba="0.62 0.60 0.56 1" friction="0.6"
          contype="1" conaffinity="1"/>
    <body name="tool" gravcomp="1">
      <inertial pos="0 0 0" mass="{TOOL_MASS}" diaginertia="0.01 0.01 0.01"/>
      {"".join(joints)}
      {tip}
    </body>
    {bodies}
  </worldbody>
  <equality>{equalities}</equality>
  <actuator>{"".join(actuators)}</actuator>
</mujoco>"""


def geom_id(model: mujoco.MjModel, name: str) -> int:
    return mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name)


def free_qpos(model: mujoco.MjModel, body: str) -> range:
    """Where in `qpos` the pose (x y z, then quaternion) of a freely moving body is."""
    joint = model.body_jntadr[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, body)]
    start = int(model.jnt_qposadr[joint])
    return range(start, start + 7)


def block_xml(name: str, half: float, rgba: str) -> str:
    """A cube of `half` meters half-side that moves freely, and heavily, as if in thin oil."""
    return f"""
    <body name="{name}">
      <joint type="free" damping="{BLOCK_DAMPING}"/>
      <geom name="{name}" type="box" size="{half} {half} {half}" mass="{BLOCK_MASS}" rgba="{rgba}"
            contype="1" conaffinity="3" friction="0.6"/>
    </body>"""


def suction_welds_xml(blocks: Sequence[str]) -> str:
    """A weld, switched off, from the tool to each block."""
    return "".join(f'<weld body1="tool" body2="{name}" active="false"/>' for name in blocks)


def scatter(key: jax.Array, count: int, half: float, gap: float) -> jax.Array:
    """`count` points [count, 2] in a square of half-side `half`, at least `gap` meters apart.

    If none of 64 draws keeps the gap, the best of them is taken.
    """
    draws = jax.random.uniform(key, (64, count, 2), minval=-half, maxval=half)
    distance = jnp.linalg.norm(draws[:, :, None] - draws[:, None], axis=-1)
    closest = jnp.min(distance + 1e3 * jnp.eye(count), axis=(1, 2))
    return draws[jnp.argmax(jnp.minimum(closest, gap))]  # argmax takes the first that keeps it


def resting_block(key: jax.Array, xy: jax.Array, half: float) -> jax.Array:
    """The pose [7] of a cube on the table at `xy`, turned at random about the vertical."""
    turn = jax.random.uniform(key, minval=-jnp.pi / 4, maxval=jnp.pi / 4)
    return jnp.array([xy[0], xy[1], half, jnp.cos(turn / 2), 0.0, 0.0, jnp.sin(turn / 2)])
