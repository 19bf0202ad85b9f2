"""MuJoCo Playground's environments as ours: a stand-in registry, real MJX, real pictures."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from tests.envs.playground import stand_in
from tests.envs.renderer import renderer_process
from wmpo_jax.envs import registry
from wmpo_jax.envs.dynamics import expert_actor, record
from wmpo_jax.envs.playground.camera import SceneCamera, free_view
from wmpo_jax.envs.playground.rules import RULES, rule_for
from wmpo_jax.envs.playground.scripts import point_mass
from wmpo_jax.envs.protocol import Environment
from wmpo_jax.runtime.config import load_config
from wmpo_jax.runtime.errors import UserError

POINT_MASS = """
<mujoco>
  <option timestep="0.02"/>
  <worldbody>
    <geom name="target" pos="0.01 0 0.01" size="0.015" contype="0"/>
    <body>
      <joint name="x" type="slide" axis="1 0 0" damping="1"/>
      <joint name="y" type="slide" axis="0 1 0" damping="1"/>
      <geom size="0.01" mass="0.3" contype="0"/>
    </body>
  </worldbody>
  <actuator><motor joint="x" gear="0.1"/><motor joint="y" gear="0.1"/></actuator>
</mujoco>
"""
OPTIONS = {"instruction": "slide to the right", "metric": "near", "at_least": 1.0, "chunk": 4}


def make(monkeypatch: Any, name: str = "Slide", **options: Any) -> Any:
    monkeypatch.setitem(sys.modules, "mujoco_playground", stand_in.module())
    return registry.make_reality(f"playground/{name}", 32, {**OPTIONS, **options})


def test_it_is_an_environment_of_ours(monkeypatch):
    env: Environment = make(monkeypatch)
    assert (env.action_dim, env.chunk, env.horizon) == (1, 4, 40)  # 43, in whole chunks
    assert env.instructions == ("slide to the right",)
    seeds = jnp.arange(3)
    state = jax.jit(jax.vmap(env.reset))(seeds)
    again = jax.jit(jax.vmap(env.reset))(seeds)
    starts = np.asarray(state.physics.data.qpos)[:, 0]
    np.testing.assert_array_equal(starts, np.asarray(again.physics.data.qpos)[:, 0])
    assert len(set(starts.tolist())) == 3
    step = jax.jit(jax.vmap(env.step))
    pushes = jnp.array([[1.0], [0.0], [-1.0]])
    history = []
    for _ in range(40):
        state = step(state, pushes)
        history.append(np.asarray(state.physics.data.qpos)[:, 0])
    assert state.success.tolist() == [True, False, False]
    assert state.invalid.tolist() == [False, False, True]
    assert np.isfinite(history).all()  # the broken world stays at its last finite state
    assert history[-1][0] == history[-2][0] > 1  # and where Playground is done nothing moves
    assert state.step.tolist() == [40] * 3


def test_programs_share_what_was_traced(monkeypatch):
    """Tracing Playground's own Python takes longer than all else that precedes compilation."""
    env = make(monkeypatch)
    traced, step = [], stand_in.Slide.step
    monkeypatch.setattr(
        stand_in.Slide, "step", lambda *args: (traced.append(len(args)), step(*args))[1]
    )

    def program(seeds):
        return record(env, env.play, seeds, jax.random.key(0), 0.0).frames_BTHWC

    jax.jit(program).lower(jnp.arange(4))
    first = len(traced)
    jax.jit(lambda seeds: program(seeds) + 1).lower(jnp.arange(4))
    assert first <= 1 and len(traced) == first


def test_the_planner_solves_it_and_play_does_not_depend_on_the_instruction(monkeypatch):
    env = make(monkeypatch, horizon=24)
    played = jax.jit(
        lambda seeds: record(env, expert_actor(env, 0.0), seeds, jax.random.key(0), 0.0)
    )(jnp.arange(4))
    assert played.success_B.all() and played.frames_BTHWC.shape == (4, 25, 32, 32, 3)
    state = jax.jit(env.reset)(0)
    actions = [env.play(state.replace(step=jnp.int32(n)), jax.random.key(3)) for n in range(12)]
    assert np.abs(actions).max() <= 1 and np.abs(np.diff(np.ravel(actions))).max() < 0.5


def test_pictures_are_those_of_mujoco_where_it_draws_boxes(monkeypatch):
    """The brick is a box already; the chip on it belongs to the same body and its box."""
    env = make(monkeypatch, camera="above")
    frame = np.asarray(jax.jit(env.render)(jax.jit(env.reset)(0))).astype(int)
    found = (frame[..., 0] > 100) & (frame[..., 1] < 60)
    model = mujoco.MjModel.from_xml_string(stand_in.XML)
    data = mujoco.MjData(model)
    data.qpos[:] = np.asarray(jax.jit(env.reset)(0).physics.data.qpos)
    mujoco.mj_forward(model, data)
    with renderer_process() as segment:
        expected = segment(model, data, "above", 32) > 0
    assert expected.sum() > 10
    assert (found & expected).sum() / (found | expected).sum() > 0.8


