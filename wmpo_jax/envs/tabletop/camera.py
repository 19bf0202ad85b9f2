"""A camera that looks at a MuJoCo model and makes pixels inside jit.

Everything it shows is read from the compiled model: geoms, materials, lights, headlight, camera.
What it leaves out of MuJoCo's own picture: specular highlights, textures (their mean colour stands
in), reflections, fog, transparency and sites. Local letters: G geoms of the model, R rays.
"""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from wmpo_jax.envs.tabletop import raycast
from wmpo_jax.envs.tabletop.raycast import MISS, Size, Vec3
from wmpo_jax.runtime.errors import UserError

_HIDDEN_GROUP = 3  # MuJoCo's viewers draw geom groups 0, 1 and 2 unless told otherwise
# Rounding leaves a hit point up to ~1e-6 m off the surface it lies on; nothing closer shades it.
_SHADOW_GAP = 1e-4


@dataclasses.dataclass(frozen=True)
class Geom:
    """A visible geom: its index in the model, its MuJoCo type and half-sizes in metres."""

    index: int
    kind: int
    size: Size


@dataclasses.dataclass(frozen=True)
class Light:
    """A light of the model. `direction` is where it shines; `position` is None when far away."""

    position: tuple[float, float, float] | None
    direction: tuple[float, float, float]
    diffuse: tuple[float, float, float]
    attenuation: tuple[float, float, float] = (1.0, 0.0, 0.0)
    cutoff_degrees: float = 180.0
    exponent: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """A camera fixed in the world. Build it with `Camera.from_model`.

    Attributes:
      height, width: pixels.
      supersample: n, each pixel is the mean of n x n rays.
      position: metres. rotation_33: columns are the camera's x (right), y (up), z (backwards).
      fovy: vertical field of view in degrees.
      near, far: metres along the viewing axis between which things are drawn.
      geoms: what is visible. lights: all but the shadow-casting one.
      shadow_light: the model's first shadow-casting light, or None.
      ambient: sum of the ambient light. background: colour where a ray meets nothing.
      geom_rgba_G4: colours as drawn (materials resolved), 0..1; the start for `render`'s override.
      emission_G: share of its colour that a geom shows without light.
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
    shadow_light: Light | None
    ambient: np.ndarray
    background: np.ndarray
    geom_rgba_G4: np.ndarray
    emission_G: np.ndarray

    @classmethod
    def from_model(
        cls, model: mujoco.MjModel, name: str, height: int, width: int, supersample: int = 1
    ) -> "Camera":
        """Reads camera `name` with the model in its home pose (keyframe "home", else qpos0).

        Raises:
          UserError: no such camera, a camera that is not a plain perspective one, or a visible geom
            whose shape the ray-caster does not know.
        """
        camera_id = _camera_id(model, name)
        data = _home(model)
        lights = [(_light(model, data, i), bool(model.light_castshadow[i])) for i in _active(model)]
        shadow_at = next((i for i, (_, casts) in enumerate(lights) if casts), None)
        others = [light for i, (light, _) in enumerate(lights) if i != shadow_at]
        forward = -data.cam_xmat[camera_id].reshape(3, 3)[:, 2]
        headlight = model.vis.headlight
        ambient = model.light_ambient[_active(model)].sum(0)
        if headlight.active:
            ambient = ambient + headlight.ambient
            others.append(Light(None, _triple(forward), _triple(headlight.diffuse)))
        return cls(
            height=height,
            width=width,
            supersample=supersample,
            position=data.cam_xpos[camera_id].copy(),
            rotation_33=data.cam_xmat[camera_id].reshape(3, 3).copy(),
            fovy=float(model.cam_fovy[camera_id]),
            near=float(model.vis.map.znear * model.stat.extent),
            far=float(model.vis.map.zfar * model.stat.extent),
            geoms=_visible_geoms(model),
            lights=tuple(light for light in others if max(light.diffuse) > 0),
            shadow_light=None if shadow_at is None else lights[shadow_at][0],
            ambient=ambient,
            background=_background(model),
            geom_rgba_G4=_drawn_rgba(model),
            emission_G=np.array(
                [model.mat_emission[m] if m >= 0 else 0.0 for m in model.geom_matid]
            ),
        )

    def render(
        self,
        geom_xpos_G3: jax.Array,
        geom_xmat_G33: jax.Array,
        geom_rgba_G4: jax.Array | None = None,
    ) -> jax.Array:
        """The picture of one world; vmap it over worlds.

        Args:
          geom_xpos_G3: float32 metres, every geom of the model (`mjx.Data.geom_xpos`).
          geom_xmat_G33: float32 rotations (`mjx.Data.geom_xmat`).
          geom_rgba_G4: colours in 0..1 instead of `self.geom_rgba_G4`; alpha is not looked at.

        Returns:
          uint8 [H, W, 3], 0..255, row 0 at the top.
        """
        rgba_G4 = jnp.asarray(self.geom_rgba_G4 if geom_rgba_G4 is None else geom_rgba_G4)
        rays = _rays(self, self.supersample)
        depth, index, normal = self._trace(geom_xpos_G3, geom_xmat_G33, rays)
        point = raycast.along(_constants(self.position), depth, rays)
        light_RGB = self._light(geom_xpos_G3, geom_xmat_G33, point, normal)
        channels = []
        for channel in range(3):
            colour = jnp.full_like(depth, self.background[channel])
            for geom in self.geoms:
                shade = light_RGB[channel] + float(self.emission_G[geom.index])
                shade = rgba_G4[geom.index, channel] * shade
                colour = jnp.where(index == geom.index, shade, colour)
            colour = jnp.clip(colour, 0.0, 1.0).mean(0)
            channels.append((colour * 255.0 + 0.5).astype(jnp.uint8))
        return jnp.stack(channels, -1).reshape(self.height, self.width, 3)

    def segment(self, geom_xpos_G3: jax.Array, geom_xmat_G33: jax.Array) -> jax.Array:
        """Which geom is seen at each pixel centre: int32 [H, W], -1 for the background."""
        _, index, _ = self._trace(geom_xpos_G3, geom_xmat_G33, _rays(self, 1))
        return index.reshape(self.height, self.width)

    def _trace(
        self, xpos_G3: jax.Array, xmat_G33: jax.Array, rays: Vec3
    ) -> tuple[jax.Array, jax.Array, Vec3]:
        """Depth (metres along the viewing axis), geom index and world normal of the nearest hit."""
        best = jnp.full_like(rays[0], self.far)
        index = jnp.full(best.shape, -1, jnp.int32)
        normal = (jnp.zeros_like(best),) * 3
        for geom in self.geoms:
            enter, normal_at = raycast.SHAPES[geom.kind]
            xpos_3, xmat_33 = xpos_G3[geom.index], xmat_G33[geom.index]
            origin = raycast.to_local(xmat_33, _from(xpos_3, _constants(self.position)))
            direction = raycast.to_local(xmat_33, rays)
            t = enter(geom.size, origin, direction)
            closer = (t < best) & (t > self.near)
            local = normal_at(geom.size, raycast.along(origin, t, direction))
            facing = raycast.to_world(xmat_33, local)
            best = jnp.where(closer, t, best)
            index = jnp.where(closer, geom.index, index)
            x, y, z = (jnp.where(closer, new, old) for new, old in zip(facing, normal, strict=True))
            normal = (x, y, z)
        return best, index, normal

    def _light(
        self, xpos_G3: jax.Array, xmat_G33: jax.Array, point: Vec3, normal: Vec3
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Light falling on each point, per colour channel."""
        terms = [(light, _lambert(light, point, normal)) for light in self.lights]
        if self.shadow_light is not None:
            lit = self._reached(xpos_G3, xmat_G33, point)
            terms.append((self.shadow_light, _lambert(self.shadow_light, point, normal) * lit))
        red, green, blue = (
            sum((light.diffuse[c] * term for light, term in terms), float(self.ambient[c]))
            + jnp.zeros_like(point[0])
            for c in range(3)
        )
        return red, green, blue

    def _reached(self, xpos_G3: jax.Array, xmat_G33: jax.Array, point: Vec3) -> jax.Array:
        """Whether nothing stands between the point and the shadow light; planes cast none."""
        assert self.shadow_light is not None
        towards, light_at = _towards(self.shadow_light, point)
        lit = jnp.ones(point[0].shape, bool)
        for geom in self.geoms:
            if geom.kind == mujoco.mjtGeom.mjGEOM_PLANE:
                continue
            enter, _ = raycast.SHAPES[geom.kind]
            xpos_3, xmat_33 = xpos_G3[geom.index], xmat_G33[geom.index]
            origin = raycast.to_local(xmat_33, _from(xpos_3, point))
            t = enter(geom.size, origin, raycast.to_local(xmat_33, towards))
            lit &= (t < _SHADOW_GAP) | (t > light_at)
        return lit


