"""MimicGen's tasks as a `HostEnvironment`.

Actions are [7] in [-1, 1]: OSC_POSE translation and rotation, then the gripper, 1 = close, -1 =
open. Evaluation has seeds of its own, from `EVALUATION_SEED` on, which nothing else may use; or,
where a file of the reference's initial states is given, those.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from wmpo_jax.envs.mimicgen import states
from wmpo_jax.envs.mimicgen.benchmark import TASKS, make_protocol
from wmpo_jax.envs.protocol import Episodes
from wmpo_jax.envs.robosuite.env import RobosuiteEnv
from wmpo_jax.envs.robosuite.pool import Start
from wmpo_jax.runtime.errors import UserError

EVALUATION_SEED = 2**31


class MimicgenEnv(RobosuiteEnv):
    """One of `TASKS`; see `RobosuiteEnv`.

    Args:
      name: key of `TASKS`.
      image_size: height and width of a frame, pixels.
      options: `horizon` (actions; 0 means the reference's), `states` (a file of the reference's
        initial states, or ""), `workers` and `wave`.
    """

    def __init__(self, name: str, image_size: int, options: Mapping[str, Any]) -> None:
        file = options.get("states", "")
        self._stored = len(states.read(file)) if file else 0
        evaluation = make_protocol(name, options["horizon"], image_size=image_size, states=file)
        super().__init__(evaluation, (TASKS[name].instruction,), options)

    def held_out(self, start: int, count: int) -> np.ndarray:
        if self._stored and start + count > self._stored:
            raise UserError(
                f"config.mimicgen.states holds {self._stored} initial states and {start + count} "
                "are asked for: lower evaluate.episodes."
            )
        return super().held_out(start, count)

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
        if start >= 0:
            return Start(0, -1, start)
        number = -1 - start
        return Start(0, number, 0) if self._stored else Start(0, -1, EVALUATION_SEED + number)
