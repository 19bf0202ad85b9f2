"""What is driven is what is evaluated: the environments of the tiny task, untrained."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs.tiny import get_config
from wmpo_jax.agents.policy import Policy
from wmpo_jax.algorithm.rollout import rollout
from wmpo_jax.assembly import agents
from wmpo_jax.assembly.real import RealDynamics
from wmpo_jax.assembly.trained import ImaginedParts
from wmpo_jax.data.statistics import ActionStatistics
from wmpo_jax.drive.worlds import Worlds
from wmpo_jax.envs import registry

SIZE = 16  # pixels: compiles faster than the task's 32
# Zero is not the middle of these: what takes 0 for "stay" in policy units moves.
STATISTICS = ActionStatistics.from_actions(np.linspace(-0.5, 0.9, 300).reshape(-1, 3))


def untrained(config: Any, env: Any) -> ImaginedParts:
    """World model and reward model as they are initialized."""
    frames = agents.autoencoder(config, 1.0, nnx.state(agents.autoencoder_network(config)))
    world = nnx.state(agents.world_model_network(config, env))
    reward = nnx.state(agents.reward_network(config, env))
    model = agents.world_model(config, env, world, frames)
    return model, agents.reward_model(config, env, reward), jnp.float32(0.9)


@pytest.fixture(scope="module")
def policy() -> Policy:
    return agents.policy(get_config("smoke"), registry.make("press", SIZE))


@pytest.fixture(scope="module")
def worlds(policy) -> Worlds:
    config = get_config("smoke")
    config.world_model.update(hidden=32, depth=1, heads=2)
    env = registry.make("press", SIZE)
    policies = {"base": nnx.state(policy.build())}
    return Worlds(env, STATISTICS, policy, policies, untrained(config, env), min_step=-2)


def test_policy_in_reality_plays_the_episode_that_evaluation_would_see(worlds, policy):
    acting = policy.acting(nnx.state(policy.build()), temperature=1.0, greedy=True)
    dynamics = RealDynamics(worlds.env, STATISTICS)
    expected = jax.jit(lambda: rollout(acting, dynamics, jnp.array([8]), jax.random.key(0), 2))()
    side, _ = worlds.start(8)
    frames = []
    for _ in range(2):
        side, turn = worlds.step_real(side, worlds.act("base", side))
        frames.append(turn.frames_KHWC)
    np.testing.assert_array_equal(np.concatenate(frames), expected.frames_BTHWC[0, 1:])


def test_hand_moves_in_the_units_of_the_task_beyond_the_demonstrated_range(worlds):
    chunk_BKA = worlds.normalize(jnp.array([-1.0, 0.0, 1.0]))
    back = STATISTICS.unnormalize(np.asarray(chunk_BKA))
    np.testing.assert_allclose(back, np.broadcast_to([-1.0, 0.0, 1.0], back.shape), atol=1e-6)
    side, _ = worlds.start(8)
    still, _ = worlds.step_real(side, worlds.normalize(jnp.zeros(3)))
    np.testing.assert_allclose(still.state.physics.target, side.state.physics.target, atol=1e-6)


def test_both_worlds_begin_with_one_frame_and_are_scored_at_every_action(worlds):
    real, imagined = worlds.start(8)
    np.testing.assert_array_equal(real.observation.frame_BHWC, imagined.observation.frame_BHWC)
    actions = worlds.normalize(jnp.zeros(3))
    turns = [worlds.step_real(real, actions)[1]]
    turns += [worlds.step_imagined(imagined, actions, jax.random.key(1))[1] for _ in range(2)]
    for turn in turns:
        assert turn.frames_KHWC.shape == (4, SIZE, SIZE, 3)
        assert turn.frames_KHWC.dtype == jnp.uint8
        assert ((turn.probability_K >= 0) & (turn.probability_K <= 1)).all()
    np.testing.assert_array_equal(turns[1].frames_KHWC, turns[2].frames_KHWC)