def _constants(array_3: np.ndarray) -> Vec3:
    x, y, z = (jnp.float32(value) for value in array_3)
    return x, y, z


def _from(start_3: jax.Array, end: Vec3) -> Vec3:
    return end[0] - start_3[0], end[1] - start_3[1], end[2] - start_3[2]


def _rays(camera: Camera, supersample: int) -> Vec3:
    """World directions [n * n, H * W] through pixel centres, of length 1 along the viewing axis."""
    n = supersample
    top = np.tan(np.deg2rad(camera.fovy) / 2)
    right = top * camera.width / camera.height
    rows = 1 - 2 * (np.arange(camera.height * n) + 0.5) / (camera.height * n)
    columns = 2 * (np.arange(camera.width * n) + 0.5) / (camera.width * n) - 1
    up, across = np.meshgrid(rows * top, columns * right, indexing="ij")
    view = np.stack([across, up, -np.ones_like(up)], -1) @ camera.rotation_33.T
    view = view.reshape(camera.height, n, camera.width, n, 3).transpose(4, 1, 3, 0, 2)
    x, y, z = jnp.asarray(view.reshape(3, n * n, -1), jnp.float32)
    return x, y, z


def _towards(light: Light, point: Vec3) -> tuple[Vec3, jax.Array]:
    """Unit direction from the point to the light, and how far away it is."""
    if light.position is None:
        return _constants(-np.asarray(light.direction)), jnp.float32(MISS / 2)
    position = _constants(np.asarray(light.position))
    gap = (position[0] - point[0], position[1] - point[1], position[2] - point[2])
    return raycast.unit(gap), jnp.sqrt(raycast.dot(gap, gap))


