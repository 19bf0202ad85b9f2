"""MJCF for a coloured table, a tool on three slide joints, one slanted light and one steep camera.

The shadow of the light tells the height that a steep camera alone hides.
"""

import math
from collections.abc import Sequence

import mujoco

TOOL_MASS = 1.0


def camera_xml(view_width: float, elevation: float = 80.0, distance: float = 2.0) -> str:
    """A camera named "table" that sees `view_width` metres across the origin, tilted from above.

    Args:
      view_width: metres that fit into the picture at the height of the table.
      elevation: degrees above the table; 90 looks straight down.
      distance: metres from the origin; the further, the smaller the change of scale with height.
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
      tip: MJCF of the tool's geoms, placed around the tool's centre.
      bodies: MJCF of everything else.
      workspace: lowest and highest corner that the tool's centre may reach, metres.
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
    <geom name="table" type="plane" size="2 2 0.1" rgba="0.62 0.60 0.56 1" friction="0.6"/>
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
