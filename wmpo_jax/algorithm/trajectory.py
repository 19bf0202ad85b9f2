"""Episodes as one struct of arrays, whoever made them: MJX, LIBERO or the world model."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

Episodes = TypeVar("Episodes")  # a pytree whose leaves have the episode as leading axis


class Trajectory(struct.PyTreeNode):
    """A batch of whole episodes with N chunks of K actions (T = N*K + 1 frames).

    Attributes:
      frames_BTHWC: uint8 pixels; frame t is what was seen before action t.
      tokens_BNKA: int32 action classes.
      actions_BNKA: float32 normalized actions in [-1, 1].
      log_probs_BNKA: float32 log-probabilities of the tokens when they were sampled.
      instruction_id_B: int32 index of the instruction.
      success_B: bool.
      finish_step_B: int32 number of actions executed when success first held; N*K without success.
      invalid_B: bool, the physics produced a NaN (counts as a failure).
    """

    frames_BTHWC: jax.Array
    tokens_BNKA: jax.Array
    actions_BNKA: jax.Array
    log_probs_BNKA: jax.Array
    instruction_id_B: jax.Array
    success_B: jax.Array
    finish_step_B: jax.Array
    invalid_B: jax.Array

    @property
    def decision_frames_BNHWC(self) -> jax.Array:
        """The N frames on which the policy decided, one per chunk."""
        chunk = self.tokens_BNKA.shape[2]
        return self.frames_BTHWC[:, :-1:chunk]


class Experience(struct.PyTreeNode):
    """What a policy update needs of episodes; fields as in `Trajectory`.

    Attributes:
      frames_BNHWC: the frames on which the policy decided, a K-th of the video.
    """

    frames_BNHWC: jax.Array
    tokens_BNKA: jax.Array
    log_probs_BNKA: jax.Array
    instruction_id_B: jax.Array
    success_B: jax.Array
    finish_step_B: jax.Array


def experience(trajectory: Trajectory) -> Experience:
    """What a policy update needs of whole episodes."""
    return Experience(
        frames_BNHWC=trajectory.decision_frames_BNHWC,
        tokens_BNKA=trajectory.tokens_BNKA,
        log_probs_BNKA=trajectory.log_probs_BNKA,
        instruction_id_B=trajectory.instruction_id_B,
        success_B=trajectory.success_B,
        finish_step_B=trajectory.finish_step_B,
    )


def first_success(success_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From "solved after action t" flags to (success_B bool, finish_step_B int32)."""
    success_B = success_BT.any(axis=1)
    first_B = jnp.argmax(success_BT, axis=1) + 1
    return success_B, jnp.where(success_B, first_B, success_BT.shape[1]).astype(jnp.int32)


def select(episodes: Episodes, index_B: jax.Array) -> Episodes:
    """The episodes `index_B`, in that order."""
    return jax.tree.map(lambda leaf: leaf[index_B], episodes)


def concatenate(batches: Sequence[Episodes]) -> Episodes:
    """One batch out of several."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
