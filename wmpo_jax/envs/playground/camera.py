"""Playground's scenes for the in-jit camera: boxes for meshes, a view where there is no camera."""

import copy

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from wmpo_jax.envs.tabletop.camera import Camera, View

_MESH, _BOX = int(mujoco.mjtGeom.mjGEOM_MESH), int(mujoco.mjtGeom.mjGEOM_BOX)
_VISIBLE, _HIDDEN = 3, 5  # MuJoCo's viewers draw geom groups below 3


class SceneCamera:
    """Draws a model whose geoms may be meshes: those of a body are one box around them all.

    A picture is compiled geom by geom, and a Panda alone has sixty visible meshes. The box has the
    frame and the color of the body's largest mesh.

    Args:
      camera: of the model; "" is MuJoCo's free camera as a viewer begins.
      size: height and width in pixels.
    """

    def __init__(self, model: mujoco.MjModel, camera: str, size: int) -> None:
        drawn = copy.copy(model)
        self._center_G3 = np.zeros((model.ngeom, 3), np.float32)
        visible_G = (model.geom_type == _MESH) & (model.geom_group < _VISIBLE)
        for body in np.unique(model.geom_bodyid[visible_G]):
            meshes = np.flatnonzero(visible_G & (model.geom_bodyid == body))
            largest = int(meshes[np.argmax(model.geom_rbound[meshes])])
            low, high = _around(model, meshes, largest)
            drawn.geom_group[meshes] = _HIDDEN
            drawn.geom_group[largest], drawn.geom_type[largest] = 0, _BOX
            drawn.geom_size[largest] = (high - low) / 2
            self._center_G3[largest] = (low + high) / 2
        if camera:
            self._camera = Camera.from_model(drawn, camera, size, size)
        else:
            self._camera = Camera.from_view(drawn, free_view(model), size, size)

    def render(self, geom_xpos_G3: jax.Array, geom_xmat_G33: jax.Array) -> jax.Array:
        """uint8 [H, W, 3] of one world; see `Camera.render`."""
        shift_G3 = jnp.einsum("gij,gj->gi", geom_xmat_G33, self._center_G3)
        return self._camera.render(geom_xpos_G3 + shift_G3, geom_xmat_G33)


def free_view(model: mujoco.MjModel) -> View:
    """Where MuJoCo's viewers look from at first (mjv_defaultFreeCamera)."""
    azimuth, elevation = np.deg2rad([model.vis.global_.azimuth, model.vis.global_.elevation])
    flat = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    forward = np.cos(elevation) * flat + np.array([0.0, 0.0, np.sin(elevation)])
    right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
    rotation_33 = np.stack([right, np.cross(right, forward), -forward], axis=1)
    position = model.stat.center - 1.5 * model.stat.extent * forward
    return View(position, rotation_33, float(model.vis.global_.fovy))


def _around(model: mujoco.MjModel, meshes: np.ndarray, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner of a body's meshes, in the frame of the geom `frame`; meters."""
    to_frame_33 = _rotation(model.geom_quat[frame])
    points = []
    for geom in meshes:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        vertices_V3 = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
        in_body_V3 = vertices_V3 @ _rotation(model.geom_quat[geom]).T + model.geom_pos[geom]
        points.append((in_body_V3 - model.geom_pos[frame]) @ to_frame_33)
    together_V3 = np.concatenate(points)
    return together_V3.min(axis=0), together_V3.max(axis=0)


def _rotation(quat: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)
