"""Episodes as one struct of arrays, whoever made them: MJX, LIBERO or the world model."""

import jax
import jax.numpy as jnp
from flax import struct


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


def first_success(success_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """From "solved after action t" flags to (success_B bool, finish_step_B int32)."""
    success_B = success_BT.any(axis=1)
    first_B = jnp.argmax(success_BT, axis=1) + 1
    return success_B, jnp.where(success_B, first_B, success_BT.shape[1]).astype(jnp.int32)


def select(trajectory: Trajectory, index_B: jax.Array) -> Trajectory:
    """The episodes `index_B`, in that order."""
    return jax.tree.map(lambda leaf: leaf[index_B], trajectory)


def concatenate(trajectories: list[Trajectory]) -> Trajectory:
    """One batch out of several."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trajectories)
