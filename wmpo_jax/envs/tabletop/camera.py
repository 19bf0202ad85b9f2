"""A camera in a MuJoCo model that renders inside jit.

Everything it shows is read from the compiled model: geoms, materials, lights, headlight, camera.
What it leaves out of MuJoCo's own picture: specular highlights, textures (their mean color stands
in), reflections, fog, transparency and sites.

For speed on a CPU everything is element-wise over rays and a ray's color ends in one uint32, so
XLA compiles the whole picture into one loop without intermediate arrays. Stacking channels earlier
costs a factor of a hundred. Local letters: G geoms of the model, R rays.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from wmpo_jax.envs.tabletop import raycast
from wmpo_jax.envs.tabletop.optics import Light, lambert, read_background, read_lights, read_rgba
from wmpo_jax.envs.tabletop.raycast import Size, Vec3
from wmpo_jax.runtime.errors import UserError

_HIDDEN_GROUP = 3  # MuJoCo's viewers draw geom groups 0, 1 and 2 by default
# Rounding leaves a hit point up to ~1e-6 m off its surface; nothing closer shades it.
_SHADOW_GAP = 1e-4

Poses = dict[int, tuple[jax.Array, jax.Array]]  # geom index -> position [3], rotation [3, 3]


@dataclasses.dataclass(frozen=True)
class Geom:
    """A visible geom: its index in the model, its MuJoCo type and half-sizes in meters."""

    index: int
    kind: int
    size: Size


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """Where a camera is: see the attributes of `Camera`."""

    position: np.ndarray
    rotation_33: np.ndarray
    fovy: float


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A camera fixed in the world. Build it with `Camera.from_model`.

    Attributes:
      height, width: pixels.
      supersample: n, each pixel is the mean of n x n rays.
      position: meters. rotation_33: columns are the camera's x (right), y (up), z (backwards).
      fovy: vertical field of view in degrees.
      near, far: meters along the viewing axis between which things are drawn.
      geoms: what is visible.
      lights: the first of them casts shadows if `shadowed`, the others never do.
      ambient_C: the ambient light of all lights together, 0..1.
      background_C: color where a ray hits nothing, 0..1.
      geom_rgba_G4: colors as drawn (materials resolved), 0..1; the start for `render`'s override.
      emission_G: share of its color that a geom shows without light.
    """

    height: int
    width: int
    supersample: int
    position: np.ndarray
    rotation_33: np.ndarray
    fovy: float
    near: float
    far: float
    geoms: tuple[Geom, ...]
    lights: tuple[Light, ...]
    shadowed: bool
    ambient_C: np.ndarray
    background_C: np.ndarray
    geom_rgba_G4: np.ndarray
    emission_G: np.ndarray

    @classmethod
    def from_model(
        cls, model: mujoco.MjModel, name: str, height: int, width: int, supersample: int = 1
    ) -> "Camera":
        """Reads camera `name` with the model in its home pose (keyframe "home", else qpos0).

        Raises:
          UserError: no such camera, a camera that is not a plain perspective one, or a visible geom
            whose shape the ray-caster does not have.
        """
        camera_id = _camera_id(model, name)
        data = _home(model)
        view = View(
            data.cam_xpos[camera_id].copy(),
            data.cam_xmat[camera_id].reshape(3, 3).copy(),
            float(model.cam_fovy[camera_id]),
        )
        return cls.from_view(model, view, height, width, supersample)

    @classmethod
    def from_view(
        cls, model: mujoco.MjModel, view: "View", height: int, width: int, supersample: int = 1
    ) -> "Camera":
        """As `from_model`, from a place that is no camera of the model."""
        data = _home(model)
        rotation_33 = view.rotation_33
        lights, ambient_C = read_lights(model, data, -rotation_33[:, 2])
        glow_M = np.append(model.mat_emission, 0.0)  # material -1 is the last: no glow
        return cls(
            height=height,
            width=width,
            supersample=supersample,
            position=view.position,
            rotation_33=rotation_33,
            fovy=view.fovy,
            near=float(model.vis.map.znear * model.stat.extent),
            far=float(model.vis.map.zfar * model.stat.extent),
            geoms=_visible_geoms(model),
            lights=lights,
            shadowed=bool(model.light_castshadow[model.light_active > 0].any()),
            ambient_C=ambient_C,
            background_C=read_background(model),
            geom_rgba_G4=read_rgba(model),
            emission_G=glow_M[model.geom_matid],
        )

    def render(
        self,
        geom_xpos_G3: jax.Array,
        geom_xmat_G33: jax.Array,
        geom_rgba_G4: jax.Array | None = None,
    ) -> jax.Array:
        """The picture of one world; vmap it over worlds.

        Args:
          geom_xpos_G3: float32 meters, every geom of the model (`mjx.Data.geom_xpos`).
          geom_xmat_G33: float32 rotations (`mjx.Data.geom_xmat`).
          geom_rgba_G4: colors in 0..1 instead of `self.geom_rgba_G4`; alpha is ignored.

        Returns:
          uint8 [H, W, 3], 0..255, row 0 at the top.
        """
        rgba_G4 = jnp.asarray(self.geom_rgba_G4 if geom_rgba_G4 is None else geom_rgba_G4)
        poses = self._poses(geom_xpos_G3, geom_xmat_G33)
        rays = _rays(self, self.supersample)
        # A loop of two rounds or more keeps XLA from computing each ray once per byte of output.
        rounds = (math.gcd(rays[0].size, 2 * self.supersample**2), -1)
        in_rounds = tuple(axis.reshape(rounds) for axis in rays)
        packed = jax.lax.map(lambda part: self._packed(poses, rgba_G4, part), in_rounds)
        packed = packed.reshape(self.supersample**2, -1)
        pixels = jax.lax.bitcast_convert_type(packed, jnp.uint8)[..., :3]
        if self.supersample > 1:
            count = self.supersample**2
            total = pixels.astype(jnp.uint32).sum(0)
            pixels = ((total + count // 2) // count).astype(jnp.uint8)
        return pixels.reshape(self.height, self.width, 3)

    def segment(self, geom_xpos_G3: jax.Array, geom_xmat_G33: jax.Array) -> jax.Array:
        """The geom that the middle of each pixel shows: int32 [H, W], -1 for none."""
        poses = self._poses(geom_xpos_G3, geom_xmat_G33)
        right, up, back = (axis[0] for axis in _rays(self, 1))
        _, index = self._nearest(poses, (right, up, back))
        return index.reshape(self.height, self.width)

    def _poses(self, xpos_G3: jax.Array, xmat_G33: jax.Array) -> Poses:
        return {geom.index: (xpos_G3[geom.index], xmat_G33[geom.index]) for geom in self.geoms}

    def _packed(self, poses: Poses, rgba_G4: jax.Array, rays: Vec3) -> jax.Array:
        """uint32 [R]: red, green and blue in the lowest three bytes."""
        depth, index = self._nearest(poses, rays)
        point = raycast.along(raycast.vector(self.position), depth, rays)
        received = self._received(poses, point, index)
        red, green, blue = (self._channel(c, rgba_G4, index, received) for c in range(3))
        return red | green << 8 | blue << 16

    def _nearest(self, poses: Poses, rays: Vec3) -> tuple[jax.Array, jax.Array]:
        """Depth (meters along the viewing axis) and geom index of what each ray hits first."""
        depth = jnp.full_like(rays[0], self.far)
        index = jnp.full(depth.shape, -1, jnp.int32)
        for geom in self.geoms:
            xpos_3, xmat_33 = poses[geom.index]
            origin = raycast.place_local(xpos_3, xmat_33, raycast.vector(self.position))
            direction = raycast.turn_local(xmat_33, rays)
            t = raycast.ENTER[geom.kind](geom.size, origin, direction)
            closer = (t < depth) & (t > self.near)
            depth = jnp.where(closer, t, depth)
            index = jnp.where(closer, geom.index, index)
        return depth, index

    def _received(self, poses: Poses, point: Vec3, index: jax.Array) -> list[jax.Array]:
        """For each light, the share 0..1 of its diffuse light that each point receives."""
        zero = jnp.zeros_like(point[0])
        normal = (zero, zero, zero)
        for geom in self.geoms:
            xpos_3, xmat_33 = poses[geom.index]
            local = raycast.NORMAL[geom.kind](
                geom.size, raycast.place_local(xpos_3, xmat_33, point)
            )
            x, y, z = raycast.turn_world(xmat_33, local)
            here = index == geom.index
            normal = (
                jnp.where(here, x, normal[0]),
                jnp.where(here, y, normal[1]),
                jnp.where(here, z, normal[2]),
            )
        received = [lambert(light, point, normal) for light in self.lights]
        if self.shadowed:
            received[0] = jnp.where(self._reached(poses, point), received[0], 0.0)
        return received

    def _reached(self, poses: Poses, point: Vec3) -> jax.Array:
        """Whether nothing stands between the point and the first light; planes cast no shadow."""
        toward, light_at = self.lights[0].seen_from(point)
        free = jnp.ones(point[0].shape, bool)
        for geom in self.geoms:
            if geom.kind == mujoco.mjtGeom.mjGEOM_PLANE:
                continue
            xpos_3, xmat_33 = poses[geom.index]
            origin = raycast.place_local(xpos_3, xmat_33, point)
            direction = raycast.turn_local(xmat_33, toward)
            t = raycast.ENTER[geom.kind](geom.size, origin, direction)
            free &= (t < _SHADOW_GAP) | (t > light_at)
        return free

    def _channel(
        self, channel: int, rgba_G4: jax.Array, index: jax.Array, received: list[jax.Array]
    ) -> jax.Array:
        """One color channel, uint32 0..255 [R]."""
        light = jnp.full(index.shape, self.ambient_C[channel], jnp.float32)
        for source, share in zip(self.lights, received, strict=True):
            light += source.diffuse[channel] * share
        color = jnp.full(index.shape, self.background_C[channel], jnp.float32)
        for geom in self.geoms:
            shade = rgba_G4[geom.index, channel] * (light + float(self.emission_G[geom.index]))
            color = jnp.where(index == geom.index, shade, color)
        return (jnp.clip(color, 0.0, 1.0) * 255.0 + 0.5).astype(jnp.uint32)


def _rays(camera: Camera, supersample: int) -> Vec3:
    """World directions [n * n, H * W] through (sub)pixel centers; depth grows by 1 along each."""
    n = supersample
    top = np.tan(np.deg2rad(camera.fovy) / 2)
    right = top * camera.width / camera.height
    up_Y = top * (1 - (2 * np.arange(camera.height * n) + 1) / (camera.height * n))
    across_X = right * ((2 * np.arange(camera.width * n) + 1) / (camera.width * n) - 1)
    up, across = np.meshgrid(up_Y, across_X, indexing="ij")
    view = np.stack([across, up, -np.ones_like(up)], -1) @ camera.rotation_33.T
    view = view.reshape(camera.height, n, camera.width, n, 3).transpose(4, 1, 3, 0, 2)
    x, y, z = jnp.asarray(view.reshape(3, n * n, -1), jnp.float32)
    return x, y, z


def _camera_id(model: mujoco.MjModel, name: str) -> int:
    camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
    if camera_id < 0:
        names = [model.camera(i).name for i in range(model.ncam)]
        raise UserError(f"The model has no camera {name!r}; choose one of {names}.")
    perspective = model.cam_projection[camera_id] == mujoco.mjtProjection.mjPROJ_PERSPECTIVE
    if not perspective or model.cam_sensorsize[camera_id].any():
        raise UserError(
            f"Camera {name!r} is orthographic or has a sensor size; describe it by fovy alone."
        )
    return camera_id


def _home(model: mujoco.MjModel) -> mujoco.MjData:
    data = mujoco.MjData(model)
    key = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_KEY, "home")
    if key >= 0:
        mujoco.mj_resetDataKeyframe(model, data, key)
    mujoco.mj_forward(model, data)
    return data


def _visible_geoms(model: mujoco.MjModel) -> tuple[Geom, ...]:
    geoms = []
    for index in range(model.ngeom):
        if model.geom_group[index] >= _HIDDEN_GROUP or read_rgba(model)[index, 3] == 0:
            continue
        kind = int(model.geom_type[index])
        if kind not in raycast.ENTER:
            shape = mujoco.mjtGeom(kind).name.removeprefix("mjGEOM_").lower()
            raise UserError(
                f"Geom {index} {model.geom(index).name!r} is a {shape}, which the in-jit camera "
                f"cannot draw; use primitive shapes or put it into a group >= {_HIDDEN_GROUP}."
            )
        x, y, z = (float(half) for half in model.geom_size[index])
        geoms.append(Geom(index, kind, (x, y, z)))
    return tuple(geoms)
