"""The calls that the algorithm makes of a policy and of an environment.

The real environment (MJX) and the imagined one (world model + reward model) both implement
`Dynamics`; an `Observation` does not say which of the two made it.

Dimension letters, used as suffixes of array names in the whole project:

    B batch            T frames of an episode (= actions + 1)      K actions in a chunk
    N chunks           H, W, C image or latent rows, columns, channels
    A action dims      V action classes per dim                    L prompt tokens
    P image patches    S patches of a latent frame                 D features
"""

from typing import Any, Protocol

import jax
from flax import struct


class Observation(struct.PyTreeNode):
    """What a policy may see: the newest frame and the instruction to carry out.

    Attributes:
      frame_BHWC: uint8 pixels, 0..255.
      instruction_id_B: int32 index into the task's tuple of instructions.
    """

    frame_BHWC: jax.Array
    instruction_id_B: jax.Array


class ChunkOutcome(struct.PyTreeNode):
    """What an environment returns while a chunk of K actions is executed.

    Attributes:
      frames_BKHWC: uint8, the frame after each action.
      success_BK: bool, the task has been solved at or before this action.
      invalid_B: bool, the physics produced a NaN: the episode is a failure and is counted.
    """

    frames_BKHWC: jax.Array
    success_BK: jax.Array
    invalid_B: jax.Array


class Dynamics(Protocol):
    """A vectorized environment. `start` is a pytree with leading axis B (seeds or first frames)."""

    def reset(self, start: Any, key: jax.Array) -> tuple[Any, Observation]: ...

    def step(
        self, state: Any, actions_BKA: jax.Array, key: jax.Array
    ) -> tuple[Any, Observation, ChunkOutcome]: ...


class PolicyOutput(struct.PyTreeNode):
    """A chunk of actions.

    Attributes:
      tokens_BKA: int32 action classes, 0..V-1.
      actions_BKA: float32 normalized actions in [-1, 1] (bin centers).
      log_probs_BKA: float32 log-probabilities of `tokens_BKA` at the sampling temperature.
    """

    tokens_BKA: jax.Array
    actions_BKA: jax.Array
    log_probs_BKA: jax.Array


class Policy(Protocol):
    def __call__(self, observation: Observation, key: jax.Array) -> PolicyOutput: ...
