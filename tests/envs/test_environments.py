"""Promises that every registered environment keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.envs import registry
from wmpo_jax.envs.dynamics import MjxDynamics, record
from wmpo_jax.envs.protocol import Environment, Episodes
from wmpo_jax.runtime.errors import UserError

SIZE = 32
SEEDS = 256
NEVER = -1
ALL = registry.names()


@functools.cache
def make(name: str) -> Environment:
    return registry.make(name, image_size=SIZE)


@functools.cache
def compiled_record(name: str):
    """(seeds, noise, poison) -> Episodes; all worlds get a NaN action at step `poison`."""
    env = make(name)

    def run(seeds_B: jax.Array, noise: float, poison: int) -> Episodes:
        def actor(state, key):
            return jnp.where(state.step == poison, jnp.nan, env.expert(state, key))

        return record(env, actor, seeds_B, jax.random.key(0), noise)

    return jax.jit(run)


@functools.cache
def demonstrations(name: str) -> Episodes:
    return jax.device_get(compiled_record(name)(jnp.arange(SEEDS), 0.1, NEVER))


@pytest.mark.parametrize("name", ALL)
def test_start(name):
    env = make(name)
    reset, render = jax.jit(jax.vmap(env.reset)), jax.jit(jax.vmap(env.render))
    seeds = jnp.arange(8)
    state = reset(seeds)
    frames = render(state)
    assert frames.shape == (8, SIZE, SIZE, 3) and frames.dtype == jnp.uint8
    assert not state.success.any() and not state.invalid.any()
    assert set(np.unique(state.instruction_id)) <= set(range(len(env.instructions)))
    assert env.horizon % env.chunk == 0
    np.testing.assert_array_equal(frames, render(reset(seeds)))
    assert len(np.unique(frames.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize("name", ALL)
def test_play_and_picture_do_not_depend_on_the_instruction(name):
    env = make(name)
    state = jax.vmap(env.reset)(jnp.arange(8))
    other = state.replace(instruction_id=(state.instruction_id + 1) % len(env.instructions))
    keys = jax.random.split(jax.random.key(1), 8)
    play, render = jax.jit(jax.vmap(env.play)), jax.jit(jax.vmap(env.render))
    actions = play(state, keys)
    assert actions.shape == (8, env.action_dim) and jnp.abs(actions).max() <= 1
    np.testing.assert_array_equal(actions, play(other, keys))
    np.testing.assert_array_equal(render(state), render(other))


@pytest.mark.parametrize("name", ALL)
def test_the_expert_solves_it(name):
    env, episodes = make(name), demonstrations(name)
    print(f"{name}: expert {episodes.success_B.mean():.3f} of {SEEDS}")
    assert episodes.success_B.mean() >= 0.8
    assert not episodes.invalid_B.any()
    assert episodes.frames_BTHWC.shape == (SEEDS, env.horizon + 1, SIZE, SIZE, 3)
    assert episodes.actions_BTA.shape == (SEEDS, env.horizon, env.action_dim)
    assert (episodes.finish_step_B[~episodes.success_B] == env.horizon).all()


@pytest.mark.parametrize("name", ALL)
def test_episodes_are_functions_of_their_seed(name):
    first = demonstrations(name)
    again = jax.device_get(compiled_record(name)(jnp.arange(SEEDS)[::-1], 0.1, NEVER))
    np.testing.assert_array_equal(first.instruction_id_B, again.instruction_id_B[::-1])
    np.testing.assert_allclose(first.actions_BTA[:, 0], again.actions_BTA[::-1, 0], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_a_nan_freezes_the_world_and_is_no_success(name):
    poisoned = jax.device_get(compiled_record(name)(jnp.arange(SEEDS), 0.1, 1))
    early = demonstrations(name).finish_step_B <= 1
    assert poisoned.invalid_B.all()
    np.testing.assert_array_equal(poisoned.success_B, early)
    for later in range(2, poisoned.frames_BTHWC.shape[1]):
        np.testing.assert_array_equal(poisoned.frames_BTHWC[:, 1], poisoned.frames_BTHWC[:, later])


def test_dynamics_repeat_what_was_recorded():
    env, episodes = make("press"), demonstrations("press")
    dynamics, key = MjxDynamics(env), jax.random.key(0)
    step = jax.jit(dynamics.step)
    state, seen = jax.jit(dynamics.reset)(jnp.arange(SEEDS), key)
    np.testing.assert_array_equal(seen.frame_BHWC, episodes.frames_BTHWC[:, 0])
    for start in range(0, env.horizon, env.chunk):
        chunk = slice(start, start + env.chunk)
        state, seen, outcome = step(state, jnp.asarray(episodes.actions_BTA[:, chunk]), key)
        recorded = episodes.frames_BTHWC[:, 1:][:, chunk]
        np.testing.assert_array_equal(outcome.frames_BKHWC, recorded)
        np.testing.assert_array_equal(seen.frame_BHWC, recorded[:, -1])
        steps = np.arange(chunk.start, chunk.stop) + 1
        solved = episodes.success_B[:, None] & (episodes.finish_step_B[:, None] <= steps)
        np.testing.assert_array_equal(outcome.success_BK, solved)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match="press"):
        registry.make("no-such-task")
