"""A LIBERO suite, or some of its tasks, as a `HostEnvironment`.

Actions are [7]: three translations and three rotations in [-1, 1] for LIBERO's OSC_POSE, and the
gripper as the public data have it, 1 = open, 0 = closed (the environment turns it into LIBERO's
-1 and 1). Frames are agentview, turned by 180 degrees, as OpenVLA-OFT policies expect them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from wmpo_jax.envs.libero import golden
from wmpo_jax.envs.libero.benchmark import STORED_STATES, language, make_protocol
from wmpo_jax.envs.robosuite.env import RobosuiteEnv
from wmpo_jax.runtime.errors import UserError


class LiberoEnv(RobosuiteEnv):
    """The tasks of one suite; see `RobosuiteEnv`.

    Args:
      suite: one of `benchmark.HORIZONS`.
      image_size: height and width of a frame, pixels.
      options: `tasks` (numbers; none means all), `horizon` (actions; 0 means the suite's),
        `workers` (processes), `wave` (most episodes at once).
    """

    def __init__(self, suite: str, image_size: int, options: Mapping[str, Any]) -> None:
        tasks, horizon = tuple(options["tasks"]), options["horizon"]
        evaluation = make_protocol(suite, tasks, horizon, image_size=image_size)
        words = tuple(language(suite, task) for task in evaluation.tasks)
        super().__init__(evaluation, words, options)

    def _check(self) -> None:
        """Refuses to begin where LIBERO is not the LIBERO that results are compared with."""
        golden.check(self.evaluation, self._workers)

    def held_out(self, start: int, count: int) -> np.ndarray:
        available = STORED_STATES * len(self.instructions)
        if start + count > available:
            raise UserError(
                f"{self.name} stores {available} initial states for these tasks and "
                f"{start + count} are asked for: lower evaluate.episodes or add libero.tasks."
            )
        return super().held_out(start, count)