def test_sites_are_drawn_as_far_as_viewers_show_them(monkeypatch):
    env = make(monkeypatch, camera="above")
    frame = np.asarray(jax.jit(env.render)(jax.jit(env.reset)(0))).astype(int)
    blue = (frame[..., 2] > 100) & (frame[..., :2].max(-1) < 60)
    yellow = (frame[..., :2].min(-1) > 100) & (frame[..., 2] < 60)
    middle = np.argwhere(blue).mean(0)
    # 0.5 m up in a picture of 2 x 2.9 m tan(22.5 deg) at the height of the site.
    np.testing.assert_allclose(middle, [15.5 - 0.5 * 32 / 2.402, 15.5], atol=0.3)
    assert blue.sum() >= 4 and not yellow.any()


def test_an_action_lasts_as_long_as_the_config_says(monkeypatch):
    moved = []
    for seconds in (0.02, 0.06):
        env = make(monkeypatch, seconds=seconds)
        state = jax.jit(env.reset)(0)
        after = jax.jit(env.step)(state, jnp.ones(1)).physics.data
        moved.append((float(after.time), float((after.qpos - state.physics.data.qpos)[0])))
    np.testing.assert_allclose([time for time, _ in moved], [0.02, 0.06], atol=1e-6)
    assert moved[1][1] > 3 * moved[0][1] > 0


def test_the_script_of_the_point_mass_brings_it_beside_the_target():
    model = mujoco.MjModel.from_xml_string(POINT_MASS)
    for bias in (0.0, 0.05):
        data = mujoco.MjData(model)
        data.qpos[:] = -0.2, 0.25
        for _ in range(300):
            data.ctrl[:] = point_mass(model, data, bias)
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(data.qpos, [0.01 + bias, 0.0], atol=1e-3)


def test_without_a_camera_it_looks_from_where_viewers_begin():
    model = mujoco.MjModel.from_xml_string(stand_in.XML)
    view, scene = free_view(model), mujoco.MjvScene(model, 10)
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    everything = mujoco.mjtCatBit.mjCAT_ALL.value
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, everything, scene)
    theirs = (np.array(scene.camera[0].pos) + np.array(scene.camera[1].pos)) / 2
    np.testing.assert_allclose(view.position, theirs, atol=1e-5)
    np.testing.assert_allclose(-view.rotation_33[:, 2], scene.camera[0].forward, atol=1e-5)
    np.testing.assert_allclose(view.rotation_33[:, 1], scene.camera[0].up, atol=1e-5)
    assert SceneCamera(model, "", 8).render.__self__ is not None


def test_rules_are_declared_or_given():
    assert rule_for("PandaPickCube", {}) == RULES["PandaPickCube"]
    changed = rule_for("PandaPickCube", {"instruction": "", "at_least": 0.9, "horizon": 60})
    assert (changed.at_least, changed.horizon) == (0.9, 60)
    assert changed.instruction == RULES["PandaPickCube"].instruction
    with pytest.raises(UserError, match="not declared when playground/Slide is solved: set"):
        rule_for("Slide", {"instruction": "slide"})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Nothing", {}, "has no environment 'Nothing': choose from Slide, Broken"),
        ("Broken", {}, "cannot be loaded .no attribute 'find_body'.: it does not fit"),
        ("Slide", {"metric": "far"}, "has no metric 'far': set playground.metric to one of reward"),
        ("Slide", {"horizon": 3}, "less than a chunk of 4 actions"),
        ("Slide", {"seconds": 0.01}, "0.01 is less than a step of its physics: set at least 0.02"),
        ("Slide", {"camera": "none"}, "has no camera 'none'; choose one of .'above'."),
    ],
)
def test_what_cannot_be_made(monkeypatch, name, options, message):
    with pytest.raises(UserError, match=message):
        make(monkeypatch, name, **options)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco_playground", None)
    with pytest.raises(UserError, match=r"pip install 'wmpo_jax\[playground\]'"):
        registry.make_reality("playground/PandaPickCube", 32, {})


@pytest.mark.parametrize("variant", ["smoke", "point"])
def test_the_config(variant):
    config = load_config(f"configs/playground.py:{variant}", ["task=playground/PointMass"])
    assert config.playground.horizon % config.playground.chunk == 0
    rule = rule_for("PointMass", config.playground)
    if variant == "point":
        assert (rule.metric, rule.seconds) == ("reward/near_target", 0.24)
