"""A policy in the real environment and in imagination, from the same starts."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wmpo_jax.algorithm.protocols import Observation
from wmpo_jax.algorithm.rollout import replay, rollout
from wmpo_jax.algorithm.trajectory import Trajectory
from wmpo_jax.assembly.trained import ImaginedParts
from wmpo_jax.runtime import sharding
from wmpo_jax.runtime.mesh import fetch, replicate
from wmpo_jax.stages.context import RunContext

BATCH = 128


class Compared(NamedTuple):
    """Episodes of one policy, NumPy arrays.

    Attributes:
      real: in the real environment, sampled at the training temperature.
      frames_BTHWC: uint8, what imagination makes of the same actions.
      replayed_B: bool, whether it takes them for a success.
      imagined_B: bool, success of the policy acting on imagined frames.
    """

    real: Trajectory
    frames_BTHWC: np.ndarray
    replayed_B: np.ndarray
    imagined_B: np.ndarray


class Comparison:
    """Plays any number of policies, all from the same starts and with the same random numbers."""

    def __init__(
        self, context: RunContext, role: str, episodes: int, parts: ImaginedParts | None = None
    ) -> None:
        """Reads the models that have been trained.

        Args:
          role: owns the starts (`assembly.seeds`) and names the user of randomness.
          parts: the models, where they are on the devices already.
        """
        self.seeds = context.starts(role, 0, episodes)
        trained, chunks = context.trained, context.real.num_chunks
        temperature = context.config.policy.temperature
        self._keys = jax.random.split(context.key(role), -(-episodes // BATCH))
        self._play = context.player()
        self._parts = parts or replicate(context.mesh, trained.imagined_parts())

        def imagine(
            params: Any, parts: ImaginedParts, real: Trajectory, key: jax.Array, free_key: jax.Array
        ) -> tuple[jax.Array, jax.Array, jax.Array]:
            acting, imagined = trained.policy.acting(params, temperature), trained.imagined(parts)
            first = Observation(
                frame_BHWC=real.frames_BTHWC[:, 0], instruction_id_B=real.instruction_id_B
            )
            frames, success_B, _ = replay(real.actions_BNKA, imagined, first, key)
            free = rollout(acting, imagined, first, free_key, chunks)
            return frames, success_B, free.success_B

        self._imagine = sharding.compiled(context.mesh, imagine)

    def batches(self, params: Any) -> Iterator[Compared]:
        """All starts, BATCH at a time."""
        for start, key in zip(range(0, len(self.seeds), BATCH), self._keys, strict=True):
            batch = jnp.asarray(self.seeds[start : start + BATCH])
            real_key, replay_key, free_key = jax.random.split(key, 3)
            real = self._play(params, batch, real_key)
            imagined = self._imagine(params, self._parts, real, replay_key, free_key)
            yield Compared(*fetch((real, *imagined)))
