"""The imagined environment: latent history, frames for the policy, and the rule of success."""

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.imagination import ImaginedDynamics, imagine_video
from wmpo_jax.algorithm.protocols import Observation

K = 2


class AddingWorld:
    """Latents are pixels; each frame is the newest latent plus the sum of the actions so far."""

    history = 3

    def encode(self, frames_BTHWC, key):
        return frames_BTHWC.astype(jnp.float32)

    def predict(self, history_BThwc, actions_BKA, key):
        steps = jnp.cumsum(actions_BKA, axis=1)[..., None, None]
        return history_BThwc[:, -1:] + steps

    def decode(self, latents_BThwc):
        return latents_BThwc.astype(jnp.uint8)


class BrightRewardModel:
    """Certain of success when the mean of the window's pixels reaches 50."""

    window = 3

    def score(self, frames_BTHWC, instruction_id_B):
        pixels = frames_BTHWC[:, :, 0, 0, 0].astype(jnp.float32)
        means = [pixels[:, t : t + 3].mean(axis=1) for t in range(pixels.shape[1] - 2)]
        return (jnp.stack(means, axis=1) >= 50).astype(jnp.float32)


def start(level):
    frame = jnp.full((1, 1, 1, 1), level, jnp.uint8)
    return Observation(frame_BHWC=frame, instruction_id_B=jnp.zeros(1, jnp.int32))


FROM_THE_FIRST_ACTION = 1 - (BrightRewardModel.window - 1)


def run(level, actions, min_step=FROM_THE_FIRST_ACTION):
    world = ImaginedDynamics(AddingWorld(), BrightRewardModel(), 0.5, min_step)
    state, seen = world.reset(start(level), jax.random.key(0))
    flags, frames = [], [seen.frame_BHWC]
    for pair in np.reshape(actions, (-1, 1, K, 1)):
        state, seen, outcome = world.step(state, jnp.asarray(pair, jnp.float32), jax.random.key(1))
        flags.append(outcome.success_BK[0])
        frames.append(outcome.frames_BKHWC[0, :, 0, 0, 0])
    return np.concatenate(flags), np.concatenate([np.ravel(f) for f in frames]), state


def test_history_is_the_newest_latents():
    _, frames, state = run(10, [1, 1, 2, 2])
    np.testing.assert_array_equal(frames, [10, 11, 12, 14, 16])
    np.testing.assert_array_equal(state.history_BThwc.ravel(), [12, 14, 16])


def test_windows_reach_back_over_chunk_borders():
    # Means of three: 10 10 40 -> 20, 10 40 70 -> 40, 40 70 71 -> 60.
    flags, _, _ = run(10, [30, 30, 1, 0])
    np.testing.assert_array_equal(flags, [False, False, True, True])


def test_success_is_kept_when_later_scores_fall():
    flags, _, _ = run(60, [0, 0, -50, -5])
    np.testing.assert_array_equal(flags, [True, True, True, True])


def test_the_first_window_that_counts_begins_at_min_step():
    """Frames 1, 2, 3 are the first window then: no success before action 1 + 3 - 1."""
    flags, _, _ = run(60, [0, 0, 0, 0], min_step=1)
    np.testing.assert_array_equal(flags, [False, False, True, True])
    flags, _, _ = run(60, [0, 0, 0, 0], min_step=-1)
    np.testing.assert_array_equal(flags, [True, True, True, True])


def test_imagined_video_shows_what_stepping_through_the_same_actions_shows():
    actions = [1, 1, 2, 2, 0, 5]
    _, stepped, _ = run(10, actions)
    chunks_BNKA = jnp.asarray(np.reshape(actions, (1, -1, K, 1)), jnp.float32)
    frames = imagine_video(AddingWorld(), start(10).frame_BHWC, chunks_BNKA, jax.random.key(0))
    np.testing.assert_array_equal(frames[0, :, 0, 0, 0], stepped)
