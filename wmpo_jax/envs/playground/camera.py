"""Playground's scenes for the in-jit camera: boxes for meshes, sites, a view without a camera."""

import copy
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from wmpo_jax.envs.tabletop.camera import Camera, Geom, View

_MESH, _BOX = int(mujoco.mjtGeom.mjGEOM_MESH), int(mujoco.mjtGeom.mjGEOM_BOX)
_VISIBLE, _HIDDEN = 3, 5  # MuJoCo's viewers draw geom groups below 3
SUPERSAMPLE = 2  # 2 x 2 rays a pixel: targets are a pixel or two wide
_UNSET_RGBA = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # then MuJoCo draws the material's color


class SceneCamera:
    """Draws a model whose geoms may be meshes: those of a body are one box around them all.

    A picture is compiled geom by geom, and a Panda alone has sixty visible meshes. The box has the
    frame and the color of the body's largest mesh. Visible sites are drawn, too: some targets are
    nothing else. (In MuJoCo's own pictures sites cast no shadow.)

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
            found = Camera.from_model(drawn, camera, size, size, SUPERSAMPLE)
        else:
            found = Camera.from_view(drawn, free_view(model), size, size, SUPERSAMPLE)
        self._camera = _with_sites(found, model)

    def render(self, data: Any) -> jax.Array:
        """uint8 [H, W, 3] of one world whose `mjx.Data` has the poses of geoms and sites."""
        shift_G3 = jnp.einsum("gij,gj->gi", data.geom_xmat, self._center_G3)
        return self._camera.render(
            jnp.concatenate([data.geom_xpos + shift_G3, data.site_xpos]),
            jnp.concatenate([data.geom_xmat, data.site_xmat]),
        )


def _with_sites(camera: Camera, model: mujoco.MjModel) -> Camera:
    """Sites behind the geoms: site number n is geom number `model.ngeom` + n."""
    rgba_S4 = model.site_rgba.copy()
    for site in np.flatnonzero(model.site_matid >= 0):
        if np.array_equal(rgba_S4[site], _UNSET_RGBA):
            rgba_S4[site] = model.mat_rgba[model.site_matid[site]]
    glow_M = np.append(model.mat_emission, 0.0)  # material -1 is the last: no glow
    visible_S = (model.site_group < _VISIBLE) & (rgba_S4[:, 3] > 0)
    sites = []
    for site in np.flatnonzero(visible_S):
        x, y, z = (float(half) for half in model.site_size[site])
        sites.append(Geom(model.ngeom + int(site), int(model.site_type[site]), (x, y, z)))
    return dataclasses.replace(
        camera,
        geoms=(*camera.geoms, *sites),
        geom_rgba_G4=np.concatenate([camera.geom_rgba_G4, rgba_S4]),
        emission_G=np.concatenate([camera.emission_G, glow_M[model.site_matid]]),
    )


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
