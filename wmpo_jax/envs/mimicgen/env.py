"""MimicGen's tasks as a `HostEnvironment`, through the worker processes that LIBERO has.

Actions are [7] in [-1, 1]: OSC_POSE translation and rotation, then the gripper, 1 = close, -1 =
open. The reference evaluates on 128 stored states that were not published; here evaluation has
seeds of its own, from `EVALUATION_SEED` on, which nothing else may use.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from wmpo_jax.envs.libero.env import LiberoEnv
from wmpo_jax.envs.libero.pool import Start, WorkerPool
from wmpo_jax.envs.mimicgen.protocol import TASKS, import_robosuite, make_protocol
from wmpo_jax.envs.protocol import Episodes
from wmpo_jax.runtime.errors import UserError

EVALUATION_SEED = 2**31


class MimicgenEnv(LiberoEnv):
    """One of `TASKS`; worker processes start when the first episode does.

    Args:
      name: key of `TASKS`.
      image_size: height and width of a frame, pixels.
      options: `horizon` (actions; 0 means the reference's), `workers` and `wave` as for LIBERO.
    """

    def __init__(self, name: str, image_size: int, options: Mapping[str, Any]) -> None:
        self._follow(make_protocol(name, options["horizon"], image_size=image_size), options)
        self.instructions = (TASKS[name].instruction,)

    @cached_property
    def _pool(self) -> WorkerPool:
        """Refuses to begin where the environment is not installed."""
        import_robosuite(self.name)
        return WorkerPool(self.evaluation, self._workers)

    def held_out(self, start: int, count: int) -> np.ndarray:
        return np.arange(-1 - start, -1 - start - count, -1, dtype=np.int32)

    def record(
        self,
        starts_B: np.ndarray,
        actor: str,
        noise: float,
        on_batch: Callable[[int], None] = lambda episodes: None,
    ) -> Episodes:
        raise UserError(
            f"{self.name} has no script for {actor!r}: set config.data.source to a folder of its "
            "demonstrations (docs/data.md)."
        )

    def _start(self, start: int) -> Start:
        return Start(0, -1, start if start >= 0 else EVALUATION_SEED - 1 - start)
