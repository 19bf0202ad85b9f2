"""LIBERO in one process, see `robosuite.simulator`."""

from typing import Any

import numpy as np

from wmpo_jax.envs.libero import measures, origin
from wmpo_jax.envs.libero.benchmark import (
    bddl_file,
    executed_action,
    import_libero,
    initial_states,
)
from wmpo_jax.envs.robosuite.simulator import Simulator


class LiberoSimulator(Simulator):
    """The tasks of one suite."""

    settle_action = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0])  # the gripper opens

    def executed(self, action_A: np.ndarray) -> np.ndarray:
        return executed_action(action_A)

    def origin(self, slot: int) -> dict[str, Any]:
        """The `scene` and the present state (`start`) of an episode, for another simulator."""
        self._enter(slot)
        return {"scene": origin.scene(self.env.env), "start": origin.start(self.env.env)}

    def situation(self, slot: int) -> dict[str, Any]:
        """Where everything of the episode that moved last is; see `measures.situation`."""
        assert slot == self._current
        return measures.situation(self.env.env)

    def sources(self, slot: int) -> dict[str, int]:
        """Checksums of what the episode is made from; see `measures.origins`."""
        self._enter(slot)
        assert self._task is not None
        task_file = bddl_file(self.protocol.suite, self._task)
        return measures.origins(self.env.env, task_file, self._stored)

    def _make(self, task: int) -> Any:
        protocol = self.protocol
        return import_libero("libero.libero.envs").OffScreenRenderEnv(
            bddl_file_name=str(bddl_file(protocol.suite, task)),
            camera_names=[protocol.camera],
            camera_heights=protocol.image_size,
            camera_widths=protocol.image_size,
        )

    def _set_initial_state(self, task: int, number: int) -> None:
        self._stored = initial_states(self.protocol.suite, task)[number]
        self.env.set_init_state(self._stored)