def _lambert(light: Light, point: Vec3, normal: Vec3) -> jax.Array:
    """Share of the light's diffuse colour that a surface receives (OpenGL's lighting equation)."""
    towards, distance = _towards(light, point)
    share = jnp.maximum(raycast.dot(normal, towards), 0.0)
    if light.position is None:
        return share
    constant, linear, quadratic = light.attenuation
    if (linear, quadratic) != (0.0, 0.0):
        share = share / (constant + linear * distance + quadratic * distance**2)
    if light.cutoff_degrees < 180:
        cosine = -raycast.dot(towards, _constants(np.asarray(light.direction)))
        inside = cosine > np.cos(np.deg2rad(light.cutoff_degrees))
        spot = jnp.maximum(cosine, 1e-6) ** light.exponent
        share = jnp.where(inside, share * spot, 0.0)
    return share


def _camera_id(model: mujoco.MjModel, name: str) -> int:
    camera_id = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, name)
    if camera_id < 0:
        names = [model.camera(i).name for i in range(model.ncam)]
        raise UserError(f"The model has no camera {name!r}; choose one of {names}.")
    perspective = mujoco.mjtProjection.mjPROJ_PERSPECTIVE
    if model.cam_projection[camera_id] != perspective or model.cam_sensorsize[camera_id].any():
        raise UserError(
            f"Camera {name!r} is orthographic or has a sensor size; give it only a fovy."
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
    rgba_G4 = _drawn_rgba(model)
    geoms = []
    for index in range(model.ngeom):
        if model.geom_group[index] >= _HIDDEN_GROUP or rgba_G4[index, 3] == 0:
            continue
        kind = int(model.geom_type[index])
        if kind not in raycast.SHAPES:
            shape = mujoco.mjtGeom(kind).name.removeprefix("mjGEOM_").lower()
            raise UserError(
                f"Geom {index} {model.geom(index).name!r} is a {shape}, which the in-jit camera "
                f"cannot draw; use primitive shapes or put it into a group >= {_HIDDEN_GROUP}."
            )
        geoms.append(Geom(index, kind, _triple(model.geom_size[index])))
    return tuple(sorted(geoms, key=lambda geom: geom.kind))


def _drawn_rgba(model: mujoco.MjModel) -> np.ndarray:
    """Colour of each geom as MuJoCo draws it: a material's, unless the geom has its own."""
    rgba_G4 = model.geom_rgba.astype(np.float32)
    for index, material in enumerate(model.geom_matid):
        if material < 0:
            continue
        if (rgba_G4[index] == 0.5).tolist() == [True, True, True, False]:
            rgba_G4[index] = model.mat_rgba[material]
        textures = model.mat_texid[material]
        for texture in textures[textures >= 0]:
            rgba_G4[index, :3] *= _mean_colour(model, texture)
    return rgba_G4


def _mean_colour(model: mujoco.MjModel, texture: int) -> np.ndarray:
    channels = model.tex_nchannel[texture]
    count = model.tex_height[texture] * model.tex_width[texture] * channels
    start = model.tex_adr[texture]
    pixels = model.tex_data[start : start + count].reshape(-1, channels)
    return np.broadcast_to(pixels[:, :3].mean(0) / 255.0, 3)


def _background(model: mujoco.MjModel) -> np.ndarray:
    """The mean colour of the sky; black without one, like MuJoCo's."""
    skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    return _mean_colour(model, skies[0]) if len(skies) else np.zeros(3)


def _active(model: mujoco.MjModel) -> np.ndarray:
    return np.flatnonzero(model.light_active)


def _light(model: mujoco.MjModel, data: mujoco.MjData, index: int) -> Light:
    direction, diffuse = _triple(data.light_xdir[index]), _triple(model.light_diffuse[index])
    kind = model.light_type[index]
    if kind == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
        return Light(None, direction, diffuse)
    spot = kind == mujoco.mjtLightType.mjLIGHT_SPOT
    return Light(
        _triple(data.light_xpos[index]),
        direction,
        diffuse,
        _triple(model.light_attenuation[index]),
        float(model.light_cutoff[index]) if spot else 180.0,
        float(model.light_exponent[index]) if spot else 0.0,
    )


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z
