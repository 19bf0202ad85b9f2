"""Light and color of a MuJoCo model, and Lambert's law for them."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from wmpo_jax.envs.tabletop import raycast
from wmpo_jax.envs.tabletop.raycast import MISS, Vec3

Triple = tuple[float, float, float]

_UNSET_RGBA = np.array([0.5, 0.5, 0.5, 1.0], np.float32)  # then MuJoCo draws the material's color


@dataclasses.dataclass(frozen=True)
class Light:
    """A light fixed in the world.

    Attributes:
      direction: unit vector in which it shines.
      diffuse: red, green, blue, 0..1.
      position: meters; None for a directional light.
      attenuation: constant, linear and quadratic coefficient of OpenGL's falloff with distance.
      cutoff_degrees, exponent: OpenGL's spot cone; 180 shines everywhere.
    """

    direction: Triple
    diffuse: Triple
    position: Triple | None = None
    attenuation: Triple = (1.0, 0.0, 0.0)
    cutoff_degrees: float = 180.0
    exponent: float = 0.0

    def seen_from(self, point: Vec3) -> tuple[Vec3, jax.Array]:
        """Unit direction toward the light and its distance in meters."""
        if self.position is None:
            x, y, z = self.direction
            return raycast.vector((-x, -y, -z)), jnp.float32(MISS / 2)
        gap = raycast.minus(raycast.vector(self.position), point)
        return raycast.unit(gap), jnp.sqrt(raycast.dot(gap, gap))


def lambert(light: Light, point: Vec3, normal: Vec3) -> jax.Array:
    """Share of the light's diffuse color that an unshadowed surface receives.

    The equations are OpenGL's (2.1 specification, section 2.14), which MuJoCo draws with.
    """
    toward, distance = light.seen_from(point)
    share = jnp.maximum(raycast.dot(normal, toward), 0.0)
    if light.position is None:
        return share
    constant, linear, quadratic = light.attenuation
    share = share / (constant + linear * distance + quadratic * distance**2)
    if light.cutoff_degrees < 180:
        cosine = -raycast.dot(toward, raycast.vector(light.direction))
        inside = cosine > np.cos(np.deg2rad(light.cutoff_degrees))
        share = jnp.where(inside, share * jnp.maximum(cosine, 0.0) ** light.exponent, 0.0)
    return share


def read_lights(
    model: mujoco.MjModel, data: mujoco.MjData, forward_3: np.ndarray
) -> tuple[tuple[Light, ...], np.ndarray]:
    """The active lights, shadow-casting ones first, and the sum [3] of their ambient light.

    Args:
      data: gives the lights' poses.
      forward_3: the viewing axis of the camera, along which the headlight shines.
    """
    active = np.flatnonzero(model.light_active).tolist()
    active.sort(key=lambda index: not model.light_castshadow[index])
    lights = [_read_light(model, data, index) for index in active]
    ambient_C = model.light_ambient[active].sum(0)
    headlight = model.vis.headlight
    if headlight.active:
        ambient_C = ambient_C + headlight.ambient
        lights.append(Light(_triple(forward_3), _triple(headlight.diffuse)))
    return tuple(lights), ambient_C


def _read_light(model: mujoco.MjModel, data: mujoco.MjData, index: int) -> Light:
    light = Light(_triple(data.light_xdir[index]), _triple(model.light_diffuse[index]))
    if model.light_type[index] == mujoco.mjtLightType.mjLIGHT_DIRECTIONAL:
        return light
    light = dataclasses.replace(
        light,
        position=_triple(data.light_xpos[index]),
        attenuation=_triple(model.light_attenuation[index]),
    )
    if model.light_type[index] != mujoco.mjtLightType.mjLIGHT_SPOT:
        return light
    return dataclasses.replace(
        light,
        cutoff_degrees=float(model.light_cutoff[index]),
        exponent=float(model.light_exponent[index]),
    )


def read_rgba(model: mujoco.MjModel) -> np.ndarray:
    """float32 [G, 4] color of each geom as MuJoCo draws it, textures replaced by their mean."""
    rgba_G4 = model.geom_rgba.copy()
    for index in np.flatnonzero(model.geom_matid >= 0):
        material = model.geom_matid[index]
        if np.array_equal(rgba_G4[index], _UNSET_RGBA):
            rgba_G4[index] = model.mat_rgba[material]
        texture = model.mat_texid[material, mujoco.mjtTextureRole.mjTEXROLE_RGB]
        if texture >= 0:
            rgba_G4[index, :3] *= _mean_color(model, texture)
    return rgba_G4


def read_background(model: mujoco.MjModel) -> np.ndarray:
    """float [3]: the mean color of the sky; black without one, as in MuJoCo."""
    skies = np.flatnonzero(model.tex_type == mujoco.mjtTexture.mjTEXTURE_SKYBOX)
    return _mean_color(model, skies[0]) if skies.size else np.zeros(3)


def _mean_color(model: mujoco.MjModel, texture: int) -> np.ndarray:
    channels = model.tex_nchannel[texture]
    size = model.tex_height[texture] * model.tex_width[texture] * channels
    start = model.tex_adr[texture]
    texels = model.tex_data[start : start + size].reshape(-1, channels)
    return np.broadcast_to(texels[:, :3].mean(0) / 255.0, 3)


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z
