"""Playground's scenes for the in-jit camera: meshes as boxes, and a view where there is no camera."""

import copy

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from wmpo_jax.envs.tabletop.camera import Camera, View

_MESH, _BOX = int(mujoco.mjtGeom.mjGEOM_MESH), int(mujoco.mjtGeom.mjGEOM_BOX)


class SceneCamera:
    """Draws a model whose geoms may be meshes: each is the box around it, in its own frame.

    Args:
      camera: of the model; "" is MuJoCo's free camera as a viewer begins.
      size: height and width in pixels.
    """

    def __init__(self, model: mujoco.MjModel, camera: str, size: int) -> None:
        drawn, mesh_G = copy.copy(model), model.geom_type == _MESH
        # geom_aabb: center and half-sizes of the box around a geom, in the geom's frame.
        drawn.geom_type[mesh_G] = _BOX
        drawn.geom_size[mesh_G] = np.maximum(model.geom_aabb[mesh_G, 3:], 1e-4)
        self._center_G3 = np.where(mesh_G[:, None], model.geom_aabb[:, :3], 0.0).astype(np.float32)
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
