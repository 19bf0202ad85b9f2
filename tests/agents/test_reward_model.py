"""How a head is read, and when scores count as success: the same in imagination and on videos."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wmpo_jax.agents.reward_model import (
    SuccessRule,
    build_reward_model,
    classification_loss,
    episode_outcomes,
    make_reward_model,
    success_probability,
)
from wmpo_jax.algorithm.imagination import ImaginedDynamics
from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.models.videomae import VideoMAEConfig

CONFIG = VideoMAEConfig.tiny(num_frames=4, num_labels=2)


def test_an_imported_head_is_read_by_the_sigmoid_of_its_second_logit():
    logits = jnp.array([[[3.0, 1.0]]])
    imported = dataclasses.replace(CONFIG, head="sigmoid")
    instruction = jnp.zeros(1, jnp.int32)
    found = success_probability(imported, logits, instruction)
    np.testing.assert_allclose(found, jax.nn.sigmoid(1.0), rtol=1e-6)
    found = success_probability(CONFIG, logits, instruction)
    np.testing.assert_allclose(found, jax.nn.sigmoid(-2.0), rtol=1e-6)


def test_each_instruction_has_a_pair_of_its_own():
    logits = jnp.array([[[0.0, 9.0, 0.0, -9.0]]] * 2)
    found = success_probability(CONFIG, logits, jnp.array([0, 1]))
    np.testing.assert_allclose(found[:, 0], jax.nn.sigmoid(jnp.array([9.0, -9.0])), rtol=1e-5)


def test_no_success_before_the_end_of_the_first_window():
    """With min_step 100 and windows of 8 the earliest success is action 107."""
    rule, scores = SuccessRule(0.5, 100), jnp.ones((1, 200))
    assert episode_outcomes(scores, 1, 8, rule)[1].tolist() == [107]
    assert episode_outcomes(scores[:, 106:], 107, 8, rule)[1].tolist() == [107]
    success, finish = episode_outcomes(0 * scores, 1, 8, rule)
    assert (success.tolist(), finish.tolist()) == ([False], [200])


def test_the_first_hit_ends_an_episode_and_a_failure_lasts_to_its_last_frame():
    scores = jnp.array([[0.1, 0.9, 0.2, 0.9], [0.1, 0.2, 0.3, 0.4], [0.5, 0.0, 0.0, 0.0]])
    complete, finish = episode_outcomes(scores, 107, 8, SuccessRule(0.5, 100))
    np.testing.assert_array_equal(complete, [True, False, True])
    np.testing.assert_array_equal(finish, [108, 110, 107])


class Still:
    """A world in which nothing moves."""

    history = 1

    def encode(self, frames_BTHWC, key):
        return frames_BTHWC

    def predict(self, history_BThwc, actions_BKA, key):
        return jnp.repeat(history_BThwc[:, -1:], actions_BKA.shape[1], axis=1)

    def decode(self, latents_BThwc):
        return latents_BThwc


@pytest.mark.parametrize("min_step", [-2, 0, 3])
def test_imagination_and_whole_videos_agree(min_step):
    params = nnx.state(build_reward_model(CONFIG))
    model, rule = make_reward_model(CONFIG, params), SuccessRule(0.0, min_step)
    frame = jnp.full((1, 32, 32, 3), 128, jnp.uint8)
    start = Observation(frame_BHWC=frame, instruction_id_B=jnp.zeros(1, jnp.int32))
    world = ImaginedDynamics(Still(), model, rule.threshold, rule.min_step)
    state, _ = world.reset(start, jax.random.key(0))
    _, _, outcome = world.step(state, jnp.zeros((1, 9, 3)), jax.random.key(0))
    video = jnp.repeat(frame[:, None], 10, axis=1)
    _, finish = model.outcomes(video, start.instruction_id_B, rule)
    first = 1 + int(jnp.argmax(outcome.success_BK[0]))
    assert first == max(min_step + 3, 1)
    assert finish.tolist() == [first]


def test_the_loss_falls_where_labels_are_learnt():
    network = build_reward_model(CONFIG)
    frames = jnp.zeros((2, 4, 32, 32, 3), jnp.uint8)
    instruction = jnp.zeros(2, jnp.int32)
    loss, metrics = classification_loss(network, frames, instruction, jnp.array([True, False]))
    assert abs(float(loss) - np.log(2)) < 0.5 and float(metrics["accuracy"]) == 0.5
