"""The in-jit camera sees what MuJoCo's own renderer sees."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from tests.envs.renderer import Segments, renderer_process
from wmpo_jax.envs import registry
from wmpo_jax.envs.tabletop.camera import Camera, _rays
from wmpo_jax.envs.tabletop.env import TabletopEnv
from wmpo_jax.runtime.errors import UserError

SIZE = 128
SHAPES = {
    "sphere": "0.16",
    "capsule": "0.09 0.17",
    "cylinder": "0.12 0.14",
    "box": "0.16 0.1 0.07",
    "ellipsoid": "0.2 0.13 0.08",
}
ZOO = f"""
<mujoco>
  <visual><headlight ambient="0.2 0.2 0.2" diffuse="0.3 0.3 0.3" specular="0 0 0"/></visual>
  <asset><material name="clay" rgba="0.8 0.3 0.2 1" specular="0"/></asset>
  <worldbody>
    <light pos="0.5 -0.5 3" dir="-0.2 0.2 -1" type="directional" diffuse="0.6 0.6 0.6"/>
    <camera name="eye" pos="0.3 -1.5 2.2" xyaxes="0.98 0.2 0 -0.165 0.81 0.56" fovy="48"/>
    <geom type="plane" size="0.8 0.9 0.1" rgba="0.4 0.5 0.6 1" euler="5 0 10" material="clay"/>
    {
    "".join(
        f'<body><freejoint/><geom type="{shape}" size="{size}" material="clay"/></body>'
        for shape, size in SHAPES.items()
    )
}
    <geom type="sphere" size="9" group="3"/>
    <geom type="sphere" size="9" rgba="1 1 1 0"/>
  </worldbody>
</mujoco>"""
STAGE = """
<mujoco>
  <visual><headlight active="0"/></visual>
  <worldbody>
    <light type="directional" dir="0.6 0 -0.8" ambient="0.1 0.2 0.3" diffuse="0.5 0.6 0.7"/>
    <camera name="eye" pos="0 0 2" fovy="50"/>
    <geom type="plane" size="0 0 1" rgba="0.9 0.8 0.7 1"/>
    <geom type="box" size="0.1 0.1 0.02" pos="0 0 0.5" rgba="1 1 1 1"/>
  </worldbody>
</mujoco>"""


@pytest.fixture(scope="module")
def segments() -> Iterator[Segments]:
    with renderer_process() as segments:
        yield segments


def poses(data: mujoco.MjData) -> tuple[jax.Array, jax.Array]:
    xmat_G33 = data.geom_xmat.reshape(-1, 3, 3)
    return jnp.asarray(data.geom_xpos, jnp.float32), jnp.asarray(xmat_G33, jnp.float32)


def zoo(seed: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """Every shape at a random pose above a finite, tilted plane."""
    model = mujoco.MjModel.from_xml_string(ZOO)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    qpos = rng.normal(size=(model.njnt, 7))
    qpos[:, :3] = rng.uniform((-0.6, -0.6, 0.2), (0.6, 0.6, 0.7), (model.njnt, 3))
    data.qpos[:] = qpos.ravel()
    mujoco.mj_forward(model, data)
    return model, data


def played(env: TabletopEnv, seed: int) -> tuple[mujoco.MjModel, mujoco.MjData]:
    """A start of the task followed by random commands, in C for speed."""
    model = env.task.model
    layout = env.task.layout(jax.random.key(seed))
    data = mujoco.MjData(model)
    data.qpos[:], data.mocap_pos[:] = layout.qpos, layout.mocap_pos
    rng = np.random.default_rng(seed)
    for _ in range(8):
        data.ctrl[:] = rng.uniform(*model.actuator_ctrlrange.T)
        mujoco.mj_step(model, data, nstep=4)
    mujoco.mj_forward(model, data)
    return model, data


def segment(camera: Camera, geom_xpos_G3: jax.Array, geom_xmat_G33: jax.Array) -> np.ndarray:
    """Which geom each pixel's center shows: int32 [H, W], -1 for the background."""
    _, index = camera._nearest(camera._poses(geom_xpos_G3, geom_xmat_G33), _rays(camera, 1))
    return np.asarray(index).reshape(camera.height, camera.width)


