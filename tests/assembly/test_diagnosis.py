"""What the ladder of diagnosis counts, and the true episodes that it counts by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wmpo_jax.assembly.diagnosis import errors_by_geom, rates_by_miss, true_episodes
from wmpo_jax.envs import registry
from wmpo_jax.envs.dynamics import MjxDynamics
from wmpo_jax.envs.tabletop.tasks.press import PAD_RADIUS


def test_errors_are_told_apart_by_what_the_pixels_show():
    error = np.array([[[[0.01, 0.03], [0.0, 0.0]]]])
    geom = np.array([[[[0, 2], [0, -1]]]])
    rows = errors_by_geom(error, geom, ("table", "pad", "tip"))
    assert list(rows) == ["table", "tip"]
    assert rows["table"] == {
        "pixels": 0.5,
        "error": pytest.approx(0.25),
        "psnr": pytest.approx(23.0103, abs=1e-3),
    }
    assert rows["tip"]["error"] == pytest.approx(0.75)


def test_rates_are_of_episodes_with_about_the_same_miss():
    miss = np.array([0.3, np.inf, 0.1, 0.2, 0.0])
    outcomes = {"real": miss < 0.15, "imagined": miss < 0.25}
    assert rates_by_miss(miss, outcomes, bins=2) == [
        {"from": 0.0, "to": 0.1, "n": 2, "real": 1.0, "imagined": 1.0},
        {"from": 0.2, "to": 0.3, "n": 2, "real": 0.0, "imagined": 0.5},
        {"n": 1, "real": 0.0, "imagined": 0.0},
    ]


@pytest.fixture(scope="module")
def played():
    """Four worlds of press whose tool goes down: the environment, actions, true episodes."""
    env = registry.make("press", 32)
    starts = jnp.arange(4, dtype=jnp.int32)
    actions = jax.random.uniform(jax.random.key(0), (4, 3, 4, 3), minval=-1.0)
    actions = actions.at[..., 2].set(-1.0)
    true = jax.jit(lambda starts, actions: true_episodes(env, starts, actions))(starts, actions)
    return env, starts, actions, jax.tree.map(np.asarray, true)


def test_true_episodes_are_those_of_the_environment(played):
    env, starts, actions, true = played
    dynamics = MjxDynamics(env)
    step = jax.jit(dynamics.step)
    state, first = dynamics.reset(starts, jax.random.key(0))
    np.testing.assert_array_equal(true.frames_BTHWC[:, 0], first.frame_BHWC)
    for chunk in range(3):
        state, seen, outcome = step(state, actions[:, chunk], jax.random.key(0))
        np.testing.assert_array_equal(true.frames_BTHWC[:, 4 * chunk + 4], seen.frame_BHWC)
    np.testing.assert_array_equal(true.success_B, outcome.success_BK[:, -1])
    assert np.isfinite(true.miss_B).all()
    np.testing.assert_array_equal(true.success_B, true.miss_B < PAD_RADIUS)


def test_the_pixels_of_a_geom_have_its_color(played):
    env, _, _, true = played
    first = true.geom_BTHW[:, 0]
    pad = first == env.geom_names.index("pad")
    red, green, _ = true.frames_BTHWC[:, 0].astype(float)[pad].T
    assert 20 < pad.sum() / len(first) < 80  # pixels a frame
    assert (red > green).mean() > 0.95
