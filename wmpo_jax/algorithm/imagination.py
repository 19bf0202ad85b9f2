"""The imagined environment as `Dynamics`: world model for the pixels, reward model for success.

The loop of the reference (verl/workers/rollout/robwm_rollout.py:339-440): the history stays in
latent space (predicted latents are fed back, never re-encoded); the policy and the reward model see
decoded uint8 pixels.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct

from wmpo_jax.algorithm.protocols import ChunkOutcome, Observation


class WorldModel(Protocol):
    """Predicts the latents of the next K frames from the last `history` ones and K actions."""

    history: int

    def encode(self, frames_BTHWC: jax.Array, key: jax.Array) -> jax.Array: ...

    def predict(
        self, history_BThwc: jax.Array, actions_BKA: jax.Array, key: jax.Array
    ) -> jax.Array: ...

    def decode(self, latents_BThwc: jax.Array) -> jax.Array: ...


class RewardModel(Protocol):
    """Scores every run of `window` consecutive uint8 frames; sees no state, no actions."""

    @property
    def window(self) -> int: ...

    def score(self, frames_BTHWC: jax.Array, instruction_id_B: jax.Array) -> jax.Array:
        """float32_BK, K = T - window + 1: probability that the
        instruction has been carried out by the end of the window."""
        ...


class ImaginedState(struct.PyTreeNode):
    """What imagination remembers between chunks."""

    history_BThwc: jax.Array
    recent_BTHWC: jax.Array
    instruction_id_B: jax.Array
    solved_B: jax.Array
    step: jax.Array


class ImaginedDynamics:
    """`Dynamics` whose start is an `Observation`: a first frame and an instruction."""

    def __init__(
        self,
        world_model: WorldModel,
        reward_model: RewardModel,
        threshold: float | jax.Array,
        min_step: int,
    ):
        """`threshold` and `min_step`: see `success_hits`."""
        self.world_model = world_model
        self.reward_model = reward_model
        self.threshold = threshold
        self.min_step = min_step

    def reset(self, start: Observation, key: jax.Array) -> tuple[ImaginedState, Observation]:
        first_B1HWC = start.frame_BHWC[:, None]
        latent_B1hwc = self.world_model.encode(first_B1HWC, key)
        batch = start.instruction_id_B.shape[0]
        return ImaginedState(
            history_BThwc=jnp.repeat(latent_B1hwc, self.world_model.history, axis=1),
            recent_BTHWC=jnp.repeat(first_B1HWC, self.reward_model.window - 1, axis=1),
            instruction_id_B=start.instruction_id_B,
            solved_B=jnp.zeros(batch, bool),
            step=jnp.int32(0),
        ), start

    def step(
        self, state: ImaginedState, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[ImaginedState, Observation, ChunkOutcome]:
        chunk = actions_BKA.shape[1]
        latents_BKhwc = self.world_model.predict(state.history_BThwc, actions_BKA, key)
        frames_BKHWC = self.world_model.decode(latents_BKhwc)
        video_BTHWC = jnp.concatenate([state.recent_BTHWC, frames_BKHWC], axis=1)
        success_BK = self._success(video_BTHWC, state)
        history = jnp.concatenate([state.history_BThwc, latents_BKhwc], axis=1)
        state = state.replace(
            history_BThwc=history[:, -self.world_model.history :],
            recent_BTHWC=video_BTHWC[:, chunk:],
            solved_B=success_BK[:, -1],
            step=state.step + chunk,
        )
        outcome = ChunkOutcome(
            frames_BKHWC=frames_BKHWC,
            success_BK=success_BK,
            invalid_B=jnp.zeros(state.instruction_id_B.shape, bool),
        )
        return (
            state,
            Observation(frame_BHWC=frames_BKHWC[:, -1], instruction_id_B=state.instruction_id_B),
            outcome,
        )

    def _success(self, video_BTHWC: jax.Array, state: ImaginedState) -> jax.Array:
        """bool_BK: the first window that shows success ends the episode; later frames keep it."""
        score_BK = self.reward_model.score(video_BTHWC, state.instruction_id_B)
        hit_BK = success_hits(
            score_BK,
            state.step + 1 + jnp.arange(score_BK.shape[1]),
            threshold=self.threshold,
            min_step=self.min_step,
            window=self.reward_model.window,
        )
        return state.solved_B[:, None] | (jnp.cumsum(hit_BK, axis=1) > 0)


def success_hits(
    score_BK: jax.Array,
    executed_K: jax.Array,
    *,
    threshold: float | jax.Array,
    min_step: int,
    window: int,
) -> jax.Array:
    """bool_BK: the windows that count as success.

    The first window that counts is frames min_step .. min_step + window - 1, so there is no success
    before action min_step + window - 1 (reference: robwm_rollout.py:243). With a negative
    `min_step` windows may begin before the episode, with copies of its first frame:
    1 - (window - 1) lets success count from the first action on.

    Args:
      score_BK: success probability of windows; the same comparison `>=` as the reference's.
      executed_K: int32, actions executed when each window ends: the index of its last frame.
    """
    return (score_BK >= threshold) & (executed_K >= min_step + window - 1)[None]


def imagine_video(
    world_model: WorldModel, first_BHWC: jax.Array, actions_BNKA: jax.Array, key: jax.Array
) -> jax.Array:
    """Imagined frames [B, 1 + N * K, H, W, C] of known actions, the real first frame in front."""
    encode_key, scan_key = jax.random.split(key)
    latent_B1hwc = world_model.encode(first_BHWC[:, None], encode_key)

    def chunk(
        history_BThwc: jax.Array, now: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        latents_BKhwc = world_model.predict(history_BThwc, *now)
        history = jnp.concatenate([history_BThwc, latents_BKhwc], axis=1)
        return history[:, -world_model.history :], world_model.decode(latents_BKhwc)

    history = jnp.repeat(latent_B1hwc, world_model.history, axis=1)
    keys = jax.random.split(scan_key, actions_BNKA.shape[1])
    _, frames = jax.lax.scan(chunk, history, (actions_BNKA.swapaxes(0, 1), keys))
    return jnp.concatenate(
        [first_BHWC[:, None], rearrange(frames, "n b k h w c -> b (n k) h w c")], axis=1
    )
