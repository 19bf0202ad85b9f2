"""Rungs between reality and imagination: outcomes are real, what the policy sees is not."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.algorithm.test_imagination import AddingWorld
from wmpo_jax.algorithm.ladder import AnchoredDynamics, ReconstructedDynamics
from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation


class Real:
    """Each frame is the one before plus twice the action; solved from 20 on."""

    def reset(self, start, key):
        return start, self._observe(start)

    def step(self, state, actions_BKA, key):
        levels_BK = state[:, None] + 2 * jnp.cumsum(actions_BKA[..., 0], axis=1)
        outcome = ChunkOutcome(
            frames_BKHWC=levels_BK[..., None, None, None].astype(jnp.uint8),
            success_BK=levels_BK >= 20,
            invalid_B=jnp.zeros(len(state), bool),
        )
        return levels_BK[:, -1], self._observe(levels_BK[:, -1]), outcome

    def _observe(self, level_B):
        frame = level_B[:, None, None, None].astype(jnp.uint8)
        return Observation(frame_BHWC=frame, instruction_id_B=jnp.zeros(len(level_B), jnp.int32))


class Halving(AddingWorld):
    """Its decoder darkens."""

    def decode(self, latents_BThwc):
        return (latents_BThwc / 2).astype(jnp.uint8)


def pixel(seen):
    return int(seen.frame_BHWC[0, 0, 0, 0])


def test_reconstructions_are_seen_and_reality_scores():
    world = ReconstructedDynamics(Real(), Halving())
    state, seen = world.reset(jnp.array([10.0]), jax.random.key(0))
    assert pixel(seen) == 5
    _, seen, outcome = world.step(state, jnp.full((1, 2, 1), 3.0), jax.random.key(0))
    assert pixel(seen) == 11
    assert outcome.success_BK.tolist() == [[False, True]]
    assert np.ravel(outcome.frames_BKHWC).tolist() == [16, 22]


def test_predictions_begin_at_real_frames_again_after_each_chunk():
    world = AnchoredDynamics(Real(), AddingWorld())
    state, seen = world.reset(jnp.array([10.0]), jax.random.key(0))
    assert pixel(seen) == 10
    state, seen, outcome = world.step(state, jnp.full((1, 2, 1), 2.0), jax.random.key(0))
    assert np.ravel(outcome.frames_BKHWC).tolist() == [12, 14]
    assert np.ravel(state.history_BThwc).tolist() == [10, 14, 18]
    _, seen, outcome = world.step(state, jnp.full((1, 2, 1), 2.0), jax.random.key(0))
    assert (pixel(seen), outcome.success_BK.tolist()) == (22, [[True, True]])