def assert_same_segments(
    segments: Segments, model: mujoco.MjModel, data: mujoco.MjData, camera: str
) -> None:
    theirs = segments(model, data, camera, SIZE)
    ours = segment(Camera.from_model(model, camera, SIZE, SIZE), *poses(data))
    visible, counts = np.unique(theirs[theirs >= 0], return_counts=True)
    assert visible.size > 1
    for geom in visible[counts >= 20]:
        both = np.sum((ours == geom) & (theirs == geom))
        either = np.sum((ours == geom) | (theirs == geom))
        assert both / either >= 0.97, (model.geom(geom).name or geom, both, either)


@pytest.mark.parametrize("seed", range(6))
def test_every_shape_covers_the_pixels_that_mujoco_gives_it(segments: Segments, seed: int) -> None:
    assert_same_segments(segments, *zoo(seed), "eye")


@pytest.mark.parametrize("name", registry.names())
def test_every_scene_covers_the_pixels_that_mujoco_gives_it(segments: Segments, name: str) -> None:
    env = registry.make(name)
    assert isinstance(env, TabletopEnv)
    for seed in range(3):
        assert_same_segments(segments, *played(env, seed), "table")


def test_light_and_shadow_follow_lambert() -> None:
    model = mujoco.MjModel.from_xml_string(STAGE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    pixels_HWC = np.asarray(Camera.from_model(model, "eye", 65, 65).render(*poses(data)))
    rgb, ambient, diffuse = np.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]])
    # The box hangs 0.5 m up, the light comes from the left: its shadow falls 0.375 m to the right.
    pixels_per_meter = 65 / 2 / (2 * np.tan(np.deg2rad(25)))
    in_shadow = 32 + round(0.375 * pixels_per_meter)
    lit = 32 - round(0.375 * pixels_per_meter)
    np.testing.assert_allclose(pixels_HWC[32, in_shadow], 255 * rgb * ambient, atol=0.51)
    np.testing.assert_allclose(
        pixels_HWC[32, lit], 255 * rgb * (ambient + 0.8 * diffuse), atol=0.51
    )
    np.testing.assert_allclose(pixels_HWC[32, 32], 255 * (ambient + 0.8 * diffuse), atol=0.51)


def test_many_worlds_look_like_one_at_a_time() -> None:
    model, _ = zoo(0)
    camera = Camera.from_model(model, "eye", 24, 32)
    worlds = [poses(zoo(seed)[1]) for seed in range(3)]
    xpos_BG3, xmat_BG33 = jax.tree.map(lambda *leaves: jnp.stack(leaves), *worlds)
    frames_BHWC = jax.jit(jax.vmap(camera.render))(xpos_BG3, xmat_BG33)
    assert frames_BHWC.shape == (3, 24, 32, 3) and frames_BHWC.dtype == jnp.uint8
    single = jax.jit(camera.render)
    for frame_HWC, world in zip(frames_BHWC, worlds, strict=True):
        difference = np.abs(np.int32(frame_HWC) - np.int32(single(*world)))
        # Another order of float operations may flip a pixel on an edge, or round a color.
        assert (difference > 1).mean() < 0.002


def test_supersampling_averages_a_finer_picture() -> None:
    model, data = zoo(1)
    fine = np.asarray(Camera.from_model(model, "eye", 32, 48).render(*poses(data)), np.float32)
    coarse = Camera.from_model(model, "eye", 16, 24, supersample=2).render(*poses(data))
    expected = fine.reshape(16, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(coarse) - expected).mean() < 0.6


def test_colors_can_change_inside_jit() -> None:
    model, data = zoo(0)
    camera = Camera.from_model(model, "eye", 16, 16)
    np.testing.assert_allclose(camera.geom_rgba_G4[-1], (0.8, 0.3, 0.2, 1), atol=1e-6)
    black = jax.jit(camera.render)(*poses(data), jnp.zeros((model.ngeom, 4)))
    assert not black.any()


def test_what_cannot_be_drawn_is_said() -> None:
    model, _ = zoo(0)
    with pytest.raises(UserError, match=r"no camera 'nose'.*eye"):
        Camera.from_model(model, "nose", 8, 8)
    mesh = STAGE.replace('type="box"', 'name="rock" type="mesh" mesh="m"').replace(
        "<worldbody>",
        '<asset><mesh name="m" vertex="0 0 0 1 0 0 0 1 0 0 0 1"/></asset><worldbody>',
    )
    with pytest.raises(UserError, match="'rock' is a mesh"):
        Camera.from_model(mujoco.MjModel.from_xml_string(mesh), "eye", 8, 8)
