"""The one rollout, with a world that counts and a policy that echoes what it sees."""

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation, PolicyOutput
from wmpo_jax.algorithm.rollout import (
    replay,
    rollout,
    rollout_groups,
    rollout_on_host,
    without_contradicted,
)
from wmpo_jax.algorithm.trajectory import concatenate, experience, first_success, select

K, A = 2, 1


class Counter:
    """Adds each action to a number shown as the frame; solved from 10 on, broken from 100 on."""

    def reset(self, start, key):
        return start, self._see(start)

    def step(self, state, actions_BKA, key):
        levels_BK = state[:, None] + jnp.cumsum(actions_BKA[..., 0], axis=1)
        outcome = ChunkOutcome(
            frames_BKHWC=levels_BK[..., None, None, None].astype(jnp.uint8),
            success_BK=levels_BK >= 10,
            invalid_B=levels_BK[:, -1] >= 100,
        )
        return levels_BK[:, -1], self._see(levels_BK[:, -1]), outcome

    def _see(self, level_B):
        frame = level_B[:, None, None, None].astype(jnp.uint8)
        return Observation(frame_BHWC=frame, instruction_id_B=jnp.zeros(len(level_B), jnp.int32))


def doubling(observation, key):
    """Each action adds what is seen at the chunk's start."""
    seen_B11 = observation.frame_BHWC.reshape(-1, 1, 1)
    seen_BKA = jnp.broadcast_to(seen_B11, (len(seen_B11), K, A))
    return PolicyOutput(
        tokens_BKA=seen_BKA.astype(jnp.int32),
        actions_BKA=seen_BKA.astype(jnp.float32),
        log_probs_BKA=jnp.zeros(seen_BKA.shape),
    )


def adding_noise(observation, key):
    """As `doubling`, with something random in every action."""
    choice = doubling(observation, key)
    noise = jax.random.randint(key, choice.tokens_BKA.shape, 0, 3)
    return choice.replace(
        tokens_BKA=choice.tokens_BKA + noise, actions_BKA=choice.actions_BKA + noise
    )


def play():
    starts = jnp.array([1.0, 3.0, 40.0])
    return jax.jit(lambda s, k: rollout(doubling, Counter(), s, k, 2))(starts, jax.random.key(0))


def test_frames_are_seen_before_actions_and_policy_sees_the_newest():
    trajectory = play()
    frames = trajectory.frames_BTHWC[:, :, 0, 0, 0]
    np.testing.assert_array_equal(frames[0], [1, 2, 3, 6, 9])
    np.testing.assert_array_equal(frames[1], [3, 6, 9, 18, 27])
    np.testing.assert_array_equal(trajectory.decision_frames_BNHWC[1, :, 0, 0, 0], [3, 9])
    assert trajectory.actions_BNKA.shape == (3, 2, K, A)


def test_finish_step_counts_executed_actions():
    trajectory = play()
    np.testing.assert_array_equal(trajectory.success_B, [False, True, False])
    np.testing.assert_array_equal(trajectory.finish_step_B, [4, 3, 4])


def test_broken_physics_is_a_failure():
    trajectory = play()
    np.testing.assert_array_equal(trajectory.invalid_B, [False, False, True])
    assert not trajectory.success_B[2]


def test_replay_repeats_the_episode():
    trajectory = play()
    frames, success, finish = replay(
        trajectory.actions_BNKA, Counter(), jnp.array([1.0, 3.0, 40.0]), jax.random.key(1)
    )
    np.testing.assert_array_equal(frames, trajectory.frames_BTHWC)
    np.testing.assert_array_equal(success[:2], trajectory.success_B[:2])
    np.testing.assert_array_equal(finish[:2], trajectory.finish_step_B[:2])


def test_groups_are_the_rollout_of_repeated_starts_without_the_videos():
    starts, key = jnp.array([1.0, 3.0, 40.0]), jax.random.key(4)
    groups = rollout_groups(adding_noise, Counter(), starts, key, 3, 2)
    whole = rollout(adding_noise, Counter(), jnp.repeat(starts, 2), key, 3)
    jax.tree.map(np.testing.assert_array_equal, groups, experience(whole))
    assert groups.frames_BNHWC.shape == (6, 3, 1, 1, 1)
    assert (groups.tokens_BNKA[0] != groups.tokens_BNKA[1]).any()


def test_the_loop_on_the_host_is_the_same_rollout():
    starts, key = jnp.array([1.0, 3.0, 40.0]), jax.random.key(0)
    jax.tree.map(
        np.testing.assert_array_equal,
        rollout_on_host(doubling, Counter(), starts, key, 2),
        play(),
    )
    unseen = rollout_on_host(doubling, Counter(), starts, key, 2, videos=False)
    np.testing.assert_array_equal(unseen.frames_BTHWC, play().frames_BTHWC[:, :1])
    np.testing.assert_array_equal(unseen.actions_BNKA, play().actions_BNKA)


def test_first_success_at_either_end():
    flags = jnp.array([[True, True, True], [False, False, True], [False, False, False]])
    success, finish = first_success(flags)
    np.testing.assert_array_equal(success, [True, True, False])
    np.testing.assert_array_equal(finish, [1, 3, 3])


def test_select_and_concatenate_keep_episodes_whole():
    trajectory = play()
    both = concatenate([trajectory, trajectory])
    chosen = select(both, jnp.array([4, 1]))
    np.testing.assert_array_equal(chosen.frames_BTHWC[0], chosen.frames_BTHWC[1])
    np.testing.assert_array_equal(chosen.finish_step_B, [3, 3])


class Moody(Counter):
    """As `Counter`, but above 30 success depends on noise alone."""

    def step(self, state, actions_BKA, key):
        level_B, seen, outcome = super().step(state, actions_BKA, key)
        luck_B1 = jax.random.bernoulli(key, 0.5, (len(state), 1))
        success_BK = jnp.where(level_B[:, None] > 30, luck_B1, outcome.success_BK)
        return level_B, seen, outcome.replace(success_BK=success_BK)


def test_episodes_that_another_rollout_contradicts_do_not_count():
    size, starts, key = 32, jnp.array([1.0, 20.0]), jax.random.key(0)
    episodes = rollout_groups(doubling, Moody(), starts, key, 1, size)
    actions_BNKA = episodes.tokens_BNKA.astype(jnp.float32)
    again = jax.random.key(1)
    kept = without_contradicted(episodes, actions_BNKA, Moody(), starts, again)
    np.testing.assert_array_equal(kept.success_B, episodes.success_B)
    _, success_B, _ = replay(actions_BNKA, Moody(), jnp.repeat(starts, size), again)
    differs_B = np.asarray(success_B != episodes.success_B)
    assert not differs_B[:size].any() and 8 < differs_B[size:].sum() < 24
    np.testing.assert_array_equal(kept.finish_step_B == 0, differs_B)
    rest_B = ~differs_B
    np.testing.assert_array_equal(kept.finish_step_B[rest_B], episodes.finish_step_B[rest_B])
